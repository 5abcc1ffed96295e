"""The rules file: read once, checked whole, refused with every fault and its line.

Pure: the caller reads the file. What the rules then make of an event is in hearing.py.

    RulesError   the file cannot be used; it names every fault with its line
"""

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

import yaml

from function.choices import REFERENCES, meant_choice, not_a_choice, shipped
from function.event import SCHEDULED, Op, digest
from function.hearing import (
    CLOSE_NOTES_RESOLVED,
    TEMPLATE,
    Rule,
    Rules,
    Saying,
    Sayings,
    TicketRule,
    wants_from_json,
    wants_to_json,
)
from function.states import (
    CHANGE_REQUEST,
    INCIDENT,
    LINK,
    NO_STATES,
    STATES,
    States,
    states_of,
)
from function.templates import InvalidTemplate, Template, expression, is_expression, meant
from function.templates import template as checked_template

__all__ = [
    "Rule",
    "Rules",
    "RulesError",
    "TicketRule",
    "load",
    "schema",
    "wants_from_json",
    "wants_to_json",
]

FILE_BYTES_MAX: Final = 1024 * 1024
# Aliases make a small file a large one.
ENTRIES_MAX: Final = 20_000
FAULTS_MAX: Final = 100
DEFAULT_TABLE: Final = "incident"
CHANGE_TABLE: Final = "change_request"
CREATING_OPS: Final = (Op.INSERT, Op.UPDATE, Op.MANUAL)
AFTER_CLOSE: Final = ("reopen", "new", "leave")
ON_DELETE: Final = ("resolve", "cancel", "leave")
ON_MISSING: Final = ("fail", "recreate", "ignore")
ON_UNKNOWN: Final = ("fail", "leave_empty")
KEY_PARTS_MAX: Final = 16

TOP_KEYS: Final = {
    "version": "The version of this language: 1.",
    "env": "The environment variables that templates may name, as env.NAME.",
    "rules": "Which rows become which tickets.",
}
RULE_KEYS: Final = {
    "name": "The rule's name, unique in the file. It is in every ticket's address: to rename the rule, keep `id`.",
    "id": "What stands in every ticket's address; the name unless given.",
    "from": "Where events come from: hasura/SCHEMA.TABLE, cron/NAME, or scheduled for one-off scheduled events.",
    "trigger": "Only events of the event trigger with this name; of any unless given.",
    "ops": "The kinds of event that the rule hears; all unless given.",
    "when": "An expression: whether the row deserves a ticket. A ticket that exists follows its row all the same.",
    "each": "An expression that gives a list: one ticket for each element, which templates call `item`.",
    "ticket": "The ticket that the row becomes.",
}
TICKET_KEYS: Final = {
    "table": "The table of the ticket; incident unless given.",
    "key": "A template, or a list of templates: the row's identity. One ticket per key.",
    "fields": "For each column of the ticket, a template: what it should say.",
    "template": "A template: the name or sys_id of the standard change that a change_request is made from.",
    "states": "The states of the table; needed unless they are those that ServiceNow ships for an incident or a"
    " change_request.",
    "choices": "For a column, the values that this instance has in place of those that ServiceNow ships.",
    "resolve_when": "An expression: whether the row says that all is well again.",
    "close_code": f"A template: the resolution code; {INCIDENT.close_code} unless given, {CHANGE_REQUEST.close_code} of"
    " a change_request. Of another table, only what is given is sent.",
    "close_notes": f"A template: the resolution notes; {CLOSE_NOTES_RESOLVED} unless given. Of another table, only what"
    " is given is sent.",
    "after_close": "What follows when the row is unwell again: reopen (the default; of a change_request new), new or"
    " leave.",
    "creates": "Which kinds of event may open a ticket: INSERT, UPDATE and MANUAL unless given.",
    "on_delete": "What follows when the row is deleted: resolve (the default; of a change_request cancel), cancel or"
    " leave.",
    "on_missing": "What follows when people deleted the ticket: fail (the default), recreate or ignore.",
    "on_unknown": "For a column that refers to a record, what follows where none goes by the name: fail (the default),"
    " or leave_empty, until the record is there and the row changes.",
    "shared": "Whether many rows share one ticket: the first opens it, none closes it.",
    "order_by": "An expression: what orders the row's images, such as row.updated_at.",
}
STATES_KEYS: Final = {
    "resolved": "The state of a ticket whose row is well again, or gone.",
    "reopened": "The state that a resolved ticket goes back to; without it, it is followed by a new one.",
    "canceled": "The state for `on_delete: cancel`.",
    "final": "The states that a ticket never leaves; none unless given.",
    "path": "The states that a ticket passes through on its way to resolved, in order, from the one in which it begins;"
    " one PATCH each. None unless given.",
}
_STATE_KEYS = ("resolve_when", "close_code", "close_notes", "after_close")
_STATES_UNKNOWN: Final = "the states of this table are not known: declare `states`"
_LATER_RULE_KEYS = ("note", "post", "mutate", "reply", "data")
_LATER_NAMES = ("ticket", "link", "data")
FIELDS_REFUSED: Final = {
    "sys_id": "is computed from the rule and the key",
    "number": "is given by ServiceNow",
    "correlation_id": "holds the ticket's address; use `key`",
    "correlation_display": "is written by this function",
    "state": "is written by `resolve_when`",
    "incident_state": "is written by `resolve_when`",
    "close_code": "stands beside `fields`, and is sent when the ticket is resolved",
    "close_notes": "stands beside `fields`, and is sent when the ticket is resolved",
    "comments": "is a journal, which only grows; this version writes no journals",
    "work_notes": "is a journal, which only grows; this version writes no journals",
    "parent_incident": "is written by `after_close: new`",
}
# What stands elsewhere.
_CHOICES_REFUSED: Final = {"state": "stands under `states`", "incident_state": "stands under `states`"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}", re.ASCII)
_STATE = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_ -]{0,39}", re.ASCII)
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,79}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Hasura takes names with blanks and dots in them.
_SOURCE = re.compile(rf"hasura/[^/.]+\..+|cron/.+|{SCHEDULED}")
# What begins like this and is an expression was meant to have braces.
_BARE = re.compile(r"(?:row|old|new|item|event|env|op|changed)\s*(?:[.\[|]|[=!]=)")
_NAMES = ("row", "old", "new", "op", "changed", "event", "env")


