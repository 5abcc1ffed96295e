"""A site for the trials of one file: started once, because processes take their time."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.site import Site
from tests.faults.slack_site import SlackSite
from tests.faults.two_way_site import TwoWaySite


@pytest.fixture(scope="module")
def site(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two functions, two Hasura engines, one PostgreSQL. Each test takes rows of its own."""
    url = _database(postgresql_server, "site")
    with Site(url, tmp_path_factory.mktemp("site")) as site:
        yield site
    _drop(postgresql_server, "site")


@pytest.fixture
def calm(site: Site) -> Site:
    """The same, when nothing of an earlier test is under way."""
    site.heal()
    return site


@pytest.fixture(scope="module")
def two_way_site(
    postgresql_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoWaySite]:
    """The same, where app and service desk answer each other."""
    url = _database(postgresql_server, "two_way")
    with TwoWaySite(url, tmp_path_factory.mktemp("two-way")) as site:
        yield site
    _drop(postgresql_server, "two_way")


@pytest.fixture
def desk(two_way_site: TwoWaySite) -> TwoWaySite:
    """The same, when nothing of an earlier test is under way."""
    two_way_site.heal()
    return two_way_site


def _database(server: str, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


def _drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def slack_site(
    postgresql_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlackSite]:
    """The same, with people in Slack."""
    url = _database(postgresql_server, "slack")
    with SlackSite(url, tmp_path_factory.mktemp("slack")) as site:
        yield site
    _drop(postgresql_server, "slack")


@pytest.fixture
def chat(slack_site: SlackSite) -> SlackSite:
    """The same, when nothing of an earlier test is under way."""
    slack_site.heal()
    return slack_site
