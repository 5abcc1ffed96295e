"""What came in: one thing that happened at a source, verified and parsed. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from function.core.values import Json

# The source of Hasura's one-off scheduled events, which have no name of their own.
SCHEDULED: Final = "scheduled"
# The session variable that our own mutations go with: it comes back in the events that they cause.
OWN_VARIABLE: Final = "x-hasura-servicenow-event"
# The session variables that carry a caller's correlation id; Hasura itself keeps those that begin
# with x-hasura- and no others.
CORRELATION_VARIABLES: Final = ("x-correlation-id", "x-hasura-correlation-id")
# It goes into log lines and headers, and its sender chooses it: one line of ASCII, no longer than a
# header that every server takes.
_CORRELATION_ID: Final = re.compile(r"[!-~](?:[ -~]{0,198}[!-~])?", re.ASCII)


def source_table(source: str) -> str:
    """``public.outages`` of ``hasura/public.outages``; a source without a table is its own name."""
    return source.partition("/")[2] or source


class Op(StrEnum):
    """What happened to the row: Hasura's own words."""

    INSERT = "INSERT"
    UPDATE = "UPDATE"
    DELETE = "DELETE"
    MANUAL = "MANUAL"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at a source, verified and parsed.

    *source* is spelled as rules spell it: ``hasura/public.outages``, ``cron/NAME``, ``scheduled``,
    ``slack/COMMAND``.
    *old* and *new* are the row's images; either may be None, and *new* of a MANUAL may be any JSON.
    *created_at* is the sender's idea of when, in UTC as far as it says so; None when it said
    nothing readable. *content* is a digest of source, op and images: an event is known by id
    **and** content. *body* is the text as it was received, kept so that a dead letter can be
    replayed. *old_place* and *new_place* are the digests of the images' canonical forms, "" where
    nobody has worked them out. *absent_is_null*: MSSQL leaves NULL columns out of its images, so a
    column not there is null.
    """

    id: str
    source: str
    op: Op
    old: Json
    new: Json
    content: str
    body: str
    old_place: str = field(default="", kw_only=True)
    new_place: str = field(default="", kw_only=True)
    trigger: str = ""
    created_at: datetime | None = None
    current_retry: int = 0
    session_variables: Mapping[str, str] = field(default_factory=dict)
    trace_id: str = ""
    absent_is_null: bool = False
    # Where a person who waits is answered: a secret, which is never kept. When the event is given
    # up, in UNIX seconds by the ledger's clock; None: as the settings say.
    reply_url: str = field(default="", kw_only=True, repr=False)
    expires_at: float | None = field(default=None, kw_only=True)

    @property
    def mark(self) -> str:
        """What our mutation carried, where one made the event; "" where none did."""
        names = (name for name in self.session_variables if name.lower() == OWN_VARIABLE)
        return next((self.session_variables[name] for name in names), "")

    @property
    def correlation_id(self) -> str:
        """What stands for the request that caused the event: the session's own correlation id, else
        the trace id, else the event's id.

        It is the same at every attempt. One that is longer than 200 characters, or is not one line
        of ASCII, is passed over.
        """
        session = {name.lower(): value for name, value in self.session_variables.items()}
        given = (session.get(name, "").strip() for name in CORRELATION_VARIABLES)
        for correlation_id in (*given, self.trace_id):
            if _CORRELATION_ID.fullmatch(correlation_id):
                return correlation_id
        return self.id

    @property
    def is_own_insert(self) -> bool:
        """Whether a mutation of ours inserted the row: what it says came from ServiceNow."""
        return self.op is Op.INSERT and bool(self.mark)
