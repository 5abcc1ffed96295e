"""Which rules an event concerns, by its source, its trigger and its type. Pure.

The events of a source with an entry under `types` have a type each. One that no rule of the source
names has no rule, whatever the others hear: a type that somebody has added or misspelled is an
error, and not a silent success.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from function.core.event import Event, Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.values import did_you_mean, text
from function.rules.budget import RenderBudget, RenderError
from function.rules.evaluate import describe_event, read_images
from function.rules.model import Rule, Rules, RuleTemplate

# So much of a type is told where it is unknown: it comes from the row, and may be anything.
TYPE_CHARACTERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class RuleSelection:
    """The rules that an event concerns, or *failure*: why it has none.

    *event_type* is as the event has it; "" where its source has no types. With the reason NO_RULE
    it is one that no rule names; any other: what it is cannot be said.
    """

    rules: tuple[Rule, ...]
    event_type: str = ""
    failure: Failure | None = None


def select_rules(rules: Rules, event: Event) -> RuleSelection:
    """The rules that *event* concerns; which of them hear its op is not asked here."""
    concerned = rules.concerning(event)
    expression = rules.types.get(event.source)
    if expression is None:
        return RuleSelection(concerned)
    try:
        event_type = find_event_type(expression, event, rules.env)
    except RenderError as unsaid:
        return RuleSelection((), failure=unsaid.failure)
    named = {
        name.casefold(): name
        for rule in rules.rules
        if rule.source == event.source
        for name in rule.event_types
    }
    if event_type.casefold() not in named:
        failure = _unknown_type(expression, event, event_type, sorted(named.values()))
        return RuleSelection((), event_type, failure)
    return RuleSelection(
        tuple(rule for rule in concerned if hears_type(rule, event_type)), event_type
    )


def hears_type(rule: Rule, event_type: str) -> bool:
    """Whether *rule* hears events of this type, of which some rule of its source is one."""
    wanted = event_type.casefold()
    return not rule.event_types or any(name.casefold() == wanted for name in rule.event_types)


def find_event_type(expression: RuleTemplate, event: Event, env: dict[str, str]) -> str:
    """The type of *event*. Raises RenderError where it has none, or it cannot be said."""
    try:
        value = expression.value(_names(expression, event, env), RenderBudget())
    except (RecursionError, MemoryError, ArithmeticError, ValueError):
        raise RenderError("the row is nested too deeply", where=expression.where) from None
    if value is None:
        raise RenderError("is null, and an event must have a type", where=expression.where)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise RenderError("is neither a text nor a number", where=expression.where)
    event_type = text(value).strip()
    if not event_type:
        raise RenderError("is empty, and an event must have a type", where=expression.where)
    return event_type


def shorten_type(event_type: str) -> str:
    """The type as people are told it: on one line, and cut where it is long."""
    line = " ".join(event_type.split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    cut = len(line) > TYPE_CHARACTERS_MAX
    return f"{line[: TYPE_CHARACTERS_MAX - 1]}…" if cut else line


def _names(expression: RuleTemplate, event: Event, env: dict[str, str]) -> dict[str, object]:
    images = read_images(event, where=expression.where)
    return {
        "row": images.old_image if event.op is Op.DELETE else images.new_image,
        "old": images.old_image,
        "new": images.new_image,
        "op": event.op.value,
        "event": describe_event(event),
        "env": env,
    }


def _unknown_type(
    expression: RuleTemplate, event: Event, event_type: str, named: list[str]
) -> Failure:
    name = shorten_type(event_type)
    like = did_you_mean(name, named)
    hint = (
        f"no rule in {expression.where.file} that is `from: {event.source}` has the type `{name}`: "
        f"write one, or correct what sends it{like}"
    )
    return Failure(Retryability.PERMANENT, Reason.NO_RULE, hint)
