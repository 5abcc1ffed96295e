"""What the inbox keeps of commands, and what their people are told in the end; in this process."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.slack.desk import RULES, SlackWorld

REPLY = 'reply: "{{ ticket.number }} is resolved"'
# What goes with the state cannot be said.
BROKEN = RULES.replace("notes or 'Resolved in Slack'", "ticket.nowhere")
LATER = (
    "It cannot be done just now. It is tried again for up to 25 minutes; you hear what became of "
    "it."
)


# The reply


def test_a_reply_that_says_nothing_says_that_it_is_done() -> None:
    rules = RULES.replace(REPLY, 'reply: " {{ ticket.description }} "')
    with SlackWorld(rules=rules) as world:
        number = world.open_incident()["number"]

        assert world.run(f"/ops-resolve {number}") == [f"{number} is resolved."]


def test_what_was_found_too_late_is_not_laid_to_servicenow() -> None:
    with SlackWorld() as world:
        number = world.open_incident()["number"]
        command = world.type(f"/ops-resolve {number}")
        world.clock.advance(26 * 60)
        world.work()

        assert [answer.text for answer in command.answers] == [
            f"Not done: it did not succeed within 25 minutes, and {number} was given up. "
            "Try again later."
        ]


def test_a_fault_of_the_functions_own_is_not_laid_to_servicenow() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        target: Any = world.apps[0].engine.targets["command"]
        target._ledger = None  # whatever breaks
        world.work()

        assert [answer.text for answer in command.answers] == [LATER]


def test_a_wrong_password_is_not_told_as_servicenow_that_does_not_answer() -> None:
    with SlackWorld(SERVICENOW_PASSWORD="planted-password-of-before") as world:
        command = world.type("/ops-status INC0010001")
        world.work()

        assert [answer.text for answer in command.answers] == [LATER]


def test_a_ticket_that_is_set_back_is_not_told_as_left_alone() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.overrides["state"] = "2"

        assert world.run(f"/ops-resolve {incident['number']}") == [
            f"Not done: ServiceNow took the change, but {incident['number']} is not resolved. "
            "Its close notes may have been written."
        ]
        assert world.row(incident)["close_notes"]


def test_of_a_reply_that_may_have_arrived_nobody_says_that_it_has_not() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.slack.arm("taken_then_reset", 5)
        for _ in range(6):
            world.work()
            world.clock.advance(60)

        assert (len(command.answers), command.tries[-1]) == (5, 404)
        [mail] = world.mails
        assert "may not have heard what became of the command" in " ".join(
            mail.get_content().split()
        )


# What is taken


def test_slacks_check_of_the_certificate_is_answered_as_a_get_and_as_a_post() -> None:
    with SlackWorld() as world:
        assert world.request("GET", "/slack?ssl_check=1&token=x").status == 200
        assert world.post(b"token=x&ssl_check=1", {})[0] == 200
        assert world.request("GET", "/slack?token=x").status == 405


def test_a_command_that_says_that_it_is_a_check_is_a_command_all_the_same() -> None:
    with SlackWorld() as world:
        command = world.type("/ops-status INC0010001", ssl_check="1")

        assert (command.status, command.shown, len(world.inbox)) == (200, "Processing…", 1)
        assert world.post(command.body, {})[0] == 401


# Once, and what was told stays true


def test_what_was_told_as_not_done_is_not_done_after_a_deployment() -> None:
    with SlackWorld(rules=BROKEN) as world:
        incident = world.open_incident()
        command = world.type(f"/ops-resolve {incident['number']}")
        kept = world.inbox[0]
        world.work()
        # As it is where the function is killed after the person was told.
        world.query(
            "INSERT INTO servicenow.inbox (id, source, subject, body, notified, received, due_at) "
            "VALUES (:id, :source, :subject, :body, 1, :received, 0) "
            "ON CONFLICT (id) DO UPDATE SET source = :source, body = :body",
            **{name: kept[name] for name in ("id", "source", "subject", "body", "received")},
        )
        world.start(rules=RULES)
        world.work()

        assert len(command.answers) == 1
        assert command.answers[0].text.startswith("Not done: ")
        assert world.row(incident)["state"] == "1"
        assert world.inbox == []


def test_a_reply_that_waited_is_said_after_a_deployment() -> None:
    with SlackWorld(rules=BROKEN) as world:
        incident = world.open_incident()
        command = world.type(f"/ops-resolve {incident['number']}")
        world.slack.arm("error_500")
        world.work()
        world.clock.advance(60)
        world.start(rules=RULES)
        world.work()

        assert [answer.text[:10] for answer in command.answers] == ["Not done: "]
        assert world.row(incident)["state"] == "1"


def test_a_copy_after_a_deployment_does_not_do_what_was_told_as_not_done() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        command = world.type(f"/ops-resolve {incident['number']}")
        world.start(rules=RULES.replace("slack/ops-resolve", "slack/ops-close"))
        world.clock.advance(300)
        world.work()
        world.start(rules=RULES)
        world.post(command.body, command.headers)
        world.work()

        assert "nothing was done" in command.answers[0].text
        assert (len(command.answers), world.row(incident)["state"]) == (1, "1")


def test_of_a_command_that_is_over_its_id_is_left_for_as_long_as_a_copy_is_taken() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.work()
        [left] = world.query("SELECT * FROM servicenow.inbox")
        world.clock.advance(14 * 60)
        world.apps[0].housekeeping.run()
        kept = world.query("SELECT * FROM servicenow.inbox")
        world.clock.advance(2 * 60)
        world.apps[0].housekeeping.run()

        assert (left["source"], left["body"]) == ("ended", "")
        assert kept == [left]
        assert world.query("SELECT * FROM servicenow.inbox") == []
        assert len(command.answers) == 1


def test_the_last_word_is_the_final_one_where_the_interim_word_is_slow() -> None:
    with SlackWorld(instances=2) as world:
        number = world.open_incident()["number"]
        command = world.type(f"/ops-resolve {number}")
        [identity] = [entry["id"] for entry in world.inbox]
        world.servicenow.arm("unavailable_503", times=1)
        world.slack.arm("late")
        with ThreadPoolExecutor(1) as threads:
            first = threads.submit(world.bring, identity)
            while world.slack.armed:
                time.sleep(0.01)
            world.clock.advance(40)
            world.apps[1].housekeeping.run()
            first.result()
        world.clock.advance(60)
        world.apps[1].housekeeping.run()

        assert [answer.text for answer in command.answers][1:] == [f"{number} is resolved"]
        assert world.inbox == []


# What is refused when it is worked


OTHER_COMMANDS = RULES.replace("slack/ops-resolve", "slack/ops-close")


def test_a_command_without_a_rule_is_told_so_though_slack_fails_once() -> None:
    with SlackWorld() as world:
        command = world.type("/ops-resolve INC0010001")
        world.start(rules=OTHER_COMMANDS)
        world.clock.advance(200)
        world.slack.arm("error_500")
        [first] = world.work()
        world.clock.advance(30)
        # A rule that comes back changes nothing of what its person may have read.
        world.start(rules=RULES)
        [second] = world.work()

        assert (first.status, command.tries) == (503, [500, 200])
        assert (second.status, second.said) == (422, "dead no_rule")
        assert "nothing was done" in command.answers[0].text
        assert (world.inbox, world.calls()) == ([], [])
        assert "no_rule" in str(world.ledger.deliveries.dead_letters())


def test_a_command_that_only_a_newer_revision_knows_waits_for_it() -> None:
    with SlackWorld() as world:
        number = world.open_incident()["number"]
        command = world.type(f"/ops-resolve {number}")
        world.start(rules=OTHER_COMMANDS)
        [first] = world.work()
        world.start(rules=RULES)
        world.work()

        assert (first.status, first.retry_after) == (503, 10)
        assert [answer.text for answer in command.answers] == [f"{number} is resolved"]


def test_of_a_command_that_was_done_nobody_reads_that_nothing_was_done() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.slack.arm("error_500")
        world.work()
        world.start(rules=OTHER_COMMANDS)
        world.clock.advance(200)
        world.work()

        assert world.incident["state"] == "6"
        assert [answer.text for answer in command.answers] == [
            "/ops-resolve is not set up any more. It may be done: look before you do it again."
        ]


def test_a_person_who_may_not_any_more_is_refused_when_the_command_is_worked() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.start(SLACK_ALLOWED_USERS="U0BOB0001")
        [answered] = world.work()

        assert (answered.status, answered.said) == (200, "skipped command_not_allowed")
        assert "You may not" in command.answers[0].text
        assert (world.incident["state"], world.inbox, world.calls()) == ("1", [], [])


def test_a_person_who_may_not_any_more_is_refused_while_servicenow_is_down() -> None:
    with SlackWorld() as world:
        command = world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.servicenow.arm("unavailable_503", times=1)
        world.work()
        world.start(SLACK_ALLOWED_USERS="U0BOB0001")
        world.clock.advance(60)
        world.work()
        waiting = world.query("SELECT * FROM servicenow.delivery WHERE status = 'waiting'")

        assert "You may not" in command.answers[-1].text
        assert (world.incident["state"], world.inbox, waiting) == ("1", [], [])


def test_what_was_sent_is_looked_for_though_the_person_may_not_any_more() -> None:
    with SlackWorld() as world:
        number = world.open_incident()["number"]
        command = world.type(f"/ops-resolve {number}")
        world.servicenow.arm("commit_then_reset", times=1, method="PATCH")
        world.work()
        world.start(SLACK_ALLOWED_USERS="U0BOB0001")
        world.clock.advance(60)
        world.work()

        assert command.answers[-1].text == f"{number} is resolved"


def test_a_command_that_cannot_be_read_goes_when_nobody_can_be_answered_any_more() -> None:
    with SlackWorld() as world:
        world.type("/ops-resolve INC0010001")
        world.query("UPDATE servicenow.inbox SET body = :body", body='{"version": 2}')
        world.clock.advance(60)
        world.apps[0].housekeeping.run()
        kept = world.inbox
        world.clock.advance(30 * 60)
        world.apps[0].housekeeping.run()

        assert len(kept) == 1
        assert world.inbox == []
        assert world.query("SELECT body FROM servicenow.inbox") == [{"body": ""}]
