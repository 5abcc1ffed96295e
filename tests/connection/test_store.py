"""Configuration over HTTP: who may, what is taken, where the password is, and what is in force from
when on."""

import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from function.connection.store import (
    ALREADY_STORED,
    ConnectionInput,
    ConnectionStore,
    PasswordUnreadable,
    parse_input,
)
from function.ledger.database import Database
from function.servicenow import Basic
from function.settings import MAKE_CONFIG_KEY
from sandbox.servicenow import ServiceNow
from tests.answers import LINK_LOCAL
from tests.payloads import insert, update
from tests.world import CONFIG_KEY, STORED_PASSWORD, World, outage

OTHER_KEY = "QW5vdGhlci1jb25maWcta2V5LTMyLWJ5dGVzLWxvbmc="
NEVER_SENT = "http://127.0.0.1:1"


@pytest.fixture
def other() -> Iterator[ServiceNow]:
    """Another ServiceNow, to be stored."""
    with ServiceNow(username="svc.stored", password=STORED_PASSWORD) as other:
        yield other


def asked(url: str, **parts: object) -> dict[str, object]:
    return {"instance_url": url, "username": "svc.stored", "password": STORED_PASSWORD} | parts


class TestWhoMay:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "config"),
            ("POST", "config"),
            ("PUT", "config"),
            ("DELETE", "config"),
            ("POST", "test"),
        ],
    )
    @pytest.mark.parametrize("token", [None, "", "wrong", "planted-console-toke", "plänted"])
    def test_nobody_without_the_token(
        self, world: World, method: str, path: str, token: str | None
    ) -> None:
        answer = world.operate(method, path, asked(world.servicenow.url), token=token)

        assert answer.status == 401
        assert "CONSOLE_TOKEN" in answer.body["error"]
        assert world.query("SELECT * FROM servicenow.configuration") == []
        assert world.calls() == []

    @pytest.mark.parametrize("token", [None, "", "x"])
    def test_nobody_while_there_is_none(self, token: str | None) -> None:
        with World(CONSOLE_TOKEN="") as world:
            assert world.operate("GET", "config", token=token).status == 401

    def test_other_methods_are_none(self, world: World) -> None:
        answer = world.operate("PATCH", "config", {})

        assert (answer.status, answer.body["error"]) == (
            405,
            "this route takes DELETE, GET, POST, PUT only",
        )

    def test_the_token_is_of_no_use_to_hasura_nor_its_secret_here(self, world: World) -> None:
        assert world.send(insert("outages", outage()), secret="planted-console-token").status == 401
        assert world.operate("GET", "config", token="planted-webhook-secret").status == 401


