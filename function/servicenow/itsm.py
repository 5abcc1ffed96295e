"""Incidents and change requests by the words that operators use, on top of the Table API
(client.py).

with ServiceNowClient("dev12345", username="svc.app", password=password) as servicenow:
    incident = servicenow.create_incident("Checkout is down", urgency="High",
    assignment_group="Network")
    servicenow.add_work_note(incident["number"], "Restarted.", key="restart-1")
    servicenow.resolve_incident(incident["number"], close_code="Solution provided",
    close_notes="Restarted.")
"""

import logging
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from function.core.outcome import Failure, Reason, Retryability
from function.core.values import digest
from function.servicenow.client import TableClient
from function.servicenow.errors import (
    InDoubt,
    InvalidArgument,
    NotFound,
    Refused,
    ServiceNowError,
    UnknownReference,
    doing,
)
from function.servicenow.fields import (
    CANCELED,
    CHANGE,
    CLOSED,
    IN_PROGRESS,
    INCIDENT,
    LISTS,
    MAILED,
    NAMED,
    NOTED,
    RESOLVED,
    UNNAMED,
    Condition,
    TicketTable,
    Value,
    Values,
    by_column,
    check_names,
    conditions,
    is_custom,
    spelled,
    table_of,
    written,
)
from function.servicenow.journal import FIELDS as JOURNAL_FIELDS
from function.servicenow.journal import ROWS_MAX as JOURNAL_ROWS_MAX
from function.servicenow.journal import TABLE as JOURNAL_TABLE
from function.servicenow.journal import entries_query, mark_text, marked_entries, marker_of
from function.servicenow.references import References
from function.servicenow.responses import Record, equals
from function.servicenow.search import FoundRecords, Search, records
from function.servicenow.values import SYS_ID

log = logging.getLogger("function.servicenow")

_ADDRESS = re.compile(r"[^@\s,]+@[^@\s,]+")


