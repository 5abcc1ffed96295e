"""examples/itsm.yaml, as `make run RULES_FILE=examples/itsm.yaml PROJECT=examples/itsm` runs it:
deployments are change requests, action items are tickets, and a critical error is one incident."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from function.failpoints import FAILPOINTS, Failpoint
from sandbox.hasura import Hasura
from sandbox.suggestions import FILE
from tests.examples.run import COME_SECONDS_MAX, Run
from tests.faults.clock import SharedClock
from tests.faults.site import KILLABLE
from tests.payloads import insert, update
from tests.processes import HERE, Function
from tests.world import World

PROJECT = HERE / "examples" / "itsm"
RULES = (HERE / "examples" / "itsm.yaml").read_text("utf-8")
SUGGESTED = (PROJECT / FILE).read_text("utf-8")
DEPLOYMENT = (
    "INSERT INTO deployments (service, version, environment, planned_start, risk, requested_by) "
    "VALUES ('checkout', %s, %s, '2027-01-12 20:00+01', 'high', 'beth.anglin@example.com') "
    "RETURNING id"
)
STATE = "UPDATE deployments SET state = %s, remark = %s WHERE id = %s"
MEETING = "INSERT INTO meetings (title, action_items) VALUES ('Weekly', %s) RETURNING id"
ITEMS = "UPDATE meetings SET action_items = %s WHERE id = %s"
ERROR = (
    "INSERT INTO errors (error_key, level, message, service) "
    "VALUES (%s, %s, 'No connection', %s) RETURNING id"
)
# As many reports of one error as a burst has, and the most bursts until two functions have shared
# one.
BURST = 50
BURSTS_MAX = 5
# In the line that a function logs of each delivery.
OF_ERRORS = '"source": "hasura/public.errors"'
LEASE_SECONDS_MAX = 120.0
SENT_AGAIN_MAX = 10


class DeskRun(Run):
    """An app whose service desk is the sandbox's ServiceNow."""

    def __init__(self) -> None:
        super().__init__("itsm")

    @property
    def log(self) -> str:
        [log] = re.findall(r"The function's log: +(\S+)", self.printed)
        return Path(log).read_text("utf-8")

    def insert(self, statement: str, *values: object) -> int:
        [row] = self.sql(statement, *values)
        return int(row["id"])

    def settle(self) -> None:
        """Wait until every event is delivered."""
        waiting = "SELECT id, error FROM hdb_catalog.event_log WHERE NOT delivered"
        until = time.monotonic() + COME_SECONDS_MAX
        while left := self.sql(waiting):
            assert time.monotonic() < until, self.answers_to(left[-1]["id"])
            time.sleep(0.05)

    def do(self, statement: str, *values: object) -> list[str]:
        """One statement, and what was said of each key once its event was delivered."""
        self.sql(statement, *values)
        self.settle()
        return self.said()

    def said(self) -> list[str]:
        """What the newest event was answered of each key."""
        [newest] = self.sql(
            "SELECT id FROM hdb_catalog.event_log ORDER BY created_at DESC, id LIMIT 1"
        )
        [*_, last] = self.answers_to(newest["id"])
        return sorted(
            " ".join(filter(None, [outcome["status"], outcome["reason"]]))
            for outcome in last["outcomes"]
        )

    def answers_to(self, event: str) -> list[dict[str, Any]]:
        invocations = self.sql(
            "SELECT response FROM hdb_catalog.event_invocation_logs WHERE event_id = %s "
            "ORDER BY created_at",
            event,
        )
        told = [invocation["response"]["data"] for invocation in invocations]
        return [json.loads(data.get("body") or data["message"]) for data in told]

    def deliver_again(self) -> None:
        """Have Hasura deliver all events again."""
        self.settle()
        self.sql("UPDATE hdb_catalog.event_log SET delivered = false, error = false, tries = 0")
        self.settle()

    def arm(self, name: str, times: int) -> None:
        """A person switches a fault on, on ServiceNow's page."""
        form = {"name": name, "times": str(times)}
        answer = requests.post(f"{self.instance}/faults/arm", data=form, timeout=10)
        assert answer.status_code == 200

    def tickets(self, table: str, rule: str, key: object) -> list[dict[str, str]]:
        """The tickets of a key, the first one first; of a key that begins so, where it ends with
        a slash."""
        operator = "STARTSWITH" if str(key).endswith("/") else "="
        query = f"correlation_id{operator}sandbox:{rule}:{key}^ORDERBYnumber"
        return self.records(table, query)

    def changes(self, deployment: int) -> list[dict[str, str]]:
        return self.tickets("change_request", "deployment", deployment)

    def change(self, deployment: int) -> dict[str, str]:
        [change] = self.changes(deployment)
        return change

    def items(self, meeting: int) -> dict[str, tuple[str, str, str]]:
        """By title, the state, the notes and the due date of each action item's ticket."""
        found = self.tickets("incident", "action-item", f"{meeting}/")
        assert len({each["short_description"] for each in found}) == len(found)
        return {
            each["short_description"]: (each["state"], each["close_notes"], each["due_date"])
            for each in found
        }

    def incidents(self, error_key: str) -> list[dict[str, str]]:
        return self.tickets("incident", "critical-error", error_key)

    def resolve(self, incident: dict[str, str]) -> None:
        """A person resolves it."""
        page = f"{incident['number']}/resolve"
        self.play(page, close_code="Solution provided", close_notes="Restarted.")