class TestWhatIsTaken:
    def test_one_is_stored_shown_replaced_and_removed(self, world: World) -> None:
        none = [
            world.operate(method, "config", asked(NEVER_SENT)).status
            for method in ("GET", "PUT", "DELETE")
        ]
        made = world.operate("POST", "config", asked(NEVER_SENT))
        shown = world.operate("GET", "config")
        again = world.operate("POST", "config", asked(NEVER_SENT))
        replaced = world.operate("PUT", "config", asked("dev12345", username="svc.two"))
        removed = world.operate("DELETE", "config")
        gone = [
            world.operate(method, "config", asked(NEVER_SENT)).status
            for method in ("GET", "PUT", "DELETE")
        ]

        assert (none, gone) == ([404, 404, 404], [404, 404, 404])
        assert (made.status, shown.status, again.status, replaced.status, removed.status) == (
            201,
            200,
            409,
            200,
            204,
        )
        assert set(made.body) == {"id", "instance_url", "username", "created_at"}
        assert (made.body["instance_url"], made.body["username"]) == (NEVER_SENT, "svc.stored")
        assert made.body == shown.body
        assert replaced.body == made.body | {
            "instance_url": "https://dev12345.service-now.com",
            "username": "svc.two",
        }
        assert "PUT replaces it" in again.body["error"]

    def test_the_time_is_iso_8601_in_utc(self, world: World) -> None:
        created_at = world.operate("POST", "config", asked(NEVER_SENT)).body["created_at"]

        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created_at)
        assert abs((datetime.fromisoformat(created_at) - datetime.now(UTC)).total_seconds()) < 60

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (b"", ["must be a JSON object"]),
            (b"not json", ["must be a JSON object"]),
            (b"[]", ["must be a JSON object"]),
            (b'"x"', ["must be a JSON object"]),
            (b"\xff", ["must be a JSON object"]),
            (b"[" * 5000, ["must be a JSON object"]),
            (
                b'{"instance_url": "dev1", "username": "\\ud800", "password": "p"}',
                ["must be a JSON object"],
            ),
            ({}, ["instance_url must be given.", "username must be given."]),
            (asked("dev1", password=""), ["password must be given."]),
            (asked("dev1", password=None), ["password must be given."]),
            (asked("dev1", username="  "), ["username must be given."]),
            (
                asked("dev1", user="x"),
                ["user is unknown: leave it out; there are instance_url, username, password."],
            ),
            (asked("dev1", **{"a value, perhaps": 1}), ["A key is unknown"]),
            (asked("dev1", username=7), ["username must be a text"]),
            (asked("dev1", password=["x"]), ["password must be a text"]),
            (asked(7, username=True), [("instance_url must be a text"), "username must be a text"]),  # type: ignore[arg-type]
            (asked("http://dev1.service-now.com"), ["instance_url must begin with https://"]),
            (asked("https://dev1.service-now.com/path"), ["instance_url must end after the host"]),
            (
                asked("https://u:p@dev1.service-now.com"),
                ["instance_url must not hold a user or password"],
            ),
            (asked("ftp://dev1"), ["instance_url must be like https://"]),
            (asked("dev1", username="a:b"), ["username must not hold a colon"]),
            (asked("dev1", username="a\nb"), ["username must not hold control characters"]),
            (asked("dev1", password="a\x00b"), ["password must not hold control characters"]),
        ],
    )
    def test_all_that_is_wrong_is_said_and_nothing_is_stored(
        self, sent: Any, said: list[str]
    ) -> None:
        with World() as world:
            answers = [world.operate("POST", "config", sent)]
            world.operate("POST", "config", asked(NEVER_SENT))
            if "password must be given." not in said:
                answers.append(world.operate("PUT", "config", sent))
                if sent not in (b"", {}):  # which mean the connection in force
                    answers.append(world.operate("POST", "test", sent))

            assert [answer.status for answer in answers] == [400] * len(answers)
            assert [
                words for words in said for answer in answers if words not in answer.body["error"]
            ] == []
            assert world.operate("GET", "config").body["instance_url"] == NEVER_SENT

    @pytest.mark.parametrize("host", [*LINK_LOCAL, "metadata.google.internal"])
    def test_a_link_local_address_is_not_taken_and_not_called(self, host: str) -> None:
        with World() as world:
            sent = asked(f"https://{host}")
            answers = [world.operate("POST", "config", sent), world.operate("POST", "test", sent)]

            assert [answer.status for answer in answers] == [400, 400]
            assert all(
                "must not be a link-local address" in answer.body["error"] for answer in answers
            )

    def test_a_body_that_is_too_large_is_not_read(self, world: World) -> None:
        answer = world.operate("POST", "config", asked(NEVER_SENT, password="p" * 20_000))

        assert (answer.status, "16384 bytes" in answer.body["error"]) == (413, True)

    @pytest.mark.parametrize("path", ["config", "test"])
    @pytest.mark.parametrize(
        "content_type", ["", "text/plain", "application/x-www-form-urlencoded"]
    )
    def test_only_json_is_taken(self, world: World, path: str, content_type: str) -> None:
        answer = world.operate("POST", path, asked(NEVER_SENT), content_type=content_type)

        assert (answer.status, answer.body["error"]) == (
            415,
            "send JSON, and Content-Type: application/json",
        )

    def test_https_is_enforced_but_on_this_machine(self) -> None:
        assert (
            parse_input(b'{"instance_url": "http://[::1]:8080", "username": "u"}').instance_url
            == "http://[::1]:8080"
        )


