"""What of an instance does not fit the rules, found out before the first event. Writes nothing,
unless it is asked to.

`examine` asks the instance about itself and compares; each Finding says what is wrong, where, and
what to do. What the integration user may not see is said as well: it is not known to be in order.
"""

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from function.core.finding import FileLocation, Finding, Level
from function.core.lifecycle import lifecycle_of, shipped_choices
from function.core.outcome import Failure, Reason, Retryability
from function.ledger.records import KeptMark, TableTraits, kept_mark
from function.rules.model import Rule, RuleTemplate
from function.rules.note import note_of
from function.rules.schema import FIELDS_REFUSED
from function.rules.ticket import TEMPLATE, TicketRule, ticket_of
from function.servicenow import Record, ServiceNowError, TableClient, UnknownReference
from function.servicenow.journal import TABLE as JOURNALS
from function.servicenow.references import REFERENCES, References
from function.servicenow.schema import Column, Policy, TableSchema, describe

# A call that takes longer is one that events would wait for in vain.
CALL_SECONDS_MAX: Final = 20.0
# Of a list of choices so many are named.
SHOWN_MAX: Final = 15
_SYS_ID: Final = re.compile(r"[0-9a-f]{32}")
_TIMES: Final = frozenset({"glide_date_time", "due_date"})
# What the function writes besides the rule's fields.
_OURS: Final = ("correlation_id", "correlation_display")
# A rate limit below this is soon met: two calls a ticket, and a burst of rows is a few hundred.
CALLS_PER_HOUR_MIN: Final = 3600
# Names of GMT that a user's time zone may have.
_GMT: Final = frozenset(
    {"GMT", "UTC", "Etc/GMT", "Etc/UTC", "Etc/UCT", "Etc/Greenwich", "Etc/Zulu", "Zulu"}
)
# The states in which records begin.
_FIRST_STATES: Final = {"incident": frozenset({"1"}), "change_request": frozenset({"-5"})}
# What the platform, or this function, gives every ticket.
_FILLED_IN: Final = frozenset(
    {"number", "state", "priority", "impact", "urgency", "opened_at", "opened_by", "sys_id", *_OURS}
)
# Refusals that more fields may turn.
_WANTS_MORE: Final = frozenset({Reason.BUSINESS_RULE, Reason.DATA_POLICY})
PROBE_MARKS: Final = {"correlation_id": "check --write-probe", "correlation_display": "hasura"}
PROBE_WORDS: Final = (
    "Written by check --write-probe of the Hasura integration; please ignore and delete"
)


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found. *traits*: what a written record showed, by table."""

    findings: tuple[Finding, ...]
    traits: Mapping[str, TableTraits]


def examine(
    client: TableClient,
    rules: Sequence[Rule],
    *,
    traits: Callable[[str], TableTraits],
    notes: Sequence[Rule] = (),
    write_probe: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    reads_changes: bool = False,
) -> Examined:
    """Compare the instance with the *rules*, which have tickets; whoever signs in was let in
    already.

    *traits* gives what is known of a table so far. *notes* are the rules that write into the
    tickets' journals. With *write_probe* a record is written into each table, and canceled where
    the rule knows how. *progress* is told of each step. *reads_changes*: there are rules from
    servicenow/TABLE, for which what has changed is asked for by time. Raises ServiceNowError where
    the instance does not work, or lets us in no longer.
    """
    preflight = Preflight(client, progress, notes)
    by_table: dict[str, list[Rule]] = {}
    for rule in rules:
        by_table.setdefault(ticket_of(rule).table, []).append(rule)
    findings = [*preflight.user(reads_changes=reads_changes)]
    for table, concerned in by_table.items():
        progress(table)
        findings += preflight.table(table, concerned)
    findings += preflight.journals()
    shown: dict[str, TableTraits] = {}
    if write_probe:
        for table, concerned in by_table.items():
            if table in preflight.unread:
                continue
            progress(f"a record in {table}")
            found, made = preflight.probe(concerned[0])
            findings.append(found)
            shown |= {} if made is None else {table: made}
    known = {table: shown.get(table) or traits(table) for table in by_table}
    findings += _sys_ids(client.instance_url, known)
    findings += _dropped_marks(client.instance_url, known)
    findings += preflight.limits()
    return Examined(tuple(findings), shown)


@dataclass(slots=True)
class Preflight:
    client: TableClient
    progress: Callable[[str], None]
    notes: Sequence[Rule] = ()
    references: References = field(default_factory=References)
    unread: set[str] = field(default_factory=set)

    # Who we are

    def user(self, *, reads_changes: bool) -> Iterator[Finding]:
        """The user as the instance knows it."""
        where = self.client.instance_url
        # What no name could say: the user of an OAuth client, or of an API key.
        rows = self._readable(
            "sys_user", "sys_id=javascript:gs.getUserID()", ["user_name", "time_zone"], 2
        )
        if len(rows) != 1:
            yield Finding(
                Level.NOTE, where, "the integration user may not read its own record in sys_user"
            )
            return
        [user] = rows
        yield from _signed_in(where, user, reads_changes=reads_changes)
        roles = self._roles(user["sys_id"])
        if roles:
            yield Finding(Level.NOTE, where, f"its roles: {_listed(sorted(roles))}")

    def _roles(self, user_id: str) -> set[str]:
        rows = self._readable("sys_user_has_role", f"user={user_id}", ["user", "role.name"], 200)
        return {
            row["role.name"] for row in rows if row.get("user") == user_id and row.get("role.name")
        }

    # A table

    def table(self, table: str, rules: Sequence[Rule]) -> Iterator[Finding]:
        """All that is found of the *rules* that make tickets in *table*."""
        notes = [note_of(rule) for rule in self.notes if rule.target.table == table]
        wanted = {*_OURS, "sys_id", "number", "state", *(note.journal for note in notes)}
        for ticket in map(ticket_of, rules):
            wanted |= {*ticket.fields, *ticket.closing_fields, *ticket.choices}
            wanted |= {ticket.states.link} if ticket.states.link else set()
        try:
            described = describe(table, wanted, self._find)
        except ServiceNowError as error:
            if _is_serious(error.failure):
                raise
            self.unread.add(table)
            for rule in rules:
                yield Finding(
                    Level.FAULT,
                    ticket_of(rule).locations["table"],
                    f"{table} cannot be read",
                    _sentence(error),
                )
            return
        if described.columns is None:
            yield Finding(
                Level.NOTE if described.shown is not None else Level.WARNING,
                f"{self.client.instance_url}: {table}",
                (
                    "the integration user may not read sys_dictionary, so types and "
                    "lengths are not checked"
                )
                if described.shown is not None
                else "it may read neither sys_dictionary nor any record, so fields are not checked",
                ""
                if described.shown is not None
                else "Let it read sys_dictionary, or one record of the table",
            )
        if described.choices is None:
            what = (
                "the integration user may not read sys_choice, so choices and "
                "states are not checked"
            )
            yield Finding(
                Level.WARNING,
                f"{self.client.instance_url}: {table}",
                what,
                "Let it read sys_choice",
            )
        if described.policies is None:
            what = (
                "no data policy is to be seen: there is none, or the integration "
                "user may not read them"
            )
            yield Finding(Level.NOTE, f"{self.client.instance_url}: {table}", what)
        for rule in rules:
            yield from self._rule(rule, described)
        for note in notes:
            if described.lacks(note.journal):
                what = (
                    f"{table} has no {note.journal}, or hides it, and ServiceNow ignores what is "
                    "sent for it"
                )
                do = "Write into the other journal, or let the integration user write the field"
                yield Finding(Level.FAULT, note.locations["field"], what, do)

    def journals(self) -> Iterator[Finding]:
        """Whether it can be seen what became of a note whose answer is lost."""
        if not self.notes:
            return
        where = note_of(self.notes[0]).locations["field"]
        self.progress(JOURNALS)
        try:
            rows = self._find(JOURNALS, "", ["element"], 1)
        except ServiceNowError as error:
            if _is_serious(error.failure):
                raise
            what = (
                f"{JOURNALS} cannot be read, so that a note whose answer is lost ends as a dead "
                "letter"
            )
            yield Finding(Level.WARNING, where, what, f"Let the integration user read {JOURNALS}")
            return
        if not rows:
            what = (
                f"{JOURNALS} shows no entry: there is none yet, or the integration user may not "
                "read it"
            )
            do = f"See that it may read {JOURNALS}: a note whose answer is lost is looked for there"
            yield Finding(Level.WARNING, where, what, do)

    def _rule(self, rule: Rule, described: TableSchema) -> Iterator[Finding]:
        ticket = ticket_of(rule)
        link = ticket.states.link
        if link and ticket.after_close != "leave" and described.lacks(link):
            what = (
                f"{ticket.table} has no {link}, so a ticket that follows another one "
                "does not name it"
            )
            yield Finding(Level.WARNING, ticket.locations["after_close"], what)
        for column in _OURS:
            if described.lacks(column):
                yield Finding(
                    Level.FAULT,
                    ticket.locations["table"],
                    f"{ticket.table} has no {column}, or hides it, and a ticket is found by that",
                    "Choose a table that extends task, or let the integration user read the field",
                )
        for column, rule_template in _templates_by_column(rule).items():
            missing = _missing(column, rule_template.where, described)
            if missing is not None:
                yield missing
                continue
            yield from self._column(column, rule_template, described, ticket)
        yield from _states(rule, described)
        yield from _declared_choices(rule, described)
        yield from _closing_default(rule, described)
        for policy in described.policies or ():
            yield from _policy(policy, rule, described)

    def _column(
        self, column: str, rule_template: RuleTemplate, described: TableSchema, ticket: TicketRule
    ) -> Iterator[Finding]:
        known = (described.columns or {}).get(column)
        literals = sorted(value for value in rule_template.syntax.find_literals() if value.strip())
        choices = (described.choices or {}).get(column, {})
        if choices and (known is None or known.has_choices):
            for value in literals:
                if value not in choices:
                    yield _no_choice(column, value, rule_template.where, choices)
        if known is not None:
            yield from _typed(column, known, rule_template, literals)
        if column in REFERENCES:
            for name in literals:
                yield from self._referred(
                    column, name, rule_template.where, may_be_empty=column in ticket.leave_empty
                )

    def _referred(
        self, column: str, name: str, where: FileLocation, *, may_be_empty: bool
    ) -> Iterator[Finding]:
        try:
            self.references.sys_id(
                column, name, find=self._find, left_seconds=lambda: CALL_SECONDS_MAX
            )
        except UnknownReference as error:
            level = Level.WARNING if may_be_empty and not error.is_ambiguous else Level.FAULT
            what = f"{_quoted(name)} {error.problem}"
            yield Finding(level, where, what, "Correct the name, or make the record")
        except ServiceNowError as error:
            if _is_serious(error.failure):
                raise
            table = REFERENCES[column].table
            what = f"{table} cannot be read, so {_quoted(name)} is not found there"
            yield Finding(
                Level.FAULT,
                where,
                what,
                f"Let the integration user read {table}, or give the sys_id",
            )

    # Writing

    def probe(self, rule: Rule) -> tuple[Finding, TableTraits | None]:
        """Write a record as plain as the instance takes it, and cancel it; which of our marks it
        kept."""
        ticket = ticket_of(rule)
        table, where = ticket.table, ticket.locations["table"]
        sys_id = uuid.uuid4().hex
        try:
            made = self._written(
                rule, {"sys_id": sys_id, "short_description": PROBE_WORDS, **PROBE_MARKS}
            )
        except ServiceNowError as error:
            if error.failure.retryability is Retryability.IN_DOUBT:
                what = f"whether a record was written into {table} is not known"
                do = (
                    "Look for one whose short_description begins with "
                    f"{_quoted(PROBE_WORDS[:35])}. {_sentence(error)}"
                )
                return Finding(Level.WARNING, where, what, do), None
            if _is_serious(error.failure):
                raise
            if error.failure.reason in _WANTS_MORE:
                what = (
                    f"no record was written into {table}: it wants more than what the rule "
                    "says of every row"
                )
                return Finding(Level.WARNING, where, what, _sentence(error)), None
            what = f"no record can be written into {table}"
            return Finding(Level.FAULT, where, what, _sentence(error)), None
        name = made.get("number") or made["sys_id"]
        left = self._canceled(rule, made["sys_id"])
        shown = TableTraits(made["sys_id"].lower() == sys_id, kept_mark(made, PROBE_MARKS))
        return Finding(Level.NOTE, where, f"{name} was written into {table}; {left}"), shown

    def _written(self, rule: Rule, values: Mapping[str, str]) -> Record:
        """The record of *values*; with what the rule says of every row, where the instance wants
        more."""
        ticket = ticket_of(rule)
        constants = self._constants(rule)
        kind = {
            column: value
            for column, value in constants.items()
            if column in {"type", "chg_model", TEMPLATE}
        }
        try:
            return self._create(ticket.table, {**kind, **values})
        except ServiceNowError as error:
            if error.failure.reason not in _WANTS_MORE:
                raise
        # Nobody is to be called at night for it.
        return self._create(ticket.table, {**constants, "impact": "3", "urgency": "3", **values})

    def _create(self, table: str, values: Mapping[str, str]) -> Record:
        return self.client.create(
            table, values, fields=["number", *PROBE_MARKS], timeout_seconds=CALL_SECONDS_MAX
        )

    def _constants(self, rule: Rule) -> dict[str, str]:
        """What the rule says of every row, or of some, with names as sys_ids."""
        ticket = ticket_of(rule)
        values = (
            {"type": "normal", "chg_model": "normal"} if ticket.table == "change_request" else {}
        )
        for column, rule_template in _templates_by_column(rule).items():
            literal = next(
                (value for value in sorted(rule_template.syntax.find_literals()) if value.strip()),
                "",
            )
            if literal and column not in ticket.closing_fields:
                with suppress(UnknownReference):  # found already
                    values[column] = self.references.sys_id(
                        column, literal, find=self._find, left_seconds=lambda: CALL_SECONDS_MAX
                    )
        if TEMPLATE in values:
            values |= {"type": "standard", "chg_model": "standard"}
        return values

    def _canceled(self, rule: Rule, sys_id: str) -> str:
        """Cancel the record that was written for the probe, and say what is left to do."""
        ticket = ticket_of(rule)
        canceled = ticket.states.canceled
        if not canceled:
            return "it is open: delete it"
        try:
            self.client.update(
                ticket.table,
                sys_id,
                {"state": canceled},
                fields=["state"],
                timeout_seconds=CALL_SECONDS_MAX,
            )
        except ServiceNowError:
            return "it could not be canceled: delete it"
        return "it is canceled, and may be deleted"

    def limits(self) -> Iterator[Finding]:
        """What the answers said of a rate limit."""
        limit = self.client.rate_limit_per_hour
        if limit is None:
            yield Finding(
                Level.NOTE, self.client.instance_url, "no rate limit rule showed on what was read"
            )
        else:
            yield Finding(
                Level.WARNING if limit < CALLS_PER_HOUR_MIN else Level.NOTE,
                self.client.instance_url,
                f"a rate limit rule lets this user make {limit} calls an hour; "
                "events beyond that wait",
                "Have it raised in sys_rate_limit_rules, unless rows change less often"
                if limit < CALLS_PER_HOUR_MIN
                else "",
            )

    def _readable(self, table: str, query: str, fields: Sequence[str], limit: int) -> list[Record]:
        """What may be read; nothing where it is refused."""
        try:
            return self._find(table, query, fields, limit)
        except ServiceNowError as error:
            if _is_serious(error.failure):
                raise
            return []

    def _find(self, table: str, query: str, fields: Sequence[str], limit: int) -> list[Record]:
        return self.client.find(
            table, query, fields=fields, limit=limit, timeout_seconds=CALL_SECONDS_MAX
        )


# What is wrong with what a rule says


def _templates_by_column(rule: Rule) -> dict[str, RuleTemplate]:
    """What the rule writes, by column."""
    own = ticket_of(rule).templates
    templates = dict(own.fields)
    others = {"close_code": own.close_code, "close_notes": own.close_notes}
    others[TEMPLATE] = own.template
    return templates | {
        column: rule_template
        for column, rule_template in others.items()
        if rule_template is not None
    }


def _missing(column: str, where: FileLocation, described: TableSchema) -> Finding | None:
    if not described.lacks(column):
        return None
    near = get_close_matches(column, described.columns or {}, n=1)
    what = f"{described.chain[0]} has no field {column}, and ServiceNow ignores what is sent for it"
    if described.columns is None:
        what = (
            f"{described.chain[0]} shows no field {column}: there is none, or the integration "
            "user may not read it"
        )
    return Finding(Level.FAULT, where, what, f"Did you mean {near[0]}?" if near else "Take it out")


def _no_choice(column: str, value: str, where: FileLocation, choices: Mapping[str, str]) -> Finding:
    labelled = next(
        (known for known, label in choices.items() if label.casefold() == value.casefold()), None
    )
    near = [labelled] if labelled else get_close_matches(value, choices, n=1)
    shown = [
        f"{known} ({label})" if label and label != known else known
        for known, label in choices.items()
    ]
    more = f", and {len(shown) - SHOWN_MAX} more" if len(shown) > SHOWN_MAX else ""
    meant = f"Did you mean {near[0]}? " if near else ""
    return Finding(
        Level.FAULT,
        where,
        f"{_quoted(value)} is none of the choices of {column}, and would show as an empty field",
        f"{meant}There are {', '.join(shown[:SHOWN_MAX])}{more}",
    )


def _typed(
    column: str, known: Column, rule_template: RuleTemplate, literals: Sequence[str]
) -> Iterator[Finding]:
    if known.refers_to and column not in REFERENCES:
        for value in literals:
            if not _SYS_ID.fullmatch(value):
                what = f"{column} refers to {known.refers_to}, where this version looks no name up"
                yield Finding(
                    Level.FAULT, rule_template.where, what, f"Write the sys_id of {_quoted(value)}"
                )
        if not literals:
            what = f"{column} refers to {known.refers_to}, where this version looks no name up"
            yield Finding(
                Level.WARNING, rule_template.where, what, "See that the row gives a sys_id"
            )
    if (
        known.type in _TIMES
        and not literals
        and not rule_template.syntax.uses_filter("sn_datetime")
    ):
        what = f"{column} is a time, which ServiceNow takes as UTC without a zone"
        yield Finding(Level.WARNING, rule_template.where, what, "Write {{ … | sn_datetime }}")
    for value in literals:
        if 0 < known.length_max < len(value) and known.type in {"string", "choice"}:
            what = (
                f"{column} takes {known.length_max} characters here, and this text has {len(value)}"
            )
            yield Finding(
                Level.WARNING,
                rule_template.where,
                what,
                "Shorten it: ServiceNow cuts it without a word",
            )


def _states(rule: Rule, described: TableSchema) -> Iterator[Finding]:
    """The states that the rule's tickets are given, against those that the instance has."""
    ticket = ticket_of(rule)
    choices = (described.choices or {}).get("state")
    if not choices:
        return
    there = ", ".join(f"{value} ({label})" for value, label in choices.items())
    for state, what in _written_states(ticket).items():
        if state and state not in choices:
            do = f"Declare the states of this instance under `states`. There are {there}"
            found = f"{ticket.table} has no state {state} ({what})"
            yield Finding(Level.FAULT, ticket.locations["states"], found, do)
    if ticket.states is not lifecycle_of(ticket.table):
        for state in sorted(ticket.states.final - choices.keys()):
            found = f"{ticket.table} has no state {state} (final)"
            yield Finding(Level.WARNING, ticket.locations["states"], found, f"There are {there}")


