"""ServiceNowClient by itself: incidents, notes, change requests and searches, without rules and
without a ledger."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from function.core.outcome import Reason, Retryability
from function.servicenow import (
    Basic,
    Credential,
    InDoubt,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    OAuth,
    Record,
    Refused,
    ServiceNowClient,
    ServiceNowError,
    Unavailable,
    UnknownReference,
)
from function.servicenow.fields import CHANGE, INCIDENT, NAMED, UNNAMED, check_names, written
from function.servicenow.search import ORDERS, PAGE_ROWS
from sandbox.servicenow import ServiceNow
from sandbox.tables import Tables
from tests.answers import Seen, Server, always, http, reset, result

ID = "0123456789abcdef0123456789abcdef"
CLOSING: dict[str, Any] = {"close_code": "Solution provided", "close_notes": "Restarted."}


@pytest.fixture
def instance() -> Iterator[ServiceNow]:
    with ServiceNow() as instance:
        yield instance


@contextmanager
def calling(url: str, *, timeout_seconds: float = 10) -> Iterator[ServiceNowClient]:
    with ServiceNowClient(
        url, Basic("svc.hasura", "sandbox"), timeout_seconds=timeout_seconds
    ) as client:
        yield client


@pytest.fixture
def client(instance: ServiceNow) -> Iterator[ServiceNowClient]:
    with calling(instance.url) as client:
        yield client


def called(instance: ServiceNow) -> list[str]:
    """The calls since the last time of asking."""
    return [f"{call.method} {call.table}" for call in instance.take_calls()]


def opened(instance: ServiceNow, **fields: str) -> Record:
    return instance.tables.insert("incident", {"short_description": "Slow"} | fields, by="admin")


def ended(instance: ServiceNow, *states: str) -> Record:
    row = opened(instance)
    for state in states:
        row = instance.change("incident", row["sys_id"], state=state, **CLOSING)
    return row


def sys_id(instance: ServiceNow, table: str, name: str) -> str:
    return next(
        row["sys_id"] for row in instance.rows(table) if name in {row.get("user_name"), row["name"]}
    )


class TestAddress:
    def test_the_name_of_an_instance_will_do(self) -> None:
        with calling("dev12345") as client:
            assert client.instance_url == "https://dev12345.service-now.com"

    @pytest.mark.parametrize(
        "url", ["http://dev12345.service-now.com", "ftp://x", "https://x/path", "https://u:p@x", ""]
    )
    def test_one_that_cannot_be_used_is_refused(self, url: str) -> None:
        with pytest.raises(InvalidArgument, match="instance_url ") as refused, calling(url):
            pass

        assert "u:p" not in str(refused.value)


class TestCreate:
    def test_an_incident_is_opened_with_what_was_said(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_incident(
            "Checkout is down", description="Since 08:02", category="software"
        )

        row = instance.row("incident", made["sys_id"])
        assert row is not None
        assert row["short_description"] == "Checkout is down"
        assert row["description"] == "Since 08:02"
        assert row["category"] == "software"
        assert made["number"] == row["number"]

    def test_impact_and_urgency_are_3(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        client.create_incident("x")

        [call] = instance.take_calls()
        assert call.body is not None
        assert (call.body["impact"], call.body["urgency"]) == ("3", "3")

    def test_what_is_empty_is_not_sent(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        client.create_incident("x", description="", category=None, assigned_to="", contact_type="")

        [call] = instance.take_calls()
        assert set(call.body or {}) == {"sys_id", "short_description", "impact", "urgency"}

    def test_other_fields_go_by_their_names(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_incident("x", contact_type="monitoring", correlation_display="shop")

        assert (made["contact_type"], made["correlation_display"]) == ("monitoring", "shop")

    def test_a_time_with_a_zone_is_sent_in_utc(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        due = datetime(2026, 8, 19, 10, 7, 6, tzinfo=timezone(timedelta(hours=2)))

        assert client.create_incident("x", due_date=due)["due_date"] == "2026-08-19 08:07:06"
        assert (
            client.create_incident("x", due_date="2026-08-19T10:07:06+02:00")["due_date"]
            == "2026-08-19 08:07:06"
        )

    def test_a_text_too_long_is_cut_visibly(self, client: ServiceNowClient) -> None:
        assert client.create_incident("x" * 200)["short_description"] == "x" * 159 + "…"

    @pytest.mark.parametrize(
        "who", ["beth.anglin", "beth.anglin@example.com", "Beth Anglin", "BETH.ANGLIN"]
    )
    def test_a_user_is_named_by_name_or_address(
        self, instance: ServiceNow, client: ServiceNowClient, who: str
    ) -> None:
        made = client.create_incident("x", caller_id=who)

        assert made["caller_id"] == sys_id(instance, "sys_user", "beth.anglin")

    def test_a_group_and_an_item_are_named(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_incident(
            "x", assignment_group="Network", cmdb_ci="web-01", business_service="shop"
        )

        assert made["assignment_group"] == sys_id(instance, "sys_user_group", "Network")
        assert made["cmdb_ci"] == sys_id(instance, "cmdb_ci", "web-01")
        assert made["business_service"] == sys_id(instance, "cmdb_ci", "shop")

    def test_a_name_is_asked_for_once(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        for _ in range(3):
            client.create_incident("x", assignment_group="Network")

        assert called(instance) == ["GET sys_user_group", *["POST incident"] * 3]

    def test_a_parent_is_named_by_its_number(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        parent = opened(instance)

        assert (
            client.create_incident("x", parent_incident=parent["number"])["parent_incident"]
            == parent["sys_id"]
        )

    @pytest.mark.parametrize(
        "field", ["assignment_group", "assigned_to", "caller_id", "cmdb_ci", "business_service"]
    )
    def test_an_unknown_name_is_an_error_before_anything_is_written(
        self, instance: ServiceNow, client: ServiceNowClient, field: str
    ) -> None:
        with pytest.raises(UnknownReference, match=f"what is given for {field} is not there"):
            client.create_incident("x", **{field: "Nobody"})

        assert [call.method for call in instance.take_calls()] == ["GET"]

    def test_an_ambiguous_name_is_an_error_before_anything_is_written(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        instance.tables.insert("sys_user_group", {"name": "Network"}, by="admin")

        with pytest.raises(UnknownReference, match="more than one"):
            client.create_incident("x", assignment_group="Network")

        assert called(instance) == ["GET sys_user_group"]

    @pytest.mark.parametrize(
        "fault", ["commit_then_500", "commit_then_reset", "commit_then_403", "partial_200"]
    )
    def test_one_that_was_made_without_a_good_answer_is_found(
        self, instance: ServiceNow, client: ServiceNowClient, fault: str
    ) -> None:
        instance.arm(fault, method="POST")

        made = client.create_incident("x", correlation_id="shop:1")

        assert [row["sys_id"] for row in instance.rows("incident")] == [made["sys_id"]]
        assert called(instance) == ["POST incident", "GET incident"]

    def test_one_in_doubt_can_be_repeated_without_making_two(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        instance.arm("commit_then_500", method="POST")
        instance.arm("error_500", method="GET")
        with pytest.raises(InDoubt) as doubt:
            client.create_incident("x")

        again = client.create_incident("x", sys_id=doubt.value.sys_id)

        assert [row["sys_id"] for row in instance.rows("incident")] == [again["sys_id"]]

    def test_another_record_under_the_same_sys_id_is_no_success(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        opened(instance, sys_id=ID, correlation_id="another")

        with pytest.raises(Refused) as refused:
            client.create_incident("x", sys_id=ID, correlation_id="mine")

        assert refused.value.failure.reason is Reason.CONFLICT

    def test_an_instance_that_chooses_its_own_sys_ids_is_said_so(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with ServiceNow(honours_sys_id=False) as instance, calling(instance.url) as client:
            made = client.create_incident("x")

            assert instance.row("incident", made["sys_id"])
            assert "a sys_id of its own" in caplog.text


class TestSignIn:
    def test_a_user_and_a_password_are_named(self, instance: ServiceNow) -> None:
        with ServiceNowClient(
            instance_url=instance.url, username="svc.hasura", password="sandbox"
        ) as client:
            assert client.create_incident(short_description="x")["number"] == "INC0010001"

    def test_a_user_and_a_password_stand_behind_the_address(self, instance: ServiceNow) -> None:
        with ServiceNowClient(instance.url, "svc.hasura", "sandbox") as client:
            assert client.create_incident("x")["number"] == "INC0010001"

    @pytest.mark.parametrize(
        ("given", "hint"),
        [
            ({}, "username and password must both say something"),
            ({"username": "svc.hasura"}, "username and password must both"),
            ({"password": "planted"}, "username and password must both"),
            ({"username": "svc.hasura", "password": ""}, "username and password must both"),
            ({"credential": Basic("u", "p"), "username": "u", "password": "planted"}, "not both"),
            (
                {"credential": "u", "username": "u", "password": "planted"},
                "username is given twice",
            ),
        ],
    )
    def test_who_signs_in_is_said_once_and_whole(self, given: dict[str, Any], hint: str) -> None:
        with pytest.raises(InvalidArgument, match=hint) as refused:
            ServiceNowClient("dev12345", **given)

        assert "planted" not in str(refused.value)


class TestWaysOfSpelling:
    def test_a_record_is_named_by_its_sys_id_or_its_number(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        for name in (
            {"sys_id": row["sys_id"]},
            {"number": row["number"]},
            {"number_or_sys_id": row["number"]},
        ):
            assert client.get_incident(**name)["sys_id"] == row["sys_id"]
            assert client.update_incident(**name, description=str(name))["sys_id"] == row["sys_id"]
            assert client.resolve_incident(**name, **CLOSING)["state"] == "6"
            assert client.reopen_incident(**name)["state"] == "2"

        assert client.close_incident(sys_id=row["sys_id"], **CLOSING)["state"] == "7"

    def test_so_is_a_change_request(self, client: ServiceNowClient) -> None:
        made = client.create_change_request(
            short_description="Upgrade", description="To 3.2", type_="emergency"
        )

        assert made["type"] == "emergency"
        assert client.get_change_request(number=made["number"])["sys_id"] == made["sys_id"]
        assert (
            client.update_change_request(sys_id=made["sys_id"], type_="normal")["type"] == "normal"
        )

    def test_a_description_close_code_and_close_notes_need_no_name(
        self, client: ServiceNowClient
    ) -> None:
        made = client.create_incident("Checkout is down", "Since 08:02")
        resolved = client.resolve_incident(made["number"], "Solution provided", "Restarted.")

        assert (
            client.get_incident(made["sys_id"], fields=["description"])["description"]
            == "Since 08:02"
        )
        assert (resolved["close_code"], resolved["close_notes"]) == (
            "Solution provided",
            "Restarted.",
        )

    @pytest.mark.parametrize(
        "name", [{}, {"sys_id": ID, "number": "INC1"}, {"number_or_sys_id": ID, "sys_id": ID}]
    )
    def test_a_record_is_named_once(self, client: ServiceNowClient, name: dict[str, str]) -> None:
        for call in (
            client.get_incident,
            client.update_incident,
            client.reopen_incident,
            client.get_change_request,
        ):
            with pytest.raises(InvalidArgument, match="name the record once"):
                call(**name)
        with pytest.raises(InvalidArgument, match="name the record once"):
            client.add_work_note(**name, text="x")

        assert client.calls == 0

    def test_a_number_is_no_sys_id(self, client: ServiceNowClient) -> None:
        with pytest.raises(
            InvalidArgument,
            match="sys_id must be 32 hexadecimal digits; a number is given as number=",
        ):
            client.get_incident(sys_id="INC0010001")

    @pytest.mark.parametrize(
        ("column", "label", "value"),
        [
            ("state", "New", "1"),
            ("state", "In Progress", "2"),
            ("state", "in_progress", "2"),
            ("state", "IN-PROGRESS", "2"),
            ("state", "2 - In Progress", "2"),
            ("state", "Cancelled", "8"),
            ("incident_state", "Resolved", "6"),
            ("priority", "1 - Critical", "1"),
            ("priority", "Planning", "5"),
            ("impact", "1 - High", "1"),
            ("urgency", "low", "3"),
            ("severity", "Medium", "2"),
            ("hold_reason", "Awaiting Caller", "1"),
        ],
    )
    def test_a_choice_is_searched_for_by_its_label(
        self, instance: ServiceNow, client: ServiceNowClient, column: str, label: str, value: str
    ) -> None:
        given: dict[str, Any] = {column: label}
        list(client.search_incidents(**given))

        assert f"sysparm_query={column}%3D{value}%5E" in instance.take_calls()[0].query

    def test_several_labels_are_any_of_them(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        one, _, three = opened(instance), opened(instance, state="2"), ended(instance, "6")

        found = [row["number"] for row in client.search_incidents(state=["New", 6])]

        assert found == [one["number"], three["number"]]

    def test_a_choice_is_written_by_its_label(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_incident("x", impact="High", urgency="2 - Medium")
        changed = client.update_incident(made["number"], state="In Progress")
        change = client.create_change_request("x", type_="Normal", risk="Moderate", impact="low")
        moved = client.update_change_request(change["number"], state="Assess")

        assert (made["impact"], made["urgency"], changed["state"]) == ("1", "2", "2")
        assert (change["type"], change["risk"], change["impact"], moved["state"]) == (
            "normal",
            "3",
            "3",
            "-4",
        )

    def test_a_type_is_said_once(self, client: ServiceNowClient) -> None:
        with pytest.raises(InvalidArgument, match="type is given twice"):
            client.create_change_request("x", type="normal", type_="standard")
        with pytest.raises(InvalidArgument, match="type is given twice"):
            client.update_change_request(ID, type="normal", type_="standard")


# What each column refers to, and the column of the name there.
REFERRING = [
    *(
        (column, "sys_user", "user_name")
        for column in ("assigned_to", "caller_id", "opened_by", "closed_by")
    ),
    *((column, "sys_user", "user_name") for column in ("resolved_by", "reopened_by")),
    ("assignment_group", "sys_user_group", "name"),
    ("company", "core_company", "name"),
    ("location", "cmn_location", "name"),
    ("contract", "ast_contract", "number"),
    ("service_offering", "service_offering", "name"),
    *((column, "cmdb_ci", "name") for column in ("cmdb_ci", "business_service")),
    *((column, "change_request", "number") for column in ("rfc", "caused_by")),
    ("parent", "task", "number"),
    ("parent_incident", "incident", "number"),
    ("problem_id", "problem", "number"),
    *(
        (column, "sys_user", "user_name")
        for column in ("watch_list", "work_notes_list", "additional_assignee_list")
    ),
    ("group_list", "sys_user_group", "name"),
    ("skills", "cmn_skill", "name"),
]
OF_CHANGES = [
    *((column, "sys_user", "user_name") for column in ("requested_by", "cab_delegate")),
    ("chg_model", "chg_model", "name"),
    ("on_hold_task", "change_task", "number"),
]
WITHOUT_NAMES = [
    "delivery_plan",
    "delivery_task",
    "origin_id",
    "rejection_goto",
    "universal_request",
    "wf_activity",
]
OTHER_ID = "f" * 32


def referring(table: str, column: str, name: str) -> Callable[[Any, Seen], bool]:
    """An instance that has one record in *table*, which goes by *name*."""

    def answer(sock: Any, seen: Seen) -> bool:
        if seen.method != "GET":
            return always(
                result({"sys_id": ID, "number": "X1"}, 201 if seen.method == "POST" else 200)
            )(sock, seen)
        found = (
            [{"sys_id": OTHER_ID, column: name}]
            if urlsplit(seen.target).path.endswith(f"/{table}")
            else []
        )
        return always(result(found))(sock, seen)

    return answer


class TestReferences:
    @pytest.mark.parametrize(("column", "table", "name"), REFERRING + OF_CHANGES)
    def test_a_name_is_looked_up_whatever_the_column(
        self, column: str, table: str, name: str
    ) -> None:
        with Server(referring(table, name, "ACME 1")) as server, calling(server.url) as client:
            if (column, table, name) in OF_CHANGES:
                client.create_change_request("x", **{column: "ACME 1"})
            else:
                client.create_incident("x", **{column: "ACME 1"})
                client.update_incident(ID, **{column: "ACME 1"})

            assert all(
                json.loads(seen.body)[column] == OTHER_ID
                for seen in server.seen
                if seen.method != "GET"
            )

    @pytest.mark.parametrize(("column", "table", "name"), REFERRING)
    def test_a_name_that_nobody_goes_by_is_an_error_before_anything_is_written(
        self, column: str, table: str, name: str
    ) -> None:
        given: dict[str, Any] = {column: "ACME 1"}
        with Server(always(result([]))) as server, calling(server.url) as client:
            with pytest.raises(UnknownReference, match=f"what is given for {column} is not there"):
                client.create_incident("x", **given)
            with pytest.raises(UnknownReference, match=f"what is given for {column} is not there"):
                client.search_incidents(**given)

            assert {seen.method for seen in server.seen} == {"GET"}

    @pytest.mark.parametrize("column", WITHOUT_NAMES)
    def test_what_is_not_looked_up_takes_a_sys_id_and_no_name(self, column: str) -> None:
        with Server(referring("", "", "")) as server, calling(server.url) as client:
            with pytest.raises(
                UnknownReference, match=f"{column} is a reference .* give the record's sys_id"
            ):
                client.update_incident(ID, **{column: "ACME 1"})
            assert client.calls == 0
            client.update_incident(ID, **{column: OTHER_ID})

            assert json.loads(server.seen[-1].body) == {column: OTHER_ID}

    def test_every_column_that_refers_is_among_these(self) -> None:
        named = {column for column, _, _ in REFERRING + OF_CHANGES} | {
            "std_change_producer_version"
        }

        assert named == set(NAMED)
        assert set(WITHOUT_NAMES) == UNNAMED

    def test_each_element_of_a_list_is_looked_up(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_incident("x", watch_list="abel.tuter, Beth Anglin,nobody@example.com")
        abel, beth = (
            sys_id(instance, "sys_user", "abel.tuter"),
            sys_id(instance, "sys_user", "beth.anglin"),
        )

        row = instance.row("incident", made["sys_id"]) or {}
        assert row["watch_list"] == f"{abel},{beth},nobody@example.com"
        with pytest.raises(UnknownReference, match="watch_list"):
            client.update_incident(made["number"], watch_list="abel.tuter,nobody")

    def test_a_model_of_a_change_may_be_one_that_ships(self) -> None:
        with Server(referring("", "", "")) as server, calling(server.url) as client:
            client.create_change_request("x", chg_model="standard")

            assert [json.loads(seen.body)["chg_model"] for seen in server.seen] == ["standard"]

    def test_what_servicenow_did_not_keep_is_said_without_its_value(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        row = {"sys_id": ID, "u_shop": "", "u_owner": ""}

        def answer(sock: Any, seen: Seen) -> bool:
            return always(result([row] if "sysparm_query" in seen.target else row))(sock, seen)

        with Server(answer) as server, calling(server.url) as client:
            client.update_incident(ID, u_shop="planted", u_owner="planted")

        assert "ServiceNow did not keep u_shop, u_owner of an incident" in caplog.text
        assert "planted" not in caplog.text


INVALID: list[tuple[str, Callable[[ServiceNowClient], object], str]] = [
    ("no words", lambda c: c.create_incident(" "), "short_description must say something"),
    (
        "urgency 4",
        lambda c: c.create_incident("x", urgency=4),
        "urgency of an incident must be one of 1 (high)",
    ),
    (
        "impact 0",
        lambda c: c.create_incident("x", impact="0"),
        "impact of an incident must be one of",
    ),
    (
        "impact True",
        lambda c: c.create_incident("x", impact=True),
        "impact of an incident must be one of",
    ),
    (
        "state 4",
        lambda c: c.update_incident("INC1", state=4),
        "state of an incident must be one of 1 (New)",
    ),
    (
        "hold_reason 2",
        lambda c: c.update_incident("INC1", state=3, hold_reason=2),
        "hold_reason of an incident",
    ),
    (
        "risk 5",
        lambda c: c.create_change_request("x", risk=5),
        "risk of a change request must be one of 1 (very high)",
    ),
    (
        "impact 4",
        lambda c: c.create_change_request("x", impact=4),
        "impact of a change request must be one of",
    ),
    (
        "type",
        lambda c: c.create_change_request("x", type="urgent"),
        "type of a change request must be one of normal",
    ),
    (
        "change state",
        lambda c: c.update_change_request("CHG1", state=6),
        "state of a change request must be one of -5",
    ),
    (
        "no template",
        lambda c: c.create_change_request("x", type="standard"),
        "a standard change needs a template",
    ),
    (
        "a template",
        lambda c: c.create_change_request("x", template="Reboot"),
        "no other change takes one",
    ),
    (
        "misspelt",
        lambda c: c.create_incident("x", assigment_group="N"),
        "did you mean assignment_group?",
    ),
    (
        "misspelt update",
        lambda c: c.update_incident("INC1", shortdescription="N"),
        "did you mean short_description?",
    ),
    ("misspelt search", lambda c: c.search_incidents(asigned_to="x"), "did you mean assigned_to?"),
    ("misspelt fields", lambda c: c.get_incident("INC1", fields=["numbr"]), "did you mean number?"),
    ("misspelt result", lambda c: c.search_incidents(fields=["numbr"]), "did you mean number?"),
    (
        "a field's own words",
        lambda c: c.create_incident("x", **{"a^b": "c"}),
        "that is not a field of an incident",
    ),
    (
        "computed",
        lambda c: c.create_incident("x", priority=1),
        "priority of an incident follows from impact and urgency",
    ),
    (
        "read-only",
        lambda c: c.update_incident("INC1", sys_updated_on="2026-08-19T08:07:06Z"),
        "set by ServiceNow itself",
    ),
    ("a note as a field", lambda c: c.update_incident("INC1", work_notes="x"), "use add_work_note"),
    (
        "a comment as a field",
        lambda c: c.create_incident("x", comments="x"),
        "use add_work_note or add_comment",
    ),
    (
        "a comment on no hold",
        lambda c: c.update_incident("INC1", state=2, comments="x"),
        "use add_work_note",
    ),
    (
        "a naive time",
        lambda c: c.create_incident("x", due_date=datetime(2026, 8, 19)),  # noqa: DTZ001
        "needs a time zone",
    ),
    (
        "no time",
        lambda c: c.create_incident("x", due_date="tomorrow"),
        "due_date must be a datetime",
    ),
    (
        "a number for a time",
        lambda c: c.search_incidents(opened_after=0),
        "opened_at must be a datetime",
    ),
    ("an empty time", lambda c: c.search_incidents(updated_after=""), "updated_after needs a time"),
    (
        "a long identity",
        lambda c: c.create_incident("x", correlation_id="x" * 101),
        "100 characters at most",
    ),
    ("a sys_id that is none", lambda c: c.create_incident("x", sys_id="abc"), "sys_id must be 32"),
    (
        "nothing to change",
        lambda c: c.update_incident("INC1", description=None),
        "nothing to change",
    ),
    (
        "no close code",
        lambda c: c.resolve_incident("INC1", close_code="", close_notes="x"),
        "close_code and close_notes",
    ),
    (
        "no close notes",
        lambda c: c.close_incident("INC1", close_code="x", close_notes=" "),
        "close_code and close_notes",
    ),
    ("an empty note", lambda c: c.add_work_note("INC1", "\n"), "text must say something"),
    ("an empty key", lambda c: c.add_comment("INC1", "x", key=""), "key must say"),
    ("no note", lambda c: c.add_work_note("INC1"), "name it text, or work_note, and once"),
    (
        "two comments",
        lambda c: c.add_comment("INC1", "x", comment="y"),
        "name it text, or comment, and once",
    ),
    (
        "a strange label",
        lambda c: c.search_incidents(state="Fresh"),
        "state of an incident must be one of 1 (New)",
    ),
    (
        "a strange table",
        lambda c: c.add_comment("INC1", "x", table="sys_user"),
        "table must be one of",
    ),
    ("an empty number", lambda c: c.get_incident(""), "a query for number needs a value"),
    ("limit 0", lambda c: c.search_incidents(limit=0), "limit must be 1 or more"),
    ("order", lambda c: c.search_incidents(order_by="caller_id"), "order_by must be one of number"),
    ("no alternatives", lambda c: c.search_incidents(state=[]), "state is given no value"),
    (
        "an unknown alternative",
        lambda c: c.search_incidents(state=[1, 9]),
        "state of an incident must be one of",
    ),
    ("a journal", lambda c: c.search_incidents(comments="x"), "search sys_journal_field instead"),
]


@pytest.mark.parametrize(
    ("call", "hint"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID]
)
def test_what_cannot_be_right_is_refused_before_any_call(
    instance: ServiceNow,
    client: ServiceNowClient,
    call: Callable[[ServiceNowClient], object],
    hint: str,
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        call(client)

    assert hint in refused.value.hint
    assert isinstance(refused.value, ValueError)
    assert client.calls == 0


INJECTIONS = [
    "x^ORstate=1",
    "x\nORstate=1",
    "=x",
    "javascript:gs.getUserID()",
    "x^NQnumberISNOTEMPTY",
    "x\u2028y",
]


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize(
    "call",
    [
        lambda c, v: c.search_incidents(category=v),
        lambda c, v: c.search_incidents(correlation_id=v),
        lambda c, v: c.search_incidents(assignment_group=v),
        lambda c, v: c.search_incidents(assigned_to=["abel.tuter", v]),
        lambda c, v: c.search_incidents(u_shop=v),
        lambda c, v: c.create_incident("x", assignment_group=v),
        lambda c, v: c.update_incident(ID, caller_id=v),
        lambda c, v: c.get_incident(v),
        lambda c, v: c.add_work_note(v, "x"),
        lambda c, v: c.close_incident(v, **CLOSING),
    ],
    ids=[
        "category",
        "correlation",
        "group",
        "one of two",
        "custom",
        "create",
        "update",
        "get",
        "note",
        "close",
    ],
)
def test_a_value_that_could_mean_more_finds_nothing_extra(
    instance: ServiceNow,
    client: ServiceNowClient,
    call: Callable[[ServiceNowClient, str], object],
    value: str,
) -> None:
    opened(instance)

    with pytest.raises(InvalidArgument) as refused:
        call(client, value)

    assert value not in str(refused.value)
    assert client.calls == 0


def test_what_could_mean_more_in_a_query_is_only_text_in_a_field(client: ServiceNowClient) -> None:
    made = client.create_incident("x^ORstate=1", description="=1+1\njavascript:x")

    assert (made["short_description"]) == "x^ORstate=1"


class TestGetAndUpdate:
    def test_it_is_known_by_number_and_by_sys_id(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)

        assert client.get_incident(row["number"])["sys_id"] == row["sys_id"]
        assert client.get_incident(row["number"].lower())["sys_id"] == row["sys_id"]
        assert client.get_incident(row["sys_id"])["number"] == row["number"]
        assert client.calls == 3

    def test_other_fields_can_be_asked_for(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance, description="long")

        assert client.get_incident(row["sys_id"], fields=["description"]) == {
            "sys_id": row["sys_id"],
            "description": "long",
        }

    @pytest.mark.parametrize("which", ["INC9999999", ID])
    def test_one_that_is_not_there_is_an_error(self, client: ServiceNowClient, which: str) -> None:
        for call in (
            lambda: client.get_incident(which),
            lambda: client.update_incident(which, description="x"),
            lambda: client.resolve_incident(which, **CLOSING),
            lambda: client.add_comment(which, "x"),
        ):
            with pytest.raises(NotFound, match="ticket_not_found"):
                call()

    def test_a_number_that_two_have_is_an_error(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        opened(instance, number="INC7")
        opened(instance, number="INC7")

        with pytest.raises(Refused, match="More than one"):
            client.update_incident("INC7", description="x")

    def test_only_what_is_given_changes(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance, description="kept")

        changed = client.update_incident(
            row["number"], urgency=1, assigned_to="abel.tuter", category=None
        )

        assert changed["assigned_to"] == sys_id(instance, "sys_user", "abel.tuter")
        assert called(instance) == ["GET sys_user", "GET incident", "PATCH incident"]
        assert (instance.row("incident", row["sys_id"]) or {})["description"] == "kept"

    def test_an_empty_value_empties_the_field(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance, assigned_to=sys_id(instance, "sys_user", "abel.tuter"))

        assert client.update_incident(row["sys_id"], assigned_to="")["assigned_to"] == ""

    def test_a_hold_that_awaits_the_caller_takes_its_comment(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)

        assert (
            client.update_incident(
                row["sys_id"], state=3, hold_reason=1, comments="Which browser?"
            )["state"]
            == "3"
        )
        assert [entry["value"] for entry in instance.rows("sys_journal_field")] == [
            "Which browser?"
        ]

    def test_a_field_of_ones_own_that_is_not_there_is_an_error_before_anything_is_written(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        with pytest.raises(InvalidArgument, match="no field u_shop in incident"):
            client.update_incident(row["sys_id"], u_shop="north")

        assert called(instance) == ["GET incident"]

    def test_a_field_of_ones_own_is_looked_at_once_and_sent(self) -> None:
        with (
            Server(always(result({"sys_id": ID, "u_shop": "north"}))) as server,
            calling(server.url) as client,
        ):
            server.answer = lambda sock, seen: always(
                result(
                    [{"sys_id": ID, "u_shop": ""}]
                    if "sysparm_query" in seen.target
                    else {"sys_id": ID}
                )
            )(sock, seen)
            client.update_incident(ID, u_shop="north")
            client.update_incident(ID, u_shop="south")

            assert [seen.method for seen in server.seen] == ["GET", "PATCH", "PATCH"]
            assert json.loads(server.seen[2].body) == {"u_shop": "south"}


class TestNotes:
    @pytest.mark.parametrize("journal", ["work_notes", "comments"])
    def test_a_note_is_appended(
        self, instance: ServiceNow, client: ServiceNowClient, journal: str
    ) -> None:
        row = opened(instance)
        add = client.add_comment if journal == "comments" else client.add_work_note

        assert add(row["number"], "Restarted.")
        [entry] = instance.rows("sys_journal_field")
        assert (entry["element_id"], entry["element"], entry["value"]) == (
            row["sys_id"],
            journal,
            "Restarted.",
        )

    def test_table_sys_id_and_note_go_by_their_names(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)

        assert client.add_work_note(table="incident", sys_id=row["sys_id"], work_note="One")
        assert client.add_work_note(number=row["number"], text="Two")
        assert client.add_work_note("incident", row["sys_id"], "Three")
        assert client.add_comment(table="incident", sys_id=row["sys_id"], comment="Four")
        assert client.add_comment("incident", row["number"], "Five")
        assert client.add_work_note(row["number"], work_notes="Six")
        assert client.add_comment(sys_id=row["sys_id"], comments="Seven")
        entries = [
            (entry["element"], entry["value"]) for entry in instance.rows("sys_journal_field")
        ]
        assert sorted(entries) == [
            ("comments", "Five"),
            ("comments", "Four"),
            ("comments", "Seven"),
            ("work_notes", "One"),
            ("work_notes", "Six"),
            ("work_notes", "Three"),
            ("work_notes", "Two"),
        ]

    @pytest.mark.parametrize(
        ("number", "table"),
        [
            ("INC0010001", "incident"),
            ("CHG0030001", "change_request"),
            ("chg0030001", "change_request"),
            ("PRB0040001", "problem"),
            ("CTASK0010001", "change_task"),
            ("PTASK0010001", "problem_task"),
            ("REQ0010001", "sc_request"),
            ("RITM0010001", "sc_req_item"),
            ("SCTASK0010001", "sc_task"),
            ("TASK0010001", "sc_task"),
            ("OWN0010001", "incident"),
        ],
    )
    def test_a_number_tells_its_table(self, number: str, table: str) -> None:
        row = {"sys_id": ID, "number": number.upper()}

        def answer(sock: Any, seen: Seen) -> bool:
            return always(result([row] if seen.method == "GET" else row))(sock, seen)

        with Server(answer) as server, calling(server.url) as client:
            client.add_work_note(number, "Approved by phone.")
            client.add_comment(number=number, text="Approved by phone.")

            assert [urlsplit(seen.target).path for seen in server.seen] == [
                f"/api/now/table/{table}",
                f"/api/now/table/{table}/{ID}",
            ] * 2

    @pytest.mark.parametrize("table", ["task", "problem", "problem_task", "sc_req_item"])
    def test_a_note_is_added_to_any_ticket(self, table: str) -> None:
        with Server(always(result({"sys_id": ID}))) as server, calling(server.url) as client:
            client.add_work_note(table=table, sys_id=ID, work_note="Seen.")

            assert urlsplit(server.seen[0].target).path == f"/api/now/table/{table}/{ID}"

    def test_without_a_key_it_is_one_call(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        client.add_work_note(opened(instance)["sys_id"], "Restarted.")

        assert called(instance) == ["PATCH incident"]

    def test_with_a_key_it_is_appended_once(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)

        assert [
            client.add_work_note(row["sys_id"], "Restarted.", key="restart-1") for _ in range(3)
        ] == [
            True,
            False,
            False,
        ]
        [entry] = instance.rows("sys_journal_field")
        assert entry["value"].startswith("Restarted.\n[hasura:")

    def test_other_keys_journals_and_incidents_are_other_notes(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        one, two = opened(instance), opened(instance)

        assert client.add_work_note(one["sys_id"], "x", key="1")
        assert client.add_work_note(one["sys_id"], "x", key="2")
        assert client.add_work_note(two["sys_id"], "x", key="1")
        assert client.add_comment(one["sys_id"], "x", key="1")

    @pytest.mark.parametrize(
        "fault", ["commit_then_500", "commit_then_reset", "commit_then_403", "partial_200"]
    )
    def test_a_lost_answer_is_settled_by_the_journal(
        self, instance: ServiceNow, client: ServiceNowClient, fault: str
    ) -> None:
        row = opened(instance)
        instance.arm(fault, method="PATCH")

        assert client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")
        assert not client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")
        assert len(instance.rows("sys_journal_field")) == 1

    def test_one_that_was_not_appended_is_sent_by_the_next_call(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        instance.arm("error_500", method="PATCH")

        with pytest.raises(InDoubt):
            client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")

        assert called(instance) == [
            "GET sys_journal_field",
            "PATCH incident",
            "GET sys_journal_field",
        ]
        assert client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")
        assert len(instance.rows("sys_journal_field")) == 1

    def test_one_that_is_committed_late_is_found_by_the_next_call(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        instance.arm("commit_late", method="PATCH", seconds=3600)
        with pytest.raises(InDoubt):
            client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")
        instance.commit_now()

        assert not client.add_work_note(row["sys_id"], "Restarted.", key="restart-1")
        assert len(instance.rows("sys_journal_field")) == 1

    def test_without_a_key_a_lost_answer_is_a_doubt(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        instance.arm("commit_then_500", method="PATCH")

        with pytest.raises(InDoubt):
            client.add_work_note(row["sys_id"], "Restarted.")

        assert called(instance) == ["PATCH incident"]

    def test_a_long_note_has_its_marker_where_it_is_not_cut(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        client.add_work_note(row["sys_id"], "x" * 4000, key="long")

        assert instance.rows("sys_journal_field")[0]["value"].startswith("[hasura:")
        assert not client.add_work_note(row["sys_id"], "x" * 4000, key="long")

    def test_a_journal_that_cannot_be_searched_is_an_error_before_anything_is_sent(self) -> None:
        entries = [{"sys_id": ID, "element_id": ID, "element": "work_notes", "value": "another"}]
        with Server(always(result(entries))) as server, calling(server.url) as client:
            with pytest.raises(Refused, match="other entries"):
                client.add_work_note(ID, "x", key="1")

            assert [seen.method for seen in server.seen] == ["GET"]


class TestEnds:
    def test_it_is_resolved(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        row = opened(instance)

        resolved = client.resolve_incident(row["number"], **CLOSING)

        assert resolved["state"] == "6"
        assert {name: resolved[name] for name in CLOSING} == CLOSING
        assert called(instance) == ["GET incident", "PATCH incident"]

    @pytest.mark.parametrize("states", [("6",), ("6", "7")])
    def test_one_that_is_resolved_or_closed_is_not_resolved_again(
        self, instance: ServiceNow, client: ServiceNowClient, states: tuple[str, ...]
    ) -> None:
        row = ended(instance, *states)

        assert client.resolve_incident(row["number"], **CLOSING)["state"] == states[-1]
        assert called(instance) == ["GET incident"]

    def test_it_is_closed(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        row = opened(instance)

        assert client.close_incident(row["number"], **CLOSING)["state"] == "7"
        assert called(instance) == ["GET incident", "PATCH incident"]

    def test_one_that_is_closed_is_not_closed_again(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = ended(instance, "6", "7")

        assert client.close_incident(row["sys_id"], **CLOSING)["state"] == "7"
        assert called(instance) == ["GET incident"]

    @pytest.mark.parametrize("fault", ["business_rule_403", "data_policy_403"])
    def test_it_is_resolved_first_where_the_instance_wants_it(
        self, instance: ServiceNow, client: ServiceNowClient, fault: str
    ) -> None:
        row = opened(instance)
        instance.arm(fault, method="PATCH")

        assert client.close_incident(row["number"], **CLOSING)["state"] == "7"
        assert [(call.body or {}).get("state") for call in instance.take_calls()] == [
            None,
            "7",
            "6",
            "7",
        ]

    def test_it_is_resolved_first_where_the_caller_wants_it(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)

        assert client.close_incident(row["number"], **CLOSING, resolve_first=True)["resolved_at"]
        assert [(call.body or {}).get("state") for call in instance.take_calls()] == [
            None,
            "6",
            "7",
        ]

    def test_one_that_is_resolved_is_only_closed(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = ended(instance, "6")

        client.close_incident(row["number"], **CLOSING, resolve_first=True)

        assert [(call.body or {}).get("state") for call in instance.take_calls()] == [None, "7"]

    def test_an_instance_that_refuses_both_ways_is_asked_twice_and_says_why(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        instance.arm("data_policy_403", method="PATCH", times=None)

        with pytest.raises(Refused) as refused:
            client.close_incident(row["number"], **CLOSING)

        assert called(instance) == ["GET incident", "PATCH incident", "PATCH incident"]
        assert "mandatory: Caller, Business service" in refused.value.remote_message

    def test_a_user_who_may_not_close_is_told_which_role(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = opened(instance)
        instance.arm("acl_403", method="PATCH", times=None)

        with pytest.raises(NotAuthorized, match="itil"):
            client.close_incident(row["number"], **CLOSING)

        assert called(instance) == ["GET incident", "PATCH incident"]

    def test_one_that_is_canceled_stays_so(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        row = ended(instance, "8")

        with pytest.raises(Refused, match="canceled"):
            client.resolve_incident(row["number"], **CLOSING)
        with pytest.raises(Refused, match="canceled"):
            client.close_incident(row["number"], **CLOSING)
        with pytest.raises(Refused, match="canceled"):
            client.reopen_incident(row["number"])
        assert called(instance) == ["GET incident"] * 3

    def test_a_resolved_one_is_reopened(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        assert client.reopen_incident(ended(instance, "6")["number"])["state"] == "2"

    def test_an_open_one_is_not_reopened(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        assert client.reopen_incident(opened(instance)["number"])["state"] == "1"
        assert called(instance) == ["GET incident"]

    def test_a_closed_one_is_not_reopened(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        with pytest.raises(Refused, match="parent_incident"):
            client.reopen_incident(ended(instance, "6", "7")["number"])

        assert called(instance) == ["GET incident"]


# Kept in a list, 25,000 take 40 MB.
MEMORY_BYTES_MAX = 25_000_000


class TestSearch:
    def test_it_finds_what_is_all_of_this(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        beth, group = (
            sys_id(instance, "sys_user", "beth.anglin"),
            sys_id(instance, "sys_user_group", "Network"),
        )
        opened(instance, category="software")
        wanted = opened(
            instance,
            category="network",
            assigned_to=beth,
            caller_id=beth,
            assignment_group=group,
            correlation_id="shop:1",
            state="2",
            urgency="1",
        )
        found = client.search_incidents(
            state=2,
            assignment_group="Network",
            assigned_to="Beth Anglin",
            caller_id="beth.anglin@example.com",
            priority=3,
            category="network",
            correlation_id="shop:1",
            active=True,
        )

        assert [row["number"] for row in found] == [wanted["number"]]

    def test_a_list_is_any_of_them(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        one, _, three = (
            opened(instance, state="1"),
            opened(instance, state="2"),
            ended(instance, "6"),
        )

        assert [row["number"] for row in client.search_incidents(state=[1, 6])] == [
            one["number"],
            three["number"],
        ]

    def test_nothing_given_is_an_empty_field(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        opened(instance, assigned_to=sys_id(instance, "sys_user", "abel.tuter"))
        nobody = opened(instance)

        assert [row["number"] for row in client.search_incidents(assigned_to="")] == [
            nobody["number"]
        ]

    def test_it_finds_by_time(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        for day in (1, 2, 3):
            opened(instance, number=f"INC{day}", opened_at=f"2026-08-0{day} 08:00:00")
        eight = datetime(2026, 8, 2, 8, tzinfo=UTC)

        later = datetime.now(UTC) + timedelta(hours=1)

        def numbers(**asked: Any) -> list[str]:
            return [row["number"] for row in client.search_incidents(**asked)]

        assert numbers(opened_after=eight) == ["INC3"]
        assert numbers(opened_before="2026-08-02T08:00:01Z") == ["INC1", "INC2"]
        assert numbers(updated_after=later) == []
        assert numbers(updated_before=later) == ["INC1", "INC2", "INC3"]

    def test_an_unknown_name_is_an_error(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        opened(instance)

        with pytest.raises(UnknownReference):
            client.search_incidents(assignment_group="Nobody")

    @pytest.mark.parametrize("asked", [{"u_shop": "north"}, {"fields": ["number", "u_shop"]}])
    def test_a_field_of_ones_own_that_is_not_there_is_an_error_and_not_every_row(
        self, instance: ServiceNow, client: ServiceNowClient, asked: dict[str, Any]
    ) -> None:
        opened(instance)

        with pytest.raises(InvalidArgument, match="no field u_shop"):
            client.search_incidents(**asked)

    def test_a_field_that_the_instance_hides_is_an_error_and_not_every_row(self) -> None:
        with (
            Server(always(result([{"sys_id": ID, "number": "INC1"}]))) as server,
            calling(server.url) as client,
        ):
            with pytest.raises(InvalidArgument, match="no field category"):
                list(client.search_incidents(category="network"))

            assert len(server.seen) == 1

    def test_a_term_that_is_left_out_is_an_error_and_not_every_row(self) -> None:
        rows = [{"sys_id": ID, "number": "INC1", "category": "hardware"}]
        with Server(always(result(rows))) as server, calling(server.url) as client:
            with pytest.raises(Refused, match="not asked for"):
                list(client.search_incidents(category="network"))

            assert len(server.seen) == 1

    def test_an_instance_that_answers_every_page_alike_is_an_error_and_not_a_loop(self) -> None:
        rows = [{"sys_id": f"{n:032x}", "number": f"INC{n}"} for n in range(PAGE_ROWS)]
        with Server(always(result(rows))) as server, calling(server.url) as client:
            with pytest.raises(Refused, match="not asked for"):
                list(client.search_incidents())

            assert len(server.seen) == 2

    def test_a_key_that_cannot_stand_in_a_query_is_an_error(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        opened(instance, number="INC1^ORnumberISNOTEMPTY")

        with pytest.raises(Refused, match="number"):
            list(client.search_incidents())
        assert len(list(client.search_incidents(order_by="sys_id"))) == 1

    def test_it_says_how_many_were_found_whatever_was_taken(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        numbers = [opened(instance)["number"] for _ in range(3)]
        found = client.search_incidents(fields=["number"])

        assert len(found) == 3
        assert [next(found)["number"]] == numbers[:1]
        assert len(found) == 3
        assert [row["number"] for row in found] == numbers[1:]
        assert len(found) == 3
        assert client.calls == 2

    def test_it_is_false_where_nothing_was_found(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        number = opened(instance)["number"]
        found = client.search_incidents()

        assert not client.search_incidents(category="none such")
        assert found
        assert [row["number"] for row in found] == [number]
        assert found

    def test_its_first_and_its_last_are_looked_at_without_being_taken(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        numbers = [opened(instance)["number"] for _ in range(3)]
        found = client.search_incidents()

        assert [found[0]["number"], found[-1]["number"], found[1]["number"]] == [
            numbers[0],
            numbers[2],
            numbers[1],
        ]
        with pytest.raises(IndexError):
            found[3]
        assert [row["number"] for row in found] == numbers
        with pytest.raises(TypeError, match="make a list"):
            found[0]

    @pytest.mark.parametrize("limit", [1, 3, 5, 7])
    def test_a_limit_is_kept(
        self, instance: ServiceNow, client: ServiceNowClient, limit: int
    ) -> None:
        numbers = [opened(instance)["number"] for _ in range(5)]

        assert [row["number"] for row in client.search_incidents(limit=limit)] == numbers[:limit]

    def test_the_last_may_come_first(self, instance: ServiceNow, client: ServiceNowClient) -> None:
        numbers = [opened(instance)["number"] for _ in range(5)]

        assert [row["number"] for row in client.search_incidents(order_by="-number", limit=2)] == [
            numbers[4],
            numbers[3],
        ]

    @pytest.mark.parametrize("sign", ["", "-"])
    @pytest.mark.parametrize("column", ORDERS)
    def test_each_comes_once_in_every_order(
        self, instance: ServiceNow, client: ServiceNowClient, column: str, sign: str
    ) -> None:
        draw = random.Random(20261125)
        for n in range(PAGE_ROWS * 2 + 7):
            row = opened(instance, number=f"INC{n % 400:07}", urgency=draw.choice("123"))
            if n % 5 == 0:  # some have nothing where the order looks
                instance.tables.update(
                    "incident", row["sys_id"], {"number": "", "opened_at": ""}, by="admin"
                )

        found = [
            row["sys_id"]
            for row in client.search_incidents(order_by=sign + column, fields=["sys_id"])
        ]

        assert len(found) == len(set(found)) == PAGE_ROWS * 2 + 7

    def test_25000_come_once_while_others_are_inserted_and_changed_and_in_little_memory(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        there = [opened(instance, number=f"INC{5_000_000 + n}")["sys_id"] for n in range(25_000)]
        stop = threading.Event()
        writes = 0

        def write() -> None:
            nonlocal writes
            while not stop.wait(0.02):  # before, between and behind what is being read
                writes += 1
                # Each that comes behind the last page, while that is read, costs one more.
                places = [1, 5_010_000, 7_000_000] if writes < 20 else [1, 5_010_000]
                opened(instance, number=f"INC{random.choice(places)}-{writes}")
                instance.tables.update(
                    "incident", random.choice(there), {"category": f"c{writes}"}, by="admin"
                )

        writer = threading.Thread(target=write)
        found: dict[str, int] = {}
        writer.start()
        before, most = memory_bytes(), 0
        started = time.process_time()  # others may be busy on this machine
        try:
            for n, row in enumerate(client.search_incidents()):
                found[row["sys_id"]] = found.get(row["sys_id"], 0) + 1
                most = max(most, memory_bytes()) if n % PAGE_ROWS == 0 else most
            took = time.process_time() - started
        finally:
            stop.set()
            writer.join()

        assert writes > 0
        assert found.keys() >= set(there)
        assert set(found.values()) == {1}
        assert client.calls <= len(found) / PAGE_ROWS + 3
        assert most - before < MEMORY_BYTES_MAX
        assert took < 15


def memory_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


class TestHiddenRecords:
    """``sysparm_limit`` counts before access controls take records away."""

    @pytest.fixture
    def tables(self) -> Iterator[Tables]:
        tables = Tables(user="svc.hasura", now=time.time)
        yield tables
        tables.close()

    @contextmanager
    def hiding(
        self, tables: Tables, hidden: Callable[[Record], bool]
    ) -> Iterator[ServiceNowClient]:
        def answer(sock: Any, seen: Seen) -> bool:
            asked = {
                name: values[0] for name, values in parse_qs(urlsplit(seen.target).query).items()
            }
            rows = tables.select(
                "incident", asked["sysparm_query"], limit=int(asked["sysparm_limit"])
            )
            fields = asked["sysparm_fields"].split(",")
            shown = [{name: row[name] for name in fields} for row in rows if not hidden(row)]
            return always(result(shown))(sock, seen)

        with Server(answer) as server, calling(server.url) as client:
            yield client

    @pytest.mark.parametrize(
        "hidden",
        [
            range(0),
            range(10),
            range(PAGE_ROWS - 1, PAGE_ROWS + 1),
            range(100, PAGE_ROWS * 2 + 100),
            range(0, 1600, 2),
        ],
        ids=["none", "the first", "at the edge", "whole pages", "every other"],
    )
    def test_what_may_be_seen_is_found(self, tables: Tables, hidden: range) -> None:
        for n in range(PAGE_ROWS * 3 + 1):
            tables.insert("incident", {"number": f"INC{n:07}"}, by="admin")
        numbers = {f"INC{n:07}" for n in hidden}

        with self.hiding(tables, lambda row: row["number"] in numbers) as client:
            found = [row["number"] for row in client.search_incidents()]

        assert found == [f"INC{n:07}" for n in range(PAGE_ROWS * 3 + 1) if n not in hidden]

    def test_where_nothing_may_be_seen_it_ends(self, tables: Tables) -> None:
        tables.insert("incident", {}, by="admin")

        with self.hiding(tables, lambda row: True) as client:
            assert list(client.search_incidents()) == []
            assert client.calls == 2


class TestChanges:
    """What is sent, and what is made of the answers."""

    MADE = result({"sys_id": ID, "number": "CHG0000001", "state": "-5", "type": "normal"}, 201)

    def sent(self, server: Server) -> dict[str, str]:
        body = json.loads(server.seen[-1].body)
        assert len(body.pop("sys_id")) == 32
        return dict(body)

    def test_a_change_request_is_opened(self) -> None:
        with Server(always(self.MADE)) as server, calling(server.url) as client:
            made = client.create_change_request("Upgrade", risk=4, justification="End of life")

            assert made["number"] == "CHG0000001"
            assert (server.seen[0].method, urlsplit(server.seen[0].target).path) == (
                "POST",
                "/api/now/table/change_request",
            )
            assert self.sent(server) == {
                "short_description": "Upgrade",
                "type": "normal",
                "chg_model": "normal",
                "risk": "4",
                "impact": "3",
                "justification": "End of life",
            }

    def test_an_emergency_says_so_twice(self) -> None:
        with Server(always(self.MADE)) as server, calling(server.url) as client:
            client.create_change_request("Patch", type="emergency", impact=1)

            assert (self.sent(server)["type"], self.sent(server)["chg_model"]) == (
                "emergency",
                "emergency",
            )

    def test_times_are_sent_in_utc(self) -> None:
        start = datetime(2026, 8, 19, 10, tzinfo=timezone(timedelta(hours=2)))
        with Server(always(self.MADE)) as server, calling(server.url) as client:
            client.create_change_request(
                "Upgrade", start_date=start, end_date="2026-08-19T12:00:00+02:00"
            )

            assert (self.sent(server)["start_date"], self.sent(server)["end_date"]) == (
                "2026-08-19 08:00:00",
                "2026-08-19 10:00:00",
            )

    @pytest.mark.parametrize("template", ["Clear BGP sessions on a Cisco router - 1", "f" * 32])
    def test_a_standard_change_names_its_template(self, template: str) -> None:
        row = {"sys_id": "f" * 32, "name": "Clear BGP sessions on a Cisco router - 1"}

        def answer(sock: Any, seen: Seen) -> bool:
            return always(result([row]) if seen.method == "GET" else self.MADE)(sock, seen)

        with Server(answer) as server, calling(server.url) as client:
            client.create_change_request("Clear", type="standard", template=template)

            assert (
                urlsplit(server.seen[0].target).path == "/api/now/table/std_change_producer_version"
            )
            assert self.sent(server)["std_change_producer_version"] == "f" * 32
            assert self.sent(server)["type"] == "standard"

    def test_an_unknown_template_is_an_error_before_anything_is_written(self) -> None:
        with Server(always(result([]))) as server, calling(server.url) as client:
            with pytest.raises(UnknownReference, match="std_change_producer_version"):
                client.create_change_request("Clear", type="standard", template="Nothing")

            assert [seen.method for seen in server.seen] == ["GET"]

    def test_it_is_read_by_number_and_changed(self) -> None:
        row = {"sys_id": ID, "number": "CHG0000001", "state": "-5"}

        def answer(sock: Any, seen: Seen) -> bool:
            return always(result([row] if "sysparm_query" in seen.target else row))(sock, seen)

        with Server(answer) as server, calling(server.url) as client:
            assert client.get_change_request("CHG0000001")["state"] == "-5"
            client.update_change_request("CHG0000001", state=-4, risk=2)

            assert urlsplit(server.seen[-1].target).path == f"/api/now/table/change_request/{ID}"
            assert json.loads(server.seen[-1].body) == {"state": "-4", "risk": "2"}

    def test_a_note_can_be_added(self) -> None:
        with Server(always(result({"sys_id": ID}))) as server, calling(server.url) as client:
            assert client.add_work_note(ID, "Approved by phone.", table="change_request")

            assert urlsplit(server.seen[-1].target).path == f"/api/now/table/change_request/{ID}"

    def test_a_transition_that_the_instance_refuses_is_told_in_its_words(self) -> None:
        words = (
            "Operation against file 'change_request' was aborted by Business Rule "
            f"'Change Model: Check State Transition^{ID}'. Business Rule Stack:Change Model: "
            "Check State Transition"
        )
        with (
            Server(always(said(403, "Operation Failed", words))) as server,
            calling(server.url) as client,
        ):
            with pytest.raises(Refused) as refused:
                client.update_change_request(
                    ID, state=3, close_code="successful", close_notes="Done"
                )

            assert "Change Model: Check State Transition" in refused.value.remote_message
            assert refused.value.message.startswith(
                'updating a change request (PATCH change_request): ServiceNow said "Operation '
                "Failed: Operation against"
            )
            assert len(server.seen) == 1


class TestChangesOnTheSandbox:
    BGP = "Clear BGP sessions on a Cisco router - 1"

    @pytest.mark.parametrize(
        ("kind", "way"),
        [
            ("normal", [-4, -3, -2, -1, 0]),
            ("emergency", [-3, -2, -1, 0]),
            ("standard", [-2, -1, 0]),
        ],
    )
    def test_each_type_goes_its_way_to_its_end(
        self, instance: ServiceNow, client: ServiceNowClient, kind: str, way: list[int]
    ) -> None:
        template = self.BGP if kind == "standard" else None
        made = client.create_change_request(
            "Upgrade", type=kind, template=template, requested_by="abel.tuter", risk=3
        )
        for state in way:
            client.update_change_request(made["number"], state=state)
        closed = client.update_change_request(
            made["number"], state=3, close_code="successful", close_notes="As planned."
        )

        assert (made["type"], made["state"]) == (kind, "-5")
        assert made["requested_by"] == sys_id(instance, "sys_user", "abel.tuter")
        assert (closed["state"], closed["close_code"], closed["active"]) == (
            "3",
            "successful",
            "false",
        )

    def test_a_template_gives_a_standard_change_its_description(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_change_request("Router 7", type="standard", template=self.BGP)

        [template] = instance.tables.select("std_change_producer_version", f"name={self.BGP}")
        assert made["std_change_producer_version"] == template["sys_id"]
        assert instance.rows("change_request")[0]["description"] == template["description"]

    def test_a_step_that_the_model_does_not_allow_is_refused_in_the_instances_words(
        self, client: ServiceNowClient
    ) -> None:
        made = client.create_change_request("Upgrade")

        with pytest.raises(Refused) as refused:
            client.update_change_request(
                made["number"], state=3, close_code="successful", close_notes="Done"
            )

        assert "Check State Transition" in refused.value.remote_message
        assert client.get_change_request(made["number"])["state"] == "-5"

    def test_a_note_on_a_change_is_written_once(
        self, instance: ServiceNow, client: ServiceNowClient
    ) -> None:
        made = client.create_change_request("Upgrade")

        first = client.add_work_note(
            made["number"], "Approved by phone.", key="approval", table="change_request"
        )
        again = client.add_work_note(
            made["number"], "Approved by phone.", key="approval", table="change_request"
        )

        assert (first, again) == (True, False)
        assert len(instance.tables.select("sys_journal_field", f"element_id={made['sys_id']}")) == 1


def said(status: int, message: str, detail: str | None = None, **headers: str) -> bytes:
    body = json.dumps({"error": {"message": message, "detail": detail}, "status": "failure"})
    return http(status, body, **headers)


def page(status: int, body: str, **headers: str) -> bytes:
    return http(status, f"<html><body>{body}</body></html>", "text/html;charset=UTF-8", **headers)


BR = (
    f"Operation against file 'incident' was aborted by Business Rule 'Check^{ID}'. Business "
    "Rule Stack:Check"
)
POLICY = "Data Policy Exception: The following fields are mandatory: Resolution code"
ACL = "ACL Exception Insert Failed due to security constraints"
DUPLICATE = "Error during insert of incident (INC1)"
CANCELLED = "Transaction cancelled: maximum execution time exceeded"
DEVELOPER = "https://developer.servicenow.com/dev.do"
LOGIN = "https://login.example.com/saml"
UNREAD = "Record doesn't exist or ACL restricts the record retrieval"
CUT = json.dumps({"result": {"sys_id": ID, "number": "INC1"}})[:-3]
MFA = said(401, "User is not authenticated", X_MFA="invalid").replace(b"X-MFA:", b"X-MFA_TOKEN:")
BOTH = json.dumps({"result": {"sys_id": ID}, "error": {"message": "Transaction cancelled"}})

# What is known to go wrong: what is raised for a get and then for a create, what the hint says to
# check, and how many calls the create makes: one more where it is not certain that nothing was
# made, and none after a refused password.
HAZARDS: dict[str, tuple[bytes, type[ServiceNowError], type[ServiceNowError], str, int]] = {
    "invalid table": (said(400, "Invalid table incident"), Refused, Refused, "no such table", 1),
    "no resource": (
        said(400, "Requested URI does not represent any resource", "/x"),
        Refused,
        Refused,
        "address",
        1,
    ),
    "unreadable": (
        said(400, "Exception while reading request", "token"),
        Refused,
        Refused,
        "JSON",
        1,
    ),
    "too large": (
        said(400, "Rejected large REST payload with content-length = 9"),
        Refused,
        Refused,
        "10 MB",
        1,
    ),
    "URL too long": (page(414, "Too long"), Refused, Refused, "too long", 1),
    "401": (
        said(401, "User is not authenticated", "Required"),
        NotAuthorized,
        NotAuthorized,
        "locked out",
        0,
    ),
    "401 older": (
        said(401, "User Not Authenticated", "Required"),
        NotAuthorized,
        NotAuthorized,
        "snc_basic_auth",
        0,
    ),
    "MFA": (MFA, NotAuthorized, NotAuthorized, "Multi-factor", 0),
    "ACL": (said(403, "Operation Failed", ACL), NotAuthorized, NotAuthorized, "role itil", 2),
    "rights": (
        said(403, "Insufficient rights to query records"),
        NotAuthorized,
        NotAuthorized,
        "role itil",
        2,
    ),
    "API": (
        said(403, "User Not Authorized", "Failed API level"),
        NotAuthorized,
        NotAuthorized,
        "KB2466644",
        2,
    ),
    "business rule": (said(403, "Operation Failed", BR), Refused, Refused, "business rule", 2),
    "data policy": (said(403, "Operation Failed", POLICY), Refused, Refused, "mandatory", 2),
    "duplicate": (said(403, "Operation Failed", DUPLICATE), InDoubt, InDoubt, "unique index", 2),
    "no record": (said(404, "No Record found", UNREAD), NotFound, Refused, "", 1),
    "405": (said(405, "Method not allowed"), Refused, Refused, "method", 1),
    "406": (said(406, "Not acceptable"), Refused, Refused, "JSON", 1),
    "415": (said(415, "Unsupported media type"), Refused, Refused, "JSON", 1),
    "rate limit": (
        said(429, "Rate limit exceeded", Retry_After="120"),
        Unavailable,
        Unavailable,
        "rate limit rule",
        1,
    ),
    "semaphore": (page(429, "Too many requests"), Unavailable, Unavailable, "MAX_CONCURRENCY", 1),
    "cancelled 500": (said(500, CANCELLED), Unavailable, InDoubt, "60-second", 2),
    "cancelled 200": (http(200, BOTH), Unavailable, InDoubt, "slow business rules", 2),
    "truncated 200": (http(200, CUT), Unavailable, InDoubt, "cut off", 2),
    "session sync": (http(202), Unavailable, Unavailable, "KB0564204", 1),
    "hibernating": (
        page(200, "Your instance is hibernating"),
        Unavailable,
        Unavailable,
        "wake it",
        1,
    ),
    "hibernating 302": (page(302, "", Location=DEVELOPER), Unavailable, Unavailable, "wake it", 1),
    "502": (page(502, "snow_adc"), Unavailable, InDoubt, "status page", 2),
    "503": (page(503, "Unavailable"), Unavailable, InDoubt, "status page", 2),
    "SSO": (
        page(200, "<form><input type='password'></form>"),
        Unavailable,
        Unavailable,
        "single sign-on",
        1,
    ),
    "SSO 302": (page(302, "", Location=LOGIN), Unavailable, Unavailable, "single sign-on", 1),
    "499": (http(499), Unavailable, InDoubt, "gave up waiting", 2),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_an_error_says_whose_fault_it_is_and_what_to_check(hazard: str) -> None:
    answer, on_get, on_create, hint, creating = HAZARDS[hazard]
    with Server(always(answer)) as server, calling(server.url) as client:
        with pytest.raises(ServiceNowError) as got:
            client.get_incident(ID)
        gets = len(server.seen)
        with pytest.raises(ServiceNowError) as created:
            client.create_incident("planted")

        assert (type(got.value), type(created.value)) == (on_get, on_create)
        assert hint in got.value.hint
        assert got.value.message.startswith("getting an incident (GET incident): ")
        assert created.value.message.startswith("creating an incident (POST incident): ")
        assert (gets, len(server.seen) - gets) == (1, creating)


@pytest.mark.parametrize(
    "kind", [InvalidArgument, NotFound, Refused, NotAuthorized, Unavailable, InDoubt]
)
def test_every_error_is_one_of_servicenow(kind: type[Exception]) -> None:
    assert issubclass(kind, ServiceNowError)


def test_a_rate_limit_says_until_when() -> None:
    with Server(always(HAZARDS["rate limit"][0])) as server, calling(server.url) as client:
        with pytest.raises(Unavailable) as limited:
            client.get_incident(ID)

        assert limited.value.retry_after_seconds == 120
        assert limited.value.message.endswith("Not before 120 s from now.")


def test_a_reset_is_a_doubt_and_nobody_there_is_none() -> None:
    def answer(sock: Any, seen: Seen) -> bool:
        reset(sock)
        return False

    with Server(answer) as server, calling(server.url) as client:
        with pytest.raises(InDoubt):
            client.update_incident(ID, description="x")
        assert len(server.seen) == 1
    with (
        calling("http://127.0.0.1:1") as client,
        pytest.raises(Unavailable, match="could not be reached"),
    ):
        client.update_incident(ID, description="x")


def test_a_timeout_is_a_doubt_for_a_write_only() -> None:
    def answer(sock: Any, seen: Seen) -> bool:
        return not server.stopping.wait(10)

    with Server(answer) as server, calling(server.url, timeout_seconds=0.3) as client:
        with pytest.raises(InDoubt):
            client.update_incident(ID, description="x")
        with pytest.raises(Unavailable):
            client.get_incident(ID)


def test_servicenows_words_are_in_the_message_and_not_in_the_text() -> None:
    with Server(always(said(403, "Operation Failed", BR.replace("Check", "planted")))) as server:
        with calling(server.url) as client, pytest.raises(Refused) as refused:
            client.update_incident(ID, description="x")

        assert "planted" in refused.value.remote_message
        assert "planted" in refused.value.message
        assert "planted" not in str(refused.value) + repr(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        Basic("svc.hasura", "wrong"),
        OAuth("sandbox-client", "sandbox-client-secret", "svc.hasura", "wrong"),
    ],
    ids=["basic", "oauth"],
)
def test_a_wrong_password_is_sent_once(instance: ServiceNow, wrong: Credential) -> None:
    with ServiceNowClient(instance.url, wrong) as client:
        with pytest.raises(NotAuthorized):
            client.create_incident("x", assignment_group="Network")
        with pytest.raises(
            NotAuthorized, match=r"It is not sent again before \d+ s have passed"
        ) as again:
            client.get_incident("INC0010001")

    assert len(instance.refused_logins) == 1
    assert 0 < (again.value.retry_after_seconds or 0) <= 300


def test_a_password_that_is_another_one_is_sent_at_once(instance: ServiceNow) -> None:
    known = [Basic("svc.hasura", "wrong")]
    with ServiceNowClient(instance.url, lambda: known[0]) as client:
        with pytest.raises(NotAuthorized):
            client.create_incident("x")
        known[0] = Basic("svc.hasura", "sandbox")

        assert client.create_incident("x")["number"] == "INC0010001"


def test_a_password_is_sent_again_once_its_pause_is_over(instance: ServiceNow) -> None:
    with ServiceNowClient(
        instance.url, Basic("svc.hasura", "sandbox"), auth_pause_seconds=0.2
    ) as client:
        instance.password = "changed"
        with pytest.raises(NotAuthorized):
            client.create_incident("x")
        instance.password = "sandbox"
        time.sleep(0.25)

        assert client.create_incident("x")["number"] == "INC0010001"


def test_a_failure_keeps_what_the_function_goes_by(client: ServiceNowClient) -> None:
    with pytest.raises(InvalidArgument) as refused:
        client.create_incident("x", urgency=7)

    assert (refused.value.failure.retryability, refused.value.failure.reason) == (
        Retryability.PERMANENT,
        Reason.UNKNOWN_VALUE,
    )


@pytest.mark.parametrize("table", [INCIDENT, CHANGE], ids=lambda table: table.name)
def test_what_a_call_returns_are_columns(table: Any) -> None:
    check_names(table, table.returned)
    check_names(table, table.choices)

    assert written(table, {"short_description": "x"}) == {"short_description": "x"}
