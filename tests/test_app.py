"""What an answer means, route by route."""

import json
import re
from pathlib import Path

import pytest

from sandbox.mailbox import Mailbox
from tests.payloads import cron, delete, insert, manual, one_off, update
from tests.world import SECRET, World, outage, said


def test_a_row_becomes_an_incident_with_one_call(world: World) -> None:
    answer = world.send(insert("outages", outage()))

    assert (answer.status, answer.said) == (200, "created")
    assert answer.outcome["ticket"] == world.incident["number"]
    assert world.calls() == ["POST incident"]


def test_the_ticket_carries_what_the_rule_says_and_its_address(world: World) -> None:
    world.send(insert("outages", outage(42)))

    incident = world.incident
    assert incident["impact"] == "1"
    assert incident["correlation_id"] == "shop:outage:42"
    assert incident["correlation_display"] == "hasura"


def test_a_changed_row_changes_its_ticket_with_one_call(world: World) -> None:
    world.send(insert("outages", outage()))
    world.calls()
    answer = world.send(update("outages", outage(), outage(title="Worse")))

    assert (answer.status, answer.said) == (200, "updated")
    assert said(world.incident) == ("Worse", "1")
    assert world.calls() == ["PATCH incident"]


def test_only_what_the_row_changed_is_sent(world: World) -> None:
    world.send(insert("outages", outage()))
    world.servicenow.change(
        "incident", world.incident["sys_id"], short_description="A person's words"
    )
    world.send(update("outages", outage(), outage(severity="major")))

    assert (world.incident["short_description"], world.incident["impact"]) == (
        "A person's words",
        "2",
    )


def test_a_resolved_row_resolves_its_ticket_with_a_look_and_a_write(world: World) -> None:
    world.send(insert("outages", outage()))
    world.calls()
    answer = world.send(
        update("outages", outage(), outage(status="fixed", resolution="Rolled back"))
    )

    assert (answer.status, answer.said) == (200, "resolved")
    assert world.incident["state"] == "6"
    assert (world.incident["close_code"], world.incident["close_notes"]) == (
        "Solution provided",
        "Rolled back",
    )
    assert world.calls() == ["GET incident", "PATCH incident"]


def test_an_event_that_changes_nothing_makes_no_call(world: World) -> None:
    world.send(insert("outages", outage()))
    world.calls()
    answer = world.send(update("outages", outage(), outage(unmapped="x")))

    assert (answer.status, answer.said) == (200, "unchanged")
    assert world.calls() == []


def test_a_done_events_redelivery_is_answered_with_its_ticket_and_makes_no_call(
    world: World,
) -> None:
    body = insert("outages", outage())
    first = world.send(body)
    world.calls()
    again = world.send(body)

    assert (again.status, again.said, again.outcome["ticket"]) == (
        200,
        "unchanged",
        first.outcome["ticket"],
    )
    assert world.calls() == []


def test_a_row_that_deserves_no_ticket_costs_neither_call_nor_record(world: World) -> None:
    answer = world.send(insert("outages", outage(severity="minor")))

    assert (answer.status, answer.said) == (200, "skipped when_false")
    assert world.calls() == []
    assert world.query("SELECT * FROM servicenow.delivery") == []


def test_a_row_no_rule_can_map_is_dead_kept_and_mailed(world: World) -> None:
    row = outage()
    del row["title"]
    answer = world.send(insert("outages", row, id="e-1"))

    assert (answer.status, answer.said, answer.retry_after) == (422, "dead bad_mapping", None)
    assert "rules.yaml:10: rules[0].ticket.fields.short_description" in answer.body["error"]
    [kept] = world.query("SELECT event, status, body FROM servicenow.delivery")
    assert (kept["event"], kept["status"]) == ("e-1", "dead")
    assert json.loads(kept["body"])["id"] == "e-1"
    [mail] = world.mails
    assert "e-1" in str(mail.get_body(("plain",)))
    assert world.calls() == []


def test_a_dead_letter_redelivered_by_a_retry_is_answered_at_once(world: World) -> None:
    world.send(insert("outages", outage(severity="unheard"), id="e-1", trigger="t"))
    row = outage(severity="critical")
    del row["title"]
    world.send(insert("outages", row, id="e-2"))
    again = world.send(insert("outages", row, id="e-2", current_retry=1))

    assert (again.status, again.said) == (422, "dead bad_mapping")
    assert "short_description" in again.body["error"]
    assert [
        row["attempts"]
        for row in world.query("SELECT attempts FROM servicenow.delivery WHERE event = 'e-2'")
    ] == [1]