def _declared_choices(rule: Rule, described: TableSchema) -> Iterator[Finding]:
    """The choices that the rule declares, against those that the instance has."""
    ticket = ticket_of(rule)
    declared = ticket.choices
    for column in declared:
        choices = (described.choices or {}).get(column)
        if declared[column] is shipped_choices(ticket.table).get(column) or not choices:
            continue
        for value in declared[column]:
            if value not in choices:
                found = _no_choice(column, value, ticket.locations["choices"], choices)
                yield Finding(
                    found.level,
                    found.where,
                    f"{found.problem} (`choices` declares it)",
                    found.remedy,
                )


def _written_states(ticket: TicketRule) -> dict[str, str]:
    """The states that a ticket of this kind may be given, and what they are to the rule."""
    states = ticket.states
    resolves, cancels = _ends(ticket)
    written: dict[str, str] = {}
    if resolves:
        written |= dict.fromkeys(
            _first_states(ticket) if "" in states.paths else (), "where tickets begin"
        )
        written |= {
            state: "on the way to resolved" for path in states.paths.values() for state in path[1:]
        }
        written[states.resolved] = "resolved"
    if cancels:
        written[states.canceled] = "canceled"
    if states.reopened and (ticket.after_close == "reopen" or ticket.shared):
        written[states.reopened] = "reopened"
    return written


