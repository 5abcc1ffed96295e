"""Problems and their tasks: which state follows which, and what each state needs."""

from typing import Any

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import Api, error, user

CAUSE = {"cause_notes": "A worn plug", "fix_notes": "A new plug"}
FIXED = {"resolution_code": "fix_applied", **CAUSE}
STATES = ("101", "102", "103", "104", "106", "107")
ALLOWED = {
    *(("101", "102"), ("101", "103")),
    *(("102", "103"), ("102", "107")),
    *(("103", "104"), ("103", "106"), ("103", "107")),
    *(("104", "103"), ("104", "106"), ("104", "107")),
    *(("106", "103"), ("106", "107")),
    ("107", "103"),
}
TASK_ALLOWED = {
    *(("151", "152"), ("151", "157")),
    *(("152", "154"), ("152", "157")),
    *(("154", "152"), ("154", "157")),
    ("157", "152"),
}


class Problems:
    """Problems, or tasks of problems, that are put where a test wants them."""

    def __init__(self, api: Api, instance: ServiceNow, table: str = "problem") -> None:
        self.api = api
        self.table = table
        self.assigned = {"assigned_to": user(instance, "problem.manager")}

    def make(self, **fields: str) -> str:
        answer = self.api.call("POST", f"table/{self.table}", {"short_description": "x", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["result"]["sys_id"])

    def put(self, sys_id: str, **fields: str) -> Any:
        return self.api.call("PATCH", f"table/{self.table}/{sys_id}", fields)


@pytest.fixture
def problems(api: Api, instance: ServiceNow) -> Problems:
    return Problems(api, instance)


@pytest.fixture
def tasks(api: Api, instance: ServiceNow) -> Problems:
    return Problems(api, instance, "problem_task")


@pytest.mark.parametrize("after", STATES)
@pytest.mark.parametrize("before", STATES)
def test_a_problem_goes_only_where_its_state_model_leads(
    problems: Problems, before: str, after: str
) -> None:
    sys_id = problems.make(state=before, **problems.assigned, **FIXED)

    answer = problems.put(sys_id, state=after, **FIXED)

    if before == after or (before, after) in ALLOWED:
        assert answer.status_code == 200
        assert (answer.json()["result"]["state"], answer.json()["result"]["problem_state"]) == (
            after,
            after,
        )
    else:
        words = f"Problem state transition from state {before} to {after} is not possible."
        assert error(answer) == (403, "Operation Failed", words)
        assert problems.api.found(f"sys_id={sys_id}", "problem")[0]["state"] == before


@pytest.mark.parametrize("column", ["state", "problem_state"])
def test_the_mirror_of_a_problem_s_state_obeys_the_same_model(
    problems: Problems, column: str
) -> None:
    sys_id = problems.make(state="102", **problems.assigned)

    assert error(problems.put(sys_id, **{column: "106"}))[0] == 403
    assert problems.put(sys_id, **{column: "103"}).json()["result"]["state"] == "103"


@pytest.mark.parametrize(
    ("before", "fields", "lacking"),
    [
        ("101", {"state": "102"}, "Assigned to"),
        ("103", {"state": "104"}, "Cause notes, Fix notes"),
        ("103", {"state": "104", "cause_notes": "x"}, "Fix notes"),
        ("104", {"state": "106", **CAUSE}, "Resolution code"),
        ("103", {"state": "106"}, "Resolution code, Cause notes, Fix notes"),
        ("103", {"state": "106", "resolution_code": "fix_applied"}, "Cause notes, Fix notes"),
        ("103", {"state": "106", "resolution_code": "risk_accepted"}, "Cause notes, Close notes"),
        ("102", {"state": "107", "resolution_code": "canceled"}, "Close notes"),
        ("102", {"state": "107", "resolution_code": "duplicate"}, "Duplicate of"),
        ("102", {"state": "107", "close_notes": "x"}, "Resolution code, Cause notes, Fix notes"),
    ],
)
def test_a_state_wants_its_fields(
    problems: Problems, before: str, fields: dict[str, str], lacking: str
) -> None:
    known = {} if before == "101" else problems.assigned
    sys_id = problems.make(**known, **(CAUSE if before == "104" else {}), state=before)

    said = error(problems.put(sys_id, **fields))

    assert said[0] == 403
    assert said[2] == f"Data Policy Exception: The following fields are mandatory: {lacking}"


@pytest.mark.parametrize(
    ("before", "fields"),
    [
        ("103", {"state": "104", **CAUSE}),
        ("104", {"state": "106", **FIXED}),
        (
            "103",
            {
                "state": "106",
                "resolution_code": "risk_accepted",
                "cause_notes": "x",
                "close_notes": "y",
            },
        ),
        ("102", {"state": "107", "resolution_code": "canceled", "close_notes": "x"}),
        ("103", {"state": "107", "resolution_code": "duplicate", "duplicate_of": "0" * 32}),
    ],
)
def test_a_state_that_has_its_fields_is_taken(
    problems: Problems, before: str, fields: dict[str, str]
) -> None:
    sys_id = problems.make(**problems.assigned, **(CAUSE if before == "104" else {}), state=before)

    assert problems.put(sys_id, **fields).json()["result"]["state"] == fields["state"]


def test_a_problem_remembers_who_took_each_step(problems: Problems, instance: ServiceNow) -> None:
    me = user(instance, instance.username)
    sys_id = problems.make(**problems.assigned)
    for fields in (
        {"state": "103"},
        {"state": "104", **CAUSE},
        {"state": "106", **FIXED},
        {"state": "107"},
    ):
        now = problems.put(sys_id, **fields).json()["result"]

    steps = ("confirmed", "fix", "resolved", "closed")
    assert all(now[f"{step}_by"]["value"] == me for step in steps)
    assert all(now[f"{step}_at"] for step in steps)
    assert now["active"] == "false"


def test_a_closed_problem_may_be_analyzed_again(problems: Problems) -> None:
    sys_id = problems.make(state="107", **problems.assigned, **FIXED)

    now = problems.put(sys_id, state="103").json()["result"]

    assert (now["active"], now["reopen_count"], now["resolution_code"]) == ("true", "1", "")
    assert now["reopened_at"] != "" == now["closed_at"]


@pytest.mark.parametrize("after", ["151", "152", "154", "157"])
@pytest.mark.parametrize("before", ["151", "152", "154", "157"])
def test_a_problem_s_task_goes_only_where_its_state_model_leads(
    tasks: Problems, before: str, after: str
) -> None:
    closing = {"close_code": "completed", "close_notes": "x"}
    sys_id = tasks.make(state=before, **tasks.assigned, **closing)

    answer = tasks.put(sys_id, state=after, **closing)

    if before == after or (before, after) in TASK_ALLOWED:
        assert answer.json()["result"]["state"] == after
        assert answer.json()["result"]["active"] == str(after != "157").lower()
    else:
        words = f"Problem task state transition from state {before} to {after} is not possible."
        assert error(answer) == (403, "Operation Failed", words)


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({"state": "152"}, "Assigned to"),
        ({"state": "157"}, "Close code, Close notes"),
        ({"state": "157", "close_code": "canceled"}, "Close notes"),
    ],
)
def test_a_problem_s_task_wants_its_fields(
    tasks: Problems, fields: dict[str, str], lacking: str
) -> None:
    said = error(tasks.put(tasks.make(), **fields))

    assert said[2] == f"Data Policy Exception: The following fields are mandatory: {lacking}"


def test_a_problem_s_task_is_numbered_and_belongs_to_a_problem(
    problems: Problems, tasks: Problems
) -> None:
    problem = problems.make()
    sys_id = tasks.make(problem=problem)

    [task] = tasks.api.found(f"problem={problem}", "problem_task")

    assert (task["sys_id"], task["state"]) == (sys_id, "151")
    assert task["number"].startswith("PTASK")
