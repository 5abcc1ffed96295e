"""Fixtures: a world on SQLite, and a PostgreSQL for those who need one."""

import logging
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from sandbox.postgresql import PostgreSQL
from tests.world import TOLD, World, leaks


class _Told(logging.Handler):
    """Keeps every log line of the run, with all that its record carries."""

    def emit(self, record: logging.LogRecord) -> None:
        TOLD.append(f"{record.getMessage()} {record.__dict__}")


def pytest_configure() -> None:
    """Listen to the function's log as loud as it gets."""
    logging.getLogger().addHandler(_Told())
    logging.getLogger("function").setLevel(logging.DEBUG)


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks() -> Iterator[None]:
    """What was planted stands in no log line and no answer of the whole run."""
    yield
    assert leaks(TOLD) == []


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world, once on each database."""
    url = request.getfixturevalue("postgresql_shared") if request.param == "postgresql" else None
    with World(database_url=url) as world:
        if url:
            world.forget()
        yield world


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL that runs as long as the tests."""
    with PostgreSQL() as server:
        yield server.url


@pytest.fixture(scope="session")
def postgresql_shared(postgresql_server: str) -> str:
    """The URL of a database that tests use one after the other, each after forgetting what it
    holds."""
    return postgresql_server


@pytest.fixture
def postgresql(postgresql_server: str) -> Iterator[str]:
    """The URL of an empty database on it."""
    yield from _made(postgresql_server)


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def postgresql_unfit(request: pytest.FixtureRequest, postgresql_server: str) -> Iterator[str]:
    """The same, of an encoding that does not have every character."""
    yield from _made(
        postgresql_server,
        f"ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )


def _made(postgresql_server: str, options: str = "") -> Iterator[str]:
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} {options}")
    yield postgresql_server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