def _ends(ticket: TicketRule) -> tuple[bool, bool]:
    """Whether its tickets may be resolved, and canceled: no row ends one that is shared."""
    if ticket.shared:
        return False, False
    return ticket.resolves or ticket.on_delete == "resolve", ticket.on_delete == "cancel"


def _closing_default(rule: Rule, described: TableSchema) -> Iterator[Finding]:
    """The resolution code that is sent where the rule gives none."""
    ticket = ticket_of(rule)
    code = ticket.states.close_code
    choices = (described.choices or {}).get("close_code")
    resolves, _ = _ends(ticket)
    if (
        ticket.templates.close_code is None
        and code
        and choices
        and code not in choices
        and resolves
    ):
        found = _no_choice("close_code", code, ticket.locations["close_code"], choices)
        yield Finding(
            found.level,
            found.where,
            f"{found.problem} (it is sent because the rule gives no close_code)",
            found.remedy,
        )


def _policy(policy: Policy, rule: Rule, described: TableSchema) -> Iterator[Finding]:
    """What a data policy demands that the rule does not send and the platform does not fill in."""
    ticket = ticket_of(rule)
    filled = {
        name for name, column in (described.columns or {}).items() if column.has_default
    } | _FILLED_IN
    wanted = policy.mandatory - set(ticket.fields) - filled
    conditions = policy.conditions.strip().removesuffix("^EQ")
    states = _named_states(conditions)
    resolves, cancels = _ends(ticket)
    lacking: frozenset[str] = frozenset()
    level, when = Level.FAULT, ""
    if not conditions or (states and states & _first_states(ticket)):
        lacking = wanted
    elif states is None:
        level, when = Level.WARNING, f" where {conditions}"
        lacking = wanted - set(ticket.closing_fields)
    else:
        when = " when a ticket ends"
        if resolves and any(states & {*passed[1:-1]} for passed in ticket.states.paths.values()):
            # What closes it goes with the last of its states.
            when = " on a ticket's way to resolved"
            lacking |= wanted
        if resolves and ticket.states.resolved in states:
            lacking |= wanted - set(ticket.closing_fields)
        if cancels and ticket.states.canceled in states:
            # What is canceled was not solved, so that no code goes with it.
            lacking |= wanted - (set(ticket.closing_fields) - {"close_code"})
    if not lacking:
        return
    name = f"the data policy {_quoted(policy.name)}" if policy.name else "a data policy"
    what = (
        f"{name} makes {_listed(sorted(lacking))} mandatory{when}, and the rule does not send that"
    )
    do = "Add it to `fields`"
    if level is Level.WARNING:
        do = "See whether that concerns these tickets; if so, add it to `fields`"
    elif lacking & {"close_code", "close_notes"}:
        do = (
            "Give close_code and close_notes; for a ticket that is canceled, exempt the "
            "integration user, or write "
        )
        do += "`on_delete: resolve`"
    elif lacking & FIELDS_REFUSED.keys():
        do = "This version cannot send it: exempt the integration user from the policy"
    yield Finding(level, ticket.locations["fields"], what, do)


