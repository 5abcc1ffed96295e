"""Event types: what a rules file may say of them, and which rules an event concerns then."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from function.core.event import Event, Op
from function.core.outcome import Reason, Retryability
from function.core.values import Json
from function.rules.event_types import TYPE_CHARACTERS_MAX, RuleSelection, select_rules
from function.rules.loader import RulesError, load_rules
from function.rules.model import Rules

SCHEMA = json.loads((Path(__file__).parents[2] / "rules.schema.json").read_text())
HEAD = "version: 1\ntypes: {hasura/public.events: row.event_type}\nrules:\n"


def rule(name: str, more: str = "", source: str = "hasura/public.events") -> str:
    target = "ticket: {key: '{{ event.id }}', fields: {category: x}}"
    return f"  - {{name: {name}, from: {source}, {more}{', ' if more else ''}{target}}}\n"


TEXT = (
    HEAD
    + rule("created", "type: Customer_Created")
    + rule("both", "type: [customer_created, Customer_Deleted]")
    + rule("deleted", "type: Customer_Deleted, trigger: other")
    + rule("any")
    + rule("elsewhere", source="hasura/public.orders")
)


def read(text: str) -> Rules:
    return load_rules(text, environ={"KIND": "from the environment"})


def faults(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(RulesError) as caught:
        read(text)
    return [(fault.line, f"{fault.where}: {fault.problem}") for fault in caught.value.faults]


def event(new: Json, op: Op = Op.INSERT, old: Json = None, **more: Any) -> Event:
    source = more.pop("source", "hasura/public.events")
    return Event("e-1", source, op, old, new, "c", "{}", **more)


def selected(event_type: Json, text: str = TEXT, **more: Any) -> RuleSelection:
    return select_rules(read(text), event({"event_type": event_type}, **more))


def names(selection: RuleSelection) -> list[str]:
    return [rule.name for rule in selection.rules]


# Which rules hear an event


@pytest.mark.parametrize(
    "spelled",
    [
        "Customer_Created",
        "customer_created",
        "CUSTOMER_CREATED",
        "Customer_Created ",
        " \tCustomer_Created\n",
    ],
)
def test_every_rule_that_names_the_type_hears_it_in_capitals_or_not(spelled: str) -> None:
    selection = selected(spelled)

    assert names(selection) == ["created", "both", "any"]
    assert (selection.event_type, selection.failure) == (spelled.strip(), None)


def test_blanks_around_a_type_in_the_rules_do_not_matter_either() -> None:
    text = HEAD + rule("created", "type: 'Customer_Created '")

    assert names(selected("Customer_Created", text)) == ["created"]


def test_a_rule_with_another_trigger_does_not_hear_it_but_the_type_is_known() -> None:
    assert names(selected("Customer_Deleted", trigger="t")) == ["both", "any"]
    assert names(selected("Customer_Deleted", trigger="other")) == ["both", "deleted", "any"]


def test_a_type_that_no_rule_names_concerns_none_not_even_those_without_a_type() -> None:
    selection = selected("Customer_Createt")

    assert selection.rules == ()
    assert selection.failure is not None
    assert selection.failure.reason is Reason.NO_RULE
    assert selection.failure.retryability is Retryability.PERMANENT
    assert selection.failure.hint == (
        "no rule in rules.yaml that is `from: hasura/public.events` has the type "
        "`Customer_Createt`: write one, or correct what sends it; did you mean `customer_created`?"
    )


def test_a_source_without_types_is_heard_as_ever() -> None:
    selection = selected("whatever", source="hasura/public.orders")

    assert (names(selection), selection.event_type) == (["elsewhere"], "")


def test_what_an_unknown_type_says_is_one_short_line() -> None:
    selection = selected("a\nb\u202e" + "x" * 300)

    assert selection.failure is not None
    told = selection.failure.hint.split("`")[3]
    assert told == "a b?" + "x" * (TYPE_CHARACTERS_MAX - 5) + "…"


@pytest.mark.parametrize(
    ("expression", "row", "event_type"),
    [
        ("row.event_type", {"event_type": 7}, "7"),
        ("row.message.eventType", {"message": {"eventType": "A"}}, "A"),
        ("row.kind | upper", {"kind": "a"}, "A"),
        ("op", {}, "INSERT"),
        ("event.table", {}, "events"),
        ("env.KIND", {}, "from the environment"),
    ],
)
def test_the_type_is_what_the_expression_gives(expression: str, row: Json, event_type: str) -> None:
    text = f"version: 1\nenv: [KIND]\ntypes: {{hasura/public.events: {expression}}}\nrules:\n"

    selection = select_rules(read(text + rule("a", f"type: '{event_type}'")), event(row))

    assert (names(selection), selection.event_type) == (["a"], event_type)


def test_the_type_of_a_deleted_row_is_what_it_said_last() -> None:
    gone = event(None, Op.DELETE, {"event_type": "Customer_Created"})

    assert names(select_rules(read(TEXT), gone)) == ["created", "both", "any"]


def test_a_cron_event_has_a_type_by_its_payload() -> None:
    text = "version: 1\ntypes: {cron/nightly: row.kind}\nrules:\n"
    rules = read(text + rule("a", "type: full", source="cron/nightly"))

    assert names(select_rules(rules, event({"kind": "Full"}, source="cron/nightly"))) == ["a"]


@pytest.mark.parametrize(
    ("row", "reason", "why"),
    [
        ({"event_type": None}, Reason.BAD_MAPPING, "is null, and an event must have a type"),
        ({"event_type": " "}, Reason.BAD_MAPPING, "is empty, and an event must have a type"),
        ({"event_type": True}, Reason.BAD_MAPPING, "is neither a text nor a number"),
        ({"event_type": ["A"]}, Reason.BAD_MAPPING, "is neither a text nor a number"),
        ({}, Reason.BAD_MAPPING, "names `event_type` that the row does not have"),
        ([], Reason.NOT_A_ROW, "the event's `new` is not a row but another JSON value"),
    ],
)
def test_a_type_that_cannot_be_said_concerns_no_rule_and_names_its_place(
    row: Json, reason: Reason, why: str
) -> None:
    selection = select_rules(read(TEXT), event(row))

    assert selection.rules == ()
    assert selection.failure is not None
    assert selection.failure.reason is reason
    assert selection.failure.hint.startswith("rules.yaml:2: types.hasura/public.events: ")
    assert why in selection.failure.hint


def test_a_column_that_mssql_left_out_is_null() -> None:
    selection = select_rules(read(TEXT), event({}, absent_is_null=True))

    assert selection.failure is not None
    assert "is null" in selection.failure.hint


# What a rules file may say


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (
            "version: 1\nrules:\n" + rule("a", "type: A"),
            3,
            "rules[0].type: `types` has no entry for `hasura/public.events`",
        ),
        (
            HEAD + rule("a", "type: A") + rule("b", "type: A", source="hasura/public.orders"),
            5,
            "rules[1].type: `types` has no entry for `hasura/public.orders`",
        ),
        (
            HEAD + rule("a", source="hasura/public.orders"),
            2,
            "types.hasura/public.events: no rule is `from: hasura/public.events`; write one",
        ),
        (HEAD + rule("a"), 2, "types.hasura/public.events: no rule that is `from: hasura/public"),
        (HEAD + rule("a", "type: ''"), 4, "rules[0].type: is empty; leave it out"),
        (HEAD + rule("a", "type: []"), 4, "rules[0].type: is empty; leave it out"),
        (HEAD + rule("a", "type: [A, '']"), 4, "rules[0].type[1]: is empty; leave it out"),
        (HEAD + rule("a", "type: {a: b}"), 4, "rules[0].type: must be one value"),
        (HEAD + rule("a", "type: '{{ row.a }}'"), 4, "rules[0].type: is the text of a type"),
        (
            HEAD.replace("row.event_type", "row.") + rule("a", "type: A"),
            2,
            "types.hasura/public.events: is not a template",
        ),
        (
            HEAD.replace("row.event_type", "item.a") + rule("a", "type: A"),
            2,
            "types.hasura/public.events: there is no `item` here",
        ),
        (
            HEAD.replace("row.event_type", "env.NONE") + rule("a", "type: A"),
            2,
            "types.hasura/public.events: `env` does not list `NONE`",
        ),
        ("version: 1\ntypes: [a]\nrules:\n" + rule("a"), 2, "types: must be a mapping of sources"),
        ("version: 1\ntypes: {}\nrules:\n" + rule("a"), 2, "types: is empty; leave it out"),
        (
            HEAD.replace("hasura/public.events", "servicenow/incident") + rule("a"),
            2,
            "types.servicenow/incident: is no source whose events have types",
        ),
    ],
)
def test_a_fault_of_types_is_named_with_its_line(text: str, line: int, what: str) -> None:
    found = faults(text)

    assert any(at == line and what in said for at, said in found), found


def test_a_type_is_not_for_rules_from_servicenow() -> None:
    text = HEAD + rule("a", "type: A") + "  - {name: b, from: servicenow/incident, type: A}\n"

    assert (5, "rules.yaml:5: rules[1].type: is for rules from hasura/SCHEMA.TABLE, cron/NAME and "
            "scheduled; take it out") in faults(text)  # fmt: skip


def test_an_editor_takes_what_the_program_takes() -> None:
    jsonschema.validate(yaml.safe_load(TEXT), SCHEMA)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(HEAD + rule("a", "type: ''")), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            yaml.safe_load(TEXT.replace("{hasura/public.events:", "{servicenow/incident:")), SCHEMA
        )
