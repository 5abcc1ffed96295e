"""The `note` of a rule: read and checked, and what it wants of a row."""

import jsonschema
import pytest
import yaml

from function.core.event import Event, Op
from function.core.outcome import Failure
from function.core.step import DesiredState, Step
from function.core.values import Json
from function.rules.evaluate import evaluate
from function.rules.loader import RulesError, load_rules
from function.rules.model import Rule, Rules
from function.rules.note import TEXT_CHARACTERS_MAX, note_of
from function.rules.schema import schema
from function.servicenow.journal import JOURNAL_CHARACTERS_MAX

COMMENT = """\
  - name: comment
    from: hasura/public.outage_comments
    note:
      ticket: outage
      for: "{{ row.outage_id }}"
      key: "{{ row.id }}"
      field: comments
      text: "{{ row.author }}: {{ row.body }}"
"""
OUTAGE = """\
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
"""
BEGINNING = "version: 1\nrules:\n"
FOR = 'for: "{{ row.outage_id }}"'
TWO = '["{{ row.shop }}", "{{ row.outage_id }}"]'
ROW: dict[str, Json] = {"id": 7, "outage_id": 1, "author": "Ada", "body": "Still down"}


def read(comment: str = COMMENT, outage: str = OUTAGE) -> Rules:
    return load_rules(BEGINNING + comment + outage, environ={})


def note_rule(old: str = "", new: str = "", outage: str = OUTAGE) -> Rule:
    return read(COMMENT.replace(old, new) if old else COMMENT, outage).rules[0]


def faults(comment: str, outage: str = OUTAGE) -> list[str]:
    with pytest.raises(RulesError) as caught:
        read(comment, outage)
    return [str(fault) for fault in caught.value.faults]


def step(rule: Rule, op: str = "INSERT", **columns: Json) -> Step:
    row = ROW | columns
    old, new = (row, None) if op == "DELETE" else (None, row)
    [only] = evaluate(rule, Event("e", rule.source, Op(op), old, new, "c", "{}"))
    return only


def wanted(rule: Rule, op: str = "INSERT", **columns: Json) -> DesiredState:
    wants = step(rule, op, **columns).wants
    assert isinstance(wants, DesiredState)
    return wants


# What is read


def test_a_note_knows_the_rule_whose_tickets_it_is_for_wherever_that_stands() -> None:
    outage = OUTAGE.replace("ticket:", "ticket:\n      on_missing: ignore")
    before = note_of(note_rule(outage=outage))
    after = note_of(load_rules(BEGINNING + outage + COMMENT, environ={}).rules[1])

    for note in (before, after):
        assert (note.ticket, note.table, note.on_missing) == ("outage", "incident", "ignore")
        assert (note.journal, note.final) == ("comments", frozenset("78"))


def test_the_ticket_s_rule_goes_by_its_name_or_its_id() -> None:
    renamed = OUTAGE.replace("name: outage", "name: failure\n    id: outage")

    assert note_of(note_rule(outage=renamed)).ticket == "outage"
    assert note_of(note_rule("ticket: outage", "ticket: failure", renamed)).ticket == "outage"


@pytest.mark.parametrize("more", ["shared: true", "after_close: new"])
def test_a_note_may_be_for_any_kind_of_ticket(more: str) -> None:
    assert note_rule(outage=OUTAGE.replace("ticket:", f"ticket:\n      {more}"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "ticket: outage",
            "ticket: outages",
            "6: rules[0].note.ticket: there is no rule `outages`; did you mean `outage`?",
        ),
        (
            "ticket: outage",
            "ticket: comment",
            "6: rules[0].note.ticket: `comment` makes no tickets; name a rule with a `ticket`",
        ),
        (
            "      ticket: outage\n",
            "",
            "6: rules[0].note.ticket: is missing; name the rule that makes the ticket",
        ),
        (
            '      for: "{{ row.outage_id }}"\n',
            "",
            "6: rules[0].note.for: is missing; write the key of the ticket, such as "
            '"{{ row.outage_id }}"',
        ),
        (
            '      key: "{{ row.id }}"\n',
            "",
            "6: rules[0].note.key: is missing; write what identifies the row, such as "
            '"{{ row.id }}"',
        ),
        (
            "      field: comments\n",
            "",
            "6: rules[0].note.field: is missing; write comments, which the caller sees and is "
            "mailed, or work_notes, which only agents see",
        ),
        (
            "field: comments",
            "field: comment",
            "9: rules[0].note.field: must be one of comments, work_notes; did you mean `comments`?",
        ),
        (
            '      text: "{{ row.author }}: {{ row.body }}"\n',
            "",
            "6: rules[0].note.text: is missing; it says what the journal should say",
        ),
        (
            "field: comments",
            "field: comments\n      fields: {}",
            "10: rules[0].note.fields: there is no such key; did you mean `field`?",
        ),
        (
            'for: "{{ row.outage_id }}"',
            "for: []",
            "7: rules[0].note.for: is empty; write what identifies the row",
        ),
        (
            'key: "{{ row.id }}"',
            "key: fixed",
            "8: rules[0].note.key: is the same for every row; name a column",
        ),
    ],
)
def test_a_fault_is_told_with_its_line_and_its_place(old: str, new: str, fault: str) -> None:
    assert faults(COMMENT.replace(old, new)) == [f"rules.yaml:{fault}"]


