"""The agent of examples/chatops.yaml, as `make run RULES_FILE=examples/chatops.yaml
PROJECT=examples/chatops` runs it: it is called once for each incident of high priority, and what it
found is resolved from Slack. The commands alone are tried in tests/examples/test_slack.py."""

import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests

from tests.examples.run import ChatRun, wait_for
from tests.processes import HERE

OUTAGE = "INSERT INTO outages (title, details, severity) VALUES (%s, 'In SQL.', %s) RETURNING id"
FINDING = """
mutation Finding($number: String!, $finding: String!) {
  update_outages(where: {ticket_number: {_eq: $number}}, _set: {finding: $finding}) {
    affected_rows
  }
}
"""
STATUS = 'mutation { update_outages(where: {}, _set: {status: "fixed"}) { affected_rows } }'
SETTLE_SECONDS_MAX = 20.0
OPEN = (
    "SELECT id FROM hdb_catalog.event_log WHERE NOT delivered AND NOT error "
    "UNION ALL SELECT id FROM servicenow.inbox WHERE source <> 'ended'"
)


@dataclass(frozen=True)
class Call:
    """What a system got in one request."""

    body: bytes
    headers: dict[str, str]
    status: int
    json: dict[str, Any] = field(default_factory=dict)


class AgentRun(ChatRun):
    """A person in front of ServiceNow's pages and Slack, an agent, and a channel."""

    @property
    def receiver(self) -> str:
        return self.environ["AGENT_URL"].removesuffix("/hooks/agent")

    def post_form(self, action: str, **form: str) -> None:
        answer = requests.post(f"{self.receiver}/systems/agent/{action}", form, timeout=10)
        assert answer.status_code == 200
        assert "said=" not in answer.url

    def requests_at(self, system: str) -> list[Call]:
        told = requests.get(f"{self.receiver}/systems/{system}.json", timeout=10).json()
        return [
            Call(
                body := base64.b64decode(request["body"]),
                {name.lower(): value for name, value in request["headers"]},
                request["status"],
                json.loads(body),
            )
            for request in told["received"]
        ]

    def calls(self, number: str) -> list[Call]:
        """The agent's for one incident; those that it did not take, too."""
        return [call for call in self.requests_at("agent") if call.json["incidentId"] == number]

    def messages(self, number: str) -> list[str]:
        """What the channel was told of one incident."""
        texts = [call.json["text"] for call in self.requests_at("slack-channel")]
        return [text for text in texts if number in text]

    def raise_incident(self, title: str, impact: str, urgency: str) -> dict[str, str]:
        """A new incident of a person's."""
        form = {"description": "Since 08:02.", "impact": impact, "urgency": urgency}
        page = self.play("new", short_description=title, **form)
        [incident] = self.records("incident", f"number={page.rpartition('/')[2]}")
        return incident

    def rows_of(self, incident: dict[str, str]) -> list[dict[str, Any]]:
        """Those that began as *incident*, whether their own events are delivered or not."""
        found = "SELECT * FROM outages WHERE ticket_number = %s OR servicenow_sys_id = %s"
        return self.sql(found, incident["number"], incident["sys_id"])

    def settle(self) -> None:
        """Wait until ServiceNow has told all, the inbox is empty, and every event is delivered."""
        until = time.monotonic() + SETTLE_SECONDS_MAX
        quiet = 0
        while quiet < 3:  # what one event brings, such as a mutation, may bring another one
            quiet = 0 if self.sql(OPEN) or self._untold() else quiet + 1
            assert time.monotonic() < until, self.sql(OPEN)
            time.sleep(0.1)

    def _untold(self) -> int:
        told = requests.get(f"{self.instance}/sandbox/notifications", timeout=10).json()
        return int(told["waiting"])

    def ask(self, query: str, **variables: str) -> dict[str, Any]:
        """The app's GraphQL, as the role `agent`."""
        headers = {
            "x-hasura-admin-secret": self.environ["HASURA_ADMIN_SECRET"],
            "x-hasura-role": "agent",
        }
        asked = {"query": query, "variables": variables}
        url = self.environ["HASURA_GRAPHQL_URL"]
        answer: dict[str, Any] = requests.post(url, json=asked, headers=headers, timeout=10).json()
        return answer

    def find(self, number: str, finding: str) -> None:
        """The agent says what it found."""
        answer = self.ask(FINDING, number=number, finding=finding)
        assert answer == {"data": {"update_outages": {"affected_rows": 1}}}

    def set_faults(self, **shares: float) -> None:
        """How what ServiceNow tells the function arrives."""
        answer = requests.put(f"{self.instance}/sandbox/notifications", json=shares, timeout=10)
        assert answer.status_code == 200

    def rename(self, choice: dict[str, str], label: str) -> None:
        """Give a choice another label, as an administrator of the instance does."""
        answer = requests.patch(
            f"{self.instance}/api/now/table/sys_choice/{choice['sys_id']}",
            json={"label": label},
            auth=(self.environ["SERVICENOW_USERNAME"], self.environ["SERVICENOW_PASSWORD"]),
            timeout=10,
        )
        assert answer.json()["result"]["label"] == label

    def not_delivered(self, incident: dict[str, str]) -> list[dict[str, Any]]:
        """How often Hasura was answered that an event of the row has to come again."""
        return self.sql(
            "SELECT 1 FROM hdb_catalog.event_invocation_logs log JOIN hdb_catalog.event_log event "
            "ON event.id = log.event_id WHERE log.status = 503 "
            "AND event.payload -> 'data' -> 'new' ->> 'ticket_number' = %s",
            incident["number"],
        )

    def sync(self) -> None:
        """What Hasura's cron trigger `servicenow_sync` does every five minutes."""
        command = [sys.executable, "-m", "function", "sync"]
        ran = subprocess.run(
            command, env={**os.environ, **self.environ}, cwd=HERE, capture_output=True, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def work_notes(self, incident: dict[str, str]) -> list[str]:
        where = f"element_id={incident['sys_id']}^element=work_notes^ORDERBYsys_created_on"
        return [entry["value"] for entry in self.records("sys_journal_field", where)]


@pytest.fixture(scope="module")
def run() -> Iterator[AgentRun]:
    with AgentRun() as run:
        yield run


def test_the_run_lists_what_to_try_with_the_agent(run: AgentRun) -> None:
    assert f"{run.receiver}/systems/agent\n" in run.printed
    assert f"{run.receiver}/systems/slack-channel\n" in run.printed
    assert f"   {run.instance}/incidents/new\n" in run.printed
    assert "x-hasura-role: agent" in run.printed
    assert "${" not in run.printed


@pytest.mark.parametrize(
    ("impact", "urgency", "priority", "told"),
    [("1", "1", "1", "CRITICAL"), ("1", "2", "2", "HIGH"), ("2", "1", "2", "HIGH")],
)
def test_an_incident_of_high_priority_is_a_row_and_the_agent_is_called_once(
    run: AgentRun, impact: str, urgency: str, priority: str, told: str
) -> None:
    incident = run.raise_incident("Payments & refunds <fail>", impact, urgency)
    [call] = wait_for(lambda: run.calls(incident["number"]))
    run.settle()

    [row] = run.rows_of(incident)
    assert (row["priority"], row["servicenow_sys_id"]) == (priority, incident["sys_id"])
    timestamp = call.json.pop("timestamp")
    assert timestamp.endswith("Z")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(timestamp)) < timedelta(minutes=1)
    assert len(call.json["data"].pop("correlation_id")) > 8
    assert call.json == {
        "eventType": "incident",
        "incidentId": incident["number"],
        "action": "created",
        "priority": told,
        "title": f"{incident['number']}: Payments & refunds <fail>",
        "description": "Since 08:02.",
        "service": "unknown",
        "data": {"outage": row["id"], "severity": row["severity"]},
    }
    assert len(run.calls(incident["number"])) == 1


