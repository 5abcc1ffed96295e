"""Rules of both directions, introduced to each other. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from function.core.event import Op
from function.rules.model import Rule
from function.rules.ticket import ChangeListeners, TicketRule


def introduce_listeners(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """*rules*, of which those with a ticket know who hears of its changes."""
    return tuple(_introduce(rule, rules) for rule in rules)


def _introduce(rule: Rule, rules: Sequence[Rule]) -> Rule:
    if not isinstance(rule.target, TicketRule):
        return rule
    table = rule.target.table
    heard = [
        (other, source)
        for other in rules
        if (source := other.ticket_source) is not None and source.table == table
    ]
    columns = (source.columns for _, source in heard if not source.journal)
    listeners = ChangeListeners(
        rules={
            other.id: frozenset() if source.journal else source.columns for other, source in heard
        },
        # A ticket of ours is new to nobody who asks for tickets by a query of his own.
        inserting=tuple(
            other.id
            for other, source in heard
            if not (source.journal or source.query) and Op.INSERT in other.ops
        ),
        columns=frozenset().union(*columns),
    )
    return replace(rule, target=replace(rule.target, listeners=listeners))
