"""The ledger's database does not answer, and does not end either: every event is answered within
its deadline."""

import random
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg
import pytest

from sandbox.postgresql import PostgreSQL
from tests.payloads import insert, update
from tests.world import Answered, World, outage

DEADLINE_SECONDS = 3.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """One for this file alone: whoever else used it would freeze too."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def database_url(server: PostgreSQL) -> Iterator[str]:
    """The URL of an empty database on it; it goes on afterwards, whatever became of the test."""
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server.url.replace("/postgres?", f"/{name}?")
    server.thaw()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def world_on(url: str) -> Iterator[World]:
    with World(
        database_url=url,
        DEADLINE_SECONDS=str(DEADLINE_SECONDS),
        SERVICENOW_TIMEOUT_SECONDS="2",
        SMTP_URL="",
        NOTIFY_FROM="",
        NOTIFY_TO="",
    ) as world:
        yield world


def timed(world: World, body: bytes) -> tuple[float, Answered]:
    began = time.monotonic()
    answer = world.send(body)
    return time.monotonic() - began, answer


def settle(world: World, bodies: list[bytes], *, seconds: float = 20.0) -> None:
    """Deliver *bodies* until each is done; the leases of those that were cut off are skipped."""
    until = time.monotonic() + seconds
    while bodies:
        assert time.monotonic() < until
        bodies = [body for body in bodies if world.send(body).status != 200]
        world.clock.advance(20)


def test_events_of_a_crowd_are_answered_in_time_while_it_is_frozen_and_done_afterwards(
    server: PostgreSQL, database_url: str
) -> None:
    bodies = [insert("outages", outage(n), id=f"e{n}") for n in range(16)]
    with world_on(database_url) as world, ThreadPoolExecutor(16) as pool:
        # Connections rest when it freezes.
        list(pool.map(world.send, [insert("outages", outage(f"before {n}")) for n in range(10)]))
        server.freeze()
        answered = list(pool.map(lambda body: timed(world, body), bodies))
        again = timed(world, bodies[0])
        server.thaw()
        began = time.monotonic()
        settle(world, bodies)
        healed_seconds = time.monotonic() - began

        assert {answer.status for _, answer in [*answered, again]} == {503}
        assert all(answer.retry_after for _, answer in [*answered, again])
        assert max(seconds for seconds, _ in [*answered, again]) < DEADLINE_SECONDS
        assert healed_seconds < 10
        assert len(world.incidents) == 26


def test_an_event_is_answered_in_time_where_it_freezes_before_the_first_connection(
    server: PostgreSQL, database_url: str
) -> None:
    with world_on(database_url) as world:
        server.freeze()
        seconds, answer = timed(world, insert("outages", outage()))
        server.thaw()

        assert (answer.status, seconds < DEADLINE_SECONDS) == (503, True)
        settle(world, [insert("outages", outage())])
        assert len(world.incidents) == 1


@pytest.mark.parametrize("path", ["/readyz", "/hasura"])
def test_what_is_no_event_is_answered_in_time_too(
    server: PostgreSQL, database_url: str, path: str
) -> None:
    with world_on(database_url) as world:
        world.send(insert("outages", outage()))
        server.freeze()
        began = time.monotonic()
        answer = world.request(
            "GET" if path == "/readyz" else "POST", path, b"" if path == "/readyz" else b"{}"
        )
        seconds = time.monotonic() - began

        assert answer.status in (503, 400)
        assert seconds < DEADLINE_SECONDS


def test_an_answer_after_a_call_is_in_time_and_does_not_say_that_nothing_was_done(
    server: PostgreSQL, database_url: str
) -> None:
    """It freezes while ServiceNow works: the incident is made, and cannot be written down."""
    with world_on(database_url) as world:
        world.send(insert("outages", outage("before")))
        world.servicenow.arm("slow", seconds=0.5)
        freezing = threading.Timer(0.25, server.freeze)
        freezing.start()
        seconds, answer = timed(world, insert("outages", outage(), id="e"))
        freezing.join()
        server.thaw()
        made = len(world.incidents)
        settle(world, [insert("outages", outage(), id="e", current_retry=1)])

        assert (answer.status, seconds < DEADLINE_SECONDS) == (503, True)
        assert "nothing" not in str(answer.body)
        assert made == len(world.incidents) == 2


@pytest.mark.parametrize("seed", range(3))
def test_at_whatever_moment_it_freezes_every_event_is_answered_in_time(
    server: PostgreSQL, database_url: str, seed: int
) -> None:
    draw = random.Random(seed)
    bodies = [insert("outages", outage(n), id=f"i{n}") for n in range(12)]
    bodies += [
        update("outages", outage(n), outage(n, title="changed"), id=f"u{n}") for n in range(12)
    ]
    with world_on(database_url) as world, ThreadPoolExecutor(6) as pool:
        world.send(insert("outages", outage("before")))
        answered: list[tuple[float, Answered]] = []
        for _ in range(4):
            flock = [pool.submit(timed, world, body) for body in bodies]
            time.sleep(draw.random() * 0.4)
            server.freeze()
            time.sleep(DEADLINE_SECONDS * draw.random())
            server.thaw()
            answered += [each.result() for each in flock]
            world.clock.advance(60)
        settle(world, bodies)

        assert {answer.status for _, answer in answered} <= {200, 503}
        assert max(seconds for seconds, _ in answered) < DEADLINE_SECONDS
        assert sorted(row["short_description"] for row in world.incidents)[1:] == ["changed"] * 12


def test_an_event_is_answered_in_time_where_the_network_swallows_everything() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as hole,
        world_on(f"postgresql://ledger:planted@127.0.0.1:{hole.getsockname()[1]}/ledger") as world,
        ThreadPoolExecutor(10) as pool,
    ):
        answered = list(pool.map(lambda n: timed(world, insert("outages", outage(n))), range(10)))

        assert {answer.status for _, answer in answered} == {503}
        assert max(seconds for seconds, _ in answered) < DEADLINE_SECONDS


def test_an_event_is_answered_in_time_while_another_process_locks_a_sqlite_file() -> None:
    bodies = [insert("outages", outage(n), id=f"e{n}") for n in range(10)]
    with World(DEADLINE_SECONDS=str(DEADLINE_SECONDS), SERVICENOW_TIMEOUT_SECONDS="2") as world:
        world.send(insert("outages", outage("before")))
        with (
            closing(sqlite3.connect(world.ledger_file, isolation_level=None)) as other,
            ThreadPoolExecutor(10) as pool,
        ):
            other.execute("BEGIN EXCLUSIVE")
            answered = list(pool.map(lambda body: timed(world, body), bodies))
            other.execute("ROLLBACK")
        settle(world, bodies)

        assert {answer.status for _, answer in answered} == {503}
        assert max(seconds for seconds, _ in answered) < DEADLINE_SECONDS
        assert len(world.incidents) == 11
