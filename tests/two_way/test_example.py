"""examples/two-way.yaml, as `make run RULES_FILE=examples/two-way.yaml PROJECT=examples/two-way`
runs it: a row and its incident, both ways; a person uses ServiceNow's pages."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
import pytest
import requests
from psycopg.rows import dict_row

from sandbox.__main__ import PORTS
from tests.processes import HERE

Found = TypeVar("Found")
START_SECONDS_MAX = 60.0
COME_SECONDS_MAX = 20.0
ROW = "INSERT INTO outages (title, severity) VALUES (%s, 'major') RETURNING id"
COMMENT = "INSERT INTO outage_comments (outage_id, author, body) VALUES (%s, 'ada', %s)"


class Run:
    """A `make run` with an example's rules and project, from enter to exit."""

    def __init__(self, example: str = "two-way") -> None:
        self._example = example

    def __enter__(self) -> Self:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # What make exports of its own command line.
        ports = dict.fromkeys((variable for _, variable, _, _ in PORTS), "0")
        own = {
            "RULES_FILE": f"examples/{self._example}.yaml",
            "PROJECT": f"examples/{self._example}",
            "PORT": str(port),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox"],
            cwd=HERE,
            env={**os.environ, **ports, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        # One that never comes up says no more.
        too_late = threading.Timer(START_SECONDS_MAX, self._process.kill)
        too_late.daemon = True
        too_late.start()
        printed = ""
        while "Ctrl-C" not in printed:
            line = self._process.stdout.readline()
            assert line, printed
            printed += line
        too_late.cancel()
        self.printed = printed
        [settings] = re.findall(r"set -a; \. (\S+);", printed)
        self.environ = dict(
            line.split("=", 1) for line in shlex.split(Path(settings).read_text("utf-8"))
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=30)

    @property
    def instance(self) -> str:
        return self.environ["SERVICENOW_INSTANCE_URL"]

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        url = self.environ["DATABASE_URL"]
        with psycopg.connect(url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def row(self, id: int) -> dict[str, Any]:
        [row] = self.sql("SELECT * FROM outages WHERE id = %s", id)
        return row

    def comments(self, id: int) -> list[tuple[str, str]]:
        rows = self.sql("SELECT * FROM outage_comments WHERE outage_id = %s ORDER BY id", id)
        return [(row["author"], row["body"]) for row in rows]

    def records(self, table: str, query: str) -> list[dict[str, str]]:
        """What is in ServiceNow, as its integration user sees it."""
        login = (self.environ["SERVICENOW_USERNAME"], self.environ["SERVICENOW_PASSWORD"])
        answer = requests.get(
            f"{self.instance}/api/now/table/{table}",
            params={"sysparm_query": query},
            auth=login,
            timeout=10,
        )
        found: list[dict[str, str]] = answer.json()["result"]
        return found

    def play(self, page: str, **form: str) -> str:
        """A person sends a form; the page that this leads to."""
        answer = requests.post(f"{self.instance}/incidents/{page}", data=form, timeout=10)
        assert answer.status_code == 200
        assert "said=" not in answer.url
        return answer.url

    def answers(self, sys_id: str) -> list[dict[str, Any]]:
        """What the function answered when it was told of a ticket."""
        told = requests.get(f"{self.instance}/sandbox/notifications", timeout=10).json()["sent"]
        return [json.loads(sent["answer"]) for sent in told if sent["sys_id"] == sys_id]

    def open_outage(self, title: str) -> dict[str, Any]:
        """A new row, once it knows its ticket's number."""
        [made] = self.sql(ROW, title)
        return wait_for(lambda: row if (row := self.row(made["id"]))["ticket_number"] else None)

    def open_incident(self, title: str) -> dict[str, str]:
        """A new incident of a person's, for the group whose incidents are outages."""
        [group] = self.records("sys_user_group", "name=Software")
        page = self.play(
            "new",
            short_description=title,
            description="All in cents.",
            impact="1",
            assignment_group=group["sys_id"],
        )
        [incident] = self.records("incident", f"number={page.rpartition('/')[2]}")
        return incident

    def row_of(self, incident: dict[str, str]) -> dict[str, Any]:
        """The row that began as *incident*, once it is there."""
        found = "SELECT * FROM outages WHERE servicenow_sys_id = %s"
        [row] = wait_for(lambda: self.sql(found, incident["sys_id"]))
        return row


def wait_for(find: Callable[[], Found | None]) -> Found:
    until = time.monotonic() + COME_SECONDS_MAX
    while not (found := find()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with Run() as run:
        yield run


def test_a_row_has_the_number_of_its_incident(run: Run) -> None:
    row = run.open_outage("Checkout is down")

    [incident] = run.records("incident", f"number={row['ticket_number']}")
    assert (incident["short_description"], incident["impact"]) == ("Checkout is down", "2")


def test_what_a_person_changes_there_the_row_says_too(run: Run) -> None:
    row = run.open_outage("Search is slow")

    number = row["ticket_number"]
    run.play(f"{number}/change", impact="1", was_impact="2", short_description="Search is down")
    run.play(f"{number}/resolve", close_code="Solution provided", close_notes="Built the index.")
    changed = wait_for(lambda: new if (new := run.row(row["id"]))["status"] == "fixed" else None)

    assert (changed["title"], changed["severity"]) == ("Search is down", "critical")
    assert changed["resolution"] == "Built the index."


def test_comments_go_both_ways_once(run: Run) -> None:
    row = run.open_outage("Mails are late")
    where = f"element_id={run.records('incident', 'number=' + row['ticket_number'])[0]['sys_id']}"

    run.sql(COMMENT, row["id"], "How long?")
    wait_for(lambda: run.records("sys_journal_field", where))
    run.play(f"{row['ticket_number']}/comment", text="An hour, I think.", kind="comments")
    wait_for(lambda: run.comments(row["id"])[1:])
    run.sql(COMMENT, row["id"], "Thank you.")
    wait_for(lambda: run.records("sys_journal_field", where)[2:])

    assert run.comments(row["id"]) == [
        ("ada", "How long?"),
        ("admin", "An hour, I think."),
        ("ada", "Thank you."),
    ]
    entries = [entry["value"] for entry in run.records("sys_journal_field", where)]
    assert sorted(entry.partition("\n")[0] for entry in entries) == [
        "An hour, I think.",
        "ada: How long?",
        "ada: Thank you.",
    ]


def test_an_incident_that_begins_there_is_a_row_whose_id_is_answered(run: Run) -> None:
    incident = run.open_incident("Prices are wrong")
    row = run.row_of(incident)
    [answer] = wait_for(lambda: run.answers(incident["sys_id"]))

    assert (row["title"], row["details"]) == ("Prices are wrong", "All in cents.")
    assert (row["severity"], row["ticket_number"]) == ("critical", incident["number"])
    assert [outcome["answer"] for outcome in answer["outcomes"] if "answer" in outcome] == [
        row["id"]
    ]


def test_a_row_that_began_there_keeps_its_incident_both_ways(run: Run) -> None:
    incident = run.open_incident("Receipts are blank")
    row = run.row_of(incident)
    ours = f"correlation_id=sandbox:outage:{row['id']}"

    wait_for(lambda: run.records("incident", ours))
    run.sql("UPDATE outages SET title = 'Receipts have no sum' WHERE id = %s", row["id"])
    wait_for(lambda: run.records("incident", f"{ours}^short_description=Receipts have no sum"))
    run.play(
        f"{incident['number']}/resolve", close_code="Solution provided", close_notes="Reprinted."
    )
    fixed = wait_for(lambda: new if (new := run.row(row["id"]))["status"] == "fixed" else None)

    assert fixed["resolution"] == "Reprinted."
    [there] = run.records("incident", "short_descriptionSTARTSWITHReceipts")
    assert (there["number"], there["description"]) == (incident["number"], "All in cents.")
