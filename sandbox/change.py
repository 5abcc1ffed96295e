"""The state model of change requests and their tasks: which state follows which, and what a close
needs.

New, Assess, Authorize, Scheduled, Implement, Review, Closed; an emergency skips Assess, a standard
change, which is approved beforehand, Authorize too. What is not implemented yet can be canceled.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

from sandbox.schema import Record, aborted, mandatory

NEW, ASSESS, AUTHORIZE, SCHEDULED, IMPLEMENT, REVIEW, CLOSED, CANCELED = (
    "-5",
    "-4",
    "-3",
    "-2",
    "-1",
    "0",
    "3",
    "4",
)
_PATHS: Final = {
    "normal": (NEW, ASSESS, AUTHORIZE, SCHEDULED, IMPLEMENT, REVIEW, CLOSED),
    "emergency": (NEW, AUTHORIZE, SCHEDULED, IMPLEMENT, REVIEW, CLOSED),
    "standard": (NEW, SCHEDULED, IMPLEMENT, REVIEW, CLOSED),
}
TYPES: Final = frozenset(_PATHS)
_ENDED: Final = frozenset({CLOSED, CANCELED})
_NOT_CANCELED: Final = frozenset({REVIEW, CLOSED, CANCELED})


def next_states(kind: str, state: str, path: Sequence[str] = ()) -> list[str]:
    """The states that may follow *state* in a change of that *kind*, the state itself not among
    them.

    *path*: those of a model of the instance's own, in order.
    """
    path = path or _PATHS.get(kind, _PATHS["normal"])
    following = [after for at, after in pairwise(path) if at == state]
    return following if state in _NOT_CANCELED else [*following, CANCELED]


def change_rules(
    before: Record | None, after: Record, *, models: Mapping[str, Sequence[str]], by: str, at: str
) -> None:
    """Do to *after* what the platform does before a change is stored, or raise Refused.

    *models* are those of the instance's own: the states of each, in order.
    """
    after["chg_model"] = after["chg_model"] or after["type"]
    was = before["state"] if before else ""
    state = after["state"]
    if (
        before
        and state != was
        and state not in next_states(before["type"], was, models.get(before["chg_model"], ()))
    ):
        raise aborted("change_request", "Change Model: Check State Transition", after["sys_id"])
    if state == CLOSED:
        labels = {"close_code": "Close code", "close_notes": "Close notes"}
        lacking = [label for column, label in labels.items() if not after[column].strip()]
        if lacking:
            raise mandatory(lacking)
    _end(was, after, by=by, at=at)


def task_rules(before: Record | None, after: Record, *, by: str, at: str) -> None:
    """A change's task names its change in two columns."""
    after["change_request"] = after["change_request"] or after["parent"]
    after["parent"] = after["change_request"]
    _end(before["state"] if before else "", after, by=by, at=at)


def _end(was: str, after: Record, *, by: str, at: str) -> None:
    after["active"] = "false" if after["state"] in _ENDED else "true"
    if after["state"] in _ENDED and was not in _ENDED:
        after |= {"closed_at": at, "closed_by": by}
