"""The `mutate` of a rule: read and checked with every fault's line, and rendered for a ticket."""

import subprocess
import sys
import textwrap
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from function.core.outcome import Reason
from function.rules.budget import RenderBudget, RenderError
from function.rules.change_parser import CHANGE_NAMES
from function.rules.loader import RulesError, load_rules
from function.rules.model import TargetRule
from function.rules.mutate import MutateRule
from function.rules.mutate_parser import MutateRuleParser
from function.rules.schema import schema
from function.rules.syntax import InvalidTemplate, check_expression, check_template
from function.rules.template_nodes import TemplateReader
from function.rules.yaml_nodes import NodeReader

ROOT = Path(__file__).parents[2]
FIRST = """\
query: |
  mutation ToApp($id: uuid!, $set: outages_set_input!) {
    update_outages_by_pk(pk_columns: {id: $id}, _set: $set) { id }
  }
variables:
  id: "{{ link.key }}"
  set:
    status: "{{ row.state | lookup({'6': 'fixed'}, 'open') }}"
    assignee: "{{ shown['assigned_to.name'] }}"
    changed_by: ServiceNow
"""
CONFLICT = "on_conflict: {constraint: t_key, update_columns: [ticket]}"
LINK = {"key": "7", "rule": "outage", "generation": 0}


def read(text: str) -> tuple[MutateRule | None, NodeReader]:
    nodes = NodeReader("rules.yaml")
    root = nodes.compose(text)
    assert root is not None
    parser = MutateRuleParser(nodes, TemplateReader(nodes, {"PORT": "8080"}))
    parsed = parser.parse(root, "mutate", CHANGE_NAMES, when=None, each=None, table="incident")
    return (parsed[0] if parsed else None), nodes


def rule(text: str) -> MutateRule:
    mutate, nodes = read(text)
    assert [str(fault) for fault in nodes.faults] == []
    assert mutate is not None
    return mutate


def faults(text: str) -> list[str]:
    return [str(fault) for fault in read(text)[1].faults]


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in read(text)[1].warnings]


def one_field(field: str, *, declared: str = "", variables: Mapping[str, Any] | None = None) -> str:
    """A mutation that makes *field* alone."""
    query = f"mutation{declared and f'({declared})'} {{ {field} {{ id }} }}"
    return yaml.safe_dump({"query": query, **({"variables": variables} if variables else {})})


def scope(**names: Any) -> dict[str, Any]:
    row = {"state": "6", "close_notes": "Replaced", "assigned_to.name": "ada", "priority": "2"}
    return {
        "row": row,
        "new": row,
        "old": row,
        "shown": {column: value.upper() for column, value in row.items()},
        "link": LINK,
        "changed": [],
        "op": "UPDATE",
        "event": {},
        "ticket": {"number": "INC1", "sys_id": "a" * 32, "table": "incident"},
        "env": {"PORT": "8080"},
        **names,
    }


def render(
    mutate: MutateRule, *changed: str, everything: bool = False, **names: Any
) -> dict[str, Any] | None:
    return mutate.render(
        scope(**names), RenderBudget(), changed=None if everything else frozenset(changed)
    )


# --- What a template reads


