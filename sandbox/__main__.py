"""`make run`: the main job on embedded parts. A small ServiceNow, a mailbox, the function as production starts it, and
a row's life sent to it as Hasura would send it."""

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
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

from sandbox.mailbox import Mailbox
from sandbox.servicenow import ServiceNow

STATES: Final = {"1": "New", "2": "In Progress", "3": "On Hold", "6": "Resolved", "7": "Closed", "8": "Canceled"}
PORTS: Final = (
    ("--port", "PORT", "8080", "function"),
    ("--servicenow-port", "SERVICENOW_PORT", "8091", "sandbox ServiceNow"),
    ("--mail-port", "MAIL_PORT", "8025", "sandbox mailbox"),
)
LOG: Final = "function.log"
SETTINGS: Final = "settings.env"
START_SECONDS_MAX: Final = 30.0
OPENED: Final[dict[str, Any]] = {
    "id": 42,
    "title": "Checkout is down",
    "details": "Payments fail since 08:02 UTC.",
    "severity": "critical",
    "status": "open",
    "resolution": None,
    "updated_at": "2026-11-21T08:03:00+00:00",
}
HERE: Final = Path(__file__).resolve().parent.parent


class FunctionNotStartedError(Exception):
    """The function ended, or did not answer; the text is its log."""


class Stopped(Exception):  # noqa: N818  # said by the person at the keyboard
    """Ctrl-C or SIGTERM."""


