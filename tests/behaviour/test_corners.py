"""Corners where one promise meets another; each was once wrong."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from function.failpoints import Failpoint, listen
from function.ledger.records import IN_DOUBT_SECONDS
from tests.payloads import cron, delete, insert, manual, update
from tests.world import RULES, Answered, World, outage, said

OPEN, FIXED, MINOR = outage(), outage(status="fixed"), outage(severity="minor", title="Harmless")
LATER = "2026-03-04T05:06:08"
LATEST = "2026-03-04T05:06:09"
ONLY_INSERT = RULES.replace("      resolve_when:", "      creates: [INSERT]\n      resolve_when:")


def heal(world: World, *bodies: bytes) -> list[Answered]:
    """Redeliver what is not done, as Hasura does, until all is."""
    last: dict[bytes, Answered] = {}
    for _ in range(20):
        for body in bodies:
            if body not in last or last[body].retry_after is not None:
                last[body] = world.send(body)
        waits = [answer.retry_after for answer in last.values() if answer.retry_after is not None]
        if not waits:
            return [last[body] for body in bodies]
        world.clock.advance(max(waits))
    raise AssertionError("never done")


@pytest.mark.parametrize("fault", ["commit_then_reset", "commit_then_500"])
@pytest.mark.parametrize("honours", [True, False], ids=["honoured", "not honoured"])
def test_a_create_in_doubt_is_resolved_after_all_when_its_row_was_deleted_meanwhile(
    fault: str, *, honours: bool
) -> None:
    with World(honours_sys_id=honours) as world:
        world.send(insert("outages", outage("other")))
        world.servicenow.arm(fault, method="POST")
        created, deleted = insert("outages", OPEN), delete("outages", OPEN, created_at=LATER)
        world.send(created)
        heal(world, deleted, created)

        assert [row["state"] for row in world.incidents] == ["1", "6"]


def test_a_create_in_doubt_follows_a_row_that_deserves_none_any_more(world: World) -> None:
    world.servicenow.arm("commit_then_reset", method="POST")
    created, changed = insert("outages", OPEN), update("outages", OPEN, MINOR, created_at=LATER)
    world.send(created)
    heal(world, changed, created)

    assert said(world.incident) == ("Harmless", "1")


def test_a_create_that_never_committed_leaves_nothing_of_a_deleted_row(world: World) -> None:
    world.servicenow.arm("reset", method="POST")
    created, deleted = insert("outages", OPEN), delete("outages", OPEN, created_at=LATER)
    world.send(created)
    early = world.send(deleted)
    answers = heal(world, deleted, created)

    assert (early.status, early.said) == (503, "retrying in_doubt")
    assert [answer.status for answer in answers] == [200, 200]
    assert world.incidents == []


def test_housekeeping_settles_a_create_in_doubt_whose_events_never_return(world: World) -> None:
    world.servicenow.arm("commit_then_reset", method="POST")
    world.send(insert("outages", OPEN))
    world.send(delete("outages", OPEN, created_at=LATER))
    world.clock.advance(IN_DOUBT_SECONDS + 1)
    world.send(cron("servicenow_housekeeping"))

    assert [row["state"] for row in world.incidents] == ["6"]


def test_a_create_sent_resolved_in_doubt_is_reopened_for_a_row_that_is_open_again(
    world: World,
) -> None:
    world.servicenow.arm("commit_then_500", method="POST")
    fixed = update("outages", OPEN, FIXED, created_at=LATER)
    opened = update("outages", FIXED, OPEN, created_at=LATEST)
    world.send(fixed)
    heal(world, opened, fixed)

    assert world.incident["state"] == "2"


def test_a_new_generation_whose_create_failed_is_made_later_whatever_creates_says() -> None:
    with World(
        rules=ONLY_INSERT.replace("      creates:", "      after_close: new\n      creates:")
    ) as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, created_at=LATER))
        world.servicenow.arm("unavailable_503", method="POST")
        heal(world, update("outages", FIXED, OPEN, created_at=LATEST))

        assert [row["state"] for row in world.incidents] == ["6", "1"]


def test_a_missing_ticket_is_recreated_whatever_creates_says() -> None:
    with World(
        rules=ONLY_INSERT.replace("      creates:", "      on_missing: recreate\n      creates:")
    ) as world:
        world.send(insert("outages", OPEN))
        world.servicenow.remove("incident", world.incident["sys_id"])
        answer = world.send(update("outages", OPEN, outage(title="Worse"), created_at=LATER))

        assert (answer.said, said(world.incident)) == ("created", ("Worse", "1"))


def test_a_change_of_the_group_keeps_the_assignee() -> None:
    fields = (
        '        assignment_group: "{{ row.group }}"\n        assigned_to: "{{ row.who }}"\n'
        "        impact:"
    )
    with World(rules=RULES.replace("        impact:", fields)) as world:
        before, after = outage(group="Network", who="admin"), outage(group="Hardware", who="admin")
        world.send(insert("outages", before))
        assigned = world.incident["assigned_to"]
        world.send(update("outages", before, after, created_at=LATER))

        assert assigned
        assert world.incident["assigned_to"] == assigned


@pytest.mark.parametrize("instances", [1, 3])
def test_a_password_changed_under_load_is_tried_by_no_more_than_were_in_flight(
    postgresql: str, instances: int
) -> None:
    with World(
        database_url=postgresql, instances=instances, SERVICENOW_MAX_CONCURRENCY="2"
    ) as world:
        world.servicenow.arm("slow", seconds=0.1, times=None)

        def deliver(number: int) -> Answered:
            if number == 60:
                world.servicenow.password = "changed"
            return world.send(insert("outages", outage(number)), instance=number % instances)

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(deliver, range(200)))

        assert {answer.status for answer in answers} <= {200, 503}
        assert len(world.servicenow.refused_logins) <= 2 * instances + 1


def test_a_slow_servicenow_serves_all_who_come_at_once_after_a_pause(world: World) -> None:
    world.servicenow.arm("slow", seconds=2.5, times=None)
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda number: world.send(insert("outages", outage(number))), range(4))
        )

    assert {answer.status for answer in answers} == {200}


def test_an_event_that_fails_in_changing_ways_is_told_once(world: World) -> None:
    world.send(insert("outages", OPEN))
    stuck = update("outages", OPEN, outage(title="x"), created_at=LATER)
    faults = ["error_500", "session_sync_202", "acl_flap_403"]
    for number in range(40):
        world.servicenow.arm(faults[number % 3], method="PATCH")
        answer = world.send(stuck)
        world.servicenow.disarm()
        world.send(insert("outages", outage(f"other {number}")))
        world.clock.advance(min(answer.retry_after or 0, 300))

    assert world.clock.ahead > 3600
    assert len(world.mails) == 1


def test_an_event_the_new_rules_do_not_want_any_more_is_over(world: World) -> None:
    world.servicenow.arm("unavailable_503", method="POST")
    waiting = insert("outages", OPEN)
    world.send(waiting)
    world.start(rules=RULES.replace("row.severity in ['major', 'critical']", "false"))
    answer = world.send(waiting)
    world.clock.advance(3600)
    world.send(cron("servicenow_housekeeping"))

    assert answer.said == "skipped when_false"
    assert [row["status"] for row in world.query("SELECT status FROM servicenow.delivery")] == [
        "done"
    ]
    assert world.mails == []


def test_an_event_hasura_never_sends_again_becomes_a_dead_letter_with_a_mail(world: World) -> None:
    world.servicenow.arm("unavailable_503", method="POST")
    world.send(insert("outages", OPEN, id="lost"))
    world.clock.advance(1300)
    world.send(cron("servicenow_housekeeping"))
    told = len(world.mails)
    world.clock.advance(86_400)
    world.send(cron("servicenow_housekeeping"))

    assert told == 1
    assert [letter.event for letter in world.ledger.deliveries.dead_letters()] == ["lost"]
    assert "gave up" in str(world.mails[-1]["Subject"])


def test_a_dead_letter_replayed_into_an_outage_is_not_lost(world: World) -> None:
    row = outage()
    del row["title"]
    world.send(insert("outages", row, id="e"))
    world.start(rules=RULES.replace('"{{ row.title }}"', '"Outage {{ row.id }}"'))
    world.servicenow.arm("adc_502", method="POST")
    world.send(insert("outages", row, id="e"))
    world.clock.advance(90_000)
    world.send(cron("servicenow_housekeeping"))

    assert [letter.event for letter in world.ledger.deliveries.dead_letters()] == ["e"]


def test_a_table_that_loses_its_rule_again_is_told_again(world: World) -> None:
    world.start(rules=RULES.replace("public.outages", "public.others"))
    world.send(insert("outages", OPEN))
    world.start(rules=RULES)
    world.send(insert("outages", OPEN))
    over = len(world.mails)
    world.clock.advance(1000)
    world.start(rules=RULES.replace("public.outages", "public.others"))
    world.send(insert("outages", outage(2)))

    assert (over, len(world.mails)) == (2, 3)


def test_a_fault_of_ours_in_the_middle_of_the_work_is_tried_again_and_holds_nobody(
    world: World,
) -> None:
    world.send(insert("outages", OPEN))
    world.query("""UPDATE servicenow.ticket SET known = '{"short_description": 5}'""")
    answer = world.send(update("outages", OPEN, outage(title="Worse")))
    other = world.send(insert("outages", outage(2)))

    assert (answer.status, answer.said) == (503, "retrying fault")
    assert answer.retry_after is not None
    assert other.status == 200


def test_a_fault_of_ours_before_the_work_is_a_500_and_holds_nobody(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.query("UPDATE servicenow.ticket SET trail = 'broken'")
    answer = world.send(update("outages", OPEN, FIXED))
    other = world.send(insert("outages", outage(2)))

    assert (answer.status, answer.retry_after, other.status) == (500, None, 200)


def test_requests_do_not_queue_behind_a_database_that_is_away() -> None:
    with World(database_url="postgresql://nobody@127.0.0.1:1/nowhere") as world:
        started = time.monotonic()
        with ThreadPoolExecutor(12) as pool:
            answers = list(
                pool.map(lambda number: world.send(insert("outages", outage(number))), range(12))
            )

        assert {answer.status for answer in answers} == {503}
        assert time.monotonic() - started < 15


def test_a_403_whose_look_fails_too_keeps_its_doubt(world: World) -> None:
    world.servicenow.arm("commit_then_403", method="POST")
    world.servicenow.arm("unavailable_503", method="GET")
    created, deleted = insert("outages", OPEN), delete("outages", OPEN, created_at=LATER)
    world.send(created)
    heal(world, deleted, created)

    assert [row["state"] for row in world.incidents] == ["6"]


def test_a_403_whose_look_fails_too_makes_no_second_ticket_where_the_sys_id_is_not_honoured() -> (
    None
):
    with World(honours_sys_id=False) as world:
        world.servicenow.arm("commit_then_403", method="POST")
        world.servicenow.arm("unavailable_503", method="GET")
        created = insert("outages", OPEN)
        world.send(created)
        world.clock.advance(10)
        heal(world, created)

        assert len(world.incidents) == 1


TWO = RULES + RULES.partition("rules:\n")[2].replace("name: outage", "name: second")


def test_an_instance_that_does_not_know_a_rule_yet_leaves_what_it_has_alone() -> None:
    with World(rules=TWO) as world:
        world.servicenow.arm("acl_flap_403", times=None, method="POST")
        body = insert("outages", OPEN, id="e")
        world.send(body)
        world.servicenow.disarm()
        world.start(rules=RULES)
        old = world.send(body)
        world.start(rules=TWO)
        new = world.send(body)

        assert (old.status, new.status) == (200, 200)
        assert len(world.incidents) == 2


def test_what_a_mistaken_rule_did_not_want_is_wanted_again_by_a_better_one(world: World) -> None:
    world.servicenow.arm("unavailable_503", method="POST")
    body = insert("outages", OPEN, id="e")
    world.send(body)
    world.start(rules=RULES.replace("row.severity in ['major', 'critical']", "false"))
    skipped = world.send(body)
    world.start(rules=RULES)
    [answer] = heal(world, body)

    assert (skipped.said, answer.said, len(world.incidents)) == ("skipped when_false", "created", 1)


def test_a_persons_resolve_stays_when_a_late_writer_wrote_only_the_title(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.query(
        """UPDATE servicenow.ticket SET stale_writes = 1, stale_fields = '["short_description"]'"""
    )
    world.servicenow.change(
        "incident",
        world.incident["sys_id"],
        state="Resolved",
        close_code="Duplicate",
        close_notes="A person's",
    )
    world.send(update("outages", OPEN, outage(title="Worse"), created_at=LATER))

    assert said(world.incident) == ("Worse", "6")


def test_a_recreated_ticket_follows_the_one_its_predecessor_followed() -> None:
    recreate = RULES.replace(
        "      resolve_when:", "      on_missing: recreate\n      resolve_when:"
    )
    with World(rules=recreate, honours_sys_id=False) as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, created_at=LATER))
        world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
        world.send(update("outages", FIXED, OPEN, created_at=LATEST))
        closed, second = world.incidents
        world.servicenow.remove("incident", second["sys_id"])
        world.send(update("outages", OPEN, outage(title="Worse"), created_at="2026-03-04T05:06:10"))

        assert [said(row) for row in world.incidents] == [
            (closed["short_description"], "7"),
            ("Worse", "1"),
        ]
        assert world.incidents[1]["parent_incident"] == closed["sys_id"]


EACH = """
version: 1
rules:
  - name: items
    from: hasura/public.meetings
    each: row.items
    ticket: {key: "{{ row.id }}/{{ item.id }}", fields: {short_description: "{{ item.id }}"}}