def test_a_dead_letter_under_other_rules_is_a_new_attempt(world: World) -> None:
    row = outage()
    del row["title"]
    world.send(insert("outages", row, id="e-1"))
    world.start(rules=world._rules.replace('"{{ row.title }}"', '"Outage {{ row.id }}"'))
    answer = world.send(insert("outages", row, id="e-1", current_retry=1))

    assert (answer.status, answer.said) == (200, "created")


def test_an_event_no_rule_wants_is_dead_and_mailed_once_for_its_table(world: World) -> None:
    answers = [world.send(insert("strangers", {"id": n})) for n in range(15)]

    assert {(answer.status, answer.said) for answer in answers} == {(422, "dead no_rule")}
    assert "public.strangers" in answers[0].body["error"]
    assert len(world.mails) == 1
    assert len(world.query("SELECT * FROM servicenow.delivery")) == 10


@pytest.mark.parametrize(
    "body", [insert("strangers", {"id": 1}), cron("nightly", {"id": 1}), one_off({"id": 1})]
)
def test_the_rule_that_an_answer_says_to_write_is_one_that_is_taken(
    world: World, body: bytes
) -> None:
    refused = world.send(body)
    source = re.search(r"`(from: [^`]+)`", refused.body["error"])[1]  # type: ignore[index]  # it is there
    ticket = "ticket: {key: '{{ row.id }}', fields: {short_description: x}}"
    world.start(rules=f"version: 1\nrules: [{{name: a, {source}, {ticket}}}]")
    answer = world.send(body)

    assert (refused.status, answer.status, answer.said) == (422, 200, "created")


@pytest.mark.parametrize("body", [cron("nightly"), one_off({"a": 1})])
def test_a_scheduled_event_no_rule_wants_is_a_422_that_names_it(world: World, body: bytes) -> None:
    answer = world.send(body)

    assert answer.status == 422
    assert ("nightly" in answer.body["error"]) or ("scheduled" in answer.body["error"])


def test_the_housekeeping_cron_is_answered_200_without_a_rule(world: World) -> None:
    assert world.send(cron("servicenow_housekeeping")).status == 200


@pytest.mark.parametrize("secret", [None, "", "wrong", SECRET + "x", "é"])
def test_a_wrong_or_missing_secret_is_401_and_has_no_effect(
    world: World, secret: str | None
) -> None:
    answer = world.send(insert("outages", outage()), secret=secret)

    assert answer.status == 401
    assert (world.incidents, world.calls()) == ([], [])
    assert (
        world.query("SELECT * FROM servicenow.delivery")
        + world.query("SELECT * FROM servicenow.alert")
        == []
    )


def test_without_a_configured_secret_every_event_is_401() -> None:
    with World(HASURA_EVENT_SECRETS="") as world:
        assert {
            world.send(insert("outages", outage()), secret=given).status
            for given in (None, "", SECRET)
        } == {401}


def test_two_secrets_are_valid_while_rotating() -> None:
    with World(HASURA_EVENT_SECRETS=f"the-new-secret-one, {SECRET}") as world:
        assert {
            world.send(insert("outages", outage(n)), secret=s).status
            for n, s in enumerate(("the-new-secret-one", SECRET))
        } == {200}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/hasura"])
def test_another_method_on_an_event_route_is_405(world: World, method: str, path: str) -> None:
    assert world.request(method, path).status == 405


def test_an_unknown_route_is_404(world: World) -> None:
    assert world.request("POST", "/elsewhere").status == 404


def test_health_and_readiness_are_answered(world: World) -> None:
    assert [world.request("GET", path).status for path in ("/healthz", "/readyz")] == [200, 200]


def test_asking_for_readiness_makes_no_ledger(tmp_path: Path) -> None:
    with World(database_url=f"sqlite:///{tmp_path}/ledger.db") as world:
        answer = world.request("GET", "/readyz", secret=None)

        assert (answer.status, list(tmp_path.iterdir())) == (200, [])


