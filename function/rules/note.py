"""The `note` of a rule: an entry in the journal of another row's ticket. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Op
from function.core.finding import FileLocation
from function.core.step import DesiredState
from function.rules.budget import MissingKeyError, RenderBudget, RenderError
from function.rules.keys import render_key
from function.rules.model import Rule, Rules, RuleTemplate

# What a note's desired state holds: its text, and the key of the ticket that it is for ("" where
# the row names none).
TEXT: Final = "text"
TICKET_KEY: Final = "for"
# A journal takes 4,000 characters (servicenow/journal.py): what is left beside the marker, its line
# feed and "edited: ".
TEXT_CHARACTERS_MAX: Final = 3966


@dataclass(frozen=True, slots=True)
class NoteTemplates:
    """What a note says of a row. *ticket_key* has one part, or several where the rule gives a
    list."""

    text: RuleTemplate
    ticket_key: tuple[RuleTemplate, ...]


@dataclass(frozen=True, slots=True)
class NoteRule:
    """Which journal a rule's notes go to.

    *ticket* is the id of the rule that makes the tickets; *table*, *on_missing* and *final*, the
    states that a ticket never leaves, are that rule's. *journal* is comments or work_notes.
    *locations* is the place of each of its keys in the rules file; of one that is left out, and of
    "", the note's own.
    """

    ticket: str
    table: str
    on_missing: str
    final: frozenset[str]
    journal: str
    templates: NoteTemplates = field(repr=False)
    locations: Mapping[str, FileLocation] = field(repr=False)

    @property
    def kind(self) -> str:
        return "note"

    @property
    def follows(self) -> bool:
        """A note is for one row: what is said is what the row says where its trail ends."""
        return True

    def all_templates(self) -> Iterator[RuleTemplate]:
        yield self.templates.text
        yield from self.templates.ticket_key

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:  # noqa: ARG002  # the protocol's
        """Nothing about a note is ever over."""
        return False

    def desired(
        self,
        names: Mapping[str, Any],
        budget: RenderBudget,
        *,
        op: Op,  # noqa: ARG002  # the protocol's
        when: bool,
        gone: bool,
    ) -> DesiredState:
        """What the journal should say last. Raises RenderError.

        A text without words is no entry, so it is wanted as little as one whose `when` is false.
        """
        fields: dict[str, str] = {}
        if when and not gone:
            text = self.templates.text.text(names, budget)
            when = bool(text.strip())
            fields = {
                TEXT: _cut(text),
                TICKET_KEY: self._ticket_key(names, budget) if when else "",
            }
        return DesiredState(when=when, resolved=False, gone=gone, fields=fields, close={})

    def desired_before(self, names: Mapping[str, Any], budget: RenderBudget) -> Mapping[str, str]:
        """What the journal should have said; nothing where that cannot be said."""
        try:
            text = self.templates.text.text(names, budget)
            return {TEXT: _cut(text), TICKET_KEY: self._ticket_key(names, budget)}
        except RenderError:
            return {}

    def _ticket_key(self, names: Mapping[str, Any], budget: RenderBudget) -> str:
        try:
            return render_key(
                self.templates.ticket_key,
                names,
                budget,
                where=self.locations["for"],
                called="the key of the ticket",
                needed="it names no ticket",
            )
        except MissingKeyError:
            return ""


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else text[: TEXT_CHARACTERS_MAX - 1] + "…"


def note_of(rule: Rule) -> NoteRule:
    """The note of a *rule* that has one. Raises TypeError for any other."""
    if not isinstance(rule.target, NoteRule):
        raise TypeError(f"{rule.id} has no note")
    return rule.target


def rules_with_notes(rules: Rules) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules.rules if isinstance(rule.target, NoteRule))
