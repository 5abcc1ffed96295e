"""The sandbox's ServiceNow answers as ServiceNow's documentation and captures of real instances
say."""

import base64
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from urllib.parse import urlsplit

import pytest
import requests

from sandbox.servicenow import FAULTS, ServiceNow
from sandbox.tables import Refused
from tests.sandbox.client import CLOSE, HEX, Api, Time, error, group, user


def port_of(instance: ServiceNow) -> int:
    return urlsplit(instance.url).port or 0


class TestVerbs:
    def test_a_post_makes_a_record_and_says_where_it_is(
        self, api: Api, instance: ServiceNow
    ) -> None:
        answer = api.call("POST", "table/incident", {"short_description": "Link down"})

        made = answer.json()["result"]
        assert answer.status_code == 201
        assert (
            answer.headers["Location"] == f"{instance.url}/api/now/table/incident/{made['sys_id']}"
        )
        assert api.call("GET", f"table/incident/{made['sys_id']}").json()["result"] == made

    @pytest.mark.parametrize("version", ["", "v1/", "v2/"])
    def test_every_version_of_the_path_works(self, api: Api, version: str) -> None:
        made = api.call("POST", f"{version}table/incident", {}).json()["result"]

        assert api.call("GET", f"{version}table/incident/{made['sys_id']}").status_code == 200
        assert len(api.call("GET", f"{version}table/incident").json()["result"]) == 1

    @pytest.mark.parametrize("method", ["PUT", "PATCH"])
    def test_an_update_merges_and_does_not_blank_what_was_not_sent(
        self, api: Api, method: str
    ) -> None:
        made = api.make(short_description="Link down", description="Port 3")

        answer = api.call(
            method, f"table/incident/{made['sys_id']}", {"short_description": "Link up"}
        )

        now = answer.json()["result"]
        assert (answer.status_code, now["short_description"], now["description"]) == (
            200,
            "Link up",
            "Port 3",
        )

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
    def test_a_record_that_is_not_there_is_404_and_not_made(
        self, api: Api, instance: ServiceNow, method: str
    ) -> None:
        answer = api.call(method, f"table/incident/{HEX}", {})

        words = "Record doesn't exist or ACL restricts the record retrieval"
        assert error(answer) == (404, "No Record found", words)
        assert instance.rows("incident") == []

    def test_a_delete_is_204_and_the_record_is_gone(self, api: Api, instance: ServiceNow) -> None:
        made = api.make()

        answer = api.call("DELETE", f"table/incident/{made['sys_id']}")

        assert (answer.status_code, answer.content) == (204, b"")
        assert instance.rows("incident") == []

    def test_the_method_that_is_meant_can_stand_in_a_header(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make()
        override = {"X-HTTP-Method-Override": "PATCH"}

        answer = api.call(
            "POST", f"table/incident/{made['sys_id']}", {"description": "x"}, headers=override
        )

        assert (answer.status_code, answer.json()["result"]["description"]) == (200, "x")
        assert instance.calls[-1].method == "PATCH"

    def test_a_head_is_a_get_without_a_body(self, api: Api) -> None:
        api.make()

        answer = api.call("HEAD", "table/incident")

        assert (answer.status_code, answer.headers["X-Total-Count"], answer.content) == (
            200,
            "1",
            b"",
        )

    def test_a_post_may_ask_for_no_body(self, api: Api) -> None:
        answer = api.call("POST", "table/incident", {}, headers={"X-no-response-body": "true"})

        assert (answer.status_code, answer.content) == (201, b"")
        assert "/api/now/table/incident/" in answer.headers["Location"]

    def test_only_the_first_of_several_objects_is_taken(
        self, api: Api, instance: ServiceNow
    ) -> None:
        api.call("POST", "table/incident", [{"description": "one"}, {"description": "two"}])

        assert [row["description"] for row in instance.rows("incident")] == ["one"]

    def test_a_real_answer_s_headers_are_there(self, api: Api) -> None:
        answer = api.call("GET", "table/incident")

        assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert answer.headers["Server"] == "ServiceNow"
        assert answer.headers["X-Is-Logged-In"] == "true"
        assert answer.headers["X-Transaction-ID"]
        assert answer.headers["Cache-Control"].startswith("no-cache")
        assert {"JSESSIONID", "glide_user_route", "glide_session_store"} <= set(
            answer.cookies.keys()
        )

    def test_a_connection_serves_more_than_one_request(self, instance: ServiceNow) -> None:
        login = base64.b64encode(f"{instance.username}:{instance.password}".encode()).decode()
        asked = (
            "GET /api/now/table/incident HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n"
            f"Authorization: Basic {login}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port_of(instance)), timeout=5) as raw:
            for _ in range(2):
                raw.sendall(asked.encode())
                got = b""
                while not got.endswith(b'{"result": []}'):
                    got += raw.recv(4096)
                assert got.startswith(b"HTTP/1.1 200")


class TestSysId:
    def test_a_sys_id_that_is_sent_is_honoured(self, api: Api) -> None:
        assert api.make(sys_id=HEX)["sys_id"] == HEX

    @pytest.mark.parametrize("sys_id", ["", "abc", HEX[:-1] + "g", HEX + "0", None, 7])
    def test_what_is_no_sys_id_is_replaced(self, api: Api, sys_id: object) -> None:
        made = api.make(sys_id=sys_id)

        assert made["sys_id"] != sys_id
        assert re.fullmatch("[0-9a-f]{32}", made["sys_id"])

    def test_a_second_insert_with_the_same_sys_id_is_403_and_changes_nothing(
        self, api: Api, instance: ServiceNow
    ) -> None:
        api.make(sys_id=HEX, short_description="first")

        again = api.call(
            "POST",
            "table/incident",
            {"sys_id": HEX.upper(), "short_description": "second", "number": "X1"},
        )

        assert error(again) == (403, "Operation Failed", "Error during insert of incident (X1)")
        assert [row["short_description"] for row in instance.rows("incident")] == ["first"]

    def test_of_many_concurrent_inserts_with_one_sys_id_one_wins(
        self, api: Api, instance: ServiceNow
    ) -> None:
        statuses: list[int] = []

        def insert() -> None:
            answer = requests.post(
                f"{instance.url}/api/now/table/incident",
                json={"sys_id": HEX},
                auth=(instance.username, instance.password),
                timeout=10,
            )
            statuses.append(answer.status_code)

        writers = [threading.Thread(target=insert) for _ in range(12)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()

        assert sorted(statuses) == [201] + [403] * 11
        assert len(instance.rows("incident")) == 1

    def test_an_instance_that_does_not_honour_it_gives_its_own(self) -> None:
        with ServiceNow(honours_sys_id=False) as instance, Api(instance).session as session:
            api = Api(instance)
            api.session = session
            session.auth = (instance.username, instance.password)
            first, second = api.make(sys_id=HEX), api.make(sys_id=HEX)

            assert len({HEX, first["sys_id"], second["sys_id"]}) == 3

    def test_a_correlation_id_is_not_unique(self, api: Api, instance: ServiceNow) -> None:
        api.make(correlation_id="shop:outage:1")
        api.make(correlation_id="shop:outage:1")

        assert len(instance.rows("incident")) == 2

    def test_an_update_cannot_move_a_record_to_another_sys_id(self, api: Api) -> None:
        made = api.make()

        assert api.patch(made["sys_id"], sys_id=HEX).json()["result"]["sys_id"] == made["sys_id"]


class TestQueries:
    @pytest.fixture
    def five(self, api: Api) -> Api:
        for number, impact in enumerate((1, 1, 2, 3, 10), 1):
            words = f"Alpha {number}" if number % 2 else ""
            api.make(
                number=f"INC{number}",
                impact=impact,
                description=words,
                correlation_id=f"Key-{number}",
            )
        return api

    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ("number=INC2", "2"),
            ("number=inc2", "2"),
            ("number!=INC2", "1345"),
            ("numberININC1,INC3", "13"),
            ("numberNOT ININC1,INC3", "245"),
            ("correlation_idSTARTSWITHkey-", "12345"),
            ("correlation_idENDSWITH-4", "4"),
            ("descriptionLIKEalpha", "135"),
            ("descriptionCONTAINSa 3", "3"),
            ("descriptionNOT LIKEalpha", "24"),
            ("descriptionISEMPTY", "24"),
            ("descriptionISNOTEMPTY", "135"),
            ("impact>2", "45"),
            ("impact>=2", "345"),
            ("impact<2", "12"),
            ("impact<=2", "123"),
            ("sys_created_on>2020-01-01 00:00:00", "12345"),
            ("sys_created_on<2020-01-01 00:00:00", ""),
            ("impact=1^descriptionISEMPTY", "2"),
            ("impact=1^ORimpact=2", "123"),
            ("descriptionISEMPTY^impact=1^ORimpact=3", "24"),
            ("number=INC5^NQimpact=1^descriptionISEMPTY", "25"),
            ("impact=1^ORDERBYDESCnumber", "21"),
            ("ORDERBYDESCimpact^ORDERBYDESCnumber", "54321"),
            ("ORDERBYimpact^ORDERBYDESCnumber^EQ", "21345"),
            # A term about a column that there is not is dropped, and everything comes back.
            ("u_no_such_field=1", "12345"),
            ("correlationid=Key-1", "12345"),
            ("nonsense", "12345"),
            ("", "12345"),
            ("Number=INC1", "12345"),
            ("impact=1^u_no_such_field=1", "12"),
            ("number=INC4^ORu_no_such_field=1", "4"),
            ("ORDERBYu_no_such_field", "12345"),
            ("AAAA=BBBB^" * 300 + "number=INC3", "3"),
            ("number=' OR 1=1 --", ""),
            ("impact>99999999999999999999999", ""),
        ],
    )
    def test_an_encoded_query_finds(self, five: Api, query: str, numbers: str) -> None:
        assert "".join(row["number"][3:] for row in five.found(query)) == numbers

    def test_plain_pairs_are_a_query_too(self, five: Api) -> None:
        answer = five.call("GET", "table/incident?impact=1&number=INC2")

        assert [row["number"] for row in answer.json()["result"]] == ["INC2"]

    def test_pages_come_with_the_whole_count_and_links(self, five: Api) -> None:
        answer = five.call(
            "GET", "table/incident?sysparm_limit=2&sysparm_offset=2&sysparm_query=ORDERBYnumber"
        )

        assert [row["number"] for row in answer.json()["result"]] == ["INC3", "INC4"]
        assert answer.headers["X-Total-Count"] == "5"
        assert re.findall('rel="([a-z]+)"', answer.headers["Link"]) == [
            "first",
            "prev",
            "next",
            "last",
        ]
        following = five.session.get(answer.links["next"]["url"], timeout=5)
        assert [row["number"] for row in following.json()["result"]] == ["INC5"]

    def test_without_a_count_the_returned_rows_are_counted(self, five: Api) -> None:
        answer = five.call("GET", "table/incident?sysparm_limit=2&sysparm_no_count=true")

        assert answer.headers["X-Total-Count"] == "2"

    def test_the_pagination_header_can_be_suppressed(self, five: Api) -> None:
        assert (
            "Link"
            not in five.call(
                "GET", "table/incident?sysparm_suppress_pagination_header=true"
            ).headers
        )

    def test_no_match_is_an_empty_list_and_in_v1_404(self, five: Api) -> None:
        assert five.found("number=INC9") == []
        words = "Records matching query not found. Check query parameter or offset parameter"
        assert error(five.call("GET", "v1/table/incident?sysparm_query=number=INC9")) == (
            404,
            "No Record found",
            words,
        )

    def test_an_update_does_not_move_a_row_in_the_list(self, five: Api) -> None:
        first = five.found("number=INC1")[0]
        five.patch(first["sys_id"], description="changed")

        assert five.found("")[0]["number"] == "INC1"


class TestPresentation:
    def test_all_values_are_strings(self, api: Api) -> None:
        made = api.make(impact=2, active=True, description=None, urgency=1.5, watch_list=["a"])

        assert all(isinstance(value, str) for value in made.values())
        assert (made["impact"], made["active"], made["description"]) == ("2", "true", "")
        assert (made["urgency"], made["watch_list"]) == ("1.5", '["a"]')

    def test_chosen_fields_come_back_and_unknown_ones_do_not(self, api: Api) -> None:
        made = api.make(description="x")

        answer = api.call(
            "GET", f"table/incident/{made['sys_id']}?sysparm_fields=number, description,u_none"
        )

        assert answer.json()["result"] == {"number": made["number"], "description": "x"}

    @pytest.mark.parametrize(
        ("asked", "shown", "state"),
        [
            ("", {"link", "value"}, "1"),
            ("&sysparm_exclude_reference_link=true", "ID", "1"),
            ("&sysparm_display_value=true", {"display_value", "link"}, "New"),
            ("&sysparm_display_value=true&sysparm_exclude_reference_link=true", "Network", "New"),
            (
                "&sysparm_display_value=all",
                {"display_value", "link", "value"},
                {"display_value": "New", "value": "1"},
            ),
            (
                "&sysparm_display_value=all&sysparm_exclude_reference_link=true",
                {"display_value", "value"},
                {"display_value": "New", "value": "1"},
            ),
        ],
    )
    def test_a_reference_and_a_choice_come_back_as_asked(
        self, api: Api, instance: ServiceNow, asked: str, shown: set[str] | str, state: object
    ) -> None:
        network = group(instance, "Network")
        made = api.make(assignment_group=network)

        got = api.call("GET", f"table/incident/{made['sys_id']}?x=y{asked}").json()["result"]

        expected = {
            "display_value": "Network",
            "link": f"{instance.url}/api/now/table/sys_user_group/{network}",
            "value": network,
        }
        if isinstance(shown, set):
            assert got["assignment_group"] == {part: expected[part] for part in shown}
        else:
            assert got["assignment_group"] == shown.replace("ID", network)
        assert got["state"] == state

    def test_an_empty_reference_is_an_empty_text(self, api: Api) -> None:
        made = api.make()

        assert (
            api.call("GET", f"table/incident/{made['sys_id']}").json()["result"]["assigned_to"]
            == ""
        )

    def test_the_seed_has_people_groups_and_things(self, api: Api) -> None:
        assert {row["user_name"] for row in api.found("", "sys_user")} >= {"admin", "svc.hasura"}
        assert {row["name"] for row in api.found("", "sys_user_group")} >= {
            "Database",
            "Hardware",
            "Network",
        }
        assert api.found("name=core-switch-1", "cmdb_ci")
        codes = api.found("name=incident^element=close_code^inactive=false", "sys_choice")
        assert "Solution provided" in {row["value"] for row in codes}
        assert (
            api.found("user_name=admin", "sys_user")[0]["sys_id"]
            == "6816f79cc0a8016401c5a33be04be441"
        )


class TestRefusals:
    def test_a_wrong_password_is_401(self, api: Api, instance: ServiceNow, clock: Time) -> None:
        api.session.auth = (instance.username, "wrong")

        answer = api.call("GET", "table/incident")

        assert error(answer) == (
            401,
            "User is not authenticated",
            "Required to provide Auth information",
        )
        assert answer.headers["WWW-Authenticate"] == 'BASIC realm="Service-now"'
        assert instance.refused_logins == [clock.now]

    def test_no_credentials_are_401_and_nobody_s_failure(
        self, api: Api, instance: ServiceNow
    ) -> None:
        assert requests.get(f"{instance.url}/api/now/table/incident", timeout=5).status_code == 401
        assert instance.refused_logins == []

    @pytest.mark.parametrize(
        "given", ["Basic", "Basic ü", "Basic AA=A", "Bearer c3ZjLmhhc3VyYTpzYW5kYm94", "x y z"]
    )
    def test_credentials_that_are_none_are_401(self, api: Api, given: str) -> None:
        headers = {"Authorization": given.encode()}
        answer = requests.get(
            f"{api.instance.url}/api/now/table/incident", headers=headers, timeout=5
        )

        assert answer.status_code == 401

    def test_five_wrong_passwords_in_fifteen_minutes_lock_the_account(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        api.session.auth = (instance.username, "wrong")
        for _ in range(5):
            api.call("GET", "table/incident")
            clock.now += 60
        api.session.auth = (instance.username, instance.password)

        assert api.call("GET", "table/incident").status_code == 401
        assert len(instance.refused_logins) == 6
        clock.now += 901
        assert api.call("GET", "table/incident").status_code == 200

    def test_an_administrator_can_unlock(self, api: Api, instance: ServiceNow) -> None:
        api.session.auth = (instance.username, "wrong")
        for _ in range(5):
            api.call("GET", "table/incident")
        api.session.auth = (instance.username, instance.password)
        instance.unlock()

        assert api.call("GET", "table/incident").status_code == 200

    def test_four_wrong_passwords_and_a_right_one_lock_nothing(
        self, api: Api, instance: ServiceNow
    ) -> None:
        for _ in range(3):
            api.session.auth = (instance.username, "wrong")
            for _ in range(4):
                api.call("GET", "table/incident")
            api.session.auth = (instance.username, instance.password)
            assert api.call("GET", "table/incident").status_code == 200

    def test_the_password_can_be_changed_while_it_runs(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.password = "ärger"

        assert api.call("GET", "table/incident").status_code == 401
        login = b"Basic " + base64.b64encode(f"{instance.username}:ärger".encode())
        api.session.auth = None
        assert (
            api.call("GET", "table/incident", headers={"Authorization": login}).status_code == 200
        )

    def test_an_unknown_table_is_400(self, api: Api) -> None:
        assert error(api.call("GET", "table/bad_table_name")) == (
            400,
            "Invalid table bad_table_name",
            None,
        )

    def test_an_unknown_path_is_400(self, api: Api) -> None:
        message = "Requested URI does not represent any resource"
        assert error(api.call("GET", "tables/incident")) == (
            400,
            message,
            "/api/now/tables/incident",
        )

    @pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000])
    def test_a_body_that_is_no_object_is_400(self, api: Api, body: bytes) -> None:
        answer = api.call(
            "POST", "table/incident", headers={"Content-Type": "application/json"}, data=body
        )

        assert error(answer)[:2] == (400, "Exception while reading request")

    def test_a_body_over_ten_megabytes_is_400(self, api: Api, instance: ServiceNow) -> None:
        body = b'{"description": "' + b"x" * 10_485_760 + b'"}'
        answer = api.call(
            "POST", "table/incident", headers={"Content-Type": "application/json"}, data=body
        )

        words = (
            f"Rejected large REST payload with content-length = {len(body)} bytes. Max "
            "allowed: 10485760 bytes."
        )
        assert error(answer) == (400, words, None)
        assert instance.rows("incident") == []

    def test_a_format_that_it_does_not_have_is_406_or_415(self, api: Api) -> None:
        assert api.call("GET", "table/incident", headers={"Accept": "text/html"}).status_code == 406
        assert api.call("GET", "table/incident", headers={"Accept": "*/*"}).status_code == 200
        assert (
            api.call(
                "POST", "table/incident", headers={"Content-Type": "text/plain"}, data=b"{}"
            ).status_code
            == 415
        )

    @pytest.mark.parametrize(
        ("method", "path"), [("PATCH", ""), ("DELETE", ""), ("POST", f"/{HEX}")]
    )
    def test_a_method_that_a_path_does_not_have_is_405(
        self, api: Api, method: str, path: str
    ) -> None:
        assert api.call(method, f"table/incident{path}", {}).status_code == 405

    def test_a_url_that_is_far_too_long_is_answered_with_a_page(self, api: Api) -> None:
        answer = api.call("GET", "table/incident?sysparm_query=" + "x" * 70_000)

        assert answer.status_code == 414
        assert "<html" in answer.text.lower()

    def test_a_request_without_a_length_is_411(self, api: Api, instance: ServiceNow) -> None:
        answer = api.call(
            "POST",
            "table/incident",
            data=iter([b"{}"]),
            headers={"Content-Type": "application/json"},
        )

        assert answer.status_code == 411
        assert instance.rows("incident") == []


class TestIncident:
    def test_a_new_incident_has_what_the_platform_gives_it(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make(short_description="Link down")

        assert re.fullmatch(r"INC\d{7}", made["number"])
        assert (
            made["opened_at"]
            == made["sys_created_on"]
            == made["sys_updated_on"]
            == "2026-09-21 14:13:20"
        )
        assert made["opened_by"] == user(instance, "svc.hasura")
        assert (made["state"], made["incident_state"], made["active"]) == ("1", "1", "true")
        assert (made["impact"], made["urgency"], made["priority"]) == ("3", "3", "5")
        assert (made["sys_mod_count"], made["reopen_count"]) == ("0", "0")
        assert made["sys_created_by"] == made["sys_updated_by"] == "svc.hasura"
        assert made["sys_class_name"] == "incident"

    def test_numbers_count_up_by_table(self, api: Api) -> None:
        numbers = [api.make()["number"] for _ in range(2)]
        problem = api.call("POST", "table/problem", {"short_description": "x"}).json()["result"]

        assert int(numbers[1][3:]) == int(numbers[0][3:]) + 1
        assert re.fullmatch(r"PRB\d{7}", problem["number"])

    @pytest.mark.parametrize(
        ("impact", "urgency", "priority"),
        [
            (1, 1, 1),
            (1, 2, 2),
            (2, 1, 2),
            (1, 3, 3),
            (2, 2, 3),
            (3, 1, 3),
            (2, 3, 4),
            (3, 2, 4),
            (3, 3, 5),
        ],
    )
    def test_priority_follows_impact_and_urgency_and_is_read_only(
        self, api: Api, impact: int, urgency: int, priority: int
    ) -> None:
        made = api.make(impact=impact, urgency=urgency, priority=4 if priority != 4 else 1)
        assert made["priority"] == str(priority)

        changed = api.patch(made["sys_id"], priority="1", impact=3, urgency=3).json()["result"]
        assert changed["priority"] == "5"

    def test_incident_state_mirrors_state(self, api: Api) -> None:
        made = api.make()

        assert api.patch(made["sys_id"], state=2).json()["result"]["incident_state"] == "2"
        assert api.patch(made["sys_id"], incident_state=1).json()["result"]["state"] == "1"

    @pytest.mark.parametrize("state", [6, 7])
    @pytest.mark.parametrize(
        ("given", "lacking"),
        [
            ({}, "Resolution code, Resolution notes"),
            ({"close_code": "Duplicate"}, "Resolution notes"),
            ({"close_notes": "done", "close_code": ""}, "Resolution code"),
        ],
    )
    def test_resolving_and_closing_need_code_and_notes(
        self, api: Api, state: int, given: dict[str, str], lacking: str
    ) -> None:
        made = api.make()

        answer = api.patch(made["sys_id"], state=state, description="lost", **given)

        words = f"Data Policy Exception: The following fields are mandatory: {lacking}"
        assert error(answer) == (403, "Operation Failed", words)
        assert api.found("")[0]["description"] == ""
        assert api.call("POST", "table/incident", {"state": state, **given}).status_code == 403

    def test_a_resolved_incident_says_who_and_when(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        made = api.make()
        clock.now += 5

        resolved = api.patch(made["sys_id"], state=6, **CLOSE).json()["result"]

        assert (resolved["state"], resolved["active"]) == ("6", "true")
        assert (resolved["resolved_at"], resolved["resolved_by"]) == (
            "2026-09-21 14:13:25",
            user(instance, "svc.hasura"),
        )
        assert resolved["closed_at"] == ""

    def test_an_incident_can_be_inserted_resolved(self, api: Api) -> None:
        made = api.make(state=6, **CLOSE)

        assert (made["state"], made["incident_state"], made["close_notes"]) == (
            "6",
            "6",
            "Cable replaced",
        )
        assert made["resolved_at"]

    def test_reopening_is_counted(self, api: Api) -> None:
        made = api.make(state=6, **CLOSE)

        reopened = api.patch(made["sys_id"], state=2).json()["result"]

        assert (reopened["state"], reopened["reopen_count"], reopened["resolved_at"]) == (
            "2",
            "1",
            "",
        )
        assert reopened["reopened_time"]

    @pytest.mark.parametrize(("final", "fields"), [("7", CLOSE), ("8", {})])
    def test_closed_and_canceled_are_final(
        self, api: Api, final: str, fields: dict[str, str]
    ) -> None:
        made = api.make(state=final, **fields)
        assert made["active"] == "false"

        answer = api.patch(made["sys_id"], state="2")

        status, message, detail = error(answer)
        assert (status, message) == (403, "Operation Failed")
        assert detail is not None
        assert re.fullmatch(
            r"Operation against file 'incident' was aborted by Business Rule '([\w "
            r"]+)\^[0-9a-f]{32}'\. "
            r"Business Rule Stack:\1",
            detail,
        )
        assert api.found("")[0]["state"] == final
        assert api.patch(made["sys_id"], description="a word more").status_code == 200

    def test_closing_says_who_and_when(self, api: Api, instance: ServiceNow) -> None:
        closed = api.make(state=7, **CLOSE)

        assert (closed["closed_at"], closed["closed_by"]) == (
            closed["sys_created_on"],
            user(instance, "svc.hasura"),
        )

    def test_on_hold_needs_a_reason_and_for_the_caller_a_comment(self, api: Api) -> None:
        made = api.make()

        assert "On hold reason" in api.patch(made["sys_id"], state=3).text
        assert "Additional comments" in api.patch(made["sys_id"], state=3, hold_reason=1).text
        assert (
            api.patch(made["sys_id"], state=3, hold_reason=1, comments="please call").status_code
            == 200
        )

    def test_a_new_group_clears_the_assignee_unless_one_is_given(
        self, api: Api, instance: ServiceNow
    ) -> None:
        abel = user(instance, "abel.tuter")
        network, hardware = group(instance, "Network"), group(instance, "Hardware")
        made = api.make(assignment_group=network, assigned_to=abel)
        assert made["assigned_to"] == abel

        same = api.patch(made["sys_id"], assignment_group=network).json()["result"]
        moved = api.patch(made["sys_id"], assignment_group=hardware).json()["result"]
        both = api.patch(made["sys_id"], assignment_group=network, assigned_to=abel).json()[
            "result"
        ]

        assert (same["assigned_to"], moved["assigned_to"], both["assigned_to"]) == (abel, "", abel)

    def test_a_text_that_is_too_long_is_cut_without_a_word(self, api: Api) -> None:
        made = api.make(
            short_description="x" * 161, description="ü" * 4001, correlation_id="k" * 101
        )

        lengths = (
            len(made["short_description"]),
            len(made["description"]),
            len(made["correlation_id"]),
        )
        assert lengths == (160, 4000, 100)

    def test_unknown_and_system_fields_are_ignored_without_a_word(self, api: Api) -> None:
        made = api.make(u_colour="red", sys_created_by="mallory", sys_mod_count="99")

        assert "u_colour" not in made
        assert (made["sys_created_by"], made["sys_mod_count"]) == ("svc.hasura", "0")

    def test_a_reference_by_name_is_stored_empty_unless_names_were_announced(
        self, api: Api, instance: ServiceNow
    ) -> None:
        by_name = {"assignment_group": "network", "caller_id": "Nobody"}

        plain = api.make(**by_name)
        shown = api.call("POST", "table/incident?sysparm_input_display_value=true", by_name).json()[
            "result"
        ]

        assert (plain["assignment_group"], plain["caller_id"]) == ("", "")
        assert shown["assignment_group"]["value"] == group(instance, "Network")
        assert shown["caller_id"] == ""

    def test_a_reference_by_an_id_that_nobody_has_is_stored_as_it_is(self, api: Api) -> None:
        assert api.make(assignment_group=HEX)["assignment_group"] == HEX

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("2021-07-15T08:00:00", "2021-07-15 08:00:00"),
            ("2021-07-15 08:00:00", "2021-07-15 08:00:00"),
            ("soon", ""),
        ],
    )
    def test_a_time_is_kept_with_a_space(self, api: Api, given: str, kept: str) -> None:
        assert api.make(due_date=given)["due_date"] == kept

    def test_a_journal_reads_back_empty_and_every_write_is_an_entry(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make(comments="first")
        for _ in range(2):
            again = api.patch(made["sys_id"], work_notes="same words").json()["result"]

        assert (made["comments"], again["work_notes"], again["sys_mod_count"]) == ("", "", "2")
        entries = api.found(f"name=incident^element_id={made['sys_id']}", "sys_journal_field")
        written = [(entry["element"], entry["value"], entry["sys_created_by"]) for entry in entries]
        assert written == [
            ("comments", "first", "svc.hasura"),
            ("work_notes", "same words", "svc.hasura"),
            ("work_notes", "same words", "svc.hasura"),
        ]

    def test_a_refused_write_leaves_no_journal_entry(self, api: Api, instance: ServiceNow) -> None:
        api.make(sys_id=HEX)

        assert api.patch(HEX, state=6, comments="lost").status_code == 403
        assert (
            api.call("POST", "table/incident", {"sys_id": HEX, "comments": "lost"}).status_code
            == 403
        )
        assert instance.rows("sys_journal_field") == []

    def test_a_write_is_counted_and_one_that_changes_nothing_is_not(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        made = api.make(description="x")
        clock.now += 1.5

        same = api.patch(made["sys_id"], description="x").json()["result"]
        changed = api.patch(made["sys_id"], description="y").json()["result"]

        assert same["sys_mod_count"] == "0"
        assert (changed["sys_mod_count"], changed["sys_updated_on"]) == ("1", "2026-09-21 14:13:21")

    @pytest.mark.parametrize(
        "words",
        ["{{ 7*7 }}", "[code]<b>x</b>[/code]", "a^b^NQc", "line\nline\r\n", "'; --", "東京 🎉"],
    )
    def test_a_text_is_kept_as_it_is(self, api: Api, words: str) -> None:
        assert api.make(description=words)["description"] == words

    def test_half_a_surrogate_pair_breaks_nothing(self, api: Api) -> None:
        body = b'{"description": "\\ud83d"}'
        answer = api.call(
            "POST", "table/incident", headers={"Content-Type": "application/json"}, data=body
        )

        assert answer.json()["result"]["description"] == "?"


class TestPeople:
    def test_a_person_changes_a_record_by_names_and_labels(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make()

        changed = instance.change(
            "incident", made["sys_id"], state="In Progress", assignment_group="Hardware"
        )

        assert (changed["state"], changed["assignment_group"]) == ("2", group(instance, "Hardware"))
        assert (changed["sys_updated_by"], changed["sys_mod_count"]) == ("admin", "1")
        assert instance.row("incident", made["sys_id"]) == changed

    def test_the_platform_s_rules_hold_for_people_too(self, api: Api, instance: ServiceNow) -> None:
        made = api.make(state=7, **CLOSE)

        with pytest.raises(Refused, match="aborted by Business Rule"):
            instance.change("incident", made["sys_id"], state="2")

    def test_a_person_can_remove_a_record(self, api: Api, instance: ServiceNow) -> None:
        made = api.make()
        instance.remove("incident", made["sys_id"])

        assert instance.row("incident", made["sys_id"]) is None
        assert api.make(sys_id=made["sys_id"])["sys_id"] == made["sys_id"]


class TestCalls:
    def test_every_call_is_kept_as_it_was_answered(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        api.call("GET", f"table/incident/{HEX}?sysparm_fields=number")
        made = api.make(sys_id=HEX)

        looked, posted = instance.calls
        assert (looked.method, looked.path, looked.query) == (
            "GET",
            f"/api/now/table/incident/{HEX}",
            "sysparm_fields=number",
        )
        assert (looked.table, looked.sys_id, looked.status, looked.body) == (
            "incident",
            HEX,
            404,
            None,
        )
        assert (posted.method, posted.status, posted.at, posted.body) == (
            "POST",
            201,
            clock.now,
            {"sys_id": made["sys_id"]},
        )

    def test_a_call_keeps_no_credentials(self, api: Api, instance: ServiceNow) -> None:
        api.make()

        assert "authorization" not in instance.calls[0].headers
        assert instance.calls[0].headers["accept"] == "application/json"

    def test_calls_can_be_forgotten(self, api: Api, instance: ServiceNow) -> None:
        api.make()
        instance.forget()

        assert instance.calls == []


def raw_answer(instance: ServiceNow, method: str = "GET") -> bytes:
    """What comes over the wire, or ConnectionResetError where it ends in a reset."""
    body = b"{}"
    login = base64.b64encode(f"{instance.username}:{instance.password}".encode()).decode()
    head = (
        f"{method} /api/now/table/incident HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nContent-Type: "
        "application/json\r\n"
        f"Content-Length: {len(body)}\r\nAuthorization: Basic {login}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port_of(instance)), timeout=5) as raw:
        raw.sendall(head.encode() + body)
        return raw.recv(65536)


class TestFaults:
    def test_a_fault_that_is_none_is_refused_with_the_names_there_are(
        self, instance: ServiceNow
    ) -> None:
        with pytest.raises(
            ValueError, match="there is no fault 'flood'; there are acl_403, acl_flap_403"
        ):
            instance.arm("flood")

    @pytest.mark.parametrize(
        ("fault", "status", "words"),
        [
            ("commit_then_500", 500, "Transaction cancelled: maximum execution time exceeded"),
            ("commit_then_403", 403, "ACL Exception Insert Failed due to security constraints"),
        ],
    )
    def test_a_commit_can_be_answered_with_a_failure(
        self, api: Api, instance: ServiceNow, fault: str, status: int, words: str
    ) -> None:
        instance.arm(fault)

        answer = api.call("POST", "table/incident", {"sys_id": HEX})

        assert answer.status_code == status
        assert words in answer.text
        assert instance.row("incident", HEX) is not None
        assert instance.calls[-1].status == status

    @pytest.mark.parametrize(
        ("fault", "rows"), [("commit_then_reset", 1), ("reset", 0), ("down", 0)]
    )
    def test_a_connection_can_be_reset_after_or_before_the_commit(
        self, instance: ServiceNow, fault: str, rows: int
    ) -> None:
        instance.arm(fault)

        with pytest.raises(ConnectionResetError):
            raw_answer(instance, "POST")
        assert len(instance.rows("incident")) == rows
        assert [call.status for call in instance.calls] == [0]

    def test_a_refused_write_is_lost_with_its_answer_too(
        self, api: Api, instance: ServiceNow
    ) -> None:
        api.make(sys_id=HEX)
        instance.arm("commit_then_reset")

        with pytest.raises(requests.ConnectionError):
            api.call("POST", "table/incident", {"sys_id": HEX})

    def test_a_commit_can_be_followed_by_silence(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("commit_then_hang", seconds=30)

        with pytest.raises(requests.ReadTimeout):
            api.call("POST", "table/incident", {"sys_id": HEX}, timeout=0.3)
        assert instance.row("incident", HEX) is not None
        assert [call.status for call in instance.calls] == [0]

    def test_silence_ends_in_a_reset(self, instance: ServiceNow) -> None:
        instance.arm("commit_then_hang", seconds=0.1)

        with pytest.raises(ConnectionResetError):
            raw_answer(instance, "POST")

    def test_a_write_can_be_committed_after_its_caller_gave_up(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make(description="old")
        instance.arm("commit_late", method="PATCH", seconds=0.4)

        with pytest.raises(requests.ConnectionError):
            api.patch(made["sys_id"], description="late")
        meanwhile = api.patch(made["sys_id"], urgency=1).json()["result"]["description"]

        assert meanwhile == "old"
        deadline = time.monotonic() + 5
        while (now := instance.rows("incident")[0])[
            "description"
        ] == "old" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (now["description"], now["urgency"]) == ("late", "1")

    def test_what_waits_to_be_committed_late_is_committed_on_demand_and_once(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make()
        instance.arm("commit_late", times=2, seconds=3600)
        for words in ("first", "second"):
            with pytest.raises(requests.ConnectionError):
                api.patch(made["sys_id"], description=words)
        before = instance.rows("incident")[0]
        instance.commit_now()
        instance.commit_now()
        after = instance.rows("incident")[0]

        assert before["description"] == ""
        assert (after["description"], after["sys_mod_count"]) == ("second", "2")

    def test_what_is_committed_late_goes_by_the_instances_clock(self) -> None:
        ahead = [0.0]
        with ServiceNow(clock=lambda: time.time() + ahead[0]) as instance:
            made = instance.tables.insert("incident", {"description": "old"}, by="somebody")
            instance.arm("commit_late", method="PATCH", seconds=3600)
            with pytest.raises(requests.ConnectionError):
                Api(instance).patch(made["sys_id"], description="late")
            ahead[0] = 3601.0

            deadline = time.monotonic() + 5
            while (now := instance.rows("incident")[0])[
                "description"
            ] == "old" and time.monotonic() < deadline:
                time.sleep(0.02)
            assert now["description"] == "late"

    def test_what_would_be_committed_late_is_not_waited_for_at_the_end(self) -> None:
        began = time.monotonic()
        with ServiceNow() as instance:
            instance.arm("commit_late", seconds=60)
            with pytest.raises(ConnectionResetError):
                raw_answer(instance, "POST")

        assert time.monotonic() - began < 5

    def test_silence_is_not_waited_for_at_the_end(self) -> None:
        began = time.monotonic()
        with ServiceNow() as instance, requests.Session() as session:
            instance.arm("commit_then_hang", seconds=60)
            with pytest.raises(requests.ReadTimeout):
                session.post(
                    f"{instance.url}/api/now/table/incident",
                    json={},
                    auth=("svc.hasura", "sandbox"),
                    timeout=0.2,
                )

        assert time.monotonic() - began < 5

    def test_a_200_can_hold_a_result_and_an_error(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("partial_200")

        answer = api.call("POST", "table/incident", {"sys_id": HEX})

        told = answer.json()
        assert (answer.status_code, told["result"]["sys_id"], told["status"]) == (
            200,
            HEX,
            "failure",
        )
        assert told["error"]["message"] == "Transaction cancelled: maximum execution time exceeded"
        assert instance.row("incident", HEX) is not None

    def test_a_200_can_break_off(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("truncated_200")

        answer = api.call("POST", "table/incident", {"sys_id": HEX})

        assert answer.status_code == 200
        assert answer.text.startswith('{"result": {')
        with pytest.raises(ValueError, match="Unterminated string"):
            answer.json()
        assert instance.row("incident", HEX) is not None

    def test_a_201_can_lack_the_sys_id(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("created_without_sys_id")

        answer = api.call("POST", "table/incident", {"sys_id": HEX})

        assert answer.status_code == 201
        assert "sys_id" not in answer.json()["result"]
        assert "Location" not in answer.headers
        assert instance.row("incident", HEX) is not None

    @pytest.mark.parametrize(
        ("fault", "kind", "words"),
        [
            ("session_sync_202", "application/json", ""),
            ("semaphore_429", "text/html", "rejected"),
            ("hibernating_html_200", "text/html", "Your instance is hibernating"),
            ("sso_html_200", "text/html", 'type="password"'),
            ("adc_502", "text/html", "snow_adc"),
            ("unavailable_503", "text/html", "Unavailable"),
            ("error_500", "application/json", "maximum execution time exceeded"),
            (
                "acl_403",
                "application/json",
                "ACL Exception Insert Failed due to security constraints",
            ),
            ("acl_flap_403", "application/json", "Failed API level ACL Validation"),
            (
                "business_rule_403",
                "application/json",
                "was aborted by Business Rule 'Check with change board^",
            ),
            (
                "data_policy_403",
                "application/json",
                "Data Policy Exception: The following fields are mandatory: Caller",
            ),
        ],
    )
    def test_a_request_can_be_answered_without_being_processed(
        self, api: Api, instance: ServiceNow, fault: str, kind: str, words: str
    ) -> None:
        instance.arm(fault)

        answer = api.call("POST", "table/incident", {"sys_id": HEX})

        assert (answer.status_code, answer.headers["Content-Type"].partition(";")[0]) == (
            int(fault[-3:]),
            kind,
        )
        assert words in answer.text
        assert "X-RateLimit-Limit" not in answer.headers
        assert instance.rows("incident") == []
        assert api.make(sys_id=HEX)["sys_id"] == HEX

    def test_a_rate_limit_says_when_it_ends(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        instance.arm("rate_limit_429", seconds=7)

        answer = api.call("POST", "table/incident", {})

        assert error(answer)[:2] == (429, "Rate limit exceeded")
        assert answer.headers["Retry-After"] == "7"
        assert answer.headers["X-RateLimit-Reset"] == str(int(clock.now) + 7)
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-RateLimit-Rule"])
        assert instance.rows("incident") == []

    def test_a_hibernating_instance_redirects_elsewhere(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.arm("hibernating_redirect_302")

        answer = api.call("GET", "table/incident")

        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("https://developer.servicenow.com/dev.do")

    def test_a_list_can_be_refused_by_an_acl(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("acl_403")

        assert error(api.call("GET", "table/incident")) == (
            403,
            "Insufficient rights to query records",
            None,
        )

    def test_slow_is_late_and_right(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("slow", seconds=0.3)
        began = time.monotonic()

        assert api.make(sys_id=HEX)["sys_id"] == HEX
        assert time.monotonic() - began >= 0.3

    def test_down_lasts_until_it_is_disarmed_and_holds_for_the_pages(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.arm("down", times=None)

        for _ in range(3):
            with pytest.raises(requests.ConnectionError):
                api.call("GET", "table/incident")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{instance.url}/incidents", timeout=5)
        instance.disarm()
        assert api.call("GET", "table/incident").status_code == 200

    def test_a_fault_happens_as_often_as_it_was_armed_for(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.arm("error_500", times=2)
        instance.arm("adc_502")

        assert [api.call("GET", "table/incident").status_code for _ in range(4)] == [
            500,
            500,
            502,
            200,
        ]

    def test_a_fault_waits_for_its_method_and_table(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("error_500", method="POST", table="incident")

        assert api.call("GET", "table/incident").status_code == 200
        assert api.call("POST", "table/problem", {}).status_code == 201
        assert api.call("POST", "table/incident", {}).status_code == 500
        assert api.call("POST", "table/incident", {}).status_code == 201

    def test_a_wrong_password_is_refused_before_a_fault_behind_the_login_is_met(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.arm("commit_then_500")
        api.session.auth = (instance.username, "wrong")
        assert api.call("POST", "table/incident", {}).status_code == 401
        api.session.auth = (instance.username, instance.password)

        assert api.call("POST", "table/incident", {}).status_code == 500

    def test_a_read_can_lag_behind_the_last_write(self, api: Api, instance: ServiceNow) -> None:
        made = api.make(description="old", correlation_id="shop:outage:1")
        api.patch(made["sys_id"], description="new", correlation_id="another")
        instance.arm("stale_read", times=2)
        got = api.call("GET", f"table/incident/{made['sys_id']}").json()["result"]
        found = api.found("correlation_id=shop:outage:1")

        assert (got["description"], got["sys_mod_count"]) == ("old", "0")
        assert [row["sys_id"] for row in found] == [made["sys_id"]]
        assert (
            api.call("GET", f"table/incident/{made['sys_id']}").json()["result"]["description"]
            == "new"
        )

    def test_a_record_just_made_is_not_there_for_a_read_that_lags(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make(correlation_id="shop:outage:1")
        instance.arm("stale_read", times=2)

        assert api.call("GET", f"table/incident/{made['sys_id']}").status_code == 404
        assert api.found("correlation_id=shop:outage:1") == []
        assert len(api.found("correlation_id=shop:outage:1")) == 1

    def test_a_record_just_deleted_is_still_there_for_a_read_that_lags(
        self, api: Api, instance: ServiceNow
    ) -> None:
        made = api.make()
        instance.remove("incident", made["sys_id"])
        instance.arm("stale_read")

        assert api.call("GET", f"table/incident/{made['sys_id']}").status_code == 200
        assert api.call("GET", f"table/incident/{made['sys_id']}").status_code == 404

    def test_reads_that_have_caught_up_see_everything(self, api: Api, instance: ServiceNow) -> None:
        made = api.make()
        instance.catch_up()
        instance.arm("stale_read")

        assert api.call("GET", f"table/incident/{made['sys_id']}").status_code == 200

    def test_a_lag_waits_for_a_read(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("stale_read")
        made = api.make()

        assert api.call("GET", f"table/incident/{made['sys_id']}").status_code == 404

    @pytest.mark.parametrize("fault", sorted(FAULTS))
    @pytest.mark.parametrize("method", ["GET", "DELETE"])
    def test_every_fault_can_happen_to_every_method(
        self, api: Api, instance: ServiceNow, fault: str, method: str
    ) -> None:
        api.make(sys_id=HEX)
        instance.catch_up()
        instance.arm(fault, method=method)

        try:
            status = api.call(method, f"table/incident/{HEX}").status_code
        except requests.ConnectionError:
            status = 0

        assert instance.calls[-1].status == status
        assert status == 0 or status in {200, 202, 204, 302, 403, 429, 500, 502, 503}


class TestOtherProcesses:
    def test_faults_are_armed_and_disarmed_over_http(self, api: Api, instance: ServiceNow) -> None:
        control = f"{instance.url}/sandbox/faults"
        fault = {"name": "error_500", "times": None, "method": "GET", "seconds": 1}

        armed = requests.post(control, json=fault, timeout=5)

        assert (armed.status_code, armed.json()) == (200, [{**fault, "table": None}])
        assert api.call("GET", "table/incident").status_code == 500
        assert requests.delete(control, timeout=5).json() == []
        assert api.call("GET", "table/incident").status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            "{",
            "[]",
            "{}",
            '{"name": "flood"}',
            '{"name": "slow", "seconds": "x"}',
            '{"name": "slow", "u": 1}',
            '{"name": []}',
        ],
    )
    def test_a_fault_that_is_none_is_400(self, instance: ServiceNow, body: str) -> None:
        answer = requests.post(f"{instance.url}/sandbox/faults", data=body, timeout=5)

        assert answer.status_code == 400
        assert answer.json()["error"]

    def test_it_can_be_told_to_come_up_again_while_it_is_down(
        self, api: Api, instance: ServiceNow
    ) -> None:
        instance.arm("down", times=None)
        requests.delete(f"{instance.url}/sandbox/faults", timeout=5)

        assert api.call("GET", "table/incident").status_code == 200

    def test_calls_are_read_and_forgotten_over_http(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        api.make(sys_id=HEX)
        control = f"{instance.url}/sandbox/calls"

        (call,) = requests.get(control, timeout=5).json()

        assert call == {
            "method": "POST",
            "path": "/api/now/table/incident",
            "query": "sysparm_exclude_reference_link=true",
            "table": "incident",
            "sys_id": "",
            "status": 201,
            "at": clock.now,
            "body": {"sys_id": HEX},
        }
        requests.delete(control, timeout=5)
        assert requests.get(control, timeout=5).json() == []

    def test_the_password_is_changed_over_http(self, instance: ServiceNow) -> None:
        control = f"{instance.url}/sandbox/password"

        assert requests.post(control, json={"password": 7}, timeout=5).status_code == 400
        assert requests.post(control, json={"password": "new"}, timeout=5).status_code == 200
        assert instance.password == "new"

    def test_an_account_is_unlocked_over_http(self, api: Api, instance: ServiceNow) -> None:
        api.session.auth = (instance.username, "wrong")
        for _ in range(5):
            api.call("GET", "table/incident")
        requests.post(f"{instance.url}/sandbox/unlock", timeout=5)
        api.session.auth = (instance.username, instance.password)

        assert api.call("GET", "table/incident").status_code == 200

    def test_what_is_not_there_is_404(self, instance: ServiceNow) -> None:
        assert requests.get(f"{instance.url}/sandbox/nothing", timeout=5).status_code == 404


class TestPages:
    def test_the_list_shows_incidents_in_words(self, api: Api, instance: ServiceNow) -> None:
        words = {"short_description": "Link <down> & out", "correlation_id": "shop:outage:1"}
        made = api.make(**words, assignment_group=group(instance, "Network"), impact=1, urgency=1)

        page = requests.get(f"{instance.url}/", timeout=5)

        assert page.url.endswith("/incidents")
        assert page.headers["Content-Type"] == "text/html;charset=UTF-8"
        for shown in (
            made["number"],
            "New",
            "Link &lt;down&gt; &amp; out",
            "1 - Critical",
            "Network",
            "shop:outage:1",
        ):
            assert shown in page.text
        assert '<meta http-equiv="refresh"' in page.text

    def test_a_page_shows_one_record_and_its_journal(self, api: Api, instance: ServiceNow) -> None:
        made = api.make(
            description="<script>alert(1)</script>", state=6, **CLOSE, comments="We <b>look</b>"
        )
        other = api.make(work_notes="not here")

        page = requests.get(f"{instance.url}/incidents/{made['number']}", timeout=5).text

        for shown in (
            made["number"],
            "Resolved",
            "Cable replaced",
            made["sys_id"],
            "We &lt;b&gt;look&lt;/b&gt;",
        ):
            assert shown in page
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "not here" not in page
        assert other["number"] not in page

    @pytest.mark.parametrize(
        "path", ["/incidents/INC9", "/incidents/", "/incidents/a^b", "/nothing"]
    )
    def test_a_page_that_is_not_there_is_404(self, instance: ServiceNow, path: str) -> None:
        assert requests.get(f"{instance.url}{path}", timeout=5).status_code == 404

    def test_an_empty_list_says_so(self, instance: ServiceNow) -> None:
        assert "No incidents yet" in requests.get(f"{instance.url}/incidents", timeout=5).text

    def test_a_page_is_no_call_and_takes_no_post(self, instance: ServiceNow) -> None:
        assert requests.post(f"{instance.url}/incidents", timeout=5).status_code == 405
        assert instance.calls == []


class TestStarting:
    def test_a_client_that_stays_does_not_keep_it_from_stopping(self) -> None:
        with ServiceNow() as instance:
            idle = socket.create_connection(("127.0.0.1", port_of(instance)), timeout=5)
            requests.get(f"{instance.url}/incidents", timeout=5)

        assert idle.recv(1) == b""
        idle.close()

    def test_a_second_start_on_the_same_port_works_at_once(self) -> None:
        with ServiceNow() as first:
            port = port_of(first)
            # The side that hangs up first is the one whose port the kernel keeps.
            idle = socket.create_connection(("127.0.0.1", port), timeout=5)
            requests.get(f"{first.url}/incidents", timeout=5)
        idle.close()

        with ServiceNow(port=port) as second:
            assert requests.get(f"{second.url}/incidents", timeout=5).status_code == 200

    @pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
    def test_it_runs_alone_until_it_is_told_to_stop(self, sign: signal.Signals) -> None:
        command = [sys.executable, "-m", "sandbox.servicenow", "--port", "0"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = re.findall(r"http://\S+", line)[0]
            made = requests.post(
                f"{url}/api/now/table/incident", json={}, auth=("svc.hasura", "sandbox"), timeout=5
            ).json()["result"]
            assert made["number"] in requests.get(f"{url}/incidents", timeout=5).text
            process.send_signal(sign)
            _, complaints = process.communicate(timeout=10)

        assert (process.returncode, complaints) == (0, "")

    def test_a_taken_port_is_one_clear_sentence_and_status_1(self, instance: ServiceNow) -> None:
        port = port_of(instance)
        command = [sys.executable, "-m", "sandbox.servicenow", "--port", str(port)]

        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

        assert ended.returncode == 1
        words = f"the sandbox's ServiceNow cannot listen on port {port}: Address already in use."
        assert ended.stderr == f"{words} Give another one with --port.\n"

    def test_two_instances_have_records_of_their_own(self, api: Api) -> None:
        api.make(sys_id=uuid.uuid4().hex)

        with ServiceNow() as other:
            assert other.rows("incident") == []


def test_a_request_whose_sender_dies_before_its_end_has_no_effect() -> None:
    with ServiceNow() as servicenow:
        head = (
            "POST /api/now/table/incident HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n"
            f"Authorization: Basic {base64.b64encode(b'svc.hasura:sandbox').decode()}\r\n"
            "Content-Type: application/json\r\nContent-Length: 20\r\n\r\n"
        )
        with socket.create_connection(
            ("127.0.0.1", int(servicenow.url.rpartition(":")[2]))
        ) as connection:
            connection.sendall(head.encode())
            connection.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                connection.recv(1000)

        assert servicenow.rows("incident") == []


def test_a_request_counts_as_in_flight_from_when_it_is_sent_though_its_sender_is_gone() -> None:
    with ServiceNow() as servicenow:
        with socket.create_connection(
            ("127.0.0.1", int(servicenow.url.rpartition(":")[2]))
        ) as caller:
            until = time.monotonic() + 5
            while servicenow.in_flight and time.monotonic() < until:
                time.sleep(0.01)
            idle = servicenow.in_flight
            caller.sendall(b"PATCH /api/now/table/incident/x HTTP/1.1\r\n")
            sent = [servicenow.in_flight for _ in range(100)]
        while servicenow.in_flight and time.monotonic() < until:
            time.sleep(0.01)

        assert (idle, set(sent), servicenow.in_flight) == (0, {1}, 0)
