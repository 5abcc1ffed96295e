"""What follows for a ticket, in every case there is: no socket, no ledger."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest

from function.core.event import Op
from function.core.lifecycle import CHANGE_REQUEST, INCIDENT, NO_LIFECYCLE
from function.core.outcome import Reason, Status
from function.core.step import DesiredState, Step
from function.ledger.records import Ticket
from function.rules.loader import RulesError, load_rules
from function.rules.schema import AFTER_CLOSE, ON_DELETE
from function.rules.ticket import TicketRule, ticket_of
from function.targets.ticket.decide import (
    Adopt,
    Create,
    Decision,
    NoChange,
    OpenSuccessor,
    Refresh,
    Update,
    decide,
)

TABLES = {
    "incident": "table: incident",
    "change_request": "table: change_request",
    "without states": "table: problem",
    "a task": (
        "table: sc_task\n      states: {resolved: 3, reopened: 1, canceled: 4, final: [4, 7]}"
    ),
    "a task that ends": (
        "table: sc_task\n      states: {resolved: 3, canceled: 4, final: [3, 4, 7]}"
    ),
    "a task that is only resolved": "table: sc_task\n      states: {resolved: 3}",
    (
        "an incident of its own"
    ): "table: incident\n      states: {resolved: 3, reopened: 2, canceled: 4, final: [8]}",
    (
        "a change of its own"
    ): "table: change_request\n      states: {resolved: 3, canceled: 4, path: [-5, -1, 0]}",
    "a path": (
        "table: sc_task\n      states: {resolved: 3, reopened: 2, canceled: 4, final: [7], "
        "path: [1, 2, 6]}"
    ),
}
STATES = ("", "-5", "-4", "-3", "-2", "-1", "0", "1", "2", "3", "4", "6", "7", "8", "900")
WANTS = tuple(
    DesiredState(
        when,
        resolved,
        gone,
        {"short_description": "x"},
        {"close_code": "c", "close_notes": "n"},
        sys_id,
    )
    for when, resolved, gone in product((True, False), repeat=3)
    for sys_id in ("", "named")
    if not (resolved and gone)
)


NONE = Ticket("i", "r", "1")


def rules(about: str) -> Iterator[TicketRule]:
    """Every rule about a table that loads."""
    for after_close, on_delete, shared in product(
        ("", *AFTER_CLOSE), ("", *ON_DELETE), ("true", "false")
    ):
        chosen = f"      after_close: {after_close}\n" if after_close else ""
        chosen += f"      on_delete: {on_delete}\n" if on_delete else ""
        text = (
            "version: 1\nrules:\n  - name: a\n    from: hasura/public.a\n    ticket:\n"
            f"      {about}\n      shared: {shared}\n{chosen}"
            '      key: "{{ row.id }}"\n      fields: {short_description: x}\n'
        )
        try:
            [rule] = load_rules(text, environ={}).rules
        except RulesError:
            continue
        yield ticket_of(rule)


def steps(wants: DesiredState) -> Iterator[Step | None]:
    yield None
    for op, was_resolved, was_wanted in product(Op, (True, False), (True, False)):
        yield Step("1", op, None, "place", wants, was_resolved=was_resolved, was_wanted=was_wanted)


def cases(rule: TicketRule) -> Iterator[tuple[Ticket, bool, Decision]]:
    """Each ticket, whether it was looked at, and what is decided."""
    for wants in WANTS:
        for step in steps(wants):
            for state, row_resolved, kind in product(STATES, (True, False), ("standard", "own")):
                if kind == "own" and not rule.states.paths:
                    continue
                there = Ticket(
                    "i",
                    "r",
                    "1",
                    sys_id="s",
                    state=state,
                    row_resolved=row_resolved,
                    known={"type": kind},
                )
                for looked, differs in product((True, False), repeat=2):
                    yield (
                        there,
                        looked,
                        decide(rule, wants, step, there, looked=looked, differs=differs),
                    )
            for generation, number, named in product((0, 1), ("", "INC1"), ("", "named")):
                none = Ticket(
                    "i", "r", "1", generation=generation, number=number, named_sys_id=named
                )
                yield none, False, decide(rule, wants, step, none, looked=False, differs=True)


@pytest.mark.parametrize("about", TABLES.values(), ids=TABLES)
def test_in_every_case_there_is_a_decision_and_none_leaves_a_final_state(about: str) -> None:
    for rule in rules(about):
        states = rule.states
        for ticket, looked, decision in cases(rule):
            match decision:
                case Update(state=""):
                    assert ticket.state not in states.final
                case Update(state=state):
                    assert looked
                    assert ticket.state not in states.final
                    assert state != ticket.state
                    known = {states.resolved, states.reopened, states.canceled, *states.names}
                    assert state in known.union(*states.paths.values())
                case OpenSuccessor():
                    assert ticket.state in states.ended
                case Create() | Adopt():
                    assert not ticket.sys_id
                case Refresh():
                    assert ticket.sys_id
                    assert not looked
                case NoChange(reason=Reason.TICKET_CLOSED):
                    assert ticket.state in states.final


def naming(*, when: bool = True, resolved: bool = False, gone: bool = False) -> DesiredState:
    return DesiredState(when, resolved, gone, {}, {}, "named")


@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize("resolved", [True, False])
def test_a_row_adopts_the_ticket_that_it_names_whatever_it_says_and_whichever_event_it_is(
    op: Op, resolved: bool
) -> None:
    rule = replace(
        next(rule for rule in rules(TABLES["incident"]) if not rule.shared), creates=frozenset()
    )
    wants = naming(resolved=resolved)
    step = Step("1", op, None, "place", wants, was_resolved=resolved)

    assert decide(rule, wants, step, NONE, looked=False, differs=True) == Adopt()


@pytest.mark.parametrize(
    ("wants", "ticket", "step"),
    [
        (naming(when=False), NONE, True),
        (naming(gone=True), NONE, True),
        (naming(), replace(NONE, named_sys_id="named"), True),
        (naming(), replace(NONE, generation=1), True),
        (naming(), NONE, False),
    ],
    ids=["below when", "gone", "it was missing", "it was followed", "no event"],
)
def test_no_ticket_is_adopted_where(wants: DesiredState, ticket: Ticket, step: bool) -> None:
    rule = next(rule for rule in rules(TABLES["incident"]) if not rule.shared)
    event = Step("1", Op.INSERT, None, "place", wants) if step else None

    assert decide(rule, wants, event, ticket, looked=False, differs=True) != Adopt()


def test_a_ticket_that_was_missing_is_made_anew_whichever_events_may_open_one() -> None:
    rule = replace(
        next(rule for rule in rules(TABLES["incident"]) if not rule.shared), creates=frozenset()
    )
    ticket = replace(NONE, named_sys_id="named")
    step = Step("1", Op.UPDATE, None, "place", naming())

    assert decide(rule, naming(), step, ticket, looked=False, differs=True) == Create(
        resolved=False
    )


@pytest.mark.parametrize("kind", ["normal", "standard", "emergency", "", "own"])
@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_change_leads_to_closed_in_steps_that_only_go_on(
    state: str, kind: str
) -> None:
    passed = [state]
    while passed[-1] not in CHANGE_REQUEST.final:
        following = CHANGE_REQUEST.towards_resolved(passed[-1], kind)
        assert following == "3" or CHANGE_REQUEST.is_nearer(following, passed[-1])
        passed.append(following)

    assert len(passed) <= 7


def test_the_states_of_an_incident_are_those_of_the_facts() -> None:
    assert (INCIDENT.resolved, INCIDENT.reopened, INCIDENT.canceled) == ("6", "2", "8")
    assert INCIDENT.final == {"7", "8"}
    assert INCIDENT.ended == {"6", "7", "8"}
    assert NO_LIFECYCLE.ended == frozenset()


def test_a_change_sends_what_differs_before_it_moves() -> None:
    ticket = Ticket("i", "r", "1", sys_id="s", state="-5", known={"type": "standard"})
    wants = DesiredState(when=True, resolved=True, gone=False, fields={}, close={})
    rule = next(rule for rule in rules(TABLES["change_request"]) if not rule.shared)

    assert decide(rule, wants, None, ticket, looked=True, differs=True) == Update(
        Status.UPDATED, row_resolved=False
    )
    assert decide(rule, wants, None, ticket, looked=True, differs=False) == Update(
        Status.RESOLVED, row_resolved=False, state="-2"
    )
