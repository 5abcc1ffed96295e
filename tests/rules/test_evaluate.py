"""What an event means by a rule, for each key."""

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.core.event import Event, Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.step import STATE, DesiredState, Step
from function.core.trail import GONE, NOT_YET, place
from function.core.values import FIELD_CHARACTERS_MAX, Json
from function.rules.evaluate import ELEMENTS_MAX, evaluate
from function.rules.keys import join_key
from function.rules.loader import load_rules
from function.rules.model import Rule

ROW: dict[str, Json] = {
    "id": 1,
    "title": "Router down",
    "severity": "major",
    "status": "open",
    "resolution": None,
    "updated_at": "2024-01-02T03:04:05+00:00",
    "items": [{"id": "a", "n": 1}, {"id": "b", "n": 2}],
}
OUTAGE = """\
    when: row.severity in ['major', 'critical']
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
        impact: "{{ row.severity | lookup({'critical': 1, 'major': 2}) }}"
        category: network
      resolve_when: row.status == 'fixed'
      close_notes: "{{ row.resolution or 'Fixed' }}"
      order_by: row.updated_at
"""
ITEMS = """\
    each: row.items
    ticket:
      key: "{{ row.id }}/{{ item.id }}"
      fields: {short_description: "{{ item.n }} of {{ row.title }}"}
"""


def rule(body: str, **environ: str) -> Rule:
    (only,) = load_rules(
        f"version: 1\nenv: [{', '.join(environ)}]\nrules:\n  - name: r\n    from: "
        f"hasura/public.outages\n{body}",
        environ=environ,
    ).rules
    return only


def rule_template(field: str, **environ: str) -> Rule:
    return rule(
        f'    ticket: {{key: "{{{{ row.id }}}}", fields: {{description: {field}}}}}\n', **environ
    )


def event(op: str, old: Json = None, new: Json = None, **more: Any) -> Event:
    return Event("e-1", "hasura/public.outages", Op(op), old, new, "content", "{}", **more)


def only(steps: list[Step]) -> Step:
    (step,) = steps
    return step


def wants(step: Step) -> DesiredState:
    assert isinstance(step.wants, DesiredState)
    return step.wants


def failure(step: Step) -> Failure:
    assert isinstance(step.wants, Failure)
    assert step.wants.retryability is Retryability.PERMANENT
    return step.wants


def said(field: str, row: dict[str, Json], **environ: str) -> str:
    return wants(
        only(evaluate(rule_template(field, **environ), event("INSERT", new={"id": 1, **row})))
    ).fields["description"]


# Where a row was and is


def test_an_insert_leaves_not_yet_for_the_new_image() -> None:
    step = only(evaluate(rule(OUTAGE), event("INSERT", new=ROW)))

    assert (step.key, step.op, step.left, step.entered) == ("1", Op.INSERT, NOT_YET, place(ROW))
    assert (step.was_resolved, step.was_wanted, step.order) == (False, False, ROW["updated_at"])
    assert step.wants == DesiredState(
        when=True,
        resolved=False,
        gone=False,
        fields={"short_description": "Router down", "impact": "2", "category": "network"},
        close={"close_code": "Solution provided", "close_notes": "Fixed"},
    )


def test_an_update_goes_from_the_old_image_to_the_new() -> None:
    fixed = {**ROW, "status": "fixed", "resolution": "Rebooted"}

    step = only(evaluate(rule(OUTAGE), event("UPDATE", ROW, fixed)))

    assert (step.op, step.left, step.entered) == (Op.UPDATE, place(ROW), place(fixed))
    assert (step.was_resolved, step.was_wanted) == (False, True)
    assert wants(step).resolved
    assert wants(step).close == {"close_code": "Solution provided", "close_notes": "Rebooted"}


def test_an_update_says_whether_the_place_left_was_resolved_and_wanted() -> None:
    minor = {**ROW, "status": "fixed", "severity": "minor"}

    step = only(evaluate(rule(OUTAGE), event("UPDATE", minor, ROW)))

    assert (step.was_resolved, step.was_wanted) == (True, False)


NAMED = "ab" * 16
NAMING = OUTAGE.replace("      resolve_when:", "      sys_id: row.ticket\n      resolve_when:")


