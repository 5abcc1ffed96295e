"""Comments and work notes, as people see them: the Table API gives them as display values alone."""

from typing import Any

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import HEX, Api, Time


@pytest.fixture
def noted(api: Api, instance: ServiceNow, clock: Time) -> Api:
    """Three entries, of two people, a minute apart."""
    api.make(sys_id=HEX, comments="It burns")
    clock.now += 60
    instance.change("incident", HEX, work_notes="Called the\n\nfire brigade")
    clock.now += 60
    api.patch(HEX, comments="It is out", work_notes="Cost: 300")
    return api


def got(api: Api, display: str, path: str = "table/incident", **more: str) -> dict[str, Any]:
    answer = api.call("GET", f"{path}/{HEX}", params={"sysparm_display_value": display, **more})
    found: dict[str, Any] = answer.json()["result"]
    return found


COMMENTS = (
    "2026-09-21 14:15:20 - svc.hasura (Additional comments)\nIt is out\n\n"
    "2026-09-21 14:13:20 - svc.hasura (Additional comments)\nIt burns\n\n"
)
NOTES = (
    "2026-09-21 14:15:20 - svc.hasura (Work notes)\nCost: 300\n\n"
    "2026-09-21 14:14:20 - System Administrator (Work notes)\nCalled the\n\nfire brigade\n\n"
)


class TestJournal:
    def test_display_values_have_the_entries_with_the_newest_first(self, noted: Api) -> None:
        shown = got(noted, "true")

        assert (shown["comments"], shown["work_notes"]) == (COMMENTS, NOTES)

    def test_both_forms_have_them_as_the_display_value(self, noted: Api) -> None:
        shown = got(noted, "all")

        assert shown["comments"] == {"display_value": COMMENTS, "value": ""}
        assert shown["work_notes"] == {"display_value": NOTES, "value": ""}

    def test_values_are_empty(self, noted: Api) -> None:
        plain = got(noted, "false")

        assert (plain["comments"], plain["work_notes"]) == ("", "")

    def test_a_list_has_them_too_and_of_each_record_its_own(self, noted: Api) -> None:
        noted.make(number="INC2", comments="Another one")

        rows = noted.found("ORDERBYnumber", sysparm_fields="comments", sysparm_display_value="true")

        assert sorted(row["comments"].count("\n\n") for row in rows) == [1, 2]

    def test_a_record_without_entries_has_an_empty_text(self, api: Api) -> None:
        api.make(sys_id=HEX)

        assert got(api, "all")["comments"] == {"display_value": "", "value": ""}

    def test_the_answer_to_a_write_has_the_new_entry(self, api: Api, instance: ServiceNow) -> None:
        api.make(sys_id=HEX)

        answer = api.call(
            "PATCH", f"table/incident/{HEX}?sysparm_display_value=true", {"comments": "Now"}
        )

        assert answer.json()["result"]["comments"].endswith("(Additional comments)\nNow\n\n")
        assert instance.row("incident", HEX) is not None

    def test_entries_of_one_second_are_in_the_order_in_which_they_came(self, api: Api) -> None:
        api.make(sys_id=HEX)
        for text in ("first", "second"):
            api.patch(HEX, comments=text)

        assert [
            line for line in got(api, "true")["comments"].split("\n") if "-" not in line and line
        ] == [
            "second",
            "first",
        ]

    def test_a_dotted_field_leads_to_another_record_s_entries(self, noted: Api) -> None:
        child = noted.make(parent_incident=HEX)

        shown = noted.found(
            f"sys_id={child['sys_id']}",
            sysparm_fields="parent_incident.comments,problem_id.comments",
            sysparm_display_value="true",
        )

        assert shown == [{"parent_incident.comments": COMMENTS, "problem_id.comments": ""}]

    def test_the_change_management_api_shows_them(self, api: Api) -> None:
        made = api.ask("POST", "/api/sn_chg_rest/change/normal", {"work_notes": "Planned"}).json()[
            "result"
        ]

        assert made["work_notes"]["value"] == ""
        assert made["work_notes"]["display_value"].endswith(
            " - svc.hasura (Work notes)\nPlanned\n\n"
        )

    def test_times_are_of_the_time_zone_of_who_reads(self, clock: Time) -> None:
        with (
            ServiceNow(clock=clock, time_zone="Asia/Tokyo") as instance,
            Api(instance).session as session,
        ):
            api = Api(instance)
            api.session = session
            api.make(sys_id=HEX, comments="It burns")

            assert got(api, "true")["comments"].startswith("2026-09-21 23:13:20 - ")