class TestThePassword:
    def test_it_is_kept_when_an_update_leaves_it_out(self, world: World, other: ServiceNow) -> None:
        world.operate("POST", "config", asked(other.url, username="svc.typo"))
        for left_out in (
            {"instance_url": other.url, "username": "svc.stored"},
            asked(other.url, password=""),
        ):
            assert world.operate("PUT", "config", left_out).status == 200
        answer = world.send(insert("outages", outage()))

        assert answer.said == "created"
        assert len(other.rows("incident")) == 1

    def test_it_is_asked_for_again_when_the_instance_changes(
        self, world: World, other: ServiceNow
    ) -> None:
        world.operate("POST", "config", asked(NEVER_SENT))
        for method, path in (("PUT", "config"), ("POST", "test")):
            refused = world.operate(
                method, path, {"instance_url": other.url, "username": "svc.stored"}
            )

            assert refused.status == 400
            assert "password must be given again" in refused.body["error"]
        assert world.operate("GET", "config").body["instance_url"] == NEVER_SENT
        assert other.calls == []

    def test_it_stands_in_no_file_in_clear(self, other: ServiceNow) -> None:
        with World() as world:
            world.operate("POST", "config", asked(other.url))
            world.send(insert("outages", outage()))
            files = list(world.ledger_file.parent.glob("ledger.db*"))
            kept = b"".join(file.read_bytes() for file in files)

            assert b"svc.stored" in kept
            assert STORED_PASSWORD.encode() not in kept

    def test_no_record_shows_it(self, world: World) -> None:
        configurations = ConnectionStore(world.ledger.database, [CONFIG_KEY])
        stored = configurations.create(ConnectionInput("https://a.example", "u", STORED_PASSWORD))

        assert STORED_PASSWORD not in repr(
            (stored, ConnectionInput("https://a.example", "u", STORED_PASSWORD), configurations)
        )
        assert stored.secret not in repr(stored)

    def test_without_a_key_none_is_taken_and_the_answer_says_how_to_make_one(self) -> None:
        with World(CONFIG_KEY="") as world:
            answers = [
                world.operate(method, "config", asked(NEVER_SENT)) for method in ("POST", "PUT")
            ]

            assert [answer.status for answer in answers] == [503, 503]
            assert all(MAKE_CONFIG_KEY in answer.body["error"] for answer in answers)
            assert world.query("SELECT * FROM servicenow.configuration") == []

    def test_an_older_key_still_decrypts_and_an_update_encrypts_with_the_newest(
        self, world: World
    ) -> None:
        world.operate("POST", "config", asked(NEVER_SENT))
        world.start(CONFIG_KEY=f"{OTHER_KEY},{CONFIG_KEY}")
        with_old = ConnectionStore(world.ledger.database, [CONFIG_KEY])
        with_new = ConnectionStore(world.ledger.database, [OTHER_KEY])
        before = with_old.show()
        assert with_old.password(before) == STORED_PASSWORD
        world.operate("PUT", "config", {"instance_url": NEVER_SENT, "username": "svc.stored"})
        after = with_new.show()

        assert with_new.password(after) == STORED_PASSWORD
        with pytest.raises(PasswordUnreadable):
            with_old.password(after)

    def test_whoever_writes_into_the_ledger_cannot_have_it_sent_elsewhere(
        self, world: World, other: ServiceNow
    ) -> None:
        world.operate("POST", "config", asked(NEVER_SENT))
        world.query(
            "UPDATE servicenow.configuration SET instance_url = :url, version = 'x'", url=other.url
        )
        answer = world.send(insert("outages", outage()))

        assert (answer.status, answer.said) == (503, "retrying not_configured")
        assert other.calls == []