@pytest.mark.parametrize("ticket", [NAMED, NAMED.upper(), f" {NAMED}\n"])
def test_a_row_names_a_ticket_however_it_spells_its_sys_id(ticket: str) -> None:
    step = only(evaluate(rule(NAMING), event("INSERT", new={**ROW, "ticket": ticket})))

    assert (wants(step).sys_id, step.progress) == (NAMED, frozenset())


@pytest.mark.parametrize("ticket", [None, "", " "])
def test_a_row_names_none_by_null_or_by_nothing(ticket: str | None) -> None:
    assert (
        wants(only(evaluate(rule(NAMING), event("INSERT", new={**ROW, "ticket": ticket})))).sys_id
        == ""
    )


@pytest.mark.parametrize("ticket", ["INC0010001", NAMED[1:], f"{NAMED}0", "g" * 32, 7, True, []])
def test_what_is_no_sys_id_is_a_failure_that_names_the_place(ticket: Json) -> None:
    failed = failure(only(evaluate(rule(NAMING), event("INSERT", new={**ROW, "ticket": ticket}))))

    assert failed.reason is Reason.BAD_MAPPING
    assert "rules[0].ticket.sys_id: is not a sys_id for this row" in failed.hint
    assert str(ticket) not in failed.hint or ticket == []


@pytest.mark.parametrize("image", [{"severity": "minor"}, {}], ids=["below when", "gone"])
def test_a_row_that_is_to_have_no_ticket_names_none(image: dict[str, Json]) -> None:
    row = {**ROW, "ticket": "no sys_id", **image}
    step = only(
        evaluate(rule(NAMING), event("UPDATE", row, row) if image else event("DELETE", row))
    )

    assert wants(step).sys_id == ""


def changed(before: dict[str, Json], **after: Json) -> Step:
    old = {**ROW, "ticket": NAMED, **before}
    return only(evaluate(rule(NAMING), event("UPDATE", old, {**old, **after})))


def test_what_a_row_changed_is_known_where_it_named_the_ticket_before() -> None:
    assert changed({}).progress == frozenset()
    assert changed({}, title="Down").progress == {"short_description"}
    assert changed({}, resolution="Rebooted").progress == frozenset()
    assert changed({}, title="Down", status="fixed").progress == {"short_description", STATE}
    assert changed({"status": "fixed"}, status="open", title="Down").progress == {
        "short_description"
    }
    assert changed({"severity": "major"}, severity="critical").progress == {"impact"}


@pytest.mark.parametrize("ticket", [None, "cd" * 16, "no sys_id"])
def test_it_is_not_where_the_row_named_none_or_another_before(ticket: str | None) -> None:
    assert changed({"ticket": ticket}, ticket=NAMED, title="Down").progress == frozenset()


def test_a_delete_leaves_the_old_image_for_good() -> None:
    step = only(evaluate(rule(OUTAGE), event("DELETE", ROW)))

    assert (step.op, step.left, step.entered, step.was_wanted) == (
        Op.DELETE,
        place(ROW),
        GONE,
        True,
    )
    assert (wants(step).gone, wants(step).resolved, wants(step).when) == (True, False, True)
    assert wants(step).fields["short_description"] == "Router down"


def test_a_manual_says_where_the_row_is_and_not_where_it_was() -> None:
    step = only(evaluate(rule(OUTAGE), event("MANUAL", {"id": 9}, ROW)))

    assert (step.key, step.op, step.left, step.entered) == ("1", Op.MANUAL, None, place(ROW))


def test_an_update_without_an_old_image_is_heard_like_an_insert() -> None:
    step = only(evaluate(rule(OUTAGE), event("UPDATE", None, ROW)))

    assert (step.op, step.left, step.entered) == (Op.UPDATE, NOT_YET, place(ROW))


def test_a_changed_key_is_a_delete_of_the_old_and_an_insert_of_the_new() -> None:
    moved = {**ROW, "id": 2, "updated_at": "2025-01-01T00:00:00+00:00"}

    gone, come = evaluate(rule(OUTAGE), event("UPDATE", ROW, moved))

    assert (gone.key, gone.op, gone.left, gone.entered, wants(gone).gone) == (
        "1",
        Op.DELETE,
        place(ROW),
        GONE,
        True,
    )
    assert (come.key, come.op, come.left, come.entered) == ("2", Op.INSERT, NOT_YET, place(moved))
    assert gone.order == come.order == moved["updated_at"]


