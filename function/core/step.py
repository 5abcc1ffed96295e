"""What an event means by a rule: a step of the row, and what is wanted of its ticket. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from function.core.event import Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.values import Json


@dataclass(frozen=True, slots=True)
class DesiredState:
    """What a rule wants said when a row is at one place: a function of the row, rendered when the
    event arrived.

    *fields* holds text as ServiceNow takes it, references still by the name the rule gave. *close*
    holds ``close_code`` and ``close_notes``, those that the ticket's table has, for when *resolved*
    or *gone*. *gone*: the row that a ticket under this key was for is not there any more.
    """

    when: bool
    resolved: bool
    gone: bool
    fields: Mapping[str, str]
    close: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """What one event means for one key of one rule: the row left a place and entered another.

    *left* and *entered* are place digests (see trail.py). *left* is None where the event does not
    say (MANUAL). *wants* belongs to the place entered; a Failure where the rule could not be
    rendered for it. *was_resolved* and *was_wanted* say what the rule said of the place left (False
    where there was none). *order* is the rule's ``order_by`` for the image that carries the step,
    None without one.
    """

    key: str
    op: Op
    left: str | None
    entered: str
    wants: DesiredState | Failure
    was_resolved: bool = False
    was_wanted: bool = False
    order: Json = None


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
        },
        separators=(",", ":"),
    )


def wanted_from_json(written: str) -> DesiredState | Failure:
    """Read what wanted_to_json wrote."""
    read = json.loads(written)
    if "broken" in read:
        reason, hint = read["broken"]
        return Failure(Retryability.PERMANENT, Reason(reason), hint)
    return DesiredState(**read)
