"""The sandbox's Slack, held to what is documented of Slack."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs

import pytest
import requests
from slack_sdk.signature import SignatureVerifier

from sandbox.loopback import Loopback
from sandbox.slack import FAULTS, TEAM, Slack, TypedCommand


class Receiver:
    """Somebody who takes commands: *bodies* came, with *headers*."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((body, dict(self.headers.items())))
                answer = json.dumps({"text": "Taken &amp; &lt;kept&gt;"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = Loopback("the receiver", 0, Handler)
        self._server.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}/slack"

    def stop(self) -> None:
        self._server.stop()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slack(clock: Clock) -> Iterator[Slack]:
    with Slack(clock=clock) as slack:
        yield slack


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture
def command(slack: Slack, receiver: Receiver) -> TypedCommand:
    return slack.type(receiver.url, "/ops-status INC0010001 now")


def answer(command: TypedCommand, body: object = None) -> requests.Response:
    return requests.post(
        command.response_url,
        json={"text": "Done"} if body is None else body,
        timeout=5,
        allow_redirects=False,
    )


def test_a_command_is_signed_as_slacks_own_library_verifies(
    slack: Slack, receiver: Receiver, command: TypedCommand
) -> None:
    [(body, headers)] = receiver.requests

    assert SignatureVerifier(slack.signing_secret).is_valid_request(body, headers)
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_a_command_has_the_fields_that_slack_sends(
    receiver: Receiver, command: TypedCommand
) -> None:
    form = parse_qs(receiver.requests[0][0].decode())

    assert (form["command"], form["text"]) == (["/ops-status"], ["INC0010001 now"])
    assert form["team_id"] == [TEAM]
    assert {"user_id", "user_name", "channel_id", "response_url", "trigger_id"} <= form.keys()


def test_what_is_answered_at_once_is_shown_as_people_read_it(command: TypedCommand) -> None:
    assert (command.status, command.shown) == (200, "Taken & <kept>")


def test_nobody_who_answers_is_no_answer(slack: Slack) -> None:
    assert slack.type("http://127.0.0.1:1/slack", "/ops-status x").status == 0


def test_an_answer_is_for_the_person_unless_it_says_the_channel(command: TypedCommand) -> None:
    answer(command)
    answer(command, {"text": "For all", "response_type": "in_channel"})

    assert [(one.text, one.in_channel) for one in command.answers] == [
        ("Done", False),
        ("For all", True),
    ]


def test_an_answer_is_taken_five_times_and_no_more(command: TypedCommand) -> None:
    statuses = [answer(command).status_code for _ in range(6)]

    assert statuses == [200] * 5 + [404]
    assert len(command.answers) == 5


def test_an_answer_is_taken_for_thirty_minutes_and_no_longer(
    clock: Clock, command: TypedCommand
) -> None:
    clock.now += 1799
    assert answer(command).status_code == 200
    clock.now += 2

    assert (answer(command).status_code, answer(command).text) == (404, "expired_url")


def test_an_address_that_it_has_not_given_takes_nothing(slack: Slack) -> None:
    assert requests.post(f"{slack.url}/commands/T1/2/3", json={}, timeout=5).status_code == 404


@pytest.mark.parametrize("body", [[], "x", {"text": ""}, {"text": 1}, {"blocks": []}])
def test_what_is_no_message_is_refused_and_costs_no_use(
    command: TypedCommand, body: object
) -> None:
    assert answer(command, body).status_code == 400
    assert (command.uses, command.answers) == (0, [])


@pytest.mark.parametrize("fault", sorted({*FAULTS} - {"hang", "reset", "late"}))
def test_a_fault_meets_the_next_answer_alone(
    slack: Slack, command: TypedCommand, fault: str
) -> None:
    slack.arm(fault)
    try:
        status = answer(command).status_code
    except requests.ConnectionError:
        status = 0

    assert status != 200
    assert len(command.answers) == fault.startswith("taken")
    assert answer(command).status_code == 200
    assert slack.armed == ()


def test_a_reset_is_no_answer(slack: Slack, command: TypedCommand) -> None:
    slack.arm("reset")

    with pytest.raises(requests.ConnectionError):
        answer(command)
    assert command.tries == [0]


def test_a_hanging_slack_lets_go_when_it_stops(clock: Clock, receiver: Receiver) -> None:
    with Slack(clock=clock) as slack:
        command = slack.type(receiver.url, "/ops-status x")
        slack.arm("hang")
        with pytest.raises(requests.RequestException):
            requests.post(command.response_url, json={"text": "x"}, timeout=0.2)

    assert command.answers == []


def test_who_would_be_pinged_is_seen(command: TypedCommand) -> None:
    answer(command, {"text": "<!channel> &lt;!here&gt; <https://evil.example|x>"})

    assert command.answers[0].mentions == ["!channel", "https://evil.example|x"]


def test_a_form_of_another_site_types_nothing(slack: Slack) -> None:
    refused = requests.post(
        f"{slack.url}/",
        data={"text": "/x"},
        headers={"Origin": "https://evil.example"},
        timeout=5,
    )

    assert (refused.status_code, slack.commands) == (403, [])


def test_what_is_no_command_is_said_on_the_page(slack: Slack) -> None:
    page = requests.post(f"{slack.url}/", data={"text": "hello"}, timeout=5)

    assert "a command begins with a slash" in page.text
    assert slack.commands == []


def test_what_was_typed_and_answered_stands_on_the_page_escaped(
    slack: Slack, command: TypedCommand
) -> None:
    answer(command, {"text": "&lt;b&gt; it is"})
    page = requests.get(f"{slack.url}/", timeout=5).text

    assert "/ops-status INC0010001 now" in page
    assert "&lt;b&gt; it is" in page
