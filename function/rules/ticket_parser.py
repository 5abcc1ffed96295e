"""The `ticket` of a rule, read and checked. Pure."""

from collections.abc import Collection, Mapping
from typing import Final

import yaml

from function.core.lifecycle import (
    COLUMN_REFERENCES,
    LINK,
    NO_LIFECYCLE,
    STATES,
    Lifecycle,
    invalid_choice,
    lifecycle_of,
    shipped_choices,
    suggest_choice,
)
from function.core.values import did_you_mean
from function.rules.key_parser import KeyParser
from function.rules.model import RuleTemplate, RuleTemplates
from function.rules.schema import (
    AFTER_CLOSE,
    CHANGE_TABLE,
    CHOICES_REFUSED,
    COLUMN,
    CREATING_OPS,
    DEFAULT_TABLE,
    FIELDS_REFUSED,
    ON_DELETE,
    ON_MISSING,
    ON_UNKNOWN,
    STATE,
    STATES_KEYS,
    TICKET_KEYS,
)
from function.rules.template_nodes import TemplateReader
from function.rules.ticket import TEMPLATE, TicketRule, TicketTemplates
from function.rules.yaml_nodes import NodeReader, is_bool, is_null, is_true

_STATE_KEYS = ("resolve_when", "close_code", "close_notes", "after_close")
_STATES_UNKNOWN: Final = "the states of this table are not known: declare `states`"


