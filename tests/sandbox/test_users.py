"""Several users sign in, each with rights that follow the roles; and how they are named on the
command line."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from sandbox.oauth import JWT_BEARER
from sandbox.roles import held_roles
from sandbox.servicenow import ServiceNow, UserAccount
from tests.sandbox.client import HEX, Api, Time, error, group, user
from tests.sandbox.test_login import jwt, token, with_token

USERS = (
    UserAccount("admin", "1"),
    UserAccount("itil", "2"),
    UserAccount("reader", "3", ("sn_incident_read",)),
    UserAccount("writer", "4", ("sn_incident_write",)),
    UserAccount("manager", "5", ("change_manager",)),
    UserAccount("employee", "6", ()),
    UserAccount("agent", "7", ("sn_service_desk_agent", "of_my_own")),
)
PASSWORDS = {account.name: account.password for account in USERS}
FORBIDDEN = "ACL Exception {} Failed due to security constraints"


@pytest.fixture
def instance(clock: Time) -> Iterator[ServiceNow]:
    with ServiceNow(clock=clock, users=USERS) as running:
        yield running


@pytest.fixture
def people(instance: ServiceNow) -> Iterator[dict[str, Api]]:
    with ExitStack() as opened:
        apis = {}
        for name, password in PASSWORDS.items():
            apis[name] = Api(instance)
            apis[name].session.auth = (name, password)
            opened.enter_context(apis[name].session)
        yield apis


def status(api: Api, method: str, table: str) -> int:
    """What one gets for doing this to a record, or for making one."""
    rows = api.instance.rows(table)
    path = f"table/{table}" if method in {"GET", "POST"} else f"table/{table}/{rows[0]['sys_id']}"
    return api.call(method, path, None if method == "GET" else {}).status_code


class TestSignIn:
    def test_everybody_is_who_they_sign_in_as(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        made = {
            name: api.make() for name, api in people.items() if name in {"admin", "itil", "writer"}
        }

        assert {name: row["sys_created_by"] for name, row in made.items()} == {
            name: name for name in made
        }
        assert {row["opened_by"] for row in made.values()} == {
            user(instance, name) for name in made
        }

    def test_one_s_password_is_not_another_s(self, people: dict[str, Api]) -> None:
        people["itil"].session.auth = ("itil", PASSWORDS["admin"])

        assert error(people["itil"].call("GET", "table/incident"))[0] == 401

    def test_a_query_speaks_of_who_asks(self, people: dict[str, Api]) -> None:
        for name in ("itil", "writer"):
            people[name].make(short_description=name)

        mine = people["itil"].found("opened_by=javascript:gs.getUserID()")

        assert [row["short_description"] for row in mine] == ["itil"]

    def test_a_query_speaks_of_the_groups_of_who_asks(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        database = group(instance, "Database")
        members = {"group": database, "user": user(instance, "itil")}
        people["admin"].call("POST", "table/sys_user_grmember", members)
        people["admin"].make(assignment_group=database)
        people["admin"].make(assignment_group=group(instance, "Network"))

        for query in (
            "assignment_groupDYNAMICd6435e965f510100a9ad2572f2b47744",
            "assignment_groupINjavascript:gs.getUser().getMyGroups()",
        ):
            assert [row["assignment_group"]["value"] for row in people["itil"].found(query)] == [
                database
            ]

    def test_failures_lock_the_one_who_failed(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        people["itil"].session.auth = ("itil", "wrong")
        for _ in range(5):
            people["itil"].call("GET", "table/incident")
        people["itil"].session.auth = ("itil", PASSWORDS["itil"])

        assert people["itil"].call("GET", "table/incident").status_code == 401
        assert people["reader"].call("GET", "table/incident").status_code == 200
        instance.unlock()
        assert people["itil"].call("GET", "table/incident").status_code == 200

    @pytest.mark.parametrize("fields", [{"active": "false"}, {"locked_out": "true"}])
    def test_who_is_not_active_or_locked_out_does_not_sign_in(
        self, people: dict[str, Api], instance: ServiceNow, fields: dict[str, str]
    ) -> None:
        bought = token(instance, "password", username="itil", password="2").json()["access_token"]
        people["admin"].call("PATCH", f"table/sys_user/{user(instance, 'itil')}", fields)

        assert people["itil"].call("GET", "table/incident").status_code == 401
        assert with_token(instance, bought).status_code == 401

    @pytest.mark.parametrize("grant", ["password", JWT_BEARER])
    def test_a_token_is_for_the_user_who_bought_it(
        self, instance: ServiceNow, clock: Time, grant: str
    ) -> None:
        asked: dict[str, str] = (
            {"username": "writer", "password": "4"}
            if grant == "password"
            else {"assertion": jwt(instance, clock.now, sub="writer")}
        )
        bought = token(instance, grant, **asked).json()
        made = as_bearer(instance, bought["access_token"])

        assert made["sys_created_by"] == "writer"
        if grant == "password":
            again = token(instance, "refresh_token", refresh_token=bought["refresh_token"]).json()
            assert as_bearer(instance, again["access_token"])["sys_created_by"] == "writer"

    def test_two_users_have_two_tokens(self, instance: ServiceNow) -> None:
        tokens = [
            token(instance, "password", username=n, password=PASSWORDS[n]).json()
            for n in ("itil", "writer")
        ]

        assert len({told["access_token"] for told in tokens}) == 2

    def test_nobody_gets_a_token_for_one_who_may_not_sign_in(
        self, instance: ServiceNow, clock: Time
    ) -> None:
        answer = token(instance, JWT_BEARER, assertion=jwt(instance, clock.now, sub="beth.anglin"))

        assert answer.status_code == 401

    def test_two_users_of_one_name_are_refused(self) -> None:
        for name in ("svc.hasura", "a"):
            with pytest.raises(ValueError, match="one name"):
                ServiceNow(users=[UserAccount("a", "x"), UserAccount(name, "y")])

    def test_an_item_of_a_batch_is_of_who_sent_the_batch(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        item = {"id": "a", "method": "POST", "url": "/api/now/table/incident", "body": ""}
        people["writer"].call("POST", "batch", {"batch_request_id": "1", "rest_requests": [item]})

        assert [row["sys_created_by"] for row in instance.rows("incident")] == ["writer"]


def as_bearer(instance: ServiceNow, bearer: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {bearer}"}
    answer = requests.post(f"{instance.url}/api/now/table/incident", headers=headers, timeout=5)
    made: dict[str, Any] = answer.json()["result"]
    return made


class TestRoles:
    @pytest.mark.parametrize(
        ("table", "method", "who"),
        [
            ("incident", "POST", "admin itil reader writer manager employee agent"),
            ("incident", "PATCH", "admin itil writer manager agent"),
            ("incident", "DELETE", "admin"),
            ("problem", "GET", "admin itil manager agent"),
            ("problem", "POST", "admin itil manager agent"),
            ("change_request", "GET", "admin itil manager agent"),
            ("change_request", "POST", "admin itil manager agent"),
            ("change_request", "PATCH", "admin itil manager agent"),
            ("change_request", "DELETE", "admin manager"),
            ("sys_user", "GET", "admin itil reader writer manager employee agent"),
            ("sys_user", "PATCH", "admin"),
            ("sys_user_has_role", "POST", "admin"),
            ("sys_choice", "GET", "admin itil reader writer manager agent"),
            ("sys_script", "GET", "admin"),
            ("sys_script", "POST", "admin"),
        ],
    )
    def test_a_role_allows(self, people: dict[str, Api], table: str, method: str, who: str) -> None:
        allowed = []
        for name, api in people.items():
            if table in {"incident", "change_request"}:
                people["admin"].call("POST", f"table/{table}", {})
            if status(api, method, table) < 300:
                allowed.append(name)

        assert allowed == who.split()

    def test_what_a_role_does_not_allow_is_said_as_an_acl_does(
        self, people: dict[str, Api]
    ) -> None:
        sys_id = people["admin"].make()["sys_id"]

        reader = people["reader"]
        refused = (403, "Operation Failed", FORBIDDEN.format("Update"))
        assert error(reader.call("PATCH", f"table/incident/{sys_id}", {})) == refused
        assert error(reader.call("DELETE", f"table/incident/{sys_id}"))[2] == FORBIDDEN.format(
            "Delete"
        )
        assert error(reader.call("GET", "table/problem")) == (
            403,
            "Insufficient rights to query records",
            None,
        )
        assert error(reader.call("GET", f"table/problem/{HEX}"))[:2] == (404, "No Record found")

    def test_who_has_no_role_sees_the_own_incidents_alone(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        employee = people["employee"]
        opened = employee.make(short_description="opened")["sys_id"]
        called = people["itil"].make(caller_id=user(instance, "employee"))["sys_id"]
        other = people["itil"].make()["sys_id"]

        answer = employee.call("GET", "table/incident")

        assert [row["sys_id"] for row in answer.json()["result"]] == [opened, called]
        # The count, and the limit, are from before the access controls.
        assert answer.headers["X-Total-Count"] == "3"
        assert employee.call("GET", f"table/incident/{called}").status_code == 200
        assert error(employee.call("GET", f"table/incident/{other}"))[0] == 404

    def test_files_are_read_and_written_as_their_records(self, people: dict[str, Api]) -> None:
        sys_id = people["admin"].make()["sys_id"]
        named = {"file_name": "a", "table_name": "incident", "table_sys_id": sys_id}

        made = {
            name: api.call("POST", "attachment/file", params=named, data=b"x").status_code
            for name, api in people.items()
        }

        assert [name for name, code in made.items() if code == 201] == [
            "admin",
            "itil",
            "writer",
            "manager",
            "agent",
        ]
        kept = people["admin"].call("GET", "attachment").json()["result"]
        listed = {
            name: len(api.call("GET", "attachment").json()["result"])
            for name, api in people.items()
        }
        assert listed == {name: 0 if name == "employee" else 5 for name in people}
        path = f"attachment/{kept[0]['sys_id']}"
        assert people["reader"].call("GET", f"{path}/file").content == b"x"
        assert people["employee"].call("GET", f"{path}/file").status_code == 404
        assert people["reader"].call("DELETE", path).status_code == 403
        assert people["writer"].call("DELETE", path).status_code == 204

    def test_rights_change_with_the_roles(
        self, people: dict[str, Api], instance: ServiceNow
    ) -> None:
        employee, admin = people["employee"], people["admin"]
        [role] = admin.found("name=itil", "sys_user_role")
        assert employee.call("GET", "table/problem").status_code == 403

        held = {"user": user(instance, "employee"), "role": role["sys_id"]}
        made = admin.call("POST", "table/sys_user_has_role", held).json()["result"]
        assert employee.call("GET", "table/problem").status_code == 200

        admin.call("DELETE", f"table/sys_user_has_role/{made['sys_id']}")
        assert employee.call("GET", "table/problem").status_code == 403

    def test_a_group_hands_its_roles_on(self, people: dict[str, Api], instance: ServiceNow) -> None:
        members = {"group": group(instance, "Network"), "user": user(instance, "reader")}
        people["admin"].call("POST", "table/sys_user_grmember", members)

        # The demo data gives Network the role of an administrator.
        assert people["reader"].call("GET", "table/sys_script").status_code == 200

    def test_the_change_management_api_asks_for_the_roles_on_its_page(
        self, people: dict[str, Api]
    ) -> None:
        made = (
            people["itil"]
            .ask("POST", "/api/sn_chg_rest/change/normal", {})
            .json()["result"]["sys_id"]["value"]
        )

        assert people["reader"].ask("POST", "/api/sn_chg_rest/change/normal", {}).status_code == 403
        assert people["itil"].ask("DELETE", f"/api/sn_chg_rest/change/{made}").status_code == 403
        assert people["manager"].ask("DELETE", f"/api/sn_chg_rest/change/{made}").status_code == 204

    def test_the_integration_user_has_the_rights_that_it_was_given(
        self, api: Api, instance: ServiceNow
    ) -> None:
        assert api.call("GET", "table/sys_script").status_code == 200

    def test_roles_bring_others_with_them(self) -> None:
        assert held_roles(["sn_service_desk_agent"]) >= {
            "sn_incident_read",
            "sn_problem_write",
            "sn_change_read",
        }
        assert held_roles(["sn_incident_admin"]) == {
            "sn_incident_admin",
            "incident_manager",
            "itil",
        }


class TestTimeZones:
    def test_everybody_has_a_time_zone_of_their_own(self, clock: Time) -> None:
        users = [UserAccount("a", "x", ("itil",), "Asia/Tokyo"), UserAccount("admin", "x")]
        with ServiceNow(clock=clock, users=users) as instance:
            shown = {}
            for name in ("a", "admin"):
                api = Api(instance)
                api.session.auth = (name, "x")
                with api.session:
                    made = api.call("POST", "table/incident?sysparm_display_value=true", {}).json()[
                        "result"
                    ]
                shown[name] = made["opened_at"]

        # The administrator of the demo data is in Los Angeles.
        assert shown == {"a": "2026-09-21 23:13:20", "admin": "2026-09-21 07:13:20"}


class TestCommandLine:
    def run(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "sandbox.servicenow", "--port", "0", *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_its_page_names_every_option(self) -> None:
        with self.run("--help") as process:
            told, _ = process.communicate(timeout=20)

        page = (Path(__file__).resolve().parents[2] / "docs" / "sandbox.md").read_text("utf-8")
        options = set(re.findall(r"--[a-z][a-z-]+", told)) - {"--help"}
        assert len(options) == 14
        assert {option for option in options if f"`{option}" not in page} == set()

    def test_users_and_a_time_zone_can_be_named(self) -> None:
        arguments = (
            "--user",
            "admin",
            "--user",
            "ida:s3cret:itil,of_my_own",
            "--user",
            "ess:x:",
            "--time-zone",
            "Asia/Tokyo",
        )
        with self.run(*arguments) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(5)]
            try:
                [url] = re.findall(r"http://127\.0\.0\.1:\d+", said[0])
                answers = {
                    name: requests.post(
                        f"{url}/api/now/table/incident?sysparm_display_value=all",
                        auth=(name, password),
                        timeout=5,
                    ).json()["result"]
                    for name, password in (("admin", "sandbox"), ("ida", "s3cret"), ("ess", "x"))
                }
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0

        assert said[2:] == [
            "User admin, password sandbox; roles: admin\n",
            "User ida, password s3cret; roles: itil, of_my_own\n",
            "User ess, password x; roles: none\n",
        ]
        for name, made in answers.items():
            assert made["sys_created_by"]["value"] == name
            assert made["opened_at"]["display_value"] != made["opened_at"]["value"]

    def test_it_answers_https_with_a_certificate(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        file, trusted = tmp_path / "server.pem", tmp_path / "ca.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(file))
        authority.cert_pem.write_to_path(str(trusted))
        with self.run("--certificate", str(file)) as process:
            assert process.stdout is not None
            [url] = re.findall(r"https://127\.0\.0\.1:\d+", process.stdout.readline())
            try:
                with requests.Session() as session:
                    session.trust_env = False
                    answer = session.get(
                        f"{url}/api/now/table/incident",
                        auth=("svc.hasura", "sandbox"),
                        verify=str(trusted),
                        timeout=5,
                    )
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0

        assert json.loads(answer.text) == {"result": []}

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--user", ""), "say NAME"),
            (("--user", ":x"), "say NAME"),
            (("--user", "svc.hasura"), "the integration user's"),
            (("--user", "a", "--user", "a"), "Two users have one name"),
            (("--time-zone", "Mars/Olympus"), "there is no time zone 'Mars/Olympus'"),
            (("--certificate", "/nowhere/x.pem"), "cannot be used: No such file"),
            (("--certificate", "README.md"), "cannot be used"),
        ],
    )
    def test_what_cannot_be_is_said(self, arguments: tuple[str, ...], said: str) -> None:
        with self.run(*arguments) as process:
            _, told = process.communicate(timeout=20)

        assert process.returncode in {1, 2}
        assert said in told
        assert "Traceback" not in told
