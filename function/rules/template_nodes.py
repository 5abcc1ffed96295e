"""Templates and expressions in the rules file, checked where they stand. Pure."""

import re
from collections.abc import Callable, Collection, Mapping

import yaml

from function.core.values import did_you_mean
from function.rules.model import RuleTemplate
from function.rules.schema import COLUMN_PATH
from function.rules.syntax import InvalidTemplate, is_expression
from function.rules.templates import Template, parse_expression, parse_template
from function.rules.yaml_nodes import NodeReader, is_bool, is_null, is_true, line_within

_CHANGE_NAMES = ("ticket", "link", "shown")
# What begins like this and is an expression was meant to have braces.
_BARE = re.compile(r"(\w+)\s*(?:[.\[|]|[=!]=)")
_BARE_NAMES = frozenset({"row", "old", "new", "item", "event", "env", "op", "changed"})
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+(?:[eE][+-]?\d+)?)?", re.ASCII)
NO_TEMPLATE = parse_template("", names=())


class TemplateReader:
    """Reads templates; those may name the variables in *env*."""

    def __init__(self, nodes: NodeReader, env: Mapping[str, str]) -> None:
        self._nodes = nodes
        self.env = env

    def expression(
        self, entries: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]
    ) -> RuleTemplate | None:
        if key not in entries:
            return None
        node = entries[key]
        path = f"{path}.{key}"
        source = self._nodes.text(node, path)
        if source is None:
            return None
        rule_template = RuleTemplate(NO_TEMPLATE, self._nodes.locate(node, path))
        if is_bool(node):
            source = _spell_bool(node)
        if not source.strip():
            self._nodes.fault(node, path, "is empty")
        elif "{{" in source or "{%" in source:
            bare = source.strip().removeprefix("{{").removesuffix("}}").strip()
            hint = f"`{bare}`" if is_expression(bare) else "it without braces"
            self._nodes.fault(node, path, f"is an expression; write {hint}")
        else:
            return RuleTemplate(
                self._checked(node, path, lambda: parse_expression(source, names=names)),
                rule_template.where,
            )
        return rule_template

    def template(
        self, node: yaml.Node, path: str, names: tuple[str, ...], *, constants: bool = False
    ) -> RuleTemplate:
        where = self._nodes.locate(node, path)
        source = self._nodes.text(node, path)
        if source is None:
            return RuleTemplate(NO_TEMPLATE, where)
        if constants and is_bool(node):
            source = _spell_bool(node)
        elif constants and is_null(node):
            source = ""
        elif not source.strip():
            if not constants:
                self._nodes.fault(node, path, "is empty")
        elif (
            "{{" not in source
            and "{%" not in source
            and _looks_bare(source, names)
            and is_expression(source)
        ):
            self._nodes.fault(
                node,
                path,
                f'is a text that looks like an expression; write "{{{{ {source.strip()} }}}}"',
            )
            return RuleTemplate(NO_TEMPLATE, where)
        return RuleTemplate(
            self._checked(node, path, lambda: parse_template(source, names=names)), where
        )

    def typed(self, node: yaml.Node, path: str, names: tuple[str, ...]) -> RuleTemplate:
        """A template, or a constant of the type that it has in the file: a number is no text."""
        where = self._nodes.locate(node, path)
        spelled = _spell_constant(node)
        if spelled is None:
            return self.template(node, path, names)
        return RuleTemplate(
            self._checked(node, path, lambda: parse_expression(spelled, names=())), where
        )

    def columns(
        self, node: yaml.Node, path: str, rule_template: RuleTemplate, image: str
    ) -> frozenset[str]:
        """The columns that *rule_template*, which stands at *node*, reads of the *image* of a
        ticket."""
        try:
            columns = rule_template.syntax.find_columns(image)
        except InvalidTemplate as bad:
            self._nodes.fault(line_within(node, bad.line), path, bad.what)
            return frozenset()
        for column in sorted(columns):
            if not COLUMN_PATH.fullmatch(column):
                what = (
                    f"names `{column}`, which is not the name of a column (such as state, or "
                    "assigned_to.email, over three references at most)"
                )
                self._nodes.fault(node, path, what)
        return columns

    def _checked(self, node: yaml.Node, path: str, check: Callable[[], Template]) -> Template:
        try:
            checked = check()
        except InvalidTemplate as bad:
            what = bad.what
            if bad.unknown in _CHANGE_NAMES:
                what = f"there is no `{bad.unknown}` here: rules from servicenow/TABLE have one"
            elif bad.unknown == "data":
                what = (
                    "there is no `data` here: beside `data`, a `post` and the `when` of its rule "
                    "have it, and so has an `answer`"
                )
            elif bad.unknown == "item":
                what = "there is no `item` here: a rule has one beside `each`"
            self._nodes.fault(line_within(node, bad.line), path, what)
            return NO_TEMPLATE
        for variable in sorted(checked.syntax.find_parts("env") - self.env.keys()):
            what = (
                f"`env` does not list `{variable}`{did_you_mean(variable, self.env)}; "
                "list it at the top"
            )
            self._nodes.fault(node, path, what)
        return checked


def _spell_constant(node: yaml.Node) -> str | None:
    """The expression for a null, a truth value, an empty text, or a number as JSON has it; None of
    all else, such as 12:30 and 007, which YAML takes for numbers too."""
    if is_null(node):
        return "none"
    if is_bool(node):
        return _spell_bool(node)
    if not isinstance(node, yaml.ScalarNode):
        return None
    if not node.value:
        return "''"
    is_number = node.style is None and _NUMBER.fullmatch(node.value)
    # Of a text, so that no digit is lost.
    return (
        f"'{node.value}' | float"
        if is_number and "." in node.value
        else (node.value if is_number else None)
    )


def _looks_bare(source: str, names: Collection[str]) -> bool:
    found = _BARE.match(source)
    return found is not None and (found[1] in _BARE_NAMES or found[1] in names)


def _spell_bool(node: yaml.Node) -> str:
    return "true" if is_true(node) else "false"
