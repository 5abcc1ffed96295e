"""The language of rules: Jinja2 in a sandbox, bounded in time and size, exact with numbers.

A template sees JSON values, never a Python object: no attribute is looked up but the columns of a row, no method called
but the few listed here. What it gives depends on what it is given and on nothing else: no clock, no randomness.

    InvalidTemplate   a template that cannot be used, found when the rules are loaded
    RenderError       a template that gave nothing for this row; its sentence holds nothing of the row
"""

import difflib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from decimal import (
    ROUND_CEILING,
    ROUND_FLOOR,
    ROUND_HALF_UP,
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
)
from functools import cached_property, partial, wraps
from time import thread_time
from typing import Any, Final, TypeVar, cast

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, UndefinedError, nodes, pass_context
from jinja2 import Template as JinjaTemplate
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context as Names
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from function.event import Failure, Json, Kind, Reason, Row, instant, settle_value, text

# The processor time, not the clock's: a throttled instance is slow without a template being at fault.
SECONDS_MAX: Final = 1.0
# An event is 8 MiB at most, so any column fits twice into one text; a template may handle a few of that size.
TEXT_CHARACTERS_MAX: Final = 16 * 1024 * 1024
HANDLED_CHARACTERS_MAX: Final = 4 * TEXT_CHARACTERS_MAX
# For filters that take long over long texts. No field of a ticket holds a tenth of it: they read this much and no more.
SLOW_CHARACTERS_MAX: Final = 64 * 1024
RANGE_MAX: Final = 100_000
# Sorting is one step for the interpreter, in which nothing looks at the time.
SORTED_MAX: Final = 100_000
# Searching backwards, or for the end of what is stripped off, can take a step for each pair of characters.
STEPS_MAX: Final = 128 * 1024 * 1024
SPLIT_MAX: Final = 1_000_000
PADDING_MAX: Final = 1000
# Python spells no whole number of more than 4300 digits (14284 bits), and nobody reads a shorter one either.
NUMBER_BITS_MAX: Final = 14_000
NUMBER_DIGITS_MAX: Final = 4300

_EXACT = Context(
    prec=NUMBER_DIGITS_MAX, Emax=9999, Emin=-9999, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact]
)
_ROUNDED = Context(prec=28, Emax=9999, Emin=-9999)
# A power takes as many digits as its operands have, and the cube of their number in time: seconds for 4000, minutes for
# the 16,383 that PostgreSQL's numeric has, all of it under the interpreter's lock. 28 of its digits are kept.
_POWER = Context(prec=100, Emax=9999, Emin=-9999)


