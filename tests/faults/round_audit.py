"""What is true of a two-way site at rest, after edits on both sides since it was at rest last.

Rows and tickets are compared as they are; what was sent, answered and recorded in between is not
asked. Where one side alone has edited a field since, that side's last value stands on both.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from tests.faults.audit import chain_generations
from tests.faults.two_way_site import TwoWaySite

Row: TypeAlias = Mapping[str, Any]
Ticket: TypeAlias = Mapping[str, str]

IMPACTS: Final = {"critical": "1", "major": "2", "minor": "3"}
SEVERITIES: Final = {impact: severity for severity, impact in IMPACTS.items()}
STATUSES: Final = {
    "1": "open",
    "2": "in progress",
    "3": "in progress",
    "6": "fixed",
    "7": "fixed",
    "8": "fixed",
}
ENDED: Final = ("6", "7", "8")
FINAL: Final = ("7", "8")


@dataclass(frozen=True)
class Edit:
    """What one side made of one field. *of* is the row's id, or the ticket's sys_id where a person
    edited; *name* is the row's column, *value* as that side has it."""

    of: str
    name: str
    value: str


@dataclass(frozen=True)
class Picture:
    """Both sides at one time. *names* are those of users, by sys_id; *comments* those of the app,
    *entries* those of the tickets' journals."""

    rows: Mapping[int, Row]
    tickets: Mapping[str, Ticket]
    names: Mapping[str, str]
    comments: Sequence[Row]
    entries: Sequence[Ticket]

    def generations(self, id: int) -> list[Ticket]:
        mark = f"shop:outage:{id}"
        return [one for one in self.tickets.values() if one["correlation_id"] == mark]


@dataclass
class RoundAudit:
    """What is wrong, a sentence for each case."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.lost) + len(self.duplicated) + len(self.unequal)

    def add(self, other: "RoundAudit") -> None:
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.unequal += other.unequal


def take_picture(site: TwoWaySite) -> Picture:
    return Picture(
        {row["id"]: row for row in site.sql("SELECT * FROM outages ORDER BY id")},
        {row["sys_id"]: row for row in site.servicenow.rows("incident")},
        {row["sys_id"]: row["name"] for row in site.servicenow.rows("sys_user")},
        site.sql("SELECT * FROM outage_comments ORDER BY id"),
        site.servicenow.rows("sys_journal_field"),
    )


def audit_round(
    before: Picture,
    after: Picture,
    edits: Sequence[Edit],
    *,
    born: Iterable[str],
    adopts: bool,
    notes: bool,
) -> RoundAudit:
    """Compare all rows and tickets. *born* are the tickets that began in ServiceNow. *adopts*:
    their rows take them. *notes*: the app's comments reach the tickets."""
    found = RoundAudit()
    current: dict[str, int] = {}
    for id, row in after.rows.items():
        chain = chain_generations([dict(one) for one in after.generations(id)])
        if not chain:
            what = "no ticket" if chain is not None else "tickets that are no generations"
            (found.lost if chain is not None else found.duplicated).append(f"row {id} has {what}")
            continue
        if any(earlier["state"] not in FINAL for earlier in chain[:-1]):
            found.duplicated.append(f"row {id} has a ticket after one that was not closed")
        current[chain[-1]["sys_id"]] = id
        pair = _Pair(id, before, after, edits, chain)
        pair.audit(found)
        if adopts and row["servicenow_sys_id"] and row["servicenow_sys_id"] != chain[0]["sys_id"]:
            found.duplicated.append(f"row {id} has another ticket than the one that it began as")
    _audit_born(found, after, born)
    _audit_comments(found, after, edits, current, notes=notes)
    return found


def _audit_born(found: RoundAudit, after: Picture, born: Iterable[str]) -> None:
    rows = Counter(row["servicenow_sys_id"] for row in after.rows.values())
    found.lost += [
        f"{sys_id}, born in ServiceNow, has no row" for sys_id in born if not rows[sys_id]
    ]


def _audit_comments(
    found: RoundAudit,
    after: Picture,
    edits: Sequence[Edit],
    current: Mapping[str, int],
    *,
    notes: bool,
) -> None:
    """Each comment stands once on each side. One on a ticket that another has followed may not have
    come."""
    written = [edit for edit in edits if edit.name == "comment"]
    in_app = Counter((row["outage_id"], row["body"]) for row in after.comments)
    texts = [entry["value"] for entry in after.entries if entry["element"] == "comments"]
    for edit in written:
        by_person = edit.of in after.tickets
        id = current.get(edit.of) if by_person else int(edit.of)
        inside = sum(count for (_, body), count in in_app.items() if edit.value in body)
        outside = sum(edit.value in text for text in texts)
        if inside > 1 or outside > 1:
            found.duplicated.append(f"{edit} stands {inside} times inside, {outside} outside")
        elif by_person and id is not None and in_app[id, edit.value] != 1:
            found.lost.append(f"{edit} did not come to row {id}")
        elif notes and not by_person and outside != 1:
            found.lost.append(f"{edit} did not come to the ticket")


