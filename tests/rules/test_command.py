"""Rules from slack/COMMAND: which ticket a command names, who may give it, and what is refused in
the file."""

import pytest

from function.rules.command import (
    CommandAllowance,
    NamedTicket,
    command_of,
    parse_ticket,
    rules_with_commands,
    write_usage,
)
from function.rules.loader import RulesError, load_rules
from function.rules.reply import reply_of

RULES = """version: 1
rules:
  - name: close
    from: slack/close
    ticket:
      number: "{{ row.text }}"
      resolve_when: true
      close_notes: "{{ notes }}"
    reply: "{{ ticket.number }} is {{ shown['assigned_to.name'] }}'s"
"""


@pytest.mark.parametrize(
    "text",
    [
        "INC0012345",
        "inc0012345",
        "  Inc0012345\t",
        "INC 0012345",
        "\u00a0INC0012345\u00a0",
        "<https://dev1.service-now.com/incident.do?sys_id=1|INC0012345>",
        "<https://dev1.service-now.com/x?a=1&amp;b=2|inc0012345>",
    ],
)
def test_a_number_is_understood_however_people_write_it(text: str) -> None:
    assert parse_ticket(text) == NamedTicket("INC0012345", "")


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("INC0012345 restarted it", "restarted it"),
        ("inc0012345   a  b ", "a  b"),
        ("INC0012345 x &lt;b&gt; &amp; &amp;lt;", "x <b> & &lt;"),
        ("<https://a.example|INC0012345> done", "done"),
        ("INC0012345 as in INC0012346", "as in INC0012346"),
        ("INC0012345\nof two lines", "of two lines"),
        ("INC0012345 and restarted it", "and restarted it"),
        ("INC0012345 cleared 5000 rows", "cleared 5000 rows"),
        ("INC0012345 INC0012346x", "INC0012346x"),
    ],
)
def test_what_follows_the_number_are_the_notes(text: str, notes: str) -> None:
    assert parse_ticket(text) == NamedTicket("INC0012345", notes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "help",
        "INC",
        "0012345",
        "INC12",
        "INC0012345 INC0012346",
        "INC0012345 <https://a.example|INC0012346>",
        "INC0012345,INC0012346",
        "INC0012345, INC0012346",
        "INC0012345 INC0012346.",
        "INC0012345 INC0012346, please",
        "INC0012345 and INC0012346",
        "INC0012345 AND inc 0012346 too",
        "INC0012345 &amp; INC0012346",
        "INC0012345 , INC0012346",
        "INC0012345 and <https://a.example|INC0012346>, please",
        "help 2024",
        "please 1234",
        "incident 0010001",
        "ticket 0010001",
        "INC1^ORactive=true",
        "INC0012345^ORactive=true",
        "INC0012345^",
        "ÍNC0012345",
        "INC００１２３４５",
        "<!channel>",
        "<@U0123ABCD>",
        "<https://a.example>",
        "<https://a.example|no number>",
        "<javascript:x|INC0012345>",
        "please close INC0012345",
        "x" * 4000,
        "INC0012345 " + "x" * 4000,
        "INC" + "0" * 4000,
    ],
)
def test_anything_else_is_not_understood(text: str) -> None:
    assert parse_ticket(text) is None


def test_a_rule_reads_as_a_command_and_a_reply_after_it() -> None:
    command, reply = load_rules(RULES, environ={}).rules

    assert (command.id, command.target.kind, command.after) == ("close", "command", "")
    assert (reply.id, reply.target.kind, reply.after) == ("close", "reply", "command")
    assert command_of(command).columns == {"number", "assigned_to.name"}
    assert write_usage(command_of(command)) == "/close INC0012345 [notes]"
    assert not reply_of(reply).in_channel


def test_without_a_ticket_there_is_nothing_to_look_up() -> None:
    text = "version: 1\nrules: [{name: a, from: slack/hi, reply: {text: Hi, in_channel: true}}]"
    command, reply = load_rules(text, environ={}).rules

    assert (command_of(command).table, write_usage(command_of(command))) == ("", "/hi")
    assert reply_of(reply).in_channel


def test_who_is_not_named_may_not() -> None:
    both = CommandAllowance(frozenset({"U1"}), frozenset({"C1"}))

    assert both.permits("U1", "C1")
    assert not both.permits("U2", "C1")
    assert not both.permits("U1", "C2")
    assert CommandAllowance().permits("U9", "C9")


def rule(line: str) -> str:
    return f"version: 1\nrules:\n  - name: a\n    from: slack/a\n    reply: x\n    {line}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rule("").replace("    reply: x\n", ""), "rules[0].reply: is missing"),
        (rule("each: row.x"), "rules[0].each: is for rules from hasura/"),
        (rule("ops: [INSERT]"), "rules[0].ops: is for rules from hasura/"),
        (rule("trigger: t"), "rules[0].trigger: is for rules from hasura/"),
        (rule("note: {}"), "rules[0].note: is for rules from hasura/"),
        (rule("post: {}"), "rules[0].post: is for rules from hasura/"),
        (rule("data: {}"), "rules[0].data: is fetched for a `post`"),
        (rule("type: a"), "rules[0].type: is for rules from hasura/"),
        (rule("mutate: {}"), "rules[0].mutate: is for rules from servicenow/TABLE"),
        (rule("ticket: {}"), "rules[0].ticket.number: is missing"),
        (rule("ticket: {key: x}"), "rules[0].ticket.key: there is no such key"),
        (
            rule('ticket: {table: Incident, number: "{{ row.text }}"}'),
            "rules[0].ticket.table: is not the name of a table",
        ),
        (
            rule('ticket: {table: change_request, number: "{{ row.text }}", resolve_when: true}'),
            "rules[0].ticket.resolve_when: a command resolves incidents",
        ),
        (
            rule('ticket: {table: problem, number: "{{ row.text }}", resolve_when: true}'),
            "rules[0].ticket.resolve_when: a command resolves incidents",
        ),
        (
            rule('ticket: {number: "{{ row.text }}", close_notes: x}'),
            "rules[0].ticket.close_notes: goes with `resolve_when`",
        ),
        (rule("when: ticket.active"), "rules[0].when: there is no `ticket` here"),
        (rule("allow: {users: []}"), "rules[0].allow.users: is empty"),
        (rule("allow: {users: [ada]}"), "rules[0].allow.users[0]: must be the id of a person"),
        (rule("allow: {channels: ['#ops']}"), "must be the id of a channel"),
        (rule("allow: {groups: [S1]}"), "rules[0].allow.groups: there is no such key"),
        (rule("").replace("reply: x", "reply: {in_channel: true}"), "reply.text: is missing"),
        (
            rule("").replace("reply: x", "reply: {text: x, in_channel: here}"),
            "rules[0].reply.in_channel: must be true or false",
        ),
        (
            RULES + "  - {name: b, from: slack/close, reply: x}\n",
            "rules[1].from: `slack/close` has a rule already, in line 3",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(RulesError) as refused:
        load_rules(text, environ={})

    assert said in str(refused.value)


def test_only_commands_are_found_by_their_kind() -> None:
    rules = load_rules(RULES, environ={})

    assert [one.target.kind for one in rules_with_commands(rules)] == ["command"]
    assert rules.hears_slack
