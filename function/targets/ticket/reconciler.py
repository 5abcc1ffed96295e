"""One ticket per key, brought to say what the row last said.

`decide` is the life of a ticket as a table of cases, pure. `TicketReconciler` carries its decisions
out: it looks, creates at the computed address, subtracts the known from the desired, and writes
down what ServiceNow returned.
"""

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto
from typing import Final

from function.core.lifecycle import Lifecycle
from function.core.outcome import Failure, Reason, Retryability, Status
from function.core.step import STATE, DesiredState, Step
from function.failpoints import failpoint
from function.ledger.records import IN_DOUBT_SECONDS, PendingWrite, Ticket
from function.rules.ticket import TicketRule
from function.servicenow import (
    Record,
    ServiceNowError,
)
from function.servicenow.values import is_kept, is_same_text
from function.targets.base import Result
from function.targets.ticket.access import TicketAccess
from function.targets.ticket.address import GENERATIONS_MAX
from function.targets.ticket.adoption import Adopted, TicketAdoption
from function.targets.ticket.both_ways import leave_unheard, take_step
from function.targets.ticket.creation import NEVER_WRITTEN, TicketCreation
from function.targets.ticket.decide import (
    Adopt,
    Create,
    NoChange,
    OpenSuccessor,
    Refresh,
    Update,
    decide,
)

# Less than this is not enough for the next of several transitions: it would be cut off, and in
# doubt for a minute.
TRANSITION_SECONDS_MIN: Final = 2.0
# Decisions about one ticket in one attempt; a good one needs four (look, create, look, resolve).
DECISIONS_MAX: Final = 10


class Written(Enum):
    """What became of a write."""

    DONE = auto()
    OVERTAKEN = auto()  # refused, and the ticket is in another state by now: decide again
    MISSING = auto()  # there is no ticket, and the rule says to ignore that


def _holds(record: Record, values: Mapping[str, str], before: Mapping[str, str]) -> bool:
    """Whether all that was sent stands in *record*.

    What its column spells in its own way counts where something else stood there *before*.
    """
    return all(
        is_same_text(found := record.get(field, ""), value)
        or (is_kept(found, value) and found != before.get(field))
        for field, value in values.items()
    )