@pytest.mark.parametrize(
    ("source", "columns"),
    [
        ("no template", set()),
        ("{{ ticket.number }}", set()),
        ("{{ row.state }}", {"state"}),
        ("{{ row['assigned_to.email'] }}", {"assigned_to.email"}),
        (
            "{{ row.get('state') or row.get('u_state', row.priority) }}",
            {"state", "u_state", "priority"},
        ),
        ("{{ row.state.startswith(row.priority) }}", {"state", "priority"}),
        ("{{ row.state[:2] }}{{ row.state[row.priority | int] }}", {"state", "priority"}),
        (
            "{% if row.state == '6' %}a{% else %}{{ row.priority }}{% endif %}",
            {"state", "priority"},
        ),
        ("{% for part in row.watch_list.split(',') %}{{ part }}{% endfor %}", {"watch_list"}),
        ("{% set state = row.state %}{{ state }}", {"state"}),
        ("{{ [row.state, {'a': row.priority}] | tojson }}", {"state", "priority"}),
        ("{{ new.state if old is none else old.state }}", set()),
        ("{{ row.state is not none }}", {"state"}),
        ("{% if row %}{{ row.state }}{% endif %}", {"state"}),
        ("{{ 'a' if row else 'b' }}{{ not row }}", set()),
        ("{{ row is defined and row is not none and row.state }}", {"state"}),
        ("{{ row and row.state }}", {"state"}),
        ("{{ row.items }}", {"items"}),
    ],
)
def test_the_columns_that_a_template_reads_are_told_from_its_text(
    source: str, columns: set[str]
) -> None:
    assert check_template(source, names=CHANGE_NAMES).find_columns("row") == columns


@pytest.mark.parametrize(
    "source",
    [
        "row[op]",
        "row[op ~ 'a']",
        "row | tojson",
        "row.items()",
        "row.values()",
        "row.get(op)",
        "row or none",
        "op and row",
        "[row]",
        "{'a': row}",
        "row",
        "row == old",
        "'state' in row",
        "op in row",
        "(row if op else old).state",
        "[row] | map(attribute='state') | list",
        "op.join(row)",
        "row is mapping",
        "row if row else old",
    ],
)
def test_what_reads_columns_that_cannot_be_told_is_refused(source: str) -> None:
    with pytest.raises(InvalidTemplate, match=r"write row\.COLUMN or row\['a\.b'\]"):
        check_expression(source, names=CHANGE_NAMES).find_columns("row")


@pytest.mark.parametrize(
    "source",
    [
        "\n{% set ours = row %}{{ ours.state }}",
        "\n{% set row = {} %}{{ row.state }}",
        "\n{% for row in changed %}{{ row.state }}{% endfor %}",
        "\n{% for column in row %}{{ column }}{% endfor %}",
        "\n{% for column in changed %}{{ row[column] }}{% endfor %}",
    ],
)
def test_an_alias_of_the_row_is_refused_with_its_line(source: str) -> None:
    with pytest.raises(InvalidTemplate) as caught:
        check_template(source, names=CHANGE_NAMES).find_columns("row")

    assert caught.value.line == 2


def test_a_reference_is_walked_in_one_subscript() -> None:
    with pytest.raises(InvalidTemplate, match=r"write row\['assigned_to\.email'\]"):
        check_expression("row.assigned_to.email", names=CHANGE_NAMES).find_columns("row")


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("state", False),
        ("u_2", False),
        ("a.b.c.d", False),
        ("a.b.c.d.e", True),
        ("State", True),
        ("a..b", True),
        ("a b", True),
        ("", True),
        ("state^active=true", True),
    ],
)
def test_a_column_must_look_like_one(name: str, refused: bool) -> None:
    text = FIRST.replace("row.state", f"row['{name}']")

    assert [f"names `{name}`, which is not the name" in fault for fault in faults(text)] == (
        [True] if refused else []
    )


# --- What is read


def test_a_mutation_says_which_columns_it_reads_and_whether_it_is_for_a_linked_row() -> None:
    mutate = rule(FIRST)

    assert mutate.columns == {"state", "assigned_to.name"}
    assert mutate.shown_columns == {"assigned_to.name"}
    assert mutate.needs_link
    assert (mutate.operation_name, mutate.response_keys) == ("ToApp", ("update_outages_by_pk",))
    assert not rule(FIRST.replace("link.key", "ticket.number")).needs_link


def test_it_is_a_target_as_the_engine_asks_for_one() -> None:
    mutate: TargetRule = rule(FIRST)

    assert (mutate.kind, mutate.table, mutate.follows) == ("mutate", "incident", False)
    assert len(list(mutate.all_templates())) == 4
    assert {key: where.line for key, where in mutate.locations.items()} == {
        "": 1,
        "query": 1,
        "variables": 6,
    }