def test_an_old_image_that_had_no_key_had_no_ticket() -> None:
    step = only(evaluate(rule(OUTAGE), event("UPDATE", {**ROW, "id": None}, ROW)))

    assert (step.key, step.op, step.left) == ("1", Op.INSERT, NOT_YET)


@pytest.mark.parametrize(
    ("op", "old", "new"),
    [
        ("INSERT", None, None),
        ("INSERT", None, [ROW]),
        ("UPDATE", ROW, None),
        ("UPDATE", "x", ROW),
        ("DELETE", None, None),
        ("DELETE", 3, None),
        ("MANUAL", None, "row"),
    ],
)
def test_an_image_that_is_no_row_is_a_failure(op: str, old: Json, new: Json) -> None:
    step = only(evaluate(rule(OUTAGE), event(op, old, new)))

    assert (step.key, step.left) == ("", None)
    assert failure(step).reason is Reason.NOT_A_ROW
    assert failure(step).hint.startswith("rules.yaml:4: rules[0]: the event's `")


# Keys


@pytest.mark.parametrize(
    ("identity", "key"),
    [
        (7, "7"),
        (9223372036854775807, "9223372036854775807"),
        (Decimal("12345678.90"), "12345678.9"),
        (True, "true"),
        ("7.00", "7.00"),  # a text, or a number that Hasura stringifies: which one cannot be told
        ("2024-02-29", "2024-02-29"),
        ("2024-01-02T03:04:05.60", "2024-01-02T03:04:05.60"),  # without an offset it is no instant
        ("13:14:15+03", "13:14:15+03"),
        ("infinity", "infinity"),
        ("2024-13-02T03:04:05+00:00", "2024-13-02T03:04:05+00:00"),
        ("2024-01-02T03:04:05+16:00", "2024-01-02T03:04:05+16:00"),
        ("ab  ", "ab  "),
        ("{{ row.title }}", "{{ row.title }}"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_key_is_spelled_as_the_event_spells_it(identity: Json, key: str) -> None:
    assert only(evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "id": identity}))).key == key


ONE_MEANING: list[tuple[str, list[Json]]] = [
    (
        "2024-01-02T01:04:05.6789+00:00",
        [
            "2024-01-02T01:04:05.6789+00:00",
            "2024-01-02T01:04:05.678900Z",
            "2024-01-02T06:34:05.6789+05:30",
            "2024-01-01T17:04:05.67890-08",
            "2024-01-02 01:23:37.6789+00:19:32",
        ],
    ),
    ("2024-01-02T01:04:05.1234567+00:00", ["2024-01-02T03:04:05.1234567+02:00"]),
    ("10000-01-01T00:00:00+00:00", ["10000-01-01T02:00:00+02:00", "9999-12-31T23:00:00-01:00"]),
    (
        "0044-03-15T12:00:00+00:00 BC",
        ["0044-03-15T13:00:00+01:00 BC", "0044-03-15T11:00:00-01:00 BC"],
    ),
    ("0001-12-31T23:30:00+00:00 BC", ["0001-01-01T00:30:00+01:00"]),
    ("7", [7, Decimal("7"), Decimal("7.0"), Decimal("7.00"), Decimal("0.7e1"), 7.0]),
    ("1500", [1500, Decimal("1500.0000"), Decimal("1.5e3")]),
    ("0.05", [Decimal("0.050"), Decimal("5.0e-2"), 0.05]),
    ("0", [0, Decimal("-0"), Decimal("0.00"), -0.0, Decimal("0e5")]),
    ("0189dcd1-8d4b-4a3c-9f5e-6a7b8c9d0e1f", ["0189DCD1-8D4B-4A3C-9F5E-6A7B8C9D0E1F"]),
    ('[7, "2024-01-02T01:04:05+00:00"]', [[Decimal("7.0"), "2024-01-02T03:04:05+02:00"]]),
    ('{"a": 1, "b": 2}', [{"b": Decimal("2.0"), "a": 1}]),
]


@pytest.mark.parametrize(
    ("key", "identity"), [(key, identity) for key, spelled in ONE_MEANING for identity in spelled]
)
def test_values_of_one_meaning_have_one_spelling_in_a_key(key: str, identity: Json) -> None:
    assert only(evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "id": identity}))).key == key