class ServiceNowClient(TableClient):
    """Incidents, change requests and their notes; and any table, by what TableClient has.

    A record is named by its number or sys_id, as the first argument or as ``number=`` or
    ``sys_id=``. Whatever else a column refers to (groups, users, configuration items, companies,
    other tickets) is given by its name or sys_id, and looked up first: ServiceNow would store a
    name as nothing. Choices are given by value or label: ``state="New"``. A name that Python uses
    otherwise may have an underscore behind it: ``type_``. Records come back as text, field by field
    as ServiceNow keeps it: references as sys_ids, times in UTC. Whatever is wrong with the
    arguments is an InvalidArgument before anything is written, and mostly before any call. Every
    error is a ServiceNowError, of a kind that says whose fault it is (errors.py). Nothing is tried
    twice.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Incidents

    def create_incident(
        self,
        /,
        short_description: str,
        description: Value = None,
        *,
        impact: Value = 3,
        urgency: Value = 3,
        category: Value = None,
        subcategory: Value = None,
        assignment_group: Value = None,
        assigned_to: Value = None,
        caller_id: Value = None,
        cmdb_ci: Value = None,
        business_service: Value = None,
        correlation_id: Value = None,
        sys_id: str | None = None,
        **fields: Value,
    ) -> Record:
        """Open an incident, and return it. Other fields by their names; None and "" are not sent.

        It is sent with a sys_id of its own, so an answer that is lost is settled by looking. Where
        looking does not help either (InDoubt), the same call with *sys_id* set to the error's makes
        it once, as far as the instance honours a given sys_id.
        """
        named = {
            "short_description": short_description,
            "description": description,
            "impact": impact,
            "urgency": urgency,
            "category": category,
            "subcategory": subcategory,
            "assignment_group": assignment_group,
            "assigned_to": assigned_to,
            "caller_id": caller_id,
            "cmdb_ci": cmdb_ci,
            "business_service": business_service,
            "correlation_id": correlation_id,
        }
        return self._create(INCIDENT, named | fields, sys_id)

    def get_incident(
        self,
        number_or_sys_id: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        fields: Sequence[str] = INCIDENT.returned,
    ) -> Record:
        """The incident. Raises NotFound."""
        with doing("getting an incident"):
            return self._look(INCIDENT, _only(number_or_sys_id, number, sys_id), fields)

    def update_incident(
        self,
        /,
        number_or_sys_id: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        **fields: Value,
    ) -> Record:
        """Change some fields, and return the incident as it is then. "" empties a field, None
        leaves it alone."""
        return self._update(INCIDENT, (number_or_sys_id, number, sys_id), fields)

    def search_incidents(
        self,
        /,
        *,
        state: Values = None,
        assignment_group: Values = None,
        assigned_to: Values = None,
        caller_id: Values = None,
        priority: Values = None,
        category: Values = None,
        correlation_id: Values = None,
        active: bool | None = None,
        opened_after: Value = None,
        opened_before: Value = None,
        updated_after: Value = None,
        updated_before: Value = None,
        fields: Sequence[str] = INCIDENT.returned,
        limit: int | None = None,
        order_by: str = "number",
        **others: Values,
    ) -> FoundRecords:
        """The incidents that are all of this, one page in memory at a time; other fields by their
        names.

        A list of values means any of them, "" means empty, None is no condition. Times are strictly
        after and before, to the second. *order_by* is number, sys_id, opened_at, sys_created_on,
        sys_updated_on or priority; ``-number`` begins with the last. Each incident that is there
        all the time comes once, whatever is inserted meanwhile; one that changes its place in the
        order meanwhile may come twice or not at all. Bad arguments and unknown names are raised
        here, what befalls a page where it is read. It is an iterator, whose ``len`` is how many
        were found, and which is false where none was.
        """
        named = {
            "state": state,
            "assignment_group": assignment_group,
            "assigned_to": assigned_to,
            "caller_id": caller_id,
            "priority": priority,
            "category": category,
            "correlation_id": correlation_id,
            "active": active,
        }
        times = (
            ("opened_at", ">", "opened_after", opened_after),
            ("opened_at", "<", "opened_before", opened_before),
            ("sys_updated_on", ">", "updated_after", updated_after),
            ("sys_updated_on", "<", "updated_before", updated_before),
        )
        with doing("searching incidents"):
            if limit is not None and limit < 1:
                raise InvalidArgument("limit must be 1 or more, or None for all")
            check_names(INCIDENT, fields)
            moments = []
            for column, operator, argument, moment in times:
                if moment == "":
                    raise InvalidArgument(f"{argument} needs a time, or None for any")
                if moment is not None:
                    given = spelled(INCIDENT, column, moment)
                    moments.append(Condition(column, ">" if operator == ">" else "<", (given,)))
            asked = conditions(INCIDENT, by_column(INCIDENT, named | others))
            search = Search.by([*asked, *moments], order_by)  # before a call, what cannot be asked
            columns = [*fields, *(condition.column for condition in search.conditions)]
            self._check_custom(INCIDENT, [column for column in columns if is_custom(column)])
            search = Search.by([*map(self._by_sys_id, asked), *moments], order_by)
        return FoundRecords(self._records(INCIDENT, search, fields, limit))

    def resolve_incident(
        self,
        number_or_sys_id: str | None = None,
        close_code: str = "",
        close_notes: str = "",
        *,
        number: str | None = None,
        sys_id: str | None = None,
    ) -> Record:
        """Resolve it, and return it; one that is resolved or closed already is left as it is.

        Which close codes there are depends on the instance's release: ``sys_choice`` has them. Both
        are needed.
        """
        with doing("resolving an incident"):
            closing = _closing(close_code, close_notes)
            known = self._look(INCIDENT, _only(number_or_sys_id, number, sys_id), INCIDENT.returned)
            if known["state"] in {RESOLVED, CLOSED}:
                return known
            _not_canceled(known)
            return self._change(INCIDENT, known["sys_id"], {"state": RESOLVED} | closing)

    def close_incident(
        self,
        number_or_sys_id: str | None = None,
        close_code: str = "",
        close_notes: str = "",
        *,
        number: str | None = None,
        sys_id: str | None = None,
        resolve_first: bool = False,
    ) -> Record:
        """Close it, which is final, and return it; one that is closed already is left as it is.

        An instance whose rules or policies refuse to close what is not resolved is obeyed: resolve,
        then close. *resolve_first* does not try without, so that resolved_at is set. Closing
        usually needs the role itil_admin: where that is missing, NotAuthorized is raised, and the
        incident may be resolved by then.
        """
        with doing("closing an incident"):
            closing = _closing(close_code, close_notes)
            known = self._look(INCIDENT, _only(number_or_sys_id, number, sys_id), INCIDENT.returned)
            if known["state"] == CLOSED:
                return known
            _not_canceled(known)
            resolved = known["state"] == RESOLVED
            if not resolved and not resolve_first:
                try:
                    return self._change(INCIDENT, known["sys_id"], {"state": CLOSED} | closing)
                except Refused as refused:
                    if refused.failure.reason not in {Reason.BUSINESS_RULE, Reason.DATA_POLICY}:
                        raise
            if not resolved:
                self._change(INCIDENT, known["sys_id"], {"state": RESOLVED} | closing)
            return self._change(INCIDENT, known["sys_id"], {"state": CLOSED} | closing)

    def reopen_incident(
        self,
        number_or_sys_id: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
    ) -> Record:
        """Take a resolved incident up again, and return it; one that is open is left as it is.
        Closed is final."""
        with doing("reopening an incident"):
            known = self._look(INCIDENT, _only(number_or_sys_id, number, sys_id), INCIDENT.returned)
            if known["state"] in {CLOSED, CANCELED}:
                raise _final(
                    "closed or canceled, which is final: open another one with "
                    "parent_incident set to it"
                )
            if known["state"] != RESOLVED:
                return known
            return self._change(INCIDENT, known["sys_id"], {"state": IN_PROGRESS})

    # Notes

    def add_work_note(
        self,
        number_or_sys_id: str | None = None,
        text: str | None = None,
        work_note: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        table: str | None = None,
        work_notes: str | None = None,
        key: str | None = None,
    ) -> bool:
        """Append a note that only agents see. False: it was there already.

        The note is *text*, *work_note* or *work_notes*. *table* is any of tickets; without it a
        number tells (CHG…: a change request), and what does not tell is an incident's. (Three
        arguments without names are table, record and note.)

        A note is appended each time it is sent. With a *key*, it carries a short marker, and the
        journal is asked for that first, and again when no answer tells what became of it; so the
        same call may be repeated after InDoubt, once 60 s have passed, in which ServiceNow may
        still append it. Needs read on ``sys_journal_field``; two callers must not use one key at
        the same time.
        """
        note = _Note("work_notes", (text, work_note, work_notes), table=table, key=key)
        return self._append(note, (number_or_sys_id, number, sys_id))

    def add_comment(
        self,
        number_or_sys_id: str | None = None,
        text: str | None = None,
        comment: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        table: str | None = None,
        comments: str | None = None,
        key: str | None = None,
    ) -> bool:
        """Append a comment, which the caller sees too (and is mailed). Everything else is as for
        add_work_note."""
        note = _Note("comments", (text, comment, comments), table=table, key=key)
        return self._append(note, (number_or_sys_id, number, sys_id))

    # Change requests

    def create_change_request(
        self,
        /,
        short_description: str,
        description: Value = None,
        *,
        type: str | None = None,  # the field's name
        type_: str | None = None,
        risk: Value = None,
        impact: Value = 3,
        template: str | None = None,
        category: Value = None,
        assignment_group: Value = None,
        assigned_to: Value = None,
        requested_by: Value = None,
        cmdb_ci: Value = None,
        business_service: Value = None,
        justification: Value = None,
        implementation_plan: Value = None,
        backout_plan: Value = None,
        test_plan: Value = None,
        start_date: Value = None,
        end_date: Value = None,
        correlation_id: Value = None,
        sys_id: str | None = None,
        **fields: Value,
    ) -> Record:
        """Open a change request, and return it. *type*, or *type_*, is normal (unless said),
        standard or emergency.

        A standard change is made from a *template*: the name or sys_id of a
        ``std_change_producer_version``. All else, *sys_id* too, is as for create_incident.
        """
        with doing(f"creating {CHANGE.called}"):
            kind = spelled(
                CHANGE,
                "type",
                by_column(CHANGE, {"type": type, "type_": type_})["type"] or "normal",
            )
            if (kind == "standard") != bool(template):
                raise InvalidArgument(
                    "a standard change needs a template, and no other change takes one"
                )
        named = {
            "short_description": short_description,
            "type": kind,
            # Since Quebec the model decides which states follow which; those that ship are named as
            # the types.
            "chg_model": kind,
            "description": description,
            "risk": risk,
            "impact": impact,
            "std_change_producer_version": template,
            "category": category,
            "assignment_group": assignment_group,
            "assigned_to": assigned_to,
            "requested_by": requested_by,
            "cmdb_ci": cmdb_ci,
            "business_service": business_service,
            "justification": justification,
            "implementation_plan": implementation_plan,
            "backout_plan": backout_plan,
            "test_plan": test_plan,
            "start_date": start_date,
            "end_date": end_date,
            "correlation_id": correlation_id,
        }
        return self._create(CHANGE, named | fields, sys_id)

    def get_change_request(
        self,
        number_or_sys_id: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        fields: Sequence[str] = CHANGE.returned,
    ) -> Record:
        """The change request. Raises NotFound."""
        with doing("getting a change request"):
            return self._look(CHANGE, _only(number_or_sys_id, number, sys_id), fields)

    def update_change_request(
        self,
        /,
        number_or_sys_id: str | None = None,
        *,
        number: str | None = None,
        sys_id: str | None = None,
        **fields: Value,
    ) -> Record:
        """Change some fields, and return the change request as it is then. "" empties a field, None
        leaves it alone.

        Which state follows which, the instance decides: Refused, with its words, where it says no.
        """
        return self._update(CHANGE, (number_or_sys_id, number, sys_id), fields)

    # What they are made of

    @cached_property
    def _references(self) -> References:
        return References(NAMED)

    @cached_property
    def _custom_fields(self) -> set[tuple[str, str]]:
        """The fields of the customer's own that were seen, by table."""
        return set()

    def _create(
        self, table: TicketTable, values: Mapping[str, Value], sys_id: str | None
    ) -> Record:
        with doing(f"creating {table.called}"):
            sent = written(table, by_column(table, values))
            if not sent.get("short_description", "").strip():
                raise InvalidArgument("short_description must say something")
            if sys_id is not None and not SYS_ID.fullmatch(sys_id):
                raise InvalidArgument("sys_id must be 32 hexadecimal digits")
            sent = self._prepared(table, sent)
            asked = (sys_id or uuid.uuid4().hex).lower()
            try:
                made = self.create(
                    table.name,
                    {"sys_id": asked} | sent,
                    fields=_returned_fields(table, sent),
                    timeout_seconds=self._timeout_seconds,
                )
            except ServiceNowError as error:
                # Even a 403 may stand for a record that was made, and may only not be read
                # (KB2697679).
                unclear = (
                    error.failure.retryability is Retryability.IN_DOUBT
                    or error.failure.status == 403
                )
                found = self._made(table, asked, sent) if unclear else None
                if found is not None:
                    return found
                error.sys_id = asked
                raise
            if made["sys_id"] != asked:
                log.warning(
                    "ServiceNow gave %s a sys_id of its own: lost answers stay in doubt",
                    table.called,
                )
            _tell_lost(table, sent, made)
            return made

    def _made(self, table: TicketTable, sys_id: str, sent: Mapping[str, str]) -> Record | None:
        """The record that a create without a good answer made, as far as it can be seen.

        Raises Refused where the sys_id is another's.
        """
        found = None
        with suppress(ServiceNowError):
            found = self.get(
                table.name,
                sys_id,
                fields=_returned_fields(table, sent),
                timeout_seconds=self._timeout_seconds,
            )
        if found and found.get("correlation_id", "") != sent.get("correlation_id", ""):
            hint = "That sys_id is another record's: its correlation_id is another one."
            raise Refused(
                Failure(Retryability.PERMANENT, Reason.CONFLICT, hint), call=f"POST {table.name}"
            )
        return found

    def _update(
        self,
        table: TicketTable,
        names: tuple[str | None, str | None, str | None],
        values: Mapping[str, Value],
    ) -> Record:
        with doing(f"updating {table.called}"):
            number_or_sys_id = _only(*names)
            sent = written(table, by_column(table, values), may_empty=True)
            if not sent:
                raise InvalidArgument(
                    "there is nothing to change: name the fields and their values"
                )
            query = _named(number_or_sys_id)
            sent = self._prepared(table, sent)
            sys_id = self._sys_id(table.name, number_or_sys_id, query)
            return self._change(table, sys_id, sent)

    def _change(self, table: TicketTable, sys_id: str, sent: Mapping[str, str]) -> Record:
        fields = _returned_fields(table, sent)
        changed = self.update(
            table.name, sys_id, sent, fields=fields, timeout_seconds=self._timeout_seconds
        )
        _tell_lost(table, sent, changed)
        return changed

    def _look(self, table: TicketTable, number_or_sys_id: str, fields: Sequence[str]) -> Record:
        query = _named(number_or_sys_id)
        check_names(table, fields)
        if not query:
            return self.get(
                table.name,
                number_or_sys_id.strip(),
                fields=fields,
                timeout_seconds=self._timeout_seconds,
            )
        return self._by_number(table.name, number_or_sys_id.strip(), query, fields)

    def _sys_id(self, table: str, number_or_sys_id: str, query: str) -> str:
        if not query:
            return number_or_sys_id.strip()
        return self._by_number(table, number_or_sys_id.strip(), query, [])["sys_id"]

    def _by_number(self, table: str, number: str, query: str, fields: Sequence[str]) -> Record:
        rows = self._find(table, query, [*fields, "number"], 2)
        found = [row for row in rows if row.get("number", "").casefold() == number.casefold()]
        if len(found) > 1:
            hint = f"More than one record of {table} has that number: use the sys_id."
            raise Refused(Failure(Retryability.PERMANENT, Reason.CONFLICT, hint))
        if not found:
            hint = (
                f"No record of {table} has that number, or it is hidden from the integration "
                "user (role itil)."
            )
            raise NotFound(
                Failure(Retryability.PERMANENT, Reason.MISSING, hint), call=f"GET {table}"
            )
        return found[0]

    def _prepared(self, table: TicketTable, sent: Mapping[str, str]) -> dict[str, str]:
        """*sent* with names as sys_ids, once the customer's own fields are known to exist."""
        self._check_custom(table, [name for name in sent if is_custom(name)])
        return {name: self._referred(name, given) for name, given in sent.items()}

    def _referred(self, field: str, given: str) -> str:
        """What to send for *given* in *field*: the sys_ids of what it names. Raises
        UnknownReference."""
        if not given:
            return given
        if field in UNNAMED and not SYS_ID.fullmatch(given):
            raise UnknownReference(
                f"{field} is a reference that is not looked up by a name: give the record's sys_id"
            )
        if field == "chg_model" and given in CHANGE.choices["type"]:
            return given  # the models that ship are known to the API by these words
        if field not in LISTS:
            return self._looked_up(field, given)
        return ",".join(
            self._listed(field, name.strip()) for name in given.split(",") if name.strip()
        )

    def _listed(self, field: str, name: str) -> str:
        try:
            return self._looked_up(field, name)
        except UnknownReference:
            if field in MAILED and _ADDRESS.fullmatch(name):
                return name
            raise

    def _looked_up(self, field: str, name: str) -> str:
        return self._references.sys_id(
            field, name, find=self._find, left_seconds=lambda: self._timeout_seconds
        )

    def _by_sys_id(self, condition: Condition) -> Condition:
        if condition.column not in NAMED and condition.column not in UNNAMED:
            return condition
        sys_ids = tuple(self._referred(condition.column, name) for name in condition.values)
        return Condition(condition.column, condition.operator, sys_ids)

    def _check_custom(self, table: TicketTable, names: Sequence[str]) -> None:
        """Raise InvalidArgument for a field that no record has: ServiceNow would ignore it without
        a word."""
        unknown = [name for name in names if (table.name, name) not in self._custom_fields]
        rows = self._find(table.name, "ORDERBYDESCsys_created_on", unknown, 1) if unknown else []
        for row in rows:
            for name in unknown:
                if name not in row:
                    raise InvalidArgument(
                        f"the instance has no field {name} in {table.name}, or hides it from the "
                        "integration user"
                    )
                self._custom_fields.add((table.name, name))

    def _records(
        self, table: TicketTable, search: Search, fields: Sequence[str], limit: int | None
    ) -> Iterator[Record]:
        def find(query: str, asked: Sequence[str], rows_max: int) -> list[Record]:
            return self._find(table.name, query, asked, rows_max)

        with doing(f"searching for {table.called}"):
            yield from records(search, find, fields=fields, limit=limit)

    def _find(self, table: str, query: str, fields: Sequence[str], limit: int) -> list[Record]:
        return self.find(
            table, query, fields=fields, limit=limit, timeout_seconds=self._timeout_seconds
        )

    def _append(self, note: "_Note", names: tuple[str | None, str | None, str | None]) -> bool:
        with doing(f"adding {note.called}"):
            table, record, text = note.addressed(names)
            if not text.strip():
                raise InvalidArgument("text must say something")
            if note.key == "":
                raise InvalidArgument("key must say what the note is about, or be None")
            sys_id = self._sys_id(table, record, _named(record))
            marker = marker_of(digest(note.key)[:16]) if note.key else ""
            if marker and self._is_noted(table, sys_id, note.journal, marker):
                return False
            values = {note.journal: mark_text(text, marker)}
            try:
                self.update(table, sys_id, values, fields=[], timeout_seconds=self._timeout_seconds)
            except ServiceNowError as error:
                if marker and (isinstance(error, InDoubt) or error.failure.status == 403):
                    with suppress(ServiceNowError):
                        if self._is_noted(table, sys_id, note.journal, marker):
                            return True
                raise
            return True

    def _is_noted(self, table: str, sys_id: str, journal: str, marker: str) -> bool:
        """Whether the journal has an entry with *marker*."""
        query = f"{equals('name', table)}^{entries_query(sys_id, journal, marker)}"
        rows = self._find(JOURNAL_TABLE, query, JOURNAL_FIELDS, JOURNAL_ROWS_MAX)
        return bool(marked_entries(rows, sys_id, journal, marker))