def _first_states(ticket: TicketRule) -> frozenset[str]:
    """The states in which its tickets begin, as far as is known."""
    declared = {passed[0] for kind, passed in ticket.states.paths.items() if not kind}
    return frozenset(declared) or _FIRST_STATES.get(ticket.table, frozenset())


_STATE_TERM: Final = re.compile(r"(?:state|incident_state|problem_state)(?:=|IN)(-?[0-9,-]+)")


def _named_states(conditions: str) -> set[str] | None:
    """The states that *conditions* name; None where they speak of anything else."""
    states: set[str] = set()
    for number, part in enumerate(conditions.strip().removesuffix("^EQ").split("^")):
        found = _STATE_TERM.fullmatch(part.removeprefix("OR") if number else part)
        if found is None or (number and not part.startswith("OR")):
            return None
        states |= set(found[1].split(","))
    return states


# The instance as a whole


def _signed_in(where: str, user: Record, *, reads_changes: bool) -> Iterator[Finding]:
    """Who we are, and in which time zone: in that ServiceNow reads the times of a query."""
    zone = user.get("time_zone", "")
    name = user.get("user_name") or "a user without a name"
    shown = zone or "the instance's"
    said = f"signed in as {name}; its time zone is {shown}"
    if not reads_changes:
        what = f"{said}, which matters to people only: what is sent and read is UTC"
        yield Finding(Level.NOTE, where, what)
    elif zone in _GMT:
        yield Finding(Level.NOTE, where, said)
    else:
        level = Level.FAULT if zone else Level.WARNING
        what = f"{said}, and `sync` asks by time for what has changed: that is read in this zone"
        yield Finding(level, where, what, "Set the user's time zone (sys_user) to GMT")


