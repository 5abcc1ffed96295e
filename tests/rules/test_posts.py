"""The `post` and the `data` of a rule: read and checked, and what they give."""

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from function.core.event import Event, Op
from function.core.outcome import Failure
from function.core.step import DesiredState, Step
from function.core.values import Json
from function.rules.budget import RenderBudget, RenderError
from function.rules.evaluate import evaluate, names_of
from function.rules.loader import RulesError, load_rules
from function.rules.model import Rule, Rules
from function.rules.post import HEADER_CHARACTERS_MAX, PostRule, post_of
from function.rules.schema import schema

SECRET = "whsec_" + base64.b64encode(b"a key of 24 bytes or so!").decode()
ENVIRON = {"A_URL": "https://a.example.com/hooks", "A_SECRET": SECRET, "A_TOKEN": "token"}
POST = """\
  - name: a
    from: hasura/public.accounts
    post:
      url: "{{ env.A_URL }}"
      body: {id: "{{ row.id }}"}
"""
DATA = """\
    data:
      query: 'query Get($id: uuid!) { accounts_by_pk(id: $id) { name } }'
      variables: {id: "{{ row.id }}"}
"""
ROW: dict[str, Json] = {"id": 7, "name": "Ada"}


def read(rule: str = POST, **environ: str) -> Rules:
    text = f"version: 1\nenv: [A_URL, A_SECRET, A_TOKEN]\nrules:\n{rule}"
    return load_rules(text, environ=ENVIRON | environ)


def having(lines: str, *, rule: str = POST) -> str:
    """The rule with *lines* in its post."""
    return rule + "".join(f"      {line}\n" for line in lines.splitlines())


def with_body(body: str) -> str:
    return POST.replace('{id: "{{ row.id }}"}', body)


def faults(rule: str, **environ: str) -> list[str]:
    with pytest.raises(RulesError) as caught:
        read(rule, **environ)
    return [str(fault) for fault in caught.value.faults]


def event(op: str = "INSERT", old: Json = None, new: Json = None, **columns: Json) -> Event:
    if old is None and new is None:
        new = {**ROW, **columns}
    return Event("e1", "hasura/public.accounts", Op(op), old, new, "c", "{}")


def step_of(rule: Rule, of: Event) -> Step:
    [only] = evaluate(rule, of)
    return only


def rendered(rule: str, **columns: Json) -> tuple[PostRule, dict[str, Any], RenderBudget]:
    [parsed] = read(rule).rules
    of = event("INSERT", None, {**ROW, **columns})
    names, budget = names_of(parsed, of, step_of(parsed, of))
    return post_of(parsed), names, budget


def body_of(rule: str, **columns: Json) -> bytes:
    post, names, budget = rendered(rule, **columns)
    return post.render_body(names, budget)


# Read


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        (POST.replace('url: "{{ env.A_URL }}"', ""), "post.url: is missing; write where to call"),
        (POST.replace('body: {id: "{{ row.id }}"}', ""), "post.body: is missing"),
        (POST.replace("env.A_URL", "row.url"), "post.url: there is no `row` here"),
        (POST.replace("env.A_URL", "env.B_URL"), "post.url: `env` does not list `B_URL`"),
        (having("bodies: x"), "post.bodies: there is no such key; did you mean `body`?"),
        (having("sign: hmac"), "post.sign: must be one of standard, aws"),
        (having("sign: standard"), "post.secret: is missing"),
        (having("secret: A_SECRET"), "post.secret: is signed with, and nothing is signed"),
        (having("sign: aws\nsecret: NOPE"), "post.secret: must be the name of a variable"),
        (having('sign: aws\nsecret: "{{ env.A_SECRET }}"'), "post.secret: must be the name"),
        (having("sign: standard\nsecret: A_TOKEN"), "post.secret: `A_TOKEN` must be a secret of"),
        (having("allow_private: maybe"), "post.allow_private: must be true or false"),
        (having("timeout_seconds: 31"), "post.timeout_seconds: must be a number of seconds"),
        (having("timeout_seconds: 0"), "post.timeout_seconds: must be a number of seconds"),
        (having("timeout_seconds: 0.09"), "post.timeout_seconds: must be a number of seconds, 0.1"),
        (having("headers: {Host: x}"), "post.headers.Host: is written by HTTP itself"),
        (having("headers: {Webhook-Id: x}"), "post.headers.Webhook-Id: is written by the function"),
        (having("headers: {'X Y': x}"), "post.headers.X Y: is not the name of a header"),
        (having("headers: {X-A: x, x-a: y}"), "post.headers.x-a: stands here twice"),
        (having("headers: [x]"), "post.headers: must be a mapping"),
        (having("order_by: row.at"), "post.order_by: orders the images of a row"),
        (having("key: same"), "post.key: is the same for every row"),
        (POST + "    each: row.items\n", "post.key: is missing: beside `each`"),
        (POST + "    ticket: {key: '{{ row.id }}', fields: {a: b}}\n", "a rule has one target"),
        (with_body('"{{ data.x }}"'), "post.body: there is no `data` here"),
        (with_body("row.id"), "post.body: is a text that looks like an expression"),
        (
            POST + "    data: {query: 'mutation { a }'}\n",
            "data.query: is a mutation; write a query",
        ),
        (POST + "    data: {query: 'query { a '}\n", "data.query: is not GraphQL"),
        (POST + "    data: {variables: {}}\n", "data.query: is missing"),
        (POST + DATA.replace("id: $id", "id: $no"), "uses `$no` and does not declare it"),
        (POST + DATA.replace("{id: ", "{ip: "), "data.variables.ip: the query declares no `$ip`"),
        (POST + DATA.replace("row.id", "data.id"), "data.variables.id: there is no `data` here"),
    ],
)
def test_a_fault_is_told_with_its_place(rule: str, fault: str) -> None:
    assert any(fault in each for each in faults(rule)), faults(rule)