class TestWhatIsInForce:
    def test_a_change_is_in_force_at_once_in_every_instance(
        self, postgresql: str, other: ServiceNow
    ) -> None:
        with World(database_url=postgresql, instances=2) as world:
            for instance in range(2):
                world.send(insert("outages", outage(f"env-{instance}")), instance=instance)
            world.operate("POST", "config", asked(other.url), instance=0)
            for instance in range(2):
                world.send(insert("outages", outage(f"stored-{instance}")), instance=instance)
            world.operate("DELETE", "config", instance=1)
            for instance in range(2):
                world.send(insert("outages", outage(f"env-again-{instance}")), instance=instance)

            assert [row["correlation_id"] for row in world.incidents] == [
                "shop:outage:env-0",
                "shop:outage:env-1",
                "shop:outage:env-again-0",
                "shop:outage:env-again-1",
            ]
            assert [row["correlation_id"] for row in other.rows("incident")] == [
                "shop:outage:stored-0",
                "shop:outage:stored-1",
            ]

    def test_another_user_is_in_force_at_once_too(self, world: World, other: ServiceNow) -> None:
        world.operate("POST", "config", asked(other.url))
        world.send(insert("outages", outage(1)))
        other.password = "changed"
        refused = world.send(insert("outages", outage(2)))
        world.operate("PUT", "config", asked(other.url, password="changed"))
        answer = world.send(insert("outages", outage(3)))

        assert (refused.said, answer.said) == ("retrying servicenow_unauthorized", "created")

    def test_what_is_under_way_ends_on_the_old_one(self, world: World, other: ServiceNow) -> None:
        world.send(insert("outages", outage()))
        world.servicenow.arm("slow", method="GET", seconds=1.0)
        answers = []
        # A look, and then a write.
        resolving = update("outages", outage(), outage(status="fixed"))
        delivery = threading.Thread(target=lambda: answers.append(world.send(resolving)))
        delivery.start()
        time.sleep(0.3)
        world.operate("POST", "config", asked(other.url))
        meanwhile = world.send(insert("outages", outage(2)))
        delivery.join()

        assert (answers[0].said, meanwhile.said) == ("resolved", "created")
        assert world.incident["state"] == "6"
        assert len(other.rows("incident")) == 1

    def test_a_dead_letter_under_another_configuration_is_a_new_attempt(
        self, world: World, other: ServiceNow
    ) -> None:
        world.servicenow.arm("acl_403", method="POST")
        first = world.send(insert("outages", outage(), id="e"))
        world.operate("POST", "config", asked(other.url))
        again = world.send(insert("outages", outage(), id="e", current_retry=1))

        assert (first.said, again.said) == ("dead refused_by_acl", "created")

    def test_the_log_says_where_events_go(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        world.operate("POST", "config", asked(NEVER_SENT))
        world.send(insert("outages", outage()))

        assert f"events go to {NEVER_SENT}" in [record.getMessage() for record in caplog.records]


class TestWithoutAWayToSignIn:
    def test_a_key_that_does_not_decrypt_holds_events_and_is_mailed_and_the_environment_is_not_used(
        self, world: World, other: ServiceNow
    ) -> None:
        world.operate("POST", "config", asked(other.url))
        world.start(CONFIG_KEY=OTHER_KEY)
        held = [world.send(insert("outages", outage(n))) for n in range(3)]
        mails_held = [str(mail["Subject"]) for mail in world.mails]
        told = str(world.mails[0].get_body(("plain",)))
        world.start(CONFIG_KEY=f"{OTHER_KEY},{CONFIG_KEY}")
        world.clock.advance(60)
        after = [world.send(insert("outages", outage(n))) for n in range(3)]

        assert {(answer.status, answer.said) for answer in held} == {
            (503, "retrying not_configured")
        }
        assert all((answer.retry_after or 0) >= 30 for answer in held)
        assert len(mails_held) == 1
        assert "CONFIG_KEY does not decrypt the stored password" in " ".join(told.split())
        assert world.calls() == []
        assert {answer.said for answer in after} == {"created"}
        assert len(other.rows("incident")) == 3
        assert len(world.mails) == 2

    def test_an_unset_key_is_no_way_back_to_the_environment(
        self, world: World, other: ServiceNow
    ) -> None:
        world.operate("POST", "config", asked(other.url))
        world.start(CONFIG_KEY="")

        assert world.send(insert("outages", outage())).said == "retrying not_configured"
        assert world.calls() == []

    def test_the_password_sent_again_heals_it_at_once(
        self, world: World, other: ServiceNow
    ) -> None:
        world.operate("POST", "config", asked(other.url))
        world.start(CONFIG_KEY=OTHER_KEY)
        world.send(insert("outages", outage()))
        kept = world.operate("PUT", "config", asked(other.url, password=""))
        sent = world.operate("PUT", "config", asked(other.url))
        world.clock.advance(60)

        assert (kept.status, "CONFIG_KEY does not decrypt" in kept.body["error"]) == (400, True)
        assert sent.status == 200
        assert world.send(insert("outages", outage())).said == "created"

    def test_with_none_at_all_events_wait_until_one_is_stored(self, other: ServiceNow) -> None:
        with World(
            SERVICENOW_INSTANCE_URL="", SERVICENOW_USERNAME="", SERVICENOW_PASSWORD=""
        ) as world:
            body = insert("outages", outage())
            before = world.send(body)
            tested = world.operate("POST", "test")
            world.operate("POST", "config", asked(other.url))
            world.clock.advance(60)
            after = world.send(body)

            assert (before.status, before.said) == (503, "retrying not_configured")
            assert (tested.body["success"], tested.body["instance"]) == (False, "")
            assert "POST /api/servicenow/config" in tested.body["message"]
            assert after.said == "created"
            assert len(world.mails) == 2, [str(mail["Subject"]) for mail in world.mails]

    def test_what_waits_too_long_is_a_dead_letter(self) -> None:
        with World(
            RETRY_FOR_SECONDS="3600",
            SERVICENOW_INSTANCE_URL="",
            SERVICENOW_USERNAME="",
            SERVICENOW_PASSWORD="",
        ) as world:
            world.send(insert("outages", outage(), id="e"))
            world.clock.advance(4000)
            answer = world.send(insert("outages", outage(), id="e", current_retry=1))

            assert (answer.status, answer.said) == (422, "dead gave_up")


class TestTheStore:
    @pytest.fixture(params=["sqlite", "postgresql"])
    def database(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
        sqlite = f"sqlite:///{tmp_path}/ledger.db"
        url = sqlite if request.param == "sqlite" else request.getfixturevalue("postgresql")
        database = Database(str(url))
        yield database
        database.close()

    def test_every_change_has_another_stamp(self, database: Database) -> None:
        store = ConnectionStore(database, [CONFIG_KEY])
        versions = [store.version()]
        store.create(ConnectionInput("https://a.example", "u", "p"))
        versions.append(store.version())
        store.replace(ConnectionInput("https://a.example", "u", "p"))
        versions.append(store.version())
        store.delete()
        assert store.version() == versions[0] == ""
        store.create(ConnectionInput("https://a.example", "u", "p"))
        versions.append(store.version())

        assert len(set(versions)) == 4

    def test_of_two_at_once_one_is_stored(self, database: Database) -> None:
        store = ConnectionStore(database, [CONFIG_KEY])
        store.version()
        outcomes = []

        def create(n: int) -> None:
            try:
                outcomes.append(
                    store.create(ConnectionInput("https://a.example", f"u{n}", "p")).username
                )
            except Exception as error:  # noqa: BLE001  # looked at below
                outcomes.append(str(error))

        threads = [threading.Thread(target=create, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert outcomes.count(ALREADY_STORED) == 3
        assert store.show().username in outcomes

    def test_the_secret_is_bound_to_its_instance(self, database: Database) -> None:
        store = ConnectionStore(database, [CONFIG_KEY])
        stored = store.create(ConnectionInput("https://a.example", "u", "p"))

        assert store.password(stored) == "p"
        with pytest.raises(PasswordUnreadable):
            store.password(replace(stored, instance_url="https://b.example"))

    @pytest.mark.parametrize("secret", ["", "x", "gAAAAAB", "é"])
    def test_a_spoiled_secret_is_unreadable_and_no_fault(
        self, database: Database, secret: str
    ) -> None:
        store = ConnectionStore(database, [CONFIG_KEY])
        stored = store.create(ConnectionInput("https://a.example", "u", "p"))

        with pytest.raises(PasswordUnreadable):
            store.password(replace(stored, secret=secret))

    def test_what_is_shown_has_no_secret(self, database: Database) -> None:
        stored = ConnectionStore(database, [CONFIG_KEY]).create(
            ConnectionInput("https://a.example", "u", STORED_PASSWORD)
        )

        assert STORED_PASSWORD not in json.dumps(stored.shown())
        assert stored.secret not in json.dumps(stored.shown())


class TestTheOldLine:
    """A delivery that began before a change, and is refused after it, asks for the
    credential anew."""

    def test_it_is_given_the_new_password_of_its_own_instance(self, world: World) -> None:
        world.operate("POST", "config", asked(NEVER_SENT))
        credentials = world.apps[0]._connections.current().credentials
        assert credentials is not None
        world.operate("PUT", "config", asked(NEVER_SENT, password="changed"))

        assert credentials.refresh()
        assert credentials.current() == Basic("svc.stored", "changed")

    @pytest.mark.parametrize("method", ["PUT", "DELETE"])
    def test_it_is_given_no_password_of_another_instance(self, world: World, method: str) -> None:
        world.operate("POST", "config", asked(NEVER_SENT))
        credentials = world.apps[0]._connections.current().credentials
        assert credentials is not None
        world.operate(method, "config", asked("http://127.0.0.1:2", password="changed"))

        assert not credentials.refresh()
        assert credentials.current() == Basic("svc.stored", STORED_PASSWORD)