def test_aliases_and_fragments_are_followed() -> None:
    mutate = rule(f"""\
query: |
  mutation($s: String!) {{ ...Both }}
  fragment Both on mutation_root {{
    kept: insert_t_one(object: {{title: $s}}, {CONFLICT}) {{ ...Id }}
    ... on mutation_root {{ delete_u_by_pk(id: 1) {{ id }} }}
  }}
  fragment Id on t {{ id }}
variables: {{s: "{{{{ row.state }}}}"}}
""")

    assert mutate.response_keys == ("kept", "delete_u_by_pk")


def test_a_rule_without_a_mutation_does_not_load_what_reads_one() -> None:
    code = (
        "import sys; from function.rules.loader import load_rules; "
        "load_rules(open('rules.yaml').read(), environ={}); sys.exit('graphql' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_the_example_that_is_written_down_can_be_read() -> None:
    page = (ROOT / "docs" / "rules.md").read_text("utf-8")
    example = page.partition("```yaml\nmutate:\n")[2].partition("```")[0]
    told = render(rule(textwrap.dedent(example)), "state")

    assert told == {"id": "7", "set": {"status": "fixed"}}


# --- What is refused: the text


@pytest.mark.parametrize(
    ("query", "line", "words"),
    [
        ("query { outages { id } }", 2, "is a query; write a mutation"),
        ("subscription { outages { id } }", 2, "is a subscription; write a mutation"),
        ("{ outages { id } }", 2, "is a query; write a mutation"),
        ("mutation { a { id } }\nmutation { b { id } }", 3, "has more than one operation"),
        ("fragment A on b { c }", 2, "has no operation in it"),
        ("mutation {\n  update_a(\n", 4, "is not GraphQL: Expected Name, found <EOF>"),
        ("mutation {\n  a: }", 3, "is not GraphQL: Expected Name, found '}'"),
        ("mutation { ...A }", 2, "there is no fragment `A`"),
        ("mutation { a }\ntype B { c: Int }", 2, "defines more than a mutation and its fragments"),
        ("mutation { ...A }\nfragment A on b { ...A }", 3, "the fragment `A` spreads itself"),
        ("mutation($a: A,\n $a: B) { c }", 2, "declares a variable twice"),
        ("mutation {\n c(a: 1, a: 2) }", 3, "gives `a` twice"),
        (f"mutation {{ a(b: {'[' * 3000}", 2, "is nested too deeply"),
        (f"mutation {{ a(b: {'[' * 70}{']' * 70}) }}", 2, "is nested too deeply"),
        ("mutation { ...A }\nfragment A on b { " + "c " * 101 + "}", 2, "has more than 100 fields"),
        ("mutation { update_a(where: {{ row }}) { id } }", 2, "it is no template"),
    ],
)
def test_what_is_not_one_mutation_is_refused_with_its_line(
    query: str, line: int, words: str
) -> None:
    indented = query.replace("\n", "\n  ")
    first, *_ = faults(f"query: |\n  {indented}\n")

    assert first.startswith(f"rules.yaml:{line}: mutate.query: ")
    assert words in first


def test_the_line_of_a_text_in_quotes_is_the_one_in_which_it_begins() -> None:
    assert faults('query: "mutation {\\n\\n a: }"')[0].startswith("rules.yaml:1: mutate.query: ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("variables: {}", "rules.yaml:1: mutate.query: is missing; it is the GraphQL mutation"),
        (
            FIRST + "other: 1",
            "rules.yaml:11: mutate.other: there is no such key",
        ),
        (
            FIRST.replace("  id:", "  ids:"),
            "rules.yaml:6: mutate.variables.ids: the mutation declares no `$ids`; did you mean",
        ),
        (
            FIRST.replace('  id: "{{ link.key }}"\n', ""),
            "rules.yaml:6: mutate.variables.id: is missing: the mutation declares `$id`, and gives "
            "it no default",
        ),
        (
            FIRST.replace("$set: outages_set_input!", "$sets: outages_set_input! = {}"),
            "rules.yaml:3: mutate.query: uses `$set` and does not declare it; did you mean `sets`?",
        ),
        (
            FIRST.replace("ToApp(", "ToApp($n: Int = 5, "),
            "rules.yaml:2: mutate.query: declares `$n` and does not use it, which Hasura refuses; "
            "take it out",
        ),
        (
            FIRST + "  set: {}",
            "rules.yaml:11: mutate.variables.set: stands here twice",
        ),
        (
            "query: mutation { a }\nvariables: [a]",
            "rules.yaml:2: mutate.variables: must be a mapping",
        ),
        (
            FIRST.replace("{{ link.key }}", "link.key"),
            "rules.yaml:6: mutate.variables.id: is a text that looks like an expression; write "
            '"{{ link.key }}"',
        ),
        (
            FIRST.replace("link.key", "item.key"),
            "rules.yaml:6: mutate.variables.id: there is no `item` here",
        ),
        (
            FIRST.replace("ServiceNow", "'{{ row | tojson }}'"),
            "rules.yaml:10: mutate.variables.set.changed_by: names columns of `row` that cannot be "
            "told: write row.COLUMN or row['a.b']",
        ),
        (
            FIRST.replace("ServiceNow", "|\n      a\n      {{ shown.items() }}"),
            "rules.yaml:12: mutate.variables.set.changed_by: names columns of `shown` that cannot",
        ),
    ],
)
def test_what_is_wrong_is_a_fault_with_its_line(text: str, fault: str) -> None:
    assert any(one.startswith(fault) for one in faults(text)), faults(text)