class TicketRuleParser:
    """Parses tickets of rules, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self._nodes = nodes
        self._templates = templates
        self._keys = KeyParser(nodes, templates, kind="ticket")
        # Of the ticket that is being read.
        self.choices: Mapping[str, Mapping[str, str]] = {}

    def parse(
        self,
        node: yaml.Node,
        path: str,
        names: tuple[str, ...],
        *,
        when: RuleTemplate | None,
        each: RuleTemplate | None,
    ) -> tuple[TicketRule, RuleTemplates] | None:
        commands = {"number": "is for rules from slack/COMMAND; a row's ticket has a `key`"}
        entries = self._nodes.mapping(node, path, TICKET_KEYS, refused=commands)
        if entries is None:
            return None
        table = (
            self._nodes.text(entries["table"], f"{path}.table")
            if "table" in entries
            else DEFAULT_TABLE
        )
        if table is not None and not COLUMN.fullmatch(table):
            self._nodes.fault(
                entries["table"],
                f"{path}.table",
                "is not the name of a table (such as incident)",
            )
        table = table or DEFAULT_TABLE
        shared = self._parse_shared(entries, path)
        states = self._parse_states(entries, path, table)
        self.choices = self._parse_choices(entries, path, table)
        after_close = self._nodes.choice(
            entries, "after_close", path, AFTER_CLOSE
        ) or _default_after_close(states)
        refused = _refuse_columns(
            table, states, links=after_close != "leave", templated="template" in entries
        )
        fields = self._parse_fields(entries, path, names, node, refused)
        templates = RuleTemplates(
            key=self._keys.parse(entries, path, names, node, shared=shared),
            when=when,
            each=each,
            order_by=self._templates.expression(entries, "order_by", path, names),
        )
        own = TicketTemplates(
            fields=fields,
            resolve_when=self._templates.expression(entries, "resolve_when", path, names),
            close_code=self._parse_closing(entries, "close_code", path, names),
            close_notes=self._parse_closing(entries, "close_notes", path, names),
            template=self._templates.template(entries["template"], f"{path}.template", names)
            if "template" in entries
            else None,
            sys_id=self._templates.expression(entries, "sys_id", path, names),
        )
        columns, create_only = _list_columns(table, fields, templated="template" in entries)
        known = table in STATES
        ticket = TicketRule(
            table=table,
            states=states,
            shared=shared,
            creates=self._nodes.ops(entries, "creates", path, CREATING_OPS)
            or frozenset(CREATING_OPS),
            after_close=after_close,
            on_delete=self._nodes.choice(entries, "on_delete", path, ON_DELETE)
            or _default_on_delete(table, states, shared=shared),
            on_missing=self._nodes.choice(entries, "on_missing", path, ON_MISSING) or "fail",
            fields=columns,
            create_only=create_only,
            leave_empty=self._parse_on_unknown(entries, path, fields),
            closing_fields=tuple(
                key for key in ("close_code", "close_notes") if known or key in entries
            ),
            choices=self.choices,
            resolves="resolve_when" in entries,
            templates=own,
            locations=dict.fromkeys(("", *TICKET_KEYS), self._nodes.locate(node, path))
            | {key: self._nodes.locate(value, f"{path}.{key}") for key, value in entries.items()},
        )
        self._check_lifecycle(entries, path, ticket, kind=fields.get("type"))
        return ticket, templates

    def _parse_on_unknown(
        self, entries: Mapping[str, yaml.Node], path: str, fields: Collection[str]
    ) -> frozenset[str]:
        """The columns that are left empty where nobody goes by the name."""
        if "on_unknown" not in entries:
            return frozenset()
        path = f"{path}.on_unknown"
        columns = self._nodes.mapping(entries["on_unknown"], path, None) or {}
        for column, node in columns.items():
            if column not in fields:
                what = f"is not among the `fields`{did_you_mean(column, fields)}"
                self._nodes.fault(node, f"{path}.{column}", what)
            elif column not in COLUMN_REFERENCES:
                what = (
                    "is no column whose names are looked up: those are "
                    f"{', '.join(sorted(COLUMN_REFERENCES))}"
                )
                self._nodes.fault(node, f"{path}.{column}", what)
        return frozenset(
            column
            for column in columns
            if self._nodes.choice(columns, column, path, ON_UNKNOWN) == "leave_empty"
        )

    def _parse_closing(
        self, entries: Mapping[str, yaml.Node], key: str, path: str, names: tuple[str, ...]
    ) -> RuleTemplate | None:
        return (
            self._parse_choice(entries[key], f"{path}.{key}", names, key)
            if key in entries
            else None
        )

    def _parse_states(self, entries: Mapping[str, yaml.Node], path: str, table: str) -> Lifecycle:
        if "states" not in entries:
            return lifecycle_of(table)
        node, path = entries["states"], f"{path}.states"
        declared = self._nodes.mapping(node, path, STATES_KEYS)
        if declared is None:
            return NO_LIFECYCLE
        final = frozenset(self._parse_state_list(declared, "final", path))
        resolved, reopened, canceled = (
            self._parse_state(declared[key], f"{path}.{key}") if key in declared else ""
            for key in ("resolved", "reopened", "canceled")
        )
        if "resolved" not in declared:
            self._nodes.fault(
                node,
                f"{path}.resolved",
                "is missing: the state of a ticket that is resolved",
            )
        if reopened and reopened in {resolved, canceled, *final}:
            what = "is a state of tickets that have ended; name the one that they go back to"
            self._nodes.fault(declared["reopened"], f"{path}.reopened", what)
        passed = self._parse_state_list(declared, "path", path)
        passed = passed[:-1] if passed and passed[-1] == resolved else passed
        if len({*passed}) < len(passed) or {*passed} & {resolved, canceled, *final}:
            what = (
                "names a state twice, or one of tickets that have ended; name those before "
                "`resolved`, in order"
            )
            self._nodes.fault(declared["path"], f"{path}.path", what)
            passed = []
        known = lifecycle_of(table)
        return Lifecycle(
            resolved=resolved,
            reopened=reopened,
            canceled=canceled,
            final=final,
            link=known.link or LINK,
            close_code=known.close_code,
            paths={"": (*passed, resolved)} if passed else {},
        )

    def _parse_state_list(
        self, declared: Mapping[str, yaml.Node], key: str, path: str
    ) -> list[str]:
        path = f"{path}.{key}"
        elements = self._nodes.elements(declared[key], path) if key in declared else []
        return [state for element in elements if (state := self._parse_state(*element))]

    def _parse_choices(
        self, entries: Mapping[str, yaml.Node], path: str, table: str
    ) -> Mapping[str, Mapping[str, str]]:
        """The choices of the ticket's columns: as shipped, but for those that the rule declares."""
        if "choices" not in entries:
            return shipped_choices(table)
        path = f"{path}.choices"
        declared = (
            self._nodes.mapping(entries["choices"], path, None, refused=CHOICES_REFUSED) or {}
        )
        own = {}
        for column, node in declared.items():
            elements = self._nodes.elements(
                node, f"{path}.{column}", empty="is empty; name the values that the column takes"
            )
            values = [self._nodes.text(*element) for element in elements]
            own[column] = dict.fromkeys([value for value in values if value], "")
        return {**shipped_choices(table), **own}

    def _parse_state(self, node: yaml.Node, path: str) -> str:
        """A state's value as it was written; empty where it is none."""
        written = self._nodes.text(node, path)
        if written is not None and (is_null(node) or not STATE.fullmatch(written)):
            self._nodes.fault(node, path, "is not the value of a state (such as 3, not its label)")
            return ""
        return written or ""

    def _check_lifecycle(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        ticket: TicketRule,
        *,
        kind: RuleTemplate | None,
    ) -> None:
        """Refuse what this kind of ticket cannot go through."""
        code = ticket.states.close_code
        if (
            "close_code" not in entries
            and code
            and invalid_choice(ticket.choices.get("close_code"), code)
        ):
            what = (
                f"the {code!r} that is sent unless a rule gives a `close_code` is "
                "none of them; give one"
            )
            self._nodes.fault(entries["choices"], f"{path}.choices.close_code", what)
        if "sys_id" in entries and ticket.shared:
            what = "one row names its ticket, and this one is shared; take out one of the two"
            self._nodes.fault(entries["sys_id"], f"{path}.sys_id", what)
        types = kind.syntax.find_literals() if kind else frozenset()
        if ticket.table not in STATES and "states" not in entries:
            for key in _STATE_KEYS:
                if key in entries:
                    self._nodes.fault(
                        entries[key], f"{path}.{key}", f"{_STATES_UNKNOWN} or take it out"
                    )
        if "on_delete" in entries and ticket.on_delete != "leave":
            what = ""
            if ticket.table not in STATES and "states" not in entries:
                what = f"{_STATES_UNKNOWN}, write `leave` or take it out"
            elif ticket.shared:
                what = "no row closes a ticket that is shared; write `leave` or take it out"
            elif ticket.on_delete == "cancel" and not ticket.states.canceled:
                what = "`states` has no `canceled`; say which state that is"
            if what:
                self._nodes.fault(entries["on_delete"], f"{path}.on_delete", what)
        states = ticket.states
        if (
            ticket.after_close == "reopen"
            and states.resolved
            and not (states.reopened or states.resolved in states.final)
        ):
            what = "`states` has no `reopened`; say which state that is, or write `new`"
            self._nodes.fault(entries["after_close"], f"{path}.after_close", what)
        if ticket.table == CHANGE_TABLE and "template" not in entries and types == {"standard"}:
            what = (
                "a standard change is made from a template; name it beside `fields`, as `template`"
            )
            self._nodes.fault(entries["fields"], f"{path}.fields.type", what)
        if "template" in entries and ticket.table != CHANGE_TABLE:
            what = (
                f"only a {CHANGE_TABLE} is made from a template; say `table: "
                f"{CHANGE_TABLE}` or take it out"
            )
            self._nodes.fault(entries["template"], f"{path}.template", what)

    def _parse_choice(
        self,
        node: yaml.Node,
        path: str,
        names: tuple[str, ...],
        column: str,
        *,
        constants: bool = False,
    ) -> RuleTemplate:
        """A template for a column; a plain text that is none of the column's choices is a fault."""
        faults = len(self._nodes.faults)
        rule_template = self._templates.template(node, path, names, constants=constants)
        if (
            len(self._nodes.faults) > faults
            or is_null(node)
            or not isinstance(node, yaml.ScalarNode)
        ):
            return rule_template
        plain = not any(braces in node.value for braces in ("{{", "{%", "{#"))
        choices = self.choices.get(column)
        if plain and choices is not None and (wrong := invalid_choice(choices, node.value)):
            self._nodes.fault(node, path, f"{wrong}{suggest_choice(choices, node.value)}")
        return rule_template

    def _parse_fields(
        self,
        entries: Mapping[str, yaml.Node],
        path: str,
        names: tuple[str, ...],
        ticket: yaml.Node,
        refused: Mapping[str, str],
    ) -> dict[str, RuleTemplate]:
        path = f"{path}.fields"
        if "fields" not in entries:
            self._nodes.fault(ticket, path, "is missing; it says what the ticket should say")
            return {}
        node = entries["fields"]
        columns = self._nodes.mapping(node, path, None, refused=refused)
        if columns is not None and not node.value:
            self._nodes.fault(node, path, "is empty; name a column and what it should say")
        return {
            column: self._parse_choice(value, f"{path}.{column}", names, column, constants=True)
            for column, value in (columns or {}).items()
        }

    def _parse_shared(self, entries: Mapping[str, yaml.Node], path: str) -> bool:
        if "shared" not in entries:
            return False
        node = entries["shared"]
        if not is_bool(node):
            self._nodes.fault(node, f"{path}.shared", "must be true or false")
        return is_true(node)


