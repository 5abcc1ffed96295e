"""Logging as Cloud Logging reads it: one JSON line an entry."""

import logging
import sys
import traceback
from pathlib import Path
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter


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
