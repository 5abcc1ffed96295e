"""Table task, which incidents, problems, changes and their tasks extend: they are read and written
there too."""

from collections.abc import Iterator
from typing import Any

import pytest

from sandbox.servicenow import ServiceNow, UserAccount
from tests.sandbox.client import CLOSE, HEX, Api, Time, error

KINDS = ("incident", "problem", "problem_task", "change_request", "change_task")


@pytest.fixture
def tasks(api: Api) -> dict[str, dict[str, Any]]:
    """One of each kind."""
    return {
        kind: api.call(
            "POST", f"table/{kind}", {"short_description": f"a {kind}", "comments": kind}
        ).json()["result"]
        for kind in KINDS
    }


def classes(api: Api, query: str, **more: str) -> set[str]:
    return {
        row["sys_class_name"]
        for row in api.found(f"sys_created_by=svc.hasura^{query}", "task", **more)
    }


class TestRead:
    @pytest.mark.parametrize(
        ("query", "kinds"),
        [
            ("", KINDS),
            ("sys_class_name=incident", ["incident"]),
            ("sys_class_nameINincident,problem", ["incident", "problem"]),
            ("sys_class_nameINSTANCEOFtask", KINDS),
            ("short_descriptionLIKEchange", ["change_request", "change_task"]),
            ("numberSTARTSWITHPTASK", ["problem_task"]),
            ("active=true^ORDERBYDESCnumber", KINDS),
            ("u_none=1", KINDS),
        ],
    )
    def test_a_query_finds_every_kind(
        self, api: Api, tasks: object, query: str, kinds: list[str]
    ) -> None:
        assert classes(api, query) == set(kinds)

    def test_a_task_has_the_columns_of_table_task(
        self, api: Api, tasks: dict[str, dict[str, Any]]
    ) -> None:
        [row] = api.found("sys_class_name=incident", "task")

        assert row["sys_id"] == tasks["incident"]["sys_id"]
        assert (
            {"number", "sys_class_name", "opened_at", "work_notes"}
            <= row.keys()
            < tasks["incident"].keys()
        )

    def test_one_is_got_by_its_id(self, api: Api, tasks: dict[str, dict[str, Any]]) -> None:
        answer = api.call("GET", f"table/task/{tasks['change_task']['sys_id']}")

        assert answer.json()["result"]["number"] == tasks["change_task"]["number"]
        assert error(api.call("GET", f"table/task/{HEX}"))[0] == 404

    def test_states_are_called_as_in_the_record_s_own_table(self, api: Api, tasks: object) -> None:
        shown = {
            row["sys_class_name"]["value"]: row["state"]
            for row in api.found("sys_created_by=svc.hasura", "task", sysparm_display_value="all")
        }

        assert shown["incident"] == {"display_value": "New", "value": "1"}
        assert shown["problem"] == {"display_value": "New", "value": "101"}
        assert shown["change_request"] == {"display_value": "New", "value": "-5"}

    def test_a_state_can_be_asked_for_by_what_it_is_called(self, api: Api, tasks: object) -> None:
        answer = api.call("GET", "table/task?state=New&sys_created_by=svc.hasura")

        # A change's task begins as Pending, and -5 is New to a change alone.
        kinds = {row["sys_class_name"] for row in answer.json()["result"]}
        assert kinds == {"incident", "problem", "problem_task", "change_request"}

    def test_what_was_noted_is_shown_there_too(
        self, api: Api, tasks: dict[str, dict[str, Any]]
    ) -> None:
        path = f"table/task/{tasks['problem']['sys_id']}?sysparm_display_value=true"

        assert (
            api.call("GET", path)
            .json()["result"]["comments"]
            .endswith("(Additional comments)\nproblem\n\n")
        )

    def test_both_journals_are_shown_together(self, api: Api, clock: Time) -> None:
        sys_id = api.make(comments="first")["sys_id"]
        clock.now += 60
        api.patch(sys_id, work_notes="second")

        shown = api.call("GET", f"table/incident/{sys_id}?sysparm_display_value=true").json()[
            "result"
        ]

        assert shown["comments_and_work_notes"] == (
            "2026-09-21 14:14:20 - svc.hasura (Work notes)\nsecond\n\n"
            "2026-09-21 14:13:20 - svc.hasura (Additional comments)\nfirst\n\n"
        )

    def test_they_are_counted_by_their_kind(self, api: Api, tasks: object) -> None:
        query = {"sysparm_query": "sys_created_by=svc.hasura", "sysparm_count": "true"}
        answer = api.call(
            "GET", "stats/task", params=query | {"sysparm_group_by": "sys_class_name"}
        )

        counted = {
            one["groupby_fields"][0]["value"]: one["stats"]["count"]
            for one in answer.json()["result"]
        }
        assert counted == dict.fromkeys(KINDS, "1")

    def test_pages_have_each_of_them_once(self, api: Api, tasks: object) -> None:
        numbers: list[str] = []
        for offset in range(0, 6, 2):
            page = {
                "sysparm_query": "sys_created_by=svc.hasura",
                "sysparm_limit": "2",
                "sysparm_offset": str(offset),
            }
            numbers += [
                row["number"] for row in api.call("GET", "table/task", params=page).json()["result"]
            ]

        assert len(numbers) == len(set(numbers)) == 5