def test_a_variable_with_a_default_may_be_left_out() -> None:
    assert faults(one_field("update_t(where: {}, _set: {a: $a})", declared="$a: Int = 5")) == []


def test_an_alias_that_holds_itself_is_refused() -> None:
    text = one_field("f(a: $a)", declared="$a: x") + "variables:\n  a: &a {b: [*a]}\n"

    assert any("is nested too deeply" in fault for fault in faults(text))


def test_faults_of_variables_are_told_beside_those_of_the_mutation() -> None:
    both = FIRST.replace("mutation", "query").replace("link.key", "linc.key")

    assert [fault.split(": ")[1] for fault in faults(both)] == [
        "mutate.query",
        "mutate.variables.id",
    ]


# --- What is refused: what cannot be repeated


@pytest.mark.parametrize(
    ("conflict", "words"),
    [
        ("", "has no `on_conflict`: after a lost answer the mutation is made again"),
        (", on_conflict: null", "has no `update_columns`: Hasura would answer null"),
        (", on_conflict: {constraint: k}", "has no `update_columns`"),
        (", on_conflict: {constraint: k, update_columns: []}", "has no `update_columns`"),
        (", on_conflict: {constraint: k, update_columns: null}", "has no `update_columns`"),
        (", on_conflict: {constraint: k, update_columns: [a, b]}", "has more than one"),
        (", on_conflict: {constraint: k, update_columns: [a], where: {b: 1}}", "has a `where`"),
    ],
)
@pytest.mark.parametrize(
    "field",
    ["insert_t_one(object: {a: 1}", "insert_t(objects: [{a: 1}]", "insertTOne(object: {a: 1}"],
)
def test_an_insert_that_cannot_be_repeated_is_refused(
    field: str, conflict: str, words: str
) -> None:
    [fault] = faults(one_field(f"x: {field}{conflict})"))

    assert words in fault


