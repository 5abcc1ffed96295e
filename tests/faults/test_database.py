"""The ledger's database fails: restarted under load, connections cut, its disk full; a lease holder
is frozen."""

import random
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from sandbox.postgresql import PostgreSQL
from tests.faults.audit import audit
from tests.faults.site import Site


def write_rows(site: Site, count: int) -> None:
    """Rows one after the other, each changed once; the app's own connection, a new one for each
    statement, may be cut too."""
    for number in range(count):
        for statement in (
            (
                "INSERT INTO outages (id, title, severity) VALUES (%s, 'Down', 'major') ON "
                "CONFLICT DO NOTHING"
            ),
            "UPDATE outages SET title = 'Still down' WHERE id = %s",
        ):
            while True:
                try:
                    with psycopg.connect(site.database_url) as connection:
                        connection.execute(statement, [number + 1])
                    break
                except psycopg.OperationalError:
                    time.sleep(0.05)


@contextmanager
def load(site: Site, *, rows: int) -> Iterator[threading.Thread]:
    """Rows are written meanwhile, and afterwards all are."""
    writing = threading.Thread(target=write_rows, args=(site, rows), daemon=True)
    writing.start()
    yield writing
    writing.join(60)
    assert not writing.is_alive()


def test_the_database_restarts_under_load(tmp_path: Path) -> None:
    with PostgreSQL() as server, Site(server.url, tmp_path, DEADLINE_SECONDS="5") as site:
        with load(site, rows=40):
            for _ in range(2):
                time.sleep(0.7)
                server.restart()
        site.heal()
        found = audit(site)

        assert found.tickets == 40
        assert (found.lost, found.duplicated, found.stale) == ([], [], [])


def test_connections_are_cut_under_load(postgresql: str, tmp_path: Path) -> None:
    draw = random.Random(1)
    with Site(postgresql, tmp_path, DEADLINE_SECONDS="5") as site:
        cut = 0
        with load(site, rows=30) as writing:
            while writing.is_alive():
                time.sleep(draw.random() * 0.2)
                cut += len(
                    site.sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                        "current_database() "
                        "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 3"
                    )
                )
        site.heal()
        found = audit(site)

        assert cut > 10
        assert found.tickets == 30
        assert (found.lost, found.duplicated, found.stale) == ([], [], [])


def test_a_sqlite_ledger_cannot_grow_for_a_while(postgresql: str, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    with Site(
        postgresql, tmp_path, functions=1, DATABASE_URL=f"sqlite:///{ledger}", LOG_LEVEL="CRITICAL"
    ) as site:
        first = site.outage()
        site.settle()
        workers = psutil.Process(site.functions[0].pid).children()
        # No file of the function can grow: the operating system refuses its writes, as a failing
        # disk does.
        for worker in workers:
            worker.rlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        second = site.outage("Cannot be written down")
        site.until(
            lambda: site.sql("SELECT 1 FROM hdb_catalog.event_invocation_logs WHERE status = 503")
        )
        tickets_meanwhile = site.tickets(second)
        for worker in workers:
            worker.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        site.settle()

        assert workers
        assert tickets_meanwhile == []
        assert [len(site.tickets(row)) for row in (first, second)] == [1, 1]
        assert site.undelivered() == []


def test_a_holder_frozen_past_its_lease_writes_late_and_is_put_right(calm: Site) -> None:
    """It is stopped right before its PATCH, the row moves on through another function, and it wakes
    and sends."""
    row = calm.outage()
    calm.settle()
    freeze_the_first(calm, "UPDATE outages SET title = 'Refunds too' WHERE id = %s", row)
    calm.sql("UPDATE outages SET title = 'Only refunds' WHERE id = %s", row)
    calm.until(
        lambda: [ticket["short_description"] for ticket in calm.tickets(row)] == ["Only refunds"]
    )
    calm.calls()
    calm.wake()
    calm.until(
        lambda: (
            "PATCH incident" in [f"{call.method} {call.table}" for call in calm.servicenow.calls]
        )
    )
    calm.start_engine(0)
    calm.heal()

    assert [ticket["short_description"] for ticket in calm.tickets(row)] == ["Only refunds"]
    assert [event for event in calm.events() if not event["delivered"]] == []


def test_a_holder_frozen_past_its_lease_creates_late_and_there_is_one_ticket(calm: Site) -> None:
    # By its ticket it is known that the instance honours the sys_id.
    calm.outage()
    calm.settle()
    freeze_the_first(
        calm, "INSERT INTO outages (id, title, severity) VALUES (%s, 'Down', 'major')", 700_001
    )
    calm.sql("UPDATE outages SET title = 'Refunds too' WHERE id = 700001")
    calm.until(lambda: calm.tickets(700_001))
    calm.wake()
    calm.start_engine(0)
    calm.heal()

    assert [ticket["short_description"] for ticket in calm.tickets(700_001)] == ["Refunds too"]
    assert [event for event in calm.events() if not event["delivered"]] == []


def freeze_the_first(site: Site, statement: str, row: int) -> None:
    """Stop the first function right before it sends what *statement* brings, until its lease has
    ended."""
    site.engines[1].stop()
    frozen = site.order("stop", "before_call")
    site.sql(statement, row)
    site.until(frozen)
    # Its Hasura goes down with it, and another function goes on.
    site.engines[0].kill()
    site.let_lease_end()
    site.start_engine(1)
