"""`make run`: the main job on embedded parts. A PostgreSQL with the example tables, Hasura's event
delivery and GraphQL, a small ServiceNow, a small Slack where the rules have commands, a receiver, a
mailbox, the function as production starts it; and a row's life, written in SQL and on ServiceNow's
pages."""

import argparse
import os
import signal
import socket
import sys
import threading
from typing import Final

import psycopg

from function.hasura.metadata import MetadataError
from sandbox.catalog import InconsistentMetadata
from sandbox.parts import FunctionNotStartedError, UnknownTableError, World
from sandbox.suggestions import SuggestionsError
from sandbox.tour import Tour, TourStuckError

PORTS: Final = (
    ("--port", "PORT", "8080", "function"),
    ("--servicenow-port", "SERVICENOW_PORT", "8091", "sandbox ServiceNow"),
    ("--hasura-port", "HASURA_PORT", "8092", "sandbox Hasura's GraphQL"),
    ("--mail-port", "MAIL_PORT", "8025", "sandbox mailbox"),
    ("--slack-port", "SLACK_PORT", "8093", "sandbox Slack"),
    ("--receiver-port", "RECEIVER_PORT", "8094", "sandbox receiver"),
)


class Stopped(Exception):  # noqa: N818  # said by the person at the keyboard
    """Ctrl-C or SIGTERM."""


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
            tour.invite(has_own_tables=bool(asked.project))
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
    except (
        FunctionNotStartedError,
        InconsistentMetadata,
        MetadataError,
        SuggestionsError,
        TourStuckError,
        UnknownTableError,
    ) as why:
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


if __name__ == "__main__":
    # The sandbox's threads must not keep a terminal waiting.
    status = main()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(timeout=1)
    sys.exit(status)
