"""The comments and work notes of a ticket, as they come to the app: each entry once, by its id,
oldest first."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Self

from function.connection.active import Connection
from function.core.event import Op
from function.core.outcome import Failure, Reason, Retryability
from function.core.values import instant
from function.deadline import Deadline
from function.inbound.plan import (
    UPDATES_SECONDS,
    RuleWork,
    TicketLook,
    count_update,
    decided,
    too_many,
)
from function.ledger.records import Shadow
from function.rules.model import Rule, TicketSource
from function.rules.ticket_change import TicketChange, evaluate_change
from function.servicenow import Record, ServiceNowError, equals

ENTRY_COLUMNS: Final = (
    "element",
    "element_id",
    "name",
    "value",
    "sys_created_on",
    "sys_created_by",
)
# A transaction is stamped before it commits: an entry may appear behind one with a later stamp.
COMMIT_SECONDS: Final = 120
# A time in a query is read in the time zone of whoever asks; no zone is further from GMT.
ZONE_SECONDS: Final = 14 * 3600
# In one look; more follow in the next.
ENTRIES_MAX: Final = 500
# Of those that are only noted, all of two minutes.
NOTED_MAX: Final = 5000
# What this function writes ends so (targets/note).
MARKER: Final = re.compile(r"\[hasura:[0-9a-f]{16}\]", re.ASCII)
_STAMP: Final = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True, slots=True)
class JournalMark:
    """How far a rule has read a ticket's journal: all entries until *at* (as ServiceNow stamps
    them, "" for none), and those with *ids*, which are of late. *count* is the ticket's count of
    changes when all was read."""

    at: str = ""
    ids: tuple[str, ...] = ()
    count: int = -1

    @classmethod
    def parse(cls, written: str) -> Self:
        if not written:
            return cls()
        try:
            read = json.loads(written)
            return cls(str(read["at"]), tuple(read["ids"]), int(read["count"]))
        except (ValueError, TypeError, KeyError):
            # A later version's: each entry is given again, which does no harm.
            return cls()

    def write(self) -> str:
        return json.dumps({"at": self.at, "ids": list(self.ids), "count": self.count})

    @property
    def since(self) -> str:
        """From when entries are read; "" for all."""
        return _earlier(self.at, COMMIT_SECONDS)

    @property
    def asked_since(self) -> str:
        """From when they are asked for, in whatever zone."""
        return _earlier(self.at, COMMIT_SECONDS + ZONE_SECONDS)

    def read(self, entry: Record) -> "JournalMark":
        """The mark once *entry* was given to the app, or is not to be."""
        return replace(
            self, at=max(self.at, entry.get("sys_created_on", "")), ids=(*self.ids, entry["sys_id"])
        )

    def finished(self, entries: Sequence[Record], count: int) -> "JournalMark":
        """The mark once all of *entries*, which are of late, were read."""
        late = {
            entry["sys_id"] for entry in entries if entry.get("sys_created_on", "") >= self.since
        }
        return JournalMark(
            self.at, tuple(identity for identity in self.ids if identity in late), count
        )


def _earlier(stamp: str, seconds: int) -> str:
    try:
        at = datetime.strptime(stamp, _STAMP)  # noqa: DTZ007  # ServiceNow's are UTC, and so is what is asked
    except ValueError:
        return ""
    return (at - timedelta(seconds=seconds)).strftime(_STAMP)


def read_entries(
    connection: Connection,
    sys_id: str,
    journal: str,
    mark: JournalMark,
    *,
    limit: int,
    deadline: Deadline,
) -> tuple[list[Record], bool]:
    """The entries of the ticket's *journal* since *mark*, oldest first, *limit* and those of the
    mark at most, and whether that is all of them. Raises ServiceNowError."""
    limit += len(mark.ids)
    since = f"^sys_created_on>={mark.asked_since}" if mark.asked_since else ""
    rows = connection.tables.find(
        "sys_journal_field",
        f"{equals('element_id', sys_id)}^{equals('element', journal)}{since}"
        "^ORDERBYsys_created_on^ORDERBYsys_id",
        fields=ENTRY_COLUMNS,
        limit=limit,
        deadline=deadline,
    )
    for row in rows:
        if row.get("element_id") != sys_id or row.get("element") != journal:
            # A term that it does not understand, ServiceNow leaves out.
            raise ServiceNowError(_OTHERS)
    fresh = [row for row in rows if row.get("sys_created_on", "") >= mark.since]
    if len(rows) == limit and not fresh:
        raise ServiceNowError(_TOO_MANY)
    oldest_first = sorted(fresh, key=lambda row: (row.get("sys_created_on", ""), row["sys_id"]))
    return oldest_first, len(rows) < limit


def read_entry(
    connection: Connection, sys_id: str, journal: str, entry_id: str, *, deadline: Deadline
) -> Record | None:
    """One entry of the ticket's *journal*; None where it is not there any more. Raises
    ServiceNowError."""
    rows = connection.tables.find(
        "sys_journal_field",
        f"{equals('sys_id', entry_id)}^{equals('element_id', sys_id)}",
        fields=ENTRY_COLUMNS,
        limit=1,
        deadline=deadline,
    )
    found = [row for row in rows if row["sys_id"] == entry_id and row.get("element") == journal]
    return found[0] if found else None


def is_own(entry: Record, username: str) -> bool:
    """Whether we wrote *entry*: by our marker, where *username* is who we are. A person who uses
    the account writes none, and one who quotes us has another name."""
    written_by_us = not username or entry.get("sys_created_by", "") == username
    return written_by_us and MARKER.search(entry.get("value", "")) is not None


def base_mark(
    rule: Rule, known: Mapping[str, Shadow], look: TicketLook, *, push: bool
) -> JournalMark | None:
    """How far *rule* has read; None where what is there is only noted, as columns are (see
    base_shadow)."""
    shadow = known.get(rule.id)
    if shadow is not None:
        return JournalMark() if push else JournalMark.parse(shadow.journal)
    others = [shadow for shadow in known.values() if not shadow.awaits_insert]
    return JournalMark() if push or not (others or look.is_ours) else None


def plan_entry(
    rule: Rule,
    source: TicketSource,
    shadow: Shadow,
    mark: JournalMark,
    entry: Record,
    look: TicketLook,
    *,
    now: float,
) -> RuleWork:
    """What *rule* makes of *entry*. *shadow* is as it is with *mark*, *now* UNIX seconds by the
    ledger's clock."""
    read = replace(shadow, journal=mark.read(entry).write())
    # What was written long ago answers nothing.
    at = instant(entry.get("sys_created_on", ""))
    is_recent = at is not None and now - at.timestamp() < UPDATES_SECONDS
    given, key = count_update(read, now) if is_recent else read, entry["sys_id"]
    work = RuleWork(rule, Op.INSERT, key, source.columns, shadow, shadow, given, read)
    if is_recent and (failure := too_many(shadow, now)):
        return decided(work, failure)
    change = TicketChange(
        Op.INSERT,
        look.table,
        look.sys_id,
        look.number,
        {name: entry.get(name, "") for name in ("sys_id", *ENTRY_COLUMNS)},
        changed=source.columns,
        link=look.link,
        is_new=True,
    )
    decision = evaluate_change(rule, change)
    return decided(work, Reason.WHEN_FALSE if decision is None else decision)


_TOO_MANY: Final = Failure(
    Retryability.PERMANENT,
    Reason.BAD_ANSWER,
    "the ticket's journal has more entries of half a day than are read at one time",
)
_OTHERS: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BAD_ANSWER,
    "ServiceNow's journal answered with other entries than were asked for: let the integration "
    "user read sys_journal_field",
)