@pytest.mark.parametrize(("impact", "urgency"), [("2", "2"), ("1", "3"), ("3", "3")])
def test_for_an_incident_of_another_priority_there_is_no_row_and_nobody_is_called(
    run: AgentRun, impact: str, urgency: str
) -> None:
    incident = run.raise_incident("The page is slow", impact, urgency)
    run.settle()

    assert incident["priority"] not in {"1", "2"}
    assert run.rows_of(incident) == []
    assert run.calls(incident["number"]) == []


def test_it_is_the_value_of_a_priority_that_counts_and_not_what_people_read(run: AgentRun) -> None:
    [choice] = run.records("sys_choice", "name=incident^element=priority^value=1")
    [moderate] = run.records("sys_choice", "name=incident^element=priority^value=3")
    run.rename(choice, "P1 - Kritisch")
    run.rename(moderate, "1 - Critical")
    try:
        urgent = run.raise_incident("Logins fail", "1", "1")
        slow = run.raise_incident("Logins are slow", "2", "2")
        run.settle()
        run.type(f"/ops-status {urgent['number']}")
        run.type(f"/ops-status {slow['number']}")
        read = [run.answer_to(f"/ops-status {one['number']}") for one in (urgent, slow)]
    finally:
        run.rename(choice, choice["label"])
        run.rename(moderate, moderate["label"])

    assert "priority P1 - Kritisch" in read[0]
    assert "priority 1 - Critical" in read[1]
    assert len(run.calls(urgent["number"])) == 1
    assert run.calls(slow["number"]) == []


