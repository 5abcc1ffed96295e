"""Logging as Cloud Logging reads it: one JSON line an entry."""

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, TextIO

from pythonjsonlogger.json import JsonFormatter

# The id and the correlation id of the event that is worked on, for every line that is logged
# meanwhile, whoever logs it.
_EVENT: Final[ContextVar[tuple[str, str] | None]] = ContextVar("event", default=None)


@contextmanager
def log_event(event: str = "", correlation_id: str = "") -> Iterator[None]:
    """What is logged within names the *event* (its id) and its *correlation_id*; without them, no
    event until name_event() says which."""
    token = _EVENT.set((event, correlation_id) if event else None)
    try:
        yield
    finally:
        _EVENT.reset(token)


def name_event(event: str, correlation_id: str) -> None:
    """What is logged from here on, to the end of the log_event() around it, names the *event*."""
    _EVENT.set((event, correlation_id))


class EventFields(logging.Filter):
    """Gives each line the event that it is about, where it does not name one itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (named := _EVENT.get()) is not None:
            event, correlation_id = named
            fields = record.__dict__  # where `extra` goes too
            if fields.setdefault("event", event) == event:
                fields.setdefault("correlation_id", correlation_id)
        return True


def start_logging(level: str, stream: TextIO | None = None) -> None:
    """Send our own log to *stream*, standard output unless given, from *level* on; of libraries
    only warnings."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "severity", "asctime": "time", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    handler.addFilter(EventFields())
    root = logging.getLogger()
    # In the place of a plain one that a server has set up; others are somebody's who listens.
    root.handlers[:] = [
        other for other in root.handlers if type(other) is not logging.StreamHandler
    ] + [handler]
    ours = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    root.setLevel(max(ours, logging.WARNING))
    logging.getLogger("function").setLevel(ours)


def fault(error: BaseException) -> str:
    """What went wrong in our own code, for the log: the exception's type and the places. Its text
    may hold a row."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " ".join(
        [type(error).__name__, *(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)]
    )