def test_a_rule_of_tickets_with_a_fault_is_not_told_as_one_that_is_not_there() -> None:
    faulty = OUTAGE.replace("    ticket:", "    tickets:")

    assert [fault.split(": ")[1] for fault in faults(COMMENT, faulty)] == [
        "rules[1].ticket",
        "rules[1].tickets",
    ]


def test_a_for_of_another_form_than_the_ticket_s_key_is_warned_of() -> None:
    comment = COMMENT.replace(
        'for: "{{ row.outage_id }}"', 'for: ["{{ row.shop }}", "{{ row.outage_id }}"]'
    )
    [warning] = read(comment).warnings

    assert str(warning) == (
        "rules.yaml:7: rules[0].note.for: has 2 parts, and the `key` of outage has 1 part: the "
        "tickets of outage are found only where both give the same text"
    )
    assert read().warnings == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("field: comments", "field: description"),
        ("      field: comments\n", ""),
        ("note:", "ticket: {key: x, fields: {a: b}}\n    note:"),
    ],
)
def test_the_schema_refuses_what_the_rules_refuse(old: str, new: str) -> None:
    text = BEGINNING + COMMENT.replace(old, new) + OUTAGE

    jsonschema.validate(yaml.safe_load(BEGINNING + COMMENT + OUTAGE), schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())
    assert faults(COMMENT.replace(old, new))


# What is wanted


def test_a_note_wants_its_text_said_on_the_ticket_of_its_row() -> None:
    wants = wanted(note_rule())

    assert (wants.when, wants.fields) == (True, {"text": "Ada: Still down", "for": "1"})


def test_the_key_of_the_ticket_is_spelled_as_the_ticket_s_rule_spells_it() -> None:
    outages = OUTAGE.replace('key: "{{ row.id }}"', 'key: ["{{ row.shop }}", "{{ row.id }}"]')
    rule = note_rule(FOR, f"for: {TWO}", outages)
    outage: dict[str, Json] = {"id": 1, "shop": "A/B", "title": "x"}
    [ticket] = evaluate(
        read(outage=outages).rules[1],
        Event("e", "hasura/public.outages", Op.INSERT, None, outage, "c", "{}"),
    )

    assert wanted(rule, shop="A/B").fields["for"] == ticket.key == r"A\/B/1"


@pytest.mark.parametrize("outage_id", [None, "", " "])
def test_a_row_that_names_no_ticket_is_no_failure(outage_id: str | None) -> None:
    assert wanted(note_rule(), outage_id=outage_id).fields["for"] == ""


def test_a_ticket_s_key_that_can_be_none_is_a_failure() -> None:
    wants = step(note_rule(), outage_id="x" * 256).wants

    assert isinstance(wants, Failure)
    assert (
        wants.hint
        == "rules.yaml:7: rules[0].note.for: the key of the ticket is over 255 characters"
    )


def test_a_text_without_words_is_wanted_as_little_as_a_row_whose_when_is_false() -> None:
    rule = note_rule("{{ row.author }}: {{ row.body }}", "{{ row.body }}")

    assert not wanted(rule, body=" \n").when
    assert not wanted(note_rule("note:", "when: row.body != 'x'\n    note:"), body="x").when


def test_nothing_is_rendered_for_a_row_that_is_gone() -> None:
    wants = wanted(note_rule(), "DELETE")

    assert (wants.gone, wants.fields) == (True, {})


def test_a_text_is_cut_visibly_so_that_its_marker_fits_behind_it() -> None:
    text = wanted(note_rule(), body="x" * 5000).fields["text"]
    marker = "[hasura:0123456789abcdef]"

    assert len(text) == TEXT_CHARACTERS_MAX
    assert text.endswith("x…")
    assert len(f"edited: {text}\n{marker}") == JOURNAL_CHARACTERS_MAX


def test_a_note_for_each_element_may_name_the_element() -> None:
    comment = (
        COMMENT.replace("note:", "each: row.parts\n    note:")
        .replace("row.outage_id", "item.outage")
        .replace('key: "{{ row.id }}"', 'key: ["{{ row.id }}", "{{ item.id }}"]')
    )
    rule = read(comment).rules[0]
    row = ROW | {"parts": [{"id": "a", "outage": 1}, {"id": "b", "outage": 2}]}
    steps = evaluate(rule, Event("e", rule.source, Op.INSERT, None, row, "c", "{}"))

    assert [(s.key, s.wants.fields["for"]) for s in steps if isinstance(s.wants, DesiredState)] == [
        ("7/a", "1"),
        ("7/b", "2"),
    ]