def test_data_beside_another_target_is_a_fault() -> None:
    ticket = "  - name: t\n    from: cron/t\n    ticket: {key: '{{ row.id }}', fields: {a: b}}\n"

    assert faults(ticket + DATA) == [
        "rules.yaml:8: rules[0].data: is fetched for a `post`, and this rule has none; take it out"
    ]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "`A_URL` is empty: must be a URL such as https://orders.example.com/hooks"),
        ("a.example.com", "`A_URL` must be a URL such as"),
        ("ftp://a.example.com", "`A_URL` must be a URL such as"),
        ("https://", "`A_URL` must be a URL such as"),
        ("https://a.example.com:x/", "`A_URL` cannot be read as an address"),
        ("https://a.example.com/a b", "`A_URL` holds a character that no URL has"),
        ("https://a.example.com/#top", "`A_URL` must have no `#`"),
        ("https://planted.example.com\\@b", "`A_URL` holds a character that no URL has"),
    ],
)
def test_a_malformed_url_is_refused_at_start_by_name_and_not_quoted(url: str, fault: str) -> None:
    [told] = faults(POST, A_URL=url)

    assert fault in told
    assert "planted" not in told


def test_a_user_in_the_url_beside_a_header_for_it_is_refused_at_start() -> None:
    header = having("headers: {authorization: 'Bearer {{ env.A_TOKEN }}'}")
    url = "https://planted:word@a.example.com/"
    [told] = faults(header, A_URL=url)

    assert "post.url: `A_URL` has a user, which is sent in the place of" in told
    assert "planted" not in told
    assert read(POST, A_URL=url).warnings == ()


def test_a_url_that_the_environment_lacks_is_one_fault() -> None:
    text = f"version: 1\nenv: [A_URL]\nrules:\n{POST}"
    with pytest.raises(RulesError) as caught:
        load_rules(text, environ={})

    assert [str(fault) for fault in caught.value.faults] == [
        "rules.yaml:2: env[0]: the environment has no `A_URL`; set it or take it out"
    ]


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("https://a.example.com", 0),
        ("http://a.example.com", 1),
        ("https://10.0.0.1/", 1),
        ("https://localhost:8443/", 1),
        ("https://169.254.169.254/", 1),
    ],
)
def test_a_url_that_must_not_be_called_is_a_warning_at_start(url: str, warned: int) -> None:
    warnings = read(POST, A_URL=url).warnings

    assert len(warnings) == warned
    assert all("`A_URL`" in str(warning) and url not in str(warning) for warning in warnings)


def test_with_allow_private_a_private_url_is_in_order_and_one_of_secrets_is_not() -> None:
    private = having("allow_private: true")

    assert read(private, A_URL="http://10.0.0.1:8080/").warnings == ()
    assert len(read(private, A_URL="http://169.254.169.254/").warnings) == 1


def test_data_that_nothing_names_is_a_warning() -> None:
    [warning] = read(POST + DATA).warnings

    assert "is fetched for nothing" in str(warning)


