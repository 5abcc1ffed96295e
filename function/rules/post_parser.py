"""The `post` and the `data` of a rule, read and checked. Pure."""

import re
from collections.abc import Mapping
from typing import Final

import yaml

from function.http.addresses import refuse_target, target_url
from function.rules.budget import RenderBudget, RenderError
from function.rules.key_parser import KeyParser
from function.rules.model import RuleTemplate, RuleTemplates
from function.rules.operation import parse_query
from function.rules.post import (
    DATA,
    TIMEOUT_SECONDS_DEFAULT,
    TIMEOUT_SECONDS_MAX,
    TIMEOUT_SECONDS_MIN,
    DataQuery,
    PostRule,
    PostTemplates,
)
from function.rules.schema import DATA_KEYS, POST_KEYS, SIGNATURES
from function.rules.signature import SIGNATURE_HEADERS, find_secret_fault
from function.rules.structure import StructureReader
from function.rules.template_nodes import TemplateReader
from function.rules.templates import parse_template
from function.rules.variable_check import VariableCheck, read_operation, read_variables
from function.rules.yaml_nodes import NodeReader, is_bool, is_true

_MISSING: Final = {
    "url": 'is missing; write where to call, such as "{{ env.ORDERS_URL }}"',
    "body": "is missing; it says what is sent",
}
_EACH_KEY: Final = (
    "is missing: beside `each` it tells the elements apart, such as "
    '["{{ row.id }}", "{{ item.id }}"]'
)
# RFC 9110, 5.6.2.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", re.ASCII)
_HEADERS_OF_HTTP: Final = frozenset(
    ("connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding",
     "upgrade")
)  # fmt: skip
_SECONDS: Final = re.compile(r"\d{1,3}(\.\d{1,3})?", re.ASCII)


