"""The language of rules: Jinja2 in its immutable sandbox, bounded in time and size, exact with
numbers.

A template sees JSON values, never a Python object: no attribute is looked up but the columns of a
row, no method called but the few listed here. What it gives depends on what it is given and on
nothing else: no clock, no randomness.

    InvalidTemplate   a template that cannot be used, found when the rules are loaded
"""

import decimal
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Context, Decimal, InvalidOperation
from functools import cached_property, partial, wraps
from io import StringIO
from itertools import islice
from typing import Any, Final, TypeVar, cast

from jinja2 import (
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    nodes,
    pass_context,
)
from jinja2 import Template as JinjaTemplate
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context as Names
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from function.core.outcome import Reason
from function.core.values import Json, Row, did_you_mean, instant, settle_value, text
from function.rules.budget import (
    ELEMENTS_MAX,
    NUMBER_BITS_MAX,
    NUMBER_DIGITS_MAX,
    PADDING_MAX,
    SLOW_CHARACTERS_MAX,
    STEPS_MAX,
    TEXT_CHARACTERS_MAX,
    RenderBudget,
    RenderError,
    current_budget,
    require_at_most,
)

_EXACT = Context(
    prec=NUMBER_DIGITS_MAX,
    Emax=9999,
    Emin=-9999,
    traps=[InvalidOperation, decimal.DivisionByZero, decimal.Overflow, decimal.Inexact],
)
_ROUNDED = Context(prec=28, Emax=9999, Emin=-9999)
# A power takes as many digits as its operands have, and the cube of their number in time: seconds
# for 4000, minutes for the 16,383 that PostgreSQL's numeric has, all of it under the interpreter's
# lock. 28 of its digits are kept.
_POWER = Context(prec=100, Emax=9999, Emin=-9999)
# Rounding is inexact on purpose.
_ROUNDING = Context(prec=2 * NUMBER_DIGITS_MAX, Emax=9999, Emin=-9999)
_ROUNDINGS = {
    "common": decimal.ROUND_HALF_UP,
    "ceil": decimal.ROUND_CEILING,
    "floor": decimal.ROUND_FLOOR,
}

_NULL: Final = "a part of the key is null; a row without a key can have no ticket"


