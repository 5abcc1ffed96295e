"""What the inbox keeps of commands, and what their people are told in the end; in this process."""

from tests.slack.desk import RULES, SlackWorld

REPLY = 'reply: "{{ ticket.number }} is resolved"'


# The reply


def test_a_reply_that_says_nothing_says_that_it_is_done() -> None:
    rules = RULES.replace(REPLY, 'reply: " {{ ticket.description }} "')
    with SlackWorld(rules=rules) as world:
        number = world.open_incident()["number"]

        assert world.run(f"/ops-resolve {number}") == [f"{number} is resolved."]