class RulesError(Exception):
    """The rules file cannot be used. *faults* are sentences, each with the file's name and line."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(text: str, *, name: str = "rules.yaml", environ: Mapping[str, str]) -> Rules:
    """Check a rules file whole. *name* is what faults call it; *environ* has the variables that its `env` may name.

    Raises RulesError with every fault.
    """
    reading = _Reading(name, environ)
    rules = reading.rules(text)
    if reading.faults:
        told = [fault for _, fault in sorted(reading.faults, key=lambda fault: fault[0])]
        hidden = len(told) - FAULTS_MAX
        more = (f"{name}: and {hidden} more faults",) if hidden > 0 else ()
        raise RulesError((*told[:FAULTS_MAX], *more))
    read = digest(text, *(part for pair in sorted(reading.env.items()) for part in pair))
    return Rules(tuple(rules), read, tuple(reading.warnings))


class _TooMuch(Exception):  # noqa: N818  # what happened, not whose error it is
    """The file is larger than it looks."""


_NOTHING = checked_template("", names=())


class _Reading:
    """One file being read. It goes on after a fault, so that all are told at once."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.environ = environ
        self.env: dict[str, str] = {}
        self.faults: list[tuple[int, str]] = []
        self.warnings: list[str] = []
        self.entries = 0
        # Of the ticket that is being read.
        self.choices: Mapping[str, Mapping[str, str]] = {}

    def fault(self, line: int, path: str, what: str) -> None:
        self.faults.append((line, f"{self._where(line, path)}: {what}"))

    def _where(self, line: int, path: str) -> str:
        return f"{self.name}:{line}: {path}" if path else f"{self.name}:{line}"

    def rules(self, text: str) -> list[Rule]:
        root = self._composed(text)
        if root is None:
            return []
        try:
            return self._file(root)
        except _TooMuch:
            self.faults.clear()
            self.fault(1, "", f"has more than {ENTRIES_MAX} entries once its aliases are followed")
        return []

    def _composed(self, text: str) -> yaml.Node | None:
        if len(text.encode("utf-8", "surrogatepass")) > FILE_BYTES_MAX:
            self.fault(1, "", f"is over {FILE_BYTES_MAX // 1024} KiB")
            return None
        try:
            # Not the faster C loader: a thousand brackets end the process there.
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.fault(
                mark.line + 1 if mark else 1,
                "",
                f"is not YAML: {', '.join(filter(None, (error.context, error.problem)))}",
            )
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.fault(line, "", "is not YAML: a control character in it is not allowed")
        except RecursionError:
            self.fault(1, "", "is nested too deeply")
        else:
            if root is None:
                self.fault(1, "", "is empty; it begins with `version: 1`")
            return root
        return None

    def _file(self, root: yaml.Node) -> list[Rule]:
        entries = self._mapping(root, "", TOP_KEYS)
        if entries is None:
            return []
        version = entries.get("version")
        if version is None:
            self.fault(_line(root), "version", "is missing; write `version: 1`")
        elif not isinstance(version, yaml.ScalarNode) or version.value != "1":
            self.fault(_line(version), "version", "is not one that this program knows; write `version: 1`")
        if "env" in entries:
            self._environment(entries["env"])
        if "rules" not in entries:
            self.fault(_line(root), "rules", "is missing")
            return []
        rules = []
        seen: dict[str, int] = {}
        for number, node in enumerate(self._list(entries["rules"], "rules", empty="has no rules in it")):
            rule = self._rule(node, f"rules[{number}]", seen)
            if rule is not None:
                rules.append(rule)
        return rules

    def _environment(self, node: yaml.Node) -> None:
        for number, entry in enumerate(self._list(node, "env")):
            path = f"env[{number}]"
            variable = self._text(entry, path)
            if variable is None:
                continue
            if not _VARIABLE.fullmatch(variable):
                self.fault(_line(entry), path, "is not the name of an environment variable")
            elif variable not in self.environ:
                self.fault(_line(entry), path, f"the environment has no `{variable}`; set it or take it out")
                self.env[variable] = ""
            else:
                self.env[variable] = self.environ[variable]

    def _rule(self, node: yaml.Node, path: str, seen: dict[str, int]) -> Rule | None:
        later = {key: f"this version does not have `{key}` rules yet" for key in _LATER_RULE_KEYS}
        entries = self._mapping(node, path, RULE_KEYS, refused=later)
        if entries is None:
            return None
        line = _line(node)
        name = self._name(entries, "name", path) or ""
        identity = self._name(entries, "id", path) or name
        if "name" not in entries:
            self.fault(line, f"{path}.name", "is missing")
        for label, key in ((name, "name"), (identity, "id")):
            if label and key in entries and label in seen:
                self.fault(
                    _line(entries[key]), f"{path}.{key}", f"`{label}` is already used by the rule in line {seen[label]}"
                )
        seen.update({label: line for label in (name, identity) if label and label not in seen})
        each = self._expression(entries, "each", path, _NAMES)
        names = (*_NAMES, "item") if "each" in entries else _NAMES
        when = self._expression(entries, "when", path, names)
        ops = self._ops(entries, "ops", path, tuple(Op)) or frozenset(Op)
        trigger = ""
        if "trigger" in entries:
            trigger = self._text(entries["trigger"], f"{path}.trigger") or ""
            if not trigger:
                self.fault(_line(entries["trigger"]), f"{path}.trigger", "is empty; leave it out to hear any trigger")
        source = self._source(entries, path, line)
        if source == SCHEDULED and trigger:
            what = "is for triggers, and a one-off scheduled event has none; leave it out"
            self.fault(_line(entries["trigger"]), f"{path}.trigger", what)
        if "ticket" not in entries:
            if not any(key in later for key in self._keys_of(node)):
                self.fault(line, f"{path}.ticket", "is missing: it says what the row becomes")
            return None
        ticket = self._ticket(entries["ticket"], f"{path}.ticket", names, when=when, each=each)
        if ticket is None:
            return None
        return Rule(
            name=name,
            id=identity,
            source=source,
            trigger=trigger,
            ops=ops,
            line=line,
            where=self._where(line, path),
            ticket=ticket[0],
            sayings=ticket[1],
            env=self.env,
        )

    def _name(self, entries: Mapping[str, yaml.Node], key: str, path: str) -> str | None:
        if key not in entries:
            return None
        name = self._text(entries[key], f"{path}.{key}")
        if name is not None and not _NAME.fullmatch(name):
            self.fault(
                _line(entries[key]),
                f"{path}.{key}",
                "must be 1 to 60 letters, digits, hyphens and underscores (A-Z only)",
            )
            return None
        return name

    def _source(self, entries: Mapping[str, yaml.Node], path: str, line: int) -> str:
        if "from" not in entries:
            self.fault(line, f"{path}.from", "is missing; write `from: hasura/public.TABLE`")
            return ""
        node = entries["from"]
        source = self._text(node, f"{path}.from")
        if source is None or _SOURCE.fullmatch(source):
            return source or ""
        kind, _, rest = source.partition("/")
        if kind in ("servicenow", "slack"):
            what = f"this version does not hear {kind}/… yet"
        elif kind == "hasura" and rest and "." not in rest:
            what = f"names no schema; did you mean `hasura/public.{rest}`?"
        else:
            what = "must be hasura/SCHEMA.TABLE, cron/NAME or scheduled"
        self.fault(_line(node), f"{path}.from", what)
        return ""

    def _ticket(
        self, node: yaml.Node, path: str, names: tuple[str, ...], *, when: Saying | None, each: Saying | None
    ) -> tuple[TicketRule, Sayings] | None:
        later = {"number": "this version does not have tickets by their number yet"}
        entries = self._mapping(node, path, TICKET_KEYS, refused=later)
        if entries is None:
            return None
        table = self._text(entries["table"], f"{path}.table") if "table" in entries else DEFAULT_TABLE
        if table is not None and not _COLUMN.fullmatch(table):
            self.fault(_line(entries["table"]), f"{path}.table", "is not the name of a table (such as incident)")
        table = table or DEFAULT_TABLE
        shared = self._shared(entries, path)
        states = self._states(entries, path, table)
        self.choices = self._choices(entries, path, table)
        after_close = self._choice(entries, "after_close", path, AFTER_CLOSE) or _after_close(states)
        refused = _refused(table, states, links=after_close != "leave", templated="template" in entries)
        fields = self._fields(entries, path, names, _line(node), refused)
        sayings = Sayings(
            key=self._key(entries, path, names, _line(node), shared=shared),
            fields=fields,
            when=when,
            each=each,
            resolve_when=self._expression(entries, "resolve_when", path, names),
            close_code=self._closing(entries, "close_code", path, names),
            close_notes=self._closing(entries, "close_notes", path, names),
            order_by=self._expression(entries, "order_by", path, names),
            template=self._template(entries["template"], f"{path}.template", names) if "template" in entries else None,
        )
        written, opening = _written(table, fields, templated="template" in entries)
        known = table in STATES
        ticket = TicketRule(
            table=table,
            states=states,
            shared=shared,
            creates=self._ops(entries, "creates", path, CREATING_OPS) or frozenset(CREATING_OPS),
            after_close=after_close,
            on_delete=self._choice(entries, "on_delete", path, ON_DELETE) or _on_delete(table, states, shared=shared),
            on_missing=self._choice(entries, "on_missing", path, ON_MISSING) or "fail",
            fields=written,
            opening=opening,
            leave_empty=self._on_unknown(entries, path, fields),
            closing=tuple(key for key in ("close_code", "close_notes") if known or key in entries),
            choices=self.choices,
            resolves="resolve_when" in entries,
            where=dict.fromkeys(("", *TICKET_KEYS), self._where(_line(node), path))
            | {key: self._where(_line(value), f"{path}.{key}") for key, value in entries.items()},
        )
        self._lives(entries, path, ticket, kind=fields.get("type"))
        return ticket, sayings

    def _on_unknown(self, entries: Mapping[str, yaml.Node], path: str, fields: Collection[str]) -> frozenset[str]:
        """The columns that are left empty where nobody goes by the name."""
        if "on_unknown" not in entries:
            return frozenset()
        path = f"{path}.on_unknown"
        columns = self._mapping(entries["on_unknown"], path, None) or {}
        for column, node in columns.items():
            if column not in fields:
                what = f"is not among the `fields`{meant(column, fields)}"
                self.fault(_line(node), f"{path}.{column}", what)
            elif column not in REFERENCES:
                what = f"is no column whose names are looked up: those are {', '.join(sorted(REFERENCES))}"
                self.fault(_line(node), f"{path}.{column}", what)
        return frozenset(
            column for column in columns if self._choice(columns, column, path, ON_UNKNOWN) == "leave_empty"
        )

    def _closing(self, entries: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]) -> Saying | None:
        return self._chosen(entries[key], f"{path}.{key}", names, key) if key in entries else None

    def _states(self, entries: Mapping[str, yaml.Node], path: str, table: str) -> States:
        if "states" not in entries:
            return states_of(table)
        node, path = entries["states"], f"{path}.states"
        declared = self._mapping(node, path, STATES_KEYS)
        if declared is None:
            return NO_STATES
        final = frozenset(self._state_list(declared, "final", path))
        resolved, reopened, canceled = (
            self._state(declared[key], f"{path}.{key}") if key in declared else ""
            for key in ("resolved", "reopened", "canceled")
        )
        if "resolved" not in declared:
            self.fault(_line(node), f"{path}.resolved", "is missing: the state of a ticket whose row is well again")
        if reopened and reopened in {resolved, canceled, *final}:
            what = "is a state of tickets that have ended; name the one that they go back to"
            self.fault(_line(declared["reopened"]), f"{path}.reopened", what)
        passed = self._state_list(declared, "path", path)
        passed = passed[:-1] if passed and passed[-1] == resolved else passed
        if len({*passed}) < len(passed) or {*passed} & {resolved, canceled, *final}:
            what = "names a state twice, or one of tickets that have ended; name those before `resolved`, in order"
            self.fault(_line(declared["path"]), f"{path}.path", what)
            passed = []
        known = states_of(table)
        return States(
            resolved=resolved,
            reopened=reopened,
            canceled=canceled,
            final=final,
            link=known.link or LINK,
            close_code=known.close_code,
            paths={"": (*passed, resolved)} if passed else {},
        )

    def _state_list(self, declared: Mapping[str, yaml.Node], key: str, path: str) -> list[str]:
        path = f"{path}.{key}"
        entries = self._list(declared[key], path) if key in declared else []
        return [state for number, entry in enumerate(entries) if (state := self._state(entry, f"{path}[{number}]"))]

    def _choices(self, entries: Mapping[str, yaml.Node], path: str, table: str) -> Mapping[str, Mapping[str, str]]:
        """The choices of the ticket's columns: as shipped, but for those that the rule declares."""
        if "choices" not in entries:
            return shipped(table)
        path = f"{path}.choices"
        declared = self._mapping(entries["choices"], path, None, refused=_CHOICES_REFUSED) or {}
        own = {}
        for column, node in declared.items():
            values = [
                self._text(entry, f"{path}.{column}[{number}]")
                for number, entry in enumerate(
                    self._list(node, f"{path}.{column}", empty="is empty; name the values that the column takes")
                )
            ]
            own[column] = dict.fromkeys([value for value in values if value], "")
        return {**shipped(table), **own}

    def _state(self, node: yaml.Node, path: str) -> str:
        """A state's value as it was written; empty where it is none."""
        written = self._text(node, path)
        if written is not None and (node.tag == "tag:yaml.org,2002:null" or not _STATE.fullmatch(written)):
            self.fault(_line(node), path, "is not the value of a state (such as 3, not its label)")
            return ""
        return written or ""

    def _lives(self, entries: Mapping[str, yaml.Node], path: str, ticket: TicketRule, *, kind: Saying | None) -> None:
        """Refuse a life that this kind of ticket does not have."""
        code = ticket.states.close_code
        if "close_code" not in entries and code and not_a_choice(ticket.choices.get("close_code"), code):
            what = f"the {code!r} that is sent unless a rule gives a `close_code` is none of them; give one"
            self.fault(_line(entries["choices"]), f"{path}.choices.close_code", what)
        said = kind.template.literals() if kind else frozenset()
        if ticket.table not in STATES and "states" not in entries:
            for key in _STATE_KEYS:
                if key in entries:
                    self.fault(_line(entries[key]), f"{path}.{key}", f"{_STATES_UNKNOWN} or take it out")
        if "on_delete" in entries and ticket.on_delete != "leave":
            what = ""
            if ticket.table not in STATES and "states" not in entries:
                what = f"{_STATES_UNKNOWN}, write `leave` or take it out"
            elif ticket.shared:
                what = "no row closes a ticket that is shared; write `leave` or take it out"
            elif ticket.on_delete == "cancel" and not ticket.states.canceled:
                what = "`states` has no `canceled`; say which state that is"
            if what:
                self.fault(_line(entries["on_delete"]), f"{path}.on_delete", what)
        states = ticket.states
        if (
            ticket.after_close == "reopen"
            and states.resolved
            and not (states.reopened or states.resolved in states.final)
        ):
            what = "`states` has no `reopened`; say which state that is, or write `new`"
            self.fault(_line(entries["after_close"]), f"{path}.after_close", what)
        if ticket.table == CHANGE_TABLE and "template" not in entries and said == {"standard"}:
            what = "a standard change is made from a template; name it beside `fields`, as `template`"
            self.fault(_line(entries["fields"]), f"{path}.fields.type", what)
        if "template" in entries and ticket.table != CHANGE_TABLE:
            what = f"only a {CHANGE_TABLE} is made from a template; say `table: {CHANGE_TABLE}` or take it out"
            self.fault(_line(entries["template"]), f"{path}.template", what)

    def _chosen(
        self, node: yaml.Node, path: str, names: tuple[str, ...], column: str, *, constants: bool = False
    ) -> Saying:
        """A template for a column; a plain text that is none of the column's choices is a fault."""
        faults = len(self.faults)
        saying = self._template(node, path, names, constants=constants)
        if len(self.faults) > faults or node.tag == "tag:yaml.org,2002:null" or not isinstance(node, yaml.ScalarNode):
            return saying
        plain = not any(braces in node.value for braces in ("{{", "{%", "{#"))
        choices = self.choices.get(column)
        if plain and choices is not None and (wrong := not_a_choice(choices, node.value)):
            self.fault(_line(node), path, f"{wrong}{meant_choice(choices, node.value)}")
        return saying

    def _key(
        self, entries: Mapping[str, yaml.Node], path: str, names: tuple[str, ...], line: int, *, shared: bool
    ) -> tuple[Saying, ...]:
        path = f"{path}.key"
        if "key" not in entries:
            self.fault(line, path, 'is missing; write what identifies the row, such as "{{ row.id }}"')
            return (Saying(_NOTHING, path),)
        node = entries["key"]
        faults = len(self.faults)
        if isinstance(node, yaml.SequenceNode):
            nodes = self._list(node, path, empty="is empty; write what identifies the row")
            if len(nodes) > KEY_PARTS_MAX:
                self.fault(_line(node), path, f"has more than {KEY_PARTS_MAX} parts")
            parts = tuple(self._template(part, f"{path}[{number}]", names) for number, part in enumerate(nodes))
        else:
            parts = (self._template(node, path, names),)
        if len(self.faults) > faults:
            return parts or (Saying(_NOTHING, path),)
        for part in parts:
            self._separated(part)
        used = frozenset[str]().union(*(part.template.names for part in parts))
        if shared:
            return parts
        if not used & {"row", "new", "old", "item", "event"}:
            what = "is the same for every row; name a column, or say `shared: true` if all share one ticket"
            self.fault(_line(node), path, what)
        elif "item" in names and "item" not in used:
            what = "is the same for every element; name a part of `item`, or say `shared: true`"
            self.fault(_line(node), path, what)
        return parts

    def _separated(self, part: Saying) -> None:
        """Warn of a text that joins several values: what stands between them may stand in one of them too."""
        joined = part.template.joined()
        if joined is None:
            return
        instead = ", ".join(f'"{{{{ {value} }}}}"' for value in joined)
        instead = f"key: [{instead}]" if joined else 'a list, such as key: ["{{ row.id }}", "{{ item.id }}"]'
        self.warnings.append(
            f"{part.where}: joins several values in one text, and two rows share a ticket where what stands between "
            f"them stands in one of them too; write {instead}"
        )

    def _fields(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        line: int,
        refused: Mapping[str, str],
    ) -> dict[str, Saying]:
        path = f"{path}.fields"
        if "fields" not in entries:
            self.fault(line, path, "is missing; it says what the ticket should say")
            return {}
        node = entries["fields"]
        columns = self._mapping(node, path, None, refused=refused)
        if columns is not None and not node.value:
            self.fault(_line(node), path, "is empty; name a column and what it should say")
        return {
            column: self._chosen(value, f"{path}.{column}", names, column, constants=True)
            for column, value in (columns or {}).items()
        }

    def _shared(self, entries: Mapping[str, yaml.Node], path: str) -> bool:
        if "shared" not in entries:
            return False
        node = entries["shared"]
        if node.tag != "tag:yaml.org,2002:bool":
            self.fault(_line(node), f"{path}.shared", "must be true or false")
        return _is_true(node)

    def _ops(self, entries: Mapping[str, yaml.Node], key: str, path: str, known: Collection[Op]) -> frozenset[Op]:
        if key not in entries:
            return frozenset()
        path = f"{path}.{key}"
        ops = set()
        for number, node in enumerate(self._list(entries[key], path, empty="is empty; leave it out for the default")):
            word = self._text(node, f"{path}[{number}]")
            if word is None:
                continue
            if word in known:
                ops.add(Op(word))
            else:
                what = f"must be one of {', '.join(known)}{meant(word.upper(), known)}"
                self.fault(_line(node), f"{path}[{number}]", what)
        return frozenset(ops)

    def _choice(self, entries: Mapping[str, yaml.Node], key: str, path: str, known: Collection[str]) -> str | None:
        if key not in entries:
            return None
        word = self._text(entries[key], f"{path}.{key}")
        if word is not None and word not in known:
            self.fault(_line(entries[key]), f"{path}.{key}", f"must be one of {', '.join(known)}{meant(word, known)}")
            return None
        return word

    # Templates

    def _expression(
        self, entries: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]
    ) -> Saying | None:
        if key not in entries:
            return None
        node = entries[key]
        path = f"{path}.{key}"
        source = self._text(node, path)
        if source is None:
            return None
        saying = Saying(_NOTHING, self._where(_line(node), path))
        if node.tag == "tag:yaml.org,2002:bool":
            source = "true" if _is_true(node) else "false"
        if not source.strip():
            self.fault(_line(node), path, "is empty")
        elif "{{" in source or "{%" in source:
            bare = source.strip().removeprefix("{{").removesuffix("}}").strip()
            hint = f"`{bare}`" if is_expression(bare) else "it without braces"
            self.fault(_line(node), path, f"is an expression; write {hint}")
        else:
            return Saying(self._checked(node, path, lambda: expression(source, names=names)), saying.where)
        return saying

    def _template(self, node: yaml.Node, path: str, names: tuple[str, ...], *, constants: bool = False) -> Saying:
        where = self._where(_line(node), path)
        source = self._text(node, path)
        if source is None:
            return Saying(_NOTHING, where)
        if constants and node.tag == "tag:yaml.org,2002:bool":
            source = "true" if _is_true(node) else "false"
        elif constants and node.tag == "tag:yaml.org,2002:null":
            source = ""
        elif not source.strip():
            if not constants:
                self.fault(_line(node), path, "is empty")
        elif "{{" not in source and "{%" not in source and _BARE.match(source) and is_expression(source):
            self.fault(
                _line(node), path, f'is a text that looks like an expression; write "{{{{ {source.strip()} }}}}"'
            )
            return Saying(_NOTHING, where)
        return Saying(self._checked(node, path, lambda: checked_template(source, names=names)), where)

    def _checked(self, node: yaml.Node, path: str, check: Callable[[], Template]) -> Template:
        # In a block of lines, a template's first line is the one below the bar.
        first = _line(node) + 1 if isinstance(node, yaml.ScalarNode) and node.style == "|" else None
        try:
            checked = check()
        except InvalidTemplate as bad:
            line = _line(node) if first is None else first + bad.line - 1
            what = bad.what
            if bad.unknown in _LATER_NAMES:
                what = f"this version does not offer `{bad.unknown}` to rules yet"
            elif bad.unknown == "item":
                what = "there is no `item` here: a rule has one beside `each`"
            self.fault(line, path, what)
            return _NOTHING
        for variable in sorted(checked.parts_of("env") - self.env.keys()):
            what = f"`env` does not list `{variable}`{meant(variable, self.env)}; list it at the top"
            self.fault(_line(node), path, what)
        return checked

    # YAML

    def _mapping(
        self,
        node: yaml.Node,
        path: str,
        known: Mapping[str, str] | None,
        *,
        refused: Mapping[str, str] | None = None,
    ) -> dict[str, yaml.Node] | None:
        """The entries of *node* under the *known* keys (None: names of columns); all others are faults."""
        if not isinstance(node, yaml.MappingNode):
            self.fault(_line(node), path, "must be a mapping of names to values")
            return None
        entries: dict[str, yaml.Node] = {}
        for key, value, merged in self._pairs(node):
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            below = f"{path}.{name}" if path else name
            if name in entries:
                if not merged:
                    self.fault(_line(key), below, "stands here twice")
            elif refused and name in refused:
                self.fault(_line(key), below, refused[name])
            elif known is not None and name not in known:
                self.fault(_line(key), below, f"there is no such key{meant(name, known)}")
            elif known is None and not _COLUMN.fullmatch(name):
                self.fault(_line(key), below, "is not the name of a column (such as short_description)")
            else:
                entries[name] = value
        return entries

    def _pairs(self, node: yaml.MappingNode, depth: int = 0) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Key and value of each entry, and whether it was merged with ``<<``; those come last."""
        merges: list[yaml.Node] = []
        for key, value in node.value:
            self._count()
            if key.tag == "tag:yaml.org,2002:merge":
                merges += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, depth > 0
        for merge in merges:
            if not isinstance(merge, yaml.MappingNode) or depth > 5:
                self.fault(_line(merge), "<<", "must be an alias of a mapping")
            else:
                for key, value, _ in self._pairs(merge, depth + 1):
                    yield key, value, True

    def _keys_of(self, node: yaml.Node) -> list[str]:
        return [str(key.value) for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []

    def _list(self, node: yaml.Node, path: str, *, empty: str = "") -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            self.fault(_line(node), path, "must be a list")
            return []
        if empty and not node.value:
            self.fault(_line(node), path, empty)
        for _ in node.value:
            self._count()
        entries: list[yaml.Node] = node.value
        return entries

    def _text(self, node: yaml.Node, path: str) -> str | None:
        """A scalar as it was written."""
        if isinstance(node, yaml.ScalarNode):
            written: str = node.value
            return written
        quoted = isinstance(node, yaml.MappingNode) and node.flow_style
        what = 'must be one value; a template that begins with braces stands in quotes: "{{ … }}"' if quoted else ""
        self.fault(_line(node), path, what or "must be one value, not a list or a mapping")
        return None

    def _count(self) -> None:
        self.entries += 1
        if self.entries > ENTRIES_MAX:
            raise _TooMuch


def _written(table: str, fields: Collection[str], *, templated: bool) -> tuple[tuple[str, ...], frozenset[str]]:
    """The columns that a rule with these *fields* writes, and those among them that are written at creation only."""
    of_template = ("type", TEMPLATE, "chg_model") if templated else ()
    model = ("chg_model",) if table == CHANGE_TABLE and "type" in fields else ()
    return tuple(dict.fromkeys((*fields, *of_template, *model))), frozenset(of_template)


def _refused(table: str, states: States, *, links: bool, templated: bool) -> dict[str, str]:
    """The columns that may not stand under `fields`, and why: something else writes them."""
    refused = dict(FIELDS_REFUSED)
    if states.link == LINK and links:
        refused[LINK] = "is written by `after_close: new`; to write it yourself, say `after_close: leave`"
    if table == CHANGE_TABLE:
        refused[TEMPLATE] = "stands beside `fields`, as `template`"
    if templated:
        refused |= dict.fromkeys(("type", "chg_model"), "is `standard`, because there is a `template`; take it out")
    return refused


def _after_close(states: States) -> str:
    if not states.resolved:
        return "leave"
    return "reopen" if states.reopened else "new"


def _on_delete(table: str, states: States, *, shared: bool) -> str:
    if shared or not states.resolved:
        return "leave"
    if table != CHANGE_TABLE:
        return "resolve"
    # What a change was for is gone; to close it as successful would say that it was carried out.
    return "cancel" if states.canceled else "leave"


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _is_true(node: yaml.Node) -> bool:
    return str(node.value).lower() in ("true", "yes", "on")


# For editors


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, by which editors complete it. The checks of load() go further."""
    expression_schema = {"type": ["string", "boolean"]}
    template_schema = {"type": ["string", "number", "boolean", "null"]}
    key_schema = {"type": ["string", "number"]}
    state_schema = {"type": ["string", "integer"], "pattern": f"^{_STATE.pattern}$"}
    column = f"^(?!(?:{'|'.join(FIELDS_REFUSED)})$){_COLUMN.pattern}$"

    def ops(known: Collection[Op]) -> dict[str, Any]:
        return {"type": "array", "items": {"enum": [op.value for op in known]}, "minItems": 1, "uniqueItems": True}

    def mapping(keys: Mapping[str, str], required: list[str], shapes: Mapping[str, Any]) -> dict[str, Any]:
        properties = {key: {"description": what, **shapes.get(key, {"type": "string"})} for key, what in keys.items()}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    name_schema = {"type": "string", "pattern": f"^{_NAME.pattern}$"}
    ticket = mapping(
        TICKET_KEYS,
        ["key", "fields"],
        {
            "table": {"type": "string", "pattern": f"^{_COLUMN.pattern}$", "default": DEFAULT_TABLE},
            "key": {
                "anyOf": [
                    key_schema,
                    {"type": "array", "items": key_schema, "minItems": 1, "maxItems": KEY_PARTS_MAX},
                ]
            },
            "fields": {
                "type": "object",
                "patternProperties": {column: template_schema},
                "additionalProperties": False,
                "minProperties": 1,
            },
            "states": mapping(
                STATES_KEYS,
                ["resolved"],
                {
                    **dict.fromkeys(STATES_KEYS, state_schema),
                    **{key: {"type": "array", "items": state_schema} for key in ("final", "path")},
                },
            ),
            "choices": {
                "type": "object",
                "patternProperties": {
                    f"^(?!(?:{'|'.join(_CHOICES_REFUSED)})$){_COLUMN.pattern}$": {
                        "type": "array",
                        "items": {"type": ["string", "number", "boolean"]},
                        "minItems": 1,
                    }
                },
                "additionalProperties": False,
            },
            "resolve_when": expression_schema,
            "after_close": {"enum": list(AFTER_CLOSE)},
            "creates": ops(CREATING_OPS),
            "on_delete": {"enum": list(ON_DELETE)},
            "on_missing": {"enum": list(ON_MISSING), "default": "fail"},
            "on_unknown": {
                "type": "object",
                "propertyNames": {"enum": sorted(REFERENCES.keys() - FIELDS_REFUSED.keys() - {TEMPLATE})},
                "additionalProperties": {"enum": list(ON_UNKNOWN)},
            },
            "shared": {"type": "boolean", "default": False},
        },
    )
    rule = mapping(
        RULE_KEYS,
        ["name", "from", "ticket"],
        {
            "name": name_schema,
            "id": name_schema,
            "from": {"type": "string", "pattern": f"^(?:{_SOURCE.pattern})$"},
            "trigger": {"type": "string", "minLength": 1},
            "ops": ops(tuple(Op)),
            "when": expression_schema,
            "ticket": ticket,
        },
    )
    variables = {"type": "array", "items": {"type": "string", "pattern": f"^{_VARIABLE.pattern}$"}}
    top = mapping(
        TOP_KEYS,
        ["version", "rules"],
        {"version": {"const": 1}, "env": variables, "rules": {"type": "array", "items": rule, "minItems": 1}},
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Which rows become which tickets",
        **top,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=2) + "\n")
