"""What the platform does to an incident, and to a problem, before it is stored."""

from collections.abc import Collection
from typing import Final

from sandbox.schema import Record, aborted, mandatory

NEW, IN_PROGRESS, ON_HOLD, RESOLVED, CLOSED, CANCELED = "1", "2", "3", "6", "7", "8"
_OPEN: Final = frozenset({NEW, IN_PROGRESS, ON_HOLD})
_AWAITING_CALLER: Final = "1"
_PROBLEM_CLOSED: Final = "107"
# dl_u_priority as it is shipped: impact and urgency add up.
_PRIORITY: Final = {
    (impact, urgency): str(impact_and_urgency - 1)
    for impact, urgency, impact_and_urgency in ((str(i), str(u), i + u) for i in (1, 2, 3) for u in (1, 2, 3))
}


def incident_rules(before: Record | None, after: Record, *, sent: Collection[str], by: str, at: str) -> None:
    """Do to *after* what the platform's own rules do before an incident is stored, or raise Refused."""
    was = before["state"] if before else ""
    if "state" not in sent and after["incident_state"] and after["incident_state"] != was:
        after["state"] = after["incident_state"]
    state = after["incident_state"] = after["state"]
    if was in {CLOSED, CANCELED} and state != was:
        raise aborted("incident", "Closed incident is final", after["sys_id"])
    _mandatory(before, after, sent=sent)

    after["priority"] = _PRIORITY.get((after["impact"], after["urgency"]), after["priority"])
    after["active"] = "false" if state in {CLOSED, CANCELED} else "true"
    after["reopen_count"] = after["reopen_count"] or "0"
    if state == was:
        return
    if state == RESOLVED:
        after |= {"resolved_at": at, "resolved_by": by}
    if state == CLOSED:
        after |= {"closed_at": at, "closed_by": by}
    if was == RESOLVED and state in _OPEN:
        after |= {"reopened_time": at, "reopened_by": by, "reopen_count": str(int(after["reopen_count"]) + 1)}
        after |= {"resolved_at": "", "resolved_by": ""}


def problem_rules(before: Record | None, after: Record, *, sent: Collection[str], at: str) -> None:
    """The mirror of the state, and the priority."""
    was = before["state"] if before else ""
    if "state" not in sent and after["problem_state"] and after["problem_state"] != was:
        after["state"] = after["problem_state"]
    after["problem_state"] = after["state"]
    after["priority"] = _PRIORITY.get((after["impact"], after["urgency"]), after["priority"])
    after["active"] = "false" if after["state"] == _PROBLEM_CLOSED else "true"
    if after["state"] == _PROBLEM_CLOSED != was:
        after["closed_at"] = at


def _mandatory(before: Record | None, after: Record, *, sent: Collection[str]) -> None:
    """The data policies: what must be filled in, by the labels that people see."""
    lacking = []
    if after["state"] in {RESOLVED, CLOSED}:
        labels = {"close_code": "Resolution code", "close_notes": "Resolution notes"}
        lacking = [label for column, label in labels.items() if not after[column].strip()]
    if after["state"] == ON_HOLD and (before is None or before["state"] != ON_HOLD):
        if not after["hold_reason"]:
            lacking.append("On hold reason")
        elif after["hold_reason"] == _AWAITING_CALLER and "comments" not in sent:
            lacking.append("Additional comments")
    if lacking:
        raise mandatory(lacking)