def _sys_ids(instance_url: str, known: Mapping[str, TableTraits]) -> Iterator[Finding]:
    """Which tables keep the sys_id that a new record is given."""
    kept, chosen, untried = (
        [table for table, traits in known.items() if traits.honours_sys_id is honoured]
        for honoured in (True, False, None)
    )
    if kept:
        yield Finding(
            Level.NOTE,
            instance_url,
            f"{_listed(kept)}: it keeps the sys_id that a new record is given",
        )
    if chosen:
        yield Finding(
            Level.WARNING,
            instance_url,
            f"{_listed(chosen)}: it gives new records sys_ids of its own, so a create whose "
            "answer is lost waits a minute and is settled by correlation_id",
            "Let the integration user write sys_id at creation, where you want it settled "
            "by the primary key",
        )
    if untried:
        yield Finding(
            Level.NOTE,
            instance_url,
            f"{_listed(untried)}: whether it keeps the sys_id that a new record is given shows at "
            "the first ticket, or with --write-probe, which writes a record",
        )


def _dropped_marks(instance_url: str, known: Mapping[str, TableTraits]) -> Iterator[Finding]:
    """What is wrong where the correlation_id is dropped."""
    do = "Let the integration user write correlation_id at creation"
    for table, traits in known.items():
        if traits.kept_mark is KeptMark.CORRELATION_DISPLAY:
            what = (
                f"{table}: it drops the correlation_id of a new record; tickets carry their mark "
                "in correlation_display instead"
            )
            yield Finding(Level.WARNING, instance_url, what, do)
        elif traits.kept_mark is KeptMark.NONE:
            what = (
                f"{table}: it drops the correlation_id and the correlation_display of a new "
                "record; a ticket is known by its sys_id alone, and where that is not kept "
                "either, a create whose answer is lost ends as a dead letter"
            )
            yield Finding(Level.WARNING, instance_url, what, do)


def _is_serious(failure: Failure) -> bool:
    """Whether going on makes no sense: the instance does not work, or we are not let in."""
    return failure.reason is Reason.UNAUTHORIZED or (
        failure.retryability is not Retryability.PERMANENT and failure.reason is not Reason.ACL
    )


def _sentence(error: ServiceNowError) -> str:
    quoted = f'ServiceNow said "{error.remote_message}". ' if error.remote_message else ""
    return f"{quoted}{error.hint}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _quoted(value: str) -> str:
    shown = " ".join(value.split())
    return f"`{shown[:60]}…`" if len(shown) > 60 else f"`{shown}`"
