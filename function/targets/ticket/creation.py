"""A ticket is made, once: at its computed address, or found again after an answer was lost."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from function.core.lifecycle import Lifecycle
from function.core.outcome import Failure, Reason, Retryability
from function.core.step import STATE, DesiredState
from function.core.values import instant
from function.failpoints import failpoint
from function.ledger.records import (
    IN_DOUBT_SECONDS,
    KeptMark,
    PendingWrite,
    TableTraits,
    Ticket,
    kept_mark,
)
from function.rules.ticket import TicketRule
from function.servicenow import (
    Record,
    ServiceNowError,
    equals,
    is_sys_id,
)
from function.servicenow.values import is_kept, is_same_text
from function.targets.ticket.access import TicketAccess, count_of
from function.targets.ticket.address import GENERATIONS_MAX, address

log = logging.getLogger(__name__)
# Who reads the ticket sees which kind of system wrote it, and a business rule can pick ours out.
CORRELATION_DISPLAY: Final = "hasura"
# Refusals of the platform's own, before it writes: one look is enough. (A failed insert is looked
# for again anyway.)
NEVER_WRITTEN: Final = frozenset({Reason.BUSINESS_RULE, Reason.DATA_POLICY, Reason.INSERT_FAILED})
# Of the newest records so many are looked at for one that looks like a ticket whose create was not
# answered.
LOOK_ALIKES_MAX: Final = 200
# The instance's clock and the ledger's are less than that apart.
CLOCKS_APART_SECONDS: Final = 600.0
# A shorter text is a choice or a number, which many records have.
TEXT_CHARACTERS_MIN: Final = 8


def _resembles(record: Mapping[str, str], sent: Mapping[str, str]) -> bool:
    """Whether *record* has one of the texts in *sent* that are long enough to be nobody else's."""
    return any(
        len(value) >= TEXT_CHARACTERS_MIN and is_same_text(record.get(field, ""), value)
        for field, value in sent.items()
    )


