"""The connection test: a sentence for everything that can be wrong, no record made, and no account locked."""

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

from function.connection.probe import Tried, inserted, reach, try_out
from function.core.outcome import Failure, Kind, Reason
from function.servicenow import Basic
from function.targets.ticket.address import address
from sandbox.rest import Rights
from sandbox.servicenow import ServiceNow
from tests.answers import Answer, Seen, Server, always, http, result
from tests.payloads import insert
from tests.world import PASSWORD, STORED_PASSWORD, Answered, World, outage

T, D, P = Kind.TRANSIENT, Kind.IN_DOUBT, Kind.PERMANENT
USER = Basic("svc.hasura", PASSWORD)
CORRELATION = "shop:outage:1"
OURS = address("incident", CORRELATION, 0)
SOMEBODYS = "0123456789abcdef0123456789abcdef"


def a_test(world: World, sent: object = None) -> Answered:
    return world.operate("POST", "test", sent)


def message(world: World, sent: object = None) -> str:
    """What the operator is told of a test that failed."""
    answer = a_test(world, sent)
    assert (answer.status, answer.body["success"]) == (200, False), answer
    return str(answer.body["message"])


def error(status: int, message: str, detail: str = "") -> bytes:
    return http(status, json.dumps({"error": {"message": message, "detail": detail}, "status": "failure"}))


def record(sys_id: str = OURS, *, correlation_id: str = CORRELATION, by: str = "svc.hasura") -> dict[str, str]:
    return {"sys_id": sys_id, "correlation_id": correlation_id, "sys_created_by": by, "number": "INC1"}


def instance(
    post: bytes = b"",
    *,
    found: dict[str, str] | None = None,
    listed: bytes | None = None,
    roles: bytes | None = None,
) -> Answer:
    """An instance of one record, *found*, that answers a POST by *post*, and a query for roles by *roles*."""
    found = found or record()

    def answer(sock: socket.socket, seen: Seen) -> bool:
        path = seen.target.partition("?")[0]
        if "sys_user_has_role" in path:
            sock.sendall(roles or error(403, "Insufficient rights to query records"))
        elif path.endswith("/sys_user"):
            sock.sendall(error(403, "Insufficient rights to query records"))
        elif seen.method == "POST":
            sock.sendall(post)
        elif path.endswith("/incident"):
            sock.sendall(listed or result([{"sys_id": found["sys_id"]}]))
        else:
            sock.sendall(result(found))
        return True

    return answer


