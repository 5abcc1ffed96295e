"""The language of rules: Jinja2 in its immutable sandbox, bounded in time and size, exact with
numbers.

What a template gives depends on what it is given and on nothing else: no clock, no randomness.
"""

import decimal
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final, cast

from jinja2 import Template as JinjaTemplate
from jinja2 import TemplateError, UndefinedError, nodes

from function.core.values import Json
from function.rules.arithmetic import EXACT
from function.rules.budget import MissingKeyError, RenderBudget, RenderError
from function.rules.sandbox import ENVIRONMENT, NULL_IN_KEY, SandboxTransformer
from function.rules.syntax import TemplateSyntax, check_expression, check_template
from function.rules.template_values import concatenate, to_plain, to_text, to_value


class Template:
    """A template or an expression, checked; compiled when first used, because a cold
    start counts."""

    def __init__(self, syntax: TemplateSyntax) -> None:
        self.syntax = syntax

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
            if self.syntax.lone is None:
                return concatenate(pieces)
            for _ in pieces:
                pass
            return to_value(context.vars["result"])

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        """The same as a ticket shows it. Raises RenderError."""
        value = self.value(names, budget, in_key=in_key)
        if value is None and in_key:
            raise MissingKeyError(NULL_IN_KEY)
        with _charged_to(budget, in_key=in_key):
            return to_text(value)

    def plain_value(self, names: Mapping[str, Any], budget: RenderBudget) -> Json:
        """The same as `value`, with nothing but JSON in it. Raises RenderError."""
        value = self.value(names, budget)
        with _charged_to(budget, in_key=False):
            budget.measure_input([value])
            return cast(Json, to_plain(value))

    @cached_property
    def _compiled(self) -> JinjaTemplate:
        body: list[nodes.Node] = self.syntax.tree.body
        if self.syntax.lone is not None:
            body = [
                nodes.Assign(nodes.Name("result", "store", lineno=1), self.syntax.lone, lineno=1)
            ]
        try:
            bounded: nodes.Template = SandboxTransformer().visit(nodes.Template(body, lineno=1))
            bounded.set_environment(ENVIRONMENT)
            return ENVIRONMENT.from_string(bounded)
        except _EXPLAINED as error:
            raise RenderError(_explain_error(error)) from None


def parse_template(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, a text with ``{{ … }}`` in it, which may use *names*. Raises
    InvalidTemplate."""
    return Template(check_template(source, names=names))


def parse_expression(source: str, *, names: Collection[str]) -> Template:
    """Check *source*, what stands between braces in a template, which may use *names*. Raises
    InvalidTemplate."""
    return Template(check_expression(source, names=names))


# What Python and Jinja2 raise when a template asks for what cannot be had of these values, and a
# sentence for it. Never their own words: they may quote the row.
_EXPLANATIONS: Final[tuple[tuple[tuple[type[Exception], ...], str], ...]] = (
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
_EXPLAINED = tuple(kind for kinds, _ in _EXPLANATIONS for kind in kinds)


def _explain_error(error: Exception) -> str:
    return next(sentence for kinds, sentence in _EXPLANATIONS if isinstance(error, kinds))


@contextmanager
def _charged_to(budget: RenderBudget, *, in_key: bool) -> Iterator[None]:
    """What is done herein is paid for by *budget*, exact, and what breaks is a RenderError."""
    try:
        with budget.measured(in_key=in_key), decimal.localcontext(EXACT):
            yield
    except UndefinedError as error:
        # Written by us or by Jinja2: it names what the template names, never a value.
        raise RenderError(error.message or "uses a value that is not there") from None
    except _EXPLAINED as error:
        raise RenderError(_explain_error(error)) from None