@pytest.mark.parametrize(
    "field",
    [
        f"insert_t_one(object: {{a: 1}}, {CONFLICT})",
        "insert_t(objects: [], on_conflict: {constraint: k, update_columns: a})",
        "insertT(objects: [], onConflict: {constraint: k, updateColumns: [a]})",
        "insert_t(objects: [], on_conflict: {constraint: k, update_columns: [a], where: null})",
        "update_t_by_pk(pk_columns: {id: 1}, _set: {a: 1})",
        "update_t(where: {id: {_eq: 1}}, _set: {a: 1})",
        "updateTMany(updates: [])",
        "delete_t(where: {id: {_eq: 1}})",
        "deleteTByPk(id: 1)",
        "insert_t(objects: [{}], on_conflict: {constraint: k, update_columns: [a]})",
        "delete_t",
    ],
)
def test_what_can_be_repeated_is_allowed(field: str) -> None:
    _, nodes = read(one_field(field))

    assert (nodes.faults, nodes.warnings) == ([], [])


CONFLICT_VARIABLE = {
    "field": "insert_t(objects: [], on_conflict: $c)",
    "declared": "$c: t_on_conflict",
}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"constraint": "k", "update_columns": ["a"]}, ""),
        ({"constraint": "k", "update_columns": "a"}, ""),
        ({"constraint": "k", "update_columns": []}, "has no `update_columns`"),
        ({"constraint": "k", "update_columns": ["a", "b"]}, "has more than one"),
        (None, "has no `update_columns`"),
        ({"constraint": "k", "update_columns": ["{{ row.state }}"]}, "is worked out"),
        ({"constraint": "k", "update_columns": ["{{ row.state or 'a' }}"]}, "is worked out"),
        ("{{ {'constraint': 'k', 'update_columns': ['a']} }}", "is worked out"),
    ],
)
def test_an_on_conflict_that_is_a_variable_is_checked_as_far_as_it_is_constant(
    given: Any, words: str
) -> None:
    found = faults(one_field(**CONFLICT_VARIABLE, variables={"c": given}))

    assert len(found) == bool(words)
    assert all(words in fault for fault in found)


def test_an_on_conflict_that_is_a_default_is_checked_too() -> None:
    declared = "$c: t_on_conflict = {constraint: k, update_columns: %s}"
    field = CONFLICT_VARIABLE["field"]

    assert faults(one_field(field, declared=declared % "[a]")) == []
    assert "has no `update_columns`" in faults(one_field(field, declared=declared % "[]"))[0]


@pytest.mark.parametrize(
    "name", ["_inc", "_append", "_prepend", "_delete_key", "_delete_elem", "_delete_at_path"]
)
def test_what_does_another_thing_when_done_twice_is_refused_wherever_it_stands(name: str) -> None:
    words = f"`{name}` would be done twice"
    many = {"field": "update_t_many(updates: $u)", "declared": "$u: [t_updates!]!"}
    argument = one_field(f"update_t(where: {{}}, {name}: {{n: 1}})")
    inner = one_field(f"update_t_many(updates: [{{where: {{}}, {name}: {{n: 1}}}}])")
    variable = one_field(**many, variables={"u": [{"where": {}, name: {"n": 1}}]})
    template = one_field(**many, variables={"u": f"{{{{ [{{'{name}': {{'n': 1}}}}] }}}}"})

    assert all(words in "".join(faults(text)) for text in (argument, inner, variable, template))


def test_what_stands_in_the_apps_own_json_is_the_apps() -> None:
    field = "update_t_by_pk(pk_columns: {id: 1}, _set: {details: $d})"
    details = {"_inc": 1, "data": {"on_conflict": 1}}

    insert = f"insert_t_one(object: {{details: $d}}, {CONFLICT})"
    nested = {"data": [{"a": 1}]}

    assert faults(one_field(field, declared="$d: jsonb", variables={"d": details})) == []
    assert faults(one_field(insert, declared="$d: jsonb", variables={"d": nested})) == []
    assert len(faults(one_field(insert, declared="$d: x", variables={"d": nested}))) == 1
    assert len(faults(one_field(field, declared="$d: x", variables={"d": details}))) == 1


NESTED = {"title": "a", "notes": {"data": [{"text": "b"}]}}