@pytest.mark.parametrize(
    "rule",
    [
        POST,
        POST + DATA + "    when: data.accounts_by_pk\n",
        having("key: '{{ row.id }}'\norder_by: row.at\nsign: standard\nsecret: A_SECRET"),
        having("headers: {X-A: 1}\nallow_private: true\ntimeout_seconds: 2.5"),
        with_body('[1, {a: "{{ row }}"}]'),
        with_body('"{{ row }}"'),
    ],
)
def test_what_is_read_is_in_order_by_the_schema_too(rule: str) -> None:
    text = f"version: 1\nenv: [A_URL, A_SECRET, A_TOKEN]\nrules:\n{rule}"

    assert read(rule).rules[0].target.kind == "post"
    jsonschema.validate(yaml.safe_load(text), schema())


def example_of_the_docs() -> Rules:
    page = (Path(__file__).resolve().parents[2] / "docs" / "posts.md").read_text("utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    environ = {
        "ORDERS_URL": "https://orders.example.com",
        "ORDERS_SECRET": SECRET,
        "BILLING_URL": "https://billing.example.com",
        "BILLING_TOKEN": "token",
    }
    return load_rules(f"version: 1\n{example}", environ=environ)


def test_the_example_of_the_docs_is_in_order() -> None:
    rules = example_of_the_docs()

    assert [rule.target.kind for rule in rules.rules] == ["post", "post"]
    assert rules.warnings == ()


@pytest.mark.parametrize(
    ("op", "account", "sent"),
    [
        ("INSERT", {"name": "Ada", "plan": {"code": "P"}}, {"name": "Ada", "plan": "P"}),
        ("INSERT", None, None),
        ("DELETE", None, {"name": None, "plan": None}),
    ],
)
def test_the_example_of_the_docs_tells_a_deletion_and_skips_what_is_gone_by_then(
    op: str, account: Json, sent: dict[str, Json] | None
) -> None:
    rule = example_of_the_docs().rules[0]
    of = event(op, ROW, None) if op == "DELETE" else event(op, None, ROW)
    names, budget = names_of(rule, of, step_of(rule, of))
    names["data"] = {"accounts_by_pk": account}
    post = post_of(rule)

    assert post.is_wanted(names, budget) is (sent is not None)
    if sent is not None:
        assert json.loads(post.render_body(names, budget)) == {"op": op, "id": 7, **sent}


# What is wanted of a row


def test_the_key_of_a_post_without_one_is_the_event() -> None:
    [rule] = read().rules

    assert (step_of(rule, event()).key, rule.target.follows) == ("e1", False)


def test_with_a_key_the_post_follows_the_row() -> None:
    [rule] = read(having("key: '{{ row.id }}'")).rules

    assert (step_of(rule, event()).key, rule.target.follows) == ("7", True)


def test_nothing_of_the_row_is_kept_with_what_is_wanted() -> None:
    [rule] = read().rules
    wants = step_of(rule, event()).wants

    assert wants == DesiredState(when=True, resolved=False, gone=False, fields={}, close={})


def test_a_when_that_names_data_is_left_to_the_sending() -> None:
    [rule] = read(POST + DATA + "    when: row.id == 8 and data.accounts_by_pk\n").rules
    wants = step_of(rule, event()).wants

    assert isinstance(wants, DesiredState)
    assert wants.when
    post, names, budget = rendered(POST + DATA + "    when: data.accounts_by_pk\n")
    assert not post.is_wanted({**names, "data": {"accounts_by_pk": None}}, budget)
    assert post.is_wanted({**names, "data": {"accounts_by_pk": {"name": "Ada"}}}, budget)


def test_any_other_when_is_asked_of_the_row() -> None:
    [rule] = read(POST + "    when: row.id == 8\n").rules
    wants = step_of(rule, event()).wants

    assert isinstance(wants, DesiredState)
    assert not wants.when


# What is sent


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ('{id: "{{ row.id }}", n: 5, x: null, t: true}', {"id": 7, "n": 5, "x": None, "t": True}),
        (
            '{s: "a{{ row.id }}", q: "5", l: ["{{ row.tags }}"]}',
            {"s": "a7", "q": "5", "l": [["x"]]},
        ),
        ('{row: "{{ row }}"}', {"row": {"id": 7, "name": "Ada", "tags": ["x"]}}),
        ('"{{ row.tags }}"', ["x"]),
        ('"{{ row.id }}"', 7),
        ('"{{ row.none }}"', None),
        ("""'{"id": {{ row.id }}}'""", {"id": 7}),
        ("{}", {}),
        ('[{a: {b: ["{{ op }}"]}}]', [{"a": {"b": ["INSERT"]}}]),
    ],
)
def test_a_body_is_any_structure_or_one_template(body: str, sent: object) -> None:
    with_none = body_of(with_body(body), tags=["x"], none=None)
    plain = body_of(with_body(body), tags=["x"]) if "none" not in body else with_none

    assert json.loads(plain) == sent