class InvalidTemplate(Exception):  # noqa: N818  # what is wrong, not whose error it is
    """A template that cannot be used. *line* counts from 1 within it; *unknown* is the name that it
    lacks, if any."""

    def __init__(self, what: str, line: int = 1, *, unknown: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.unknown = unknown


class RowImage(dict[str, Json]):
    """A row as rules see it: a column known from the other image, or any where absent is null, is
    null when absent.

    *known* is None where absent is null. An image that is not there at all is empty, hence false,
    and ``is none``.
    """

    def __init__(self, row: "Row | None", known: Collection[str] | None) -> None:
        super().__init__(row or {})
        self.known = known
        self.missing = row is None

    def __missing__(self, column: str) -> Json:
        if self.known is None or column in self.known:
            return None
        raise KeyError(column)


class Template:
    """A template or an expression, checked; compiled when first used, because a cold
    start counts."""

    def __init__(self, tree: nodes.Template, *, lone: nodes.Expr | None) -> None:
        self.names = frozenset(
            name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"
        )
        self._tree = tree
        self._lone = lone

    def value(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> Any:
        """What it gives for *names*: one lone ``{{ … }}`` and an expression keep their type, all
        else is text.

        *in_key*: a null that it would write is refused, and every value that it reads or writes is
        a settled one (see settle_value). Raises RenderError.
        """
        compiled = self._compiled  # before the time of this row begins
        with _charged_to(budget, in_key=in_key):
            context = compiled.new_context(dict(names))
            pieces = compiled.root_render_func(context)
            if self._lone is None:
                return _concatenate(pieces)
            for _ in pieces:
                pass
            return _to_value(context.vars["result"])

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        """The same as a ticket shows it. Raises RenderError."""
        value = self.value(names, budget, in_key=in_key)
        if value is None and in_key:
            raise RenderError(_NULL, Reason.BAD_KEY)
        with _charged_to(budget, in_key=in_key):
            return _to_text(value)

    def parts_of(self, name: str) -> set[str]:
        """The parts of *name* that it names, such as ``PORT`` in ``env.PORT`` and
        ``env['PORT']``."""
        return {
            node.attr for node in self._tree.find_all(nodes.Getattr) if _is_name(node.node, name)
        }

    def wholes_of(self, name: str) -> set[str]:
        """The parts of *name* that it reads whole: of ``row.id`` and ``row.at.day``, ``id``."""
        attributes = list(self._tree.find_all(nodes.Getattr))
        inner = {id(node.node) for node in attributes} | {
            id(node.node) for node in self._tree.find_all(nodes.Getitem)
        }
        return {
            node.attr for node in attributes if _is_name(node.node, name) and id(node) not in inner
        }

    def literals(self) -> frozenset[str]:
        """The values that it can give, of those that stand in its text whole; a row may give it
        others."""
        match self._tree.body:
            case []:
                return frozenset({""})
            case [nodes.Output(nodes=[nodes.TemplateData(data=text_alone)])]:
                return frozenset({text_alone})
            case _:
                return frozenset(_literals(self._lone)) if self._lone is not None else frozenset()

    def applies(self, filter_name: str) -> bool:
        """Whether the filter of that name is anywhere in it."""
        return any(node.name == filter_name for node in self._tree.find_all(nodes.Filter))

    def beginning(self) -> tuple[str, str] | None:
        """The column of `row` that it begins with and the text right after it; None where it begins
        otherwise.

        ``("id", "/")`` for ``{{ row.id }}/{{ item.id }}``; ``("id", "")`` for a lone ``{{ row.id
        }}``.
        """
        match self._tree.body:
            case [
                nodes.Output(
                    nodes=[nodes.Getattr(node=nodes.Name(name="row"), attr=column), *rest]
                ),
                *others,
            ]:
                if rest and isinstance(rest[0], nodes.TemplateData):
                    return column, rest[0].data
                return None if rest or others else (column, "")
        return None

    def joined(self) -> tuple[str, ...] | None:
        """The values that it joins in one text, as they stand between braces; None where it joins
        none.

        Empty where they are more than columns, so that they cannot be told apart from what is done
        with them.
        """
        values = list(_joined_values(self._tree.body))
        for node in self._tree.find_all(
            (nodes.Concat, nodes.Add, nodes.Mod, nodes.Filter, nodes.Call)
        ):
            of_node = [operand for operand in _operands(node) if _is_of_row(operand)]
            if len(of_node) > 1 and len(values) < 2:
                values = of_node
        if len(values) < 2:
            return None
        paths = [_path(value) for value in values]
        return tuple(paths) if all(paths) and len(set(paths)) == len(paths) else ()

    @cached_property
    def _compiled(self) -> JinjaTemplate:
        body: list[nodes.Node] = self._tree.body
        if self._lone is not None:
            body = [nodes.Assign(nodes.Name("result", "store", lineno=1), self._lone, lineno=1)]
        try:
            bounded: nodes.Template = SandboxTransformer().visit(nodes.Template(body, lineno=1))
            bounded.set_environment(_ENVIRONMENT)
            return _ENVIRONMENT.from_string(bounded)
        except _BREAKS as error:
            raise RenderError(_describe(error)) from None


# What can be said of a template without a row


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


def _joined_values(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    """What of a row's a template's *body* writes side by side."""
    for node in body:
        match node:
            case nodes.Output(nodes=written):
                yield from (value for value in written if _is_of_row(value))
            case nodes.If(body=then, elif_=others, else_=otherwise):
                branches = [then, otherwise, *(other.body for other in others)]
                yield from max((list(_joined_values(branch)) for branch in branches), key=len)
            case nodes.For(body=repeated):
                yield from 2 * list(_joined_values(repeated))


def _operands(node: nodes.Node) -> list[nodes.Node]:
    match node:
        case nodes.Concat(nodes=operands):
            return list(operands)
        case nodes.Add(left=left, right=right):
            return [inner for side in (left, right) for inner in (_operands(side) or [side])]
        case nodes.Mod(right=nodes.Tuple(items=given) | nodes.List(items=given)):
            return list(given)
        case nodes.Filter(name="join" | "format", node=joined, args=args):
            return [
                *(
                    joined.items
                    if isinstance(joined, nodes.List | nodes.Tuple)
                    else [joined, joined]
                ),
                *args,
            ]
        case nodes.Call(node=nodes.Getattr(attr="format" | "join"), args=args):
            several = (
                args[0].items if args and isinstance(args[0], nodes.List | nodes.Tuple) else args
            )
            return list(several)
        case _:
            return []


def _is_of_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) or next(node.find_all(nodes.Name), None) is not None


def _path(node: nodes.Node) -> str:
    """``row.id`` of a column or a part of one; empty of all else."""
    match node:
        case nodes.Name(name="row" | "old" | "new" | "item" | "event" as name):
            return str(name)
        case nodes.Getattr(node=whose, attr=part) if path := _path(whose):
            return f"{path}.{part}"
        case _:
            return ""


def _literals(node: nodes.Node | None) -> Iterator[str]:
    """The constants among what the expression *node* can give."""
    match node:
        case nodes.Const(value=value):
            yield text(value)
        case nodes.Filter(name="lookup", args=[mapping, *default], kwargs=named):
            for other in (*_values_of(mapping), *default, *(keyword.value for keyword in named)):
                yield from _literals(other)
        case nodes.Filter(name="default" | "d", node=inner, args=args, kwargs=named):
            given = [keyword.value for keyword in named if keyword.key == "default_value"]
            for either in (inner, *args[:1], *given):
                yield from _literals(either)
        case (
            nodes.Getitem(node=nodes.Dict() as mapping)
            | nodes.Getattr(node=nodes.Dict() as mapping)
        ):
            for value in _values_of(mapping):
                yield from _literals(value)
        case nodes.CondExpr(expr1=first, expr2=second) | nodes.Or(left=first, right=second):
            yield from _literals(first)
            yield from _literals(second)
        case nodes.And(right=second):
            yield from _literals(second)


def _values_of(mapping: nodes.Node) -> list[nodes.Expr]:
    return [pair.value for pair in mapping.items] if isinstance(mapping, nodes.Dict) else []


# Reading a template


def template(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, a text with ``{{ … }}`` in it, which may use *names*. Raises
    InvalidTemplate."""
    tree = _parsed(lambda: _ENVIRONMENT.parse(source))
    _check(tree, names)
    lone = None
    match tree.body:
        case [nodes.Output(nodes=[only])] if not isinstance(only, nodes.TemplateData):
            lone = only
    return Template(tree, lone=lone)


def expression(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, what stands between braces in a template, which may use *names*. Raises
    InvalidTemplate."""

    lone = _parsed(lambda: _parsed_expression(source))
    tree = nodes.Template([nodes.Output([lone], lineno=1)], lineno=1)
    _check(tree, names)
    return Template(tree, lone=lone)


def is_expression(source: str) -> bool:
    """Whether *source* could stand between braces, whatever it names."""
    try:
        _parsed(lambda: _parsed_expression(source))
    except InvalidTemplate:
        return False
    return True


def _parsed_expression(source: str) -> nodes.Expr:
    parser = Parser(_ENVIRONMENT, source, state="variable")
    found = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError(
            "there is more after the expression", parser.stream.current.lineno
        )
    return found


class _Subscripts(NodeTransformer):
    """Makes ``row['id']`` what ``row.id`` is."""

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 (the visitor's naming)
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return nodes.Getattr(node.node, node.arg.value, node.ctx, lineno=node.lineno)
        return node


_Parsed = TypeVar("_Parsed", bound=nodes.Node)


def _parsed(parse: Callable[[], _Parsed]) -> _Parsed:
    try:
        return cast(_Parsed, _Subscripts().visit(parse()))
    except TemplateSyntaxError as error:
        raise InvalidTemplate(f"is not a template: {error.message}", error.lineno) from error
    except (RecursionError, ValueError, ArithmeticError) as error:
        raise InvalidTemplate(
            "is not a template: a number in it is too long, or it is nested too deeply"
        ) from error


_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Name,
    nodes.Const,
    nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter,
    nodes.Test,
    nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare,
    nodes.Operand, nodes.Not,
    nodes.Neg, nodes.Pos, nodes.BinExpr,
)  # fmt: skip


def _check(tree: nodes.Template, names: Collection[str]) -> None:
    """Refuse what no row could make work, and what the sandbox does not know."""
    try:
        found = list(tree.find_all(nodes.Node))
    except RecursionError as error:
        raise InvalidTemplate("is nested too deeply") from error
    stored = {node.name for node in found if isinstance(node, nodes.Name) and node.ctx == "store"}
    loop = {"loop"} if any(isinstance(node, nodes.For) for node in found) else set()
    for node in found:
        if not isinstance(node, _ALLOWED):
            raise InvalidTemplate(
                "only `if`, `for` and `set` can stand in {% … %} here", node.lineno
            )
        for kind, name, offered in _uses(node):
            if name not in offered:
                raise InvalidTemplate(
                    f"there is no {kind} `{name}`{did_you_mean(name, offered)}", node.lineno
                )
        match node:
            case nodes.Name(ctx="load") if (
                node.name not in stored | loop | {"range"} and node.name not in names
            ):
                what = f"there is no `{node.name}` here{did_you_mean(node.name, names)}"
                raise InvalidTemplate(what, node.lineno, unknown=node.name)
            case nodes.Filter() | nodes.Test() | nodes.Call() if (
                node.dyn_args,
                node.dyn_kwargs,
            ) != (None, None):
                raise InvalidTemplate("arguments cannot be unpacked with `*` here", node.lineno)
            case nodes.Call(node=called) if not isinstance(called, nodes.Getattr) and not _is_name(
                called, "range"
            ):
                what = "only `range` and the methods of texts, lists and objects can be called"
                raise InvalidTemplate(what, node.lineno)
            case nodes.Const(value=float() as value) if value in (float("inf"), float("-inf")):
                raise InvalidTemplate("a number in it is too large", node.lineno)
            case nodes.For(recursive=True):
                raise InvalidTemplate("a loop cannot be recursive here", node.lineno)


def _uses(node: nodes.Node) -> Iterator[tuple[str, str, Collection[str]]]:
    """What *node* uses by name: the kind, the name, and what is offered of that kind."""
    match node:
        case nodes.Filter(name=name):
            yield "filter", name, FILTERS_OFFERED
        case nodes.Test(name=name):
            yield "test", name, TESTS_OFFERED
        case nodes.Call(node=nodes.Getattr(attr=name)):
            yield "method", name, METHODS_OFFERED
    match node:
        case nodes.Filter(name="map", args=[nodes.Const(value=str() as name), *_]):
            yield "filter", name, FILTERS_OFFERED
        case (
            nodes.Filter(name="select" | "reject", args=[nodes.Const(value=str() as name), *_])
            | nodes.Filter(
                name="selectattr" | "rejectattr", args=[_, nodes.Const(value=str() as name), *_]
            )
        ):
            yield "test", name, TESTS_OFFERED


# Working it out


class SandboxTransformer(NodeTransformer):
    """Rewrites a template so that what Jinja2's sandbox does not ask about passes through the
    functions below.

    Their names have a space in them: nobody can write them in a template.
    """

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:  # noqa: N802
        exact = nodes.Const(repr(node.value))
        return _filter(node, "internal: decimal", exact) if isinstance(node.value, float) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return nodes.List(node.items, lineno=node.lineno) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "internal: join", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Call(self, node: nodes.Call) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        if not isinstance(node.node, nodes.Getattr):
            return node
        arguments = [nodes.Const(node.node.attr), *node.args]
        return _filter(node, "internal: method", node.node.node, arguments, node.kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node, "internal: loop", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter(node, "internal: check size", node.expr)
        for operand in node.ops:
            operand.expr = _filter(node, "internal: check size", operand.expr)
        return node


def _filter(
    node: nodes.Node,
    name: str,
    value: nodes.Node,
    args: list[nodes.Expr] | None = None,
    kwargs: list[nodes.Keyword] | None = None,
) -> nodes.Filter:
    return nodes.Filter(
        cast(nodes.Expr, value), name, args or [], kwargs or [], None, None, lineno=node.lineno
    )


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])
    intercepted_unops = frozenset(["+", "-"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and attribute in _LOOP:
            return getattr(obj, attribute)
        # The name stands in the template, so it may be told.
        return self._part(obj, attribute, f"`{attribute}`")

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._part(obj, argument, "a part")

    def _part(self, obj: Any, part: Any, spoken: str) -> Any:
        try:
            if isinstance(_defined(obj), dict | list | tuple | str):
                found = _settle_in_key(obj[part])
                return current_budget.get().charge(found) if isinstance(part, slice) else found
        except (TypeError, LookupError):
            pass
        whose = "the row" if isinstance(obj, RowImage) and not obj.missing else "the value"
        return self.undefined(f"names {spoken} that {whose} does not have")

    def call_binop(self, context: Names, operator: str, left: Any, right: Any) -> Any:
        budget = current_budget.get()
        budget.measure_input([_defined(left), _defined(right)])
        match operator, left, right:
            case _, int() | float() | Decimal(), int() | float() | Decimal():
                return _calculate(operator, left, right)
            case "%", str(), _:
                made: Any = _format_percent(left, right)
            case "+", str(), str():
                made = _concatenate([left, right])
            case "+", list() | tuple(), list() | tuple():
                made = [*left, *right]
            case "*", str(), int():
                budget.check_length(len(left) * right)
                made = left * right
            case "*", list(), int():
                made = left * require_at_most(right, ELEMENTS_MAX // (len(left) or 1))
            case "*", int(), str() | list():
                return self.call_binop(context, operator, right, left)
            case _:
                raise TypeError
        return budget.charge(made)

    def call_unop(self, context: Names, operator: str, arg: Any) -> Any:  # noqa: ARG002 (Jinja2's signature)
        number = _number(_defined(arg))
        return -number if operator == "-" else number


_LOOP = frozenset(["first", "index", "index0", "last", "length", "revindex", "revindex0"])


@pass_context  # or Jinja2 would call it when it compiles, where nothing is bounded
def _finalize(_: Names, value: Any) -> str:
    if value is None and current_budget.get().in_key:
        raise RenderError(_NULL, Reason.BAD_KEY)
    return _to_text(value)


# Not optimized: constant parts would be worked out while compiling, where nothing is bounded.
_ENVIRONMENT = _Environment(
    undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_finalize
)

# What Python and Jinja2 raise when a template asks for what cannot be had of these values, and a
# sentence for it. Never their own words: they may quote the row.
_SENTENCES: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
    ((ZeroDivisionError,), "divides by zero"),
    ((RecursionError, SyntaxError), "is nested too deeply"),
    ((MemoryError, OverflowError), "makes too large a number, a range or a text"),
    ((ArithmeticError,), "makes a number that cannot be exact"),
    (
        (TypeError,),
        "does not suit the type of a value (perhaps it is null, or a number that is a text)",
    ),
    (
        (TemplateError, ValueError, AttributeError, LookupError, AssertionError),
        "cannot be worked out from these values",
    ),
)
_BREAKS = tuple(kind for kinds, _ in _SENTENCES for kind in kinds)


def _describe(error: Exception) -> str:
    return next(sentence for kinds, sentence in _SENTENCES if isinstance(error, kinds))


@contextmanager
def _charged_to(budget: RenderBudget, *, in_key: bool) -> Iterator[None]:
    """What is done herein is paid for by *budget*, exact, and what breaks is a RenderError."""
    try:
        with budget.measured(in_key=in_key), decimal.localcontext(_EXACT):
            yield
    except UndefinedError as error:
        # Written by us or by Jinja2: it names what the template names, never a value.
        raise RenderError(error.message or "uses a value that is not there") from None
    except _BREAKS as error:
        raise RenderError(_describe(error)) from None


# Numbers


def _number(value: Any) -> Any:
    """A whole number or an exact Decimal: 0.1 is what somebody wrote, not the binary fraction next
    to it."""
    if isinstance(value, int):
        return value
    if not isinstance(value, float | Decimal):
        raise TypeError
    return _decimal(repr(value) if isinstance(value, float) else value)


def _decimal(value: Any) -> Decimal:
    number = Decimal(value)
    require_at_most(
        abs(number.adjusted()), NUMBER_DIGITS_MAX
    )  # 1e999999999 is ten characters that become a gigabyte
    return number


def _calculate(operator: str, left: Any, right: Any) -> Any:
    left, right = _number(left), _number(right)
    whole = isinstance(left, int) and isinstance(right, int)
    match operator:
        case "/":
            return _ROUNDED.divide(left, right)
        case "**" if not whole or right < 0:
            return _ROUNDED.power(_POWER.plus(left), _POWER.plus(right))
        case "//" | "%" if not whole:
            # Rounded down, as Python does it with whole numbers; a Decimal's is rounded towards
            # zero.
            quotient, rest = divmod(left, right)
            quotient -= bool(rest and (rest < 0) != (right < 0))
            return quotient if operator == "//" else left - right * quotient
    if whole:
        bits = (
            left.bit_length() * right
            if operator == "**"
            else left.bit_length() + right.bit_length()
        )
        require_at_most(bits, NUMBER_BITS_MAX)
    return _ENVIRONMENT.binop_table[operator](left, right)


def _float(value: Any, default: Any = Decimal("0.0")) -> Any:
    try:
        number = _decimal(value.strip()) if isinstance(value, str) else Decimal(_number(value))
    except (InvalidOperation, TypeError, ValueError):
        return default
    return number if number.is_finite() else default


_DIGITS = re.compile(r"[+-]?\w+")  # of any base


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and base != 10:
        value = value.strip()
        if len(value) > NUMBER_DIGITS_MAX and _DIGITS.fullmatch(value):
            raise OverflowError
        try:
            return default if len(value) > NUMBER_DIGITS_MAX else int(value, base)
        except ValueError:
            return default
    number = _float(value, None)
    return default if number is None else int(number)


def _round(value: Any, precision: int = 0, method: str = "common") -> Decimal:
    unit = Decimal(1).scaleb(-require_at_most(precision, PADDING_MAX))
    return Decimal(_number(value)).quantize(unit, _ROUNDINGS[method], _ROUNDING)


def _sum(value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    total = start
    for inner in _iterate(value, attribute):
        total = _calculate("+", total, inner)
    return total


# Values and texts


def _defined(value: Any) -> Any:
    if isinstance(value, Undefined):
        str(value)  # raises UndefinedError, which says what is not there
    return value


def _to_value(value: Any) -> Any:
    """*value* as a JSON value, whatever a filter made of it."""
    match _defined(value):
        case Undefined():
            return None  # of `… if … ` without an else, which Jinja2 writes as nothing
        case RowImage() if value.missing:
            return None
        case str() | None | bool() | int() | float() | Decimal() | dict() | list():
            return value
        case tuple() | Iterator():
            return list(_iterate(value))
        case _:
            raise TypeError


def _to_text(value: Any) -> str:
    value = _to_value(value)
    if isinstance(value, dict | list):
        return _to_json(value)
    return text(_decimal(value) if isinstance(value, Decimal) else value)


def _to_json(value: Any) -> str:
    budget = current_budget.get()
    budget.check_length(budget.measure_input([value]))
    return cast(str, budget.charge(text([_plain(value)])[1:-1]))


def _plain(value: Any) -> Any:
    """*value* with nothing but JSON in it, settled in a key, where the order of an object's names
    is settled too."""
    value = _to_value(value)
    match value:
        case dict():
            names = sorted(value, key=str) if current_budget.get().in_key else value
            return {text(_plain(name)): _plain(value[name]) for name in names}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return _settle_in_key(_decimal(value) if isinstance(value, Decimal) else value)


def _concatenate(pieces: Iterable[str]) -> str:
    budget = current_budget.get()
    written = StringIO(newline="")
    for piece in pieces:
        budget.check_length(written.tell() + len(piece))
        budget.check_time()
        written.write(piece)
    return cast(str, budget.charge(written.getvalue()))


def _settle_in_key(value: Any) -> Any:
    return settle_value(value) if current_budget.get().in_key else value


def _iterate(values: Any, attribute: str | int | None = None) -> Iterator[Any]:
    """The elements of *values*, or their *attribute*, with a look at the time before each."""
    budget = current_budget.get()
    each = values if attribute is None else map(make_attrgetter(_ENVIRONMENT, attribute), values)
    for count, value in enumerate(each):
        require_at_most(count, ELEMENTS_MAX)
        budget.check_time()
        yield _settle_in_key(value)


def _check_size(value: Any) -> Any:
    current_budget.get().measure_input([value])
    return value


def _guarded(act: Callable[..., Any], *, of_list: bool = False) -> Callable[..., Any]:
    """A filter, a test or a method, with a bound on what it is given and on what it makes.

    *of_list*: it would go through each character of a text.
    """
    passed = int(hasattr(act, "jinja_pass_arg"))

    @wraps(act)  # so that Jinja2 passes what it asks for
    def acting(*args: Any, **kwargs: Any) -> Any:
        budget = current_budget.get()
        lazy = (Iterator, range, list) if budget.in_key else (Iterator, range)
        given = [
            list(_iterate(value)) if isinstance(value, lazy) else value for value in args[passed:]
        ]
        if of_list and isinstance(given[0], str):
            given[0] = list(_iterate(given[0]))
        budget.measure_input([*given, *kwargs.values()])
        made = act(*args[:passed], *given, **kwargs)
        return made if any(made is value for value in given) else budget.charge(made)

    return acting


# Filters and methods. Those of Jinja2's that are not here are random, make HTML, or can be had with
# less.


def _of_text(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, given a text as a ticket would show it (null is empty, not "None")."""
    return lambda value, *args, **kwargs: act(_to_text(value), *args, **kwargs)


def _slow(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, kept from a text on which it would take long, and from putting too much between its
    characters."""

    def acting(value: str, *args: Any, **kwargs: Any) -> Any:
        value = value[:SLOW_CHARACTERS_MAX]
        for argument in (*args, *kwargs.values()):
            size = len(argument) if isinstance(argument, str) else argument or 0
            require_at_most((len(value) + 1) * size, TEXT_CHARACTERS_MAX)
        return act(value, *args, **kwargs)

    return acting


def _piecewise(act: Callable[[str], str]) -> Callable[[str], str]:
    """*act*, which takes twelve bytes for each character that is not of ASCII."""
    size = SLOW_CHARACTERS_MAX
    return lambda value: _concatenate(
        act(value[start : start + size]) for start in range(0, len(value), size)
    )


def _checked(act: Callable[..., Any], check: Callable[..., object]) -> Callable[..., Any]:
    def acting(*args: Any, **kwargs: Any) -> Any:
        check(*args, *kwargs.values())
        return act(*args, **kwargs)

    return acting


def _check_search(value: str, *args: Any) -> None:
    for argument in args:
        require_at_most(len(value) * len(argument) if isinstance(argument, str) else 0, STEPS_MAX)


def _check_split(value: str, *args: Any) -> None:
    _check_search(value, *args)
    require_at_most(
        value.count(args[0]) if args and isinstance(args[0], str) else len(value) // 2, ELEMENTS_MAX
    )


def _check_width(*args: Any) -> None:
    require_at_most(args[1] if len(args) > 1 else 0, PADDING_MAX)


def _replace(value: str, old: Any, new: Any, count: int = -1) -> str:
    old, new = _to_text(old), _to_text(new)
    times = value.count(old) if count is None or count < 0 else min(count, value.count(old))
    current_budget.get().check_length(len(value) + times * (len(new) - len(old)))
    return value.replace(old, new, times)


def _urlencode(value: Any) -> str:
    quote = FILTERS["urlencode"]
    if isinstance(value, dict):
        return _join(
            (quote({name: _to_text(inner)[:SLOW_CHARACTERS_MAX]}) for name, inner in value.items()),
            "&",
        )
    return str(quote(_to_text(value)[:SLOW_CHARACTERS_MAX]))


def _join(value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    between = _to_text(d)
    pieces = (piece for inner in _iterate(value, attribute) for piece in (between, _to_text(inner)))
    return _concatenate(islice(pieces, 1, None))


_ABSENT: Final = object()


def _lookup(value: Any, mapping: Any, default: Any = _ABSENT) -> Any:
    """The value that *mapping* has for *value*; 1 and '1' are one. Without one, *default*, else a
    failure."""
    if not isinstance(mapping, dict):
        raise TypeError
    sought = _to_text(value)
    for name, found in mapping.items():
        if _to_text(name) == sought:
            return found
    if default is _ABSENT:
        raise RenderError(
            "lookup does not know this value; add it or give a default", Reason.UNKNOWN_VALUE
        )
    return default


def _sn_datetime(value: Any) -> str:
    """An ISO time as ServiceNow takes it: UTC, to the second. A date is its midnight; null is
    empty."""
    written = _to_text(value).strip()
    if not written:
        return ""
    moment = instant(f"{written} 00:00:00" if _DATE.fullmatch(written) else written)
    if moment is None:
        raise RenderError("sn_datetime cannot read this value as a time; give it an ISO 8601 time")
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")


_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PERCENT = re.compile(
    r"%(?:\((?P<name>\w+)\))?(?P<flags>[-+ #0]*)(?P<width>\d*)(?P<digits>(?:\.\d*)?)(?P<kind>.)"
)


def _format_percent(form: str, given: Any) -> str:
    """``%`` formatting, with the same bounds and the same exact numbers as `format`."""
    require_at_most(len(form), SLOW_CHARACTERS_MAX)
    in_order = iter(given if isinstance(given, list | tuple) else [given])

    def written(found: re.Match[str]) -> str:
        flags, kind, digits = (
            found["flags"],
            found["kind"].replace("i", "d").replace("u", "d"),
            found["digits"],
        )
        if kind == "%":
            return "%"
        value = (
            _ENVIRONMENT.getitem(given, found["name"]) if found["name"] else next(in_order, _ABSENT)
        )
        align, marks = "<" if "-" in flags else "", ""
        if kind == "s":
            value, align = _to_text(value), align or ">"
        else:
            value = (
                int(_number(_defined(value)))
                if kind in "doxX"
                else Decimal(_number(_defined(value)))
            )
            sign = next((sign for sign in "+ " if sign in flags), "")
            marks = sign + "#" * ("#" in flags) + "0" * ("0" in flags and not align)
        return _format_value(
            value, f"{align}{marks}{found['width']}{'.0' if digits == '.' else digits}{kind}"
        )

    return _PERCENT.sub(written, form)


def _format_value(value: Any, spec: str) -> str:
    """*value* in Python's format *spec*: widths bounded, all but numbers as a ticket shows it."""
    for number in re.findall(r"\d+", spec):  # Python reads the digits of every script
        require_at_most(int(number), PADDING_MAX)
    if not spec or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        shown: Any = _to_text(value)
    else:
        shown = _number(value)
        if spec[-1] not in "bcdnoxX":
            shown = Decimal(shown)
    return cast(str, current_budget.get().charge(format(shown, spec)))


class _Formatter(SandboxedFormatter):
    """``'{:,.2f}'.format(row.amount)``"""

    def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:
        require_at_most(len(format_string), SLOW_CHARACTERS_MAX)
        return super().vformat(format_string, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        return _format_value(value, format_spec)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is not None:
            raise ValueError
        return value


_TEXT_METHODS = (
    "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit", "islower",
    "isnumeric",
    "isspace", "istitle", "isupper", "lstrip", "partition", "removeprefix", "removesuffix", "rfind",
    "rindex",
    "rpartition", "rstrip", "startswith", "strip",
)  # fmt: skip
_METHODS: dict[type, dict[str, Callable[..., Any]]] = {
    str: {
        **{name: _checked(getattr(str, name), _check_search) for name in _TEXT_METHODS},
        **{
            name: _checked(getattr(str, name), _check_split)
            for name in ("rsplit", "split", "splitlines")
        },
        **{
            name: _checked(getattr(str, name), _check_width)
            for name in ("center", "ljust", "rjust", "zfill")
        },
        **{
            name: _piecewise(getattr(str, name))
            for name in ("casefold", "lower", "swapcase", "upper")
        },
        **{name: _slow(getattr(str, name)) for name in ("capitalize", "title")},
        "format": lambda value, *args, **kwargs: _Formatter(_ENVIRONMENT).vformat(
            value, args, kwargs
        ),
        "join": lambda value, values: _join(values, value),
        "replace": _replace,
    },
    # Views of an object are no JSON.
    dict: {
        "get": dict.get,
        "items": lambda value: list(value.items()),
        "keys": list,
        "values": lambda value: list(value.values()),
    },
    list: {"count": list.count, "index": list.index},
}
METHODS_OFFERED: Final = frozenset(name for methods in _METHODS.values() for name in methods)


def _call_method(value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    for kind, methods in _METHODS.items():
        if isinstance(_defined(value), kind) and name in methods:
            return methods[name](value, *args, **kwargs)
    raise TypeError


_OF_LISTS = ("map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique")
_OF_ANY = ("count", "d", "default", "dictsort", "first", "items", "last", "length", "reverse")
_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: FILTERS[name] for name in (*_OF_LISTS, *_OF_ANY)},
    "abs": lambda value: abs(_number(value)),
    "capitalize": _of_text(_slow(str.capitalize)),
    "center": _of_text(lambda value, width=80: value.center(require_at_most(width, PADDING_MAX))),
    "float": _float,
    "format": lambda form, *args, **kwargs: _format_percent(_to_text(form), kwargs or list(args)),
    "indent": _of_text(_slow(FILTERS["indent"])),
    "int": _int,
    "join": _join,
    "list": lambda value: list(_iterate(value)),
    "lookup": _lookup,
    "lower": _of_text(_piecewise(str.lower)),
    "replace": _of_text(_replace),
    "round": _round,
    "sn_datetime": _sn_datetime,
    "string": _to_text,
    "striptags": _of_text(_slow(lambda value: str(Markup(value).striptags()))),  # noqa: S704 (it takes marks away)
    "sum": _sum,
    "title": _of_text(_slow(FILTERS["title"])),
    "tojson": _to_json,
    "trim": _of_text(_checked(str.strip, _check_search)),
    "truncate": _of_text(partial(FILTERS["truncate"], _ENVIRONMENT)),
    "upper": _of_text(_piecewise(str.upper)),
    "urlencode": _urlencode,
    "wordcount": lambda value: sum(1 for _ in re.finditer(r"\S+", _to_text(value))),
    "wordwrap": _of_text(_slow(partial(FILTERS["wordwrap"], _ENVIRONMENT))),
}
FILTERS_OFFERED: Final = frozenset(_FILTERS)
_TESTS: dict[str, Any] = {
    **{
        name: test
        for name, test in TESTS.items()
        if name not in ("callable", "escaped", "filter", "test")
    },
    "float": lambda value: isinstance(value, float | Decimal),
    "none": lambda value: value is None or (isinstance(value, RowImage) and value.missing),
}
TESTS_OFFERED: Final = frozenset(_TESTS)

_ENVIRONMENT.globals = {"range": safe_range}
_ENVIRONMENT.filters = {
    **{name: _guarded(act, of_list=name in _OF_LISTS) for name, act in _FILTERS.items()},
    "internal: decimal": Decimal,
    "internal: join": _guarded(_join),
    "internal: loop": _iterate,
    "internal: method": _guarded(_call_method),
    "internal: check size": _check_size,
}
_ENVIRONMENT.tests = {name: _guarded(test) for name, test in _TESTS.items()}
