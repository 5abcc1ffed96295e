"""A command that was taken is done once and answered, whoever is killed on the way."""

import pytest

from function.failpoints import FAILPOINTS, SYNC_FAILPOINTS, Failpoint
from sandbox.slack import TypedCommand
from tests.faults.slack_site import SlackSite

# Where a command is worked, and then the row is told of its ticket.
PLACES = (*FAILPOINTS[1:], *SYNC_FAILPOINTS)


@pytest.fixture
def row(chat: SlackSite) -> int:
    """An outage that has its ticket, and the ticket's number."""
    row = chat.outage()
    chat.settle()
    chat.sync()
    assert chat.row(row)["ticket_number"] == chat.ticket(row)["number"]
    return row


def resolve(chat: SlackSite, row: int) -> TypedCommand:
    return chat.type(f"/ops-resolve {chat.ticket(row)['number']} rolled back")


def final(chat: SlackSite, command: TypedCommand, row: int) -> list[str]:
    """The last words that the person has read; of what takes longer, there are others before."""
    said = f"{chat.ticket(row)['number']} is resolved"
    return [answer.text for answer in command.answers if answer.text == said]


def is_done(chat: SlackSite, row: int) -> bool:
    """The ticket is resolved, once, and the row says so."""
    ticket, said = chat.ticket(row), chat.row(row)
    notes = "rolled back (ada, U0ADA0001)"
    assert (ticket["state"], ticket["close_notes"]) == ("6", notes)
    # It was made, and changed once.
    assert ticket["sys_mod_count"] == "1"
    assert (said["status"], said["resolution"]) == ("fixed", notes)
    assert chat.inbox == []
    return True


def test_a_ticket_of_a_row_is_resolved_from_slack_and_nothing_comes_back(
    chat: SlackSite, row: int
) -> None:
    command = resolve(chat, row)
    chat.until(lambda: final(chat, command, row))
    chat.until(lambda: chat.row(row)["status"] == "fixed")
    chat.settle()

    assert command.shown == "Processing…"
    assert is_done(chat, row)
    assert len(command.answers) == 1
    assert chat.undelivered() == []
    chat.calls()
    assert chat.calls_at_rest() == []
    assert len(chat.tickets(row)) == 1


def test_killed_right_after_the_acknowledgement_hasuras_event_does_it(
    chat: SlackSite, row: int
) -> None:
    killed = chat.order("kill", "accepted")
    command = resolve(chat, row)
    chat.until(killed)
    chat.settle()

    assert is_done(chat, row)
    assert len(final(chat, command, row)) == 1


def test_killed_before_it_is_kept_nothing_is_done(chat: SlackSite, row: int) -> None:
    killed = chat.order("kill", "received")
    command = resolve(chat, row)
    chat.until(killed)
    chat.settle()

    assert (command.status, command.answers, chat.inbox) == (0, [], [])
    assert chat.ticket(row)["state"] == "1"


@pytest.mark.parametrize("place", PLACES)
def test_killed_where_it_is_worked_it_is_done_once_and_answered(
    chat: SlackSite, row: int, place: Failpoint
) -> None:
    killed = chat.order("kill", place)
    command = resolve(chat, row)
    chat.until(killed)
    chat.let_lease_end()
    chat.settle()

    assert is_done(chat, row)
    assert 1 <= len(final(chat, command, row)) <= 2


def test_with_hasuras_engine_killed_holding_it_the_housekeeping_does_it(
    chat: SlackSite, row: int
) -> None:
    stopped = chat.order("stop", "leased")
    command = resolve(chat, row)
    chat.until(stopped)
    for engine in chat.engines:
        engine.kill()
    for function in chat.functions:
        function.kill()
        function.start()
    try:
        chat.let_lease_end()
        chat.housekeep_alone()

        assert final(chat, command, row)
    finally:
        for number in range(len(chat.engines)):
            chat.start_engine(number)
    chat.heal()
    assert is_done(chat, row)
    assert len(final(chat, command, row)) == 1


def test_a_copy_before_while_and_after_it_is_done_changes_nothing(
    chat: SlackSite, row: int
) -> None:
    command = resolve(chat, row)
    chat.send_again(command, function=1)
    chat.settle()
    chat.send_again(command, function=1)
    chat.settle()

    assert is_done(chat, row)
    assert len(command.answers) == 1


def test_the_address_of_an_answer_is_nowhere_but_in_the_inbox_until_it_is_done(
    chat: SlackSite, row: int
) -> None:
    chat.slack.arm("error_500")
    command = resolve(chat, row)
    secret = command.response_url.rpartition("/")[2]
    chat.until(lambda: command.tries)
    chat.until(lambda: chat.sql("SELECT 1 FROM servicenow.delivery WHERE status = 'waiting'"))

    assert chat.places_of(secret) == ["servicenow.inbox"]
    chat.settle()
    assert is_done(chat, row)
    assert chat.places_of(secret) == []


def test_the_first_request_of_a_running_process_is_acknowledged_within_a_second(
    chat: SlackSite, row: int
) -> None:
    chat.functions[1].kill()
    chat.functions[1].start()
    command = chat.type("/ops-status INC0099999", function=1)

    assert (command.status, command.shown) == (200, "Processing…")
    assert command.ack_seconds < 1.0
    chat.settle()
    assert "was not found" in command.answers[0].text
