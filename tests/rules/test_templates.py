"""The language of rules: what a template gives, what it refuses, and how it is kept from running
away."""

import json
import time
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.core.outcome import Reason
from function.core.values import Json, Row, text
from function.rules.budget import RenderBudget, RenderError
from function.rules.syntax import InvalidTemplate
from function.rules.template_values import RowImage
from function.rules.templates import Template, parse_expression, parse_template

NAMES = ("row", "old", "new", "op", "changed", "event", "env", "item")
ROW: Row = {
    "id": 7,
    "title": "Router down",
    "nothing": None,
    "amount": Decimal("12345678.9"),
    "big": 9223372036854775807,
    "ok": True,
    "when": "2024-01-02T03:04:05.678901+05:30",
    "tags": ["b", "a"],
    "parts": [{"n": 1, "w": Decimal("1.5")}, {"n": 2, "w": Decimal("2.25")}],
    "items": {"x": 1},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def given_by(checked: Template, row: Row) -> Any:
    return checked.value(
        {"row": RowImage(row, set(row)), "op": "INSERT", "env": {"PORT": "1"}}, RenderBudget()
    )


def rendered(source: str, **columns: Json) -> Any:
    return given_by(parse_template(source, names=NAMES), {**ROW, **columns})


def worked_out(source: str, **columns: Json) -> Any:
    return given_by(parse_expression(source, names=NAMES), {**ROW, **columns})


def refused(source: str, **columns: Json) -> str:
    started = time.thread_time()
    with pytest.raises(RenderError) as caught:
        rendered(source, **columns)
    assert time.thread_time() - started < 2
    return caught.value.sentence


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ row.id }}", 7),
        ("{{ row.amount }}", Decimal("12345678.9")),
        ("{{ row.nothing }}", None),
        ("{{ row.ok }}", True),
        ("{{ row.tags }}", ["b", "a"]),
        ("{{ row.items.x }}", 1),
        ("{{ row['title'] }}", "Router down"),
        ("{{ (row.id, row.ok) }}", [7, True]),
        ("{{ row.parts | map(attribute='n') }}", [1, 2]),
    ],
)
def test_a_lone_value_keeps_its_type(source: str, value: Json) -> None:
    assert rendered(source) == value


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("plain", "plain"),
        ("#{{ row.id }}", "#7"),
        ("<{{ row.nothing }}>", "<>"),
        ("<{{ row.ok }}>", "<true>"),
        ("<{{ row.amount }}>", "<12345678.9>"),
        ("<{{ row.big }}>", "<9223372036854775807>"),
        ("<{{ row.parts }}>", '<[{"n": 1, "w": 1.5}, {"n": 2, "w": 2.25}]>'),
        ("<{{ 'x' if row.nothing }}>", "<>"),
        ("{{ 'a' ~ row.nothing ~ row.ok ~ 1.50 }}", "atrue1.5"),
        (
            (
                "{% for tag in row.tags | sort %}{{ loop.index }}{{ tag }}{{ ',' if not "
                "loop.last }}{% endfor %}"
            ),
            "1a,2b",
        ),
        ("{% if row.ok %}yes{% else %}no{% endif %}{% set x = row.id + 1 %} {{ x }}", "yes 8"),
        ("{# a remark #}x", "x"),
    ],
)
def test_what_is_not_alone_becomes_text_as_a_ticket_shows_it(source: str, said: str) -> None:
    assert rendered(source) == said


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("row.amount + 0.1", "12345679.0"),
        ("0.1 + 0.2 == 0.3", "true"),
        ("row.amount * 2", "24691357.8"),
        ("row.amount - 0.9", "12345678.0"),
        ("-row.amount", "-12345678.9"),
        ("1 / 4", "0.25"),
        ("6 / 2", "3"),
        ("7 // 2", "3"),
        ("-7 // 2.0", "-4"),
        ("-7 % 2.0", "1.0"),
        ("2 ** 10", "1024"),
        ("2 ** -1", "0.5"),
        ("row.big + 1", "9223372036854775808"),
        ("2.5 | round", "3"),
        ("42.555 | round(2)", "42.56"),
        ("42.559 | round(2, 'floor')", "42.55"),
        ("'1.50' | float", "1.50"),
        ("'12345678901234567890.5' | int", "12345678901234567890"),
        ("'x' | int(5)", "5"),
        ("'ff' | int(base=16)", "255"),
        ("row.nothing | int", "0"),
        ("(-3.5) | abs", "3.5"),
        ("row.parts | sum(attribute='w')", "3.75"),
        ("'%.2f' % row.amount", "12345678.90"),
        ("'%05d|%-4s|%s|%%' % (row.id, 'a', row.nothing)", "00007|a   ||%"),
        ("'%(id)s' % row", "7"),
        ("'%s'|format(row.ok)", "true"),
        (
            "'{:,.2f} {} {t}'.format(row.amount, row.nothing, t=row.title)",
            "12,345,678.90  Router down",
        ),
    ],
)
def test_numbers_are_exact(source: str, value: str) -> None:
    assert text(worked_out(source)) == value