def tried(answer: Answer, *, ours: str = OURS, user: Basic = USER, seconds: float = 5.0) -> tuple[Tried, list[str]]:
    """What became of a test against *answer*, and the methods that were called."""
    with Server(answer) as server:
        found = try_out(
            server.url,
            user,
            username=user.username,
            tables=["incident"],
            ours=lambda table: [(ours, 0)] if ours else [],
            timeout_seconds=seconds,
        )
        return found, [seen.method for seen in server.seen]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def tls(authority: trustme.CA, name: str = "127.0.0.1", *, not_after: datetime | None = None) -> ssl.SSLContext:
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

            assert f"does not answer on port {port} in time" in reach(f"http://127.0.0.1:{port}", timeout_seconds=0.3)

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
    def test_a_certificate_that_somebody_vouches_for(self, tmp_path: Path, name: str, expired: bool, said: str) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = tls(authority, name, not_after=datetime.now(UTC) - timedelta(days=1) if expired else None)
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

            assert "speaks no TLS" in reach(f"https://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=5)


class TestWhatServiceNowSays:
    def test_each_trouble_has_a_sentence_of_its_own_and_makes_no_record(self) -> None:
        said: dict[str, str] = {}
        with World(SERVICENOW_TIMEOUT_SECONDS="1") as world, ExitStack() as stack:
            world.send(insert("outages", outage()))
            before = world.incidents
            stranger = {"instance_url": world.servicenow.url, "username": "svc.stranger", "password": "x" * 9}

            def ask(what: str, **sent: str) -> None:
                said[what] = message(world, stranger | sent)

            def armed(what: str, fault: str) -> None:
                world.servicenow.arm(fault, seconds=3)
                said[what] = message(world)
                world.servicenow.disarm()

            def granted(what: str, rights: Rights) -> None:
                world.servicenow.rights = rights
                said[what] = message(world)
                world.servicenow.rights = Rights()

            secure = stack.enter_context(ServiceNow(tls=tls(trustme.CA())))
            elsewhere = stack.enter_context(Server(always(http(302, b"", Location="https://sso.example.com/login"))))
            another = stack.enter_context(
                Server(always(error(400, "Requested URI does not represent any resource", "/api")))
            )
            ask("wrong host", instance_url="https://no-such-host.invalid")
            ask("refused", instance_url=f"http://127.0.0.1:{closed_port()}")
            ask("self-signed", instance_url=secure.url)
            armed("time-out", "slow")
            armed("hibernating", "hibernating_html_200")
            granted("without itil", Rights(may_create=()))
            granted("may not read", Rights(may_read=()))
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
            "without itil": "the user may not create records: give it the role itil",
            "may not read": "the user may neither read nor create records",
            "API disabled": "did not let the integration user use the Table API",
            "login page": "What answered is not ServiceNow's Table API",
            "redirect": "The address redirects elsewhere",
            "MFA": "Multi-factor authentication",
            "401": "ServiceNow does not accept the user and password",
            "another table API": "does not know this address",
            "server error": "server error",
            "ok": "it may create records",
        }.items():
            assert words in said[what], (what, said[what])
        assert len(set(said.values())) == len(said) == 15
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
  - {name: b, from: hasura/public.b, ticket: {table: problem, key: "{{ row.id }}", fields: {short_description: x}}}
  - {name: c, from: hasura/public.c, ticket: {key: "{{ row.id }}", fields: {short_description: x}}}