@pytest.mark.parametrize(
    "template",
    [
        "{{ row.at }}-{{ row.n }}",
        "{{ row['at'] ~ '-' ~ row.n }}",
        "{{ [row.at, row.n] | join('-') }}",
        "{{ '%s-%s' % (row.at, row.n) }}",
        "{{ '{}-{}'.format(row.at, row.n) }}",
        "{% for part in row.both %}{{ '-' if not loop.first }}{{ part }}{% endfor %}",
        "{% set at = row.at %}{{ at | string }}-{{ row.n | string }}",
    ],
)
def test_a_text_composed_of_values_holds_them_as_they_stand_in_a_key(template: str) -> None:
    ticket = rule(
        f'    ticket: {{key: "{template}", fields: {{description: "{{{{ row.at }}}} {{{{ row.n '
        '}}"}}\n'
    )

    def step(at: str, n: str) -> Step:
        return only(
            evaluate(
                ticket, event("INSERT", new={"at": at, "n": Decimal(n), "both": [at, Decimal(n)]})
            )
        )

    one, other = step("2024-01-02T03:04:05+02:00", "7.50"), step("2024-01-01T20:04:05-05:00", "7.5")

    assert one.key == other.key == "2024-01-02T01:04:05+00:00-7.5"
    # What people read is as the row has it.
    assert wants(one).fields["description"] == "2024-01-02T03:04:05+02:00 7.50"


def test_a_part_of_a_time_is_one_of_the_instant() -> None:
    ticket = rule('    ticket: {key: "{{ row.at[:10] }}", fields: {description: x}}\n')

    steps = [
        only(evaluate(ticket, event("INSERT", new={"at": at})))
        for at in ("2024-01-02T01:00:00+02:00",) * 2
    ]

    assert {step.key for step in steps} == {"2024-01-01"}


def test_an_element_that_is_a_value_is_settled_too() -> None:
    ticket = rule(
        '    each: row.parts\n    ticket: {key: "{{ item }}", fields: {description: "{{ item '
        '}}"}}\n'
    )

    step = only(evaluate(ticket, event("INSERT", new={"parts": [Decimal("7.0")]})))

    assert (step.key, wants(step).fields["description"]) == ("7", "7.0")


def test_a_row_is_where_it_was_whatever_the_session_that_wrote_it() -> None:
    spelled = ["2024-01-02T03:04:05.1234567+02:00", "2024-01-02T01:04:05.1234567Z"]

    assert (
        place({"at": spelled[0]})
        == place({"at": spelled[1]})
        != place({"at": "2024-01-02T01:04:05.1234568Z"})
    )
    assert place({"n": -0.0}) == place({"n": 0})


# Keys of several parts

PARTS = """\
    each: row.items
    ticket:
      key: ["{{ row.id }}", "{{ item.id }}"]
      fields: {short_description: "{{ item.n }} of {{ row.title }}"}
"""


def key_of(*parts: Json) -> str:
    names = [f"c{number}" for number, _ in enumerate(parts)]
    key = ", ".join(f'"{{{{ row.{name} }}}}"' for name in names)
    ticket = rule(f"    ticket: {{key: [{key}], fields: {{description: x}}}}\n")
    return only(evaluate(ticket, event("INSERT", new=dict(zip(names, parts, strict=True))))).key


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ([1, "a"], "1/a"),
        (["a/b", "c"], "a\\/b/c"),
        (["a", "b/c"], "a/b\\/c"),
        (["a\\", "b"], "a\\\\/b"),
        (["a\\/b", "c"], "a\\\\\\/b/c"),
        (["a/b"], "a/b"),
        ([Decimal("7.0"), "2024-01-02T03:04:05+02:00"], "7/2024-01-02T01:04:05+00:00"),
        ([True, "é 雪", " x "], "true/é 雪/ x "),
    ],
)
def test_a_key_of_several_parts_reads_as_they_do(parts: list[Json], key: str) -> None:
    assert key_of(*parts) == key


@given(*[st.lists(st.text("ab/\\", min_size=1, max_size=4), min_size=2, max_size=4)] * 2)
def test_other_parts_are_another_key(one: list[str], other: list[str]) -> None:
    assert (join_key(one) == join_key(other)) == (one == other)


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (None, "a part of the key is null; a row without a key can have no ticket"),
        ("", "a part of the key is empty; a row without a key can have no ticket"),
        (" ", "a part of the key is empty; a row without a key can have no ticket"),
        ("a\x00", "the key holds a character that no database stores"),
    ],
)
def test_every_part_of_a_key_is_needed(part: Json, what: str) -> None:
    step = only(
        evaluate(rule(PARTS), event("INSERT", new={**ROW, "items": [{"id": part, "n": 1}]}))
    )

    assert failure(step) == Failure(
        Retryability.PERMANENT, Reason.BAD_KEY, f"rules.yaml:8: rules[0].ticket.key[1]: {what}"
    )