def deploy(run: DeskRun, version: str, environment: str = "production") -> int:
    """A deployment of which the service desk has heard."""
    id = run.insert(DEPLOYMENT, version, environment)
    run.settle()
    return id


@pytest.fixture(scope="module")
def run() -> Iterator[DeskRun]:
    with DeskRun() as run:
        yield run


# What is printed


def test_the_run_lists_what_to_try_and_it_comes_out_as_it_says(run: DeskRun) -> None:
    assert SUGGESTED.strip() in run.printed
    for statement in SUGGESTED.strip().split("\n\n"):
        if "Resolve the incident" in statement:
            run.resolve(run.incidents("checkout/E1042")[0])
        run.sql(statement)
        run.settle()

    shown = requests.get(
        re.findall(r"Records of change_request: +curl -u \S+ '(\S+)'", run.printed)[0],
        auth=(run.environ["SERVICENOW_USERNAME"], run.environ["SERVICENOW_PASSWORD"]),
        timeout=10,
    ).json()["result"]
    assert [(change["short_description"], change["state"]) for change in shown] == [
        ("Deploy search 1.9", "Canceled"),
        ("Deploy checkout 4.2", "Closed"),
    ]
    [meeting] = {
        each["correlation_id"].split(":")[2].split("/")[0]
        for each in run.records("incident", "correlation_idSTARTSWITHsandbox:action-item")
    }
    assert {state for state, _, _ in run.items(int(meeting)).values()} == {"6"}
    [incident] = run.incidents("checkout/E1042")
    assert (incident["state"], incident["urgency"]) == ("2", "1")
    assert run.incidents("blog/E7") == []


# Deployments


def test_a_deployment_to_production_is_a_change_request(run: DeskRun) -> None:
    change = run.change(deploy(run, "1.0"))

    assert (change["state"], change["type"], change["risk"]) == ("-5", "normal", "2")
    assert change["short_description"] == "Deploy checkout 1.0"
    assert (change["start_date"], change["end_date"]) == ("2027-01-12 19:00:00", "")
    [asker] = run.records("sys_user", "email=beth.anglin@example.com")
    assert change["requested_by"]["value"] == asker["sys_id"]  # type: ignore[index]  # of a reference it is an object


def test_a_deployment_elsewhere_is_none(run: DeskRun) -> None:
    staging = deploy(run, "1.1", "staging")

    assert run.said() == ["skipped when_false"]
    assert run.changes(staging) == []


def test_what_is_planned_anew_is_sent_and_a_deployment_that_runs_leaves_its_change_to_people(
    run: DeskRun,
) -> None:
    deployment = deploy(run, "1.2")
    postponed = "UPDATE deployments SET planned_start = '2027-02-01 08:00+00' WHERE id = %s"

    assert run.do(postponed, deployment) == ["updated"]
    assert run.do(STATE, "running", None, deployment) == ["unchanged"]
    change = run.change(deployment)
    assert (change["start_date"], change["state"]) == ("2027-02-01 08:00:00", "-5")


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ("deployed", "successful"),
        ("deployed_with_issues", "successful_issues"),
        ("failed", "unsuccessful"),
        ("rolled_back", "unsuccessful"),
    ],
)
def test_a_deployment_that_has_ended_closes_its_change_and_says_how(
    run: DeskRun, state: str, code: str
) -> None:
    deployment = deploy(run, "2.0")
    run.do(STATE, state, "By Ada.", deployment)

    change = run.change(deployment)
    assert (change["state"], change["close_code"], change["close_notes"]) == ("3", code, "By Ada.")