def test_a_number_of_401_digits_is_shown_digit_by_digit() -> None:
    assert rendered("={{ row.id }}", id=10**400) == "=1" + "0" * 400


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("row.id | lookup({'7': 'seven'})", "seven"),
        ("row.id | lookup({7: 1})", 1),
        ("row.id | lookup({8: 1}, default='other')", "other"),
        ("row.id | lookup({8: 1}, none)", None),
        ("row.ok | lookup({'true': 1})", 1),
        ("row.nothing | lookup({'': 'none'})", "none"),
        ("row.when | sn_datetime", "2024-01-01 21:34:05"),
        ("'2024-02-29' | sn_datetime", "2024-02-29 00:00:00"),
        ("row.nothing | sn_datetime", ""),
        ("row.nothing | upper", ""),
        ("row.title.upper()", "ROUTER DOWN"),
        ("row.title.split(' ')[0][:3]", "Rou"),
        ("row.title | replace('down', 'up')", "Router up"),
        ("row.title | truncate(6, true, '…', 0)", "Route…"),
        ("row.tags | join('/')", "b/a"),
        ("', '.join(row.tags)", "b, a"),
        ("row.parts | selectattr('n', 'gt', 1) | map(attribute='n') | first", 2),
        ("row.tags | tojson", '["b", "a"]'),
        ("'\"' | tojson", '"\\""'),
        ("'<b>bold</b> text' | striptags", "bold text"),
        ("'a b' | urlencode", "a%20b"),
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'one two' | wordwrap(4)", "one\ntwo"),
        ("'ab' | center(6)", "  ab  "),
        ("row.items['x']", 1),
        ("row.nope is defined", False),
        ("row.nope | default('d')", "d"),
        ("row.nothing is none", True),
        ("row.id in (7, 8)", True),
        ("row.id | string in row.title ~ '7'", True),
        ("row.items.items() | map('first') | list", ["x"]),
    ],
)
def test_filters_tests_and_methods(source: str, value: Any) -> None:
    assert worked_out(source) == value


def test_a_value_that_lookup_does_not_know_is_a_failure_of_its_own_kind() -> None:
    with pytest.raises(RenderError) as caught:
        rendered("{{ row.title | lookup({'a': 1}) }}")

    assert caught.value.reason is Reason.UNKNOWN_VALUE
    assert caught.value.sentence == "lookup does not know this value; add it or give a default"


@pytest.mark.parametrize(
    "value",
    [
        "{{ row.id }}",
        "{% raw %}",
        "[code]<b>x</b>[/code]",
        "<script>&amp;'\"",
        "a^b^NQ",
        "a\nb\r\n",
        "%s {0}",
        "\u2028",
    ],
)
def test_text_of_a_row_arrives_as_it_is(value: str) -> None:
    assert rendered("{{ row.title }}", title=value) == value
    assert rendered("{{ row.title }}!", title=value) == f"{value}!"
    assert rendered("{{ row.title ~ '' }}", title=value) == value


@given(JSON)
def test_any_value_is_spelled_as_the_event_spells_it(value: Json) -> None:
    assert rendered("-{{ row.title }}", title=value) == "-" + text(value)


@given(st.text(), JSON)
def test_tojson_writes_json_that_reads_back(title: str, value: Json) -> None:
    written = rendered("{{ row.title | tojson }}", title=[title, value])

    assert text(json.loads(written, parse_float=Decimal)) == text([title, value])