def test_all_parts_together_are_no_longer_than_a_key() -> None:
    step = only(
        evaluate(
            rule(PARTS),
            event("INSERT", new={**ROW, "id": "x" * 250, "items": [{"id": "/" * 3, "n": 1}]}),
        )
    )

    assert failure(step).hint == "rules.yaml:8: rules[0].ticket.key: the key is over 255 characters"


# Two elements under one key

TWICE: list[Json] = [{"id": "a", "n": 1}, {"id": "a", "n": 2}]


def test_two_elements_with_one_key_are_a_failure_that_names_it() -> None:
    a, b = evaluate(
        rule(PARTS), event("INSERT", new={**ROW, "items": [*TWICE, {"id": "b", "n": 3}]})
    )

    assert (a.key, a.op, a.left) == ("1/a", Op.INSERT, NOT_YET)
    assert failure(a) == Failure(
        Retryability.PERMANENT,
        Reason.BAD_KEY,
        "rules.yaml:8: rules[0].ticket.key: two elements of the list have this key, and a ticket "
        "is for one; name what tells them apart",
    )
    assert (b.key, wants(b).fields) == ("1/b", {"short_description": "3 of Router down"})


def test_elements_that_are_alike_are_two_all_the_same() -> None:
    step = only(evaluate(rule(PARTS), event("MANUAL", new={**ROW, "items": [TWICE[0], TWICE[0]]})))

    assert failure(step).reason is Reason.BAD_KEY


def test_elements_are_told_apart_again_from_the_place_where_they_were_not() -> None:
    twice: Json = {**ROW, "items": TWICE}
    once: Json = {**ROW, "items": [TWICE[1]]}
    none: Json = {**ROW, "items": []}

    came = only(evaluate(rule(PARTS), event("UPDATE", once, twice)))
    went = only(evaluate(rule(PARTS), event("UPDATE", twice, once)))
    left = only(evaluate(rule(PARTS), event("UPDATE", twice, none)))
    gone = only(evaluate(rule(PARTS), event("DELETE", twice)))

    assert failure(came).reason is Reason.BAD_KEY
    assert (came.left, came.entered) == (went.entered, went.left)
    assert wants(went).fields == {"short_description": "2 of Router down"}
    assert (left.op, left.entered, wants(left).gone) == (Op.DELETE, GONE, True)
    assert (gone.op, gone.entered, wants(gone).gone) == (Op.DELETE, GONE, True)


def test_elements_of_which_none_deserves_a_ticket_may_have_one_key() -> None:
    step = only(
        evaluate(
            rule(f"    when: item.n > 5\n{PARTS}"), event("INSERT", new={**ROW, "items": TWICE})
        )
    )

    assert not wants(step).when


def test_elements_may_share_a_ticket_and_one_that_deserves_it_opens_it() -> None:
    shared = """\
    each: row.items
    when: item.n == 1
    ticket: {key: all, shared: true, fields: {short_description: "{{ item.n }}"}}
"""
    step = only(evaluate(rule(shared), event("INSERT", new={**ROW, "items": [TWICE[1], TWICE[0]]})))

    assert (step.key, wants(step).when, wants(step).fields) == (
        "all",
        True,
        {"short_description": "1"},
    )


@pytest.mark.parametrize(
    ("identity", "what"),
    [
        (None, "a part of the key is null; a row without a key can have no ticket"),
        ("", "the key is empty; a row without a key can have no ticket"),
        (" \t", "the key is empty; a row without a key can have no ticket"),
        ("x" * 256, "the key is over 255 characters"),
        ("a\x00", "the key holds a character that no database stores"),
        ("a\ud800", "the key holds a character that no database stores"),
    ],
)
def test_a_row_without_a_usable_key_is_a_failure(identity: Json, what: str) -> None:
    step = only(evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "id": identity})))

    assert step.key == ""
    assert failure(step) == Failure(
        Retryability.PERMANENT, Reason.BAD_KEY, f"rules.yaml:8: rules[0].ticket.key: {what}"
    )