@pytest.mark.parametrize(
    ("statement", "notes"),
    [
        (
            "UPDATE deployments SET state = 'canceled', remark = 'Not now.' WHERE id = %s",
            "Not now.",
        ),
        ("UPDATE deployments SET state = 'canceled' WHERE id = %s", "In the app: canceled"),
        ("DELETE FROM deployments WHERE id = %s", "In the app: deleted"),
    ],
)
def test_a_deployment_that_is_called_off_cancels_its_change(
    run: DeskRun, statement: str, notes: str
) -> None:
    deployment = deploy(run, "3.0")
    run.do(statement, deployment)

    change = run.change(deployment)
    assert (change["state"], change["close_code"], change["close_notes"]) == ("4", "", notes)


def test_a_deployment_that_was_called_off_before_anybody_heard_of_it_is_no_change(
    run: DeskRun,
) -> None:
    canceled = run.insert(
        "INSERT INTO deployments (service, version, environment, requested_by, state) VALUES "
        "('search', '3.1', 'production', 'fred.luddy@example.com', 'canceled') RETURNING id"
    )
    run.settle()

    assert run.changes(canceled) == []


def test_a_deployment_that_is_planned_again_is_a_new_change_after_the_old_one(run: DeskRun) -> None:
    deployment = deploy(run, "3.2")
    run.do(STATE, "canceled", None, deployment)
    run.do(STATE, "planned", None, deployment)

    old, new = run.changes(deployment)
    assert (old["state"], new["state"]) == ("4", "-5")
    assert new["parent"]["value"] == old["sys_id"]  # type: ignore[index]  # of a reference it is an object


def test_a_change_is_closed_once_though_servicenow_fails_on_the_way(run: DeskRun) -> None:
    deployment = deploy(run, "4.0")
    run.arm("error_500", 1)
    run.do(STATE, "deployed", None, deployment)

    change = run.change(deployment)
    assert (change["state"], change["close_code"]) == ("3", "successful")


# Meetings

ASK = {"id": "a", "title": "Ask", "owner": "beth.anglin@example.com", "due": "2027-01-31"}
TELL = {"id": "b", "title": "Tell", "done": False}
BUY = {"id": "c", "title": "Buy"}
DUE = "2027-01-31 00:00:00"


def meet(run: DeskRun, *items: object) -> int:
    """A meeting of whose action items the service desk has heard."""
    meeting = run.insert(MEETING, json.dumps(items))
    run.settle()
    return meeting


def test_each_action_item_is_a_ticket_of_its_owner(run: DeskRun) -> None:
    meeting = meet(run, ASK, TELL)

    assert run.items(meeting) == {"Ask": ("1", "", DUE), "Tell": ("1", "", "")}
    [owner] = run.records("sys_user", "email=beth.anglin@example.com")
    [ask, _] = run.tickets("incident", "action-item", f"{meeting}/")
    assert ask["assigned_to"]["value"] == owner["sys_id"]  # type: ignore[index]  # of a reference it is an object


def test_an_item_is_added_another_done_and_a_third_taken_off_the_list(run: DeskRun) -> None:
    meeting = meet(run, ASK, TELL)
    said = run.do(ITEMS, json.dumps([ASK | {"done": True}, BUY]), meeting)

    assert said == ["created", "resolved", "resolved"]
    assert run.items(meeting) == {
        "Ask": ("6", "Done", DUE),
        "Tell": ("6", "Taken off the list", ""),
        "Buy": ("1", "", ""),
    }


def test_an_item_that_comes_back_reopens_its_ticket(run: DeskRun) -> None:
    meeting = meet(run, ASK, TELL)
    run.do(ITEMS, json.dumps([ASK]), meeting)
    said = run.do(ITEMS, json.dumps([TELL, ASK]), meeting)

    assert said == ["reopened", "unchanged"]
    assert run.items(meeting)["Tell"][0] == "2"


def test_items_of_two_meetings_are_told_apart(run: DeskRun) -> None:
    one, other = meet(run, ASK), meet(run, ASK)
    run.do(ITEMS, "[]", one)

    assert [run.items(meeting)["Ask"][0] for meeting in (one, other)] == ["6", "1"]


def test_a_meeting_that_is_deleted_resolves_all_of_its_tickets(run: DeskRun) -> None:
    meeting = meet(run, ASK, TELL, BUY)
    run.do("DELETE FROM meetings WHERE id = %s", meeting)

    resolved = ("6", "The meeting was deleted")
    assert {(state, notes) for state, notes, _ in run.items(meeting).values()} == {resolved}
    assert len(run.items(meeting)) == 3