class InvalidTemplate(Exception):  # noqa: N818  # what is wrong, not whose error it is
    """A template that cannot be used. *line* counts from 1 within it; *unknown* is the name that it lacks, if any."""

    def __init__(self, what: str, line: int = 1, *, unknown: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.unknown = unknown


class RenderError(Exception):
    """A part of a rule gave nothing for this row. *sentence* says what to do and holds nothing of the row.

    *where* is the place of that part in the rules file, "" where only the template is known.
    """

    def __init__(self, sentence: str, reason: Reason = Reason.BAD_MAPPING, *, where: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.reason = reason
        self.where = where

    @property
    def failure(self) -> Failure:
        return Failure(Kind.PERMANENT, self.reason, f"{self.where}: {self.sentence}")


class RenderBudget:
    """What is left of the time and the text that one event may take from one rule."""

    def __init__(self) -> None:
        self.seconds = SECONDS_MAX
        self.characters = HANDLED_CHARACTERS_MAX
        self.ends = 0.0
        self.in_key = False

    def begin(self, *, in_key: bool) -> None:
        self.ends = thread_time() + self.seconds
        self.characters = HANDLED_CHARACTERS_MAX
        self.in_key = in_key

    def finish(self) -> None:
        self.seconds = self.ends - thread_time()

    def charge(self, characters: int) -> None:
        """Pay for a text of so many *characters* before it is made; each call costs one more, and looks at the time."""
        self.characters -= characters + 1
        if characters > TEXT_CHARACTERS_MAX or self.characters < 0:
            raise RenderError("makes too long a text; cut its parts with `truncate`")
        if thread_time() > self.ends:
            raise RenderError("takes too long")


_budget: ContextVar[RenderBudget] = ContextVar("budget")


def _charge(characters: int) -> None:
    _budget.get().charge(characters)


class Image(dict[str, Json]):
    """A row as rules see it: a column known from the other image, or any where absent is null, is null when absent.

    *known* is None where absent is null. An image that is not there at all is empty, hence false, and ``is none``.
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
    """A template or an expression, checked; compiled when first used, because a cold start counts."""

    def __init__(self, tree: nodes.Template, *, lone: nodes.Expr | None) -> None:
        self.names = frozenset(name.name for name in tree.find_all(nodes.Name) if name.ctx == "load")
        self._tree = tree
        self._lone = lone

    def value(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> Any:
        """What it gives for *names*: one lone ``{{ … }}`` and an expression keep their type, all else is text.

        *in_key*: a null that it would write is refused, and every value that it reads or writes is a settled one (see
        settle_value). Raises RenderError.
        """
        compiled = self._compiled  # before the time of this row begins
        with _spending(budget, in_key=in_key):
            context = compiled.new_context(dict(names))
            pieces = compiled.root_render_func(context)
            if self._lone is None:
                return _joined(pieces)
            for _ in pieces:
                pass
            return _settled(context.vars["result"])

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        """The same as a ticket shows it. Raises RenderError."""
        value = self.value(names, budget, in_key=in_key)
        if value is None and in_key:
            raise RenderError(_NULL, Reason.BAD_KEY)
        with _spending(budget, in_key=in_key):
            return _spelled(value)

    def parts_of(self, name: str) -> set[str]:
        """The parts of *name* that it names, such as ``PORT`` in ``env.PORT`` and ``env['PORT']``."""
        parts = set()
        for node in self._tree.find_all((nodes.Getattr, nodes.Getitem)):
            match node:
                case nodes.Getattr(node=nodes.Name(name=whose), attr=part) if whose == name:
                    parts.add(part)
                case nodes.Getitem(node=nodes.Name(name=whose), arg=nodes.Const(value=str() as part)) if whose == name:
                    parts.add(part)
        return parts

    def wholes_of(self, name: str) -> set[str]:
        """The parts of *name* that it reads whole: of ``row.id`` and ``row.at.day``, ``id``."""
        found = list(self._tree.find_all((nodes.Getattr, nodes.Getitem)))
        inner = {id(node.node) for node in found if isinstance(node, nodes.Getattr | nodes.Getitem)}
        wholes = set()
        for node in found:
            match node:
                case nodes.Getattr(node=nodes.Name(name=whose), attr=part) if whose == name and id(node) not in inner:
                    wholes.add(part)
                case nodes.Getitem(node=nodes.Name(name=whose), arg=nodes.Const(value=str() as part)) if (
                    whose == name and id(node) not in inner
                ):
                    wholes.add(part)
        return wholes

    def literals(self) -> frozenset[str]:
        """The values that it can give, of those that stand in its text whole; a row may give it others."""
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
        """The column of `row` that it begins with and the text right after it; None where it begins otherwise.

        ``("id", "/")`` for ``{{ row.id }}/{{ item.id }}``; ``("id", "")`` for a lone ``{{ row.id }}``.
        """
        match self._tree.body:
            case [nodes.Output(nodes=[first])]:
                text_after = ""
            case [nodes.Output(nodes=[first, nodes.TemplateData(data=text_after), *_]), *_]:
                pass
            case _:
                return None
        match first:
            case nodes.Getattr(node=nodes.Name(name="row"), attr=column):
                return column, text_after
            case nodes.Getitem(node=nodes.Name(name="row"), arg=nodes.Const(value=str() as column)):
                return column, text_after
            case _:
                return None

    def joined(self) -> tuple[str, ...] | None:
        """The values that it joins in one text, as they stand between braces; None where it joins none.

        Empty where they are more than columns, so that they cannot be told apart from what is done with them.
        """
        values = list(_joined_values(self._tree.body))
        for node in self._tree.find_all((nodes.Concat, nodes.Add, nodes.Mod, nodes.Filter, nodes.Call)):
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
            raise RenderError(_said(error)) from None


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
            return [*(joined.items if isinstance(joined, nodes.List | nodes.Tuple) else [joined, joined]), *args]
        case nodes.Call(node=nodes.Getattr(attr="format" | "join"), args=args):
            several = args[0].items if args and isinstance(args[0], nodes.List | nodes.Tuple) else args
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
        case nodes.Filter(name="lookup", node=_, args=[mapping, *default], kwargs=named):
            yield from _literals_of(mapping)
            for other in (*default, *(keyword.value for keyword in named)):
                yield from _literals(other)
        case nodes.Filter(name="default" | "d", node=inner, args=args, kwargs=named):
            given = [keyword.value for keyword in named if keyword.key == "default_value"]
            for either in (inner, *args[:1], *given):
                yield from _literals(either)
        case nodes.Getitem(node=nodes.Dict() as mapping):
            yield from _literals_of(mapping)
        case nodes.CondExpr(expr1=first, expr2=second) | nodes.Or(left=first, right=second):
            yield from _literals(first)
            yield from _literals(second)
        case nodes.And(right=second):
            yield from _literals(second)
        case _:
            pass


def _literals_of(mapping: nodes.Node) -> Iterator[str]:
    if isinstance(mapping, nodes.Dict):
        for pair in mapping.items:
            yield from _literals(pair.value)


@contextmanager
def _spending(budget: RenderBudget, *, in_key: bool) -> Iterator[None]:
    """What is done herein is paid for by *budget*, and what breaks is RenderError."""
    token = _budget.set(budget)
    budget.begin(in_key=in_key)
    try:
        yield
    except UndefinedError as error:
        # Written by us or by Jinja2: it names what the template names, never a value.
        raise RenderError(error.message or "uses a value that is not there") from None
    except _BREAKS as error:
        raise RenderError(_said(error)) from None
    finally:
        _budget.reset(token)
        budget.finish()


def template(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, a text with ``{{ … }}`` in it, which may use *names*. Raises InvalidTemplate."""
    tree = _parsed(lambda: _ENVIRONMENT.parse(source))
    _check(tree, names)
    lone = None
    match tree.body:
        case [nodes.Output(nodes=[only])] if not isinstance(only, nodes.TemplateData):
            lone = only
    return Template(tree, lone=lone)


def expression(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, what stands between braces in a template, which may use *names*. Raises InvalidTemplate."""

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
        raise TemplateSyntaxError("there is more after the expression", parser.stream.current.lineno)
    return found


_Parsed = TypeVar("_Parsed", bound=nodes.Node)


def _parsed(parse: Callable[[], _Parsed]) -> _Parsed:
    try:
        return parse()
    except TemplateSyntaxError as error:
        raise InvalidTemplate(f"is not a template: {error.message}", error.lineno) from error
    except (RecursionError, ValueError, ArithmeticError) as error:
        raise InvalidTemplate("is not a template: a number in it is too long, or it is nested too deeply") from error


_NAMED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Name, nodes.Const,
    nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test,
    nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.Not,
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
        if not isinstance(node, _NAMED):
            raise InvalidTemplate("only `if`, `for` and `set` can stand in {% … %} here", node.lineno)
        match node:
            case nodes.Name(ctx="load") if node.name not in stored | loop | {"range"} and node.name not in names:
                what = f"there is no `{node.name}` here{meant(node.name, names)}"
                raise InvalidTemplate(what, node.lineno, unknown=node.name)
            case nodes.Filter() | nodes.Test() | nodes.Call() if (node.dyn_args, node.dyn_kwargs) != (None, None):
                raise InvalidTemplate("arguments cannot be unpacked with `*` here", node.lineno)
            case nodes.Filter() if node.name not in FILTERS_OFFERED:
                raise _unoffered("filter", node.name, FILTERS_OFFERED, node)
            case nodes.Test() if node.name not in TESTS_OFFERED:
                raise _unoffered("test", node.name, TESTS_OFFERED, node)
            case nodes.Call(node=nodes.Getattr(attr=method)) if method not in METHODS_OFFERED:
                raise _unoffered("method", method, METHODS_OFFERED, node)
            case nodes.Call(node=called) if not isinstance(called, nodes.Getattr) and not (
                isinstance(called, nodes.Name) and called.name == "range"
            ):
                what = "only `range` and the methods of texts, lists and objects can be called"
                raise InvalidTemplate(what, node.lineno)
            case nodes.Const(value=float() as value) if value in (float("inf"), float("-inf")):
                raise InvalidTemplate("a number in it is too large", node.lineno)
            case nodes.For(recursive=True):
                raise InvalidTemplate("a loop cannot be recursive here", node.lineno)
            case nodes.Filter(name="map", args=[nodes.Const(value=str() as name), *_]) if name not in FILTERS_OFFERED:
                raise _unoffered("filter", name, FILTERS_OFFERED, node)
            case (
                nodes.Filter(name="select" | "reject", args=[nodes.Const(value=str() as name), *_])
                | nodes.Filter(name="selectattr" | "rejectattr", args=[_, nodes.Const(value=str() as name), *_])
            ) if name not in TESTS_OFFERED:
                raise _unoffered("test", name, TESTS_OFFERED, node)


def _unoffered(kind: str, name: str, offered: Collection[str], node: nodes.Node) -> InvalidTemplate:
    return InvalidTemplate(f"there is no {kind} `{name}`{meant(name, offered)}", node.lineno)


def meant(word: str, known: Collection[str]) -> str:
    """The words "; did you mean …?" where one of *known* is like *word*."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


class SandboxTransformer(NodeTransformer):
    """Rewrites a template so that all it does passes through the functions below.

    Their names have a space in them: nobody can write them in a template.
    """

    def visit_Const(self, node: nodes.Const) -> nodes.Expr:  # noqa: N802 (the visitor's naming)
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
        method = nodes.Const(node.node.attr)
        return _filter(node, "internal: method", node.node.node, args=[method, *node.args], kwargs=node.kwargs)

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node, "internal: loop", node.iter)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter(node, "internal: charge", node.expr)
        for operand in node.ops:
            operand.expr = _filter(node, "internal: charge", operand.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Test:  # noqa: N802
        self.generic_visit(node)
        node.node = _filter(node, "internal: charge", node.node)
        node.args = [_filter(node, "internal: charge", argument) for argument in node.args]
        return node


def _filter(
    node: nodes.Node,
    name: str,
    value: nodes.Node,
    *,
    args: list[nodes.Expr] | None = None,
    kwargs: list[nodes.Keyword] | None = None,
) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, value), name, args or [], kwargs or [], None, None, lineno=node.lineno)


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
            if isinstance(_there(obj), dict | list | tuple | str):
                return _in_key(obj[part])
        except (TypeError, LookupError):
            pass
        whose = "the row" if isinstance(obj, Image) and not obj.missing else "the value"
        return self.undefined(f"names {spoken} that {whose} does not have")

    def call_binop(self, context: Names, operator: str, left: Any, right: Any) -> Any:  # noqa: ARG002 (Jinja2's signature)
        _weigh(_there(left))
        _weigh(_there(right))
        if _is_number(left) and _is_number(right):
            return _calculated(operator, left, right)
        match operator, left, right:
            case "%", str(), _:
                return _percent(left, right)
            case "+", str(), str():
                _charge(len(left) + len(right))
                return left + right
            case "+", list() | tuple(), list() | tuple():
                _charge(len(left) + len(right))
                return [*left, *right]
            case "*", str() | list(), int():
                _charge(len(left) * max(right, 0))
                return left * right
            case "*", int(), str() | list():
                _charge(len(right) * max(left, 0))
                return left * right
        raise TypeError(operator)

    def call_unop(self, context: Names, operator: str, arg: Any) -> Any:  # noqa: ARG002
        if not _is_number(_there(arg)):
            raise TypeError(operator)
        if operator == "+":
            return arg
        return -arg if isinstance(arg, int) else _decimal(arg).copy_negate()


@pass_context  # or Jinja2 would call it when it compiles, where nothing is bounded
def _finalized(_: Names, value: Any) -> str:
    in_key = _budget.get().in_key
    if isinstance(value, str) and not in_key:
        return value
    if value is None and in_key:
        raise RenderError(_NULL, Reason.BAD_KEY)
    return _spelled(value)


# Not optimized: constant parts would be worked out while compiling, where nothing is bounded.
_ENVIRONMENT = _Environment(undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_finalized)


def _calculated(operator: str, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and operator != "/" and not (operator == "**" and right < 0):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > NUMBER_BITS_MAX:
            raise OverflowError
        return _ENVIRONMENT.binop_table[operator](left, right)
    one, other = _decimal(left), _decimal(right)
    match operator:
        case "+":
            return _EXACT.add(one, other)
        case "-":
            return _EXACT.subtract(one, other)
        case "*":
            return _EXACT.multiply(one, other)
        case "/":
            return _ROUNDED.divide(one, other)
        case "**":
            return _ROUNDED.power(_POWER.plus(one), _POWER.plus(other))
    whole = _floor_divided(one, other)
    return whole if operator == "//" else _EXACT.subtract(one, _EXACT.multiply(other, whole))


def _floor_divided(one: Decimal, other: Decimal) -> Decimal:
    """Rounded down, as Python's own ``//`` does with whole numbers; a Decimal's rounds towards zero."""
    whole, rest = _EXACT.divmod(one, other)
    return _EXACT.subtract(whole, Decimal(1)) if rest and (rest < 0) != (other < 0) else whole


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal)


def _decimal(value: Any) -> Decimal:
    """Exact: 0.1 is what somebody wrote, not the binary fraction next to it."""
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return _spellable(number)


def _spellable(number: Decimal) -> Decimal:
    if abs(number.adjusted()) > NUMBER_DIGITS_MAX:
        raise OverflowError  # 1e999999999 is ten characters that become a gigabyte
    return number


def _joined(pieces: Iterable[str]) -> str:
    kept = []
    length = 0
    for piece in pieces:
        length += len(piece)
        kept.append(piece)
    _charge(length)
    return "".join(kept)


def _there(value: Any) -> Any:
    if isinstance(value, Undefined):
        str(value)  # raises UndefinedError, which says what is not there
    return value


def _settled(value: Any) -> Any:
    """*value* as a JSON value, whatever a filter made of it."""
    match _there(value):
        case Undefined():
            return None  # of `… if … ` without an else, which Jinja2 writes as nothing
        case Image() if value.missing:
            return None
        case str() | None | bool() | int() | float() | Decimal() | dict() | list():
            return value
        case tuple() | Iterator():
            return list(_ticking(value))
        case _:
            raise TypeError


def _weigh(value: Any) -> Any:
    """Pay for going through *value*, which may be small and yet wide: a list of two lists of two lists."""
    if isinstance(value, dict | list | tuple):
        _charge(len(value))
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, dict | list | tuple):
                _weigh(inner)
    return value