@dataclass(frozen=True, slots=True)
class _Note:
    """What was given of a note for the *journal*; *texts* are its words by the names that they may
    have."""

    journal: str
    texts: tuple[str | None, str | None, str | None]
    table: str | None
    key: str | None

    @property
    def called(self) -> str:
        return "a work note" if self.journal == "work_notes" else "a comment"

    def addressed(self, names: tuple[str | None, str | None, str | None]) -> tuple[str, str, str]:
        """The note's table, record (by number or sys_id) and words. Raises InvalidArgument."""
        table = self.table
        first, *others = names
        texts = [text for text in self.texts if text is not None]
        if table is None and first in NOTED and len(texts) == 2 and self.texts[0] is not None:
            table, first = first, texts.pop(0)
        record = _only(first, *others)
        if len(texts) != 1:
            own_name = self.journal.removesuffix("s")
            raise InvalidArgument(f"text must say something: name it text, or {own_name}, and once")
        table = table or table_of(record) or INCIDENT.name
        if table not in NOTED:
            raise InvalidArgument(f"table must be one of {', '.join(sorted(NOTED))}")
        return table, record, texts[0]


def _only(number_or_sys_id: str | None, number: str | None, sys_id: str | None) -> str:
    """The one among these that names the record. Raises InvalidArgument."""
    given = [name for name in (number_or_sys_id, number, sys_id) if name is not None]
    if len(given) != 1:
        raise InvalidArgument(
            "name the record once: number=… or sys_id=…, or either as the first argument"
        )
    if sys_id is not None and not SYS_ID.fullmatch(sys_id.strip()):
        raise InvalidArgument("sys_id must be 32 hexadecimal digits; a number is given as number=…")
    return given[0]