def test_an_owner_whom_nobody_knows_is_left_empty(run: DeskRun) -> None:
    meeting = meet(run, TELL | {"owner": "nobody@example.com"})

    assert run.said() == ["created unknown_reference"]
    assert run.items(meeting) == {"Tell": ("1", "", "")}


def test_each_item_has_one_ticket_though_servicenow_loses_answers(run: DeskRun) -> None:
    run.arm("commit_then_reset", 2)
    meeting = meet(run, ASK, TELL, BUY)

    assert run.items(meeting).keys() == {"Ask", "Tell", "Buy"}


# Errors


def report(run: DeskRun, error_key: str, level: str = "critical", service: str = "search") -> int:
    """A report of an error of which the service desk has heard."""
    id = run.insert(ERROR, error_key, level, service)
    run.settle()
    return id


@pytest.mark.parametrize(
    ("service", "impact", "priority"), [("checkout", "1", "1"), ("search", "2", "2")]
)
def test_a_critical_error_is_urgent_and_its_service_says_how_many_feel_it(
    run: DeskRun, service: str, impact: str, priority: str
) -> None:
    report(run, f"{service}/E1", service=service)

    [incident] = run.incidents(f"{service}/E1")
    assert (incident["urgency"], incident["impact"], incident["priority"]) == (
        "1",
        impact,
        priority,
    )
    assert incident["short_description"] == f"{service}: No connection"


def test_a_burst_of_one_error_over_two_functions_is_one_incident(
    run: DeskRun, tmp_path: Path
) -> None:
    with (
        Function(run.environ, tmp_path) as second,
        Hasura(
            database_url=run.environ["DATABASE_URL"],
            project=PROJECT,
            environ={
                "PG_DATABASE_URL": run.environ["DATABASE_URL"],
                "SERVICENOW_FUNCTION_URL": second.url,
                "SERVICENOW_FUNCTION_SECRET": run.environ["HASURA_EVENT_SECRETS"],
            },
            fetch_interval_seconds=0.05,
            shutdown_seconds=5.0,
        ),
    ):
        before = run.log.count(OF_ERRORS)
        for _ in range(BURSTS_MAX):
            for _ in range(BURST):
                run.sql(ERROR, "search/burst", "critical", "search")
            run.settle()
            shares = run.log.count(OF_ERRORS) - before, second.log.count(OF_ERRORS)
            if all(shares):
                break

    assert all(shares)
    assert sum(shares) >= BURST
    assert len(run.incidents("search/burst")) == 1


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(ERROR, id="another row"),
        pytest.param("UPDATE errors SET count = count + 1 WHERE error_key = %s", id="it counts on"),
    ],
)
def test_an_error_that_comes_again_after_it_was_resolved_reopens_its_incident(
    run: DeskRun, again: str, request: pytest.FixtureRequest
) -> None:
    key = f"search/{request.node.callspec.id}"
    report(run, key)
    run.resolve(run.incidents(key)[0])
    said = run.do(again, *((key, "critical", "search") if again is ERROR else (key,)))

    assert said == ["reopened"]
    [incident] = run.incidents(key)
    assert (incident["state"], incident["reopen_count"]) == ("2", "1")


def test_one_that_comes_again_after_it_was_closed_is_a_new_incident_of_the_old_one(
    run: DeskRun,
) -> None:
    report(run, "search/closed")
    [old] = run.incidents("search/closed")
    run.resolve(old)
    run.play(f"{old['number']}/change", state="7", was_state="6")
    report(run, "search/closed")

    _, new = run.incidents("search/closed")
    assert new["state"] == "1"
    assert new["parent_incident"]["value"] == old["sys_id"]  # type: ignore[index]  # of a reference it is an object


def test_a_text_that_is_corrected_is_no_report(run: DeskRun) -> None:
    id = report(run, "search/corrected")
    run.resolve(run.incidents("search/corrected")[0])

    assert run.do("UPDATE errors SET message = 'None' WHERE id = %s", id) == ["skipped when_false"]
    assert run.incidents("search/corrected")[0]["state"] == "6"


def test_an_error_that_becomes_critical_is_an_incident_then(run: DeskRun) -> None:
    id = report(run, "search/worse", level="error")
    before = run.said(), run.incidents("search/worse")
    run.do("UPDATE errors SET level = 'critical' WHERE id = %s", id)

    assert before == (["skipped when_false"], [])
    assert len(run.incidents("search/worse")) == 1


