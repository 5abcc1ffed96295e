"""A `make run` of one of the examples, and what the tests of the examples ask it."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any, Self, TypeVar

import psycopg
import requests
from psycopg.rows import dict_row

from sandbox.__main__ import PORTS
from tests.processes import HERE, find_free_port

Found = TypeVar("Found")
START_SECONDS_MAX = 60.0
COME_SECONDS_MAX = 20.0
OUTAGE = "INSERT INTO outages (title, severity) VALUES (%s, 'major') RETURNING id"


class Run:
    """A `make run` with the rules and project, from enter to exit."""

    def __init__(self, example: str) -> None:
        self._example = example

    def __enter__(self) -> Self:
        port = find_free_port()
        # What make exports of its own command line.
        ports = dict.fromkeys((variable for _, variable, _, _ in PORTS), "0")
        own = {
            "RULES_FILE": f"examples/{self._example}.yaml",
            "PROJECT": f"examples/{self._example}",
            "PORT": str(port),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sandbox"],
            cwd=HERE,
            env={**os.environ, **ports, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout is not None
        # One that never comes up says no more.
        too_late = threading.Timer(START_SECONDS_MAX, self._process.kill)
        too_late.daemon = True
        too_late.start()
        printed = ""
        while "Ctrl-C" not in printed:
            line = self._process.stdout.readline()
            assert line, printed
            printed += line
        too_late.cancel()
        self.printed = printed
        [settings] = re.findall(r"set -a; \. (\S+);", printed)
        self.environ = dict(
            line.split("=", 1) for line in shlex.split(Path(settings).read_text("utf-8"))
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=30)

    @property
    def instance(self) -> str:
        return self.environ["SERVICENOW_INSTANCE_URL"]

    def sql(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """One statement in a transaction of its own; its rows."""
        url = self.environ["DATABASE_URL"]
        with psycopg.connect(url, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def records(self, table: str, query: str) -> list[dict[str, str]]:
        """What is in ServiceNow, as its integration user sees it."""
        login = (self.environ["SERVICENOW_USERNAME"], self.environ["SERVICENOW_PASSWORD"])
        answer = requests.get(
            f"{self.instance}/api/now/table/{table}",
            params={"sysparm_query": query},
            auth=login,
            timeout=10,
        )
        found: list[dict[str, str]] = answer.json()["result"]
        return found

    def play(self, page: str, **form: str) -> str:
        """A person sends a form; the page that this leads to."""
        answer = requests.post(f"{self.instance}/incidents/{page}", data=form, timeout=10)
        assert answer.status_code == 200
        assert "said=" not in answer.url
        return answer.url


class OutageRun(Run):
    """An app with outages, and a person in front of ServiceNow's pages."""

    def __init__(self, example: str = "two-way") -> None:
        super().__init__(example)

    def row(self, id: int) -> dict[str, Any]:
        [row] = self.sql("SELECT * FROM outages WHERE id = %s", id)
        return row

    def comments(self, id: int) -> list[tuple[str, str]]:
        rows = self.sql("SELECT * FROM outage_comments WHERE outage_id = %s ORDER BY id", id)
        return [(row["author"], row["body"]) for row in rows]

    def answers(self, sys_id: str) -> list[dict[str, Any]]:
        """What the function answered when it was told of a ticket."""
        told = requests.get(f"{self.instance}/sandbox/notifications", timeout=10).json()["sent"]
        return [json.loads(sent["answer"]) for sent in told if sent["sys_id"] == sys_id]

    def open_outage(self, title: str) -> dict[str, Any]:
        """A new row, once it knows its ticket's number."""
        [made] = self.sql(OUTAGE, title)
        return wait_for(lambda: row if (row := self.row(made["id"]))["ticket_number"] else None)

    def open_incident(self, title: str) -> dict[str, str]:
        """A new incident of a person's, for the group whose incidents are outages."""
        [group] = self.records("sys_user_group", "name=Software")
        page = self.play(
            "new",
            short_description=title,
            description="All in cents.",
            impact="1",
            assignment_group=group["sys_id"],
        )
        [incident] = self.records("incident", f"number={page.rpartition('/')[2]}")
        return incident

    def row_of(self, incident: dict[str, str]) -> dict[str, Any]:
        """The row that began as *incident*, once it is there."""
        found = "SELECT * FROM outages WHERE servicenow_sys_id = %s"
        [row] = wait_for(lambda: self.sql(found, incident["sys_id"]))
        return row


class ChatRun(OutageRun):
    """A person in front of the sandbox's Slack."""

    def __init__(self) -> None:
        super().__init__("chatops")

    @property
    def chat(self) -> str:
        return self.environ["SLACK_SANDBOX_URL"]

    def type(self, text: str) -> None:
        answer = requests.post(f"{self.chat}/", data={"text": text}, timeout=10)
        assert answer.status_code == 200

    def read(self, text: str) -> list[str]:
        """What the page shows under the newest command *text*: at once, and later."""
        page = requests.get(f"{self.chat}/", timeout=10).text
        [_, entry, *_] = page.split(f'<span class="id">{text}</span>')
        shown = re.findall(
            r'<div class="reply"><span class="dim">(.*?)</span>(.*?)</div>',
            entry.partition('<div class="entry')[0],
            re.DOTALL,
        )
        return [unescape(f"{to.partition(' · ')[0]}: {words.strip()}") for to, words in shown]

    def answer_to(self, text: str) -> str:
        """What comes after the acknowledgement."""
        return wait_for(lambda: self.read(text)[1:])[0]


def wait_for(find: Callable[[], Found | None]) -> Found:
    until = time.monotonic() + COME_SECONDS_MAX
    while not (found := find()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)
    return found
