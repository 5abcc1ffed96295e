"""What follows for a ticket: its life as a table of cases. Pure."""

from dataclasses import dataclass
from typing import Final, TypeAlias

from function.core.event import Op
from function.core.outcome import Reason, Status
from function.core.step import DesiredState, Step
from function.ledger.records import Ticket
from function.rules.ticket import TicketRule

# What tells the ways to resolved apart, of a table whose states must be passed through.
KIND: Final = "type"


@dataclass(frozen=True, slots=True)
class NoChange:
    """All is said. *row_resolved*: what the ticket was last told of its row, from now on."""

    status: Status
    reason: Reason | None
    row_resolved: bool


@dataclass(frozen=True, slots=True)
class Refresh:
    """Get the ticket as it is: people work on it too."""


@dataclass(frozen=True, slots=True)
class Create:
    """Open the ticket; resolved at once where the row is, and the table's states may be
    jumped to."""

    resolved: bool


@dataclass(frozen=True, slots=True)
class Adopt:
    """Link the row to the ticket that it names, which is there already."""


@dataclass(frozen=True, slots=True)
class OpenSuccessor:
    """Follow a ticket that has ended by a new one."""


@dataclass(frozen=True, slots=True)
class Update:
    """Send what differs, in one PATCH, and with it *state* where that changes.

    *row_resolved* is still false where *state* is but a step on the way to resolved.
    """

    status: Status
    row_resolved: bool
    state: str = ""
    close: bool = False


Decision: TypeAlias = NoChange | Refresh | Create | Adopt | OpenSuccessor | Update


def decide(
    rule: TicketRule,
    wants: DesiredState,
    step: Step | None,
    ticket: Ticket,
    *,
    looked: bool,
    differs: bool,
) -> Decision:
    """Say what follows for a ticket whose row wants *wants* at the end of its trail.

    *step* is what this event did (None when only a look is due). *looked*: the ticket's state is
    known as of now. *differs*: some mapped field is to be sent.
    """
    states = rule.states
    if not ticket.sys_id:
        return _decide_create(rule, wants, step, ticket)
    if rule.shared:
        return _decide_shared(rule, wants, step, ticket, looked=looked)
    ended, final = ticket.state in states.ended, ticket.state in states.final
    resolved = wants.resolved or (wants.gone and rule.on_delete != "leave")
    if wants.gone and rule.on_delete == "leave":
        resolved = ticket.row_resolved
    stays = ticket.row_resolved and rule.after_close == "leave"
    if resolved != ticket.row_resolved and states.resolved and not stays:
        if not looked and not final:
            return Refresh()
        if resolved and not ended:
            return _decide_end(rule, wants, ticket, differs=differs)
        if not resolved and (final or (ended and _is_followed(rule))):
            if wants.when:
                return OpenSuccessor()
            # Should the row want one later, a new ticket follows then.
            return NoChange(Status.SKIPPED, Reason.WHEN_FALSE, row_resolved=True)
        if not resolved and ended:
            return Update(Status.REOPENED, row_resolved=False, state=states.reopened)
    if final:
        # Closed is final: whatever the row says now, the ticket is history.
        return NoChange(Status.UNCHANGED, Reason.TICKET_CLOSED, row_resolved=resolved)
    if differs:
        return Update(Status.UPDATED, row_resolved=resolved)
    return NoChange(Status.UNCHANGED, None, row_resolved=resolved)


def _decide_end(
    rule: TicketRule, wants: DesiredState, ticket: Ticket, *, differs: bool
) -> Decision:
    """Resolve or cancel a ticket that has not ended: at once, or by the next of the states that lie
    between."""
    states = rule.states
    if states.paths and differs:
        # A transition may be refused; that must not cost what the row says.
        return Update(Status.UPDATED, row_resolved=ticket.row_resolved)
    if wants.gone and rule.on_delete == "cancel":
        return Update(Status.RESOLVED, row_resolved=True, state=states.canceled, close=True)
    state = states.towards_resolved(ticket.state, ticket.known.get(KIND, ""))
    last = state == states.resolved
    return Update(Status.RESOLVED, row_resolved=last, state=state, close=last)


def _is_followed(rule: TicketRule) -> bool:
    """Whether a ticket that has ended, but is not final, is followed by a new one rather than
    reopened."""
    return rule.after_close == "new" or not rule.states.reopened


def _decide_create(
    rule: TicketRule, wants: DesiredState, step: Step | None, ticket: Ticket
) -> Decision:
    if step is None or (wants.gone and step.op is not Op.INSERT):
        return NoChange(Status.SKIPPED, Reason.ROW_GONE if wants.gone else None, row_resolved=False)
    if wants.gone or not wants.when:
        return NoChange(Status.SKIPPED, Reason.WHEN_FALSE, row_resolved=False)
    named = bool(wants.sys_id) and wants.sys_id == ticket.named_sys_id
    if wants.sys_id and not named and ticket.generation == 0:
        # It is not opened by this event, so it does not matter which events may open one, or
        # whether the row is resolved.
        return Adopt()
    # One that follows another, or takes the place of one that was deleted, opens nothing new.
    existed = ticket.generation > 0 or bool(ticket.number) or named
    if step.op not in rule.creates and not existed:
        return NoChange(Status.SKIPPED, Reason.NOT_CREATED, row_resolved=False)
    still_resolved = (
        isinstance(step.wants, DesiredState) and step.wants.resolved and step.was_resolved
    )
    if wants.resolved and (still_resolved or ticket.generation > 0):
        return NoChange(Status.SKIPPED, Reason.ALREADY_RESOLVED, row_resolved=False)
    return Create(resolved=wants.resolved and not rule.states.paths)


def _decide_shared(
    rule: TicketRule, wants: DesiredState, step: Step | None, ticket: Ticket, *, looked: bool
) -> Decision:
    """Many rows share the ticket: a row that newly asks for it finds it open and leaves it, and no
    row closes it."""
    states = rule.states
    asks = (
        step is not None
        and step.op in rule.creates
        and wants.when
        and not (wants.gone or wants.resolved)
        and not (step.was_wanted and not step.was_resolved)
    )
    left_alone = NoChange(Status.UNCHANGED, None, row_resolved=False)
    if not asks or not states.resolved or rule.after_close == "leave":
        return left_alone
    if not looked:
        return Refresh()
    if ticket.state in states.final or (ticket.state in states.ended and _is_followed(rule)):
        return OpenSuccessor()
    if ticket.state in states.ended:
        return Update(Status.REOPENED, row_resolved=False, state=states.reopened)
    return left_alone
