"""Many slash commands at one time, two functions, a slow ServiceNow that fails now and then, and
one function killed half-way: ``make burst``.

Each command that was taken has a final answer, and each ticket is resolved once.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandbox.faults import AT_THE_DOOR, Fault, Faults
from sandbox.postgresql import PostgreSQL
from sandbox.servicenow import ServiceNow
from sandbox.slack import TEAM, Slack, TypedCommand
from tests.faults.site import PROJECT, Site
from tests.processes import HERE
from tests.slack.desk import RULES
from tests.world import PASSWORD, SIGNING_SECRET

# What one call in ten meets: refused at the door, done and not told, told by half.
FAULTS: Final = (
    *("error_500", "adc_502", "unavailable_503", "reset", "semaphore_429"),
    *("commit_then_reset", "commit_then_500", "truncated_200", "partial_200"),
)
INTERIM: Final = (
    *("ServiceNow has not confirmed", "ServiceNow does not answer", "It cannot be done just now"),
)
TAKEN: Final = "Processing…"


@dataclass(frozen=True)
class Plan:
    """What a run is made of. *typists*: how many commands are on their way at one time."""

    commands: int
    seed: int = 1
    latency_seconds: float = 1.0
    fault_share: float = 0.1
    copies: int = 3
    typists: int = 24


class DrawnFaults(Faults):
    """Each call takes *latency_seconds*; *share* of them meet a fault instead, until *calm*."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.calm = False
        self.met: Counter[str] = Counter()
        self._plan = plan
        self._draw = random.Random(plan.seed)
        self._drawing = threading.Lock()
        self._of_thread = threading.local()

    def take(
        self, among: Iterable[str], method: str, table: str, *, bearer: bool = False
    ) -> Fault | None:
        among = frozenset(among)
        if among == AT_THE_DOOR:  # the first that is asked of a request
            self._of_thread.fault = self._drawn()
        fault: Fault | None = getattr(self._of_thread, "fault", None)
        return fault if fault is not None and fault.name in among else None

    def _drawn(self) -> Fault | None:
        with self._drawing:
            if self.calm:
                return None
            if self._draw.random() >= self._plan.fault_share:
                return Fault("slow", None, seconds=self._plan.latency_seconds)
            name = self._draw.choice(FAULTS)
            self.met[name] += 1
            return Fault(name, None)


@dataclass
class Audit:
    """What came of it. Lists are texts of commands."""

    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    # Of those that were not taken, as far as their person saw: kept and worked all the same.
    kept_unacknowledged: int = 0
    unanswered: list[str] = field(default_factory=list)
    answered_twice: list[str] = field(default_factory=list)
    interim_words: int = 0
    unresolved: list[str] = field(default_factory=list)
    resolved_twice: list[str] = field(default_factory=list)
    other_words: list[str] = field(default_factory=list)
    ack_seconds: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    seconds: float = 0.0
    left: int = 0

    def lines(self) -> list[str]:
        ack = sorted(self.ack_seconds)
        return [
            f"commands taken            {self.taken}",
            f"not taken                 {self.refused.total()} {dict(self.refused)}",
            f"of these worked though    {self.kept_unacknowledged}",
            f"without a final answer    {len(self.unanswered)}",
            f"with two (in doubt)       {len(self.answered_twice)}",
            f"interim words             {self.interim_words}",
            f"tickets not resolved      {len(self.unresolved)}",
            f"tickets resolved twice    {len(self.resolved_twice)}",
            f"other last words          {len(self.other_words)} {self.other_words[:3]}",
            f"left in the inbox         {self.left}",
            f"acknowledged, p50         {statistics.median(ack):.3f} s",
            f"acknowledged, p99         {ack[int(len(ack) * 0.99) - 1]:.3f} s",
            f"acknowledged, slowest     {ack[-1]:.3f} s",
            f"ServiceNow calls          {self.calls}, {self.faults.total()} met a fault",
            f"took                      {self.seconds:.0f} s",
        ]