"""
        with World(rules=rules) as world:
            world.send(insert("a", {"id": 1}))
            world.send(insert("b", {"id": 1}))
            before = len(world.servicenow.rows("problem"))
            answer = a_test(world)

            assert answer.body["success"]
            assert re.findall(r"(\w+): it may create records", answer.body["message"]) == ["incident", "problem"]
            assert (len(world.incidents), len(world.servicenow.rows("problem"))) == (1, before)


@pytest.mark.parametrize(
    "signs_in",
    [
        {"SERVICENOW_CLIENT_ID": "sandbox-client", "SERVICENOW_CLIENT_SECRET": "sandbox-client-secret"},
        {"SERVICENOW_API_KEY": "sandbox-api-key"},
    ],
    ids=["oauth", "api key"],
)
def test_whoever_a_client_or_a_key_acts_as_is_tested_by_its_own_tickets(signs_in: dict[str, str]) -> None:
    with World() as world:
        world.stop()
        world.start(**signs_in, SERVICENOW_USERNAME="", SERVICENOW_PASSWORD="")
        made = world.send(insert("outages", outage()))
        answer = a_test(world)

        assert made.said == "created"
        assert answer.body["success"]
        assert answer.body["message"].startswith("ServiceNow accepts svc.hasura. incident: it may create records")
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
  - {name: b, from: hasura/public.b, ticket: {table: problem, key: "{{ row.id }}", fields: {short_description: x}}}
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

        assert "it may create records (tried with a sys_id that is taken" in answer.body["message"]
        assert world.incidents == before
        assert world.calls() == ["GET incident", "GET incident", "POST incident"]

    def test_where_there_is_no_incident_it_says_that_creating_was_not_tried(self, world: World) -> None:
        answer = a_test(world)

        assert answer.body["success"]
        assert "was not tried, for that would have made one; it has the role itil" in answer.body["message"]
        assert "POST incident" not in world.calls()
        assert world.incidents == []

    def test_where_roles_cannot_be_read_either_it_says_so(self, world: World) -> None:
        world.servicenow.rights = replace(world.servicenow.rights, may_read={"incident"})
        answer = a_test(world)

        assert answer.body["success"]
        assert "it sees no record there" in answer.body["message"]
        assert "Have an administrator check that it has the role itil" in answer.body["message"]

    def test_where_no_ticket_is_ours_nothing_is_posted(self, world: World) -> None:
        world.servicenow.tables.insert("incident", {"short_description": "somebody's"}, by="somebody")
        answer = a_test(world)

        assert "was not tried" in answer.body["message"]
        assert "POST incident" not in world.calls()

    @pytest.mark.parametrize("known", [False, None])
    def test_where_the_instance_is_not_known_to_honour_a_sys_id_nothing_is_posted(self, known: bool | None) -> None:
        with World(honours_sys_id=known is None) as world:
            world.send(insert("outages", outage()))
            if known is None:
                world.query("DELETE FROM servicenow.instance")
            world.calls()
            answer = a_test(world)

            assert "was not tried" in answer.body["message"]
            assert "POST incident" not in world.calls()
            assert len(world.incidents) == 1

    @pytest.mark.parametrize(
        "found",
        [
            record(by="svc.before"),
            record(SOMEBODYS),
            record(correlation_id=""),
            record(correlation_id="shop:outage:2"),
        ],
        ids=["another user's", "an id of the instance's own", "no correlation_id", "another's correlation_id"],
    )
    def test_a_record_that_does_not_prove_it_for_this_user_is_not_posted_again(self, found: dict[str, str]) -> None:
        outcome, methods = tried(instance(result(record(), status=201), found=found), ours=found["sys_id"])

        assert "POST" not in methods
        assert (outcome.success, outcome.stray) == (True, False)

    def test_a_user_without_a_name_is_not_taken_for_the_maker_of_a_record_that_hides_it(self) -> None:
        with Server(instance(result(record(), status=201), found=record(by=""))) as server:
            outcome = try_out(
                server.url, USER, username="", tables=["incident"], ours=lambda table: [(OURS, 0)], timeout_seconds=5
            )

            assert "POST" not in [seen.method for seen in server.seen]
            assert outcome.message.startswith("ServiceNow accepts the credential.")

    def test_a_record_that_is_gone_is_not_posted_again(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            if OURS in seen.target:
                sock.sendall(error(404, "No Record found", "Record doesn't exist or ACL restricts the retrieval"))
                return True
            return instance(result(record(), status=201))(sock, seen)

        outcome, methods = tried(answer)

        assert "POST" not in methods
        assert "was not tried" in outcome.message

    def test_what_is_posted_is_a_taken_sys_id_and_nothing_else(self) -> None:
        with Server(instance(error(403, "Operation Failed", "Error during insert of incident (INC1)"))) as server:
            outcome = try_out(
                server.url,
                USER,
                username="svc.hasura",
                tables=["incident"],
                ours=lambda table: [(OURS, 0)],
                timeout_seconds=5,
            )

            assert outcome.success
            assert [json.loads(seen.body) for seen in server.seen if seen.method == "POST"] == [{"sys_id": OURS}]

    def test_should_a_record_be_made_after_all_it_is_named_and_it_never_happens_again(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.send(insert("outages", outage()))
        world.servicenow.tables.honours_sys_id = False
        first = message(world)
        made = [row["number"] for row in world.incidents][1:]
        again = a_test(world)

        assert len(made) == 1
        assert f"ServiceNow made the record {made[0]}" in first
        assert "please delete it" in first
        assert [record.levelname for record in caplog.records if "must not" in record.getMessage()] == ["ERROR"]
        assert len(world.incidents) == 2
        assert "was not tried" in again.body["message"]


class TestRoles:
    def roles(self, *names: str, of: str = "svc.hasura") -> bytes:
        return result([{"sys_id": SOMEBODYS, "user.user_name": of, "role.name": name} for name in names])

    @pytest.mark.parametrize(
        ("roles", "success", "said"),
        [
            (("snc_internal", "itil"), True, "it has the role itil, which may"),
            (("sn_incident_write",), True, "it has the role sn_incident_write, which may"),
            (("snc_internal",), True, "it has none of the roles that usually may. Have an administrator check"),
            ((), True, "Have an administrator check that it has the role itil"),
        ],
    )
    def test_where_creating_cannot_be_tried_the_roles_say_what_they_can(
        self, roles: tuple[str, ...], success: bool, said: str
    ) -> None:
        outcome, _ = tried(instance(roles=self.roles(*roles)), ours="")

        assert outcome.success is success
        assert said in outcome.message

    def test_the_roles_of_others_say_nothing(self) -> None:
        outcome, _ = tried(instance(roles=self.roles("itil", of="admin")), ours="")

        assert "Have an administrator check" in outcome.message

    def test_a_user_name_that_no_query_can_carry_is_not_asked_for(self) -> None:
        outcome, methods = tried(instance(), ours="", user=Basic("svc^ORactive=true", "p"))

        assert methods == ["GET"]
        assert outcome.success


class TestWhatARefusedInsertSays:
    @pytest.mark.parametrize(
        ("kind", "reason", "success"),
        [
            (D, Reason.INSERT_FAILED, True),
            (P, Reason.DATA_POLICY, True),
            (P, Reason.BUSINESS_RULE, True),
            (P, Reason.ACL, False),
            (T, Reason.ACL, False),
            (P, Reason.REFUSED, False),
            (D, Reason.TIMEOUT, False),
            (D, Reason.UNAVAILABLE, False),
            (T, Reason.RATE_LIMITED, False),
            (T, Reason.UNAUTHORIZED, False),
        ],
    )
    def test_only_what_comes_after_the_access_controls_says_that_they_agree(
        self, kind: Kind, reason: Reason, success: bool
    ) -> None:
        outcome = inserted("incident", Failure(kind, reason, "hint"))

        assert outcome.success is success
        assert outcome.signed_in is (reason is not Reason.UNAUTHORIZED)


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
        new = {"instance_url": world.servicenow.url, "username": "svc.hasura", "password": STORED_PASSWORD}
        answer = a_test(world, new)
        world.operate("POST", "config", new)
        after = world.send(insert("outages", outage()))

        assert (held.said, answer.body["success"]) == ("retrying servicenow_unauthorized", True)
        assert (after.status, after.said) == (200, "created")

    def test_a_test_of_another_user_lifts_nothing(self, world: World) -> None:
        world.servicenow.password = "changed"
        world.send(insert("outages", outage()))
        answer = a_test(world, {"instance_url": world.servicenow.url, "username": "svc.hasura", "password": "changed"})
        logins = len(world.servicenow.refused_logins)
        after = world.send(insert("outages", outage(2)))

        assert answer.body["success"]
        assert after.said == "retrying servicenow_unauthorized"
        assert len(world.servicenow.refused_logins) == logins

    def test_a_refused_test_is_the_events_probe_and_a_thousand_that_wait_do_not_follow(self, world: World) -> None:
        world.servicenow.password = "changed"
        message(world)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: world.send(insert("outages", outage(n))), range(40)))
        world.clock.advance(601)  # more than AUTH_HOLD_SECONDS: the operator's try is one of five in fifteen minutes
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
        assert re.match(r"Not tried: 3 tests .* Try again at \d\d:\d\d:\d\dZ", refused.body["message"])
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

    def test_a_stored_configuration_is_tested_without_its_password_being_sent_again(self, world: World) -> None:
        with ServiceNow(username="svc.stored", password=STORED_PASSWORD) as other:
            stored = {"instance_url": other.url, "username": "svc.stored", "password": STORED_PASSWORD}
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
            always(error(403, "Operation Failed", f"Error during insert of incident ({STORED_PASSWORD})")),
            always(http(500, STORED_PASSWORD)),
            always(http(302, b"", Location=f"/{STORED_PASSWORD}")),
            lambda sock, seen: False,
        ],
        ids=["401", "403", "500", "302", "closed"],
    )
    def test_what_servicenow_says_stands_in_no_answer(self, answer: Answer, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with World() as world, Server(answer) as server:
            said = a_test(world, {"instance_url": server.url, "username": "svc.stored", "password": STORED_PASSWORD})

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
