"""examples/chatops.yaml, as `make run RULES_FILE=examples/chatops.yaml PROJECT=examples/chatops`
runs it: a person types commands on the page of the sandbox's Slack."""

import re
from collections.abc import Iterator
from html import unescape

import pytest
import requests

from tests.two_way.test_example import Run, wait_for


class ChatRun(Run):
    """A person in front of the sandbox's Slack."""

    def __init__(self) -> None:
        super().__init__("chatops")

    @property
    def chat(self) -> str:
        return self.environ["SLACK_SANDBOX_URL"]

    def type(self, text: str) -> None:
        answer = requests.post(f"{self.chat}/", data={"text": text}, timeout=10)
        assert answer.status_code == 200

    def read(self, text: str) -> list[str]:
        """What the page shows under the newest command *text*: at once, and later."""
        page = requests.get(f"{self.chat}/", timeout=10).text
        [_, entry, *_] = page.split(f'<span class="id">{text}</span>')
        shown = re.findall(
            r'<div class="reply"><span class="dim">(.*?)</span>(.*?)</div>',
            entry.partition('<div class="entry')[0],
            re.DOTALL,
        )
        return [unescape(f"{to.partition(' · ')[0]}: {words.strip()}") for to, words in shown]

    def answer_to(self, text: str) -> str:
        """What comes after the acknowledgement."""
        return wait_for(lambda: self.read(text)[1:])[0]


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
