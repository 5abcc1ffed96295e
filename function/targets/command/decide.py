"""What follows for the ticket that a command is to resolve. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from function.core.lifecycle import Lifecycle
from function.servicenow import Record
from function.servicenow.values import is_kept
from function.targets.ticket.access import count_of

_CODE: Final = "close_code"
_NOTES: Final = "close_notes"
_UNTIL: Final = "until"
_COUNT: Final = "mod_count"


class TicketVerdict(Enum):
    """What a look at the ticket says."""

    OPEN = auto()  # nobody has ended it
    RESOLVED_BY_US = auto()
    REOPENED = auto()  # we had resolved it, and somebody has opened it again
    RESOLVED_BEFORE = auto()  # somebody else has
    OVER = auto()  # closed or canceled, for good


@dataclass(frozen=True, slots=True)
class SentWrite:
    """A write that was sent, and of which no answer has told what became: the close notes in it,
    until when it may still be done, in UNIX seconds, and what ServiceNow had counted before it
    (None: it did not say)."""

    notes: str
    until: float
    mod_count: int | None = None

    def to_mapping(self) -> dict[str, str]:
        """As the ledger keeps it."""
        counted = {} if self.mod_count is None else {_COUNT: str(self.mod_count)}
        return {_NOTES: self.notes, _UNTIL: f"{self.until:.3f}", **counted}


def read_sent(kept: Mapping[str, str]) -> SentWrite | None:
    """Read what SentWrite.to_mapping wrote; None where nothing was sent."""
    if _UNTIL not in kept:
        return None
    count = kept.get(_COUNT)
    return SentWrite(kept[_NOTES], float(kept[_UNTIL]), int(count) if count else None)


def decide_end(states: Lifecycle, values: Record, sent: SentWrite | None) -> TicketVerdict:
    """What the ticket is, by *values*, and whether what was *sent* has made it that."""
    state = values.get("state", "")
    has_ended = state in states.ended
    if sent is not None and _is_done(values, sent, has_ended=has_ended):
        return TicketVerdict.RESOLVED_BY_US if has_ended else TicketVerdict.REOPENED
    if not has_ended:
        return TicketVerdict.OPEN
    return TicketVerdict.OVER if state in states.final else TicketVerdict.RESOLVED_BEFORE


def _is_done(values: Record, sent: SentWrite, *, has_ended: bool) -> bool:
    """Whether *sent* was done: its notes stand there, and the ticket was changed since. Where that
    is not counted, an open ticket's notes may be those of before it was opened again."""
    notes = values.get(_NOTES, "")
    before, count = sent.mod_count, count_of(values)
    if before is None or count is None:
        return has_ended and is_kept(notes, sent.notes)
    return count > before and _hold_notes(notes, sent.notes)


def find_dropped(answer: Record, sent: Mapping[str, str]) -> frozenset[str]:
    """The close fields that are not in *answer* as they were *sent*."""
    is_kept_as = {
        _CODE: is_kept(answer.get(_CODE, ""), sent[_CODE]),
        _NOTES: _hold_notes(answer.get(_NOTES, ""), sent[_NOTES]),
    }
    return frozenset(field for field, is_same in is_kept_as.items() if not is_same)


def _hold_notes(notes: str, sent: str) -> bool:
    """Whether *notes* are what was *sent*; the instance may have added something."""
    if is_kept(notes, sent):
        return True
    notes, sent = " ".join(notes.split()), " ".join(sent.split())
    return bool(sent) and (notes.startswith(sent) or notes.endswith(sent))
