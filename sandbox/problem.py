"""The state model of problems and their tasks: which state follows which, and what each of them
needs.

A problem is New, Assess, Root Cause Analysis, Fix in Progress, Resolved, Closed; what is closed may
be analyzed again. Sources: the problem modules of ServiceNow's Ansible collection and the
application behind them (its table of transitions and of the fields that each needs, and its words),
the tests of that collection, which pass an instance with New to Root Cause Analysis, and "Quick
start tests for Problem Management" of ServiceNow's documentation.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sandbox.incident import PRIORITY
from sandbox.schema import Record, Refused, mandatory

NEW, ASSESS, ANALYSIS, FIX, RESOLVED, CLOSED = "101", "102", "103", "104", "106", "107"
_FOLLOWING: Final[Mapping[str, Collection[str]]] = {
    NEW: (ASSESS, ANALYSIS),
    ASSESS: (ANALYSIS, CLOSED),
    ANALYSIS: (FIX, RESOLVED, CLOSED),
    FIX: (ANALYSIS, RESOLVED, CLOSED),
    RESOLVED: (ANALYSIS, CLOSED),
    CLOSED: (ANALYSIS,),
}
_ENDED: Final = frozenset({RESOLVED, CLOSED})
_LABELS: Final = {
    "assigned_to": "Assigned to",
    "resolution_code": "Resolution code",
    "cause_notes": "Cause notes",
    "fix_notes": "Fix notes",
    "close_notes": "Close notes",
    "duplicate_of": "Duplicate of",
    "close_code": "Close code",
}
# What an end of that kind needs.
_BY_RESOLUTION: Final[Mapping[str, tuple[str, ...]]] = {
    "fix_applied": ("cause_notes", "fix_notes"),
    "risk_accepted": ("cause_notes", "close_notes"),
    "canceled": ("close_notes",),
    "duplicate": ("duplicate_of",),
}

TASK_NEW, TASK_ASSESS, TASK_WORK, TASK_CLOSED = "151", "152", "154", "157"
_TASK_FOLLOWING: Final[Mapping[str, Collection[str]]] = {
    TASK_NEW: (TASK_ASSESS, TASK_CLOSED),
    TASK_ASSESS: (TASK_WORK, TASK_CLOSED),
    TASK_WORK: (TASK_ASSESS, TASK_CLOSED),
    TASK_CLOSED: (TASK_ASSESS,),
}


def problem_rules(
    before: Record | None, after: Record, *, sent: Collection[str], by: str, at: str
) -> None:
    """Do to *after* what the platform does before a problem is stored, or raise Refused."""
    was = before["state"] if before else ""
    if "state" not in sent and after["problem_state"] and "problem_state" in sent:
        after["state"] = after["problem_state"]
    state = after["problem_state"] = after["state"]
    _check_transition("Problem", was, state, _FOLLOWING)
    _check_filled(after, _needed(after))
    after["priority"] = PRIORITY.get((after["impact"], after["urgency"]), after["priority"])
    after["active"] = "false" if state == CLOSED else "true"
    if state == was:
        return
    marks = {ANALYSIS: ("confirmed_at", "confirmed_by"), FIX: ("fix_at", "fix_by")}
    marks |= {RESOLVED: ("resolved_at", "resolved_by"), CLOSED: ("closed_at", "closed_by")}
    if state == ANALYSIS and was in _ENDED:
        after["reopen_count"] = str(int(after["reopen_count"] or "0") + 1)
        after |= {"reopened_at": at, "reopened_by": by}
        after |= dict.fromkeys(
            ("resolved_at", "resolved_by", "closed_at", "closed_by", "resolution_code"), ""
        )
    elif state in marks:
        when, who = marks[state]
        after |= {when: at, who: by}


def problem_task_rules(before: Record | None, after: Record, *, by: str, at: str) -> None:
    """The same for a task of a problem."""
    was = before["state"] if before else ""
    state = after["state"]
    _check_transition("Problem task", was, state, _TASK_FOLLOWING)
    needed = ["assigned_to"] if state in {TASK_ASSESS, TASK_WORK} else []
    _check_filled(after, [*needed, "close_code", "close_notes"] if state == TASK_CLOSED else needed)
    after["active"] = "false" if state == TASK_CLOSED else "true"
    if state == was:
        return
    if was == TASK_CLOSED:
        after["reopen_count"] = str(int(after["reopen_count"] or "0") + 1)
        after |= {"reopened_at": at, "reopened_by": by, "closed_at": "", "closed_by": ""}
    if state == TASK_WORK:
        after |= {"started_at": at, "started_by": by}
    if state == TASK_CLOSED:
        after |= {"closed_at": at, "closed_by": by}


def _needed(after: Record) -> list[str]:
    """The columns that must be filled in for the state that *after* is in."""
    state = after["state"]
    needed = [] if state in {"", NEW} else ["assigned_to"]
    if state == FIX:
        needed += ["cause_notes", "fix_notes"]
    if state in _ENDED:
        needed += [
            "resolution_code",
            *_BY_RESOLUTION.get(after["resolution_code"] or "fix_applied", ()),
        ]
    return needed


def _check_transition(
    called: str, was: str, state: str, following: Mapping[str, Collection[str]]
) -> None:
    if was and state != was and state not in following.get(was, ()):
        words = f"{called} state transition from state {was} to {state} is not possible."
        raise Refused(403, "Operation Failed", words)


def _check_filled(after: Record, needed: list[str]) -> None:
    lacking = [_LABELS[column] for column in needed if not after[column].strip()]
    if lacking:
        raise mandatory(lacking)
