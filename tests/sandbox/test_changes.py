"""Changes by the Table API and by the Change Management API, problems, and the rules that people
add."""

from typing import Any

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import HEX, Api, error

CHANGES = "/api/sn_chg_rest"
CLOSE = {"close_code": "successful", "close_notes": "done"}
RULE = "Change Model: Check State Transition"


def made(api: Api, table: str = "change_request", **fields: object) -> dict[str, Any]:
    answer = api.call("POST", f"table/{table}?sysparm_exclude_reference_link=true", fields)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()["result"]
    return row


def patched(api: Api, sys_id: str, **fields: object) -> Any:
    return api.call(
        "PATCH", f"table/change_request/{sys_id}?sysparm_exclude_reference_link=true", fields
    )


def template(instance: ServiceNow) -> str:
    return instance.rows("std_change_producer_version")[0]["sys_id"]


class TestStates:
    def test_a_new_change_has_a_number_and_what_the_platform_gives_it(self, api: Api) -> None:
        change = made(api, short_description="New router")

        assert change["number"].startswith("CHG00")
        assert (change["state"], change["type"], change["chg_model"]) == ("-5", "normal", "normal")
        assert (change["risk"], change["impact"], change["priority"]) == ("3", "3", "4")
        assert change["sys_class_name"] == "change_request"

    @pytest.mark.parametrize(
        ("kind", "path"),
        [
            ("normal", ["-4", "-3", "-2", "-1", "0", "3"]),
            ("emergency", ["-3", "-2", "-1", "0", "3"]),
            ("standard", ["-2", "-1", "0", "3"]),
        ],
    )
    def test_a_change_goes_its_way_to_the_end(self, api: Api, kind: str, path: list[str]) -> None:
        change = made(api, type=kind)

        statuses = [
            patched(api, change["sys_id"], state=state, **CLOSE).status_code for state in path
        ]

        assert set(statuses) == {200}
        closed = api.found("", "change_request")[0]
        assert (closed["state"], closed["active"]) == ("3", "false")
        assert closed["closed_at"]

    @pytest.mark.parametrize(
        ("kind", "before", "after"),
        [
            ("normal", "-5", "-1"),
            ("normal", "-5", "3"),
            ("normal", "-1", "-2"),
            ("emergency", "-5", "-4"),
            ("standard", "-5", "-3"),
            ("normal", "0", "4"),
            ("normal", "4", "-5"),
        ],
    )
    def test_a_state_that_does_not_follow_is_refused_by_the_change_model(
        self, api: Api, kind: str, before: str, after: str
    ) -> None:
        change = made(api, type=kind, state=before)

        answer = patched(api, change["sys_id"], state=after, **CLOSE)

        status, message, detail = error(answer)
        assert (status, message) == (403, "Operation Failed")
        assert detail == (
            "Operation against file 'change_request' was aborted by Business Rule "
            f"'{RULE}^{change['sys_id']}'. "
            f"Business Rule Stack:{RULE}"
        )

    def test_what_is_not_implemented_can_be_canceled(self, api: Api) -> None:
        for state in ("-5", "-4", "-3", "-2", "-1"):
            change = made(api, state=state)
            canceled = patched(api, change["sys_id"], state="4").json()["result"]

            assert (canceled["state"], canceled["active"]) == ("4", "false")

    @pytest.mark.parametrize(
        ("given", "lacking"),
        [
            ({}, "Close code, Close notes"),
            ({"close_code": "successful"}, "Close notes"),
            ({"close_notes": "x"}, "Close code"),
        ],
    )
    def test_closing_needs_a_code_and_notes(
        self, api: Api, given: dict[str, str], lacking: str
    ) -> None:
        change = made(api, state="0")

        answer = patched(api, change["sys_id"], state="3", **given)

        words = f"Data Policy Exception: The following fields are mandatory: {lacking}"
        assert error(answer) == (403, "Operation Failed", words)

    def test_a_standard_change_begins_as_its_template_says(
        self, api: Api, instance: ServiceNow
    ) -> None:
        change = made(api, type="standard", std_change_producer_version=template(instance))

        assert change["description"].startswith("Clear BGP sessions on a Cisco router")
        assert change["chg_model"] == "standard"

    def test_the_same_sys_id_twice_is_refused_for_changes_too(self, api: Api) -> None:
        made(api, sys_id=HEX, number="CHG1")

        again = api.call("POST", "table/change_request", {"sys_id": HEX, "number": "CHG2"})

        assert error(again) == (
            403,
            "Operation Failed",
            "Error during insert of change_request (CHG2)",
        )

    def test_a_change_s_priority_can_be_set(self, api: Api) -> None:
        assert made(api, priority="1", impact="3", urgency="3")["priority"] == "1"

    def test_a_task_belongs_to_its_change(self, api: Api) -> None:
        change = made(api)
        task = made(
            api, "change_task", parent=change["sys_id"], planned_start_date="2021-07-15T08:00:00"
        )

        assert task["number"].startswith("CTASK")
        assert (task["change_request"], task["state"]) == (change["sys_id"], "1")
        assert task["planned_start_date"] == "2021-07-15 08:00:00"
        closed = api.call("PATCH", f"table/change_task/{task['sys_id']}", {"state": 3}).json()[
            "result"
        ]
        assert closed["active"] == "false"

    def test_a_problem_begins_new_and_mirrors_its_state(self, api: Api) -> None:
        problem = made(
            api, "problem", short_description="x", impact=1, urgency=1, assigned_to="0" * 32
        )

        assert (problem["state"], problem["problem_state"], problem["priority"]) == (
            "101",
            "101",
            "1",
        )
        assessed = api.call(
            "PATCH", f"table/problem/{problem['sys_id']}", {"problem_state": "102"}
        ).json()["result"]
        assert (assessed["state"], assessed["active"]) == ("102", "true")