# All of them


def test_events_that_are_delivered_again_change_nothing(run: DeskRun) -> None:
    deployment, meeting = deploy(run, "5.0"), meet(run, ASK, TELL)
    run.do(STATE, "failed", None, deployment)
    run.do(ITEMS, json.dumps([ASK]), meeting)
    report(run, "search/again")
    run.resolve(run.incidents("search/again")[0])
    tables = ("change_request", "incident")
    before = [run.records(table, "correlation_idISNOTEMPTY^ORDERBYnumber") for table in tables]

    run.deliver_again()

    after = [run.records(table, "correlation_idISNOTEMPTY^ORDERBYnumber") for table in tables]
    assert after == before
    assert run.incidents("search/again")[0]["state"] == "6"


ROW: dict[str, dict[str, object]] = {
    "deployments": {
        "service": "checkout",
        "version": "1.0",
        "environment": "staging",
        "planned_start": None,
        "planned_end": None,
        "risk": "low",
        "state": "planned",
        "remark": None,
        "requested_by": "beth.anglin@example.com",
    },
    "meetings": {"title": "Weekly", "held_on": "2026-11-27", "action_items": []},
    "errors": {
        "error_key": "E1",
        "level": "error",
        "message": "No connection",
        "service": "search",
        "count": 1,
        "last_seen": "2026-11-27T05:00:00Z",
    },
}


def row(table: str, **columns: object) -> dict[str, object]:
    return {"id": 1, "updated_at": "2026-11-27T05:00:00Z", **ROW[table], **columns}


@pytest.mark.parametrize("table", ROW)
def test_what_the_service_desk_is_not_to_hear_of_costs_no_call(table: str) -> None:
    with World(rules=RULES) as world:
        answer = world.send(insert(table, row(table)))

        assert answer.status == 200
        assert world.calls() == []


@pytest.fixture(scope="module")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Function, Path]]:
    """A function whose process can be killed at each step."""
    folder = tmp_path_factory.mktemp("itsm")
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    with World(rules=RULES) as world:
        environ = {
            **world.environ,
            "RULES_FILE": str(rules),
            "TRIAL_FOLDER": str(folder),
            "PYTHONPATH": str(HERE),
        }
        with Function(environ, folder, source=KILLABLE) as function:
            yield world, function, folder


def deliver_until_done(function: Function, body: bytes, clock: SharedClock) -> None:
    """As Hasura does, but for the waiting; at first for the lease of one who was killed."""
    clock.advance(LEASE_SECONDS_MAX)
    for _ in range(SENT_AGAIN_MAX):
        answer = function.send(body)
        if answer.status == 200:
            return
        clock.advance(answer.retry_after or 0)
    raise AssertionError(answer)


@pytest.mark.parametrize("place", FAILPOINTS)
def test_of_a_function_that_is_killed_half_way_nothing_is_lost_or_doubled(
    killable: tuple[World, Function, Path], place: Failpoint
) -> None:
    """At the first of three action items, on the first step of a change to its end, and at the
    first of two reports."""
    world, function, folder = killable
    number = FAILPOINTS.index(place) + 1
    planned = row("deployments", id=number, environment="production")
    done = planned | {"state": "deployed", "updated_at": "2026-11-27T06:00:00Z"}
    assert function.send(insert("deployments", planned)).status == 200
    key = f"killed-{place}"
    bodies = [
        insert("meetings", row("meetings", id=number, action_items=[ASK, TELL, BUY])),
        update("deployments", planned, done, created_at="2026-11-27T06:00:00"),
        insert("errors", row("errors", id=number, level="critical", error_key=key)),
    ]
    for body in bodies:
        (folder / f"kill-at-{place}").touch()
        with pytest.raises(requests.ConnectionError):
            function.send(body)
        function.kill()
        function.start()
        deliver_until_done(function, body, SharedClock(folder / "clock"))
    other = row("errors", id=number + 100, level="critical", error_key=key)
    assert function.send(insert("errors", other)).status == 200

    by_key = [each["correlation_id"] for each in world.servicenow.rows("incident")]
    assert sum(key.startswith(f"shop:action-item:{number}/") for key in by_key) == 3
    assert by_key.count(f"shop:critical-error:{key}") == 1
    [state] = [
        change["state"]
        for change in world.servicenow.rows("change_request")
        if change["correlation_id"] == f"shop:deployment:{number}"
    ]
    assert state == "3"