class TicketReconciler:
    """The work on one ticket in one attempt, under the key's lease."""

    def __init__(self, access: TicketAccess) -> None:
        self._access = access
        self._creation = TicketCreation(access)
        self._adoption = TicketAdoption(access, self._creation)
        self._transitions = 0
        self._wanted: dict[str, str] = {}
        # What this event changed, of what both sides change.
        self._restated: frozenset[str] = frozenset()

    @property
    def _rule(self) -> TicketRule:
        return self._access.rule

    @property
    def _states(self) -> Lifecycle:
        return self._rule.states

    @property
    def _ticket(self) -> Ticket:
        return self._access.ticket

    def reconcile(self, wants: DesiredState, step: Step | None) -> Result:
        """Bring the ticket to say *wants*.

        Raises ServiceNowError when it could not be done (its failure says whether to try again),
        LeaseLost.
        """
        status, reason = Status.UNCHANGED, None
        if step is not None and self._rule.listeners.rules:
            self._restated = frozenset(step.changed_fields())
            task = self._access.task
            self._access.ticket = take_step(
                self._ticket,
                step,
                wants,
                self._rule,
                task.event,
                moved=task.moved,
                says=self._says,
            )
        if self._rule.listeners.rules:
            wants = leave_unheard(self._ticket, wants, self._rule, step)
        for _ in range(DECISIONS_MAX):
            if self._due_for_a_look():
                if not self._look():
                    return self._missing_ignored()
                continue
            if step is not None:
                self._adoption.check_name(wants)
                self._access.ticket = self._ticket.progressed(step.progress)
            self._wanted = self._wanted_fields(wants)
            changes = self._changes()
            decision = decide(
                self._rule,
                wants,
                step,
                self._ticket,
                looked=self._access.looked,
                differs=bool(changes),
            )
            match decision:
                case Adopt() if self._adoption.in_doubt in ("", wants.sys_id):
                    adopted = self._adopt(wants)
                    if adopted is Adopted.MISSING:
                        return self._missing_ignored()
                    if adopted is Adopted.MARKED:
                        status = Status.UPDATED
                case _ if self._adoption.in_doubt:
                    self._adoption.settle(wants)
                case NoChange() if self._creation.is_in_doubt:
                    self._creation.settle(wants)
                case NoChange():
                    self._take_end(wants, row_resolved=decision.row_resolved)
                    if not self._ticket.sys_id:
                        # Where there is no ticket, nothing is left to look at.
                        self._access.ticket = self._ticket.without_suspicion()
                    if status is Status.UNCHANGED:
                        status, reason = decision.status, decision.reason
                    return Result(status, reason or self._reason())
                case Refresh():
                    if not self._look():
                        return self._missing_ignored()
                case Create():
                    self._creation.create(wants, resolved=decision.resolved)
                    status = Status.CREATED
                case OpenSuccessor():
                    self._succeed()
                    self._creation.create(wants, resolved=False)
                    status = Status.CREATED
                case Update():
                    written = self._write(wants, decision, changes)
                    if written is Written.MISSING:
                        return self._missing_ignored()
                    if (
                        written is Written.DONE
                        and self._ticket.sys_id
                        and status is not Status.CREATED
                    ):
                        status = decision.status
        raise ServiceNowError(
            Failure(
                Retryability.PERMANENT,
                Reason.REFUSED,
                "the ticket does not take the state it is given: a business rule of the "
                "instance may set it back",
            )
        )

    def _take_end(self, wants: DesiredState, *, row_resolved: bool) -> None:
        """Nothing has to be sent of the row's end. Where the ticket has ended as the row has,
        somebody else wrote that."""
        ended = self._ticket.state in self._states.ended
        if ended == row_resolved != self._ticket.row_resolved:
            self._access.remember_agreement([STATE, *wants.close])
        self._access.ticket = replace(self._ticket, row_resolved=row_resolved)

    def look_again(self) -> None:
        """Find out what became of writes in doubt, and send nothing. Raises ServiceNowError."""
        if self._due_for_a_look() and not self._look():
            self._access.ticket = self._ticket.without_doubt()

    def _reason(self) -> Reason | None:
        """What to say of a ticket that is not all that the row wants."""
        if self._access.task.left_empty:
            return Reason.UNKNOWN_REFERENCE
        return Reason.FOREIGN_MARK if self._access.task.left_alone else None

    def _adopt(self, wants: DesiredState) -> Adopted | None:
        """Adopt the ticket that the row names, unless a create in doubt has to be settled first."""
        if not self._creation.is_in_doubt:
            return self._adoption.adopt(wants)
        before = self._ticket.pending_write
        self._creation.settle(wants)
        if self._ticket.sys_id and before is not None and "correlation_id" in before.fields:
            # No create: it was found by the mark that a process without its lease has left.
            self._adoption.take_for_sent(wants)
        return None

    def _wanted_fields(self, wants: DesiredState) -> dict[str, str]:
        if self._rule.shared and self._ticket.sys_id:
            return {}
        wanted = dict(wants.fields)
        if self._ticket.sys_id:
            wanted = {
                field: value
                for field, value in wanted.items()
                if field not in self._rule.create_only
            }
        if self._ticket.row_resolved and wants.resolved:
            # Whoever resolved it, the row says more of that now.
            wanted |= {
                field: value
                for field, value in wants.close.items()
                if field in self._restated and self._ticket.last_sent.get(field) != value
            }
        # The first of them tells that it was we who resolved the ticket.
        if (
            self._ticket.row_resolved
            and wants.resolved
            and next(iter(wants.close), "") in self._ticket.last_sent
        ):
            wanted |= wants.close
        return wanted

    def _changes(self) -> dict[str, str]:
        """The wanted less the known: what to send, references by sys_id.

        A field that was asked for before is not sent again, whatever became of it: only what the
        row changed is sent.
        """
        changes: dict[str, str] = {}
        for field, value in self._wanted.items():
            if self._ticket.last_sent.get(field) == value:
                continue
            sent = self._access.sent(field, value)
            known = self._ticket.known.get(field)
            if self._ticket.left_empty.get(field) == value:
                if sent is None:
                    continue
                # People may have filled it in meanwhile, and the row names whom it named before.
                stands = bool(known)
            elif sent is None and self._ticket.left_empty.get(field) == "":
                # Of a ticket that was adopted: who stands there was put there by people.
                stands = True
            else:
                stands = known is not None and is_same_text(known, sent or "")
            if stands:
                self._access.remember_asked({field: value})
                self._access.remember_agreement([field])
            else:
                # Nobody rather than the one who stands there, whom the row does not name any more.
                changes[field] = sent or ""
        return changes

    def _says(self, field: str, value: str) -> bool:
        """Whether the ticket says *value*, as the row spells it, by what is known."""
        known = self._ticket.known.get(field)
        try:
            sent = self._access.sent(field, value)
        except ServiceNowError:
            return False
        return known is not None and is_kept(known, sent or "")

    def _due_for_a_look(self) -> bool:
        due = self._ticket.suspect_until
        return bool(self._ticket.sys_id) and due is not None and due <= self._access.clock()

    def _look(self) -> bool:
        """Get the ticket as it is; False when it is missing and the rule says to ignore that."""
        try:
            record = self._access.get_known()
        except ServiceNowError as error:
            return self._missing(error)
        suspect = self._ticket.suspect_fields
        due = self._due_for_a_look()
        self._access.take(record)
        self._access.looked = True
        if due:
            asked = {
                field: value
                for field, value in self._ticket.last_sent.items()
                if field not in suspect
            }
            ended = self._ticket.state in self._states.ended
            self._access.settle_sent(record)
            self._access.ticket = replace(
                self._ticket,
                last_sent=asked,
                sent_values={},
                suspect_until=None,
                suspect_fields=frozenset(),
                # A state write in doubt may have come after all, and after a later one.
                row_resolved=ended if "state" in suspect else self._ticket.row_resolved,
            )
        return True

    def _missing(self, error: ServiceNowError) -> bool:
        """The ticket is not there: by the rule's word it is made anew (True), ignored (False), or
        an error."""
        if error.failure.reason is not Reason.MISSING:
            raise error
        match self._rule.on_missing:
            case "recreate":
                # The number stays: it tells that there was a ticket.
                self._access.ticket = self._ticket.forgotten(self._access.link)
                return True
            case "ignore":
                return False
            case _:
                hint = (
                    "the ticket was deleted in ServiceNow or is hidden from the integration "
                    "user; somebody must decide: restore it, or set on_missing to recreate or "
                    "ignore, then replay"
                )
                raise ServiceNowError(
                    replace(error.failure, retryability=Retryability.PERMANENT, hint=hint)
                ) from error

    def _missing_ignored(self) -> Result:
        self._access.ticket = self._ticket.without_doubt()
        return Result(Status.SKIPPED, Reason.TICKET_MISSING)

    def _succeed(self) -> None:
        if self._ticket.generation >= GENERATIONS_MAX:
            raise ServiceNowError(
                Failure(
                    Retryability.PERMANENT,
                    Reason.REFUSED,
                    "this row's ticket was followed by a new one a thousand times",
                )
            )
        self._access.ticket = self._ticket.successor(self._access.link)

    def _write(self, wants: DesiredState, decision: Update, changes: Mapping[str, str]) -> Written:
        """PATCH what differs."""
        values = dict(changes)
        assignee = self._wanted.get("assigned_to")
        if "assignment_group" in values and assignee and "assigned_to" not in values:
            # The platform clears the assignee when the group changes.
            values |= (
                {"assigned_to": sent}
                if (sent := self._access.sent("assigned_to", assignee)) is not None
                else {}
            )
        if decision.state:
            values["state"] = decision.state
            if self._states.paths:
                self._check_time()
        if decision.close:
            values |= wants.close
            if wants.gone and self._rule.on_delete == "cancel":
                # A canceled ticket was not solved.
                values.pop("close_code", None)
        before = self._ticket.known
        self._access.record_intent(
            PendingWrite("update", tuple(sorted(values)), self._access.clock()), values
        )
        failpoint("before_call")
        try:
            record = self._access.tables.update(
                self._rule.table,
                self._ticket.sys_id,
                values,
                fields=self._access.fields,
                deadline=self._access.deadline,
            )
            failpoint("after_call")
        except ServiceNowError as error:
            failpoint("after_call")
            marked, sent_values = self._ticket.pending_write, self._ticket.sent_values
            self._access.ticket = self._ticket.answered(suspect_until=self._ticket.suspect_until)
            if error.failure.status == 403 or error.failure.reason is Reason.WRONG_RECORD:
                found = self._look_after_refusal(error, values, before)
                if found is not None and _holds(found, values, before):
                    return self._written(found, values, wants, decision)
                if found is not None and error.failure.status == 403 and self._is_overtaken(found):
                    self._access.take(found)
                    self._access.looked = True
                    return Written.OVERTAKEN
            if error.failure.retryability is Retryability.IN_DOUBT and marked is not None:
                until = self._access.clock() + IN_DOUBT_SECONDS
                self._access.ticket = self._ticket.update_in_doubt(
                    marked.fields, until=until, sent_values=sent_values
                )
                asked = max(IN_DOUBT_SECONDS, error.failure.retry_after_seconds or 0.0)
                error.failure = replace(error.failure, retry_after_seconds=asked)
                raise
            if decision.state and self._states.paths:
                error.failure = self._refused_transition(error.failure, decision.state)
            return Written.DONE if self._missing(error) else Written.MISSING
        return self._written(record, values, wants, decision)

    def _is_overtaken(self, found: Record) -> bool:
        """Whether people or a flow have moved the ticket on since we last knew its state."""
        return bool(found.get("state")) and found["state"] != self._ticket.state

    def _check_time(self) -> None:
        """Between two transitions: raise ServiceNowError where this delivery has no time for the
        next."""
        if self._transitions and self._access.deadline.left() < TRANSITION_SECONDS_MIN:
            raise ServiceNowError(
                Failure(
                    Retryability.TRANSIENT,
                    Reason.DEADLINE,
                    "this delivery's time was used up between two states of the ticket; it "
                    "goes on from there",
                )
            )
        self._transitions += 1

    def _refused_transition(self, failure: Failure, state: str) -> Failure:
        """*failure* with what to do about it, where the instance does not let the ticket go on to
        *state*."""
        if failure.status != 403 or failure.reason not in {Reason.BUSINESS_RULE, Reason.REFUSED}:
            return failure
        hint = (
            f"ServiceNow does not let the {self._rule.table} go from "
            f"{self._states.named(self._ticket.state)} to {self._states.named(state)}: an "
            "approval has to be given first, or its state model has no such transition; "
            "ServiceNow's own words say more. Approve it or move it on there, then replay"
        )
        return replace(failure, hint=hint)

    def _look_after_refusal(
        self, error: ServiceNowError, values: Mapping[str, str], before: Mapping[str, str]
    ) -> Record | None:
        """The ticket as it is after a refusal, or after an answer with another record: the write
        may have been made.

        None where the look fails; *error* is in doubt then, where looking later may tell. What was
        sent stays unknown, for reads may lag for longer.
        """
        record: Record | None = None
        for _ in self._access.looks():
            try:
                record = self._access.get(self._ticket.sys_id, self._access.fields)
            except ServiceNowError as blind:
                if blind.failure.retryability is not Retryability.PERMANENT:
                    error.failure = replace(error.failure, retryability=Retryability.IN_DOUBT)
                return None
            if error.failure.reason in NEVER_WRITTEN or _holds(record, values, before):
                break
        return record

    def _written(
        self, record: Record, values: Mapping[str, str], wants: DesiredState, decision: Update
    ) -> Written:
        """Remember that *values* stand in the ticket, as *record* has them."""
        before = self._ticket.state
        self._access.take(record)
        self._access.remember_write(record, values)
        self._access.looked = True
        written = {
            field: self._wanted.get(field, wants.close.get(field, ""))
            for field in values
            if field != "state"
        }
        stuck = bool(decision.state) and not self._went_on(before, decision)
        row_resolved = self._ticket.row_resolved if stuck else decision.row_resolved
        self._access.ticket = replace(
            self._ticket.answered(suspect_until=self._ticket.suspect_until),
            row_resolved=row_resolved,
        )
        self._access.remember_asked(written)
        if stuck:
            raise ServiceNowError(
                Failure(
                    Retryability.PERMANENT,
                    Reason.REFUSED,
                    f"ServiceNow took {self._states.named(decision.state)} for the "
                    f"{self._rule.table}'s next state, and left it in "
                    f"{self._states.named(self._ticket.state)}: an access control on state, a "
                    "business rule or a workflow of the instance is against it. Let the "
                    "integration user write state, or move the ticket on there, then replay",
                )
            )
        # A workflow may have taken it further than asked.
        passing = {"state"} if self._states.paths else set()
        self._access.compare(
            record, {field: value for field, value in values.items() if field not in passing}
        )
        return Written.DONE

    def _went_on(self, before: str, decision: Update) -> bool:
        """Whether the ticket is where *decision* was to take it, or further; a state that we may
        not read counts."""
        state = self._ticket.state
        if decision.status is Status.REOPENED:
            return state not in self._states.ended
        if state in self._states.ended or not state:
            return True
        return not decision.row_resolved and self._states.is_nearer(state, before)