# What a column that is not there means


def test_a_column_of_either_image_is_null_where_it_is_absent() -> None:
    row = RowImage({"a": 1}, {"a", "b"})

    assert parse_expression("row.b", names=NAMES).value({"row": row}, RenderBudget()) is None


def test_a_column_of_neither_image_is_a_failure_that_names_it() -> None:
    assert refused("{{ row.titel }}") == "names `titel` that the row does not have"


def test_a_part_whose_name_is_of_the_row_is_not_named() -> None:
    assert "secret" not in refused("{{ row.parts[row.title] }}", title="secret")
    assert "secret" not in refused("{{ row[row.title] }}", title="secret")


def test_any_absent_column_is_null_where_absent_means_null() -> None:
    assert (
        parse_expression("row.titel", names=NAMES).value(
            {"row": RowImage({}, None)}, RenderBudget()
        )
        is None
    )


def test_an_image_that_is_not_there_is_none_and_false_and_its_columns_are_null() -> None:
    names = {"old": RowImage(None, {"status"})}

    assert parse_expression("old is none", names=NAMES).value(names, RenderBudget())
    assert parse_expression("not old", names=NAMES).value(names, RenderBudget())
    assert parse_expression("old.status", names=NAMES).value(names, RenderBudget()) is None
    assert parse_expression("old", names=NAMES).value(names, RenderBudget()) is None


def test_a_list_that_a_filter_left_empty_is_false() -> None:
    assert worked_out("row.tags | select('eq', 'z')") == []


# What cannot be worked out is said without a word of the row


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "{{ row.title + 1 }}",
            "does not suit the type of a value (perhaps it is null, or a number that is a text)",
        ),
        (
            "{{ row.nothing > 1 }}",
            "does not suit the type of a value (perhaps it is null, or a number that is a text)",
        ),
        ("{{ row.id / 0 }}", "divides by zero"),
        ("{{ row.title.index('zz') }}", "cannot be worked out from these values"),
        (
            "{{ row.title | sn_datetime }}",
            "sn_datetime cannot read this value as a time; give it an ISO 8601 time",
        ),
        ("{{ row.title.nope }}", "names `nope` that the value does not have"),
        ("{{ row.nothing.x }}", "names `x` that the value does not have"),
        ("{{ row.nope.x }}", "names `nope` that the row does not have"),
        ("{{ row.nope + 1 }}", "names `nope` that the row does not have"),
        ("{{ row.nope | upper }}", "names `nope` that the row does not have"),
        ("{{ row.title | lookup(row.title) }}", None),
        ("{{ '{0.__class__}'.format(row.title) }}", None),
        ("{{ '{0!r}'.format(row.title) }}", None),
        ("{{ '%d' % row.title }}", None),
        ("{{ row.title | map(row.title) | list }}", None),
        ("{{ row.title.__class__ }}", None),
        ("{{ row['__init__'] }}", None),
        ("{{ (1).__class__.__mro__ }}", None),
    ],
)
def test_a_failure_says_what_to_do_and_nothing_of_the_row(
    source: str, sentence: str | None
) -> None:
    said = refused(source, title="planted secret")

    assert "planted" not in said
    assert sentence in (None, said)


# Bounds

