"""The Aggregate API: counts, sums, averages and extremes, by groups."""

from typing import Any

import pytest

from sandbox.servicenow import ServiceNow, UserAccount
from tests.sandbox.client import CLOSE, Api, Time, error, group


@pytest.fixture
def six(api: Api, instance: ServiceNow, clock: Time) -> Api:
    """Six incidents, a minute apart: two of the Network, one resolved, three with an
    impact of 1."""
    network = group(instance, "Network")
    rows: list[dict[str, Any]] = [
        {"impact": 1, "urgency": 1},
        {"impact": 1, "urgency": 2, "assignment_group": network},
        {"impact": 1, "urgency": 3},
        {"impact": 2, "urgency": 3, "assignment_group": network},
        {"impact": 3, "urgency": 3, "state": 6, **CLOSE},
        {"impact": 3, "urgency": 3},
    ]
    for number, fields in enumerate(rows):
        api.make(number=f"INC{number}", **fields)
        clock.now += 60
    return api


def told(api: Api, table: str = "incident", version: str = "", **asked: str) -> Any:
    answer = api.call(
        "GET",
        f"{version}stats/{table}",
        params={f"sysparm_{name}": value for name, value in asked.items()},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def counts(api: Api, **asked: str) -> list[tuple[str, ...]]:
    """The values of each group and how many are in it."""
    groups = told(api, count="true", **asked)
    return [
        (*(field["value"] for field in one["groupby_fields"]), one["stats"]["count"])
        for one in groups
    ]


class TestAll:
    @pytest.mark.parametrize("version", ["", "v1/", "v2/"])
    def test_records_are_counted(self, six: Api, version: str) -> None:
        assert told(six, version=version, count="true") == {"stats": {"count": "6"}}

    def test_a_query_chooses_them(self, six: Api) -> None:
        assert told(six, count="true", query="impact=1^ORimpact=2") == {"stats": {"count": "4"}}

    def test_plain_pairs_choose_them_too(self, six: Api) -> None:
        answer = six.call("GET", "stats/incident?sysparm_count=true&state=resolved")

        assert answer.json()["result"] == {"stats": {"count": "1"}}

    def test_figures_are_of_the_columns_that_are_named(self, six: Api) -> None:
        asked = {
            "sum_fields": "impact,urgency",
            "avg_fields": "impact",
            "min_fields": "opened_at,impact",
        }

        assert told(six, count="true", max_fields="opened_at,number", **asked) == {
            "stats": {
                "count": "6",
                "sum": {"impact": "11", "urgency": "15"},
                "avg": {"impact": "1.8333"},
                "min": {"opened_at": "2026-09-21 14:13:20", "impact": "1"},
                "max": {"opened_at": "2026-09-21 14:18:20", "number": "INC5"},
            }
        }

    def test_nothing_asked_is_nothing_told(self, six: Api) -> None:
        assert told(six) == {"stats": {}}
        assert told(six, count="false") == {"stats": {}}

    def test_of_no_records_there_is_a_count_alone(self, six: Api) -> None:
        stats = told(
            six, count="true", query="number=X", avg_fields="impact", max_fields="opened_at"
        )

        assert stats == {"stats": {"count": "0", "avg": {"impact": ""}, "max": {"opened_at": ""}}}

    def test_what_is_empty_is_no_value(self, six: Api) -> None:
        stats = told(six, min_fields="resolved_at,hold_reason", avg_fields="hold_reason")["stats"]

        assert stats == {
            "min": {"resolved_at": "2026-09-21 14:17:20", "hold_reason": ""},
            "avg": {"hold_reason": ""},
        }

    def test_a_column_that_there_is_not_is_ignored(self, six: Api) -> None:
        assert told(six, count="true", sum_fields="u_none,impact.x", group_by="u_none") == {
            "stats": {"count": "6"}
        }

    @pytest.mark.parametrize("function", ["sum", "avg"])
    def test_a_sum_of_what_is_no_number_is_501(self, six: Api, function: str) -> None:
        answer = six.call("GET", f"stats/incident?sysparm_{function}_fields=short_description")

        assert error(answer)[0] == 501
        assert f"{function} of short_description" in str(error(answer)[2])


class TestGroups:
    def test_groups_have_their_values_and_their_figures(self, six: Api) -> None:
        assert told(six, count="true", group_by="impact", avg_fields="urgency") == [
            {
                "stats": {"count": "3", "avg": {"urgency": "2.0000"}},
                "groupby_fields": [{"value": "1", "field": "impact"}],
            },
            {
                "stats": {"count": "1", "avg": {"urgency": "3.0000"}},
                "groupby_fields": [{"value": "2", "field": "impact"}],
            },
            {
                "stats": {"count": "2", "avg": {"urgency": "3.0000"}},
                "groupby_fields": [{"value": "3", "field": "impact"}],
            },
        ]

    def test_several_columns_make_a_group(self, six: Api) -> None:
        assert counts(six, group_by="impact,state") == [
            ("1", "1", "3"),
            ("2", "1", "1"),
            ("3", "1", "1"),
            ("3", "6", "1"),
        ]

    @pytest.mark.parametrize("display", ["true", "all"])
    def test_groups_are_shown_as_people_see_them(
        self, six: Api, instance: ServiceNow, display: str
    ) -> None:
        groups = told(
            six, count="true", group_by="assignment_group", display_value=display, order_by="COUNT"
        )
        states = told(six, count="true", group_by="state", display_value=display)

        assert [one["groupby_fields"] for one in groups] == [
            [
                {
                    "display_value": "Network",
                    "value": group(instance, "Network"),
                    "field": "assignment_group",
                }
            ],
            [{"display_value": "", "value": "", "field": "assignment_group"}],
        ]
        assert [one["groupby_fields"][0]["display_value"] for one in states] == ["New", "Resolved"]

    def test_a_dotted_column_makes_groups(self, six: Api) -> None:
        assert counts(six, group_by="assignment_group.name") == [("", "4"), ("Network", "2")]
        shown = told(six, count="true", group_by="assignment_group.active", display_value="all")
        assert shown[1]["groupby_fields"] == [
            {"display_value": "true", "value": "true", "field": "assignment_group.active"}
        ]

    @pytest.mark.parametrize(
        ("having", "impacts"),
        [
            ("count^impact^>^1", "13"),
            ("count^impact^=^1", "2"),
            ("count^impact^!=^1", "13"),
            ("count^impact^>=^2,avg^urgency^<^3", "1"),
            ("COUNT^impact^>^10", ""),
            ("sum^urgency^<=^3", "2"),
            ("avg^urgency^>^2.5", "23"),
            ("min^urgency^=^1", "1"),
            ("max^number^>=^INC4", "3"),
            ("count^u_none^>^10", "123"),
            ("", "123"),
        ],
    )
    def test_having_chooses_groups(self, six: Api, having: str, impacts: str) -> None:
        assert (
            "".join(value for value, _ in counts(six, group_by="impact", having=having)) == impacts
        )

    def test_having_holds_for_all_as_for_a_group(self, six: Api) -> None:
        assert told(six, count="true", having="count^impact^>^5") == {"stats": {"count": "6"}}
        assert told(six, count="true", having="count^impact^>^6") == {"stats": {}}

    @pytest.mark.parametrize(
        "having", ["count", "count^impact^>", "median^impact^>^1", "count^impact^LIKE^1", "^^^"]
    )
    def test_having_that_is_none_is_400(self, six: Api, having: str) -> None:
        answer = six.call(
            "GET", "stats/incident", params={"sysparm_group_by": "impact", "sysparm_having": having}
        )

        assert error(answer)[:2] == (400, "Invalid having clause")

    @pytest.mark.parametrize(
        ("order", "impacts"),
        [
            ("COUNT", "231"),
            ("COUNT^DESC", "132"),
            ("impact^DESC", "321"),
            ("AVG^urgency", "123"),
            ("AVG^urgency^DESC", "231"),
            ("MAX^number^DESC", "321"),
            ("AVG^urgency^DESC,COUNT^DESC", "321"),
            ("u_none", "123"),
            ("AVG^u_none", "123"),
            ("number", "123"),
        ],
    )
    def test_groups_come_in_the_order_that_is_asked(
        self, six: Api, order: str, impacts: str
    ) -> None:
        assert (
            "".join(value for value, _ in counts(six, group_by="impact", order_by=order)) == impacts
        )

    def test_numbers_come_in_the_order_of_numbers(self, api: Api) -> None:
        made = [
            api.call("POST", "table/change_request", {}).json()["result"]["sys_id"]
            for _ in range(2)
        ]
        api.call("PATCH", f"table/change_request/{made[0]}", {"state": "-4"})

        groups = told(api, "change_request", count="true", group_by="state")

        assert [one["groupby_fields"][0]["value"] for one in groups] == ["-5", "-4"]


class TestRefused:
    def test_a_table_that_there_is_not_is_400(self, api: Api) -> None:
        assert error(api.call("GET", "stats/nothing")) == (400, "Invalid table nothing", None)

    def test_it_is_read_only(self, api: Api) -> None:
        assert error(api.call("POST", "stats/incident", {}))[0] == 405

    def test_a_query_that_is_not_known_is_501(self, api: Api) -> None:
        assert error(api.call("GET", "stats/incident?sysparm_query=numberMATCH_RGX1"))[0] == 501

    def test_who_may_not_read_every_record_is_told_nothing(self, clock: Time) -> None:
        users = [UserAccount("a", "x", ()), UserAccount("b", "x", ("itil",))]
        with ServiceNow(clock=clock, users=users) as instance:
            codes = {}
            for name in ("a", "b"):
                api = Api(instance)
                api.session.auth = (name, "x")
                with api.session:
                    codes[name] = api.call("GET", "stats/incident?sysparm_count=true").status_code

        assert codes == {"a": 403, "b": 200}

    def test_it_answers_in_xml_too(self, six: Api) -> None:
        answer = six.call(
            "GET",
            "stats/incident?sysparm_count=true&sysparm_group_by=state",
            headers={"Accept": "application/xml"},
        )

        assert answer.text.partition("\n")[2] == (
            "<response><result><stats><count>5</count></stats><groupby_fields><value>1</value><field>state</field></groupby_fields></result><result><stats><count>1</count></stats><groupby_fields><value>6</value><field>state</field></groupby_fields></result></response>"
        )
