"""What is written into a journal for a note, and what it is found again by. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from function.core.step import DesiredState
from function.core.values import digest
from function.rules.note import TEXT, TICKET_KEY
from function.servicenow.journal import mark_text, marker_of

EDITED: Final = "edited: "
# An instance shows what stands between [code] and [/code] as HTML, unless somebody has switched
# that off (glide.ui.security.allow_codetag,
# https://www.servicenow.com/docs/r/platform-administration/render-journal-field-entries-as-html.html).
# Nothing is documented that would escape it, so the bracket that begins it becomes another one,
# which looks alike. So does one that would begin a marker of ours: a quoted comment is not to be
# taken for the comment.
_TAG: Final = re.compile(r"\[(?=\s*/?\s*code\s*\]|hasura:)", re.IGNORECASE)
_HARMLESS: Final = "\N{FULLWIDTH LEFT SQUARE BRACKET}"
# Half of a marker's digits are the note's, half are the entry's.
_HALF: Final = 8
_MARKERS: Final = re.compile(r"\[hasura:([0-9a-f]{16})\]")


@dataclass(frozen=True, slots=True)
class NoteEntry:
    """An entry that is sent, or may have been. *identity* is what its marker holds, *sys_id* is the
    ticket's, *version* stands for what it says."""

    identity: str
    sys_id: str
    version: str

    @property
    def marker(self) -> str:
        return marker_of(self.identity)

    def to_text(self) -> str:
        """As the ledger keeps it, in the place of a field's name."""
        return f"{self.identity} {self.sys_id} {self.version}"


def entry_from_text(written: str) -> NoteEntry:
    """Read what NoteEntry.to_text wrote."""
    return NoteEntry(*written.split(" "))


def version_of(wants: DesiredState) -> str:
    """What stands for all that an entry says: its text, and whose ticket it is for."""
    return digest(wants.fields[TICKET_KEY], wants.fields[TEXT])


@dataclass(frozen=True, slots=True)
class NoteMarks:
    """The markers of one note's entries. No other note of any source has the same."""

    source_name: str
    rule: str
    key: str

    @property
    def beginning(self) -> str:
        """How the marker of each of its entries begins."""
        return f"[hasura:{self._note}"

    def identity(self, number: int, version: str) -> str:
        """That of its entry *number*, from 0: a text that comes again later is another entry."""
        return self._note + digest(self._note, str(number), version)[:_HALF]

    def identities(self, texts: list[str]) -> frozenset[str]:
        """Those of its entries in a journal, of which *texts* are some."""
        found = {identity for text in texts for identity in _MARKERS.findall(text)}
        return frozenset(identity for identity in found if identity.startswith(self._note))

    @property
    def _note(self) -> str:
        return digest(self.source_name, self.rule, self.key)[:_HALF]


def write_entry(text: str, marker: str, *, edited: bool) -> str:
    """What is sent for *text*. *edited*: the ticket has an earlier one, which cannot be changed."""
    harmless = _TAG.sub(_HARMLESS, text)
    return mark_text(f"{EDITED if edited else ''}{harmless}", marker)
