"""Logging as Cloud Logging reads it: one JSON line an entry, on standard output."""

import logging
import sys

from pythonjsonlogger.json import JsonFormatter


def start_logging(level: str) -> None:
    """Send our own log to standard output from *level* on; of libraries only warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "severity", "asctime": "time", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    known = logging.getLevelNamesMapping()
    logging.getLogger("function").setLevel(known.get(level.upper(), logging.INFO))