def test_the_call_has_the_signature_that_an_independent_hmac_gives(run: AgentRun) -> None:
    incident = run.raise_incident("Müller's “mail” is 📭", "1", "1")
    [call] = wait_for(lambda: run.calls(incident["number"]))

    at = call.headers["x-amzn-event-timestamp"]
    signed = at.encode() + b":" + call.body
    mac = hmac.new(run.environ["AGENT_SECRET"].encode(), signed, hashlib.sha256)
    assert call.headers["x-amzn-event-signature"] == base64.b64encode(mac.digest()).decode()
    assert call.headers["content-type"] == "application/json"
    assert call.json["title"].endswith(": Müller's “mail” is 📭")


def test_a_notification_that_comes_twice_and_events_that_come_again_are_one_call(
    run: AgentRun,
) -> None:
    run.set_faults(duplicate=1.0)
    try:
        incident = run.raise_incident("Search is empty", "1", "1")
        wait_for(lambda: run.answers(incident["sys_id"])[1:])
    finally:
        run.set_faults(duplicate=0.0)
    run.settle()
    again = "UPDATE hdb_catalog.event_log SET delivered = false, tries = 0 WHERE {} RETURNING id"
    of_row = "payload -> 'data' -> 'new' ->> 'ticket_number' = %s"
    events = run.sql(again.format(of_row), incident["number"])
    run.settle()

    answers = run.sql(
        "SELECT status FROM hdb_catalog.event_invocation_logs WHERE event_id = ANY(%s)",
        [event["id"] for event in events],
    )
    assert [answer["status"] for answer in answers] == [200] * 2 * len(events)
    assert len(run.rows_of(incident)) == 1
    assert len(run.calls(incident["number"])) == 1


def test_an_agent_that_is_down_gets_one_call_when_it_is_up_again(run: AgentRun) -> None:
    run.post_form("arm", kind="down")
    try:
        incident = run.raise_incident("Exports hang", "1", "1")
        wait_for(lambda: run.not_delivered(incident))
        while_down = run.calls(incident["number"])
    finally:
        run.post_form("disarm", kind="down")
    wait_for(lambda: run.calls(incident["number"]))
    run.settle()

    assert while_down == []
    assert len(run.calls(incident["number"])) == 1


def test_a_call_whose_answer_is_lost_comes_again_as_the_same_one(run: AgentRun) -> None:
    run.post_form("arm", kind="reset", times="1")
    incident = run.raise_incident("Imports hang", "1", "1")
    wait_for(lambda: run.calls(incident["number"])[1:])
    run.settle()

    lost, taken = run.calls(incident["number"])
    assert (lost.status, taken.status) == (0, 200)
    assert lost.headers["webhook-id"] == taken.headers["webhook-id"]
    assert lost.body == taken.body


def test_an_incident_that_is_raised_later_calls_the_agent_then_and_only_once(run: AgentRun) -> None:
    incident = run.raise_incident("Reports are late", "3", "3")
    run.settle()
    before = run.calls(incident["number"])
    number = incident["number"]
    run.play(f"{number}/change", impact="1", was_impact="3", urgency="1", was_urgency="3")
    wait_for(lambda: run.calls(number))
    run.settle()
    run.play(f"{number}/change", impact="3", was_impact="1")
    run.settle()
    run.play(f"{number}/change", impact="1", was_impact="3")
    run.settle()

    assert before == []
    [call] = run.calls(number)
    assert call.json["priority"] == "CRITICAL"


