"""Jinja2's immutable sandbox, as rules have it: exact with numbers, and bounded.

A template sees JSON values, never a Python object: no attribute is looked up but the columns of a
row, no method called but the few that filters.py lists. What Jinja2's sandbox does not ask about is
sent through filters by SandboxTransformer.
"""

from copy import copy
from decimal import Decimal
from typing import Any, Final, cast

from jinja2 import StrictUndefined, nodes, pass_context
from jinja2.runtime import Context as Names
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.visitor import NodeTransformer

from function.rules.arithmetic import calculate, to_number
from function.rules.budget import (
    LIST_ELEMENTS_MAX,
    MissingKeyError,
    current_budget,
    require_at_most,
)
from function.rules.template_values import (
    concatenate,
    format_percent,
    read_part,
    require_defined,
    to_text,
)

NULL_IN_KEY: Final = "a part of the key is null; a row without a key can have no ticket"
_LOOP_ATTRIBUTES = frozenset(
    ["first", "index", "index0", "last", "length", "revindex", "revindex0"]
)


class SandboxTransformer(NodeTransformer):
    """Rewrites a template so that what Jinja2's sandbox does not ask about passes through filters.

    The names of those that only it may use have a space in them: nobody can write them in a
    template.
    """

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        # A copy: what is known of the template is read from the nodes as they were written.
        node = copy(node)
        for field, value in node.iter_fields():
            if isinstance(value, list):
                setattr(node, field, [*value])
        return super().visit(node, *args, **kwargs)

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:  # noqa: N802
        exact = nodes.Const(repr(node.value))
        return (
            _call_filter(node, "internal: decimal", exact)
            if isinstance(node.value, float)
            else node
        )

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return nodes.List(node.items, lineno=node.lineno) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _call_filter(node, "join", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Call(self, node: nodes.Call) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.node, nodes.Getattr):
            return node
        arguments = [nodes.Const(node.node.attr), *node.args]
        return _call_filter(node, "internal: method", node.node.node, arguments, node.kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _call_filter(node, "internal: loop", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _call_filter(node, "internal: check size", node.expr)
        for operand in node.ops:
            operand.expr = _call_filter(node, "internal: check size", operand.expr)
        return node


def _call_filter(
    node: nodes.Node,
    name: str,
    value: nodes.Node,
    args: list[nodes.Expr] | None = None,
    kwargs: list[nodes.Keyword] | None = None,
) -> nodes.Filter:
    return nodes.Filter(
        cast(nodes.Expr, value), name, args or [], kwargs or [], None, None, lineno=node.lineno
    )


class RuleSandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    intercepted_unops = frozenset(ImmutableSandboxedEnvironment.default_unop_table)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in _LOOP_ATTRIBUTES:
            return getattr(obj, attribute)
        # The name stands in the template, so it may be shown.
        return read_part(obj, attribute, f"`{attribute}`")

    def getitem(self, obj: Any, argument: Any) -> Any:
        return read_part(obj, argument)

    def call_binop(self, context: Names, operator: str, left: Any, right: Any) -> Any:
        budget = current_budget.get()
        budget.measure_input([require_defined(left), require_defined(right)])
        match operator, left, right:
            case _, int() | float() | Decimal(), int() | float() | Decimal():
                return calculate(operator, left, right)
            case "%", str(), _:
                made: Any = format_percent(left, right)
            case "+", str(), str():
                made = concatenate([left, right])
            case "+", list() | tuple(), list() | tuple():
                made = [*left, *right]
            case "*", str(), int():
                budget.check_length(len(left) * right)
                made = left * right
            case "*", list(), int():
                made = left * require_at_most(right, LIST_ELEMENTS_MAX // (len(left) or 1))
            case "*", int(), str() | list():
                return self.call_binop(context, operator, right, left)
            case _:
                raise TypeError
        return budget.charge(made)

    def call_unop(self, context: Names, operator: str, arg: Any) -> Any:  # noqa: ARG002 (Jinja2's signature)
        number = to_number(require_defined(arg))
        return -number if operator == "-" else number


@pass_context  # or Jinja2 would call it when it compiles, where nothing is bounded
def _write_value(_: Names, value: Any) -> str:
    if value is None and current_budget.get().in_key:
        raise MissingKeyError(NULL_IN_KEY)
    return to_text(value)


# Not optimized: constant parts would be worked out while compiling, where nothing is bounded.
ENVIRONMENT = RuleSandbox(
    undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_write_value
)
ENVIRONMENT.globals = {"range": safe_range}