def test_a_ledger_that_cannot_hold_every_text_is_503_and_not_ready(postgresql_unfit: str) -> None:
    with World(database_url=postgresql_unfit) as world:
        answer = world.send(insert("outages", outage(title="Отказ оплаты")))

        assert (answer.status, answer.retry_after is not None) == (503, True)
        assert world.request("GET", "/readyz").status == 503
        assert world.incidents == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "JSON"),
        (b"\xff\xfe", 400, "UTF-8"),
        (b"[1]", 400, "one event at a time"),
        (b'{"payload":' + insert("outages", outage()) + b"}", 400, "payload"),
        (b"[" * 10_000 + b"]" * 10_000, 400, "nested"),
        (b'{"id":"x","event":' + b"[" * 10_000, 400, ""),
        (b"x" * (20 * 1024 * 1024), 413, "MAX_BODY_BYTES"),
    ],
    ids=[
        "empty",
        "not JSON",
        "not UTF-8",
        "an array",
        "wrapped",
        "10,000 deep",
        "10,000 deep, cut",
        "20 MB",
    ],
)
def test_what_is_no_event_is_refused_in_words_with_no_effect_and_a_mail(
    world: World, body: bytes, status: int, words: str
) -> None:
    answer = world.send(body)

    assert answer.status == status
    assert words in answer.body["error"]
    assert (world.query("SELECT * FROM servicenow.delivery"), world.calls()) == ([], [])
    assert len(world.mails) == 1


def test_the_mail_about_what_is_no_event_is_throttled(world: World) -> None:
    for _ in range(5):
        world.send(b"{")

    assert len(world.mails) == 1


def test_manual_opens_and_later_updates(world: World) -> None:
    opened = world.send(manual("outages", outage()))
    updated = world.send(manual("outages", outage(title="Worse"), created_at="2026-03-04T05:06:08"))

    assert (opened.said, updated.said) == ("created", "updated")
    assert said(world.incident) == ("Worse", "1")


@pytest.mark.parametrize("new", [[], [{}], "text", 7, True])
def test_manual_with_what_is_no_row_is_422(world: World, new: object) -> None:
    answer = world.send(manual("outages", new))

    assert (answer.status, answer.said) == (422, "dead not_a_row")


@pytest.mark.parametrize("key", [None, "", "  "])
def test_an_empty_key_is_a_permanent_failure(world: World, key: object) -> None:
    answer = world.send(insert("outages", outage(key)))

    assert (answer.status, answer.said) == (422, "dead bad_key")
    assert world.incidents == []


def test_an_unknown_value_is_a_permanent_failure_that_does_not_repeat_it(world: World) -> None:
    rules = world._rules.replace("row.severity in ['major', 'critical']", "true")
    world.start(rules=rules)
    answer = world.send(insert("outages", outage(severity="unheard-of")))

    assert (answer.status, answer.said) == (422, "dead unknown_value")
    assert "unheard-of" not in json.dumps(answer.body) + str(world.mails[0])


def test_the_answer_holds_nothing_of_the_row_but_the_key(world: World) -> None:
    answer = world.send(insert("outages", outage(42)))

    assert set(answer.body) == {"event", "outcomes"}
    assert set(answer.outcome) == {"rule", "key", "status", "ticket", "reason", "retry_at"}
    assert (answer.outcome["rule"], answer.outcome["key"]) == ("outage", "42")


def test_an_op_the_rule_does_not_name_is_200_without_outcomes(world: World) -> None:
    world.start(rules=world._rules.replace("    when:", "    ops: [INSERT]\n    when:"))
    answer = world.send(delete("outages", outage()))

    assert (answer.status, answer.body["outcomes"]) == (200, [])


def test_a_ledger_that_cannot_be_opened_is_503_with_retry_after() -> None:
    with World(database_url="sqlite:////nowhere/at/all/ledger.db") as world:
        answer = world.send(insert("outages", outage()))

        assert answer.status == 503
        assert answer.retry_after is not None
        assert world.incidents == []


def test_a_mail_server_that_is_down_changes_no_answer_and_the_next_event_sends_the_notice() -> None:
    with Mailbox() as gone:
        port = int(gone.url.rpartition(":")[2])
    with World(SMTP_URL=f"smtp://127.0.0.1:{port}") as world:
        row = outage()
        del row["title"]
        answer = world.send(insert("outages", row))
        with Mailbox(port=port) as back:
            world.send(insert("outages", outage(2, severity="minor")))

            assert answer.status == 422
            assert len(back.messages) == 1


def test_a_mail_that_could_not_be_sent_is_sent_by_the_housekeeping_cron() -> None:
    with Mailbox() as gone:
        port = int(gone.url.rpartition(":")[2])
    with World(SMTP_URL=f"smtp://127.0.0.1:{port}") as world:
        world.send(insert("strangers", {"id": 1}))
        with Mailbox(port=port) as back:
            world.send(cron("servicenow_housekeeping"))

            assert len(back.messages) == 1
