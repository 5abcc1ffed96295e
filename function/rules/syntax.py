"""The text of a template: what may stand in it, and what can be said of it without a row.

It is parsed when the rules are loaded, and refused where no row could make it work.

    InvalidTemplate   a template that cannot be used
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar, cast

from jinja2 import TemplateSyntaxError, nodes
from jinja2.parser import Parser
from jinja2.visitor import NodeTransformer

from function.core.values import did_you_mean, text
from function.rules.filters import FILTERS_OFFERED, METHODS_OFFERED, TESTS_OFFERED
from function.rules.sandbox import ENVIRONMENT


class InvalidTemplate(Exception):  # noqa: N818  # what is wrong, not whose error it is
    """A template that cannot be used. *line* counts from 1 within it; *unknown* is the name that it
    lacks, if any."""

    def __init__(self, what: str, line: int = 1, *, unknown: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.line = line
        self.unknown = unknown


class TemplateSyntax:
    """The text of a template or an expression, checked. *lone* is the expression that it is, or the
    one that stands alone in it; None where it makes a text of several parts."""

    def __init__(self, tree: nodes.Template, *, lone: nodes.Expr | None) -> None:
        self.tree = tree
        self.lone = lone
        self.names = frozenset(
            name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"
        )

    def find_parts(self, name: str) -> set[str]:
        """The parts of *name* that it names, such as ``PORT`` in ``env.PORT`` and
        ``env['PORT']``."""
        return {
            node.attr for node in self.tree.find_all(nodes.Getattr) if _is_name(node.node, name)
        }

    def find_whole_parts(self, name: str) -> set[str]:
        """The parts of *name* that it reads whole: of ``row.id`` and ``row.at.day``, ``id``."""
        attributes = list(self.tree.find_all(nodes.Getattr))
        inner = {id(node.node) for node in attributes} | {
            id(node.node) for node in self.tree.find_all(nodes.Getitem)
        }
        return {
            node.attr for node in attributes if _is_name(node.node, name) and id(node) not in inner
        }

    def find_columns(self, name: str) -> frozenset[str]:
        """The columns that it reads of *name*, which is the image of a record.

        Raises InvalidTemplate where that cannot be told from its text: the image is passed on
        whole, or a column's name is worked out.
        """
        return frozenset(_find_columns(self.tree, name))

    def find_literals(self) -> frozenset[str]:
        """The values that it can give, of those that stand in its text whole; a row may give it
        others."""
        match self.tree.body:
            case []:
                return frozenset({""})
            case [nodes.Output(nodes=[nodes.TemplateData(data=text_alone)])]:
                return frozenset({text_alone})
            case _:
                return (
                    frozenset(_find_literals(self.lone)) if self.lone is not None else frozenset()
                )

    def find_texts(self) -> frozenset[str]:
        """The texts that stand in its expressions."""
        return frozenset(
            node.value for node in self.tree.find_all(nodes.Const) if isinstance(node.value, str)
        )

    def uses_filter(self, filter_name: str) -> bool:
        """Whether the filter of that name is anywhere in it."""
        return any(node.name == filter_name for node in self.tree.find_all(nodes.Filter))

    def find_leading_column(self) -> tuple[str, str] | None:
        """The column of `row` that it begins with and the text right after it; None where it begins
        otherwise.

        ``("id", "/")`` for ``{{ row.id }}/{{ item.id }}``; ``("id", "")`` for a lone ``{{ row.id
        }}``.
        """
        match self.tree.body:
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

    def find_joined_values(self) -> tuple[str, ...] | None:
        """The values that it joins in one text, as they stand between braces; None where it joins
        none.

        Empty where they are more than columns, so that they cannot be told apart from what is done
        with them.
        """
        values = list(_find_written_values(self.tree.body))
        for node in self.tree.find_all(
            (nodes.Concat, nodes.Add, nodes.Mod, nodes.Filter, nodes.Call)
        ):
            of_node = [operand for operand in _find_operands(node) if _reads_names(operand)]
            if len(of_node) > 1 and len(values) < 2:
                values = of_node
        if len(values) < 2:
            return None
        paths = [_dotted_path(value) for value in values]
        return tuple(paths) if all(paths) and len(set(paths)) == len(paths) else ()


def check_template(source: str, *, names: Collection[str]) -> TemplateSyntax:
    """Check *source*, a text with ``{{ … }}`` in it, which may use *names*. Raises
    InvalidTemplate."""
    tree = _parse_nodes(lambda: ENVIRONMENT.parse(source))
    _check_nodes(tree, names)
    lone = None
    match tree.body:
        case [nodes.Output(nodes=[only])] if not isinstance(only, nodes.TemplateData):
            lone = only
    return TemplateSyntax(tree, lone=lone)


def check_expression(source: str, *, names: Collection[str]) -> TemplateSyntax:
    """Check *source*, what stands between braces in a template, which may use *names*. Raises
    InvalidTemplate."""
    lone = _parse_nodes(lambda: _parse_expression(source))
    tree = nodes.Template([nodes.Output([lone], lineno=1)], lineno=1)
    _check_nodes(tree, names)
    return TemplateSyntax(tree, lone=lone)


def is_expression(source: str) -> bool:
    """Whether *source* could stand between braces, whatever it names."""
    try:
        _parse_nodes(lambda: _parse_expression(source))
    except InvalidTemplate:
        return False
    return True


def _parse_expression(source: str) -> nodes.Expr:
    parser = Parser(ENVIRONMENT, source, state="variable")
    found = parser.parse_expression()
    if not parser.stream.eos:
        raise TemplateSyntaxError(
            "there is more after the expression", parser.stream.current.lineno
        )
    return found


# Checking


class _SubscriptTransformer(NodeTransformer):
    """Makes ``row['id']`` what ``row.id`` is."""

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 (the visitor's naming)
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return nodes.Getattr(node.node, node.arg.value, node.ctx, lineno=node.lineno)
        return node


_Node = TypeVar("_Node", bound=nodes.Node)


def _parse_nodes(parse: Callable[[], _Node]) -> _Node:
    try:
        return cast(_Node, _SubscriptTransformer().visit(parse()))
    except TemplateSyntaxError as error:
        raise InvalidTemplate(f"is not a template: {error.message}", error.lineno) from error
    except (RecursionError, ValueError, ArithmeticError) as error:
        raise InvalidTemplate(
            "is not a template: a number in it is too long, or it is nested too deeply"
        ) from error


_NODES_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.Name,
    nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.CondExpr,
    nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr, nodes.Slice, nodes.Concat,
    nodes.Compare, nodes.Operand, nodes.Not, nodes.Neg, nodes.Pos, nodes.BinExpr,
)  # fmt: skip


def _check_nodes(tree: nodes.Template, names: Collection[str]) -> None:
    """Refuse what no row could make work, and what the sandbox does not know."""
    try:
        found = list(tree.find_all(nodes.Node))
    except RecursionError as error:
        raise InvalidTemplate("is nested too deeply") from error
    stored = {node.name for node in found if isinstance(node, nodes.Name) and node.ctx == "store"}
    loop = {"loop"} if any(isinstance(node, nodes.For) for node in found) else set()
    for node in found:
        if not isinstance(node, _NODES_ALLOWED):
            raise InvalidTemplate(
                "only `if`, `for` and `set` can stand in {% … %} here", node.lineno
            )
        for kind, name, offered in _find_uses(node):
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


def _find_uses(node: nodes.Node) -> Iterator[tuple[str, str, Collection[str]]]:
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


def _is_name(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.name == name


# These ask whether there is an image, and read none of its columns.
_TESTS_OF_PRESENCE = ("defined", "none", "undefined")


def _find_columns(node: nodes.Node, name: str) -> Iterator[str]:
    """See TemplateSyntax.find_columns."""
    inner = list(node.iter_child_nodes())
    match node:
        case nodes.Getattr(node=whole, attr=column) if _is_name(whole, name):
            yield column
            return
        case nodes.Call(
            node=nodes.Getattr(node=whole, attr="get"),
            args=[nodes.Const(value=str() as column), *others],
        ) if _is_name(whole, name):
            yield column
            inner = [*others, *node.kwargs]
        case nodes.Call(node=nodes.Getattr(node=value)):
            inner = [value, *node.args, *node.kwargs]  # the method's name is no column
        case nodes.Getattr(node=nodes.Getattr(node=whole, attr=column), attr=part) if _is_name(
            whole, name
        ):
            what = f"reads a part of a text; write {name}['{column}.{part}'] for what it refers to"
            raise InvalidTemplate(what, node.lineno)
        case nodes.Name(name=named) if named == name:
            what = (
                f"names columns of `{name}` that cannot be told: write {name}.COLUMN or "
                f"{name}['a.b']"
            )
            raise InvalidTemplate(what, node.lineno)
    presence = _find_presence(node)
    for child in inner:
        if child is not presence or not _is_name(child, name):
            yield from _find_columns(child, name)


def _find_presence(node: nodes.Node) -> nodes.Node | None:
    """What *node* asks for its presence alone. Where that of `a and b` is the answer, it is not
    there."""
    match node:
        case nodes.Test(node=asked, name=test) if test in _TESTS_OF_PRESENCE:
            return asked
        case nodes.If(test=asked) | nodes.CondExpr(test=asked) | nodes.Not(node=asked):
            return asked
        case nodes.And(left=asked):
            return asked
    return None


def _find_written_values(body: Iterable[nodes.Node]) -> Iterator[nodes.Node]:
    """What of a row's a template's *body* writes side by side."""
    for node in body:
        match node:
            case nodes.Output(nodes=written):
                yield from (value for value in written if _reads_names(value))
            case nodes.If(body=then, elif_=others, else_=otherwise):
                branches = [then, otherwise, *(other.body for other in others)]
                yield from max((list(_find_written_values(branch)) for branch in branches), key=len)
            case nodes.For(body=repeated):
                yield from 2 * list(_find_written_values(repeated))


def _find_operands(node: nodes.Node) -> list[nodes.Node]:
    match node:
        case nodes.Concat(nodes=operands):
            return list(operands)
        case nodes.Add(left=left, right=right):
            return [inner for side in (left, right) for inner in (_find_operands(side) or [side])]
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


def _reads_names(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) or next(node.find_all(nodes.Name), None) is not None


def _dotted_path(node: nodes.Node) -> str:
    """``row.id`` of a column or a part of one; empty of all else."""
    match node:
        case nodes.Name(name="row" | "old" | "new" | "item" | "event" as name):
            return str(name)
        case nodes.Getattr(node=whose, attr=part) if path := _dotted_path(whose):
            return f"{path}.{part}"
        case _:
            return ""


def _find_literals(node: nodes.Node | None) -> Iterator[str]:
    """The constants among what the expression *node* can give."""
    match node:
        case nodes.Const(value=value):
            yield text(value)
        case nodes.Filter(name="lookup", args=[mapping, *default], kwargs=named):
            for other in (*_dict_values(mapping), *default, *(keyword.value for keyword in named)):
                yield from _find_literals(other)
        case nodes.Filter(name="default" | "d", node=inner, args=args, kwargs=named):
            given = [keyword.value for keyword in named if keyword.key == "default_value"]
            for either in (inner, *args[:1], *given):
                yield from _find_literals(either)
        case (
            nodes.Getitem(node=nodes.Dict() as mapping)
            | nodes.Getattr(node=nodes.Dict() as mapping)
        ):
            for value in _dict_values(mapping):
                yield from _find_literals(value)
        case nodes.CondExpr(expr1=first, expr2=second) | nodes.Or(left=first, right=second):
            yield from _find_literals(first)
            yield from _find_literals(second)
        case nodes.And(right=second):
            yield from _find_literals(second)


def _dict_values(mapping: nodes.Node) -> list[nodes.Expr]:
    return [pair.value for pair in mapping.items] if isinstance(mapping, nodes.Dict) else []
