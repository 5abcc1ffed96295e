"""`make run`: the main job on embedded parts. A PostgreSQL with the example tables, Hasura's event
delivery, a small ServiceNow, a mailbox, the function as production starts it; and a row's life,
written in SQL."""

import argparse
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from function.hasura.metadata import MetadataError
from function.ledger.database import Database
from sandbox.catalog import InconsistentMetadata, migrate
from sandbox.hasura import Hasura
from sandbox.loopback import DIRECT
from sandbox.mailbox import Mailbox
from sandbox.postgresql import PostgreSQL
from sandbox.servicenow import ServiceNow

STATES: Final = {
    "1": "New",
    "2": "In Progress",
    "3": "On Hold",
    "6": "Resolved",
    "7": "Closed",
    "8": "Canceled",
}
PORTS: Final = (
    ("--port", "PORT", "8080", "function"),
    ("--servicenow-port", "SERVICENOW_PORT", "8091", "sandbox ServiceNow"),
    ("--mail-port", "MAIL_PORT", "8025", "sandbox mailbox"),
)
LOG: Final = "function.log"
SETTINGS: Final = "settings.env"
START_SECONDS_MAX: Final = 30.0
STEP_SECONDS_MAX: Final = 60.0
# A process that is killed keeps its lease for DEADLINE + TIMEOUT + 10 s: short here, so that the
# tour is.
QUICK: Final = {"DEADLINE_SECONDS": "4", "SERVICENOW_TIMEOUT_SECONDS": "2"}
HERE: Final = Path(__file__).resolve().parent.parent
# What the tour does to rows; each is one transaction of the app.
OPENED: Final = (
    "INSERT INTO outages (id, title, details, severity) "
    "VALUES (42, 'Checkout is down', 'Payments fail since 08:02 UTC.', 'critical')"
)
WORSE: Final = "UPDATE outages SET title = 'Checkout and refunds are down' WHERE id = 42"
FIXED: Final = (
    "UPDATE outages SET status = 'fixed', resolution = 'Rolled back the 08:00 "
    "release.' WHERE id = 42"
)
REFUSED: Final = "INSERT INTO outages (id, title, severity) VALUES (43, 'Search is slow', 'major')"
KILLED: Final = "INSERT INTO outages (id, title, severity) VALUES (44, 'Mails are late', 'major')"
LOOK: Final = "SELECT title, number, state FROM outages LEFT JOIN ticket_outage USING (id)"
PASTE: Final = "INSERT INTO outages (title, severity) VALUES ('Login is slow', 'major')"


class FunctionNotStartedError(Exception):
    """The function ended, or did not answer; the text is its log."""


class Stopped(Exception):  # noqa: N818  # said by the person at the keyboard
    """Ctrl-C or SIGTERM."""


