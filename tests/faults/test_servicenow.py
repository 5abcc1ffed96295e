"""ServiceNow fails in each of its ways, at each call; afterwards there is one ticket, and it says
what the row says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from sandbox.servicenow import FAULTS
from tests.faults.site import COMMITS_WITHIN_SECONDS, Site, project_with

# A group of its own for each row, so that each row's reference is looked up.
RULES = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
        assignment_group: "{{ row.details }}"
      resolve_when: row.status == 'fixed'
"""
# What cannot be helped by trying again: Hasura shows an error, and an operator sends it again.
REFUSED = {"acl_403", "business_rule_403", "data_policy_403"}
# Told from a refusal by looking.
AFTER_ALL = "commit_then_403"
TRANSIENT = sorted(FAULTS - REFUSED - {AFTER_ALL})
READS = {"stale_read"}
SECONDS = {
    "slow": 0.2,
    "commit_then_hang": 1.5,
    "commit_late": COMMITS_WITHIN_SECONDS,
    "rate_limit_429": 30.0,
}


@contextmanager
def _site(
    server: str, tmp_path_factory: pytest.TempPathFactory, name: str, *, honours_sys_id: bool = True
) -> Iterator[Site]:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = server.replace("/postgres?", f"/{name}?")
    folder: Path = tmp_path_factory.mktemp(name)
    project = project_with(folder, num_retries=2)
    with Site(
        url,
        folder,
        rules=RULES,
        project=project,
        honours_sys_id=honours_sys_id,
        SERVICENOW_TIMEOUT_SECONDS="1",
    ) as site:
        yield site
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def site(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with _site(postgresql_server, tmp_path_factory, "servicenow_faults") as site:
        yield site


def opened(site: Site, name: str) -> int:
    """A row with a group of its own."""
    site.servicenow.tables.insert("sys_user_group", {"name": name}, by="admin")
    rows = site.sql(
        "INSERT INTO outages (title, details, severity) VALUES ('Down', %s, 'major') RETURNING id",
        name,
    )
    return int(rows[0]["id"])


@pytest.mark.parametrize(
    ("fault", "table"),
    [
        *((fault, "sys_user_group") for fault in TRANSIENT if fault not in READS),
        *((fault, "incident") for fault in [*TRANSIENT, AFTER_ALL] if fault not in READS),
    ],
)
def test_a_fault_while_a_ticket_is_created(calm: Site, fault: str, table: str) -> None:
    calm.servicenow.arm(fault, table=table, seconds=SECONDS.get(fault, 0))
    row = opened(calm, f"{fault} {table}")
    calm.settle()

    assert calm.servicenow.armed() == []
    assert [(ticket["short_description"], ticket["state"]) for ticket in calm.tickets(row)] == [
        ("Down", "1")
    ]
    assert calm.undelivered() == []


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        *((fault, "GET") for fault in TRANSIENT),
        *((fault, "PATCH") for fault in [*TRANSIENT, AFTER_ALL] if fault not in READS),
    ],
)
def test_a_fault_while_a_ticket_is_resolved(calm: Site, fault: str, method: str) -> None:
    row = opened(calm, f"{fault} {method}")
    calm.settle()
    calm.servicenow.arm(fault, method=method, table="incident", seconds=SECONDS.get(fault, 0))
    calm.sql("UPDATE outages SET status = 'fixed', title = 'Was down' WHERE id = %s", row)
    calm.settle()

    assert calm.servicenow.armed() == []
    assert [(ticket["short_description"], ticket["state"]) for ticket in calm.tickets(row)] == [
        ("Was down", "6")
    ]
    assert calm.undelivered() == []


@pytest.mark.parametrize(
    ("fault", "method", "table"),
    [
        *((fault, method, "incident") for fault in sorted(REFUSED) for method in ("POST", "PATCH")),
        ("acl_403", "GET", "incident"),
        ("acl_403", "GET", "sys_user_group"),
    ],
)
def test_a_refusal_is_a_dead_letter_and_redeliver_makes_it_good(
    calm: Site, fault: str, method: str, table: str
) -> None:
    name = f"{fault} {method} {table}"
    changes = method in {"GET", "PATCH"} and table == "incident"
    row = opened(calm, name) if changes else 0
    calm.settle()
    mails = len(calm.mailbox.messages)
    calm.servicenow.arm(fault, method=method, table=table)
    if changes:
        calm.sql("UPDATE outages SET title = 'Was down', status = 'fixed' WHERE id = %s", row)
    else:
        row = opened(calm, name)
    calm.settle()
    [event] = calm.undelivered()
    calm.engines[0].redeliver(event["id"])
    calm.settle()

    assert event["error"]
    assert len(calm.mailbox.messages) > mails
    end = ("Was down", "6") if changes else ("Down", "1")
    assert [(ticket["short_description"], ticket["state"]) for ticket in calm.tickets(row)] == [end]
    assert calm.undelivered() == []


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    "fault", [fault for fault in [*TRANSIENT, AFTER_ALL] if fault.startswith("commit")]
)
def test_a_commit_without_a_good_answer_and_reads_that_lag_behind_it(
    calm: Site, fault: str, method: str
) -> None:
    changes = method == "PATCH"
    row = opened(calm, f"{fault} {method}, lagging") if changes else 0
    calm.settle()
    calm.servicenow.arm(fault, method=method, table="incident", seconds=SECONDS.get(fault, 0))
    calm.servicenow.arm("stale_read", method="GET", table="incident")
    if changes:
        calm.sql("UPDATE outages SET status = 'fixed', title = 'Was down' WHERE id = %s", row)
    else:
        row = opened(calm, f"{fault} {method}, lagging")
    calm.settle()

    end = ("Was down", "6") if changes else ("Down", "1")
    assert [(ticket["short_description"], ticket["state"]) for ticket in calm.tickets(row)] == [end]
    assert calm.undelivered() == []


@pytest.fixture(scope="module")
def wilful(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Of an instance that gives ids of its own."""
    with _site(postgresql_server, tmp_path_factory, "wilful", honours_sys_id=False) as site:
        yield site


@pytest.mark.parametrize(
    ("fault", "method"),
    [
        (fault, method)
        for fault in [*TRANSIENT, AFTER_ALL]
        for method in ("POST", "PATCH", "GET")
        if method == "GET" or fault not in READS
        if method != "GET" or fault != AFTER_ALL
    ],
)
def test_a_fault_at_an_instance_that_gives_ids_of_its_own(
    wilful: Site, fault: str, method: str
) -> None:
    """A GET is that of a look-up before a create in doubt is repeated, and that before
    a resolve."""
    wilful.heal()
    name = f"{fault} {method}, ids of its own"
    if method == "GET":
        wilful.servicenow.arm("commit_then_500", method="POST", table="incident")
    wilful.servicenow.arm(fault, method=method, table="incident", seconds=SECONDS.get(fault, 0))
    row = opened(wilful, name)
    wilful.settle()
    if method == "GET":
        wilful.servicenow.arm(fault, method=method, table="incident", seconds=SECONDS.get(fault, 0))
    wilful.sql("UPDATE outages SET status = 'fixed', title = 'Was down' WHERE id = %s", row)
    wilful.settle()

    assert wilful.servicenow.armed() == []
    assert [(row["short_description"], row["state"]) for row in wilful.tickets(row)] == [
        ("Was down", "6")
    ]
    assert wilful.undelivered() == []