def _spelled(value: Any) -> str:
    value = _settled(value)
    match value:
        case dict() | list():
            return _as_json(value)
        case str():
            _charge(len(value))
            return value
        case _:
            _charge(0)
            return text(_spellable(value) if isinstance(value, Decimal) else value)


def _as_json(value: Any) -> str:
    pieces: list[str] = []
    _spell_json(value, pieces.append)
    return "".join(pieces)


def _spell_json(value: Any, put: Callable[[str], object]) -> None:
    """The same as `text` gives for what is within a list, paid for piece by piece."""
    value = _settled(value)
    match value:
        case dict():
            # No database keeps the order of an object's names.
            pairs = sorted(value.items(), key=lambda pair: str(pair[0])) if _budget.get().in_key else value.items()
            between = "{"
            for name, inner in pairs:
                put(between)
                _spell_json(text(_settled(name)), put)
                put(": ")
                _spell_json(inner, put)
                between = ", "
            put("{}" if between == "{" else "}")
        case list():
            between = "["
            for inner in value:
                put(between)
                _spell_json(inner, put)
                between = ", "
            put("[]" if between == "[" else "]")
        case str():
            _charge(len(value))
            put(json.dumps(_in_key(value), ensure_ascii=False))
        case Decimal():
            _charge(0)
            put(format(_in_key(_spellable(value)), "f"))
        case _:
            _charge(0)
            other = _in_key(value)
            put(format(other, "f") if isinstance(other, Decimal) else json.dumps(other))