class PostRuleParser:
    """Parses posts of rules, and reports each fault with its line."""

    def __init__(
        self, nodes: NodeReader, templates: TemplateReader, environ: Mapping[str, str]
    ) -> None:
        """*environ* has the variables that `env` may name; of those that it lacks, a fault is
        reported already."""
        self._environ = environ
        self._nodes = nodes
        self._templates = templates
        self._keys = KeyParser(nodes, templates, kind="post")

    def parse(
        self,
        rule: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        *,
        each: RuleTemplate | None,
    ) -> tuple[PostRule, RuleTemplates] | None:
        """*rule* has the keys of the whole rule: its `when` and its `data` are read here too."""
        node, path, of_rule = rule["post"], f"{path}.post", path
        seen = (*names, DATA) if DATA in rule else names
        when = self._templates.expression(rule, "when", of_rule, seen)
        data = self._parse_data(rule, of_rule, names)
        entries = self._nodes.mapping(node, path, POST_KEYS)
        if entries is None:
            return None
        for key, what in _MISSING.items():
            if key not in entries:
                self._nodes.fault(node, f"{path}.{key}", what)
        if "url" not in entries or "body" not in entries:
            return None
        allow_private = self._flag(entries, "allow_private", path)
        sign, secret = self._parse_signature(entries, path, node)
        url = self._templates.template(entries["url"], f"{path}.url", ("env",))
        variables = tuple(sorted(url.syntax.find_parts("env")))
        asks_data = when is not None and DATA in when.syntax.names
        post = PostRule(
            url_variables=variables,
            follows="key" in entries,
            sign=sign,
            secret=secret,
            allow_private=allow_private,
            timeout_seconds=self._seconds(entries, "timeout_seconds", path),
            templates=PostTemplates(
                url=url,
                headers=self._parse_headers(entries, path, seen),
                body=StructureReader(self._nodes, self._templates, seen).read(
                    entries["body"], f"{path}.body"
                ),
                when=when if asks_data else None,
            ),
            data=data,
            locations=dict.fromkeys(("", *POST_KEYS), self._nodes.locate(node, path))
            | {key: self._nodes.locate(value, f"{path}.{key}") for key, value in entries.items()},
        )
        self._check_url(post)
        if data is not None and not post.needs_data:
            what = "is fetched for nothing: neither `when` nor the post names `data`"
            self._nodes.warn(self._nodes.locate(rule[DATA], f"{of_rule}.{DATA}"), what)
        templates = RuleTemplates(
            key=self._parse_key(entries, path, names, node),
            when=None if asks_data else when,
            each=each,
            order_by=self._parse_order(entries, path, names),
        )
        return post, templates

    def _parse_key(
        self, entries: Mapping[str, yaml.Node], path: str, names: tuple[str, ...], node: yaml.Node
    ) -> tuple[RuleTemplate, ...]:
        """What is kept in step; the event itself where the rule does not say."""
        if "key" in entries:
            return self._keys.parse(entries, path, names, node)
        if "item" in names:
            self._nodes.fault(node, f"{path}.key", _EACH_KEY)
        where = self._nodes.locate(node, f"{path}.key")
        return (RuleTemplate(parse_template("{{ event.id }}", names=("event",)), where),)

    def _parse_order(
        self, entries: Mapping[str, yaml.Node], path: str, names: tuple[str, ...]
    ) -> RuleTemplate | None:
        if "order_by" in entries and "key" not in entries:
            what = "orders the images of a row, and without a `key` each event is sent by itself"
            self._nodes.fault(entries["order_by"], f"{path}.order_by", what)
        return self._templates.expression(entries, "order_by", path, names)

    def _check_url(self, post: PostRule) -> None:
        """Look at the URL that the environment has now. One that must not be called is no fault of
        the file: its events are dead letters."""
        url, variables = post.templates.url, post.url_variables
        if not all(name in self._environ for name in variables):
            return
        shown = " and ".join(f"`{name}`" for name in variables) or "it"
        try:
            written = target_url(url.text({"env": self._templates.env}, RenderBudget()))
        except ValueError as error:
            self._nodes.fault(url.where.line, url.where.path, f"{shown} {error}")
        except RenderError as error:
            self._nodes.fault(url.where.line, url.where.path, error.sentence)
        else:
            if fault := post.refuse_user(written):
                self._nodes.fault(url.where.line, url.where.path, f"{shown} {fault}")
            if refused := refuse_target(written, allow_private=post.allow_private):
                what = f"{shown} {refused}. Every event of this rule becomes a dead letter"
                self._nodes.warn(url.where, what)

    def _parse_headers(
        self, entries: Mapping[str, yaml.Node], path: str, names: tuple[str, ...]
    ) -> dict[str, RuleTemplate]:
        if "headers" not in entries:
            return {}
        node, path = entries["headers"], f"{path}.headers"
        if not isinstance(node, yaml.MappingNode):
            self._nodes.fault(node, path, "must be a mapping of names to values")
            return {}
        headers: dict[str, RuleTemplate] = {}
        seen: set[str] = set()
        for name, value in self._nodes.members(node, path).items():
            below = f"{path}.{name}"
            if not _HEADER_NAME.fullmatch(name):
                self._nodes.fault(value, below, "is not the name of a header (such as X-Source)")
            elif name.lower() in _HEADERS_OF_HTTP:
                self._nodes.fault(value, below, "is written by HTTP itself; take it out")
            elif name.lower() in SIGNATURE_HEADERS:
                self._nodes.fault(value, below, "is written by the function; take it out")
            elif name.lower() in seen:
                self._nodes.fault(value, below, "stands here twice: case does not count")
            seen.add(name.lower())
            headers[name] = self._templates.template(value, below, names, constants=True)
        return headers

    def _parse_signature(
        self, entries: Mapping[str, yaml.Node], path: str, node: yaml.Node
    ) -> tuple[str, str]:
        """How the call is signed, and the variable that it is signed with."""
        sign = self._nodes.choice(entries, "sign", path, SIGNATURES) or ""
        if "sign" in entries and "secret" not in entries:
            what = "is missing: name the variable of `env` that the call is signed with"
            self._nodes.fault(node, f"{path}.secret", what)
        if "secret" not in entries:
            return sign, ""
        secret_node, where = entries["secret"], f"{path}.secret"
        if "sign" not in entries:
            what = f"is signed with, and nothing is signed: write `sign`, {' or '.join(SIGNATURES)}"
            self._nodes.fault(secret_node, where, what)
        secret = self._nodes.text(secret_node, where) or ""
        env = self._templates.env
        if secret not in env:
            what = "must be the name of a variable that `env` lists at the top, without braces"
            self._nodes.fault(secret_node, where, what)
            return sign, ""
        fault = find_secret_fault(sign, env[secret])
        if fault:
            self._nodes.fault(secret_node, where, f"`{secret}` {fault}")
        return sign, secret

    def _parse_data(
        self, rule: Mapping[str, yaml.Node], path: str, names: tuple[str, ...]
    ) -> DataQuery | None:
        if DATA not in rule:
            return None
        node, path = rule[DATA], f"{path}.{DATA}"
        entries = self._nodes.mapping(node, path, DATA_KEYS)
        if entries is None:
            return None
        if "query" not in entries:
            self._nodes.fault(node, f"{path}.query", "is missing; it is the GraphQL query")
            return None
        query = entries["query"]
        operation = read_operation(self._nodes, query, f"{path}.query", parse_query, who="the row")
        given = read_variables(self._nodes, entries, path)
        selecting = operation.selecting if operation is not None else frozenset()
        variables = {
            name: StructureReader(
                self._nodes, self._templates, names, selects=name in selecting
            ).read(value, f"{path}.variables.{name}")
            for name, value in given.items()
        }
        if operation is None:
            return None
        check = VariableCheck(self._nodes, query, f"{path}.query", called="the query")
        check.check(operation, entries.get("variables", node), f"{path}.variables", given)
        return DataQuery(
            query=query.value,
            operation_name=operation.name,
            variables=variables,
        )

    def _flag(self, entries: Mapping[str, yaml.Node], key: str, path: str) -> bool:
        if key not in entries:
            return False
        if not is_bool(entries[key]):
            self._nodes.fault(entries[key], f"{path}.{key}", "must be true or false")
            return False
        return is_true(entries[key])

    def _seconds(self, entries: Mapping[str, yaml.Node], key: str, path: str) -> float:
        if key not in entries:
            return TIMEOUT_SECONDS_DEFAULT
        written = self._nodes.text(entries[key], f"{path}.{key}") or ""
        seconds = float(written) if _SECONDS.fullmatch(written) else 0.0
        if TIMEOUT_SECONDS_MIN <= seconds <= TIMEOUT_SECONDS_MAX:
            return seconds
        what = (
            f"must be a number of seconds, {TIMEOUT_SECONDS_MIN:g} at least and "
            f"{TIMEOUT_SECONDS_MAX:g} at most"
        )
        self._nodes.fault(entries[key], f"{path}.{key}", what)
        return TIMEOUT_SECONDS_DEFAULT