def test_rows_that_are_inserted_through_a_relationship_must_be_repeatable_too() -> None:
    written = one_field(
        f"insert_t_one(object: {{title: 1, notes: {{data: [{{text: 1}}]}}}}, {CONFLICT})"
    )
    field = f"insert_t_one(object: $o, {CONFLICT})"
    variable = one_field(field, declared="$o: x", variables={"o": NESTED})
    several = one_field(
        f"insert_t(objects: $o, {CONFLICT})", declared="$o: x", variables={"o": [NESTED]}
    )
    conflict: dict[str, Any] = {"constraint": "k", "update_columns": ["a"]}
    notes = {"notes": {"data": [], "on_conflict": conflict}}
    allowed = one_field(field, declared="$o: x", variables={"o": notes})
    empty = {"notes": {"data": [], "on_conflict": {**conflict, "update_columns": []}}}
    refused = one_field(field, declared="$o: x", variables={"o": empty})

    for text in (written, variable, several):
        assert "inserts other rows through a relationship" in "".join(faults(text))
    assert faults(allowed) == []
    assert "its `on_conflict` has no `update_columns`" in faults(refused)[0]


def test_what_cannot_be_judged_is_a_warning() -> None:
    assert warnings(one_field("x: closeOutage(input: {})")) == [
        "rules.yaml:1: mutate.query: makes `closeOutage`, of which it cannot be told whether it "
        "can be repeated: after a lost answer it is made again"
    ]


# --- What it gives


def test_everything_is_told_where_all_is_new() -> None:
    assert render(rule(FIRST), everything=True) == {
        "id": "7",
        "set": {"status": "fixed", "assignee": "ADA", "changed_by": "ServiceNow"},
    }


def test_what_did_not_change_is_left_out_of_what_is_set() -> None:
    assert render(rule(FIRST), "state", "priority") == {
        "id": "7",
        "set": {"status": "fixed", "changed_by": "ServiceNow"},
    }


def test_nothing_is_told_where_nothing_changed_that_it_reads() -> None:
    assert render(rule(FIRST), "priority") is None
    assert render(rule(FIRST)) is None


def test_a_mutation_that_reads_no_column_is_made_whatever_changed() -> None:
    assert render(
        rule(one_field("delete_t_by_pk(id: $i)", declared="$i: x", variables={"i": 5}))
    ) == {"i": 5}


def test_a_variable_is_never_left_out() -> None:
    text = one_field(
        "update_t_by_pk(pk_columns: {id: 1}, _set: {a: $a, b: $b})",
        declared="$a: String, $b: String",
        variables={"a": "{{ row.state }}", "b": "{{ row.priority }}"},
    )

    assert render(rule(text), "state") == {"a": "6", "b": "2"}


def test_what_is_set_may_become_empty_where_a_variable_beside_it_changed() -> None:
    text = one_field(
        "act(note: $n, _set: $s)",
        declared="$n: x, $s: x",
        variables={"n": "{{ row.close_notes }}", "s": {"a": "{{ row.state }}"}},
    )

    assert render(rule(text), "close_notes") == {"n": "Replaced", "s": {}}


def test_what_is_not_set_is_told_whole() -> None:
    """An insert with half of a row, a `where` without its condition or half of a JSON value would
    all be wrong."""
    object_ = {"a": "{{ row.state }}", "b": "{{ row.priority }}"}
    text = one_field(
        f"insert_t_one(object: $o, {CONFLICT})", declared="$o: x", variables={"o": object_}
    )
    whole = {"d": {"e": {"state": "{{ row.state }}", "b": ["{{ row.priority }}"]}}}
    json = one_field("update_t(where: {}, _set: $d)", declared="$d: x", variables=whole)

    assert render(rule(text), "state") == {"o": {"a": "6", "b": "2"}}
    assert render(rule(json), "state") == {"d": {"e": {"state": "6", "b": ["2"]}}}


