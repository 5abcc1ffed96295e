"""handle(request): the one deployed entry point (functions-framework, `gcloud functions
deploy`)."""

import math
import os
import sys
import threading

from flask import Request, Response, has_app_context

from function.app import App
from function.log import start_logging
from function.rules.loader import RulesError
from function.settings import SettingsError
from function.wiring import build

# functions-framework reads THREADS only after it has imported this module. Its default of 4 a core
# bounds an instance to 26 events/s at 300 ms of ServiceNow; waiting threads are cheap (5 MB for
# 100).
os.environ.setdefault("THREADS", "100")

# What is under way when the server is told to stop is answered by DEADLINE_SECONDS, and the answer
# takes a moment.
GRACE_SECONDS = 10

_app: App | None = None
_starting = threading.Lock()


def handle(request: Request) -> Response:
    """Answer one HTTP request."""
    return _started().handle(request)


def _started() -> App:
    global _app  # noqa: PLW0603  # one app for the process, made once
    with _starting:
        if _app is None:
            start_logging(os.environ.get("LOG_LEVEL", "INFO"))
            _app = build(os.environ)
        return _app


def _let_requests_end(deadline_seconds: float) -> None:
    """Have gunicorn wait for requests that are under way; it kills them after 30 s otherwise.

    functions-framework passes no such setting on, and reads none from the environment. It makes
    gunicorn's configuration after it has imported this module.
    """
    from gunicorn.config import GracefulTimeout  # noqa: PLC0415  # it is there where a server is starting

    GracefulTimeout.default = math.ceil(deadline_seconds) + GRACE_SECONDS


if has_app_context():
    # A server is starting: a wrong setting is one clear sentence now, not a traceback at the first
    # event.
    try:
        _let_requests_end(_started().deadline_seconds)
    except (SettingsError, RulesError) as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201  # before there is a log worth having
        sys.exit(1)