LONG = "x" * 8_000_000


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 10 ** 100000 }}",
        "{{ 9.9 ** 99999 }}",
        "{{ range(10 ** 9) | list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}" + "y" * 5000 + "{% endfor %}",
        "{% for a in range(99999) %}{{ row.title }}{% endfor %}",
        "{% set a = 'x' %}" + "{% set a = a ~ a %}" * 60 + "{{ a }}",
        "{% set a = 'x' %}" + "{% set a = a + a %}" * 60 + "{{ a }}",
        "{% set a = 9 %}" + "{% set a = a * a %}" * 60 + "{{ a }}",
        "{% set a = [1] %}" + "{% set a = [a, a] %}" * 60 + "{{ a }}",
        "{% set a = [1] %}{% set b = [1] %}"
        + "{% set a = [a, a] %}{% set b = [b, b] %}" * 60
        + "{{ a == b }}",
        "{% set a = {1: 1} %}" + "{% set a = {1: a, 2: a} %}" * 60 + "{{ [a, a] | unique | list }}",
        "{% set a = (1,) %}" + "{% set a = (a, a) %}" * 60 + "{{ {a: 1} }}",
        "{{ row.title | replace('x', row.title) }}",
        "{{ row.title | list | join(row.title) }}",
        "{{ row.title.join(row.title) }}",
        "{{ row.title | list | sort | unique | list }}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{{ 'x' | center(10 ** 9) }}",
        "{{ 'x'.ljust(10 ** 9) }}",
        "{{ 'a\nb' | indent(10 ** 9) }}",
        "{{ 'a b' | wordwrap(1, wrapstring=row.title) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%.1000000000f' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ row.title.format(1) }}",
        "{{ row.title % 1 }}",
        "{{ row.huge | int }}",
        "{{ row.huge }}!",
        "{{ row.huge + 1 }}",
        "{{ row.deep }}!",
        "{{ row.deep == row.deep }}",
        "{{ 1.5 | round(10 ** 9) }}",
    ],
)
def test_a_template_that_grows_without_end_is_stopped_soon(source: str) -> None:
    deep: Json = []
    for _ in range(5000):
        deep = [deep]

    assert refused(source, title=LONG, huge=Decimal("1e999999999"), deep=deep)


@pytest.mark.parametrize(
    "source",
    [
        "{{ row.title }}",
        "{{ row.title | trim | upper }}",
        "Details:\n{{ row.title }}",
        "{{ row.title | wordwrap }}",
        "{{ row.title | striptags }}",
        "{{ row.title | replace('x', 'y') }}",
    ],
)
def test_a_text_as_large_as_an_event_is_rendered(source: str) -> None:
    assert len(rendered(source, title=LONG)) > 60_000


@pytest.mark.parametrize(
    "source",
    [
        "{{ row.title | replace('x', row.title) }}",
        "{{ [1, 2, 3, 4] | join(row.title) }}",
        "{{ row.title ~ row.title ~ row.title }}",
        "{{ row.title * 3 }}",
        "{% for a in range(3) %}{{ row.title }}{% endfor %}",
    ],
)
def test_a_text_that_would_be_too_long_is_refused_before_it_is_made(source: str) -> None:
    assert refused(source, title=LONG) == "makes too long a text; cut its parts with `truncate`"


def test_the_time_that_one_value_took_is_not_there_for_the_next() -> None:
    budget = RenderBudget()
    endless = parse_template(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        names=NAMES,
    )
    with pytest.raises(RenderError):
        endless.value({}, budget)

    with pytest.raises(RenderError, match="takes too long"):
        parse_template("{{ 1 }}.", names=NAMES).value({}, budget)