class TestWritten:
    def test_a_change_is_made_in_the_record_s_own_table(
        self, api: Api, instance: ServiceNow, tasks: dict[str, dict[str, Any]]
    ) -> None:
        sys_id = tasks["incident"]["sys_id"]

        answer = api.call(
            "PATCH", f"table/task/{sys_id}", {"short_description": "changed", "work_notes": "why"}
        )

        row = instance.row("incident", sys_id)
        assert row is not None
        assert answer.json()["result"]["short_description"] == row["short_description"] == "changed"
        assert row["sys_mod_count"] == "1"
        assert [entry["name"] for entry in instance.rows("sys_journal_field")][-1] == "incident"

    def test_the_rules_are_those_of_the_record_s_own_table(
        self, api: Api, tasks: dict[str, dict[str, Any]]
    ) -> None:
        sys_id = tasks["incident"]["sys_id"]

        assert error(api.call("PATCH", f"table/task/{sys_id}", {"state": "6"}))[0] == 403
        assert (
            api.call("PUT", f"table/task/{sys_id}", {"state": "6", **CLOSE}).json()["result"][
                "state"
            ]
            == "6"
        )

    def test_a_task_is_deleted(
        self, api: Api, instance: ServiceNow, tasks: dict[str, dict[str, Any]]
    ) -> None:
        assert (
            api.call("DELETE", f"table/task/{tasks['change_request']['sys_id']}").status_code == 204
        )

        assert instance.rows("change_request") == []
        assert error(api.call("DELETE", f"table/task/{HEX}"))[0] == 404

    def test_a_task_that_is_nothing_else_is_501(self, api: Api) -> None:
        assert error(api.call("POST", "table/task", {"short_description": "x"}))[0] == 501


class TestRights:
    @pytest.fixture
    def instance(self, clock: Time) -> Iterator[ServiceNow]:
        held: dict[str, tuple[str, ...]] = {
            "reader": ("sn_incident_read",),
            "agent": ("itil",),
            "nobody": (),
        }
        users = [UserAccount(name, "x", roles) for name, roles in held.items()]
        with ServiceNow(clock=clock, users=users) as running:
            yield running

    def as_user(self, api: Api, name: str, method: str, path: str, body: object = None) -> Any:
        return api.call(method, path, body, auth=(name, "x"))

    def test_one_sees_what_may_be_read_in_its_own_table(
        self, api: Api, tasks: dict[str, dict[str, Any]]
    ) -> None:
        seen = {
            name: {
                row["sys_class_name"]
                for row in self.as_user(
                    api, name, "GET", "table/task?sys_created_by=svc.hasura"
                ).json()["result"]
            }
            for name in ("reader", "agent", "nobody")
        }

        assert seen == {"reader": {"incident"}, "agent": set(KINDS), "nobody": set()}
        path = f"table/task/{tasks['problem']['sys_id']}"
        assert self.as_user(api, "reader", "GET", path).status_code == 404

    def test_one_writes_what_may_be_written_in_its_own_table(
        self, api: Api, tasks: dict[str, dict[str, Any]]
    ) -> None:
        path = f"table/task/{tasks['incident']['sys_id']}"

        assert self.as_user(api, "reader", "PATCH", path, {"impact": "1"}).status_code == 403
        assert self.as_user(api, "agent", "PATCH", path, {"impact": "1"}).status_code == 200

    def test_all_are_counted_by_who_may_read_all(self, api: Api) -> None:
        codes = [
            self.as_user(api, name, "GET", "stats/task?sysparm_count=true").status_code
            for name in ("reader", "agent")
        ]

        assert codes == [403, 200]