class _Pair:
    """A row and its newest ticket."""

    def __init__(
        self,
        id: int,
        before: Picture,
        after: Picture,
        edits: Sequence[Edit],
        chain: Sequence[Ticket],
    ) -> None:
        self._id = id
        self._row, self._ticket = after.rows[id], chain[-1]
        self._row_before = before.rows.get(id)
        self._ticket_before = before.tickets.get(self._ticket["sys_id"])
        self._names = after.names
        earlier = {ticket["sys_id"] for ticket in chain[:-1]}
        self._app = [edit for edit in edits if edit.of == str(id)]
        self._person = [edit for edit in edits if edit.of == self._ticket["sys_id"]]
        # Of a ticket that was followed by another one meanwhile.
        self._strays = [edit for edit in edits if edit.of in earlier]

    def audit(self, found: RoundAudit) -> None:
        self._audit_mapped(found, "title", _show_title)
        self._audit_mapped(found, "severity", _show_severity)
        self._audit_status(found)
        self._audit_one_way(found)

    def _values(self, edits: Sequence[Edit], name: str) -> list[str]:
        return [edit.value for edit in edits if edit.name == name]

    def _before(self, name: str) -> object:
        return self._row_before and self._row_before[name]

    def _is_untouched(self, name: str) -> bool:
        """Whether nobody has edited it, of a row that was there before."""
        everybody = (*self._app, *self._person, *self._strays)
        return self._row_before is not None and not self._values(everybody, name)

    @property
    def _is_final(self) -> bool:
        """People closed it: what the app says then does not reach it any more."""
        return self._ticket["state"] in FINAL

    def _audit_mapped(self, found: RoundAudit, name: str, show: Callable[[Ticket], str]) -> None:
        """A field that is mapped both ways. *show*: what a ticket says, as the app has it."""
        app, person = self._values(self._app, name), self._values(self._person, name)
        shown, before = show(self._ticket), self._ticket_before
        # From one value to another and back is no change to whoever looks afterwards.
        changed = person and (before is None or show(before) != shown)
        strays = self._values(self._strays, name)
        wrong = self._wrong(name, shown, app, person)
        if self._row[name] != shown:
            if not self._is_final or (changed and not app):
                found.unequal.append(wrong)
        elif edited := {*app[-1:], *person[-1:]}:
            if self._row[name] not in {*edited, *strays}:
                found.lost.append(wrong)
        elif strays:
            # It came before the next ticket was created, or not at all.
            if self._row[name] not in {*strays, self._before(name)}:
                found.lost.append(wrong)
        elif self._is_untouched(name) and self._row[name] != self._before(name):
            found.lost.append(wrong)

    def _audit_status(self, found: RoundAudit) -> None:
        app, person = self._values(self._app, "status"), self._values(self._person, "status")
        status, state = self._row["status"], self._ticket["state"]
        wrong = self._wrong("status", state, app, person)
        before = self._ticket_before
        if (status == "fixed") != (state in ENDED):
            found.unequal.append(wrong)
        elif app and not person:
            if status != app[-1] and not self._values(self._strays, "status"):
                found.lost.append(wrong)
        elif person and not app:
            told = before is None or before["state"] != state
            if state != person[-1] or (told and status != STATUSES[state]):
                found.lost.append(wrong)
        elif self._is_untouched("status") and status != self._before("status"):
            found.lost.append(wrong)

    def _audit_one_way(self, found: RoundAudit) -> None:
        """What one side alone says."""
        row, ticket = self._row, self._ticket
        if row["ticket_number"] != ticket["number"]:
            found.unequal.append(self._wrong("ticket_number", ticket["number"], [], []))
        details = self._values(self._app, "details")
        if ticket["description"] != (row["details"] or "") and not self._is_final:
            found.unequal.append(self._wrong("details", ticket["description"], details, []))
        assigned = self._values(self._person, "assignee")
        if assigned and row["assignee"] != (self._names.get(ticket["assigned_to"]) or None):
            found.unequal.append(self._wrong("assignee", ticket["assigned_to"], [], assigned))
        person = self._values(self._person, "resolution")
        app = [edit.value for edit in self._app if edit.name in ("resolution", "status")]
        if person and not app and not row["resolution"] == ticket["close_notes"] == person[-1]:
            found.lost.append(self._wrong("resolution", ticket["close_notes"], app, person))
        if self._values(self._app, "resolution") and not (person or self._strays):
            said = self._values(self._app, "resolution")
            if row["resolution"] != said[-1]:
                found.lost.append(self._wrong("resolution", ticket["close_notes"], said, person))

    def _wrong(self, name: str, shown: str, app: Sequence[str], person: Sequence[str]) -> str:
        return (
            f"row {self._id}, {self._ticket['number']} ({self._ticket['state']}): {name} is "
            f"{self._row[name]!r} and {shown!r}, was {self._before(name)!r}; the app said "
            f"{list(app)}, people {list(person)}, "
            f"on earlier tickets {self._values(self._strays, name)}"
        )


def _show_title(ticket: Ticket) -> str:
    return ticket["short_description"]


def _show_severity(ticket: Ticket) -> str:
    return SEVERITIES.get(ticket["impact"], ticket["impact"])