class TicketCreation:
    """Makes the ticket that TicketAccess is for, or adopts the one that is there."""

    def __init__(self, access: TicketAccess) -> None:
        self._access = access

    @property
    def _rule(self) -> TicketRule:
        return self._access.rule

    @property
    def _states(self) -> Lifecycle:
        return self._rule.states

    @property
    def _ticket(self) -> Ticket:
        return self._access.ticket

    def create(self, wants: DesiredState, *, resolved: bool) -> None:
        table, generation = self._rule.table, self._ticket.generation
        sys_id = address(table, self._access.correlation, generation)
        before = self._ticket.pending_write
        in_doubt = before is not None and before.in_doubt
        traits = self._access.task.traits
        if (
            traits.honours_sys_id is False or (traits.honours_sys_id is None and in_doubt)
        ) and self._found_by_looking(sys_id, before, traits, wants):
            return
        # An adopted ticket of an earlier attempt is told from an unknown one by this.
        recorded = before is not None or generation > 0
        named = {field: self._access.sent(field, value) for field, value in wants.fields.items()}
        sent = {field: value for field, value in named.items() if value is not None}
        marks = self.marks()
        values = {**sent, **marks, "sys_id": sys_id}
        if self._access.follows:
            values[self._states.link] = self._access.follows
        close = {**wants.close, "state": self._states.resolved} if resolved else {}
        self._access.record_intent(
            PendingWrite("create", tuple(sorted({*sent, *close})), self._access.clock()),
            {**sent, **close},
        )
        failpoint("before_call")
        try:
            record = self._access.tables.create(
                table,
                {**values, **close},
                fields=[*self._access.fields, *self._access.link, "correlation_display"],
                deadline=self._access.deadline,
            )
            if not self._is_made(record, sys_id, {**sent, **marks}):
                raise self._access.wrong_record(sys_id, record, writes=True)
            failpoint("after_call")
        except ServiceNowError as error:
            failpoint("after_call")
            self._judge_create(error, sys_id, traits, recorded=recorded)
            return
        honoured = record["sys_id"].lower() == sys_id
        self._learn(traits, TableTraits(honoured, kept_mark(record, marks)))
        self._access.take({**record, "sys_id": sys_id} if honoured else record)
        self._access.remember_creation(record)
        self._access.looked = True
        # The primary key has decided: nothing that was sent before can commit any more.
        self._access.ticket = self._ticket.made(
            row_resolved=resolved and self._ticket.state in self._states.ended
        )
        self._access.remember_asked({**wants.fields, **(wants.close if resolved else {})})
        # A state that did not follow is written again, by itself.
        self._access.compare(
            record, {field: value for field, value in {**sent, **close}.items() if field != "state"}
        )

    def marks(self) -> dict[str, str]:
        """What a ticket of this row carries; where an instance keeps the ``correlation_display``
        alone, that stands for the correlation_id."""
        correlation = self._access.correlation
        display_alone = self._access.task.traits.kept_mark is KeptMark.CORRELATION_DISPLAY
        return {
            "correlation_id": correlation,
            "correlation_display": correlation if display_alone else CORRELATION_DISPLAY,
        }

    def _is_made(self, record: Record, sys_id: str, sent: Mapping[str, str]) -> bool:
        """Whether *record* is what a POST of *sent* made, be it under another sys_id than we chose,
        or without a mark.

        A stranger's has marks of its own, or none, and says something else. Of ours the instance
        may have changed some fields, but not all that tell it from others.
        """
        if record["sys_id"].lower() == sys_id:
            return True
        if self._access.follows and record["sys_id"].lower() == self._access.follows.lower():
            return False
        if record.get("correlation_id") == self._access.correlation:
            return True
        if record.get("correlation_id"):
            return False
        display = record.get("correlation_display", "")
        if display:
            return display == sent["correlation_display"]
        mapped = {
            field: value for field, value in sent.items() if value and field in self._rule.fields
        }
        if all(is_kept(record.get(field, ""), value) for field, value in mapped.items()):
            return True
        return not count_of(record) and _resembles(record, mapped)

    def _judge_create(
        self, error: ServiceNowError, sys_id: str, traits: TableTraits, *, recorded: bool
    ) -> None:
        """A POST was not answered by its record. Any 403 may hide a ticket that was made: look at
        its address first."""
        failure = error.failure
        before = self._ticket
        marked = before.pending_write
        if (failure.status == 403 or failure.reason is Reason.WRONG_RECORD) and marked is not None:
            # In doubt until the look has told; the look may fail too.
            self._doubt_create(marked)
            for _ in self._access.looks():
                if self._adopt_at(sys_id, traits, recorded=recorded):
                    return
                if failure.reason in NEVER_WRITTEN:
                    break
            if traits.honours_sys_id is not True:
                if self._adopt_by_mark(sys_id, traits):
                    return
                if failure.reason is Reason.WRONG_RECORD and traits.kept_mark in (
                    KeptMark.UNKNOWN,
                    KeptMark.NONE,
                ):
                    # What was answered may be our ticket, with nothing left of what was sent.
                    marked = replace(marked, unmarked=True)
            if failure.reason is Reason.INSERT_FAILED:
                # Not a duplicate, then: the database failed, or the ticket is hidden from us.
                failure = replace(failure, retryability=Retryability.IN_DOUBT)
        if marked is not None and (
            marked.in_doubt or failure.retryability is Retryability.IN_DOUBT
        ):
            self._doubt_create(marked)
        else:
            self._access.ticket = self._ticket.answered(suspect_until=before.suspect_until)
        error.failure = failure
        raise error

    def _doubt_create(self, marked: PendingWrite) -> None:
        self._access.ticket = self._ticket.create_in_doubt(replace(marked, at=self._access.clock()))

    def _is_ours(self, record: Record, traits: TableTraits) -> bool:
        """Whether the record at an address that is computed of our key alone is our ticket: only
        somebody else's mark says that it is not, and only where the instance keeps ours."""
        mark = record.get("correlation_id", "")
        dropped = traits.kept_mark in (KeptMark.CORRELATION_DISPLAY, KeptMark.NONE)
        return mark in ("", self._access.correlation) or dropped

    def _adopt_at(self, sys_id: str, traits: TableTraits, *, recorded: bool) -> bool:
        """Adopt the ticket at *sys_id* if it is ours; False when there is none. Raises on a
        stranger's."""
        record = self._get_or_none(sys_id)
        if record is None:
            return False
        if not self._is_ours(record, traits):
            self._access.ticket = self._ticket.answered(suspect_until=None)
            raise ServiceNowError(
                Failure(
                    Retryability.PERMANENT,
                    Reason.CONFLICT,
                    "a record that is not ours stands at this ticket's computed sys_id: "
                    "somebody changed its correlation_id, or made it by hand",
                    status=403,
                )
            )
        first = generation = self._ticket.generation
        if generation == 0 and not self._ticket.number:
            # We remember no ticket of this row, be it that the ledger was lost.
            record, generation = self._walk(record, traits)
        self._learn(traits, TableTraits(honours_sys_id=True))
        self._access.ticket = replace(self._ticket, generation=generation)
        # A field ACL may keep the sys_id from us; it is where we looked.
        at = address(self._rule.table, self._access.correlation, generation)
        self._adopt({**record, "sys_id": at}, recorded=recorded and generation == first)
        return True

    def _walk(self, record: Record, traits: TableTraits) -> tuple[Record, int]:
        """The last of the row's tickets that follow *record*, the first one, and its generation."""
        generation = 0
        while generation < GENERATIONS_MAX:
            at = address(self._rule.table, self._access.correlation, generation + 1)
            following = self._get_or_none(at)
            if following is None or not self._is_ours(following, traits):
                break
            # A field ACL may keep the sys_id from us; it is where we looked.
            record, generation = {**following, "sys_id": at}, generation + 1
        return record, generation

    def find_last(self, record: Record) -> tuple[Record, int]:
        """The last of the row's tickets, of which *record* is the first, and its generation."""
        traits = self._access.task.traits
        if traits.honours_sys_id is not False:
            return self._walk(record, traits)
        others = [
            row
            for row in self._find_by_mark()
            if is_sys_id(row.get("sys_id", "")) and row["sys_id"] != record["sys_id"]
        ]
        # Stamps are whole seconds: which one follows which is told by the link.
        followed = {row.get(self._states.link, "") for row in others}
        last = next((row for row in others if row["sys_id"] not in followed), record)
        return last, len(others)

    def _found_by_looking(
        self,
        sys_id: str,
        before: PendingWrite | None,
        traits: TableTraits,
        wants: DesiredState | None,
    ) -> bool:
        """Before a POST is repeated whose address the instance may not honour: look by address,
        then by our mark.

        *wants* is what the row wants by now (None where that cannot be said). Raises IN_DOUBT while
        the first POST may still commit, and PERMANENT where it left nothing to be known by.
        """
        if traits.honours_sys_id is None and self._adopt_at(sys_id, traits, recorded=True):
            return True
        if self._adopt_by_mark(sys_id, traits):
            return True
        if before is not None and before.in_doubt:
            wait = before.at + IN_DOUBT_SECONDS - self._access.clock()
            if wait > 0:
                raise ServiceNowError(
                    Failure(
                        Retryability.IN_DOUBT,
                        Reason.IN_DOUBT,
                        "an earlier create may still commit; it is looked for again "
                        "before anything else",
                        retry_after_seconds=wait,
                    )
                )
            if not self._access.task.replayed and self._is_unmarked(before, traits, wants):
                raise ServiceNowError(
                    Failure(
                        Retryability.PERMANENT,
                        Reason.IN_DOUBT,
                        "the answer to a create was lost, and the instance keeps neither the "
                        "sys_id nor the correlation_id that it is given: see whether the ticket "
                        "was made; if not, replay. Let the integration user write sys_id or "
                        "correlation_id at creation, and it is found by itself",
                    )
                )
        return False

    def _is_unmarked(
        self, before: PendingWrite, traits: TableTraits, wants: DesiredState | None
    ) -> bool:
        """Whether the create *before*, which was not found, may have made a ticket without a mark
        of ours."""
        if before.unmarked or traits.honours_sys_id is True:
            return before.unmarked
        if traits.kept_mark is not KeptMark.UNKNOWN:
            return traits.kept_mark is KeptMark.NONE
        # Nobody knows what the instance keeps: then it shows in a ticket that looks like this one.
        rows = self._access.tables.find(
            self._rule.table,
            "ORDERBYDESCsys_created_on",
            fields=[*self._access.fields, "sys_created_on", "correlation_display"],
            limit=LOOK_ALIKES_MAX,
            deadline=self._access.deadline,
        )
        since = before.at - CLOCKS_APART_SECONDS
        recent = [
            row
            for row in rows
            if (made := instant(row.get("sys_created_on", ""))) and made.timestamp() >= since
        ]
        mapped = wants.fields if wants is not None else {}
        # What the row names by now was made by somebody else.
        named = wants.sys_id if wants is not None else ""
        return any(
            not row.get("correlation_id")
            and not (named and row.get("sys_id", "").lower() == named)
            and (row.get("correlation_display") == CORRELATION_DISPLAY or _resembles(row, mapped))
            for row in recent
        )

    @property
    def is_in_doubt(self) -> bool:
        return (
            not self._ticket.sys_id
            and self._ticket.pending_write is not None
            and self._ticket.pending_write.kind == "create"
            and self._ticket.pending_write.in_doubt
        )

    def settle(self, wants: DesiredState | None = None) -> None:
        """Find out what became of a create in doubt, though the row wants no ticket any more.

        *wants* is as in _found_by_looking. Afterwards the ticket is adopted, or known not to be.
        Raises IN_DOUBT while it may still commit.
        """
        sys_id = address(self._rule.table, self._access.correlation, self._ticket.generation)
        traits = self._access.task.traits
        if traits.honours_sys_id is True and self._adopt_at(sys_id, traits, recorded=True):
            return
        if not self._found_by_looking(sys_id, self._ticket.pending_write, traits, wants):
            self._access.ticket = self._ticket.without_doubt()

    def _adopt_by_mark(self, sys_id: str, traits: TableTraits) -> bool:
        """Adopt the newest ticket that carries this row's mark, other than the one that this one
        follows.

        False when there is none. Raises in doubt where one is found that cannot be asked for.
        """
        ours = self._find_by_mark()
        if previous := self._access.follows:
            ours = self._following(previous, ours)
        if not ours:
            return False
        if not is_sys_id(ours[0].get("sys_id", "")):
            failure = self._access.wrong_record(sys_id, ours[0], writes=True).failure
            hint = (
                "ServiceNow does not tell the sys_id of our own ticket: let the integration "
                "user read sys_id"
            )
            raise ServiceNowError(replace(failure, hint=hint))
        if traits.honours_sys_id is None:
            self._learn(traits, TableTraits(ours[0]["sys_id"].lower() == sys_id))
        self._adopt(ours[0], recorded=self._ticket.pending_write is not None)
        return True

    def _find_by_mark(self) -> list[Record]:
        """The tickets that carry this row's mark, newest first."""
        kept_mark = self._access.task.traits.kept_mark
        if kept_mark is KeptMark.NONE:
            return []
        mark = (
            "correlation_display" if kept_mark is KeptMark.CORRELATION_DISPLAY else "correlation_id"
        )
        rows = self._access.tables.find(
            self._rule.table,
            f"{equals(mark, self._access.correlation)}^ORDERBYDESCsys_created_on",
            fields=[*self._access.fields, "sys_created_on", *self._access.link, mark],
            limit=GENERATIONS_MAX,
            deadline=self._access.deadline,
        )
        # An invalid term would have been dropped and everything returned: every row is checked.
        return [row for row in rows if row.get(mark) == self._access.correlation]

    def _following(self, previous: str, ours: Sequence[Record]) -> list[Record]:
        """Of this row's tickets, newest first, those that follow the ticket *previous*."""
        if any(self._states.link in row for row in ours):
            # Stamps are whole seconds: which one follows which is told by the link.
            return [
                row
                for row in ours
                if row.get("sys_id") != previous and row.get(self._states.link) == previous
            ]
        # The table has no such column: what follows is not older.
        since = next(
            (row.get("sys_created_on", "") for row in ours if row.get("sys_id") == previous), None
        )
        if since is None:
            return []
        return [
            row
            for row in ours
            if row.get("sys_id") != previous and row.get("sys_created_on", "") >= since
        ]

    def _get_or_none(self, sys_id: str) -> Record | None:
        try:
            return self._access.get(sys_id, [*self._access.fields, *self._access.link])
        except ServiceNowError as error:
            if error.failure.reason is Reason.MISSING:
                return None
            if error.failure.retryability is Retryability.PERMANENT:
                raise
            # The POST is in doubt as long as we cannot look.
            error.failure = replace(error.failure, retryability=Retryability.IN_DOUBT)
            raise

    def _adopt(self, record: Record, *, recorded: bool) -> None:
        """Take *record* for this key's ticket. *recorded*: our own record says that we sent it."""
        log.info(
            "adopted a ticket that was made before", extra={"ticket": record.get("number", "")}
        )
        sent = self._ticket.pending_write
        self._access.take(record)
        if recorded or count_of(record) == 0:
            # Nobody has changed it since it was made.
            self._access.remember_creation(record, found=True)
        self._access.looked = True
        # Sent resolved by us: then the row said so, and may be open again since. Without a record
        # of that, nothing is reopened on the word of one event.
        resolved_by_us = recorded and sent is not None and "state" in sent.fields
        ended = self._ticket.state in self._states.ended
        ours = frozenset(sent.fields) if recorded and sent is not None else frozenset()
        # It was sent, so whoever changed it since is not to be overwritten by the same again.
        last_sent = {
            field: values[-1]
            for field, values in self._ticket.sent_values.items()
            if recorded and len(values) == 1 and field != STATE
        }
        made = self._ticket.made(
            left_empty=dict.fromkeys(self._rule.leave_empty - ours, ""),
            row_resolved=resolved_by_us and ended,
        )
        self._access.ticket = replace(made, last_sent=last_sent)

    def _learn(self, known: TableTraits, shown: TableTraits) -> None:
        """Remember what a call has *shown* of the instance, where it is news to *known*; people
        hear of it once."""
        if shown.kept_mark is KeptMark.UNKNOWN:
            shown = replace(shown, kept_mark=known.kept_mark)
        if shown == known:
            return
        if known.honours_sys_id is None or known.kept_mark is KeptMark.UNKNOWN:
            # Another delivery may have learnt it meanwhile.
            known = self._access.ledger.tickets.traits(
                self._access.tables.instance, self._rule.table
            )
            if shown == known:
                return
        self._access.task.traits = shown
        self._access.ledger.tickets.learn_traits(
            self._access.tables.instance, self._rule.table, shown
        )
        if shown.honours_sys_id is False and known.honours_sys_id is not False:
            log.warning(
                "the ServiceNow instance does not honour the sys_id it is given (an ACL on "
                "sys_id?): tickets are found by correlation_id instead, and a create in doubt is "
                "not repeated for 60 s"
            )
        if (
            shown.kept_mark in (KeptMark.CORRELATION_DISPLAY, KeptMark.NONE)
            and shown.kept_mark is not known.kept_mark
        ):
            log.warning(
                "the ServiceNow instance does not keep the correlation_id it is "
                "given (an ACL, a rule?)"
            )
            self._access.task.mismatched_fields |= {"correlation_id"}
