"""The `note` of a rule, read and checked. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Final

import yaml

from function.core.values import did_you_mean
from function.rules.key_parser import KeyParser
from function.rules.model import Rule, RuleTemplate, RuleTemplates
from function.rules.note import NoteRule, NoteTemplates
from function.rules.schema import JOURNALS, NOTE_KEYS
from function.rules.template_nodes import NO_TEMPLATE, TemplateReader
from function.rules.ticket import TicketRule
from function.rules.yaml_nodes import NodeReader

_MISSING: Final = {
    "ticket": "is missing; name the rule that makes the ticket",
    "for": 'is missing; write the key of the ticket, such as "{{ row.outage_id }}"',
    "field": (
        "is missing; write comments, which the caller sees and is mailed, or work_notes, which "
        "only agents see"
    ),
    "text": "is missing; it says what the journal should say",
}


class NoteRuleParser:
    """Parses notes of rules, and reports each fault with its line."""

    def __init__(self, nodes: NodeReader, templates: TemplateReader) -> None:
        self._nodes = nodes
        self._templates = templates
        self._keys = KeyParser(nodes, templates, kind="note")

    def parse(
        self,
        node: yaml.Node,
        path: str,
        names: tuple[str, ...],
        *,
        when: RuleTemplate | None,
        each: RuleTemplate | None,
    ) -> tuple[NoteRule, RuleTemplates] | None:
        entries = self._nodes.mapping(node, path, NOTE_KEYS)
        if entries is None:
            return None
        for key, what in _MISSING.items():
            if key not in entries:
                self._nodes.fault(node, f"{path}.{key}", what)
        templates = RuleTemplates(
            key=self._keys.parse(entries, path, names, node),
            when=when,
            each=each,
            order_by=self._templates.expression(entries, "order_by", path, names),
        )
        nothing = RuleTemplate(NO_TEMPLATE, self._nodes.locate(node, path))
        own = NoteTemplates(
            text=self._templates.template(entries["text"], f"{path}.text", names)
            if "text" in entries
            else nothing,
            ticket_key=self._keys.parse_parts(entries["for"], f"{path}.for", names)
            if "for" in entries
            else (nothing,),
        )
        ticket = (
            self._nodes.text(entries["ticket"], f"{path}.ticket") if "ticket" in entries else None
        )
        note = NoteRule(
            ticket=ticket or "",
            # What the ticket's own rule says comes once all rules are read.
            table="",
            on_missing="fail",
            final=frozenset(),
            journal=self._nodes.choice(entries, "field", path, JOURNALS) or JOURNALS[0],
            templates=own,
            locations=dict.fromkeys(("", *NOTE_KEYS), self._nodes.locate(node, path))
            | {key: self._nodes.locate(value, f"{path}.{key}") for key, value in entries.items()},
        )
        return note, templates


def resolve_tickets(rules: Iterable[Rule], named: Collection[str], nodes: NodeReader) -> list[Rule]:
    """*rules*, where each note knows the rule whose tickets it is for. *named* are the names and
    ids of all rules, also of those with faults."""
    rules = list(rules)
    by_name = {rule.id: rule for rule in rules} | {rule.name: rule for rule in rules}
    return [
        _resolved(rule, rule.target, by_name, named, nodes)
        if isinstance(rule.target, NoteRule)
        else rule
        for rule in rules
    ]


def _resolved(
    rule: Rule,
    note: NoteRule,
    by_name: Mapping[str, Rule],
    named: Collection[str],
    nodes: NodeReader,
) -> Rule:
    where = note.locations["ticket"]
    found = by_name.get(note.ticket)
    if found is None:
        if note.ticket and note.ticket not in named:
            tickets = [
                name for name, each in by_name.items() if isinstance(each.target, TicketRule)
            ]
            what = f"there is no rule `{note.ticket}`{did_you_mean(note.ticket, tickets)}"
            nodes.fault(where.line, where.path, what)
        return rule
    if not isinstance(found.target, TicketRule):
        what = f"`{note.ticket}` makes no tickets; name a rule with a `ticket`"
        nodes.fault(where.line, where.path, what)
        return rule
    _warn_of_another_form(note, found, nodes)
    ticket = found.target
    target = replace(
        note,
        ticket=found.id,
        table=ticket.table,
        on_missing=ticket.on_missing,
        final=ticket.states.final,
    )
    return replace(rule, target=target)


def _warn_of_another_form(note: NoteRule, ticket: Rule, nodes: NodeReader) -> None:
    """Warn of a `for` that is a list where the ticket's key is a text, or the other way round: what
    they give is seldom the same."""
    here, there = len(note.templates.ticket_key), len(ticket.templates.key)
    if here != there:
        what = (
            f"has {_counted(here)}, and the `key` of {ticket.name} has {_counted(there)}: the "
            f"tickets of {ticket.name} are found only where both give the same text"
        )
        nodes.warn(note.locations["for"], what)


def _counted(parts: int) -> str:
    return f"{parts} part{'' if parts == 1 else 's'}"