def main() -> int:
    """Run the tour, then stay up until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make run", description=__doc__)
    for option, variable, usual, whose in PORTS:
        port = int(os.environ.get(variable, usual))
        parser.add_argument(option, type=int, default=port, help=f"the {whose}'s (default: {variable} or {usual})")
    own = os.environ.get("RULES_FILE", "")
    parser.add_argument("--rules", default=own, help="rules of your own: no tour, all is ready for your events")
    parser.add_argument("--once", action="store_true", help="end after the tour")
    asked = parser.parse_args()

    def stop(*_: object) -> None:
        raise Stopped

    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, stop)
    if not _is_free(asked.port):
        print(f"Port {asked.port} is taken: stop what listens there, or take another with `make run PORT=8081`.")
        return 1
    try:
        with (
            ServiceNow(port=asked.servicenow_port) as instance,
            Mailbox(port=asked.mail_port) as mailbox,
            tempfile.TemporaryDirectory(prefix="hasura-servicenow-") as folder,
        ):
            secret = secrets.token_hex(16)
            function = _start(asked.port, instance, mailbox, secret, folder, asked.rules)
            try:
                tour = Tour(f"http://127.0.0.1:{asked.port}", secret, instance, mailbox, Path(folder, LOG))
                tour.wait_until_ready(function)
                tour.introduce()
                if not asked.rules:
                    tour.go()
                tour.invite(folder)
                if not asked.once:
                    tour.watch(function)
                    print("The function has ended by itself.")
                    return 1
            finally:
                _end(function)
    except OSError as taken:
        variables = " ".join(f"{variable}={int(usual) + 100}" for _, variable, usual, _ in PORTS)
        print(f"{taken.strerror or taken}. Stop what listens there, or take others with `make run {variables}`.")
        return 1
    except FunctionNotStartedError as why:
        print(why)
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


def _start(
    port: int, instance: ServiceNow, mailbox: Mailbox, secret: str, folder: str, rules: str
) -> subprocess.Popen[bytes]:
    """Start the function as production does; its log and its settings go to files that are named to the reader."""
    settings = {
        "SOURCE_NAME": "sandbox",
        "SERVICENOW_INSTANCE_URL": instance.url,
        "SERVICENOW_USERNAME": instance.username,
        "SERVICENOW_PASSWORD": instance.password,
        "HASURA_EVENT_SECRETS": secret,
        "DATABASE_URL": f"sqlite:///{folder}/ledger.db",
        "RULES_FILE": str(Path(rules).resolve() if rules else HERE / "rules.yaml"),
        "SMTP_URL": mailbox.url,
        "NOTIFY_FROM": "tickets@sandbox.example",
        "NOTIFY_TO": "you@sandbox.example",
    }
    Path(folder, SETTINGS).write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()))
    # What rules of one's own name under `env:` is this shell's to say; the settings are the sandbox's.
    environ = {**os.environ, **settings}
    command = [
        str(Path(sys.executable).parent / "functions-framework"),
        "--target=handle",
        "--host=127.0.0.1",
        f"--port={port}",
    ]
    log = Path(folder, LOG).open("wb")  # noqa: SIM115  # the process has it as long as it lives
    with log:
        return subprocess.Popen(command, cwd=HERE, env=environ, stdout=log, stderr=log, start_new_session=True)


def _end(function: subprocess.Popen[bytes]) -> None:
    if function.poll() is None:
        function.terminate()
        try:
            function.wait(timeout=10)
        except subprocess.TimeoutExpired:
            function.kill()
            function.wait()


class Tour:
    """A row's life, told line by line."""

    def __init__(self, url: str, secret: str, instance: ServiceNow, mailbox: Mailbox, log: Path) -> None:
        self._log = log
        self._url = url
        self._secret = secret
        self._instance = instance
        self._mailbox = mailbox
        self._step = 0

    def wait_until_ready(self, function: subprocess.Popen[bytes]) -> None:
        """Wait for the function to answer; a function that ends instead has said why in its log."""
        print("Starting the function (functions-framework --target=handle) …", flush=True)
        until = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < until:
            if function.poll() is not None:
                log = self._log.read_text("utf-8", "replace").strip()
                raise FunctionNotStartedError(f"The function did not start:\n{log}")
            try:
                with urllib.request.urlopen(f"{self._url}/readyz", timeout=5):  # noqa: S310  # our own address
                    return
            except OSError:
                time.sleep(0.1)
        raise FunctionNotStartedError(f"The function did not answer within {START_SECONDS_MAX:.0f} s.")

    def introduce(self) -> None:
        """Say what is where."""
        print(f"\nHasura's events go to {self._url}/ ; tickets go to {self._instance.url}\n")

    def go(self) -> None:
        """Send the events, and show what came of each."""
        opened = OPENED
        worse = opened | {
            "title": "Checkout and refunds are down",
            "updated_at": "2026-11-21T08:10:00+00:00",
        }
        fixed = worse | {
            "status": "fixed",
            "resolution": "Rolled back the 08:00 release.",
            "updated_at": "2026-11-21T08:31:00+00:00",
        }
        unmapped = {name: value for name, value in opened.items() if name != "title"} | {"id": 43}
        first = _event("INSERT", None, opened)
        self.send("a row is inserted", first)
        self.send("the row is updated", _event("UPDATE", opened, worse))
        self.send("the row says it is fixed", _event("UPDATE", worse, fixed))
        self.send("the first event is delivered again", first)
        self.send("a row without the title it needs", _event("INSERT", None, unmapped))
        for message in self._mailbox.wait(1, 10.0)[-1:]:
            self.show(message)

    def invite(self, folder: str) -> None:
        """Say how to go on from here."""
        print(f"\nThe incidents, to look at:  {self._instance.url}/incidents")
        print(f"The function's log:         {Path(folder, LOG)}")
        print(f"For commands as in a mail:  set -a; . {Path(folder, SETTINGS)}; set +a; . .venv/bin/activate")
        print("An event of your own, to paste (each new id is a new row's ticket):\n")
        sample = OPENED | {
            "id": 44,
            "title": "Login is slow",
            "details": "Since the last release.",
            "severity": "major",
        }
        body = json.dumps(_event("INSERT", None, sample), separators=(",", ":"))
        print(
            f"curl -i {self._url}/ -H 'X-Webhook-Secret: {self._secret}' -H 'Content-Type: application/json' \\\n"
            f"  -d '{body}'",
            flush=True,
        )

    def watch(self, function: subprocess.Popen[bytes]) -> None:
        """Stay until the function ends, and show each call to ServiceNow and each mail as it comes."""
        print("\nCalls and mails are shown as they come. Ctrl-C ends it.", flush=True)
        self._instance.forget()
        seen = len(self._mailbox.messages)
        while function.poll() is None:
            time.sleep(0.3)
            calls = list(self._instance.calls)
            self._instance.forget()
            for call in calls:
                print(f"ServiceNow: {call.method} {call.table} -> {call.status or 'no answer'}", flush=True)
            for message in self._mailbox.messages[seen:]:
                seen += 1
                print(f"mail: {message['Subject']}", flush=True)

    def send(self, what: str, event: dict[str, Any]) -> None:
        """Post one event as Hasura does and print one line of it."""
        self._step += 1
        self._instance.forget()
        request = urllib.request.Request(  # noqa: S310  # our own address
            self._url + "/",
            data=json.dumps(event, sort_keys=True, separators=(",", ":")).encode(),
            headers={
                "Content-Type": "application/json",
                "User-Agent": "hasura-graphql-engine/v2.48.0",
                "X-Webhook-Secret": self._secret,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # our own address
                status, body = answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, json.load(error)
        [outcome] = body["outcomes"]
        ticket = next((row for row in self._instance.rows("incident") if row["number"] == outcome["ticket"]), None)
        became = f"{ticket['number']} {STATES.get(ticket['state'], ticket['state'])}" if ticket else "no ticket"
        calls = ", ".join(f"{call.method} {call.table}" for call in self._instance.calls) or "none"
        said = " ".join(filter(None, [str(status), outcome["status"], outcome["reason"]]))
        print(
            f"{self._step}. {event['event']['op']:6} {what:34} -> {said:20} | {became:19} | calls: {calls}",
            flush=True,
        )

    def show(self, message: EmailMessage) -> None:
        """Print the mail as a person reads it."""
        text = message.get_body(("plain",))
        print(f"\nThe mail to {message['To']}:\n")
        for line in [f"Subject: {message['Subject']}", "", *(text.get_content().splitlines() if text else [])]:
            print(f"    {line}".rstrip())


def _event(op: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    """A body as Hasura posts it."""
    return {
        "created_at": datetime.now(UTC).replace(tzinfo=None).isoformat(),
        "delivery_info": {"current_retry": 0, "max_retries": 5},
        "event": {
            "data": {"new": new, "old": old},
            "op": op,
            "session_variables": {"x-hasura-role": "admin"},
            "trace_context": None,
        },
        "id": str(uuid.uuid4()),
        "table": {"name": "outages", "schema": "public"},
        "trigger": {"name": "outages_to_servicenow"},
    }


if __name__ == "__main__":
    # The sandbox's threads must not keep a terminal waiting.
    status = main()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(timeout=1)
    sys.exit(status)