def _in_key(value: Any) -> Any:
    return settle_value(value) if _budget.get().in_key else value


def _ticking(values: Any) -> Iterator[Any]:
    for value in values:
        _charge(0)
        yield _in_key(value)


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > RANGE_MAX:
        raise OverflowError
    return numbers


# Filters. Those of Jinja2's that are not here are random, make HTML, or can be had with less.


def _of_text(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, given a text as a ticket would show it (null is empty, not "None")."""

    def acting(value: Any, *args: Any, **kwargs: Any) -> Any:
        result = act(_spelled(value), *args, **kwargs)
        if isinstance(result, str):
            _charge(len(result))
        return result

    return acting


def _slow(act: Callable[..., Any]) -> Callable[..., Any]:
    """*act*, kept from a text on which it would take long, and from padding it without end."""

    def acting(value: str, *args: Any, **kwargs: Any) -> Any:
        for argument in (*args, *kwargs.values()):
            _padding(len(argument) if isinstance(argument, str) else argument)
        return act(value[:SLOW_CHARACTERS_MAX], *args, **kwargs)

    return acting


def _replace(value: str, old: Any, new: Any, count: int = -1) -> str:
    old, new = _spelled(old), _spelled(new)
    times = value.count(old) if count is None or count < 0 else min(count, value.count(old))
    _charge(len(value) + times * len(new))
    return value.replace(old, new, times)


def _center(value: str, width: int = 80) -> str:
    return value.center(_padding(width))


def _padding(width: int) -> int:
    if width > PADDING_MAX:
        raise OverflowError
    return width


def _urlencode(value: Any) -> str:
    if isinstance(value, dict):
        return str(FILTERS["urlencode"]({name: _spelled(inner) for name, inner in value.items()}))
    return str(FILTERS["urlencode"](_spelled(value)[:SLOW_CHARACTERS_MAX]))


def _join(value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    values = value if attribute is None else map(make_attrgetter(_ENVIRONMENT, attribute), value)
    texts = [_spelled(inner) for inner in _ticking(values)]
    between = _spelled(d)
    _charge(sum(map(len, texts)) + len(between) * len(texts))
    return between.join(texts)


def _sum(value: Any, attribute: str | int | None = None, start: Any = 0) -> Any:
    total = start
    for inner in _ticking(value if attribute is None else map(make_attrgetter(_ENVIRONMENT, attribute), value)):
        if not _is_number(inner):
            raise TypeError
        total = _calculated("+", total, inner)
    return total


def _read_number(value: Any) -> Decimal | None:
    try:
        number = _decimal(value.strip() if isinstance(value, str) else value)
    except (InvalidOperation, TypeError, ValueError):
        return None
    return number if number.is_finite() else None


# Of any base.
_DIGITS = re.compile(r"[+-]?\w+")


def _int(value: Any, default: Any = 0, base: int = 10) -> Any:
    if isinstance(value, str) and base != 10:
        value = value.strip()
        if len(value) > NUMBER_DIGITS_MAX:
            if _DIGITS.fullmatch(value):
                raise OverflowError
            return default
        try:
            return int(value, base)
        except ValueError:
            return default
    number = _read_number(value)
    return default if number is None else int(number)


def _float(value: Any, default: Any = Decimal("0.0")) -> Any:
    number = _read_number(value)
    return default if number is None else number


_ROUNDINGS = {"common": ROUND_HALF_UP, "ceil": ROUND_CEILING, "floor": ROUND_FLOOR}


def _round(value: Any, precision: int = 0, method: str = "common") -> Decimal:
    if not _is_number(value):
        raise TypeError
    return _decimal(value).quantize(Decimal(1).scaleb(-_padding(precision)), _ROUNDINGS[method], _EXACT_ENOUGH)


# Rounding is inexact on purpose.
_EXACT_ENOUGH = Context(prec=2 * NUMBER_DIGITS_MAX, Emax=9999, Emin=-9999)


def _abs(value: Any) -> Any:
    if not _is_number(value):
        raise TypeError
    return abs(value) if isinstance(value, int) else _decimal(value).copy_abs()


def _tojson(value: Any) -> str:
    return _as_json(value)


_ABSENT: Final = object()


def _lookup(value: Any, mapping: Any, default: Any = _ABSENT) -> Any:
    """The value that *mapping* has for *value*; 1 and '1' are one. Without one, *default*, else a failure."""
    if not isinstance(mapping, dict):
        raise TypeError
    sought = _spelled(value)
    for name, found in mapping.items():
        if _spelled(name) == sought:
            return found
    if default is _ABSENT:
        raise RenderError("lookup does not know this value; add it or give a default", Reason.UNKNOWN_VALUE)
    return default


def _sn_datetime(value: Any) -> str:
    """An ISO time as ServiceNow takes it: UTC, to the second. A date is its midnight; null is empty."""
    written = _spelled(value).strip()
    if not written:
        return ""
    moment = instant(f"{written} 00:00:00" if _DATE.fullmatch(written) else written)
    if moment is None:
        raise RenderError("sn_datetime cannot read this value as a time; give it an ISO 8601 time")
    return moment.replace(tzinfo=None).isoformat(" ", "seconds")


_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_PERCENT = re.compile(
    r"%(?:\((?P<name>\w+)\))?(?P<flags>[-+ #0]*)(?P<width>\d{0,9})(?:\.(?P<digits>\d{0,9}))?(?P<kind>.)"
)


def _percent(form: str, given: Any) -> str:
    """``%`` formatting: widths bounded, numbers exact, everything else spelled as a ticket shows it."""
    _bound_form(form)
    in_order = iter(given if isinstance(given, list | tuple) else [given])

    def written(found: re.Match[str]) -> str:
        if found["kind"] == "%":
            return "%"
        value = given[found["name"]] if found["name"] else next(in_order, _ABSENT)
        if value is _ABSENT:
            raise TypeError
        flags, width, digits = found["flags"], _padding(int(found["width"] or 0)), found["digits"]
        precision = "" if digits is None else f".{_padding(int(digits or 0))}"
        if found["kind"] in "eEfFgG" and _is_number(value):
            align = "<" if "-" in flags else ""
            sign = "+" if "+" in flags else " " if " " in flags else ""
            alternative = "#" if "#" in flags else ""
            zero = "0" if "0" in flags and not align else ""
            piece = format(_decimal(value), f"{align}{sign}{alternative}{zero}{width or ''}{precision}{found['kind']}")
        else:
            shown = int(_decimal(value)) if found["kind"] in "diuoxX" and _is_number(value) else _spelled(value)
            piece = f"%{flags}{width or ''}{precision}{found['kind']}" % shown
        _charge(len(piece))
        return piece

    return _PERCENT.sub(written, form)


def _bound_form(form: str) -> None:
    if len(form) > SLOW_CHARACTERS_MAX:
        raise OverflowError


class _Formatter(SandboxedFormatter):
    """``'{:,.2f}'.format(row.amount)``: widths bounded, everything but numbers spelled as a ticket shows it."""

    def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:
        _bound_form(format_string)
        return super().vformat(format_string, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        for number in re.findall(r"\d+", format_spec):  # str.format reads the digits of every script
            _padding(int(number))
        shown = _decimal(value) if isinstance(value, float | Decimal) else value
        if not _is_number(value) or isinstance(value, bool) or not format_spec:
            shown = _spelled(value)
        piece = format(shown, format_spec)
        _charge(len(piece))
        return piece

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is not None:
            raise ValueError
        return value


def _format(form: Any, *args: Any, **kwargs: Any) -> str:
    return _percent(_spelled(form), kwargs or list(args))


def _stepwise(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of texts that may compare each character with each of its argument."""

    def acting(value: str, *args: Any) -> Any:
        for argument in args:
            if isinstance(argument, str) and len(argument) > 1 and len(value) * len(argument) > STEPS_MAX:
                raise OverflowError
        return method(value, *args)

    return acting


def _splitting(method: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """The same for one that makes a list."""

    def acting(value: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        parts = _stepwise(method)(value, sep, maxsplit if 0 <= maxsplit <= SPLIT_MAX else SPLIT_MAX)
        if len(parts) > SPLIT_MAX and not 0 <= maxsplit <= SPLIT_MAX:
            raise OverflowError
        return cast("list[str]", parts)

    return acting


def _padded(method: Callable[..., str]) -> Callable[..., str]:
    return lambda value, width, *fill: method(value, _padding(width), *fill)


_TEXT_METHODS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(str, name)
        for name in (
            "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal",
            "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "partition", "removeprefix",
            "removesuffix", "splitlines", "startswith", "swapcase", "title", "upper",
        )
    },
    **{
        name: _stepwise(getattr(str, name))
        for name in ("lstrip", "rfind", "rindex", "rpartition", "rstrip", "strip")
    },
    **{name: _splitting(getattr(str, name)) for name in ("rsplit", "split")},
    **{name: _padded(getattr(str, name)) for name in ("center", "ljust", "rjust", "zfill")},
    "format": lambda value, *args, **kwargs: _Formatter(_ENVIRONMENT).vformat(value, args, kwargs),
    "join": lambda value, values: _join(values, value),
    "replace": _replace,
}  # fmt: skip
_METHODS: tuple[tuple[type, dict[str, Callable[..., Any]]], ...] = (
    (str, _TEXT_METHODS),
    (dict, {name: getattr(dict, name) for name in ("get", "items", "keys", "values")}),
    (list, {"count": list.count, "index": list.index}),
)
METHODS_OFFERED: Final = frozenset(name for _, methods in _METHODS for name in methods)


def _method(value: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    _weigh([_there(value), *args, *kwargs.values()])
    for kind, methods in _METHODS:
        if isinstance(value, kind) and name in methods:
            result = methods[name](value, *args, **kwargs)
            _charge(len(result) if isinstance(result, str | list) else 0)
            # Views of an object are no JSON.
            return list(result) if isinstance(value, dict) and name != "get" else result
    raise TypeError


def _weighed(act: Callable[..., Any], *, ticking: bool = False, elements_max: int | None = None) -> Callable[..., Any]:
    """Jinja2's own filter, after paying for what it is given.

    *ticking*: it goes through the elements one by one, and the time is looked at for each. *elements_max* is for one
    that sorts them.
    """
    passed = int(hasattr(act, "jinja_pass_arg"))

    @wraps(act)  # so that Jinja2 passes what it asks for
    def acting(*args: Any, **kwargs: Any) -> Any:
        given = [list(_ticking(value)) if isinstance(value, Iterator | range) else value for value in args[passed:]]
        _weigh(given)
        values = given[0]
        if elements_max is not None and isinstance(values, str | dict | list) and len(values) > elements_max:
            raise OverflowError
        if ticking and isinstance(values, str | dict | list):
            given[0] = _ticking(values)
        return act(*args[:passed], *given, **kwargs)

    return acting


_JINJAS = ("count", "d", "default", "first", "items", "last", "length", "reverse")
_JINJAS_TICKING = (
    "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "unique",
)  # fmt: skip
_JINJAS_SORTING = ("dictsort", "sort")
_FILTERS: dict[str, Any] = {
    **{name: _weighed(FILTERS[name]) for name in _JINJAS},
    **{name: _weighed(FILTERS[name], ticking=True) for name in _JINJAS_TICKING},
    **{name: _weighed(FILTERS[name], elements_max=SORTED_MAX) for name in _JINJAS_SORTING},
    "abs": _abs,
    "capitalize": _of_text(str.capitalize),
    "center": _of_text(_center),
    "float": _float,
    "format": _format,
    "indent": _of_text(_slow(FILTERS["indent"])),
    "int": _int,
    "join": _join,
    "list": lambda value: list(_ticking(value)),
    "lookup": _lookup,
    "lower": _of_text(str.lower),
    "replace": _of_text(_replace),
    "round": _round,
    "sn_datetime": _sn_datetime,
    "string": _of_text(str),
    "striptags": _of_text(_slow(lambda value: str(Markup(value).striptags()))),  # noqa: S704 (it takes marks away)
    "sum": _sum,
    "title": _of_text(_slow(FILTERS["title"])),
    "tojson": _tojson,
    "trim": _of_text(_stepwise(str.strip)),
    "truncate": _of_text(partial(FILTERS["truncate"], _ENVIRONMENT)),
    "upper": _of_text(str.upper),
    "urlencode": _urlencode,
    "wordcount": lambda value: len(_spelled(value).split()),
    "wordwrap": _of_text(_slow(partial(FILTERS["wordwrap"], _ENVIRONMENT))),
}
FILTERS_OFFERED: Final = frozenset(_FILTERS)
_TESTS: dict[str, Any] = {
    name: test for name, test in TESTS.items() if name not in ("callable", "escaped", "filter", "test")
} | {
    "float": lambda value: isinstance(value, float | Decimal),
    "none": lambda value: value is None or (isinstance(value, Image) and value.missing),
}
TESTS_OFFERED: Final = frozenset(_TESTS)
_LOOP = frozenset(["first", "index", "index0", "last", "length", "revindex", "revindex0"])

# What Python and Jinja2 raise when a template asks for what cannot be had of these values.
_BREAKS = (
    TemplateError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError, MemoryError,
    SyntaxError,
)  # fmt: skip
_NULL: Final = "a part of the key is null; a row without a key can have no ticket"


def _said(error: Exception) -> str:
    """*error* in a sentence. Never its own words: they may quote the row."""
    match error:
        case ZeroDivisionError():
            return "divides by zero"
        case RecursionError() | SyntaxError():
            return "is nested too deeply"
        case MemoryError() | OverflowError():
            return "makes too large a number, a range or a text"
        case ArithmeticError():
            return "makes a number that cannot be exact"
        case TypeError():
            return "does not suit the type of a value (perhaps it is null, or a number that is a text)"
        case _:
            return "cannot be worked out from these values"


_ENVIRONMENT.globals = {"range": _range}
_ENVIRONMENT.filters = {
    **_FILTERS,
    "internal: decimal": Decimal,
    "internal: join": _join,
    "internal: loop": _ticking,
    "internal: method": _method,
    "internal: charge": _weigh,
}
_ENVIRONMENT.tests = _TESTS
