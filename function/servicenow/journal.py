"""Journals, which only grow: how an entry of ours is found again. Pure.

`comments` and `work_notes` are read back empty; their entries stand in ``sys_journal_field``. An
entry carries a marker, a short text that no other has, and the journal is asked for it.
"""

from collections.abc import Sequence
from typing import Final

from function.core.outcome import Failure, Reason, Retryability
from function.servicenow.errors import Refused
from function.servicenow.responses import Record, equals

TABLE: Final = "sys_journal_field"
# What is asked of each entry, to check it by.
FIELDS: Final = ("element_id", "element", "value")
# An entry may be cut at its end (c_JournalFields), where the marker stands if there is room.
JOURNAL_CHARACTERS_MAX: Final = 4000
# One is enough; a few may quote it.
ROWS_MAX: Final = 10


def marker_of(identity: str) -> str:
    """The marker of an entry, whose *identity* is 16 hexadecimal digits."""
    return f"[hasura:{identity}]"


def mark_text(text: str, marker: str) -> str:
    """*text* with its *marker* where it is not cut off."""
    if not marker:
        return text
    behind = f"{text}\n{marker}"
    return behind if len(behind) <= JOURNAL_CHARACTERS_MAX else f"{marker}\n{text}"


def entries_query(sys_id: str, journal: str, marker: str) -> str:
    """The query for the entries of a record's *journal* that hold *marker*, or its beginning."""
    return f"{equals('element_id', sys_id)}^{equals('element', journal)}^valueLIKE{marker}"


def marked_entries(rows: Sequence[Record], sys_id: str, journal: str, marker: str) -> list[Record]:
    """Of the *rows* that came, the entries that were asked for.

    ServiceNow drops a term that it does not understand, and returns every row. Raises Refused where
    none of them was asked for.
    """
    ours = [
        row
        for row in rows
        if row.get("element_id", "").lower() == sys_id.lower()
        and row.get("element") == journal
        and marker in row.get("value", "")
    ]
    if rows and not ours:
        hint = (
            "ServiceNow's journal answered with other entries than were asked for: the "
            "note was not sent."
        )
        raise Refused(Failure(Retryability.PERMANENT, Reason.BAD_ANSWER, hint), call=f"GET {TABLE}")
    return ours