def test_an_outage_of_the_app_has_one_incident_and_one_call(run: AgentRun) -> None:
    [made] = run.sql(OUTAGE, "Checkout is down", "critical")
    row = wait_for(lambda: new if (new := run.row(made["id"]))["priority"] else None)
    run.settle()

    assert (row["priority"], row["servicenow_sys_id"]) == ("1", None)
    assert len(run.records("incident", "short_description=Checkout is down")) == 1
    assert len(run.sql("SELECT 1 FROM outages WHERE title = 'Checkout is down'")) == 1
    [call] = run.calls(row["ticket_number"])
    assert (call.json["priority"], call.json["data"]["outage"]) == ("CRITICAL", row["id"])


def test_an_outage_whose_incident_a_person_raises_calls_the_agent_then_and_only_once(
    run: AgentRun,
) -> None:
    number = run.open_outage("Invoices are wrong")["ticket_number"]
    run.settle()
    before = run.calls(number)
    run.play(f"{number}/change", urgency="1", was_urgency="2")
    wait_for(lambda: run.calls(number))
    run.settle()
    run.play(f"{number}/change", urgency="2", was_urgency="1")
    run.settle()
    run.play(f"{number}/change", impact="1", was_impact="2", urgency="1", was_urgency="2")
    run.settle()

    assert before == []
    [call] = run.calls(number)
    assert call.json["priority"] == "HIGH"


def test_an_outage_of_the_app_that_is_made_worse_calls_the_agent_then_and_only_once(
    run: AgentRun,
) -> None:
    [made] = run.sql(OUTAGE, "Refunds are slow", "major")
    row = wait_for(lambda: new if (new := run.row(made["id"]))["ticket_number"] else None)
    run.settle()
    before = run.calls(row["ticket_number"])
    for severity in ("critical", "minor", "critical"):
        run.sql("UPDATE outages SET severity = %s WHERE id = %s", severity, row["id"])
        run.settle()
        run.sync()
        run.settle()

    assert (before, row["priority"]) == ([], None)
    assert len(run.calls(row["ticket_number"])) == 1


def test_what_the_agent_found_is_resolved_from_slack_and_nobody_is_called_again(
    run: AgentRun,
) -> None:
    incident = run.raise_incident("Uploads fail", "1", "1")
    number = incident["number"]
    wait_for(lambda: run.calls(number))
    run.settle()
    run.find(number, "The disk of <node-7> is full & read-only.")
    [message] = wait_for(lambda: run.messages(number))
    [note] = wait_for(lambda: run.work_notes(incident))
    run.type(f"/ops-resolve {number} freed the disk")
    resolved = run.answer_to(f"/ops-resolve {number} freed the disk")
    row = wait_for(lambda: new if (new := run.rows_of(incident)[0])["status"] == "fixed" else None)
    run.settle()

    assert message == (
        f"Uploads fail ({number}): The disk of &lt;node-7&gt; is full &amp; read-only. "
        f"To resolve it: /ops-resolve {number}"
    )
    assert note.startswith("The agent found: The disk of <node-7> is full & read-only.\n[hasura:")
    assert resolved == f"all in the channel: {number} is resolved by ada: Uploads fail"
    assert row["resolution"] == "freed the disk (in Slack by ada, U0ADA0001)"
    [there] = run.records("incident", f"number={number}")
    assert (there["state"], there["correlation_id"]) == ("6", f"sandbox:outage:{row['id']}")
    assert len(run.work_notes(incident)) == 1
    assert len(run.messages(number)) == 1
    assert len(run.calls(number)) == 1
    assert len(run.rows_of(incident)) == 1


def test_a_finding_for_an_outage_of_the_app_is_a_work_note_of_its_incident(run: AgentRun) -> None:
    [made] = run.sql(OUTAGE, "Mails are late", "critical")
    row = wait_for(lambda: new if (new := run.row(made["id"]))["priority"] else None)
    run.settle()
    run.find(row["ticket_number"], "The queue is stuck.")
    [incident] = run.records("incident", f"number={row['ticket_number']}")
    [note] = wait_for(lambda: run.work_notes(incident))

    assert note.startswith("The agent found: The queue is stuck.")


def test_the_agent_may_write_what_it_found_and_nothing_else(run: AgentRun) -> None:
    outage = run.open_outage("Not called for")
    untouched = run.ask(FINDING, number=outage["ticket_number"], finding="Of no concern.")
    refused = run.ask(STATUS)

    assert untouched == {"data": {"update_outages": {"affected_rows": 0}}}
    assert "field 'status' not found" in refused["errors"][0]["message"]
    assert run.row(outage["id"])["finding"] is None
