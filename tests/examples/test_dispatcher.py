"""examples/dispatcher.yaml, as `make run RULES_FILE=examples/dispatcher.yaml
PROJECT=examples/dispatcher` runs it: a change reaches the systems that it is for, and no other."""

import base64
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.examples.run import COME_SECONDS_MAX, Run

SYSTEMS = "abcd"
ACCOUNT = "INSERT INTO accounts (name, email, vin) VALUES (%s, %s, %s) RETURNING id"
SUBSCRIPTION = (
    "INSERT INTO subscriptions (account_id, plan, state) VALUES (%s, %s, %s) RETURNING id"
)
MESSAGE = "INSERT INTO events (message) VALUES (%s) RETURNING id"


class DispatcherRun(Run):
    """An app, and four systems that are told of it."""

    def __init__(self) -> None:
        super().__init__("dispatcher")

    @property
    def receiver(self) -> str:
        return self.environ["SYSTEM_A_URL"].removesuffix("/hooks/a")

    def insert(self, statement: str, *values: object) -> str:
        [row] = self.sql(statement, *values)
        return str(row["id"])

    def say(self, event_type: str, guid: str, **headers: str) -> None:
        message = {"eventType": event_type, "guid": guid, "vin": "WVW123", "headers": headers}
        self.sql(MESSAGE, json.dumps(message))

    def settle(self) -> list[dict[str, Any]]:
        """Wait until every event is delivered or given up; gives the last answers."""
        until = time.monotonic() + COME_SECONDS_MAX
        while self.sql("SELECT 1 FROM hdb_catalog.event_log WHERE NOT delivered AND NOT error"):
            assert time.monotonic() < until, self.sql("SELECT * FROM hdb_catalog.event_log")
            time.sleep(0.05)
        return self.sql(
            "SELECT status, response FROM hdb_catalog.event_invocation_logs ORDER BY created_at"
        )

    def forget(self) -> None:
        self.settle()
        for name in SYSTEMS:
            requests.post(f"{self.receiver}/systems/{name}/forget", timeout=5)

    def arm(self, name: str, **fault: str) -> None:
        requests.post(f"{self.receiver}/systems/{name}/arm", fault, timeout=5)

    def got(self, name: str) -> list[dict[str, Any]]:
        """What a system got: each request with its body read."""
        told = requests.get(f"{self.receiver}/systems/{name}.json", timeout=5).json()
        for request in told["received"]:
            request["json"] = json.loads(base64.b64decode(request["body"]))
            request["headers"] = {name.lower(): value for name, value in request["headers"]}
        return list(told["received"])

    def counts(self) -> dict[str, int]:
        """How many requests each system took."""
        self.settle()
        taken = {name: sum(got["status"] == 200 for got in self.got(name)) for name in SYSTEMS}
        return {name: count for name, count in taken.items() if count}


@pytest.fixture(scope="module")
def run() -> Iterator[DispatcherRun]:
    with DispatcherRun() as run:
        yield run


@pytest.fixture
def account(run: DispatcherRun) -> str:
    """An account with two subscriptions, of which everybody has been told."""
    account = run.insert(ACCOUNT, "Ada & Söhne", "ada@example.com", "WVW123")
    run.insert(SUBSCRIPTION, account, "basic", "active")
    run.insert(SUBSCRIPTION, account, "trial", "ended")
    run.forget()
    return account


@pytest.fixture
def subscription(run: DispatcherRun, account: str) -> str:
    subscription = run.insert(SUBSCRIPTION, account, "extra", "active")
    run.forget()
    return subscription


# By messages