class Burst:
    """One run."""

    def __init__(self, plan: Plan, site: Site, slack: Slack, faults: DrawnFaults) -> None:
        self._plan = plan
        self._site = site
        self._slack = slack
        self._faults = faults
        self.ack_seconds: list[float] = []
        self.typed: dict[str, TypedCommand] = {}

    def run(self) -> Audit:
        numbers = [self._open(number) for number in range(self._plan.commands)]
        self.typed = {number: self._prepare(number) for number in numbers}
        self._site.servicenow.forget()
        began = time.monotonic()
        # Some answers arrive, and their sender never hears of it.
        self._slack.arm("taken_then_reset", max(1, self._plan.commands // 20))
        typists = self._start_typists()
        self._site.until(lambda: self._taken() >= self._plan.commands // 2, seconds=60.0)
        # kill -9 the last function in the middle of it, and start it again.
        function = self._site.functions[-1]
        function.kill()
        function.start()
        self._hear(typists)
        self._site.settle(seconds=600.0)
        self._rest()
        return self._audit(time.monotonic() - began)

    def _open(self, number: int) -> str:
        values = {"short_description": f"Outage {number}"}
        return self._site.servicenow.tables.insert("incident", values, by="admin")["number"]

    def _prepare(self, number: str) -> TypedCommand:
        command = self._slack.prepare(f"/ops-resolve {number} burst")
        self._slack.commands.append(command)
        return command

    def _start_typists(self) -> subprocess.Popen[bytes]:
        """Every tenth command is sent several times, by somebody who has read it on the wire."""
        typed = []
        for place, command in enumerate(self.typed.values()):
            sheet = {"place": place, "body": command.body.decode(), "headers": command.headers}
            typed += [sheet] * (self._plan.copies if place % 10 == 0 else 1)
        urls = [f"{function.url}/slack" for function in self._site.functions]
        sheet = {"urls": urls, "typists": self._plan.typists, "typed": typed}
        typists = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.typists"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert typists.stdin is not None
        typists.stdin.write(json.dumps(sheet).encode())
        typists.stdin.close()
        return typists

    def _hear(self, typists: subprocess.Popen[bytes]) -> None:
        """What the functions answered at once; of a command that was sent several times, the
        best."""
        with typists:
            assert typists.stdout is not None
            answers = iter(json.load(typists.stdout))
        for place, command in enumerate(self.typed.values()):
            for _ in range(self._plan.copies if place % 10 == 0 else 1):
                status, answer, seconds = next(answers)
                # An answer that did not come in time was too late. One that died with its function
                # tells nothing.
                self.ack_seconds += [seconds] if status or answer == "TimeoutError" else []
                shown = json.loads(answer).get("text", "") if status == 200 else answer
                if (command.status, command.shown) != (200, TAKEN):
                    command.status, command.shown = status, shown

    def _taken(self) -> int:
        """How many commands were kept so far."""
        [row] = self._site.sql(
            "SELECT count(*) AS n FROM hdb_catalog.event_log WHERE table_name = 'inbox'"
        )
        return int(row["n"])

    def _rest(self) -> None:
        """What waits for a lease of the dead, or is in doubt, comes to rest."""
        self._faults.calm = True
        for _ in range(5):
            self._site.let_lease_end()
            self._site.housekeep()
            self._site.settle(seconds=120.0)
            if not self._inbox():
                return

    def _inbox(self) -> int:
        """How many entries are to be worked."""
        sql = "SELECT count(*) AS n FROM servicenow.inbox WHERE source <> 'ended'"
        return int(self._site.sql(sql)[0]["n"])

    def _audit(self, seconds: float) -> Audit:
        audit = Audit(faults=self._faults.met, seconds=seconds, left=self._inbox())
        audit.calls = len(self._site.calls())
        audit.ack_seconds = self.ack_seconds
        rows = {row["number"]: row for row in self._site.servicenow.rows("incident")}
        for number, command in self.typed.items():
            # One that was kept, and died before it was acknowledged, is done once too.
            if int(rows[number]["sys_mod_count"]) > 1:
                audit.resolved_twice.append(command.text)
            if (command.status, command.shown) != (200, TAKEN):
                audit.refused[f"{command.status} {command.shown[:30]}".strip()] += 1
                audit.kept_unacknowledged += bool(command.answers)
                continue
            audit.taken += 1
            words = [answer.text for answer in command.answers]
            last = [text for text in words if not text.startswith(INTERIM)]
            audit.interim_words += len(words) - len(last)
            if not last:
                audit.unanswered.append(command.text)
            if len(last) > 1:
                audit.answered_twice.append(command.text)
            audit.other_words += [text for text in last if text != f"{number} is resolved"]
            if rows[number]["state"] != "6":
                audit.unresolved.append(command.text)
        return audit


def run(plan: Plan, database_url: str, folder: Path) -> Audit:
    """Run it on an empty PostgreSQL database."""
    faults = DrawnFaults(plan)
    project = folder / "hasura"
    shutil.copytree(PROJECT, project)
    (project / "metadata" / "cron_triggers.yaml").write_text("[]\n")
    with Slack(signing_secret=SIGNING_SECRET) as slack:
        site = Site(
            database_url,
            folder,
            rules=RULES,
            project=project,
            fetch_interval_seconds=0.2,
            # As main.py sets it; functions-framework has four for each core.
            THREADS="100",
            SERVICENOW_TIMEOUT_SECONDS="5",
            SLACK_SIGNING_SECRET=SIGNING_SECRET,
            SLACK_ALLOWED_TEAMS=TEAM,
            SLACK_SANDBOX_URL=slack.url,
        )
        slack.clock = site.clock.now
        site.servicenow = ServiceNow(password=PASSWORD, clock=site.clock.now, faults=faults)
        with site:
            return Burst(plan, site, slack, faults).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make burst", description=__doc__)
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency", type=float, default=1.0)
    asked = parser.parse_args()
    plan = Plan(asked.commands, asked.seed, latency_seconds=asked.latency)
    with PostgreSQL() as server, tempfile.TemporaryDirectory() as folder:
        audit = run(plan, server.url, Path(folder))
    print("\n".join(audit.lines()))
    lost = [*audit.unanswered, *audit.unresolved, *audit.resolved_twice]
    return 1 if lost or audit.left or max(audit.ack_seconds) > 1.0 else 0


if __name__ == "__main__":
    raise SystemExit(main())
