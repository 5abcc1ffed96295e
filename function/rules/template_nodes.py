"""Templates and expressions in the rules file, checked where they stand. Pure."""

import re
from collections.abc import Callable, Mapping

import yaml

from function.core.values import did_you_mean
from function.rules.model import RuleTemplate
from function.rules.syntax import InvalidTemplate, is_expression
from function.rules.templates import Template, parse_expression, parse_template
from function.rules.yaml_nodes import NodeReader, is_bool, is_null, is_true, line_of

_LATER_NAMES = ("ticket", "link", "data")
# What begins like this and is an expression was meant to have braces.
_BARE = re.compile(r"(?:row|old|new|item|event|env|op|changed)\s*(?:[.\[|]|[=!]=)")
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
            and _BARE.match(source)
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

    def _checked(self, node: yaml.Node, path: str, check: Callable[[], Template]) -> Template:
        # In a block of lines, a template's first line is the one below the bar.
        first = (
            line_of(node) + 1 if isinstance(node, yaml.ScalarNode) and node.style == "|" else None
        )
        try:
            checked = check()
        except InvalidTemplate as bad:
            line = line_of(node) if first is None else first + bad.line - 1
            what = bad.what
            if bad.unknown in _LATER_NAMES:
                what = f"this version does not offer `{bad.unknown}` to rules yet"
            elif bad.unknown == "item":
                what = "there is no `item` here: a rule has one beside `each`"
            self._nodes.fault(line, path, what)
            return NO_TEMPLATE
        for variable in sorted(checked.syntax.find_parts("env") - self.env.keys()):
            what = (
                f"`env` does not list `{variable}`{did_you_mean(variable, self.env)}; "
                "list it at the top"
            )
            self._nodes.fault(node, path, what)
        return checked


def _spell_bool(node: yaml.Node) -> str:
    return "true" if is_true(node) else "false"