@pytest.mark.parametrize(
    ("event_type", "told"),
    [
        ("Create_Account", {"a": 1, "b": 1}),
        ("Update_Account", {"a": 1, "b": 1, "c": 1}),
        ("UPDATE_ACCOUNT", {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_a_message_about_an_account_reaches_its_systems_and_no_other(
    run: DispatcherRun, account: str, event_type: str, told: dict[str, int]
) -> None:
    run.say(event_type, account)

    assert run.counts() == told


@pytest.mark.parametrize("event_type", ["Create_Subscription", "Update_Subscription"])
def test_a_message_about_a_subscription_reaches_its_systems_and_no_other(
    run: DispatcherRun, subscription: str, event_type: str
) -> None:
    run.say(event_type, subscription)

    assert run.counts() == {"b": 1, "d": 1}


def test_a_message_carries_its_own_correlation_id_to_every_system(
    run: DispatcherRun, account: str
) -> None:
    run.say("Update_Account", account, **{"X-CorrelationId": "c-77"})
    run.settle()

    assert {run.got(name)[0]["headers"]["x-correlationid"] for name in "abc"} == {"c-77"}


def test_a_message_without_one_has_one_and_the_same_everywhere(
    run: DispatcherRun, account: str
) -> None:
    run.say("Update_Account", account)
    run.settle()

    [correlation_id] = {run.got(name)[0]["headers"]["x-correlationid"] for name in "abc"}
    assert len(correlation_id) > 8


def test_b_gets_the_whole_account_and_c_what_it_wants_of_it(
    run: DispatcherRun, account: str
) -> None:
    run.say("Update_Account", account)
    run.settle()

    [a], [b], [c] = (run.got(name) for name in "abc")
    assert a["json"] == {"eventType": "Update_Account", "guid": account, "vin": "WVW123"}
    whole = b["json"]["account"]
    assert (whole["id"], whole["name"], whole["email"]) == (
        account,
        "Ada & Söhne",
        "ada@example.com",
    )
    assert {(one["plan"], one["state"]) for one in whole["subscriptions"]} == {
        ("basic", "active"),
        ("trial", "ended"),
    }
    assert c["json"] == {
        "customer": {"number": account, "mail": "ada@example.com"},
        "activePlans": ["basic"],
    }


def test_of_an_account_that_is_gone_those_are_not_told_that_need_what_it_says(
    run: DispatcherRun,
) -> None:
    run.forget()
    run.say("Update_Account", str(uuid.uuid4()))

    assert run.counts() == {"a": 1}


def test_an_unknown_type_reaches_nobody_and_is_named(run: DispatcherRun, account: str) -> None:
    run.say("Close_Account", account)
    until = time.monotonic() + COME_SECONDS_MAX
    while not (
        refused := run.sql(
            "SELECT response FROM hdb_catalog.event_invocation_logs WHERE status = 422"
        )
    ):
        assert time.monotonic() < until
        time.sleep(0.05)
    run.sql("UPDATE hdb_catalog.event_log SET error = true WHERE NOT delivered")

    assert "has the type `Close_Account`" in json.dumps(refused[0]["response"])
    assert run.counts() == {}


def test_what_one_system_does_not_take_is_sent_again_to_it_alone(
    run: DispatcherRun, account: str
) -> None:
    run.arm("b", kind="status", status="503", times="1")
    run.say("Create_Account", account)
    counts = run.counts()

    assert counts == {"a": 1, "b": 1}
    assert [len(run.got(name)) for name in "ab"] == [1, 2]


# By tables


def test_a_new_account_reaches_a_and_b(run: DispatcherRun) -> None:
    run.forget()
    account = run.insert(ACCOUNT, "Ada", None, "WVW123")

    assert run.counts() == {"a": 1, "b": 1}
    [a], [b] = run.got("a"), run.got("b")
    assert a["json"] == {"eventType": "Create_Account", "guid": account, "vin": "WVW123"}
    assert b["json"]["account"] == {
        "id": account,
        "name": "Ada",
        "email": None,
        "vin": "WVW123",
        "subscriptions": [],
    }


def test_an_account_that_is_updated_reaches_a_b_and_c(run: DispatcherRun, account: str) -> None:
    run.sql("UPDATE accounts SET email = 'ada@new.example' WHERE id = %s", account)

    assert run.counts() == {"a": 1, "b": 1, "c": 1}
    assert run.got("c")[0]["json"] == {
        "customer": {"number": account, "mail": "ada@new.example"},
        "activePlans": ["basic"],
    }


def test_a_subscription_reaches_b_and_d_when_it_is_new_and_when_it_changes(
    run: DispatcherRun, account: str
) -> None:
    subscription = run.insert(SUBSCRIPTION, account, "extra", "active")
    first = run.counts()
    run.sql("UPDATE subscriptions SET state = 'paused' WHERE id = %s", subscription)
    both = run.counts()

    assert (first, both) == ({"b": 1, "d": 1}, {"b": 2, "d": 2})
    assert [got["json"]["eventType"] for got in run.got("d")] == [
        "Create_Subscription",
        "Update_Subscription",
    ]
    last = run.got("b")[-1]["json"]["subscription"]
    assert (last["state"], last["account"]["name"]) == ("paused", "Ada & Söhne")
