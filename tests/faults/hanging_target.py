"""Rows that become tickets, and are posted to another system, which hangs: ``make hanging``.

Each row is one event with both rules. A ticket's time is from the commit of its row until
ServiceNow has it. The same rows are sent twice: to a target that answers, then to one that takes
the request and says nothing. The tickets' 99th percentile must stay within twice of the first one.
"""

import argparse
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.postgresql import PostgreSQL
from tests.answers import Seen
from tests.faults.site import Site
from tests.receiver import TAKEN, Receiver

RULES: Final = """
version: 1
env: [TARGET_URL]
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
  - name: tell
    from: hasura/public.outages
    post:
      url: "{{ env.TARGET_URL }}"
      allow_private: true
      body: {id: "{{ row.id }}", title: "{{ row.title }}"}
"""
RATIO_MAX: Final = 2.0


@dataclass(frozen=True)
class Times:
    """Of the tickets of one run, in seconds. *calls*: what the target got; *lost*: rows without a
    ticket; *doubled*: rows with more than one."""

    seconds: list[float]
    calls: int
    lost: int
    doubled: int

    def share(self, share: float) -> float:
        return sorted(self.seconds)[max(0, int(len(self.seconds) * share) - 1)]

    def line(self, name: str) -> str:
        return (
            f"{name:<20} {len(self.seconds)} tickets, p50 {self.share(0.5) * 1000:.0f} ms, "
            f"p99 {self.share(0.99) * 1000:.0f} ms, slowest {max(self.seconds) * 1000:.0f} ms; "
            f"{self.calls} calls of the target"
        )


class HangingTarget:
    """One site, and a target that answers or hangs."""

    def __init__(self, site: Site, receiver: Receiver, *, rows_per_second: float) -> None:
        self._site = site
        self._receiver = receiver
        self._every_seconds = 1.0 / rows_per_second
        self._last_id = 0

    def run(self, rows: int, *, hangs: bool) -> Times:
        """Insert *rows*, evenly, and wait until each has its ticket and, unless the target *hangs*,
        was told to it."""
        self._receiver.answer = self._hang if hangs else TAKEN
        called = len(self._receiver.got)
        first = self._last_id + 1
        self._last_id += rows
        began = time.monotonic()
        inserted = {}
        for place, number in enumerate(range(first, first + rows)):
            time.sleep(max(0.0, began + place * self._every_seconds - time.monotonic()))
            self._site.sql(
                "INSERT INTO outages (id, title, severity) VALUES (%s, %s, 'major')",
                number,
                f"Row {number}",
            )
            inserted[f"Row {number}"] = self._site.clock.now()
        self._site.until(lambda: set(self._tickets()) >= set(inserted), seconds=120.0)
        if not hangs:
            self._site.until(lambda: len(self._receiver.got) - called >= rows, seconds=120.0)
        tickets = self._tickets()
        return Times(
            seconds=[tickets[title][0] - at for title, at in inserted.items()],
            calls=len(self._receiver.got) - called,
            lost=sum(title not in tickets for title in inserted),
            doubled=sum(len(tickets[title]) > 1 for title in inserted),
        )

    def _tickets(self) -> dict[str, list[float]]:
        """When the ticket of each title was made (UNIX seconds)."""
        made: dict[str, list[float]] = {}
        for call in self._site.servicenow.calls:
            if call.method == "POST" and call.status == 201 and call.body:
                made.setdefault(call.body["short_description"], []).append(call.at)
        return made

    def _hang(self, sock: socket.socket, seen: Seen) -> bool:
        return not self._receiver.server.stopping.wait(3600)


def run(
    rows: int, database_url: str, folder: Path, *, rows_per_second: float, latency_seconds: float
) -> tuple[Times, Times]:
    """Without and with a target that hangs, on an empty PostgreSQL database."""
    with (
        Receiver() as receiver,
        Site(database_url, folder, rules=RULES, TARGET_URL=receiver.url, THREADS="100") as site,
    ):
        site.servicenow.arm("slow", times=None, seconds=latency_seconds)
        target = HangingTarget(site, receiver, rows_per_second=rows_per_second)
        target.run(min(rows, 50), hangs=False)  # first calls, connections, plans of the database
        return target.run(rows, hangs=False), target.run(rows, hangs=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make hanging", description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rows-per-second", type=float, default=20.0)
    parser.add_argument("--latency", type=float, default=0.2, help="of ServiceNow, in seconds")
    asked = parser.parse_args()
    with PostgreSQL() as server, tempfile.TemporaryDirectory() as folder:
        answered, hung = run(
            asked.rows,
            server.url,
            Path(folder),
            rows_per_second=asked.rows_per_second,
            latency_seconds=asked.latency,
        )
    ratio = hung.share(0.99) / answered.share(0.99)
    print(answered.line("target answers"))
    print(hung.line("target hangs"))
    print(f"p99, hangs to answers  {ratio:.2f}")
    faults = [times.lost + times.doubled for times in (answered, hung)]
    return 1 if any(faults) or ratio > RATIO_MAX else 0


if __name__ == "__main__":
    raise SystemExit(main())
