"""What the platform does to an incident before it is stored."""

from collections.abc import Collection
from typing import Final

from sandbox.schema import Record, aborted, mandatory

NEW, IN_PROGRESS, ON_HOLD, RESOLVED, CLOSED, CANCELED = "1", "2", "3", "6", "7", "8"
_OPEN: Final = frozenset({NEW, IN_PROGRESS, ON_HOLD})
_AWAITING_CALLER: Final = "1"
# dl_u_priority as it is shipped: impact and urgency add up.
PRIORITY: Final = {
    (impact, urgency): str(impact_and_urgency - 1)
    for impact, urgency, impact_and_urgency in (
        (str(i), str(u), i + u) for i in (1, 2, 3) for u in (1, 2, 3)
    )
}


def incident_rules(
    before: Record | None, after: Record, *, sent: Collection[str], by: str, at: str
) -> None:
    """Do to *after* what the platform's own rules do before an incident is stored, or raise
    Refused."""
    was = before["state"] if before else ""
    if "state" not in sent and after["incident_state"] and after["incident_state"] != was:
        after["state"] = after["incident_state"]
    state = after["incident_state"] = after["state"]
    if was in {CLOSED, CANCELED} and state != was:
        raise aborted("incident", "Closed incident is final", after["sys_id"])
    _mandatory(before, after, sent=sent)

    after["priority"] = PRIORITY.get((after["impact"], after["urgency"]), after["priority"])
    after["active"] = "false" if state in {CLOSED, CANCELED} else "true"
    after["reopen_count"] = after["reopen_count"] or "0"
    if state == was:
        return
    if state == RESOLVED:
        after |= {"resolved_at": at, "resolved_by": by}
    if state == CLOSED:
        after |= {"closed_at": at, "closed_by": by}
    if was == RESOLVED and state in _OPEN:
        after |= {
            "reopened_time": at,
            "reopened_by": by,
            "reopen_count": str(int(after["reopen_count"]) + 1),
        }
        after |= {"resolved_at": "", "resolved_by": ""}


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
