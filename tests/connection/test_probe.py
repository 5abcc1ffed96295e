"""The connection test: a sentence for everything that can be wrong, no record made, and no account
locked."""

import json
import logging
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from function.connection import probe
from function.connection.probe import reach, try_out
from function.servicenow import Basic
from sandbox.rest import Rights
from sandbox.servicenow import ServiceNow
from tests.answers import Answer, Seen, Server, always, http, result
from tests.payloads import insert
from tests.world import PASSWORD, STORED_PASSWORD, Answered, World, outage

USER = Basic("svc.hasura", PASSWORD)
SYS_ID = "0123456789abcdef0123456789abcdef"


def a_test(world: World, sent: object = None) -> Answered:
    return world.operate("POST", "test", sent)


def message(world: World, sent: object = None) -> str:
    """What the operator is told of a test that failed."""
    answer = a_test(world, sent)
    assert (answer.status, answer.body["success"]) == (200, False), answer
    return str(answer.body["message"])


def error(status: int, message: str, detail: str = "") -> bytes:
    return http(
        status, json.dumps({"error": {"message": message, "detail": detail}, "status": "failure"})
    )


def instance(*, roles: bytes | None = None) -> Answer:
    """An instance of one incident, that answers a query for roles by *roles*."""

    def answer(sock: socket.socket, seen: Seen) -> bool:
        path = seen.target.partition("?")[0]
        if path.endswith("/incident"):
            sock.sendall(result([{"sys_id": SYS_ID}]))
        else:
            refused = error(403, "Insufficient rights to query records")
            sock.sendall(roles or refused if path.endswith("/sys_user_has_role") else refused)
        return True

    return answer


