"""handle(request): the one deployed entry point (functions-framework, `gcloud functions deploy`)."""

import os
import sys
import threading

from flask import Request, Response, has_app_context

from function.app import App, build
from function.log import start_logging
from function.rules import RulesError
from function.settings import SettingsError

# functions-framework reads THREADS only after it has imported this module. Its default of 4 a core bounds an instance
# to 26 events/s at 300 ms of ServiceNow; waiting threads are cheap (5 MB for 100).
os.environ.setdefault("THREADS", "100")

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


if has_app_context():
    # A server is starting: a wrong setting is one clear sentence now, not a traceback at the first event.
    try:
        _started()
    except (SettingsError, RulesError) as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201  # before there is a log worth having
        sys.exit(1)
