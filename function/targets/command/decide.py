"""What follows for the ticket that a command is to resolve. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from function.core.lifecycle import Lifecycle
from function.core.outcome import Reason
from function.servicenow import Record
from function.servicenow.values import is_kept

_NOTES: Final = "close_notes"
_UNTIL: Final = "until"


@dataclass(frozen=True, slots=True)
class SentWrite:
    """A write that was sent, and whose answer was lost: the close notes in it, and until when it
    may still be done, in UNIX seconds."""

    notes: str
    until: float

    def to_mapping(self) -> dict[str, str]:
        """As the ledger keeps it."""
        return {_NOTES: self.notes, _UNTIL: f"{self.until:.3f}"}


def read_sent(kept: Mapping[str, str]) -> SentWrite | None:
    """Read what SentWrite.to_mapping wrote; None where nothing was sent."""
    return SentWrite(kept[_NOTES], float(kept[_UNTIL])) if _UNTIL in kept else None


def decide_end(states: Lifecycle, values: Record, sent: SentWrite | None) -> Reason | bool:
    """Whether the ticket is to be resolved: True where it is open, False where our own write has
    done it already, a Reason where somebody else has, or it is over for good."""
    state = values.get("state", "")
    if state not in states.ended:
        return True
    if sent is not None and is_kept(values.get(_NOTES, ""), sent.notes):
        return False
    return Reason.TICKET_CLOSED if state in states.final else Reason.ALREADY_RESOLVED