def _tell_lost(table: TicketTable, sent: Mapping[str, str], record: Record) -> None:
    """Say which fields ServiceNow left empty, as it does where it knows no such record, or the user
    may not write."""
    dropped = [
        name
        for name, given in sent.items()
        if given.strip() and name in record and not record[name].strip()
    ]
    if dropped:
        log.warning("ServiceNow did not keep %s of %s", ", ".join(dropped), table.called)


def _named(number_or_sys_id: str) -> str:
    """The query for a number; "" for a sys_id. Raises InvalidArgument."""
    given = number_or_sys_id.strip()
    if SYS_ID.fullmatch(given):
        return ""
    try:
        return equals("number", given)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


def _returned_fields(table: TicketTable, sent: Mapping[str, str]) -> list[str]:
    return [
        name
        for name in dict.fromkeys([*table.returned, *sent])
        if name not in {"comments", "work_notes"}
    ]


def _closing(close_code: str, close_notes: str) -> dict[str, str]:
    if not close_code.strip() or not close_notes.strip():
        raise InvalidArgument(
            "close_code and close_notes must both say something: ServiceNow takes no end without"
        )
    return written(INCIDENT, {"close_code": close_code, "close_notes": close_notes})


def _not_canceled(known: Record) -> None:
    if known["state"] == CANCELED:
        raise _final("canceled, which is final")


def _final(what: str) -> Refused:
    return Refused(
        Failure(Retryability.PERMANENT, Reason.TICKET_CLOSED, f"The incident is {what}.")
    )