class TestChangeApi:
    @pytest.mark.parametrize("version", ["", "/v1"])
    @pytest.mark.parametrize("kind", ["normal", "emergency"])
    def test_a_change_is_made_with_200_and_every_field_in_both_forms(
        self, api: Api, version: str, kind: str
    ) -> None:
        answer = api.ask(
            "POST", f"{CHANGES}{version}/change/{kind}", {"short_description": "x", "risk": "2"}
        )

        change = answer.json()["result"]
        assert answer.status_code == 200
        assert change["state"] == {"value": "-5", "display_value": "New"}
        assert change["risk"] == {"value": "2", "display_value": "High"}
        assert change["type"]["value"] == kind
        assert change["__meta"] == {"ignoredFields": []}

    def test_what_is_not_taken_is_said(self, api: Api) -> None:
        sent = {
            "short_description": "x",
            "u_colour": "red",
            "sys_created_by": "mallory",
            "type": "emergency",
        }
        answer = api.ask("POST", f"{CHANGES}/change/normal", sent)

        change = answer.json()["result"]
        assert change["__meta"]["ignoredFields"] == ["u_colour", "sys_created_by"]
        assert change["type"]["value"] == "normal"

    def test_a_standard_change_is_made_from_a_template(
        self, api: Api, instance: ServiceNow
    ) -> None:
        [listed] = api.ask("GET", f"{CHANGES}/change/standard/template").json()["result"]
        answer = api.ask("POST", f"{CHANGES}/change/standard/{listed['sys_id']['value']}", {})

        change = answer.json()["result"]
        assert change["std_change_producer_version"] == {
            "value": template(instance),
            "display_value": "Clear BGP sessions on a Cisco router - 1",
        }
        assert change["type"]["value"] == "standard"
        assert api.ask("POST", f"{CHANGES}/change/standard/{HEX}", {}).status_code == 404

    def test_a_change_is_read_changed_and_deleted(self, api: Api) -> None:
        sys_id = api.ask("POST", f"{CHANGES}/change/normal", {}).json()["result"]["sys_id"]["value"]
        where = f"{CHANGES}/change/{sys_id}"

        changed = api.ask("PATCH", where, {"state": "-4", "no_such": 1})
        read = api.ask("GET", where)
        typed = [
            api.ask("GET", f"{CHANGES}/change/{kind}/{sys_id}").status_code
            for kind in ("normal", "emergency")
        ]
        gone = api.ask("DELETE", where)

        assert changed.json()["result"]["__meta"] == {"ignoredFields": ["no_such"]}
        assert read.json()["result"]["state"] == {"value": "-4", "display_value": "Assess"}
        assert typed == [200, 404]
        assert (gone.status_code, api.ask("GET", where).status_code) == (204, 404)

    def test_a_rule_s_words_are_in_the_message(self, api: Api) -> None:
        sys_id = api.ask("POST", f"{CHANGES}/change/normal", {}).json()["result"]["sys_id"]["value"]

        status, message, detail = error(
            api.ask("PATCH", f"{CHANGES}/change/{sys_id}", {"state": "0"})
        )

        assert (status, detail) == (403, "")
        assert message.startswith(
            "Change Request record could not be updated. Operation against file 'change_request'"
        )
        assert RULE in message

    def test_the_next_states_are_told(self, api: Api) -> None:
        sys_id = api.ask("POST", f"{CHANGES}/change/normal", {}).json()["result"]["sys_id"]["value"]

        told = api.ask("GET", f"{CHANGES}/change/{sys_id}/nextstates").json()["result"]

        assert told["available_states"] == ["-5", "-4", "4"]
        assert told["state_label"] == {"-5": "New", "-4": "Assess", "4": "Canceled"}

    def test_tasks_are_made_and_listed_under_their_change(self, api: Api) -> None:
        sys_id = api.ask("POST", f"{CHANGES}/change/normal", {}).json()["result"]["sys_id"]["value"]
        made(api, "change_task")

        task = api.ask(
            "POST", f"{CHANGES}/change/{sys_id}/task", {"short_description": "pull cable"}
        ).json()["result"]

        [listed] = api.ask("GET", f"{CHANGES}/change/{sys_id}/task").json()["result"]
        assert listed["sys_id"] == task["sys_id"]
        assert task["change_request"]["value"] == sys_id

    def test_changes_are_listed_by_type_and_by_query(self, api: Api) -> None:
        for kind in ("normal", "emergency", "emergency"):
            api.ask("POST", f"{CHANGES}/change/{kind}", {"short_description": kind})

        emergencies = api.ask("GET", f"{CHANGES}/change/emergency")
        normals = api.ask("GET", f"{CHANGES}/change?sysparm_query=type=normal")

        assert (emergencies.headers["X-Total-Count"], normals.headers["X-Total-Count"]) == (
            "2",
            "1",
        )

    def test_a_fault_waits_for_a_change_on_either_way(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("acl_403", table="change_request")

        assert api.call("POST", "table/incident", {}).status_code == 201
        assert api.ask("POST", f"{CHANGES}/change/normal", {}).status_code == 403


class TestScripts:
    """A business rule that is inserted over REST takes effect."""

    @pytest.fixture
    def rule(self, api: Api) -> dict[str, Any]:
        return made(
            api,
            "sys_script",
            name="No change without a plan",
            collection="incident",
            action_insert=True,
            action_update=True,
            filter_condition="impact=1^descriptionISEMPTY^EQ",
            abort_action=True,
        )

    def test_what_meets_its_condition_is_aborted_by_its_name(
        self, api: Api, rule: dict[str, Any]
    ) -> None:
        answer = api.call("POST", "table/incident", {"impact": 1})

        words = (
            "Operation against file 'incident' was aborted by Business Rule "
            f"'{rule['name']}^{rule['sys_id']}'. "
            f"Business Rule Stack:{rule['name']}"
        )
        assert error(answer) == (403, "Operation Failed", words)
        assert api.found("") == []

    @pytest.mark.usefixtures("rule")
    def test_an_update_is_judged_as_it_would_be_stored(self, api: Api) -> None:
        incident = api.make(impact=1, description="plan")

        assert api.patch(incident["sys_id"], description="").status_code == 403
        assert api.patch(incident["sys_id"], description="", impact=2).status_code == 200

    @pytest.mark.usefixtures("rule")
    def test_what_does_not_meet_it_and_other_tables_pass(self, api: Api) -> None:
        assert api.make(impact=2)
        assert made(api, "problem", impact=1)

    @pytest.mark.parametrize(
        "off",
        [{"active": False}, {"abort_action": False}, {"when": "after"}, {"action_insert": False}],
    )
    def test_a_rule_that_is_off_does_nothing(
        self, api: Api, rule: dict[str, Any], off: dict[str, object]
    ) -> None:
        api.call("PATCH", f"table/sys_script/{rule['sys_id']}", off)

        assert api.call("POST", "table/incident", {"impact": 1}).status_code == 201

    def test_a_condition_can_ask_what_changes(self, api: Api) -> None:
        fields = {
            "name": "Frozen",
            "collection": "incident",
            "action_update": True,
            "abort_action": True,
        }
        made(api, "sys_script", **fields, filter_condition="urgencyVALCHANGES^ORstateCHANGESTO2^EQ")
        incident = api.make()

        assert api.patch(incident["sys_id"], description="x").status_code == 200
        assert api.patch(incident["sys_id"], urgency=1).status_code == 403
        assert api.patch(incident["sys_id"], state=2).status_code == 403

    def test_a_rule_that_is_deleted_is_gone(self, api: Api, rule: dict[str, Any]) -> None:
        api.call("DELETE", f"table/sys_script/{rule['sys_id']}")

        assert api.make(impact=1)