def test_a_row_that_deserves_no_ticket_needs_no_key() -> None:
    assert (
        evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "id": None, "severity": "minor"})) == []
    )


def test_a_row_whose_new_key_cannot_be_said_keeps_its_ticket_open() -> None:
    step = only(evaluate(rule(OUTAGE), event("UPDATE", ROW, {**ROW, "id": None})))

    assert (step.key, failure(step).reason) == ("", Reason.BAD_KEY)


# Lists


def test_each_element_has_its_ticket() -> None:
    a, b = evaluate(rule(ITEMS), event("INSERT", new=ROW))

    assert [(a.key, a.op, a.left), (b.key, b.op, b.left)] == [
        ("1/a", Op.INSERT, NOT_YET),
        ("1/b", Op.INSERT, NOT_YET),
    ]
    assert a.entered != b.entered
    assert wants(b).fields == {"short_description": "2 of Router down"}


def test_elements_come_stay_and_leave() -> None:
    later: Json = {**ROW, "items": [{"id": "b", "n": 3}, {"id": "c", "n": 4}]}

    steps = {step.key: step for step in evaluate(rule(ITEMS), event("UPDATE", ROW, later))}

    assert {key: step.op for key, step in steps.items()} == {
        "1/a": Op.DELETE,
        "1/b": Op.UPDATE,
        "1/c": Op.INSERT,
    }
    assert (steps["1/a"].entered, wants(steps["1/a"]).gone) == (GONE, True)
    assert wants(steps["1/b"]).fields == {"short_description": "3 of Router down"}
    inserted = {step.key: step for step in evaluate(rule(ITEMS), event("INSERT", new=ROW))}
    assert steps["1/b"].left == inserted["1/b"].entered


def test_a_deleted_row_takes_all_its_elements_with_it() -> None:
    assert [(step.key, step.op) for step in evaluate(rule(ITEMS), event("DELETE", ROW))] == [
        ("1/a", Op.DELETE),
        ("1/b", Op.DELETE),
    ]


@pytest.mark.parametrize("nothing", [None, []])
def test_a_row_without_elements_means_nothing(nothing: Json) -> None:
    assert evaluate(rule(ITEMS), event("INSERT", new={**ROW, "items": nothing})) == []


def test_an_element_without_a_key_is_one_failure_beside_the_others_steps() -> None:
    row: Json = {**ROW, "items": [{"id": "a", "n": 1}, {"id": None}, {}, "x"]}

    good, bad = evaluate(rule(ITEMS), event("UPDATE", {**ROW, "items": [{"id": "z", "n": 1}]}, row))

    assert (good.key, good.op) == ("1/a", Op.INSERT)
    assert (bad.key, failure(bad).reason) == ("", Reason.BAD_KEY)


@pytest.mark.parametrize(
    "not_a_list", [{"a": 1}, "abc", 3, [{"id": n, "n": 1} for n in range(ELEMENTS_MAX + 1)]]
)
def test_what_is_no_list_or_too_long_a_one_is_a_failure(not_a_list: Json) -> None:
    step = only(evaluate(rule(ITEMS), event("INSERT", new={**ROW, "items": not_a_list})))

    assert failure(step).reason is Reason.BAD_MAPPING
    assert failure(step).hint.startswith("rules.yaml:6: rules[0].each: ")


def test_the_longest_list_is_rendered_in_time() -> None:
    items: list[Json] = [{"id": n, "n": n, "x": "x" * 100} for n in range(ELEMENTS_MAX)]

    started = time.thread_time()
    steps = evaluate(
        rule(ITEMS), event("UPDATE", {**ROW, "items": items}, {**ROW, "items": items, "title": "x"})
    )

    assert len(steps) == ELEMENTS_MAX
    assert all(isinstance(step.wants, DesiredState) for step in steps)
    assert time.thread_time() - started < 2


# What the ticket should say


def test_an_unknown_value_is_a_failure_that_names_the_place_and_nothing_of_the_row() -> None:
    step = only(
        evaluate(
            rule(OUTAGE.replace("'critical']", "'critical', 'planted']")),
            event("INSERT", new={**ROW, "severity": "planted"}),
        )
    )

    assert step.key == "1"
    assert failure(step) == Failure(
        Retryability.PERMANENT,
        Reason.UNKNOWN_VALUE,
        "rules.yaml:11: rules[0].ticket.fields.impact: lookup does not know this value; add it "
        "or give a default",
    )