MANY = one_field(
    "update_t_many(updates: $u)",
    declared="$u: [t_updates!]!",
    variables={
        "u": [
            {
                "where": {"email": {"_eq": "{{ row['assigned_to.name'] }}"}},
                "_set": {"a": "{{ row.state }}", "b": "{{ row.priority }}"},
            }
        ]
    },
)


def test_of_several_updates_each_sets_what_changed() -> None:
    assert render(rule(MANY), "state") == {
        "u": [{"where": {"email": {"_eq": "ada"}}, "_set": {"a": "6"}}]
    }


def test_other_rows_than_before_are_told_everything() -> None:
    assert render(rule(MANY), "assigned_to.name") == {
        "u": [{"where": {"email": {"_eq": "ada"}}, "_set": {"a": "6", "b": "2"}}]
    }


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ 5 }}", 5),
        ("{{ row.priority | int }}", 2),
        ("{{ 0.1 + 0.2 }}", Decimal("0.3")),
        ("{{ row.state == '6' }}", True),
        ("{{ none }}", None),
        ("{{ [1, row.state] }}", [1, "6"]),
        ("{{ {'a': (1, 2)} }}", {"a": [1, 2]}),
        ("{{ [changed | map('upper')] }}", [[]]),
        ("{{ link }}", LINK),
        ("a {{ 5 }}", "a 5"),
        (5, 5),
        (True, True),
        (None, None),
        ("5", "5"),
        ("", ""),
        ("text", "text"),
    ],
)
def test_a_value_keeps_its_type(template: Any, value: Any) -> None:
    text = one_field("act(a: $a)", declared="$a: x", variables={"a": template})

    rendered = render(rule(text), everything=True)
    assert rendered == {"a": value}
    assert type(rendered["a"]) is type(value)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (
            "12345678901234567890.12345678901234567890",
            Decimal("12345678901234567890.12345678901234567890"),
        ),
        ("-1.50", Decimal("-1.50")),
        ("-7", -7),
        ("12345678901234567890", 12345678901234567890),
        ("0123", "0123"),
        ("12:30", "12:30"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        (".inf", ".inf"),
        ("2026-03-04", "2026-03-04"),
        ("yes", True),
    ],
)
def test_a_number_is_one_as_json_has_it_and_no_digit_is_lost(written: str, value: Any) -> None:
    text = f"query: 'mutation($a: x) {{ act(a: $a) {{ id }} }}'\nvariables: {{a: {written}}}"

    assert render(rule(text), everything=True) == {"a": value}


# --- What it does not give


def refusal(mutate: MutateRule, **names: Any) -> RenderError:
    with pytest.raises(RenderError) as caught:
        render(mutate, everything=True, **names)
    assert caught.value.reason is Reason.BAD_MAPPING
    return caught.value


@pytest.mark.parametrize(
    "template",
    ["{{ link.key }}", "{{ link.key if link else none }}", "{{ link }}", "{{ link and link.key }}"],
)
def test_a_ticket_of_no_row_is_no_null_in_a_condition(template: str) -> None:
    error = refusal(rule(FIRST.replace("{{ link.key }}", template)), link=None)

    assert "the ticket is for no row of the app" in error.sentence
    assert str(error.where) == "rules.yaml:6: mutate.variables.id"


def test_a_null_that_names_the_link_is_refused_wherever_it_stands() -> None:
    inner = FIRST.replace("ServiceNow", "'{{ link.rule if op == \"INSERT\" else none }}'")

    assert "names `link` and gives null" in refusal(rule(inner)).sentence


