"""What functions-framework starts in the trials: the function of main.py, whose ledger goes by the
trial's clock, and whose process can be ended or stopped at each step.

In the folder TRIAL_FOLDER, a file ``kill-at-PLACE`` has the first process that comes there end
itself as kill -9 does, ``stop-at-PLACE`` stops it (SIGSTOP) until somebody wakes it. The file is
gone then, so that it meets one process only.
"""

import os
import signal
import threading
import time
from pathlib import Path

import time_machine
from flask import Request, Response

from function import failpoints
from function.app import App
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.log import start_logging
from function.settings import load_settings
from function.wiring import create_app, read_rules
from tests.faults.clock import SharedClock

FOLDER = Path(os.environ["TRIAL_FOLDER"])


def _end_here(place: failpoints.Failpoint) -> None:
    for sign, what in ((signal.SIGKILL, "kill"), (signal.SIGSTOP, "stop")):
        order = FOLDER / f"{what}-at-{place}"
        try:
            order.unlink()
        except FileNotFoundError:
            continue
        met = FOLDER / f"met-{os.getpid()}-{threading.get_ident()}"
        met.write_text(str(os.getpid()))
        met.rename(FOLDER / f"{what}-at-{place}.done")
        # To this thread: sent to the process, another one may take it, and this one goes on for a
        # moment.
        signal.pthread_kill(threading.get_ident(), sign)


def _app() -> App:
    start_logging(os.environ.get("LOG_LEVEL", "INFO"))
    settings = load_settings(os.environ)
    clock = SharedClock(FOLDER / "clock")
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        clock_ahead_seconds=clock.ahead,
    )
    return create_app(
        settings, read_rules(settings.rules_file, os.environ), Ledger(database), os.environ
    )


if ahead := float(os.environ.get("WALL_AHEAD_SECONDS", "0")):
    # This host's own clock is wrong.
    time_machine.travel(time.time() + ahead, tick=True).start()
if "TRIAL_SPARED" not in os.environ:
    failpoints.listen(_end_here)
app = _app()


def handle(request: Request) -> Response:
    """As main.handle."""
    return app.handle(request)