def tried(
    answer: Answer, *, user: Basic = USER, seconds: float = 5.0
) -> tuple[probe.TestReport, list[str]]:
    """What became of a test against *answer*, and the methods that were called."""
    with Server(answer) as server:
        found = try_out(
            server.url, user, username=user.username, tables=["incident"], timeout_seconds=seconds
        )
        return found, [seen.method for seen in server.seen]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def tls(
    authority: trustme.CA, name: str = "127.0.0.1", *, not_after: datetime | None = None
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return context


class TestTheWayThere:
    def test_an_unknown_name(self) -> None:
        assert reach("https://no-such-host.invalid", timeout_seconds=5).startswith(
            "The host name no-such-host.invalid is not known"
        )

    def test_a_refused_connection(self) -> None:
        port = closed_port()

        assert reach(f"http://127.0.0.1:{port}", timeout_seconds=5).startswith(
            f"127.0.0.1 refuses connections to port {port}"
        )

    def test_nobody_who_answers(self) -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):  # fill its queue
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(listener.getsockname())
            port = listener.getsockname()[1]

            assert f"does not answer on port {port} in time" in reach(
                f"http://127.0.0.1:{port}", timeout_seconds=0.3
            )

    def test_a_certificate_that_nobody_vouches_for(self) -> None:
        with Server(always(b""), tls(trustme.CA())) as server:
            assert "self-signed" in reach(server.url, timeout_seconds=5)
            assert server.seen == []

    @pytest.mark.parametrize(
        ("name", "expired", "said"),
        [
            ("127.0.0.1", False, ""),
            ("127.0.0.1", True, "has expired"),
            ("127.0.0.2", False, "is for another address"),
            ("other.example.com", False, "is for another address"),
        ],
    )
    def test_a_certificate_that_somebody_vouches_for(
        self, tmp_path: Path, name: str, expired: bool, said: str
    ) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = tls(
            authority, name, not_after=datetime.now(UTC) - timedelta(days=1) if expired else None
        )
        with Server(always(b""), context) as server:
            trouble = reach(server.url, timeout_seconds=5, ca_file=str(tmp_path / "ca.pem"))

            assert said in trouble if said else trouble == ""

    def test_no_tls_where_tls_is_wanted(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

            def answer() -> None:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(1)
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

            pool.submit(answer)

            assert "speaks no TLS" in reach(
                f"https://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=5
            )


class TestWhatServiceNowSays:
    def test_each_trouble_has_a_sentence_of_its_own_and_makes_no_record(self) -> None:
        said: dict[str, str] = {}
        with World(SERVICENOW_TIMEOUT_SECONDS="1") as world, ExitStack() as stack:
            world.send(insert("outages", outage()))
            before = world.incidents
            stranger = {
                "instance_url": world.servicenow.url,
                "username": "svc.stranger",
                "password": "x" * 9,
            }

            def ask(what: str, **sent: str) -> None:
                said[what] = message(world, stranger | sent)

            def armed(what: str, fault: str) -> None:
                world.servicenow.arm(fault, seconds=3)
                said[what] = message(world)
                world.servicenow.disarm()

            secure = stack.enter_context(ServiceNow(tls=tls(trustme.CA())))
            elsewhere = stack.enter_context(
                Server(always(http(302, b"", Location="https://sso.example.com/login")))
            )
            another = stack.enter_context(
                Server(always(error(400, "Requested URI does not represent any resource", "/api")))
            )
            ask("wrong host", instance_url="https://no-such-host.invalid")
            ask("refused", instance_url=f"http://127.0.0.1:{closed_port()}")
            ask("self-signed", instance_url=secure.url)
            armed("time-out", "slow")
            armed("hibernating", "hibernating_html_200")
            world.servicenow.rights = Rights(may_read=())
            said["may not read"] = message(world)
            world.servicenow.rights = Rights()
            world.servicenow.api_enabled = False
            said["API disabled"] = message(world)
            world.servicenow.api_enabled = True
            armed("login page", "sso_html_200")
            ask("redirect", instance_url=elsewhere.url)
            armed("MFA", "mfa_401")
            ask("401")
            ask("another table API", instance_url=another.url)
            armed("server error", "unavailable_503")
            said["ok"] = a_test(world).body["message"]
            refused_logins = len(world.servicenow.refused_logins)
            after = (world.incidents, secure.rows("incident"), secure.calls)

        for what, words in {
            "wrong host": "The host name no-such-host.invalid is not known",
            "refused": "refuses connections",
            "self-signed": "self-signed",
            "time-out": "did not answer in time",
            "hibernating": "hibernating",
            "may not read": "the user may not read records: give it the role itil",
            "API disabled": "did not let the integration user use the Table API",
            "login page": "What answered is not ServiceNow's Table API",
            "redirect": "The address redirects elsewhere",
            "MFA": "Multi-factor authentication",
            "401": "ServiceNow does not accept the user and password",
            "another table API": "does not know this address",
            "server error": "server error",
            "ok": "the user's role itil allows creating them",
        }.items():
            assert words in said[what], (what, said[what])
        assert len(set(said.values())) == len(said) == 14
        assert after == (before, [], [])
        assert refused_logins == 1

    def test_settings_are_named_by_where_they_are(self, world: World) -> None:
        world.servicenow.arm("hibernating_redirect_302")
        message(world)
        world.servicenow.password = "changed"
        of_the_environment = message(world)
        sent = {"instance_url": world.servicenow.url, "username": "svc.hasura", "password": "wrong"}
        of_what_was_sent = message(world, sent)

        assert "check SERVICENOW_USERNAME and SERVICENOW_PASSWORD" in of_the_environment
        assert "check username and password" in of_what_was_sent
        assert "SERVICENOW_" not in of_what_was_sent

    def test_the_answer_is_success_message_and_instance(self, world: World) -> None:
        answer = a_test(world)

        assert set(answer.body) == {"success", "message", "instance"}
        assert (answer.body["success"], answer.body["instance"]) == (True, world.servicenow.url)
        assert answer.body["message"].startswith("ServiceNow accepts svc.hasura.")

    def test_every_table_that_a_rule_makes_tickets_in_is_tried(self) -> None:
        rules = """
version: 1
rules:
  - {name: a, from: hasura/public.a, ticket: {key: "{{ row.id }}", fields: {short_description: x}}}
  - {name: b, from: hasura/public.b,
     ticket: {table: problem, key: "{{ row.id }}", fields: {short_description: x}}}
  - {name: c, from: hasura/public.c, ticket: {key: "{{ row.id }}", fields: {short_description: x}}}
"""
        with World(rules=rules) as world:
            world.send(insert("a", {"id": 1}))
            world.send(insert("b", {"id": 1}))
            before = len(world.servicenow.rows("problem"))
            answer = a_test(world)

            assert answer.body["success"]
            assert re.findall(r"(\w+): the user may read records", answer.body["message"]) == [
                "incident",
                "problem",
            ]
            assert (len(world.incidents), len(world.servicenow.rows("problem"))) == (1, before)


@pytest.mark.parametrize(
    "signs_in",
    [
        {
            "SERVICENOW_CLIENT_ID": "sandbox-client",
            "SERVICENOW_CLIENT_SECRET": "sandbox-client-secret",
        },
        {"SERVICENOW_API_KEY": "sandbox-api-key"},
    ],
    ids=["oauth", "api key"],
)
def test_whoever_a_client_or_a_key_acts_as_is_named_and_tested_by_its_own_roles(
    signs_in: dict[str, str],
) -> None:
    with World() as world:
        world.stop()
        world.start(**signs_in, SERVICENOW_USERNAME="", SERVICENOW_PASSWORD="")
        made = world.send(insert("outages", outage()))
        answer = a_test(world)

        assert made.said == "created"
        assert answer.body["success"]
        assert answer.body["message"].startswith(
            "ServiceNow accepts svc.hasura. incident: the user may read records"
        )
        assert "the user's role itil allows creating them" in answer.body["message"]
        assert len(world.incidents) == 1


@pytest.mark.parametrize("nothing", [b"", b"{}", b"null", b" {} "])
def test_nothing_that_is_sent_means_the_connection_in_force(nothing: bytes) -> None:
    with World() as world:
        assert a_test(world, nothing).body["success"]


def test_a_user_who_was_let_in_is_let_in_whatever_another_table_answers_then() -> None:
    rules = """
version: 1
rules:
  - {name: a, from: hasura/public.a, ticket: {key: "{{ row.id }}", fields: {short_description: x}}}
  - {name: b, from: hasura/public.b,
     ticket: {table: problem, key: "{{ row.id }}", fields: {short_description: x}}}
"""
    with World(rules=rules) as world:
        world.servicenow.password = "changed"
        held = world.send(insert("a", {"id": 1}))
        world.servicenow.password = PASSWORD
        world.servicenow.arm("unavailable_503", table="problem")
        answer = a_test(world)

        assert held.said == "retrying servicenow_unauthorized"
        assert not answer.body["success"]
        assert world.send(insert("a", {"id": 2})).said == "created"


class TestNothingIsMade:
    def test_a_test_makes_no_record_and_changes_none(self, world: World) -> None:
        world.send(insert("outages", outage()))
        before = world.incidents
        world.calls()
        answer = a_test(world)

        assert answer.body["success"]
        assert world.incidents == before
        assert world.calls() == ["GET incident", "GET sys_user_has_role"]

    def test_where_there_is_no_incident_it_says_that_none_was_returned(self, world: World) -> None:
        answer = a_test(world)

        assert answer.body["success"]
        assert (
            "no record was returned (there are none, or the user may not read them)"
            in answer.body["message"]
        )
        assert "the user's role itil allows creating them" in answer.body["message"]
        assert world.incidents == []

    def test_where_roles_cannot_be_read_either_it_says_so_and_how_to_prove_it(
        self, world: World
    ) -> None:
        world.servicenow.rights = replace(world.servicenow.rights, may_read={"incident"})
        answer = a_test(world)

        assert answer.body["success"]
        assert "no record was returned" in answer.body["message"]
        assert "the user's roles cannot be read" in answer.body["message"]
        assert "Have an administrator check that it has the role itil" in answer.body["message"]
        assert "check --write-probe" in answer.body["message"]

    def test_a_table_that_cannot_be_read_does_not_hide_what_was_found_of_another(self) -> None:
        rules = """
version: 1
rules:
  - {name: a, from: hasura/public.a,
     ticket: {table: problem, key: "{{ row.id }}", fields: {short_description: x}}}
  - {name: b, from: hasura/public.b, ticket: {key: "{{ row.id }}", fields: {short_description: x}}}
"""
        with World(rules=rules) as world:
            world.servicenow.rights = Rights(may_read={"incident", "sys_user_has_role"})
            answer = a_test(world)

        assert not answer.body["success"]
        assert "problem: the user may not read records" in answer.body["message"]
        assert "incident: no record was returned" in answer.body["message"]


class TestRoles:
    def roles(self, *names: str, of: str = "svc.hasura") -> bytes:
        return result(
            [{"sys_id": SYS_ID, "user.user_name": of, "role.name": name} for name in names]
        )

    @pytest.mark.parametrize(
        ("roles", "said"),
        [
            (("snc_internal", "itil"), "the user's role itil allows creating them"),
            (("sn_incident_write",), "the user's role sn_incident_write allows creating them"),
            (
                ("snc_internal", "custom"),
                "roles are custom, snc_internal, and none of them is known to allow",
            ),
            (
                ("snc_internal",),
                "Have an administrator check that it has the role itil or sn_incident_write",
            ),
            (
                (),
                "the user's roles cannot be read, so it is not known whether it may create records",
            ),
            ((), "Have an administrator check that it has the role itil"),
        ],
    )
    def test_the_roles_say_what_they_can_of_the_right_to_create(
        self, roles: tuple[str, ...], said: str
    ) -> None:
        outcome, _ = tried(instance(roles=self.roles(*roles)))

        assert outcome.success
        assert said in outcome.message

    def test_of_many_roles_a_few_are_named(self) -> None:
        outcome, _ = tried(
            instance(roles=self.roles(*(f"role_{number:03}" for number in range(60))))
        )

        assert "role_006, role_007 and 52 more, and none" in outcome.message

    def test_the_roles_of_others_say_nothing(self) -> None:
        outcome, _ = tried(instance(roles=self.roles("itil", of="admin")))

        assert "Have an administrator check" in outcome.message

    def test_they_are_asked_for_once_for_all_tables(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            has_role = "sys_user_has_role" in seen.target
            sock.sendall(self.roles("itil") if has_role else result([{"sys_id": SYS_ID}]))
            return True

        with Server(answer) as server:
            try_out(
                server.url,
                USER,
                username="svc.hasura",
                tables=["incident", "change_request"],
                timeout_seconds=5,
            )

            assert len([seen for seen in server.seen if "sys_user_has_role" in seen.target]) == 1

    def test_a_user_name_that_no_query_can_carry_is_not_asked_for(self) -> None:
        outcome, methods = tried(instance(), user=Basic("svc^ORactive=true", "p"))

        assert methods == ["GET"]
        assert outcome.success

    def test_a_user_without_a_name_is_not_taken_for_the_holder_of_roles_that_hide_theirs(
        self,
    ) -> None:
        with Server(instance(roles=self.roles("itil", of=""))) as server:
            outcome = try_out(server.url, USER, username="", tables=["incident"], timeout_seconds=5)

        assert outcome.message.startswith("ServiceNow accepts the credential.")
        assert "the user's roles cannot be read" in outcome.message


class TestHolds:
    def test_a_successful_test_lets_events_go_on_at_once(self, world: World) -> None:
        world.send(insert("outages", outage(1)))
        world.servicenow.password = "changed"
        held = [world.send(insert("outages", outage(n))) for n in (2, 3)]
        world.servicenow.password = PASSWORD
        still_held = world.send(insert("outages", outage(2)))
        answer = a_test(world)
        after = world.send(insert("outages", outage(2)))

        assert {one.said for one in [*held, still_held]} == {"retrying servicenow_unauthorized"}
        assert answer.body["success"]
        assert (after.status, after.said) == (200, "created")
        assert len(world.mails) == 2  # that it is over, too

    def test_a_password_stored_after_a_test_of_it_is_used_at_once(self, world: World) -> None:
        world.servicenow.password = STORED_PASSWORD
        held = world.send(insert("outages", outage()))
        new = {
            "instance_url": world.servicenow.url,
            "username": "svc.hasura",
            "password": STORED_PASSWORD,
        }
        answer = a_test(world, new)
        world.operate("POST", "config", new)
        after = world.send(insert("outages", outage()))

        assert (held.said, answer.body["success"]) == ("retrying servicenow_unauthorized", True)
        assert (after.status, after.said) == (200, "created")

    def test_a_test_of_another_user_lifts_nothing(self, world: World) -> None:
        world.servicenow.password = "changed"
        world.send(insert("outages", outage()))
        answer = a_test(
            world,
            {"instance_url": world.servicenow.url, "username": "svc.hasura", "password": "changed"},
        )
        logins = len(world.servicenow.refused_logins)
        after = world.send(insert("outages", outage(2)))

        assert answer.body["success"]
        assert after.said == "retrying servicenow_unauthorized"
        assert len(world.servicenow.refused_logins) == logins

    def test_a_refused_test_is_the_events_probe_and_a_thousand_that_wait_do_not_follow(
        self, world: World
    ) -> None:
        world.servicenow.password = "changed"
        message(world)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: world.send(insert("outages", outage(n))), range(40)))
        world.clock.advance(
            601
        )  # more than AUTH_HOLD_SECONDS: the operator's try is one of five in fifteen minutes
        later = world.send(insert("outages", outage()))

        assert {answer.said for answer in [*answers, later]} == {"retrying servicenow_unauthorized"}
        assert len(world.servicenow.refused_logins) == 1

    def test_tests_of_one_account_are_few_whatever_the_password(self, world: World) -> None:
        sent = {"instance_url": world.servicenow.url, "username": "svc.hasura"}
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: a_test(world, {**sent, "password": f"wrong {n}"}), range(8)))
        refused = a_test(world, {**sent, "password": PASSWORD})
        another = a_test(world, {**sent, "username": "svc.other", "password": "x"})
        events = world.send(insert("outages", outage()))

        assert refused.status == 429
        assert refused.body["success"] is False
        assert re.match(
            r"Not tried: 3 tests .* Try again at \d\d:\d\d:\d\dZ", refused.body["message"]
        )
        assert 895 <= (refused.retry_after or 0) <= 901
        assert another.status == 200
        assert len(world.servicenow.refused_logins) == 4
        assert events.said == "created"  # its account is not locked

    def test_after_fifteen_quiet_minutes_it_may_be_tried_again(self, world: World) -> None:
        sent = {"instance_url": world.servicenow.url, "username": "svc.hasura", "password": "wrong"}
        for _ in range(4):
            a_test(world, sent)
        before = a_test(world, sent).status
        world.clock.advance(901)

        assert (before, a_test(world, sent).status) == (429, 200)

    def test_tests_that_are_let_in_or_never_arrive_are_not_counted(self, world: World) -> None:
        for _ in range(5):
            assert a_test(world).status == 200
        world.servicenow.arm("down", times=5)
        for _ in range(5):
            assert a_test(world).status == 200
        world.servicenow.disarm()

        assert a_test(world).body["success"]

    def test_a_stored_configuration_is_tested_without_its_password_being_sent_again(
        self, world: World
    ) -> None:
        with ServiceNow(username="svc.stored", password=STORED_PASSWORD) as other:
            stored = {
                "instance_url": other.url,
                "username": "svc.stored",
                "password": STORED_PASSWORD,
            }
            world.operate("POST", "config", stored)
            in_force = a_test(world)
            by_hand = a_test(world, {"instance_url": other.url, "username": "svc.stored"})

            assert (in_force.body["success"], in_force.body["instance"]) == (True, other.url)
            assert by_hand.body["success"]
        assert world.calls() == []

    def test_the_environments_password_stands_in_for_none(self, world: World) -> None:
        answer = a_test(world, {"instance_url": world.servicenow.url, "username": "svc.hasura"})

        assert (answer.status, answer.body["error"]) == (400, "password must be given.")
        assert world.calls() == []


class TestNothingLeaks:
    @pytest.mark.parametrize(
        "answer",
        [
            always(http(401, STORED_PASSWORD)),
            always(
                error(
                    403, "Operation Failed", f"Error during insert of incident ({STORED_PASSWORD})"
                )
            ),
            always(http(500, STORED_PASSWORD)),
            always(http(302, b"", Location=f"/{STORED_PASSWORD}")),
            lambda sock, seen: False,
        ],
        ids=["401", "403", "500", "302", "closed"],
    )
    def test_what_servicenow_says_stands_in_no_answer(
        self, answer: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with World() as world, Server(answer) as server:
            said = a_test(
                world,
                {"instance_url": server.url, "username": "svc.stored", "password": STORED_PASSWORD},
            )

        assert not said.body["success"]
        assert STORED_PASSWORD not in json.dumps(said.body)
        assert STORED_PASSWORD not in caplog.text

    def test_it_is_over_within_its_time(self) -> None:
        def slow(sock: socket.socket, seen: Seen) -> bool:
            time.sleep(0.6)
            return False

        started = time.monotonic()
        outcome, _ = tried(slow, seconds=0.5)

        assert time.monotonic() - started < 3
        assert "did not answer in time" in outcome.message
