"""An event that the ledger kept, read again by the source that it came from. Pure."""

from collections.abc import Callable, Mapping
from typing import Final

from function.core.event import Event
from function.sources import hasura

# By the beginning of the source's name; events, cron events and one-off events are Hasura's.
_READERS: Final[Mapping[str, Callable[[bytes], Event]]] = {
    "hasura": hasura.parse_event,
    "cron": hasura.parse_event,
    "scheduled": hasura.parse_event,
}
_ANSWERED: Final = (
    "a command of Slack's is not replayed: its person was told that it was not done; have it typed "
    "again"
)


class UnknownSource(Exception):  # noqa: N818  # what is the case
    """A later version kept the event, from a source that this one does not have."""


class AnsweredEvent(UnknownSource):
    """Its sender was told what became of it, and that is to stay true."""


def read_event(source: str, body: str) -> Event:
    """The event of *source* whose text was *body*. Raises UnknownSource,
    AnsweredEvent where it is not to be delivered again."""
    kind = source.partition("/")[0]
    if kind == "slack":
        raise AnsweredEvent(_ANSWERED)
    reader = _READERS.get(kind)
    if reader is None:
        raise UnknownSource(f"this version does not read events from {source}")
    return reader(body.encode())