def test_a_rule_may_say_what_stands_in_the_place_of_a_link() -> None:
    text = FIRST.replace("{{ link.key }}", "{{ link.key if link else 'none' }}")

    assert (render(rule(text), "state", link=None) or {})["id"] == "none"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("update_t(where: {id: {_eq: $x}}, _set: {a: 1})", "{{ none }}"),
        ("update_t(where: $x, _set: {a: 1})", {"id": {"_eq": "{{ none }}"}}),
        ("update_t_by_pk(pk_columns: {id: $x}, _set: {a: 1})", "{{ none }}"),
        ("update_t_by_pk(pk_columns: {id: $x}, _set: {copy: $x})", "{{ none }}"),
        ("update_t_many(updates: $x)", [{"where": {"id": "{{ none }}"}, "_set": {}}]),
        ("delete_t_by_pk(id: $x)", "{{ none }}"),
        ("delete_t(where: $x)", "{{ none }}"),
        ("update_t(where: $x, _set: {a: 1})", "{{ {'id': {'_eq': none}} }}"),
        ("update_t(where: $x, _set: {a: 1})", "{{ {'_or': [{'id': {'_in': [1, none]}}]} }}"),
        ("update_t(where: {_and: $x}, _set: {a: 1})", ["{{ {'id': {'_eq': none}} }}"]),
        ("update_t_many(updates: $x)", "{{ [{'where': {'id': {'_eq': none}}, '_set': {}}] }}"),
        ("update_t_many(updates: $x)", ["{{ {'where': {'id': {'_eq': none}}, '_set': {}} }}"]),
    ],
)
def test_a_null_that_would_match_every_row_is_refused(field: str, value: Any) -> None:
    mutate = rule(one_field(field, declared="$x: x", variables={"x": value}))

    assert "in a `where` would match every row" in refusal(mutate).sentence


def test_a_null_that_is_set_is_told() -> None:
    value = "{{ [{'where': {'id': {'_eq': 1}}, '_set': {'a': none}}] }}"
    mutate = rule(one_field("update_t_many(updates: $x)", declared="$x: x", variables={"x": value}))

    assert render(mutate, everything=True) == {
        "x": [{"where": {"id": {"_eq": 1}}, "_set": {"a": None}}]
    }


def test_what_cannot_be_rendered_names_its_place_and_nothing_of_the_ticket() -> None:
    error = refusal(rule(FIRST.replace("row.state |", "row.state | int + row.priority |")))

    assert str(error.where) == "rules.yaml:8: mutate.variables.set.status"
    assert "Replaced" not in error.sentence


# --- In a file of rules


FILE = """\
version: 1
rules:
  - name: to-app
    from: {source}
    mutate:
      query: 'mutation {{ delete_t_by_pk(id: 1) {{ id }} }}'
"""


@pytest.mark.parametrize("source", ["hasura/public.outages", "cron/a", "scheduled"])
def test_only_a_rule_from_servicenow_has_a_mutation(source: str) -> None:
    with pytest.raises(RulesError) as caught:
        load_rules(FILE.format(source=source), environ={})

    assert [str(fault) for fault in caught.value.faults] == [
        "rules.yaml:6: rules[0].mutate: is for rules from servicenow/TABLE, which tell the app of "
        "a ticket"
    ]


@pytest.mark.parametrize("key", ["each", "trigger", "data"])
def test_a_rule_from_servicenow_is_refused_what_is_for_rows(key: str) -> None:
    text = FILE.format(source="servicenow/incident") + f"    {key}: {{query: 'query {{ a }}'}}\n"
    with pytest.raises(RulesError) as caught:
        load_rules(text, environ={})

    assert f"rules.yaml:7: rules[0].{key}: is for rules" in str(caught.value)


def test_a_rule_has_a_ticket_or_a_mutation() -> None:
    text = FILE.format(source="cron/a") + "    ticket: {key: a, fields: {b: c}}\n"
    with pytest.raises(RulesError) as caught:
        load_rules(text, environ={})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema())

    assert "rules[0].mutate: a rule has one target" in str(caught.value)


def test_the_schema_knows_mutations() -> None:
    jsonschema.validate(yaml.safe_load(FILE.format(source="cron/a")), schema())
    for wrong in ("variables: [a]", "variables: {a b: 1}", "other: 1"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                yaml.safe_load(FILE.format(source="cron/a") + f"      {wrong}\n"), schema()
            )
