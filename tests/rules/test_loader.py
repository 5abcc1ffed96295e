"""The rules file: read whole, and refused with every fault and its line."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from function.core.event import Event, Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.step import DesiredState, wanted_from_json, wanted_to_json
from function.rules.evaluate import evaluate
from function.rules.loader import FAULTS_MAX, RulesError, load_rules
from function.rules.model import Rule, Rules
from function.rules.schema import schema
from function.rules.ticket import ticket_of

ROOT = Path(__file__).parents[2]
FIRST = """\
version: 1
env: [PORT]
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
"""


def read(text: str, environ: Mapping[str, str] | None = None) -> Rules:
    return load_rules(text, environ={"PORT": "8080"} if environ is None else environ)


def only(text: str) -> Rule:
    (rule,) = read(text).rules
    return rule


def faults(text: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(RulesError) as caught:
        read(text, environ)
    sentences = tuple(map(str, caught.value.faults))
    assert str(caught.value) == "\n".join(sentences)
    return sentences


def event(source: str, trigger: str = "") -> Event:
    return Event("e", source, Op.INSERT, None, {"id": 1}, "c", "{}", trigger=trigger)


# What is read


def test_the_shipped_rules_are_the_examples_of_the_design() -> None:
    outage, items, comment = load_rules((ROOT / "rules.yaml").read_text(), environ={}).rules

    assert (outage.name, outage.source, ticket_of(outage).resolves) == (
        "outage",
        "hasura/public.outages",
        True,
    )
    assert (items.name, items.source, ticket_of(items).resolves) == (
        "action-items",
        "hasura/public.meetings",
        False,
    )
    assert (comment.name, comment.source, comment.target.kind) == (
        "outage-comment",
        "hasura/public.outage_comments",
        "note",
    )
    assert ticket_of(outage).fields == (
        "short_description",
        "description",
        "impact",
        "urgency",
        "assignment_group",
    )


def test_what_a_rule_does_not_say_has_a_default() -> None:
    rule = only(FIRST)

    assert (rule.id, rule.trigger, rule.ops, rule.where.line) == ("outage", "", frozenset(Op), 4)
    ticket = ticket_of(rule)
    assert (ticket.table, ticket.shared, ticket.resolves) == ("incident", False, False)
    assert (ticket.after_close, ticket.on_delete, ticket.on_missing) == (
        "reopen",
        "resolve",
        "fail",
    )
    assert ticket.creates == {Op.INSERT, Op.UPDATE, Op.MANUAL}


def test_a_rule_says_what_it_likes() -> None:
    rule = only("""\
version: 1
rules:
  - name: old-name
    id: outage_1
    from: cron/nightly report
    trigger: t
    ops: [INSERT, MANUAL]
    when: yes
    ticket:
      key: "{{ row.id }}"
      fields: {urgency: 1, category: yes, comments_count: ~, u_text: "12:30", u_time: 12:30}
      resolve_when: row.done
      close_code: "{{ row.code }}"
      close_notes: done
      after_close: new
      creates: [MANUAL]
      on_delete: cancel
      on_missing: recreate
      order_by: row.n
""")

    assert (rule.name, rule.id, rule.trigger, rule.source) == (
        "old-name",
        "outage_1",
        "t",
        "cron/nightly report",
    )
    assert rule.ops == {Op.INSERT, Op.MANUAL}
    ticket = ticket_of(rule)
    assert (ticket.after_close, ticket.on_delete, ticket.on_missing) == (
        "new",
        "cancel",
        "recreate",
    )
    assert ticket.creates == {Op.MANUAL}
    row = Event(
        "e", rule.source, Op.MANUAL, None, {"id": 1, "done": True, "code": "c", "n": 1}, "c", "{}"
    )
    wants = evaluate(rule, row)[0].wants
    assert isinstance(wants, DesiredState)
    assert wants.fields == {
        "urgency": "1",
        "category": "true",
        "comments_count": "",
        "u_text": "12:30",
        "u_time": "12:30",
    }
    assert wants.close == {"close_code": "c", "close_notes": "done"}


def test_another_table_has_no_states_and_a_shared_ticket_is_left() -> None:
    other = ticket_of(only(FIRST.replace("ticket:\n", "ticket:\n      table: problem\n")))
    shared = ticket_of(only(FIRST.replace("ticket:\n", "ticket:\n      shared: true\n")))

    assert (other.table, other.after_close, other.on_delete) == ("problem", "leave", "leave")
    assert (shared.shared, shared.on_delete) == (True, "leave")


def test_aliases_and_merges_are_followed() -> None:
    rules = read("""\
version: 1
rules:
  - &first
    name: a
    from: hasura/public.a
    ticket: &ticket {key: "{{ row.id }}", fields: {category: network}}
  - <<: *first
    name: b
    ticket: {<<: *ticket, on_delete: leave}
""").rules

    assert [(rule.name, rule.source, ticket_of(rule).on_delete) for rule in rules] == [
        ("a", "hasura/public.a", "resolve"),
        ("b", "hasura/public.a", "leave"),
    ]


def test_a_rule_concerns_the_events_of_its_source_and_trigger() -> None:
    rules = read(
        FIRST
        + """\
  - {name: b, from: hasura/public.outages, trigger: t,
     ticket: {key: "{{ row.id }}", fields: {category: x}}}
  - {name: c, from: cron/t, ticket: {key: "{{ event.id }}", fields: {category: x}}}
