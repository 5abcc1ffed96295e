"""Writes whose answer never came: one ticket all the same, and in the end the right words on it."""

import pytest

from function.ledger.records import IN_DOUBT_SECONDS
from tests.payloads import cron, delete, insert, update
from tests.world import World, outage, said

OPEN, WORSE, FIXED = outage(), outage(title="Worse"), outage(status="fixed")
COMMITTED = [
    "commit_then_500",
    "commit_then_403",
    "commit_then_reset",
    "partial_200",
    "created_without_sys_id",
]
NOT_COMMITTED = [
    "reset",
    "session_sync_202",
    "semaphore_429",
    "rate_limit_429",
    "hibernating_html_200",
    "hibernating_redirect_302",
    "sso_html_200",
    "adc_502",
    "unavailable_503",
    "error_500",
    "acl_flap_403",
]


def settled(world: World, body: bytes) -> None:
    """Redeliver *body* as Hasura does, after each Retry-After, until it is done."""
    for _ in range(12):
        answer = world.send(body)
        if answer.status == 200:
            return
        assert (answer.status, answer.retry_after is not None) == (503, True), answer
        world.clock.advance(answer.retry_after or 0)
    raise AssertionError("never done")


@pytest.mark.parametrize("fault", COMMITTED)
def test_a_create_that_committed_without_a_good_answer_is_one_incident(
    world: World, fault: str
) -> None:
    world.servicenow.arm(fault, method="POST")
    settled(world, insert("outages", OPEN, id="e"))

    assert said(world.incident) == (OPEN["title"], "1")


@pytest.mark.parametrize("fault", COMMITTED)
def test_it_is_one_incident_with_the_ledger_lost_in_between_too(world: World, fault: str) -> None:
    world.servicenow.arm(fault, method="POST")
    world.send(insert("outages", OPEN, id="e"))
    world.forget()
    settled(world, insert("outages", OPEN, id="e"))

    assert said(world.incident) == (OPEN["title"], "1")


@pytest.mark.parametrize("fault", COMMITTED)
@pytest.mark.parametrize("lost", [False, True], ids=["ledger kept", "ledger lost"])
def test_it_is_one_incident_once_the_instance_is_known_to_honour_the_sys_id(
    world: World, fault: str, *, lost: bool
) -> None:
    world.send(insert("outages", outage(2)))
    world.servicenow.arm(fault, method="POST")
    world.send(insert("outages", OPEN, id="e"))
    if lost:
        world.forget()
    settled(world, insert("outages", OPEN, id="e"))

    assert len(world.incidents) == 2


@pytest.mark.parametrize("fault", COMMITTED)
def test_it_is_one_incident_where_the_instance_does_not_honour_the_sys_id(fault: str) -> None:
    with World(honours_sys_id=False) as world:
        world.send(insert("outages", outage(2)))
        world.servicenow.arm(fault, method="POST")
        settled(world, insert("outages", OPEN, id="e"))

        assert len(world.incidents) == 2


def test_a_create_in_doubt_is_not_repeated_before_its_time_where_the_sys_id_is_not_honoured() -> (
    None
):
    with World(honours_sys_id=False, SERVICENOW_TIMEOUT_SECONDS="1") as world:
        world.send(insert("outages", outage(2)))
        world.servicenow.arm("reset", method="POST")
        first = world.send(insert("outages", OPEN, id="e"))
        world.calls()
        early = world.send(insert("outages", OPEN, id="e"))
        looked = world.calls()
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        late = world.send(insert("outages", OPEN, id="e"))

        assert (first.status, early.status, late.said) == (503, 503, "created")
        assert early.retry_after is not None
        assert early.retry_after >= IN_DOUBT_SECONDS - 5
        assert looked == ["GET incident"]
        assert len(world.incidents) == 2


@pytest.mark.parametrize("fault", NOT_COMMITTED)
@pytest.mark.parametrize("method", ["POST", "PATCH", "GET"])
def test_a_call_that_was_not_processed_is_made_again(world: World, fault: str, method: str) -> None:
    world.send(insert("outages", outage(2)))
    if method == "POST":
        world.servicenow.arm(fault, method=method)
        settled(world, insert("outages", OPEN, id="e"))
    else:
        world.send(insert("outages", OPEN))
        world.servicenow.arm(fault, method=method)
        settled(world, update("outages", OPEN, FIXED, id="e"))

    assert said(world.incidents[1]) == (OPEN["title"], "1" if method == "POST" else "6")
    assert len(world.incidents) == 2


@pytest.mark.parametrize(
    "fault", ["commit_then_500", "commit_then_403", "commit_then_reset", "partial_200"]
)
def test_an_update_that_committed_without_a_good_answer_ends_right(
    world: World, fault: str
) -> None:
    world.send(insert("outages", OPEN))
    world.servicenow.arm(fault, method="PATCH")
    body = update("outages", OPEN, FIXED, id="e")
    first = world.send(body)
    if first.status == 422:
        # An ACL that hides the answer of a write looks like one that refuses it: a person decides,
        # and replays.
        world.send(update("outages", OPEN, FIXED, id="e"))
    else:
        settled(world, body)

    assert (world.incident["state"], len(world.incidents)) == ("6", 1)