def test_a_row_that_deserves_no_ticket_any_more_still_says_what_can_be_said() -> None:
    fixed = {**ROW, "severity": "minor", "status": "fixed", "title": "Over"}

    step = only(evaluate(rule(OUTAGE), event("UPDATE", ROW, fixed)))

    assert (wants(step).when, wants(step).resolved) == (False, True)
    assert wants(step).fields == {"short_description": "Over", "category": "network"}


def test_an_insert_of_no_concern_is_no_failure_whatever_is_in_it() -> None:
    step = only(evaluate(rule(OUTAGE), event("INSERT", new={"id": 1, "severity": "minor"})))

    assert (wants(step).when, wants(step).resolved) == (False, False)


def test_a_deletion_that_carries_only_the_key_is_heard() -> None:
    step = only(evaluate(rule(OUTAGE), event("DELETE", {"id": 1})))

    assert (step.key, wants(step).gone, wants(step).fields) == ("1", True, {"category": "network"})
    assert wants(step).close == {
        "close_code": "Solution provided",
        "close_notes": "The row was deleted in the app",
    }


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (OUTAGE.replace("row.severity in", "row.nope in"), "rules.yaml:6: rules[0].when"),
        (
            OUTAGE.replace("row.status ==", "row.nope =="),
            "rules.yaml:13: rules[0].ticket.resolve_when",
        ),
        (OUTAGE.replace("row.updated_at", "row.nope"), "rules.yaml:15: rules[0].ticket.order_by"),
    ],
)
def test_a_rule_that_names_no_column_of_the_row_is_a_failure(body: str, path: str) -> None:
    step = only(evaluate(rule(body), event("INSERT", new=ROW)))

    assert failure(step).reason is Reason.BAD_MAPPING
    assert failure(step).hint == f"{path}: names `nope` that the row does not have"


def test_notes_that_cannot_be_said_fail_only_the_step_that_resolves() -> None:
    broken = rule(OUTAGE.replace("row.resolution or", "row.nope or"))

    assert (
        wants(only(evaluate(broken, event("INSERT", new=ROW)))).close["close_notes"]
        == "Resolved in the app"
    )
    assert (
        failure(only(evaluate(broken, event("UPDATE", ROW, {**ROW, "status": "fixed"})))).reason
        is Reason.BAD_MAPPING
    )


@pytest.mark.parametrize("order", [{"a": 1}, [1], "x" * 300])
def test_what_orders_nothing_is_a_failure(order: Json) -> None:
    step = only(evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "updated_at": order})))

    assert failure(step).hint.endswith("is neither a number nor a short text, so it orders nothing")


def test_a_text_too_long_for_its_field_is_cut_with_an_ellipsis() -> None:
    most = FIELD_CHARACTERS_MAX["short_description"]
    for length, shown in (
        (most, "x" * most),
        (most + 1, "x" * (most - 1) + "…"),
        (8_000_000, "x" * (most - 1) + "…"),
    ):
        step = only(evaluate(rule(OUTAGE), event("INSERT", new={**ROW, "title": "x" * length})))

        assert wants(step).fields["short_description"] == shown
    assert said('"{{ row.x }}"', {"x": "é" * 5000}) == "é" * 3999 + "…"


@given(st.text(max_size=300))
def test_a_text_of_a_row_arrives_as_it_is(title: str) -> None:
    assert said('"{{ row.x }}"', {"x": title}) == title
    assert said('"[{{ row.x }}]"', {"x": title}) == f"[{title}]"


def test_numbers_arrive_digit_by_digit() -> None:
    for number, digits in (
        (Decimal("12345678.9"), "12345678.9"),
        (9223372036854775807, "9223372036854775807"),
        (10**400, "1" + "0" * 400),
        (Decimal("1.50"), "1.50"),
    ):
        assert said('"{{ row.x }}"', {"x": number}) == digits
        assert said('"n={{ row.x }}"', {"x": number}) == f"n={digits}"


# What a rule can name


def test_a_column_known_from_the_other_image_is_null_where_it_is_absent() -> None:
    one = rule_template('"<{{ row.late }}{{ old.early }}{{ new.early }}>"')

    assert wants(
        only(evaluate(one, event("UPDATE", {"id": 1, "late": 5}, {"id": 1, "early": 6})))
    ).fields == {"description": "<6>"}