"""
    )

    def concerned(source: str, trigger: str) -> list[str]:
        return [rule.name for rule in rules.concerning(event(source, trigger))]

    assert concerned("hasura/public.outages", "t") == ["outage", "b"]
    assert concerned("hasura/public.outages", "u") == ["outage"]
    assert concerned("hasura/public.others", "t") == []
    assert concerned("cron/t", "t") == ["c"]


def test_the_digest_changes_with_the_text_and_with_the_variables_that_it_names() -> None:
    first = read(FIRST).digest

    assert read(FIRST, {"PORT": "8080", "OTHER": "x"}).digest == first
    assert read(FIRST, {"PORT": "8081"}).digest != first
    assert read(FIRST + "# a remark\n").digest != first


def test_the_values_of_variables_are_not_in_what_a_rule_looks_like() -> None:
    assert "hunter2" not in repr(read(FIRST, {"PORT": "hunter2"}))


# What is refused


def in_rule(line: str) -> str:
    return FIRST + f"    {line}\n"


def in_ticket(line: str) -> str:
    return FIRST + f"      {line}\n"


def in_fields(line: str) -> str:
    return FIRST + f"        {line}\n"


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("", 1, "is empty; it begins with `version: 1`"),
        ("[]", 1, "must be a mapping of names to values"),
        (
            "a: [\n",
            2,
            (
                "is not YAML: while parsing a flow node, expected the node content, but "
                "found '<stream end>'"
            ),
        ),
        ("version: 1\nrules: *x", 2, "is not YAML: found undefined alias 'x'"),
        (
            "a: 1\n---\nb: 1",
            2,
            "is not YAML: expected a single document in the stream, but found another document",
        ),
        ("a: 1\nb: \x01", 2, "is not YAML: a control character in it is not allowed"),
        ("[" * 50_000, 1, "is nested too deeply"),
        ("#" * 1_100_000, 1, "is over 1024 KiB"),
        (
            FIRST.replace("version: 1", "version: 2"),
            1,
            "version: is not one that this program knows; write `version: 1`",
        ),
        (FIRST.replace("version: 1", "# none"), 2, "version: is missing; write `version: 1`"),
        ("version: 1", 1, "rules: is missing"),
        ("version: 1\nrules: []", 2, "rules: has no rules in it"),
        ("version: 1\nrules: {}", 2, "rules: must be a list"),
        ("version: 1\nrules: [x]", 2, "rules[0]: must be a mapping of names to values"),
        (
            (
                "version: 1\nrules: [{<<: 1, name: a, from: cron/a, ticket: {key: '{{ row.a }}', "
                "fields: {a: b}}}]"
            ),
            2,
            "<<: must be an alias of a mapping",
        ),
        (FIRST.replace("env:", "ebv:"), 2, "ebv: there is no such key; did you mean `env`?"),
        (FIRST.replace("[PORT]", "[P-T]"), 2, "env[0]: is not the name of an environment variable"),
        (
            FIRST.replace("[PORT]", "[PORT, PASS]"),
            2,
            "env[1]: the environment has no `PASS`; set it or take it out",
        ),
        (
            FIRST.replace("name: outage", "name: an outage"),
            4,
            "rules[0].name: must be 1 to 60 letters, digits, hyphens and underscores (A-Z only)",
        ),
        (FIRST.replace("name: outage", "id: outage"), 4, "rules[0].name: is missing"),
        (
            FIRST + FIRST.partition("rules:\n")[2],
            10,
            "rules[1].name: `outage` is already used by the rule in line 4",
        ),
        (
            FIRST
            + FIRST.partition("rules:\n")[2].replace("name: outage", "name: b\n    id: outage"),
            11,
            "rules[1].id: `outage` is already used by the rule in line 4",
        ),
        (
            FIRST.replace("    from: hasura/public.outages\n", ""),
            4,
            "rules[0].from: is missing; write `from: hasura/public.TABLE`",
        ),
        (
            FIRST.replace("public.outages", "outages"),
            5,
            "rules[0].from: names no schema; did you mean `hasura/public.outages`?",
        ),
        (
            FIRST.replace("hasura/public.outages", "servicenow/Incident"),
            5,
            (
                "rules[0].from: must be servicenow/TABLE, servicenow/TABLE.comments or "
                "servicenow/TABLE.work_notes"
            ),
        ),
        (
            FIRST.replace("hasura/", "slack/"),
            5,
            (
                "rules[0].from: must be slack/COMMAND: the command without its slash, of a-z, "
                "0-9, - and _"
            ),
        ),
        (
            FIRST.replace("hasura/", "kafka/"),
            5,
            (
                "rules[0].from: must be hasura/SCHEMA.TABLE, cron/NAME, scheduled, "
                "servicenow/TABLE or slack/COMMAND"
            ),
        ),
        (
            in_rule("trigger: ''"),
            10,
            "rules[0].trigger: is empty; leave it out to hear any trigger",
        ),
        (in_rule("name: again"), 10, "rules[0].name: stands here twice"),
        (in_rule("ops: INSERT"), 10, "rules[0].ops: must be a list"),
        (in_rule("ops: []"), 10, "rules[0].ops: is empty; leave it out for the default"),
        (
            in_rule("ops: [insert]"),
            10,
            (
                "rules[0].ops[0]: must be one of INSERT, UPDATE, DELETE, MANUAL; did "
                "you mean `INSERT`?"
            ),
        ),
        (in_rule("whem: row.x"), 10, "rules[0].whem: there is no such key; did you mean `when`?"),
        (in_rule("when:"), 10, "rules[0].when: is empty"),
        (in_rule("when: [a]"), 10, "rules[0].when: must be one value, not a list or a mapping"),
        (
            in_rule("when: row.x =="),
            10,
            "rules[0].when: is not a template: unexpected 'end of template'",
        ),
        (in_rule('when: "{{ row.x }}"'), 10, "rules[0].when: is an expression; write `row.x`"),
        (
            in_rule('when: "{% if row.x %}1{% endif %}"'),
            10,
            "rules[0].when: is an expression; write it without braces",
        ),
        (
            in_rule("when: item.x"),
            10,
            "rules[0].when: there is no `item` here: a rule has one beside `each`",
        ),
        (
            in_rule("each: item.x").replace("row.id", "item.id"),
            10,
            "rules[0].each: there is no `item` here: a rule has one beside `each`",
        ),
        (
            in_rule("each: row.x"),
            7,
            (
                "rules[0].ticket.key: is the same for every element; name a part of `item`, or "
                "say `shared: true`"
            ),
        ),
        *(
            (
                in_rule(f"{key}: x"),
                10,
                f"rules[0].{key}: is for rules from slack/COMMAND, which a person gives and "
                "waits for",
            )
            for key in ("reply", "allow")
        ),
        (
            "version: 1\nrules:\n  - {name: a, from: cron/a}",
            3,
            "rules[0].ticket: is missing: it says what the row becomes",
        ),
        (
            "version: 1\nrules:\n  - {name: a, from: cron/a, ticket: x}",
            3,
            "rules[0].ticket: must be a mapping of names to values",
        ),
        (
            "version: 1\nrules:\n  - {name: a, from: cron/a, ticket: {fields: {a: b}}}",
            3,
            (
                'rules[0].ticket.key: is missing; write what identifies the row, such as "{{ '
                'row.id }}"'
            ),
        ),
        (
            "version: 1\nrules:\n  - {name: a, from: cron/a, ticket: {key: '{{ row.a }}'}}",
            3,
            "rules[0].ticket.fields: is missing; it says what the ticket should say",
        ),
        (
            (
                "version: 1\nrules:\n  - {name: a, from: cron/a, ticket: {key: '{{ row.a }}', "
                "fields: {}}}"
            ),
            3,
            "rules[0].ticket.fields: is empty; name a column and what it should say",
        ),
        (
            FIRST.replace('"{{ row.id }}"', "{{ row.id }}"),
            7,
            (
                "rules[0].ticket.key: must be one value; a template that begins with braces stands "
                'in quotes: "{{ … }}"'
            ),
        ),
        (FIRST.replace('"{{ row.id }}"', "''"), 7, "rules[0].ticket.key: is empty"),
        (
            FIRST.replace('"{{ row.id }}"', "row.id"),
            7,
            'rules[0].ticket.key: is a text that looks like an expression; write "{{ row.id }}"',
        ),
        (
            FIRST.replace('"{{ row.id }}"', "all"),
            7,
            "rules[0].ticket.key: is the same for every row; name a column, or say `shared: "
            "true` if all share one ticket",
        ),
        (
            in_ticket("number: INC1"),
            10,
            "rules[0].ticket.number: is for rules from slack/COMMAND; a row's ticket has a `key`",
        ),
        (
            in_ticket("onmissing: fail"),
            10,
            "rules[0].ticket.onmissing: there is no such key; did you mean `on_missing`?",
        ),
        (
            in_ticket("table: Incident"),
            10,
            "rules[0].ticket.table: is not the name of a table (such as incident)",
        ),
        (in_ticket("shared: 1"), 10, "rules[0].ticket.shared: must be true or false"),
        (
            in_ticket("creates: [DELETE]"),
            10,
            "rules[0].ticket.creates[0]: must be one of INSERT, UPDATE, MANUAL",
        ),
        (
            in_ticket("after_close: reopn"),
            10,
            (
                "rules[0].ticket.after_close: must be one of reopen, new, leave; did "
                "you mean `reopen`?"
            ),
        ),
        (
            in_ticket("on_delete: [x]"),
            10,
            "rules[0].ticket.on_delete: must be one value, not a list or a mapping",
        ),
        (
            in_ticket("on_missing: skip"),
            10,
            "rules[0].ticket.on_missing: must be one of fail, recreate, ignore",
        ),
        (in_ticket("close_code: ''"), 10, "rules[0].ticket.close_code: is empty"),
        (
            in_ticket('resolve_when: "{{ row.x }}"'),
            10,
            "rules[0].ticket.resolve_when: is an expression; write `row.x`",
        ),
        (
            in_fields("Category: x"),
            10,
            (
                "rules[0].ticket.fields.Category: is not the name of a column (such as "
                "short_description)"
            ),
        ),
        (
            in_fields("category: [x]"),
            10,
            "rules[0].ticket.fields.category: must be one value, not a list or a mapping",
        ),
        (
            in_fields("short_description: x"),
            10,
            "rules[0].ticket.fields.short_description: stands here twice",
        ),
        (
            in_fields("impact: \"row.x | lookup({'a': 1})\""),
            10,
            "rules[0].ticket.fields.impact: "
            "is a text that looks like an expression; write \"{{ row.x | lookup({'a': 1}) }}\"",
        ),
        (
            in_fields("impact: item.summary"),
            10,
            (
                'rules[0].ticket.fields.impact: is a text that looks like an expression; write "{{ '
                'item.summary }}"'
            ),
        ),
        (
            in_fields('impact: "{{ row.x | lokup({}) }}"'),
            10,
            "rules[0].ticket.fields.impact: there is no filter `lokup`; did you mean `lookup`?",
        ),
        (
            in_fields('impact: "{{ row.x"'),
            10,
            "rules[0].ticket.fields.impact: "
            "is not a template: unexpected end of template, expected 'end of print statement'.",
        ),
        (
            in_fields("impact: |\n          one\n          {{ rwo.x }}"),
            12,
            "rules[0].ticket.fields.impact: there is no `rwo` here; did you mean `row`?",
        ),
        (
            in_fields('impact: "{{ env.PROT }}"'),
            10,
            (
                "rules[0].ticket.fields.impact: `env` does not list `PROT`; did you mean `PORT`?; "
                "list it at the top"
            ),
        ),
        (
            in_fields("impact: \"{{ env['PASS'] }}\""),
            10,
            "rules[0].ticket.fields.impact: `env` does not list `PASS`; list it at the top",
        ),
        *(
            (
                in_fields(f'impact: "{{{{ {name}.x }}}}"'),
                10,
                (
                    f"rules[0].ticket.fields.impact: there is no `{name}` here: rules from "
                    "servicenow/TABLE have one"
                ),
            )
            for name in ("ticket", "link", "shown")
        ),
        (
            in_fields('impact: "{{ data.x }}"'),
            10,
            (
                "rules[0].ticket.fields.impact: there is no `data` here: beside `data`, a `post` "
                "and the `when` of its rule have it, and so has an `answer`"
            ),
        ),
        (
            in_fields("sys_id: x"),
            10,
            "rules[0].ticket.fields.sys_id: is computed from the rule and the key; for a ticket "
            "that is there already, it stands beside `fields`",
        ),
        (in_fields("number: x"), 10, "rules[0].ticket.fields.number: is given by ServiceNow"),
        (
            in_fields("correlation_id: x"),
            10,
            "rules[0].ticket.fields.correlation_id: holds the ticket's address; use `key`",
        ),
        (
            in_fields("correlation_display: x"),
            10,
            "rules[0].ticket.fields.correlation_display: is written by this function",
        ),
        (in_fields("state: 6"), 10, "rules[0].ticket.fields.state: is written by `resolve_when`"),
        (
            in_fields("close_code: x"),
            10,
            (
                "rules[0].ticket.fields.close_code: stands beside `fields`, and is sent when the "
                "ticket is resolved"
            ),
        ),
        (
            in_fields("comments: x"),
            10,
            (
                "rules[0].ticket.fields.comments: is a journal, which only grows; write it "
                "by a rule with a `note`"
            ),
        ),
        (
            in_fields("work_notes: x"),
            10,
            (
                "rules[0].ticket.fields.work_notes: is a journal, which only grows; write it "
                "by a rule with a `note`"
            ),
        ),
        (
            in_fields("parent_incident: x"),
            10,
            "rules[0].ticket.fields.parent_incident: is written by `after_close: new`",
        ),
    ],
)
def test_a_fault_is_told_with_its_line_and_its_place(text: str, line: int, fault: str) -> None:
    assert faults(text) == (f"rules.yaml:{line}: {fault}",)


@pytest.mark.parametrize("key", ["resolve_when", "close_code", "close_notes", "after_close"])
def test_the_states_of_other_tables_are_not_known_yet(key: str) -> None:
    value = "reopen" if key == "after_close" else "true"
    text = FIRST.replace("ticket:\n", "ticket:\n      table: problem\n") + f"      {key}: {value}\n"

    assert faults(text) == (
        f"rules.yaml:11: rules[0].ticket.{key}: "
        "the states of this table are not known: declare `states` or take it out",
    )


def test_a_standard_change_is_made_from_a_template_that_the_rule_names() -> None:
    text = FIRST.replace("ticket:\n", "ticket:\n      table: change_request\n")
    standard = text.replace("      fields:\n", "      fields:\n        type: standard\n")

    [fault] = faults(standard)
    assert fault.endswith(
        "fields.type: a standard change is made from a template; name it beside "
        "`fields`, as `template`"
    )
    assert read(text.replace("      fields:\n", "      template: A\n      fields:\n")).rules


@pytest.mark.parametrize("value", ["resolve", "cancel"])
def test_a_ticket_of_another_table_or_a_shared_one_is_not_closed_by_a_deletion(value: str) -> None:
    other = (
        FIRST.replace("ticket:\n", "ticket:\n      table: problem\n")
        + f"      on_delete: {value}\n"
    )
    shared = (
        FIRST.replace("ticket:\n", "ticket:\n      shared: true\n") + f"      on_delete: {value}\n"
    )

    assert faults(other) == (
        "rules.yaml:11: rules[0].ticket.on_delete: "
        "the states of this table are not known: declare `states`, write `leave` or take it out",
    )
    assert faults(shared) == (
        (
            "rules.yaml:11: rules[0].ticket.on_delete: no row closes a ticket that is shared; "
            "write `leave` or take it out"
        ),
    )


def test_a_shared_ticket_may_say_when_a_row_is_well_for_such_a_row_opens_none() -> None:
    text = (
        FIRST.replace("ticket:\n", "ticket:\n      shared: true\n")
        + "      resolve_when: row.status == 'ok'\n"
    )

    assert ticket_of(only(text)).resolves


# Change requests, and the states of other tables


def of_table(table: str, *lines: str) -> str:
    """The rule, about *table*, with more said of its ticket from line 11 on."""
    said = "".join(f"      {line}\n" for line in lines)
    return FIRST.replace("ticket:\n", f"ticket:\n      table: {table}\n") + said


def test_what_a_change_does_not_say_has_a_default_of_its_own() -> None:
    ticket = ticket_of(only(of_table("change_request", "resolve_when: row.done")))

    assert (ticket.after_close, ticket.on_delete, ticket.on_missing) == ("new", "cancel", "fail")
    assert (ticket.fields, ticket.create_only) == (("short_description",), frozenset())
    assert ticket.closing_fields == ("close_code", "close_notes")


def test_a_template_writes_its_columns_at_creation_only() -> None:
    ticket = ticket_of(only(of_table("change_request", "template: Reboot a switch")))

    assert ticket.create_only == {"type", "chg_model", "std_change_producer_version"}
    assert set(ticket.fields) == {"short_description", *ticket.create_only}


def test_the_states_that_a_rule_declares_are_texts_as_they_are_written() -> None:
    text = of_table(
        "sc_task", "states: {resolved: '3', reopened: -5, canceled: u_gone, final: [4, 7]}"
    )
    states = ticket_of(only(text)).states

    assert (states.resolved, states.reopened, states.canceled) == ("3", "-5", "u_gone")
    assert states.final == {"4", "7"}


@pytest.mark.parametrize(
    ("states", "after_close", "on_delete"),
    [("{resolved: 3, reopened: 1}", "reopen", "resolve"), ("{resolved: 3}", "new", "resolve")],
)
def test_a_table_with_declared_states_lives_as_an_incident_does(
    states: str, after_close: str, on_delete: str
) -> None:
    ticket = ticket_of(only(of_table("sc_task", f"states: {states}", "close_notes: x")))

    assert (ticket.after_close, ticket.on_delete) == (after_close, on_delete)
    assert ticket.closing_fields == ("close_notes",)


@pytest.mark.parametrize(
    ("table", "link", "code"),
    [
        ("incident", "parent_incident", "Solution provided"),
        ("change_request", "parent", "successful"),
    ],
)
def test_an_instance_may_have_states_of_its_own_for_a_table_that_ships_with_some(
    table: str, link: str, code: str
) -> None:
    ticket = ticket_of(
        only(of_table(table, "states: {resolved: 60, reopened: 20, canceled: 80, final: [70]}"))
    )

    states = ticket.states
    assert (states.resolved, states.reopened, states.canceled) == ("60", "20", "80")
    assert states.final == {"70"}
    assert (states.link, states.close_code, dict(states.paths)) == (link, code, {})
    assert (ticket.after_close, ticket.closing_fields) == ("reopen", ("close_code", "close_notes"))


def test_a_change_that_has_no_canceled_state_is_left_when_its_row_goes() -> None:
    assert ticket_of(only(of_table("change_request", "states: {resolved: 3}"))).on_delete == "leave"
    assert (
        ticket_of(only(of_table("change_request", "states: {resolved: 3, canceled: 4}"))).on_delete
        == "cancel"
    )


@pytest.mark.parametrize("passed", ["[101, 102, 103]", "['101', 102, 103, 106]"])
def test_a_declared_path_is_walked_to_resolved_in_order(passed: str) -> None:
    states = ticket_of(
        only(of_table("problem", f"states: {{resolved: 106, path: {passed}}}"))
    ).states

    assert [states.towards_resolved(state, "") for state in ("101", "102", "103")] == [
        "102",
        "103",
        "106",
    ]
    # One that is not on it is the instance's own.
    assert states.towards_resolved("104", "") == "106"
    assert not states.by_type


def test_an_instance_may_have_choices_of_its_own() -> None:
    own = of_table(
        "change_request",
        "choices: {close_code: [done, undone], risk: [1, 2, 3, 4, 5]}",
        "close_code: undone",
    ).replace('short_description: "{{ row.title }}"', "risk: 5")

    ticket = ticket_of(only(own))
    assert list(ticket.choices["risk"]) == ["1", "2", "3", "4", "5"]
    # What is not declared is as it ships.
    assert list(ticket.choices["type"]) == ["normal", "standard", "emergency"]
    assert faults(own.replace("risk: 5", "risk: 6"))[0].endswith(
        "fields.risk: must be one of 1, 2, 3, 4, 5"
    )


def test_choices_may_be_declared_of_a_column_that_ships_with_none() -> None:
    text = of_table("incident", "choices: {category: [shop, till]}")

    assert ticket_of(
        only(text.replace("short_description:", "category: till\n        short_description:"))
    ).choices["category"]
    assert faults(text.replace("short_description:", "category: tll\n        short_description:"))[
        0
    ].endswith("fields.category: must be one of shop, till; did you mean `till`?")


def test_a_parent_may_be_mapped_where_nothing_else_writes_it() -> None:
    other = of_table("problem").replace("short_description", "parent")
    left = of_table("change_request", "after_close: leave").replace("short_description", "parent")

    assert ticket_of(only(other)).fields == ticket_of(only(left)).fields == ("parent",)


@pytest.mark.parametrize(
    ("table", "lines", "line", "fault"),
    [
        (
            "incident",
            ["states: {}"],
            11,
            "states.resolved: is missing: the state of a ticket that is resolved",
        ),
        *(
            (
                "change_request",
                [f"states: {{resolved: 3, canceled: 4, final: [7], path: {passed}}}"],
                11,
                "states.path: names a state twice, or one of tickets that have ended; name those "
                "before `resolved`, in order",
            )
            for passed in ("[-5, -5]", "[-5, 4]", "[-5, 7, 3]", "[3, -5]")
        ),
        ("incident", ["states: {resolved: 6, path: 1}"], 11, "states.path: must be a list"),
        ("incident", ["choices: {impact: high}"], 11, "choices.impact: must be a list"),
        (
            "incident",
            ["choices: {impact: []}"],
            11,
            "choices.impact: is empty; name the values that the column takes",
        ),
        ("incident", ["choices: [impact]"], 11, "choices: must be a mapping of names to values"),
        ("incident", ["choices: {state: [1]}"], 11, "choices.state: stands under `states`"),
        (
            "incident",
            ["choices: {Impact: [1]}"],
            11,
            "choices.Impact: is not the name of a column (such as short_description)",
        ),
        (
            "change_request",
            ["choices: {close_code: [done, undone]}"],
            11,
            "choices.close_code: the 'successful' that is sent unless a rule gives a "
            "`close_code` is none of them; give one",
        ),
        (
            "change_request",
            ["choices: {close_code: [done, undone]}", "close_code: successful"],
            12,
            "close_code: must be one of done, undone",
        ),
        ("sc_task", ["states: 3"], 11, "states: must be a mapping of names to values"),
        (
            "sc_task",
            ["states: {}"],
            11,
            "states.resolved: is missing: the state of a ticket that is resolved",
        ),
        (
            "sc_task",
            ["states:", "  resolved: 3", "  canceld: 3"],
            13,
            "states.canceld: there is no such key; did you mean `canceled`?",
        ),
        (
            "sc_task",
            ["states: {resolved: Closed/Complete}"],
            11,
            "states.resolved: is not the value of a state (such as 3, not its label)",
        ),
        (
            "sc_task",
            ["states: {resolved: ~}"],
            11,
            "states.resolved: is not the value of a state (such as 3, not its label)",
        ),
        (
            "sc_task",
            ["states: {resolved: [3]}"],
            11,
            "states.resolved: must be one value, not a list or a mapping",
        ),
        ("sc_task", ["states: {resolved: 3, final: 3}"], 11, "states.final: must be a list"),
        (
            "sc_task",
            ["states:", "  resolved: 3", "  final:", "    - 4", "    - ''"],
            15,
            "states.final[1]: is not the value of a state (such as 3, not its label)",
        ),
        *(
            (
                "sc_task",
                [f"states: {{resolved: 3, canceled: 4, final: [7], reopened: {state}}}"],
                11,
                (
                    "states.reopened: is a state of tickets that have ended; name the one "
                    "that they go back to"
                ),
            )
            for state in (3, 4, 7)
        ),
        (
            "sc_task",
            ["states: {resolved: 3}", "on_delete: cancel"],
            12,
            "on_delete: `states` has no `canceled`; say which state that is",
        ),
        (
            "sc_task",
            ["states: {resolved: 3}", "after_close: reopen"],
            12,
            "after_close: `states` has no `reopened`; say which state that is, or write `new`",
        ),
        (
            "sc_task",
            ["states: {resolved: 3}", "shared: true", "on_delete: resolve"],
            13,
            "on_delete: no row closes a ticket that is shared; write `leave` or take it out",
        ),
        (
            "incident",
            ["template: Reboot"],
            11,
            (
                "template: only a change_request is made from a template; say `table: "
                "change_request` or take it out"
            ),
        ),
        ("change_request", ["template: ''"], 11, "template: is empty"),
        (
            "change_request",
            ["close_code: succesful"],
            11,
            (
                "close_code: must be one of successful, successful_issues, unsuccessful; did you "
                "mean `successful`?"
            ),
        ),
        (
            "change_request",
            ["  type: standart"],
            11,
            "fields.type: must be one of normal, standard, emergency; did you mean `standard`?",
        ),
        (
            "change_request",
            ["  risk: 5"],
            11,
            "fields.risk: must be one of 1 (very high), 2 (high), 3 (moderate), 4 (low)",
        ),
        (
            "change_request",
            ["  risk: moderate"],
            11,
            (
                "fields.risk: must be one of 1 (very high), 2 (high), 3 (moderate), 4 "
                "(low); did you mean `3`?"
            ),
        ),
        (
            "incident",
            ["  impact: 4"],
            11,
            "fields.impact: must be one of 1 (high), 2 (medium), 3 (low)",
        ),
        (
            "incident",
            ["  urgency: 1 - High"],
            11,
            "fields.urgency: must be one of 1 (high), 2 (medium), 3 (low); did you mean `1`?",
        ),
        (
            "change_request",
            ["  parent: x"],
            11,
            (
                "fields.parent: is written by `after_close: new`; to write it yourself, say "
                "`after_close: leave`"
            ),
        ),
        (
            "change_request",
            ["  std_change_producer_version: x"],
            11,
            "fields.std_change_producer_version: stands beside `fields`, as `template`",
        ),
        (
            "change_request",
            ["  type: standard", "template: Reboot"],
            11,
            "fields.type: is `standard`, because there is a `template`; take it out",
        ),
    ],
)
def test_a_fault_in_how_a_ticket_lives_is_told_with_its_line(
    table: str, lines: list[str], line: int, fault: str
) -> None:
    assert faults(of_table(table, *lines)) == (f"rules.yaml:{line}: rules[0].ticket.{fault}",)


@pytest.mark.parametrize("line", ["risk: 7", "type: urgent"])
def test_the_choices_of_a_change_are_no_matter_of_another_table(line: str) -> None:
    assert only(of_table("incident", f"  {line}"))


@pytest.mark.parametrize("said", ["1", "'2'", "~", "''", '"{{ 4 }}"'])
def test_a_choice_that_there_is_or_nothing_or_a_template_is_no_fault(said: str) -> None:
    assert only(of_table("incident", f"  impact: {said}"))


@pytest.mark.parametrize(
    "text",
    [
        of_table("sc_task", "states: {resolved: 3, reopened: 1, canceled: 4, final: [3, '4', -7]}"),
        of_table("change_request", "template: Reboot a switch", "resolve_when: row.done"),
        of_table(
            "incident",
            "states: {resolved: 60, path: [1, '20']}",
            "choices: {impact: [1, '2'], urgency: [low]}",
        ),
    ],
)
def test_the_schema_accepts_states_and_templates(text: str) -> None:
    jsonschema.validate(yaml.safe_load(text), schema())
    assert read(text).rules


@pytest.mark.parametrize(
    "states", ["{}", "{resolved: [3]}", "{resolved: 3, final: 3}", "{resolved: 3, canceld: 4}"]
)
def test_the_schema_refuses_states_that_the_rules_refuse(states: str) -> None:
    text = of_table("sc_task", f"states: {states}")

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())
    assert faults(text)


@pytest.mark.parametrize(
    "key", ["[1, '{{ row.id }}']", "['{{ row.a }}', '{{ row.b }}/{{ row.c }}']", "['{{ row.id }}']"]
)
def test_a_key_may_be_a_list_of_parts(key: str) -> None:
    text = FIRST.replace('"{{ row.id }}"', key)

    jsonschema.validate(yaml.safe_load(text), schema())
    assert len(only(text).templates.key) == len(yaml.safe_load(key))


@pytest.mark.parametrize(
    ("key", "place", "fault"),
    [
        ("[]", "", "is empty; write what identifies the row"),
        ("['{{ row.id }}', '']", "[1]", "is empty"),
        (
            "['{{ row.id }}', row.b]",
            "[1]",
            'is a text that looks like an expression; write "{{ row.b }}"',
        ),
        ("['{{ row.id }}', ['{{ row.b }}']]", "[1]", "must be one value, not a list or a mapping"),
        ("['{{ row.id }}', '{{ rwo.id }}']", "[1]", "there is no `rwo` here; did you mean `row`?"),
        (str(["{{ row.id }}"] * 17), "", "has more than 16 parts"),
        (
            "[a, b]",
            "",
            (
                "is the same for every row; name a column, or say `shared: true` if "
                "all share one ticket"
            ),
        ),
    ],
)
def test_a_list_of_parts_is_checked_as_one_key_is(key: str, place: str, fault: str) -> None:
    text = FIRST.replace('"{{ row.id }}"', key)

    assert faults(text) == (f"rules.yaml:7: rules[0].ticket.key{place}: {fault}",)


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("{{ row.id }}/{{ row.part }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ row.id }}{{ row.sub.part }}", 'key: ["{{ row.id }}", "{{ row.sub.part }}"]'),
        (
            "x-{{ row.id }}-{{ row.a }}:{{ row.b }}",
            'key: ["{{ row.id }}", "{{ row.a }}", "{{ row.b }}"]',
        ),
        ("{{ row.id ~ '/' ~ row.part }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ row.id + '/' + row.part }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ [row.id, row.part] | join('/') }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ '%s/%s' % (row.id, row.part) }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ '{}/{}'.format(row.id, row.part) }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ '/'.join([row.id, row.part]) }}", 'key: ["{{ row.id }}", "{{ row.part }}"]'),
        ("{{ row.tags | join('/') }}", 'a list, such as key: ["{{ row.id }}", "{{ item.id }}"]'),
        (
            "{{ row.id | upper }}/{{ row.b }}",
            'a list, such as key: ["{{ row.id }}", "{{ item.id }}"]',
        ),
        (
            "{% for tag in row.tags %}{{ tag }},{% endfor %}",
            'a list, such as key: ["{{ row.id }}", "{{ item.id }}"]',
        ),
    ],
)
def test_a_text_key_that_joins_several_values_is_warned_of(key: str, instead: str) -> None:
    for text in (
        FIRST.replace('"{{ row.id }}"', f'"{key}"'),
        FIRST.replace('"{{ row.id }}"', f'["{key}"]'),
    ):
        [warning] = map(str, read(text).warnings)

        assert warning.startswith("rules.yaml:7: rules[0].ticket.key")
        assert warning.endswith(f"write {instead}")


@pytest.mark.parametrize(
    "key",
    [
        "{{ row.id }}",
        "outage-{{ row.id }}",
        "{{ row.id }}/",
        "{{ row.id ~ '/x' }}",
        "{{ row.a or row.b }}",
        "{% if row.a %}{{ row.a }}{% else %}{{ row.b }}{% endif %}",
        "{{ '%05d' % row.id }}",
    ],
)
def test_a_key_of_one_value_is_not_warned_of(key: str) -> None:
    assert read(FIRST.replace('"{{ row.id }}"', f'"{key}"')).warnings == ()


def test_the_examples_are_not_warned_of() -> None:
    assert load_rules((ROOT / "rules.yaml").read_text(), environ={}).warnings == ()


def test_a_rule_says_by_which_column_a_row_names_its_ticket() -> None:
    text = in_ticket("sys_id: row.servicenow_sys_id")

    jsonschema.validate(yaml.safe_load(text), schema())
    ticket = ticket_of(only(text))
    assert ticket.templates.sys_id in list(ticket.all_templates())
    assert ticket_of(only(FIRST)).templates.sys_id is None


def test_a_ticket_that_many_rows_share_is_named_by_none_of_them() -> None:
    text = in_ticket("sys_id: row.servicenow_sys_id\n      shared: true")

    assert faults(text) == (
        (
            "rules.yaml:10: rules[0].ticket.sys_id: one row names its ticket, and this one is "
            "shared; take out one of the two"
        ),
    )


def test_a_rule_says_which_references_may_be_left_empty() -> None:
    text = in_fields("caller_id: '{{ row.a }}'\n        assigned_to: '{{ row.b }}'")
    text += "      on_unknown: {caller_id: leave_empty, assigned_to: fail}\n"

    jsonschema.validate(yaml.safe_load(text), schema())
    assert ticket_of(only(text)).leave_empty == {"caller_id"}
    assert ticket_of(only(FIRST)).leave_empty == frozenset()


@pytest.mark.parametrize(
    ("on_unknown", "fault"),
    [
        (
            "{caler_id: leave_empty}",
            ".caler_id: is not among the `fields`; did you mean `caller_id`?",
        ),
        ("{assigned_to: leave_empty}", ".assigned_to: is not among the `fields`"),
        (
            "{short_description: fail}",
            ".short_description: is no column whose names are looked up: those are ",
        ),
        (
            "{caller_id: leave}",
            ".caller_id: must be one of fail, leave_empty; did you mean `leave_empty`?",
        ),
        ("leave_empty", ": must be a mapping of names to values"),
    ],
)
def test_a_fault_in_what_follows_for_an_unknown_name_is_told(on_unknown: str, fault: str) -> None:
    [told] = faults(in_fields("caller_id: x") + f"      on_unknown: {on_unknown}\n")

    assert told.startswith(f"rules.yaml:11: rules[0].ticket.on_unknown{fault}")


@pytest.mark.parametrize("choices", ["[1]", "{impact: 1}", "{impact: []}", "{state: [1]}"])
def test_the_schema_refuses_choices_that_the_rules_refuse(choices: str) -> None:
    text = of_table("incident", f"choices: {choices}")

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())
    assert faults(text)


def test_every_fault_is_told_at_once_in_the_order_of_lines() -> None:
    told = faults(
        FIRST.replace("version: 1", "version: 3")
        .replace("row.id", "rwo.id")
        .replace("[PORT]", "[PORT, NOPE]")
        + "        state: 1\n"
    )

    assert [fault.split(": ")[1] for fault in told] == [
        "version",
        "env[1]",
        "rules[0].ticket.key",
        "rules[0].ticket.fields.state",
    ]


def test_a_file_of_a_thousand_faults_tells_the_first_hundred() -> None:
    told = faults(FIRST + "".join(f"        A{number}: x\n" for number in range(1000)))

    assert len(told) == FAULTS_MAX + 1
    assert told[-1] == "rules.yaml: and 900 more faults"


def test_a_small_file_that_aliases_make_large_is_refused() -> None:
    merges = "".join(
        f"x{number}: &m{number} {{<<: [{', '.join([f'*m{number - 1}'] * 9)}]}}\n"
        for number in range(1, 9)
    )

    told = faults("m0: &m0 {a: 1}\n" + merges + "<<: [*m5, *m5, *m5]\n")

    assert told == ("rules.yaml:1: has more than 20000 entries once its aliases are followed",)


def test_a_file_that_contains_itself_is_refused() -> None:
    assert faults("version: 1\nrules: &r [*r]") == (
        "rules.yaml:2: rules[0]: must be a mapping of names to values",
    )
    assert "rules.yaml:1: <<: must be an alias of a mapping" in faults("a: &a {<<: *a}\n<<: *a\n")


def test_the_file_is_called_what_the_caller_calls_it() -> None:
    with pytest.raises(RulesError, match=r"^mine\.yaml:1: is empty"):
        load_rules("", name="mine.yaml", environ={})


@given(st.text() | st.text("{}[]&*!|>'\"%@:-,#? \nab<"))
def test_any_text_is_read_or_refused(text: str) -> None:
    for whole in (text, FIRST + text):
        with suppress(RulesError):
            load_rules(whole, environ={"PORT": ""})


@pytest.mark.parametrize(
    "text",
    ["Router.down", "new in town", "old", "event", "item 3", "row of seats", "row.", "Network"],
)
def test_a_text_that_is_no_expression_is_a_text(text: str) -> None:
    assert read(in_fields(f"category: {text}")).rules


# For editors, and for the ledger


def test_the_schema_in_the_repository_is_the_one_that_the_rules_have() -> None:
    committed = json.loads((ROOT / "rules.schema.json").read_text())

    assert committed == schema(), "run: python -m function.rules > rules.schema.json"
    jsonschema.Draft202012Validator.check_schema(committed)


def test_the_schema_accepts_what_is_shipped() -> None:
    for text in ((ROOT / "rules.yaml").read_text(), FIRST):
        jsonschema.validate(yaml.safe_load(text), schema())


@pytest.mark.parametrize(
    "text",
    [
        FIRST.replace("version: 1", "version: 2"),
        FIRST.replace("public.outages", "outages"),
        in_rule("whem: x"),
        in_rule("ops: [insert]"),
        in_ticket("after_close: never"),
        in_fields("state: 6"),
        in_fields("Category: x"),
        FIRST.replace('"{{ row.id }}"', "[]"),
        FIRST.replace('"{{ row.id }}"', "[[a]]"),
    ],
)
def test_the_schema_refuses_what_the_rules_refuse(text: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())
    assert faults(text)


@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.dictionaries(st.text(), st.text()),
    st.dictionaries(st.text(), st.text()),
    st.text(),
)
def test_what_is_wanted_reads_back_as_it_was_written(
    when: bool,
    resolved: bool,
    gone: bool,
    fields: dict[str, str],
    close: dict[str, str],
    sys_id: str,
) -> None:
    wants = DesiredState(when, resolved, gone, fields, close, sys_id)

    assert wanted_from_json(wanted_to_json(wants)) == wants


def test_what_another_version_wrote_of_what_is_wanted_is_read_too() -> None:
    older = '{"when":true,"resolved":false,"gone":false,"fields":{"a":"b"},"close":{}}'
    newer = older.replace('{"when"', '{"mood":"calm","when"')
    wants = DesiredState(when=True, resolved=False, gone=False, fields={"a": "b"}, close={})

    assert wanted_from_json(older) == wanted_from_json(newer) == wants
    # An older version knows none of what came later.
    assert wanted_to_json(wants) == older


def test_a_reason_of_a_newer_version_is_a_failure_all_the_same() -> None:
    failure = wanted_from_json('{"broken":["out_of_tune","rules.yaml:3: is out of tune"]}')

    assert failure == Failure(
        Retryability.PERMANENT, Reason.BAD_MAPPING, "rules.yaml:3: is out of tune"
    )