def test_a_patch_that_commits_late_under_a_newer_event_is_put_right_by_the_next_look() -> None:
    with World(SERVICENOW_TIMEOUT_SECONDS="1") as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("reset", method="PATCH")
        doubted = update("outages", OPEN, WORSE, id="late", created_at="2026-03-04T05:06:08")
        first = world.send(doubted)
        newer = world.send(
            update("outages", WORSE, outage(title="Better"), created_at="2026-03-04T05:06:09")
        )
        # The instance commits what it had received, after the newer write.
        world.servicenow.change("incident", world.incident["sys_id"], short_description="Worse")
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        looked = world.send(doubted)

        assert first.retry_after is not None
        assert (first.status, newer.status, looked.status) == (503, 200, 200)
        assert first.retry_after >= IN_DOUBT_SECONDS - 2
        assert said(world.incident) == ("Better", "1")


def test_a_really_late_commit_is_put_right_too() -> None:
    """The sandbox commits two seconds after it dropped the connection; the clock then jumps to the
    look."""
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_late", method="PATCH", seconds=1.0)
        doubted = update("outages", OPEN, WORSE, id="late", created_at="2026-03-04T05:06:08")
        world.send(doubted)
        world.send(
            update("outages", WORSE, outage(title="Better"), created_at="2026-03-04T05:06:09")
        )
        before = said(world.incident)
        _until(lambda: said(world.incident) != before)
        after = said(world.incident)
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        settled(world, doubted)

        assert (before, after, said(world.incident)) == (
            ("Better", "1"),
            ("Worse", "1"),
            ("Better", "1"),
        )


def test_a_resolve_that_commits_late_after_the_row_was_opened_again_is_undone() -> None:
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("reset", method="PATCH")
        doubted = update("outages", OPEN, FIXED, id="late", created_at="2026-03-04T05:06:08")
        world.send(doubted)
        world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))
        world.servicenow.change(
            "incident",
            world.incident["sys_id"],
            state="Resolved",
            close_code="Solution provided",
            close_notes="Fixed in the app",
        )
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        settled(world, doubted)

        assert world.incident["state"] == "2"


def test_a_suspect_ticket_is_settled_by_the_housekeeping_cron_when_its_event_never_returns() -> (
    None
):
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_then_reset", method="PATCH")
        world.send(update("outages", OPEN, WORSE, created_at="2026-03-04T05:06:08"))
        world.servicenow.change(
            "incident", world.incident["sys_id"], short_description="An older write"
        )
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        answer = world.send(cron("servicenow_housekeeping"))

        assert answer.body["housekeeping"]["settled"] == 1
        assert said(world.incident) == ("Worse", "1")
        assert world.query("SELECT suspect_until FROM servicenow.ticket") == [
            {"suspect_until": None}
        ]


def test_without_a_ledger_the_last_generation_is_adopted_and_nothing_is_reopened(
    world: World,
) -> None:
    world.send(insert("outages", OPEN, id="e"))
    world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
    world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
    world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))
    world.forget()
    answer = world.send(insert("outages", OPEN, id="e"))

    assert answer.outcome["ticket"] == world.incidents[1]["number"]
    assert [row["state"] for row in world.incidents] == ["7", "1"]


def test_without_a_ledger_a_resolved_ticket_is_not_reopened_on_the_word_of_one_event(
    world: World,
) -> None:
    world.send(insert("outages", OPEN, id="e"))
    world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
    world.forget()
    world.send(insert("outages", OPEN, id="e"))

    assert [row["state"] for row in world.incidents] == ["6"]


def test_a_strangers_record_at_the_address_is_a_permanent_conflict(world: World) -> None:
    world.send(insert("outages", OPEN, id="e"))
    world.servicenow.change("incident", world.incident["sys_id"], correlation_id="somebody else's")
    world.forget()
    answer = world.send(insert("outages", OPEN, id="e"))

    assert (answer.status, answer.said) == (422, "dead sys_id_conflict")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("acl_403", "refused_by_acl"),
        ("business_rule_403", "refused_by_business_rule"),
        ("data_policy_403", "refused_by_data_policy"),
    ],
)
def test_a_refusal_of_the_api_is_permanent_and_says_whose(
    world: World, fault: str, reason: str
) -> None:
    world.servicenow.arm(fault, method="POST")
    answer = world.send(insert("outages", OPEN))

    assert (answer.status, answer.said) == (422, f"dead {reason}")
    assert world.incidents == []


def test_a_delete_in_doubt_ends_resolved(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.servicenow.arm("commit_then_reset", method="PATCH")
    settled(world, delete("outages", OPEN, id="e"))

    assert world.incident["state"] == "6"


def _until(condition: object, seconds: float = 10.0) -> None:
    import time

    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