class World:
    """Everything that `make run` starts, from enter to exit."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.port: int = asked.port
        self.instance = ServiceNow(port=asked.servicenow_port)
        self.mailbox = Mailbox(port=asked.mail_port)
        self.secret = secrets.token_hex(16)
        self.hasura_ahead_seconds = 0.0
        self._rules = str(Path(asked.rules).resolve() if asked.rules else HERE / "rules.yaml")
        self._project = Path(asked.project).resolve() if asked.project else HERE / "hasura"
        self._open = ExitStack()

    def __enter__(self) -> "World":
        with ExitStack() as stack:
            stack.enter_context(self.instance)
            stack.enter_context(self.mailbox)
            self.folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="hasura-servicenow-"))
            )
            server = stack.enter_context(PostgreSQL())
            self.database_url = server.url
            self._write_psql(server.psql)
            ledger = Database(self.database_url)
            ledger.migrate()
            ledger.close()
            migrate(self.database_url, self._project)
            self.function = self._start()
            stack.callback(self._end)
            self.wait_until_ready()
            self.hasura = stack.enter_context(
                Hasura(
                    database_url=self.database_url,
                    project=self._project,
                    environ={
                        **os.environ,
                        "SERVICENOW_FUNCTION_URL": self.url,
                        "SERVICENOW_FUNCTION_SECRET": self.secret,
                    },
                    fetch_interval_seconds=0.2,
                    shutdown_seconds=5.0,
                    clock_ahead_seconds=lambda: self.hasura_ahead_seconds,
                )
            )
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def kill_function(self) -> None:
        """kill -9 the server and its worker, and start another."""
        os.killpg(self.function.pid, signal.SIGKILL)
        self.function.wait()
        self.function = self._start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait for the function to answer; a function that ends instead has said why in its log."""
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until:
            if self.function.poll() is not None:
                log = self.log.read_text("utf-8", "replace").strip()
                raise FunctionNotStartedError(f"The function did not start:\n{log}")
            try:
                with DIRECT.open(f"{self.url}/readyz", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise FunctionNotStartedError(
            f"The function did not answer within {START_SECONDS_MAX:.0f} s."
        )

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the function as production does; its log and its settings go to files that are
        named to the reader."""
        settings = {
            "SOURCE_NAME": "sandbox",
            "SERVICENOW_INSTANCE_URL": self.instance.url,
            "SERVICENOW_USERNAME": self.instance.username,
            "SERVICENOW_PASSWORD": self.instance.password,
            "HASURA_EVENT_SECRETS": self.secret,
            "DATABASE_URL": self.database_url,
            "RULES_FILE": self._rules,
            "SMTP_URL": self.mailbox.url,
            "NOTIFY_FROM": "tickets@sandbox.example",
            "NOTIFY_TO": "you@sandbox.example",
            **QUICK,
        }
        (self.folder / SETTINGS).write_text(
            "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
        )
        # What rules of one's own name under `env:` is this shell's to say; the settings are the
        # sandbox's.
        environ = {**os.environ, **settings}
        command = [
            str(Path(sys.executable).parent / "functions-framework"),
            "--target=handle",
            "--host=127.0.0.1",
            f"--port={self.port}",
        ]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command, cwd=HERE, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    def _end(self) -> None:
        if self.function.poll() is None:
            self.function.terminate()
            try:
                self.function.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.function.kill()
                self.function.wait()

    def _write_psql(self, psql: Path) -> None:
        """A psql that knows the way, to be pasted."""
        script = self.folder / "psql"
        script.write_text(
            f'#!/bin/sh\nexec {shlex.quote(str(psql))} {shlex.quote(self.database_url)} "$@"\n'
        )
        script.chmod(0o755)


class Tour:
    """A row's life, told line by line."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._steps = 0

    def introduce(self) -> None:
        """Say what is where."""
        world = self._world
        print(
            f"\nRows are in PostgreSQL; their events go to {world.url}/ ; tickets go to "
            f"{world.instance.url}\n"
        )

    def go(self) -> None:
        """Change rows, and show what came of each change."""
        self.step("a row is inserted", lambda: self._world.sql(OPENED))
        first = self._last_event()
        self.step("the row is updated", lambda: self._world.sql(WORSE))
        self.step("the row says it is fixed", lambda: self._world.sql(FIXED))
        self.step(
            "Hasura sends the first event again",
            lambda: self._world.hasura.redeliver(first),
            event=first,
        )
        self._world.instance.arm("data_policy_403", method="POST")
        self.step("ServiceNow refuses the next row", lambda: self._world.sql(REFUSED))
        self.step("the function is killed half-way", self._kill_half_way)
        for message in self._world.mailbox.wait(1, 10.0)[:1]:
            self.show(message)

    def _kill_half_way(self) -> None:
        """kill -9 after ServiceNow has made the ticket and before anybody knows; then Hasura sends
        the event again."""
        world = self._world
        world.instance.arm("commit_then_hang", method="POST", seconds=2)
        made = len(world.instance.rows("incident"))
        world.sql(KILLED)
        _wait_for(lambda: len(world.instance.rows("incident")) > made)
        print(
            "   kill -9; another one is started, and takes over when the dead one's "
            "lease ends: 16 s …",
            flush=True,
        )
        world.kill_function()
        # Hasura waits for interval_sec before it sends again; the tour does not.
        event = self._last_event()
        _wait_for(lambda: self._invocations(event))
        world.hasura_ahead_seconds += 3600

    def step(self, what: str, do: Callable[[], object], *, event: str = "") -> None:
        """Do it, wait until its event is delivered or given up, and print one line of it."""
        world = self._world
        self._steps += 1
        world.instance.forget()
        seen = len(self._invocations(event)) if event else 0
        do()
        event = event or self._last_event()
        _wait_for(lambda: len(self._invocations(event)) > seen and self._is_over(event))
        [row] = world.sql("SELECT payload FROM hdb_catalog.event_log WHERE id = %s", event)
        last = self._invocations(event)[-1]
        [outcome] = _answer(last["response"])["outcomes"]
        ticket = next(
            (row for row in world.instance.rows("incident") if row["number"] == outcome["ticket"]),
            None,
        )
        became = (
            f"{ticket['number']} {STATES.get(ticket['state'], ticket['state'])}"
            if ticket
            else "no ticket"
        )
        calls = ", ".join(f"{call.method} {call.table}" for call in world.instance.calls) or "none"
        said = " ".join(filter(None, [str(last["status"]), outcome["status"], outcome["reason"]]))
        print(
            f"{self._steps}. {row['payload']['op']:6} {what:34} -> {said:31} | "
            f"{became:19} | calls: {calls}",
            flush=True,
        )

    def _last_event(self) -> str:
        [row] = self._world.sql(
            "SELECT id FROM hdb_catalog.event_log ORDER BY created_at DESC LIMIT 1"
        )
        return str(row["id"])

    def _invocations(self, event: str) -> list[dict[str, Any]]:
        return self._world.sql(
            "SELECT status, response FROM hdb_catalog.event_invocation_logs WHERE event_id = %s "
            "ORDER BY created_at",
            event,
        )

    def _is_over(self, event: str) -> bool:
        """Delivered; or refused, which Hasura tries again in vain, and the tour does
        not wait for."""
        [row] = self._world.sql(
            "SELECT delivered, error FROM hdb_catalog.event_log WHERE id = %s", event
        )
        return (
            bool(row["delivered"] or row["error"]) or self._invocations(event)[-1]["status"] == 422
        )

    def invite(self) -> None:
        """Say how to go on from here."""
        world = self._world
        print(f"\nThe incidents, to look at:  {world.instance.url}/incidents")
        print(f"The function's log:         {world.log}")
        print(
            f"For commands as in a mail:  set -a; . {world.folder / SETTINGS}; set +a; . "
            ".venv/bin/activate"
        )
        print("A row of your own, to paste, and what the app then knows of its ticket:\n")
        print(f'{world.folder / "psql"} -c "{PASTE}"')
        print(f'{world.folder / "psql"} -c "{LOOK}"', flush=True)

    def watch(self) -> None:
        """Stay until the function ends, and show each call to ServiceNow and each mail
        as it comes."""
        world = self._world
        print("\nCalls and mails are shown as they come. Ctrl-C ends it.", flush=True)
        world.instance.forget()
        seen = len(world.mailbox.messages)
        while world.function.poll() is None:
            time.sleep(0.3)
            for call in world.instance.take_calls():
                print(
                    f"ServiceNow: {call.method} {call.table} -> {call.status or 'no answer'}",
                    flush=True,
                )
            for message in world.mailbox.messages[seen:]:
                seen += 1
                print(f"mail: {message['Subject']}", flush=True)

    def show(self, message: EmailMessage) -> None:
        """Print the mail as a person reads it."""
        text = message.get_body(("plain",))
        print(f"\nThe mail to {message['To']}:\n")
        for line in [
            f"Subject: {message['Subject']}",
            "",
            *(text.get_content().splitlines() if text else []),
        ]:
            print(f"    {line}".rstrip())


def main() -> int:
    """Run the tour, then stay up until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    for option, variable, usual, whose in PORTS:
        port = int(os.environ.get(variable, usual))
        parser.add_argument(
            option, type=int, default=port, help=f"the {whose}'s (default: {variable} or {usual})"
        )
    own = os.environ.get("RULES_FILE", "")
    project = os.environ.get("PROJECT", "")
    parser.add_argument(
        "--rules", default=own, help="rules of your own: no tour, all is ready for your rows"
    )
    parser.add_argument(
        "--project", default=project, help="a Hasura project of your own, beside rules of your own"
    )
    parser.add_argument("--once", action="store_true", help="end after the tour")
    asked = parser.parse_args()

    def stop(*_: object) -> None:
        raise Stopped

    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, stop)
    if not _is_free(asked.port):
        print(
            f"Port {asked.port} is taken: stop what listens there, or take another with "
            "`make run PORT=8081`."
        )
        return 1
    print(
        "Starting PostgreSQL, Hasura's event delivery, and the function (functions-framework) …",
        flush=True,
    )
    try:
        with World(asked) as world:
            tour = Tour(world)
            tour.introduce()
            if not asked.rules:
                tour.go()
            tour.invite()
            if not asked.once:
                tour.watch()
                print("The function has ended by itself.")
                return 1
    except OSError as taken:
        variables = " ".join(f"{variable}={int(usual) + 100}" for _, variable, usual, _ in PORTS)
        print(
            f"{taken.strerror or taken}. Stop what listens there, or take others with "
            f"`make run {variables}`."
        )
        return 1
    except (FunctionNotStartedError, MetadataError, InconsistentMetadata) as why:
        print(why)
        return 1
    except psycopg.Error as error:
        print(f"The project's migrations, or its triggers, do not work here: {str(error).strip()}")
        return 1
    except Stopped:
        print("\nEnded.")
    return 0


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + STEP_SECONDS_MAX
    while not condition():
        if time.monotonic() > until:
            raise FunctionNotStartedError(
                f"Nothing came of it within {STEP_SECONDS_MAX:.0f} s; the log has more."
            )
        time.sleep(0.05)


def _answer(response: dict[str, Any]) -> dict[str, Any]:
    """The function's answer as Hasura logs it: a body where it was taken, a message where it was
    not."""
    told = response["data"]
    answer: dict[str, Any] = json.loads(told.get("body") or told.get("message"))
    return answer


if __name__ == "__main__":
    # The sandbox's threads must not keep a terminal waiting.
    status = main()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(timeout=1)
    sys.exit(status)
