"""Where a ticket stands: its correlation_id and its sys_id, pure functions of what it
stands for."""

import hashlib
import re
import uuid
from typing import Final

# Never to be changed: every ticket's address is computed from it.
NAMESPACE: Final = uuid.UUID("6f1d2f5e-8a52-5d0e-9b0a-3c1f4f6f0d8e")
# ServiceNow's correlation_id is a String(100).
CORRELATION_CHARACTERS_MAX: Final = 100
_HASH_CHARACTERS: Final = 64
# A ticket that is followed by a new one more often than this is not followed by us.
GENERATIONS_MAX: Final = 1000
# How the shortened form ends. No plain form may: the two must not meet.
_HASHED: Final = re.compile(r":[0-9a-f]{64}\Z", re.ASCII | re.IGNORECASE)


def correlation_id(source_name: str, rule: str, key: str) -> str:
    """``SOURCE_NAME:rule:key``; where that is too long, could not stand in a query, or reads like
    the other form, its beginning and its SHA-256. Neither *source_name* nor *rule* holds a colon,
    so no two keys have the same."""
    plain = f"{source_name}:{rule}:{key}"
    fits = len(plain) <= CORRELATION_CHARACTERS_MAX and plain.isprintable() and "^" not in plain
    if fits and plain == plain.strip() and not _HASHED.search(plain):
        return plain
    hashed = hashlib.sha256(plain.encode()).hexdigest()
    start = "".join(letter for letter in plain if letter.isprintable() and letter != "^").strip()
    return f"{start[: CORRELATION_CHARACTERS_MAX - len(hashed) - 1]}:{hashed}"


def query_of_source(source_name: str) -> str:
    """The encoded query of the tickets of all rows of *source_name*: also of those whose
    correlation_id was shortened."""
    beginning = f"{source_name}:"[: CORRELATION_CHARACTERS_MAX - _HASH_CHARACTERS - 1]
    return f"correlation_idSTARTSWITH{beginning}"


def is_of_source(source_name: str, correlation: str) -> bool:
    """Whether *correlation* is one that correlation_id() makes for a row of *source_name*."""
    prefix = f"{source_name}:"
    hashed = _HASHED.search(correlation)
    # The shortened form may have cut the source's name too.
    return correlation.startswith(prefix) or (
        hashed is not None
        and len(correlation) == CORRELATION_CHARACTERS_MAX
        and prefix.startswith(correlation[: hashed.start()])
    )


def find_generation(table: str, correlation: str, sys_id: str) -> int:
    """Which of a row's tickets has the address *sys_id*; 0 for one that was not made by us."""
    generations = range(GENERATIONS_MAX)
    found = (number for number in generations if address(table, correlation, number) == sys_id)
    return next(found, 0)


def address(table: str, correlation: str, generation: int) -> str:
    """The ticket's sys_id: a pure function of what it stands for, so that ServiceNow's primary key
    is the arbiter.

    No part holds a line feed, so what is hashed tells them apart. docs/servicenow.md has the scheme
    and examples.
    """
    return uuid.uuid5(NAMESPACE, f"{table}\n{correlation}\n{generation}").hex