def _list_columns(
    table: str, fields: Collection[str], *, templated: bool
) -> tuple[tuple[str, ...], frozenset[str]]:
    """The columns that a rule with these *fields* writes, and those among them that are written at
    creation only."""
    of_template = ("type", TEMPLATE, "chg_model") if templated else ()
    model = ("chg_model",) if table == CHANGE_TABLE and "type" in fields else ()
    return tuple(dict.fromkeys((*fields, *of_template, *model))), frozenset(of_template)


def _refuse_columns(
    table: str, states: Lifecycle, *, links: bool, templated: bool
) -> dict[str, str]:
    """The columns that may not stand under `fields`, and why: something else writes them."""
    refused = dict(FIELDS_REFUSED)
    if states.link == LINK and links:
        refused[LINK] = (
            "is written by `after_close: new`; to write it yourself, say `after_close: leave`"
        )
    if table == CHANGE_TABLE:
        refused[TEMPLATE] = "stands beside `fields`, as `template`"
    if templated:
        refused |= dict.fromkeys(
            ("type", "chg_model"), "is `standard`, because there is a `template`; take it out"
        )
    return refused


def _default_after_close(states: Lifecycle) -> str:
    if not states.resolved:
        return "leave"
    return "reopen" if states.reopened else "new"


def _default_on_delete(table: str, states: Lifecycle, *, shared: bool) -> str:
    if shared or not states.resolved:
        return "leave"
    if table != CHANGE_TABLE:
        return "resolve"
    # What a change was for is gone; to close it as successful would say that it was carried out.
    return "cancel" if states.canceled else "leave"
