"""Every example of rules that is written down, run against the sandbox: made, changed, resolved,
unwell again, gone.

What an instance refuses the sandbox refuses too, so an example that a reader cannot use fails here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from function.connection.preflight import examine
from function.core.finding import Level
from function.ledger.records import TableTraits
from function.rules import loader as rules_file
from function.rules.model import Rule
from function.rules.ticket import has_ticket
from function.servicenow import Basic, ServiceNowClient
from sandbox.servicenow import ServiceNow
from tests.payloads import delete, insert, update
from tests.world import World

HERE = Path(__file__).resolve().parent.parent
FILES = {
    file.name: file.read_text("utf-8")
    for file in (HERE / "README.md", *(HERE / "docs").glob("*.md"))
}
RUNBOOK_URL = "https://wiki.example.com"
TEXTS = [
    block
    for text in FILES.values()
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if block.startswith("version: 1")
] + [(HERE / "rules.yaml").read_text("utf-8")]


@dataclass(frozen=True)
class Life:
    """The rows of an example: *open*, *done*, and what its ticket's states are then; *gone*: after
    a DELETE."""

    open: Mapping[str, Any]
    new: str
    done: Mapping[str, Any] = field(default_factory=dict)
    resolved: str = ""
    again: tuple[str, str] = ("", "")
    gone: str = ""
    tickets: int = 1
    prepared: Callable[[ServiceNow], object] = lambda _: None


def of_their_own(servicenow: ServiceNow, table: str, **choices: str) -> None:
    """Give the instance choices of its own: ``column="value value"``."""
    for element, values in choices.items():
        for value in values.split():
            fields = {
                "name": table,
                "element": element,
                "value": value,
                "label": f"Ours {value}",
                "language": "en",
            }
            servicenow.tables.insert("sys_choice", fields, by="admin")


def prepare_till(servicenow: ServiceNow) -> None:
    of_their_own(servicenow, "incident", state="10 20 60 70 80", urgency="4")
    code = {
        "name": "incident",
        "element": "close_code",
        "value": "Till replaced",
        "label": "Till replaced",
    }
    servicenow.tables.insert("sys_choice", code, by="admin")


def prepare_rollout(servicenow: ServiceNow) -> None:
    servicenow.tables.change_models["rollout"] = ("-5", "-2", "-1", "3")
    of_their_own(servicenow, "change_request", close_code="done undone")


LIVES = {
    "outage": Life(
        open={
            "severity": "major",
            "title": "Down",
            "details": "",
            "status": "open",
            "resolution": None,
        },
        new="1",
        done={"status": "fixed"},
        resolved="6",
        again=("reopened", "2"),
        gone="6",
    ),
    "disturbance": Life(
        open={"title": "Down", "status": "open", "servicenow_sys_id": None},
        new="1",
        done={"status": "fixed"},
        resolved="6",
        again=("reopened", "2"),
        gone="6",
    ),
    "action-items": Life(
        open={"action_items": [{"id": "a", "summary": "Ask"}, {"id": "b", "summary": "Answer"}]},
        new="1",
        gone="6",
        tickets=2,
    ),
    "login-failures": Life(open={"attempts": 5, "user_name": "ada"}, new="1", gone="1"),
    "release": Life(
        open={"version": "1.2", "risk": "high", "deployed_at": None, "rolled_back": False},
        new="-5",
        done={"deployed_at": "2026-03-04", "rolled_back": True},
        resolved="3",
        again=("created", "-5"),
        gone="4",
    ),
    "bgp-reset": Life(
        open={"done": False},
        new="-5",
        done={"done": True},
        resolved="3",
        again=("created", "-5"),
        gone="4",
    ),
    "defect": Life(
        open={
            "title": "Loops",
            "owner": "problem.manager",
            "cause": None,
            "fix": None,
            "done": False,
        },
        new="101",
        done={"cause": "A loop", "fix": "No loop", "done": True},
        resolved="106",
        again=("reopened", "103"),
        gone="101",
    ),
    "chore": Life(
        open={"title": "Label", "remark": None, "done": False},
        new="1",
        done={"done": True},
        resolved="3",
        again=("reopened", "2"),
        gone="3",
    ),
    "complaint": Life(
        open={"body": {"eventType": "complaint_opened", "text": "Too slow"}}, new="1", gone="6"
    ),
    "outage-report": Life(
        open={"body": {"eventType": "OUTAGE_CONFIRMED", "text": "Down"}}, new="1", gone="6"
    ),
    "report": Life(open={"title": "Slow", "reporter": "employee"}, new="1", gone="6"),
    "till": Life(
        open={"title": "Dead", "urgency": 4, "works": False},
        new="1",
        done={"works": True},
        resolved="60",
        again=("reopened", "20"),
        gone="60",
        prepared=prepare_till,
    ),
    "rollout": Life(
        open={"title": "Screens", "done": False},
        new="-5",
        done={"done": True},
        resolved="3",
        again=("created", "-5"),
        gone="4",
        prepared=prepare_rollout,
    ),
}
WRITTEN = [
    (text, rule)
    for text in TEXTS
    for rule in rules_file.load_rules(text, environ={"RUNBOOK_URL": RUNBOOK_URL}).rules
]
EXAMPLES = [
    pytest.param(text, rule, id=f"{number}-{rule.name}")
    for number, (text, rule) in enumerate(WRITTEN)
    if has_ticket(rule)
]
NOTES = [
    pytest.param(text, rule, id=f"{number}-{rule.name}")
    for number, (text, rule) in enumerate(WRITTEN)
    if rule.target.kind == "note"
]


def states(world: World, rule: Rule) -> list[str]:
    rows = world.servicenow.rows(rule.target.table)
    return [row["state"] for row in rows if row["correlation_id"]]


def table(rule: Rule) -> str:
    return rule.source.removeprefix("hasura/public.")


def run(world: World, body: bytes) -> set[str]:
    """Send *body*: what was said of each ticket. Nothing may be refused."""
    answer = world.send(body)
    assert answer.status == 200, (answer.body, [str(mail) for mail in world.mails])
    return {outcome["status"] for outcome in answer.body["outcomes"]}


@pytest.mark.parametrize(("text", "rule"), EXAMPLES)
def test_an_example_s_ticket_lives_as_its_rule_says(text: str, rule: Rule) -> None:
    life = LIVES[rule.name]
    open_ = {"id": 1, "updated_at": "2026-03-04T05:00:00Z", **life.open}
    done = {**open_, **life.done, "updated_at": "2026-03-04T06:00:00Z"}
    again = {**open_, "updated_at": "2026-03-04T07:00:00Z"}
    with World(rules=text, RUNBOOK_URL=RUNBOOK_URL) as world:
        life.prepared(world.servicenow)

        assert run(world, insert(table(rule), open_)) == {"created"}
        assert states(world, rule) == [life.new] * life.tickets
        if life.done:
            assert run(
                world, update(table(rule), open_, done, created_at="2026-03-04T06:00:00")
            ) == {"resolved"}
            assert states(world, rule) == [life.resolved]
            said, state = life.again
            assert run(
                world, update(table(rule), done, again, created_at="2026-03-04T07:00:00")
            ) == {said}
            assert states(world, rule)[-1] == state
        assert not world.mails


@pytest.mark.parametrize(("text", "rule"), EXAMPLES)
def test_an_example_s_ticket_ends_as_its_rule_says_when_the_row_is_gone(
    text: str, rule: Rule
) -> None:
    life = LIVES[rule.name]
    row = {"id": 1, "updated_at": "2026-03-04T05:00:00Z", **life.open}
    with World(rules=text, RUNBOOK_URL=RUNBOOK_URL) as world:
        life.prepared(world.servicenow)
        run(world, insert(table(rule), row))

        run(world, delete(table(rule), row, created_at="2026-03-04T06:00:00"))

        assert states(world, rule) == [life.gone] * life.tickets
        assert not world.mails


@pytest.mark.parametrize(("text", "rule"), EXAMPLES)
def test_check_finds_nothing_that_keeps_an_example_from_working(text: str, rule: Rule) -> None:
    with ServiceNow() as servicenow:
        LIVES[rule.name].prepared(servicenow)
        with ServiceNowClient(
            servicenow.url, Basic(servicenow.username, servicenow.password)
        ) as client:
            found = examine(client, [rule], traits=lambda _: TableTraits()).findings

    assert [str(each) for each in found if each.level is Level.FAULT] == []


def test_the_examples_are_there_and_each_has_its_rows() -> None:
    assert {rule.name for _, rule in WRITTEN if has_ticket(rule)} == LIVES.keys()
    assert len(NOTES) == 2


@pytest.mark.parametrize(("text", "rule"), NOTES)
def test_an_example_s_note_is_written_and_its_edit_too(text: str, rule: Rule) -> None:
    outage = {"id": 1, "updated_at": "2026-03-04T05:00:00Z", **LIVES["outage"].open}
    row = {"id": 7, "outage_id": 1, "author": "Ada", "body": "Still down"}
    with World(rules=text) as world:
        run(world, insert("outages", outage))

        assert run(world, insert(table(rule), row)) == {"created"}
        assert run(
            world,
            update(table(rule), row, row | {"body": "Up"}, created_at="2026-03-04T06:00:00"),
        ) == {"updated"}
        entries = [entry["value"] for entry in world.servicenow.rows("sys_journal_field")]
        assert [entry.partition("\n")[0] for entry in entries] == [
            "Ada: Still down",
            "edited: Ada: Up",
        ]
        assert not world.mails
