"""The entries of a ticket's journals are given to the app."""

import time
from collections.abc import Sequence
from dataclasses import replace

from function.connection.active import Connection
from function.core.event import Op
from function.core.outcome import NotDone, Reason, Retryability, Status
from function.core.values import instant
from function.deadline import Deadline
from function.inbound.app_update import AppUpdate, outcome_of
from function.inbound.held_ticket import HeldTicket
from function.inbound.journal import (
    COMMIT_SECONDS,
    ENTRIES_MAX,
    NOTED_MAX,
    JournalMark,
    base_mark,
    is_own,
    plan_entry,
    read_entries,
    read_entry,
)
from function.inbound.plan import RuleWork, TicketLook
from function.ledger.records import Shadow
from function.rules.model import Rule, TicketSource
from function.servicenow import Record, ServiceNowError
from function.targets.ticket.access import count_of


class JournalSync:
    """Gives the app what people have written on the ticket *held*, by *update*."""

    def __init__(
        self,
        connection: Connection,
        held: HeldTicket,
        update: AppUpdate,
        *,
        deadline: Deadline,
    ) -> None:
        self._connection = connection
        self._ticket = held
        self._update = update
        self._deadline = deadline
        # Whether there are entries that were not read yet.
        self.more_follow = False

    def find_unread(self, look: TicketLook, *, push: bool) -> list[tuple[Rule, TicketSource]]:
        """The rules that hear of a journal which may have entries that they have not read. Raises
        NotDone."""
        count = count_of(look.values)
        unread = []
        for rule in self._ticket.rules:
            source = rule.ticket_source
            if source is None or not source.journal or look.gone:
                continue
            mark = self._mark(rule, look, push=push)
            is_read = mark is not None and mark.count == count
            if not is_read and self._is_meant(source, look):
                unread.append((rule, source))
        return unread

    def _is_meant(self, source: TicketSource, look: TicketLook) -> bool:
        """Whether the journal is one that a rule hears of. Raises NotDone, but for a filter that is
        refused: that holds back no other rule."""
        if not source.query:
            return look.is_ours
        try:
            return self._ticket.matches(source.query)
        except ServiceNowError as error:
            if error.failure.retryability is not Retryability.PERMANENT:
                raise
            self._update.fail_look(error, key=source.journal, release=False)
            return False

    def begin_new(self, works: Sequence[RuleWork], look: TicketLook) -> list[Shadow]:
        """The journals' shadows of a ticket that becomes a row: it is told from the beginning, once
        it is linked."""
        known = {shadow.rule for shadow in self._ticket.shadows}
        is_new = any(work.op is Op.INSERT and work.mutation is not None for work in works)
        if look.is_ours or not is_new:
            return []
        return [
            Shadow(rule.id, look.sys_id)
            for rule in self._ticket.rules
            if rule.ticket_source and rule.ticket_source.journal and rule.id not in known
        ]

    def give(self, rule: Rule, source: TicketSource, look: TicketLook, *, push: bool) -> None:
        """Give the app the entries that it has not. Raises LeaseLost."""
        mark = self._mark(rule, look, push=push)
        seen = mark or JournalMark(at=look.values.get("sys_updated_on", ""))
        shadow = self._shadow(rule)
        limit = ENTRIES_MAX if mark is not None else NOTED_MAX
        try:
            entries, complete = self._read(source, seen, limit, look)
        except NotDone as error:
            self._update.fail_look(error, key=source.journal, release=False)
            return
        for entry in entries:
            if entry["sys_id"] in seen.ids:
                continue
            if mark is not None and not is_own(entry, self._connection.username):
                work = plan_entry(rule, source, shadow, seen, entry, look, now=self._ticket.now)
                given = self._give_entry(work, look)
                if given is None:
                    complete = False
                    break
                shadow = given
            seen = seen.read(entry)
            shadow = replace(shadow, journal=seen.write())
        else:
            self.more_follow |= not complete
        if complete:
            seen = seen.finished(entries, self._count_read(look))
        noted = [replace(shadow, journal=seen.write())]
        self._update.give(
            (),
            noted,
            look,
            settled=lambda one: complete and one.key == source.journal,
            release=False,
        )

    def give_again(self, rule: Rule, source: TicketSource, entry_id: str, look: TicketLook) -> None:
        """Give the app one entry; how far the journal was read stays as it is. Raises NotDone
        before anything is given, LeaseLost."""
        entry = read_entry(
            self._connection, look.sys_id, source.journal, entry_id, deadline=self._deadline
        )
        shadow = self._shadow(rule)
        works: list[RuleWork] = []
        if entry is not None:
            now = self._ticket.now
            work = plan_entry(rule, source, shadow, JournalMark(), entry, look, now=now)
            work = replace(work, intended=shadow, given=shadow, given_up=shadow)
            works = [work] if work.to_be_done else []
        self._update.give(works, (), look, settled=lambda one: one.key == entry_id, release=False)

    def _read(
        self, source: TicketSource, seen: JournalMark, limit: int, look: TicketLook
    ) -> tuple[list[Record], bool]:
        """Raises NotDone."""
        return read_entries(
            self._connection,
            look.sys_id,
            source.journal,
            seen,
            limit=limit,
            deadline=self._deadline,
        )

    def _count_read(self, look: TicketLook) -> int:
        """The count of changes up to which the journal was read: none while an entry may still
        appear, for reads may lag behind."""
        at = instant(look.values.get("sys_updated_on", ""))
        if at is not None and time.time() - at.timestamp() < COMMIT_SECONDS:
            return -1
        return count_of(look.values) or 0

    def _give_entry(self, work: RuleWork, look: TicketLook) -> Shadow | None:
        """The shadow once the app has the entry, or never will; None where the next ones wait for
        it. Raises LeaseLost."""
        if not work.to_be_done:
            if work.skipped is Reason.WHEN_FALSE:
                return work.base
            self._update.outcomes.append(outcome_of(work, look, Status.SKIPPED, work.skipped))
            return None
        [attempt] = self._update.give([work], (), look, release=False)
        return None if attempt.outcome.status is Status.RETRYING else attempt.shadow

    def _mark(self, rule: Rule, look: TicketLook, *, push: bool) -> JournalMark | None:
        known = {shadow.rule: shadow for shadow in self._ticket.shadows}
        return base_mark(rule, known, look, push=push)

    def _shadow(self, rule: Rule) -> Shadow:
        shadows = (shadow for shadow in self._ticket.shadows if shadow.rule == rule.id)
        return next(shadows, Shadow(rule.id, self._ticket.sys_id))
