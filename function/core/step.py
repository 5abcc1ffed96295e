"""What an event means by a rule: a step of the row, and what is wanted of its ticket. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from function.core.event import Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.values import Json

# What the row says of its end, among the fields that it changed.
STATE: Final = "state"


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What a rule wants said when a row is at one place: a function of the row, rendered when the
    event arrived.

    *fields* holds text as ServiceNow takes it, references still by the name the rule gave. *close*
    holds ``close_code`` and ``close_notes``, those that the ticket's table has, for when *resolved*
    or *gone*. *gone*: the row that a ticket under this key was for is not there any more. *sys_id*:
    the ticket that the row names, which is there already; empty where it names none.
    """

    when: bool
    resolved: bool
    gone: bool
    fields: Mapping[str, str]
    close: Mapping[str, str]
    sys_id: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What one event means for one key of one rule: the row left a place and entered another.

    *left* and *entered* are place digests (see trail.py). *left* is None where the event does not
    say (MANUAL). *wants* belongs to the place entered; a Failure where the rule could not be
    rendered for it. *was_resolved* and *was_wanted* say what the rule said of the place left (False
    where there was none); *fields_before* what it wanted there, in the columns that both sides
    change. *order* is the rule's ``order_by`` for the image that carries the step,
    None without one. *progress*: the fields that this step changed, where the row named the same
    ticket before and after it; STATE is among them where the row became resolved.
    """

    key: str
    op: Op
    left: str | None
    entered: str
    wants: DesiredState | Failure
    was_resolved: bool = False
    was_wanted: bool = False
    order: Json = None
    progress: frozenset[str] = frozenset()
    fields_before: Mapping[str, str] = field(default_factory=dict)

    def changed_fields(self) -> dict[str, str]:
        """Of the columns that both sides change, those that this step changed, with what is wanted
        now."""
        if not isinstance(self.wants, DesiredState):
            return {}
        return {
            name: value
            for name, value in {**self.wants.fields, **self.wants.close}.items()
            if self.fields_before.get(name, value) != value
        }


def wanted_to_json(wanted: DesiredState | Failure) -> str:
    """Write what is *wanted* at a place, for the trail; a Failure where the rule could not be
    rendered for it."""
    if isinstance(wanted, Failure):
        return json.dumps({"broken": [wanted.reason.value, wanted.hint]})
    return json.dumps(
        {
            "when": wanted.when,
            "resolved": wanted.resolved,
            "gone": wanted.gone,
            "fields": dict(wanted.fields),
            "close": dict(wanted.close),
            # Left out where there is none: an older version, deployed beside this one, knows none.
            **({"sys_id": wanted.sys_id} if wanted.sys_id else {}),
        },
        separators=(",", ":"),
    )


def wanted_from_json(written: str) -> DesiredState | Failure:
    """Read what wanted_to_json wrote, also a newer version's: what only that one knows is left
    out."""
    read = json.loads(written)
    if "broken" in read:
        written_reason, hint = read["broken"]
        known = written_reason in {reason.value for reason in Reason}
        reason = Reason(written_reason) if known else Reason.BAD_MAPPING
        return Failure(Retryability.PERMANENT, reason, hint)
    names = {field.name for field in fields(DesiredState)}
    return DesiredState(**{name: value for name, value in read.items() if name in names})