"""


def test_a_long_list_is_answered_in_time_and_done_over_a_few_deliveries() -> None:
    with World(rules=EACH, DEADLINE_SECONDS="2", SERVICENOW_TIMEOUT_SECONDS="1") as world:
        world.servicenow.arm("slow", seconds=0.05, times=None)
        body = insert("meetings", {"id": 1, "items": [{"id": number} for number in range(60)]})
        spent, waits = [], []
        for _ in range(12):
            started = time.monotonic()
            answer = world.send(body)
            spent.append(time.monotonic() - started)
            if answer.status == 200:
                break
            waits.append(answer.retry_after)
            world.clock.advance(answer.retry_after or 0)

        assert len(world.incidents) == 60
        assert len(waits) >= 1
        assert max(spent) < 2.5
        assert all(wait is not None and wait <= 6 for wait in waits)


@pytest.mark.parametrize("deadline", ["1", "2.5"])
def test_a_small_deadline_still_delivers(deadline: str) -> None:
    with World(DEADLINE_SECONDS=deadline, SERVICENOW_TIMEOUT_SECONDS="1") as world:
        assert world.send(insert("outages", OPEN)).said == "created"


def test_a_suspect_that_cannot_be_read_stops_no_housekeeping(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.send(insert("outages", outage(2)))
    world.query("UPDATE servicenow.ticket SET suspect_until = 1")
    world.query("UPDATE servicenow.ticket SET trail = 'broken' WHERE key = '1'")
    first = world.send(cron("servicenow_housekeeping"))
    second = world.send(cron("servicenow_housekeeping"))

    assert (first.body["housekeeping"]["settled"], second.body["housekeeping"]["settled"]) == (1, 0)
    assert second.status == 200


def test_a_suspicion_without_a_ticket_costs_no_event(world: World) -> None:
    world.send(update("outages", MINOR, outage(severity="minor", title="x")))
    world.query("UPDATE servicenow.ticket SET stale_writes = 1")
    answers = heal(
        world, update("outages", outage(severity="minor", title="x"), MINOR, created_at=LATER)
    )

    assert [answer.status for answer in answers] == [200]


def test_a_resolve_that_committed_under_a_403_is_seen_by_looking() -> None:
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_then_403", method="PATCH")
        resolved = world.send(update("outages", OPEN, FIXED, created_at=LATER))
        reopened = world.send(update("outages", FIXED, OPEN, created_at=LATEST))

        assert [answer.said for answer in (resolved, reopened)] == ["resolved", "reopened"]
        assert world.incident["state"] == "2"


def test_a_refused_change_whose_look_fails_too_is_in_doubt_and_looked_at_again() -> None:
    change = update("outages", OPEN, outage(title="Worse"), created_at=LATER)
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_then_403", method="PATCH")
        world.servicenow.arm("adc_502", method="GET")
        doubted = world.send(change)
        [healed] = heal(world, change)

        assert doubted.status == 503
        assert healed.status == 200
        assert said(world.incident) == ("Worse", "1")


FIRST = insert("outages", OPEN, created_at="2026-03-04T05:06:01", id="first")
GONE = delete("outages", OPEN, created_at="2026-03-04T05:06:02", id="gone")
SECOND = insert(
    "outages",
    outage(severity="minor", title="Second life"),
    created_at="2026-03-04T05:06:03",
    id="second",
)


@pytest.mark.parametrize("order", list(itertools.permutations([FIRST, GONE, SECOND])))
def test_a_row_inserted_again_that_deserves_no_ticket_leaves_the_former_rows_ended(
    order: tuple[bytes, ...],
) -> None:
    with World() as world:
        for event in order:
            world.send(event)
        world.send(cron("servicenow_housekeeping"))

        assert [said(row) for row in world.incidents] in ([], [(OPEN["title"], "6")])


def test_a_deletion_in_doubt_and_a_row_that_deserves_no_ticket_inserted_again() -> None:
    with World() as world:
        world.send(FIRST)
        world.servicenow.arm("commit_then_500", method="PATCH")
        world.send(GONE)
        heal(world, SECOND, GONE)

        assert said(world.incident) == (OPEN["title"], "6")


def test_a_row_inserted_again_is_followed_from_when_it_deserves_its_ticket() -> None:
    second = outage(severity="minor", title="Second life")
    changed = second | {"title": "Changed"}
    up = changed | {"severity": "major"}
    with World() as world:
        for event in (FIRST, GONE, SECOND):
            world.send(event)
        world.send(update("outages", second, changed, created_at="2026-03-04T05:06:04"))
        unwanted = said(world.incident)
        world.send(update("outages", changed, up, created_at="2026-03-04T05:06:05"))

        assert unwanted == (OPEN["title"], "6")
        assert said(world.incident) == ("Changed", "2")


def test_a_closed_ticket_is_followed_by_a_new_one_once_its_row_deserves_one_again() -> None:
    fixed = outage(status="fixed")
    minor = outage(severity="minor")
    with World() as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, fixed, created_at="2026-03-04T05:06:08"))
        world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
        undeserving = world.send(update("outages", fixed, minor, created_at="2026-03-04T05:06:09"))
        world.send(update("outages", minor, OPEN, created_at="2026-03-04T05:06:10"))

        assert undeserving.said == "skipped when_false"
        assert [row["state"] for row in world.incidents] == ["7", "1"]


def test_a_change_committed_under_a_403_is_found_though_reads_lag_for_a_moment() -> None:
    worse = outage(title="Worse")
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_then_403", method="PATCH")
        world.servicenow.arm("stale_read", method="GET")
        changed = world.send(update("outages", OPEN, worse, created_at=LATER))
        world.send(update("outages", worse, OPEN, created_at=LATEST))

        assert changed.said == "updated"
        assert said(world.incident) == (OPEN["title"], "1")


def test_a_change_that_seems_refused_is_sent_back_all_the_same_where_reads_lag_for_long() -> None:
    worse = outage(title="Worse")
    with World() as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("commit_then_403", method="PATCH")
        world.servicenow.arm("stale_read", method="GET", times=2)
        refused = world.send(update("outages", OPEN, worse, created_at=LATER))
        world.send(update("outages", worse, OPEN, created_at=LATEST))

        assert refused.said == "dead refused_by_acl"
        assert said(world.incident) == (OPEN["title"], "1")


def test_a_create_committed_under_a_403_is_found_though_reads_lag_for_a_moment() -> None:
    with World() as world:
        world.servicenow.arm("commit_then_403", method="POST")
        world.servicenow.arm("stale_read", method="GET")
        answer = world.send(insert("outages", OPEN))

        assert answer.said == "created"
        assert len(world.incidents) == 1


def test_a_row_inserted_again_that_needs_no_ticket_is_not_taken_for_the_deleted_one() -> None:
    second = outage(severity="minor", title="Second life")
    up = second | {"severity": "major"}
    with World() as world:
        world.send(insert("outages", OPEN, created_at="2026-03-04T05:06:01"))
        world.send(delete("outages", OPEN, created_at="2026-03-04T05:06:02"))
        world.send(insert("outages", second, created_at="2026-03-04T05:06:03"))
        world.send(update("outages", second, up, created_at="2026-03-04T05:06:04"))
        world.send(update("outages", up, second, created_at="2026-03-04T05:06:05"))

        assert said(world.incident) == ("Second life", "2")


@pytest.mark.parametrize(
    ("row", "state"), [(FIXED, "2"), (OPEN, "6")], ids=["and the row is open", "and is gone"]
)
def test_a_create_that_stood_still_before_its_post_is_found(
    row: dict[str, object], state: str
) -> None:
    """For longer than its lease and the 60 s after which another worker takes for settled that
    there is no ticket."""
    created = insert("outages", row, id="stood still")
    with World(instances=2) as world:
        world.send(insert("outages", outage("other")))

        def meanwhile(place: Failpoint) -> None:
            if place == "before_call":
                listen(None)
                world.clock.advance(150)
                world.send(delete("outages", row, created_at=LATEST), instance=1)

        listen(meanwhile)
        world.send(created)
        listen(None)
        if state == "2":
            world.send(insert("outages", OPEN, created_at="2026-03-04T05:06:10"))
        heal(world, created)
        world.clock.advance(1000)
        world.send(cron("servicenow_housekeeping"))
        ticket = world.incidents[1]

    assert ticket["state"] == state


@pytest.mark.parametrize(
    ("before", "after", "state"), [(FIXED, OPEN, "2"), (OPEN, FIXED, "6")], ids=["reopen", "fix"]
)
def test_a_read_that_lags_behind_our_last_write_is_not_taken_for_the_ticket(
    before: dict[str, object], after: dict[str, object], state: str
) -> None:
    with World() as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
        if before is OPEN:
            world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))
        world.servicenow.arm("stale_read", method="GET", times=2)
        change = update("outages", before, after, created_at="2026-03-04T05:06:10")
        lagging = world.send(change)
        [healed] = heal(world, change)

        assert (lagging.status, lagging.said) == (503, "retrying servicenow_bad_answer")
        assert healed.status == 200
        assert world.incident["state"] == state


@pytest.mark.parametrize("fault", ["reset", "commit_then_reset", "commit_then_500"])
def test_a_lost_ledger_and_then_a_doubt_do_not_hide_the_last_generation(fault: str) -> None:
    worse = outage(title="Worse")
    with World() as world:
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
        world.servicenow.change("incident", world.incident["sys_id"], state="7")
        world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))
        world.forget()
        world.servicenow.arm(fault, method="POST")
        heal(world, update("outages", OPEN, worse, created_at="2026-03-04T05:06:10"))
        fixed = worse | {"status": "fixed"}
        heal(world, update("outages", worse, fixed, created_at="2026-03-04T05:06:11"))

        assert [said(row) for row in world.incidents] == [(OPEN["title"], "7"), ("Worse", "6")]


def test_a_crowd_of_rows_that_name_an_unknown_group_asks_for_it_once() -> None:
    rules = RULES.replace(
        "        short_description:", "        assignment_group: Nobody\n        short_description:"
    )
    with World(rules=rules) as world:
        world.servicenow.arm("slow", table="sys_user_group", seconds=1.0)
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda n: world.send(insert("outages", outage(n))), range(12)))

        assert {answer.said for answer in answers} == {"dead unknown_reference"}
        assert world.calls().count("GET sys_user_group") <= 3


def test_a_sqlite_ledger_that_is_full_costs_no_event() -> None:
    body = insert("outages", OPEN)
    with World() as world:
        [pages] = world.query("PRAGMA page_count")
        # Of the connection that the function goes on with.
        world.query(f"PRAGMA max_page_count = {pages['page_count']}")
        answers = [
            world.send(insert("outages", outage(id=number, title="x" * 4000)))
            for number in range(2, 30)
        ]
        full = [answer for answer in answers if answer.status == 503]
        calls = world.calls()
        world.query("PRAGMA max_page_count = 1000000")
        [healed] = heal(world, body)

        assert full
        assert all(answer.retry_after for answer in full)
        assert calls.count("POST incident") == len(world.incidents) - 1
        assert healed.said == "created"


@pytest.mark.parametrize("how", ["by hand", "before its INSERT"])
def test_a_row_below_when_under_a_deleted_rows_key_leaves_that_ones_ticket_resolved(
    world: World, how: str
) -> None:
    minor, slower = outage(severity="minor", title="Slow"), outage(severity="minor", title="Slower")
    world.send(insert("outages", outage(), created_at="2026-03-04T05:06:01"))
    world.send(delete("outages", outage(), created_at="2026-03-04T05:06:02"))
    born = insert("outages", minor, created_at="2026-03-04T05:06:03")
    if how == "by hand":
        world.send(born)
        world.send(manual("outages", minor, created_at="2026-03-04T05:06:04"))
    else:
        world.send(update("outages", minor, slower, created_at="2026-03-04T05:06:04"))
        world.send(born)

    assert world.incident["state"] == "6"