# What is refused when the rules are loaded


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (
            "{{ row.id",
            "is not a template: unexpected end of template, expected 'end of print statement'.",
        ),
        ("{{ row.id | uper }}", "there is no filter `uper`; did you mean `upper`?"),
        ("{{ row.tags | map('uper') }}", "there is no filter `uper`; did you mean `upper`?"),
        ("{{ row.tags | select('od') }}", "there is no test `od`; did you mean `odd`?"),
        ("{{ row.tags | selectattr('a', 'od') }}", "there is no test `od`; did you mean `odd`?"),
        ("{{ row.id is definde }}", "there is no test `definde`; did you mean `defined`?"),
        ("{{ rwo.id }}", "there is no `rwo` here; did you mean `row`?"),
        ("{{ row.title.uper() }}", "there is no method `uper`; did you mean `upper`?"),
        ("{{ row.tags.append(1) }}", "there is no method `append`"),
        (
            "{{ lipsum() }}",
            "only `range` and the methods of texts, lists and objects can be called",
        ),
        ("{{ row.tags | random }}", "there is no filter `random`"),
        ("{{ row | attr('id') }}", "there is no filter `attr`"),
        ("{% macro m() %}{% endmacro %}", "only `if`, `for` and `set` can stand in {% … %} here"),
        ("{% include 'x' %}", "only `if`, `for` and `set` can stand in {% … %} here"),
        ("{% for a in row.tags recursive %}{% endfor %}", "a loop cannot be recursive here"),
        ("{{ row.title.format(*row.tags) }}", "arguments cannot be unpacked with `*` here"),
        ("{{ 1e999 }}", "a number in it is too large"),
        (
            "{{ " + "9" * 5000 + " }}",
            "is not a template: a number in it is too long, or it is nested too deeply",
        ),
        (
            "{{ " + "(" * 2000 + "1" + ")" * 2000,
            "is not a template: a number in it is too long, or it is nested too deeply",
        ),
    ],
)
def test_a_template_that_no_row_could_make_work_is_refused(source: str, what: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        parse_template(source, names=NAMES)

    assert caught.value.what == what


@pytest.mark.parametrize("source", ["{{ 1.5 if row.ok else 'b' }}", "{% if 1.5 %}{% endif %}x"])
def test_what_is_known_of_a_template_is_the_same_after_it_was_rendered(source: str) -> None:
    checked = parse_template(source, names=NAMES)
    before = repr(checked.syntax.tree), checked.syntax.find_literals()

    given_by(checked, ROW)

    assert (repr(checked.syntax.tree), checked.syntax.find_literals()) == before


def test_an_expression_is_one_expression() -> None:
    with pytest.raises(InvalidTemplate, match="more after the expression"):
        parse_expression("row.id row.title", names=NAMES)
    with pytest.raises(InvalidTemplate, match="unexpected"):
        parse_expression("row.id ==", names=NAMES)


def test_a_fault_has_the_line_within_the_template() -> None:
    with pytest.raises(InvalidTemplate) as caught:
        parse_template("one\ntwo {{ rwo }}\n", names=NAMES)

    assert caught.value.line == 2


@given(st.text(max_size=60))
def test_any_text_is_a_template_or_refused(source: str) -> None:
    try:
        checked = parse_template("{{ row.a " + source, names=NAMES)
        checked.text({"row": RowImage({"a": 1}, {"a"})}, RenderBudget())
    except (InvalidTemplate, RenderError):
        pass


def test_a_null_in_a_key_is_refused_wherever_it_stands() -> None:
    for source in ("{{ row.nothing }}", "{{ row.id }}/{{ row.nothing }}"):
        checked = parse_template(source, names=NAMES)
        with pytest.raises(RenderError) as caught:
            checked.text({"row": RowImage(ROW, set(ROW))}, RenderBudget(), in_key=True)

        assert caught.value.reason is Reason.BAD_KEY


# Nothing that a row holds keeps the interpreter for itself

HUGE: Row = {
    "whole": int("7" * 4299),
    "variance": Decimal("3." + "1" * 16_383),
    "mean": Decimal("2." + "7" * 16_383),
    "long": Decimal("9" * 131_072),
    "power": Decimal("1" + "0" * 400),
    "tiny": Decimal("0." + "0" * 16_382 + "1"),
    "hex": "f" * 4_000_000,
    "digits": "9" * 4_000_000,
    "fraction": "0." + "9" * 4_000_000,
    "exponent": "1e999999999",
    "numbers": [Decimal(n * 7_919 % 1_000_003).scaleb(-3) for n in range(900_000)],
    "columns": {f"k{n * 7_919 % 1_000_003}": n for n in range(500_000)},
    "same": "a" * 4_000_000,
    "last": "ab" + "a" * 2_000_000,
    "commas": "," * 8_000_000,
}


def seconds_for(source: str) -> float:
    """The processor time that it takes to give something, or to refuse."""
    checked = parse_template(source, names=NAMES)
    names = {"row": RowImage(HUGE, set(HUGE))}
    started = time.thread_time()
    with suppress(RenderError):
        checked.text(names, RenderBudget())
    return time.thread_time() - started


@pytest.mark.parametrize("number", ["whole", "variance", "mean", "long", "power", "tiny"])
@pytest.mark.parametrize(
    "form",
    [
        *(
            f"{one} {operator} {other}"
            for operator in ("+", "-", "*", "/", "//", "%", "**", "<", "==")
            for one, other in (
                ("row.X", "row.mean"),
                ("row.X", "0.5"),
                ("3", "row.X"),
                ("row.X", "row.whole"),
            )
        ),
        "-row.X",
        "row.X | abs",
        "row.X | int",
        "row.X | float",
        "row.X | round",
        "row.X | round(3)",
        "[row.X, row.mean] | sum",
        "[row.X, 1] | sort",
        "[row.X, 1] | max",
        "[row.X] | unique | list",
        "'%d' % row.X",
        "'%x' % row.X",
        "'%.3f' % row.X",
        "'%g' % row.X",
        "'{:,.2f}'.format(row.X)",
        "row.X is odd",
        "row.X is divisibleby(3)",
        "row.X in [1, row.mean]",
        "range(row.X)",
        "'x' * row.X",
        "row.X | lookup({1: 2}, 0)",
        "[row.X] | map('round') | list",
        "[1] | select('lt', row.X) | list",
    ],
)
def test_whatever_is_done_with_a_huge_number_ends_within_a_second(form: str, number: str) -> None:
    assert seconds_for("{{ " + form.replace("X", number) + " }}") < 1.5


@pytest.mark.parametrize("text_of_digits", ["hex", "digits", "fraction", "exponent"])
@pytest.mark.parametrize(
    "form",
    [
        "row.X | int",
        "row.X | int(base=16)",
        "row.X | int(base=7)",
        "row.X | float",
        "(row.X | int(base=16)) / 3",
        "(row.X | int(base=16)) > row.mean",
        "'%d' % (row.X | int(base=16))",
        "(row.X | float) ** 0.5",
        "(row.X | float) / 3",
        "(row.X | float) | round(2)",
        "range(row.X | int(base=16))",
    ],
)
def test_whatever_is_done_with_a_long_text_as_a_number_ends_within_a_second(
    form: str, text_of_digits: str
) -> None:
    assert seconds_for("{{ " + form.replace("X", text_of_digits) + " }}") < 1.5


@pytest.mark.parametrize("many", ["numbers", "columns", "commas"])
@pytest.mark.parametrize(
    "form",
    [
        "row.X",
        "row.X | tojson",
        "row.X | sort | first",
        "row.X | sort(reverse=true) | first",
        "row.X | max",
        "row.X | unique | list | length",
        "row.X | sum",
        "row.X | join",
        "row.X | reject('in', row.X) | list",
        "row.X | select('odd') | list",
        "row.X | select('lower') | list",
        "row.X | map('string') | list",
        "row.X | dictsort | first",
        "1 in row.X",
        "row.X == row.X",
        "1 | lookup(row.columns, 0)",
        "{1: row.X}",
        "row.X | urlencode",
        "row.X.split(',') | length",
        "row.X.keys() | sort | first",
    ],
)
def test_whatever_is_done_with_a_million_values_ends_within_a_second(form: str, many: str) -> None:
    assert seconds_for("{{ " + form.replace("X", many) + " }}") < 2


@pytest.mark.parametrize(
    "form",
    [
        "rfind(Y)",
        "rindex(Y)",
        "rpartition(Y)",
        "rsplit(Y)",
        "strip(Y)",
        "lstrip(Y)",
        "rstrip(Y)",
        "count(Y)",
        "find(Y)",
    ],
)
def test_a_long_text_is_searched_for_another_within_a_second(form: str) -> None:
    assert seconds_for("{{ row.same." + form.replace("Y", "row.last") + " }}") < 1.5
    assert seconds_for("{{ row.last." + form.replace("Y", "row.same") + " }}") < 1.5


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("row.variance ** 0.5", "1.763834207376393727001077169"),
        ("row.variance / 2", "1.555555555555555555555555556"),
        ("row.variance | round(2)", "3.11"),
        ("'%.3f' % row.variance", "3.111"),
        ("row.variance > 3", "true"),
    ],
)
def test_a_number_as_long_as_postgresql_has_is_worked_with(source: str, value: str) -> None:
    assert text(worked_out(source, variance=HUGE["variance"])) == value