def test_a_template_that_gives_a_text_is_the_body_as_it_is() -> None:
    assert body_of(with_body('"id={{ row.id }}&name={{ row.name }}"')) == b"id=7&name=Ada"


def test_a_number_keeps_its_digits() -> None:
    from decimal import Decimal

    exact = Decimal("12345678901234567890.123456789")

    assert body_of(with_body('{n: "{{ row.n }}"}'), n=exact) == (
        b'{"n": 12345678901234567890.123456789}'
    )


def test_a_column_that_the_row_lacks_is_no_body() -> None:
    with pytest.raises(RenderError, match="that the row does not have"):
        body_of(with_body('{a: "{{ row.no }}"}'))


@pytest.mark.parametrize("sign", ["\n", "\r", "\r\nX-Evil: 1", "\x00", "\t", "\x7f", "\x85"])
def test_a_control_character_in_a_header_is_refused_and_not_quoted(sign: str) -> None:
    rule = having('headers: {X-Name: "{{ row.name }}"}')
    post, names, budget = rendered(rule, name=f"a{sign}b")

    with pytest.raises(RenderError) as caught:
        post.render_headers(names, budget)
    assert "control character" in caught.value.failure.hint
    assert "post.headers.X-Name" in caught.value.failure.hint
    assert sign not in caught.value.failure.hint


def test_a_header_without_end_is_refused() -> None:
    post, names, budget = rendered(
        having('headers: {X-Name: "{{ row.name }}"}'), name="x" * (HEADER_CHARACTERS_MAX + 1)
    )

    with pytest.raises(RenderError, match="too many for a header"):
        post.render_headers(names, budget)


def test_a_row_that_goes_over_to_another_key_is_deleted_under_its_old_one() -> None:
    [rule] = read(
        having("key: '{{ row.id }}'", rule=with_body('["{{ op }}", "{{ row.id }}"]'))
    ).rules
    of = event("UPDATE", ROW, ROW | {"id": 8})
    bodies = {}
    for step in evaluate(rule, of):
        names, budget = names_of(rule, of, step)
        bodies[step.key] = json.loads(post_of(rule).render_body(names, budget))

    assert bodies == {"7": ["DELETE", 7], "8": ["INSERT", 8]}


def test_each_element_is_sent_by_itself() -> None:
    rule_text = having('key: ["{{ row.id }}", "{{ item.id }}"]', rule=with_body('"{{ item }}"'))
    [rule] = read(rule_text + "    each: row.items\n").rules
    of = event(items=[{"id": 1}, {"id": 2}])
    steps = evaluate(rule, of)
    bodies = []
    for step in steps:
        names, budget = names_of(rule, of, step)
        bodies.append(json.loads(post_of(rule).render_body(names, budget)))

    assert [step.key for step in steps] == ["7/1", "7/2"]
    assert bodies == [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("query", "refused"),
    [
        ("query($id: Int) { accounts_by_pk(id: $id) { name } }", True),
        ("query($id: Int) { accounts(where: {id: {_eq: $id}}) { name } }", True),
        ("query($id: Int) { a: plans { accounts(where: {id: {_eq: $id}}) { name } } }", True),
        ("query($id: Int) { accounts(limit: $id) { name } }", False),
    ],
)
def test_a_null_never_says_which_rows_are_asked_for(query: str, refused: bool) -> None:
    rule = POST + f"    data: {{query: '{query}', variables: {{id: '{{{{ row.none }}}}'}}}}\n"
    post, names, budget = rendered(rule, none=None)
    assert post.data is not None

    if refused:
        with pytest.raises(RenderError, match="would match every row"):
            post.data.render(names, budget)
    else:
        assert post.data.render(names, budget) == {"id": None}


@pytest.mark.parametrize(
    "where",
    [
        """\"{{ {'id': {'_eq': row.none}} }}\"""",
        """\"{{ {'_and': [{'id': {'_in': [1, row.none]}}]} }}\"""",
        """{id: "{{ {'_eq': row.none} }}"}""",
    ],
)
def test_a_null_within_a_condition_never_says_which_rows_are_asked_for(where: str) -> None:
    query = "query($w: accounts_bool_exp) { accounts(where: $w) { name } }"
    rule = POST + f"    data:\n      query: '{query}'\n      variables: {{w: {where}}}\n"
    post, names, budget = rendered(rule, none=None)
    assert post.data is not None

    with pytest.raises(RenderError, match="would match every row"):
        post.data.render(names, budget)


def test_a_key_that_the_row_does_not_have_is_a_failure_of_the_event() -> None:
    [rule] = read(having("key: '{{ row.name }}'")).rules

    assert isinstance(step_of(rule, event(name=None)).wants, Failure)