def test_a_missing_column_is_a_failure_but_for_a_source_that_leaves_nulls_out() -> None:
    one = rule_template('"<{{ row.nope }}>"')

    assert failure(only(evaluate(one, event("INSERT", new={"id": 1})))).reason is Reason.BAD_MAPPING
    assert wants(
        only(evaluate(one, event("INSERT", new={"id": 1}, absent_is_null=True)))
    ).fields == {"description": "<>"}


@pytest.mark.parametrize(
    ("op", "old", "new", "changed"),
    [
        ("UPDATE", {"id": 1, "a": 1, "b": 2}, {"id": 1, "a": Decimal("1.0"), "b": 3}, "b"),
        ("UPDATE", {"id": 1, "a": None}, {"id": 1, "c": 2}, "c"),
        (
            "UPDATE",
            {"id": 1, "t": "2024-01-01T00:00:00Z"},
            {"id": 1, "t": "2024-01-01T02:00:00+02:00"},
            "",
        ),
        ("UPDATE", None, {"id": 1, "c": 2}, "id,c"),
        ("INSERT", None, {"id": 1, "a": 1}, "id,a"),
        ("MANUAL", None, {"id": 1, "a": 1}, "id,a"),
        ("DELETE", {"id": 1, "a": 1}, None, "id,a"),
    ],
)
def test_a_rule_sees_which_columns_changed(op: str, old: Json, new: Json, changed: str) -> None:
    step = only(evaluate(rule_template("\"{{ changed | join(',') }}\""), event(op, old, new)))

    assert wants(step).fields["description"] == changed


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("op", "UPDATE"),
        ("event.op", "UPDATE"),
        ("event.id", "e-1"),
        ("event.correlation_id", "abc"),
        ("event.schema", "public"),
        ("event.table", "outages"),
        ("event.trigger", "t"),
        ("event.trace_id", "abc"),
        ("event.created_at | sn_datetime", "2024-01-02 03:04:05"),
        ("event.session_variables['x-hasura-role']", "user"),
        ("old.a ~ new.a ~ row.a", "122"),
        ("env.PORT", "8080"),
    ],
)
def test_a_rule_can_name_the_event_both_images_and_listed_variables(named: str, value: str) -> None:
    step = only(
        evaluate(
            rule_template(f'"{{{{ {named} }}}}"', PORT="8080"),
            event(
                "UPDATE",
                {"id": 1, "a": 1},
                {"id": 1, "a": 2},
                trigger="t",
                trace_id="abc",
                created_at=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
                session_variables={"x-hasura-role": "user"},
            ),
        )
    )

    assert wants(step).fields["description"] == value


# Whatever comes

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text()
    | st.sampled_from(["major", "fixed", "2024-01-01T00:00:00Z"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)
IMAGES = JSON | st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(ROW, JSON)
    | {"items": st.lists(st.fixed_dictionaries({"id": JSON, "n": JSON}))},
)
RULES = (
    rule(OUTAGE),
    rule(ITEMS),
    rule_template('"{{ changed }} {{ row.title + 1 }} {{ old.status }} {{ row | tojson }}"'),
)


@given(st.sampled_from(list(Op)), IMAGES, IMAGES, st.booleans())
def test_no_event_makes_a_rule_raise(op: Op, old: Json, new: Json, absent_is_null: bool) -> None:
    for one in RULES:
        for step in evaluate(one, event(op, old, new, absent_is_null=absent_is_null)):
            assert isinstance(step.wants, Failure) or step.key.strip()


@pytest.mark.parametrize(
    "field", ['"{{ row.x }}"', '"{{ row.x == row.x }}"', '"{{ changed }}"', '"{{ row }}"']
)
def test_a_row_nested_without_end_is_a_failure(field: str) -> None:
    deep: Json = []
    for _ in range(50_000):
        deep = {"a": [deep]}

    step = only(
        evaluate(rule_template(field), event("UPDATE", {"id": 1, "x": []}, {"id": 1, "x": deep}))
    )

    assert failure(step).reason is Reason.BAD_MAPPING


def test_a_rule_without_end_is_a_failure_soon() -> None:
    endless = rule_template(
        '"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"'
    )

    started = time.thread_time()
    step = only(evaluate(endless, event("INSERT", new={"id": 1})))

    assert failure(step).hint == "rules.yaml:6: rules[0].ticket.fields.description: takes too long"
    assert time.thread_time() - started < 2
