"""examples/chatops.yaml, as `make run RULES_FILE=examples/chatops.yaml PROJECT=examples/chatops`
runs it: a person types commands on the page of the sandbox's Slack."""

from collections.abc import Iterator

import pytest
import requests

from tests.examples.run import ChatRun, wait_for


@pytest.fixture(scope="module")
def run() -> Iterator[ChatRun]:
    with ChatRun() as run:
        yield run


def test_the_run_lists_the_commands_that_can_be_typed(run: ChatRun) -> None:
    assert "/ops-resolve INC0012345 [notes]\n" in run.printed
    assert "/ops-status INC0012345\n" in run.printed
    assert f"{run.chat}/" in run.printed


def test_an_incident_of_a_row_is_looked_up_and_resolved_and_the_row_says_so(run: ChatRun) -> None:
    row = run.open_outage("Checkout is down")
    number = row["ticket_number"]

    run.type(f"/ops-status {number.lower()}")
    status = run.answer_to(f"/ops-status {number.lower()}")
    run.type(f"/ops-resolve {number} rolled back")
    resolved = run.answer_to(f"/ops-resolve {number} rolled back")
    fixed = wait_for(lambda: new if (new := run.row(row["id"]))["status"] == "fixed" else None)

    assert run.read(f"/ops-status {number.lower()}")[0] == "only you: Processing…"
    assert status == (
        f"only you: {number} is New, priority 3 - Moderate, assigned to nobody: Checkout is down"
    )
    assert resolved == f"all in the channel: {number} is resolved by ada: Checkout is down"
    assert fixed["resolution"] == "rolled back (in Slack by ada, U0ADA0001)"
    [incident] = run.records("incident", f"number={number}")
    assert (incident["state"], incident["close_code"]) == ("6", "Solution provided")


def test_what_is_not_understood_is_told_on_the_page(run: ChatRun) -> None:
    run.type("/ops-resolve help")

    assert run.answer_to("/ops-resolve help") == "only you: Usage: /ops-resolve INC0012345 [notes]"


def test_a_command_that_no_rule_is_for_is_refused_at_once(run: ChatRun) -> None:
    run.type("/ops-close INC0010001")

    assert run.read("/ops-close INC0010001") == [
        "only you: /ops-close is not set up: no rule is for it."
    ]


def test_a_fault_is_switched_on_on_the_page(run: ChatRun) -> None:
    requests.post(f"{run.chat}/", data={"do": "arm", "name": "error_500", "times": "1"}, timeout=10)
    assert "error_500: 1" in requests.get(f"{run.chat}/", timeout=10).text
    run.type("/ops-status INC0077777")

    assert "was not found" in run.answer_to("/ops-status INC0077777")
    assert "no fault is on" in requests.get(f"{run.chat}/", timeout=10).text