@pytest.mark.parametrize(
    "source",
    ["{{ row.hex | int(base=16) }}", "{{ row.digits | int }}", "{{ row.digits | int(base=7) }}"],
)
def test_a_text_of_more_digits_than_a_number_may_have_is_refused_not_taken_for_nought(
    source: str,
) -> None:
    assert refused(source, **HUGE) == "makes too large a number, a range or a text"


def test_a_long_text_that_is_no_number_is_the_default() -> None:
    assert worked_out("row.title | int(7, base=16)", title="x y" * 4000) == 7
    assert worked_out("row.title | int(base=16)", title=" " * 9000 + "ff") == 255


def test_a_width_in_the_digits_of_another_script_is_bounded_too() -> None:
    assert (
        refused("{{ '{:٩٩٩٩٩٩٩٩٩}'.format(row.title) }}")
        == "makes too large a number, a range or a text"
    )


@given(JSON)
def test_json_is_spelled_within_a_template_as_everywhere(value: Json) -> None:
    assert rendered("{{ row.value | tojson }}", value=value) == text([value])[1:-1]
    assert rendered("<{{ row.value }}>", value=value) == f"<{text(value)}>"


# What a row holds takes no more memory than a template may have


def bytes_for(source: str, **columns: Json) -> int:
    """The memory that it takes at most to give something, or to refuse."""
    checked = parse_template(source, names=NAMES)
    names = {"row": RowImage(columns, set(columns))}
    with suppress(RenderError):
        checked.text({"row": RowImage({}, None)}, RenderBudget())  # compiled before it is measured
    tracemalloc.start()
    try:
        with suppress(RenderError):
            checked.text(names, RenderBudget())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("{{ row.value }}!", [Decimal("1e4300")] * 100_000),
        ("{{ row.value | map('string') | list }}", [Decimal("1e4300")] * 100_000),
        ("{{ row.value | map('center', 1000) | list }}", ["a"] * 100_000),
        ("{{ row.value | upper }}", "a" * 7_000_000 + "😀"),
        ("{{ row.value | wordcount }}", "ab " * 2_000_000),
        ("{{ row.value.split() }}", "\u3000ab" * 1_000_000),
        ("{{ row.value.splitlines() }}", "ab\n" * 2_000_000),
        ("{{ row.value | list }}", "é😀" * 1_000_000),
        ("{{ row.value.format(row.value) }}", "{0}" * 20_000),
        ("{{ row.value % row }}", "%(value)s" * 7_000),
        ("{{ row.value | tojson | tojson | tojson | tojson }}", '"' * 4_000_000),
        (
            "{{ [row.value[1:], row.value[2:], row.value[3:]] * 9 | length }}",
            "a" * 7_000_000 + "😀",
        ),
        ("{{ row.value | wordwrap(1, wrapstring='-' * 1000) }}", "a " * 1_000_000),
    ],
)
def test_a_template_takes_little_memory_whatever_the_row_holds(source: str, value: Json) -> None:
    assert bytes_for(source, value=value) < 100 * 1024 * 1024


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("'%.2f' % row.n", "12345678901234567.89"),
        ("'%+08.1f|%-9s|%x' % (row.id, row.n, 255)", "+00007.0|12345678901234567.89|ff"),
        ("'{:,}|{:>8}'.format(row.n, row.id)", "12,345,678,901,234,567.89|       7"),
        ("-row.n", "-12345678901234567.89"),
        ("row.n | abs", "12345678901234567.89"),
        ("(row.n * row.n) // 1", "152415787532388367501905199875019"),
        ("[row.n, row.n] | sum", "24691357802469135.78"),
    ],
)
def test_a_number_longer_than_a_float_keeps_its_digits(source: str, value: str) -> None:
    assert text(worked_out(source, n=Decimal("12345678901234567.89"))) == value


def test_an_ellipsis_longer_than_the_text_is_no_fault_of_ours() -> None:
    assert refused("{{ row.title | truncate(1) }}") == "cannot be worked out from these values"


def test_a_column_named_in_brackets_is_told_like_one_after_a_dot() -> None:
    assert refused("{{ row['titel'] }}") == "names `titel` that the row does not have"


def test_an_element_that_a_filter_picks_is_settled_in_a_key() -> None:
    checked = parse_template("{{ row.numbers | first }}", names=NAMES)
    row = RowImage({"numbers": [Decimal("7.50")]}, None)

    assert checked.text({"row": row}, RenderBudget(), in_key=True) == "7.5"
    assert checked.text({"row": row}, RenderBudget()) == "7.50"
