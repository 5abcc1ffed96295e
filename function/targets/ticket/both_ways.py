"""What a step of the row says of the fields that both sides change. Pure.

A field is sent where the row changed it. Where our own mutation changed it, the ticket said so
first: nothing is sent. Where the app changed it from what the ticket says, it is sent, though it
may be what was sent last: in between, the row was given something else. Where a step changed it
that has not arrived, that step decides. tests/two_way/model.py tries these rules.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from function.core.event import Event, Op
from function.core.lifecycle import Lifecycle
from function.core.step import STATE, DesiredState, Step
from function.core.trail import lacks_step
from function.ledger.records import Ticket
from function.rules.ticket import TicketRule

_MARK: Final = re.compile(r"([0-9A-Za-z]{32}):(\d{1,9})", re.ASCII)


def read_mark(event: Event | None) -> tuple[str, int] | None:
    """The ticket that our mutation told the app of, and its count of changes then; None where the
    event is none of our mutations'."""
    found = _MARK.fullmatch(event.mark) if event is not None else None
    return (found[1], int(found[2])) if found else None


def take_step(
    ticket: Ticket,
    step: Step,
    wants: DesiredState,
    rule: TicketRule,
    event: Event | None,
    *,
    moved: bool,
    says: Callable[[str, str], bool],
) -> Ticket:
    """*ticket* with what *step* asserts of it.

    *wants* is what is wanted where the row is; *moved*: the step took it there. *says* tells
    whether the ticket has a value in a column, by what is known.
    """
    mark = read_mark(event)
    has_state = STATE in rule.listeners.fields
    if mark is not None and mark[0] == ticket.sys_id:
        return _take_own_step(ticket, step, mark[1], has_state=has_state)
    asserted = {
        name for name in step.changed_fields() if moved or says(name, step.fields_before[name])
    }
    last_sent = {name: value for name, value in ticket.last_sent.items() if name not in asserted}
    asserting = replace(ticket, last_sent=last_sent)
    if not has_state:
        return asserting
    row_resolved = _asserted_end(ticket, step, wants, rule.states, moved=moved)
    return replace(asserting, row_resolved=row_resolved)


def leave_unheard(
    ticket: Ticket, wants: DesiredState, rule: TicketRule, step: Step | None
) -> DesiredState:
    """*wants*, but for what a step changed that has not arrived: of that, what was sent last.

    Our own mutation may have made that step. *step* is the one that is worked on, None for none.
    """
    if wants.gone or not ticket.sys_id or not lacks_step(ticket.trail):
        return wants
    if step is not None and step.left is None:
        return wants  # MANUAL: somebody wants it sent as it is
    if step is not None and _was_unsaid(step, wants, rule):
        return wants
    said = {**wants.fields, **wants.close}
    changed = step.changed_fields() if step is not None else {}
    made_here = {name for name, value in changed.items() if said.get(name) == value}
    kept = {
        name: value
        for name, value in ticket.last_sent.items()
        if name in rule.listeners.fields and name not in made_here
    }
    ends = step is not None and _makes_end(step, wants)
    keeps_end = STATE in rule.listeners.fields and not ends
    return replace(
        wants,
        resolved=ticket.row_resolved if keeps_end else wants.resolved,
        fields={name: kept.get(name, value) for name, value in wants.fields.items()},
        close={name: kept.get(name, value) for name, value in wants.close.items()},
    )


def _changes_end(step: Step) -> bool:
    return isinstance(step.wants, DesiredState) and step.was_resolved != step.wants.resolved


def _was_unsaid(step: Step, wants: DesiredState, rule: TicketRule) -> bool:
    """Whether it could not be said what the row wanted before *step*: of that, nothing was sent."""
    heard = rule.listeners.fields & wants.fields.keys()
    return step.op is Op.UPDATE and not heard <= step.fields_before.keys()


def _makes_end(step: Step, wants: DesiredState) -> bool:
    """Whether this step made what is *wanted* now of the row's end."""
    made = step.wants.resolved if isinstance(step.wants, DesiredState) else None
    return _changes_end(step) and made == wants.resolved


def _take_own_step(ticket: Ticket, step: Step, count: int, *, has_state: bool) -> Ticket:
    """Our mutation made the step, of a ticket that had changed *count* times: what the row says
    now, the ticket says, but for what was sent since."""
    if not isinstance(step.wants, DesiredState):
        return ticket
    told = {
        name: value
        for name, value in step.changed_fields().items()
        if count >= ticket.written_counts.get(name, 0)
    }
    ended = has_state and _changes_end(step) and count >= ticket.written_counts.get(STATE, 0)
    heard = {*told, *([STATE] if ended else [])}
    return replace(
        ticket,
        last_sent={**ticket.last_sent, **told},
        row_resolved=step.wants.resolved if ended else ticket.row_resolved,
        # What our earlier mutations said is older than this.
        written_counts={**ticket.written_counts, **dict.fromkeys(heard, count)},
    )


def _asserted_end(
    ticket: Ticket, step: Step, wants: DesiredState, states: Lifecycle, *, moved: bool
) -> bool:
    """Whether the ticket was last told that its row is resolved: no, where the step resolved it or
    opened it again and the ticket says otherwise."""
    if not isinstance(step.wants, DesiredState) or not _changes_end(step):
        return ticket.row_resolved
    ended = ticket.state in states.ended
    if wants.resolved == ended or not (moved or ended == step.was_resolved):
        return ticket.row_resolved
    return not wants.resolved
