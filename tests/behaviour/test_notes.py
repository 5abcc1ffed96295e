"""Comments of the app on the tickets of their rows: one entry each, and one for each edit."""

import json
import random
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import pytest

from function.ledger.records import IN_DOUBT_SECONDS
from tests.payloads import cron, delete, encode, insert, manual, update
from tests.world import ROW_TEXT, RULES, Answered, World, outage

NOTES = (
    RULES
    + """
  - name: comment
    from: hasura/public.outage_comments
    note:
      ticket: outage
      for: "{{ row.outage_id }}"
      key: "{{ row.id }}"
      field: comments
      text: "{{ row.author }}: {{ row.body }}"
"""
)
OPEN = outage()
FIRST, LATER, LAST = "2026-03-04T05:06:08", "2026-03-04T05:06:09", "2026-03-04T05:06:10"
OURS = {"x-hasura-role": "app", "X-Hasura-ServiceNow-Event": "4711"}
LOST = ["commit_then_500", "commit_then_reset", "commit_then_403", "partial_200", "truncated_200"]
NOT_WRITTEN = ["reset", "error_500", "adc_502", "unavailable_503", "acl_flap_403"]
NOT_PROCESSED = ["session_sync_202", "semaphore_429", "rate_limit_429", "hibernating_html_200"]


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world with a ticket, once on each database."""
    url = request.getfixturevalue("postgresql_shared") if request.param == "postgresql" else None
    with World(rules=NOTES, database_url=url) as world:
        if url:
            world.forget()
        prepare(world)
        yield world


def prepare(world: World) -> None:
    """A ticket, on an instance where people write journals too."""
    world.send(insert("outages", OPEN))
    world.servicenow.change("incident", world.incident["sys_id"], work_notes="Called the caller")
    world.servicenow.forget()


def comment(id: object = 7, **columns: object) -> dict[str, object]:
    """A row of public.outage_comments."""
    row: dict[str, object] = {"id": id, "outage_id": 1, "author": "Ada", "body": f"Down {ROW_TEXT}"}
    return row | columns


def entries(world: World, element: str = "comments") -> list[tuple[str, str]]:
    """The journal: whose ticket's, and the text without its marker, oldest first."""
    tickets = {row["sys_id"]: row["correlation_id"].rpartition(":")[2] for row in world.incidents}
    return [
        (tickets.get(row["element_id"], "?"), row["value"].rpartition("\n[hasura:")[0])
        for row in world.servicenow.rows("sys_journal_field")
        if row["element"] == element
    ]


def texts(world: World) -> list[str]:
    return [text for _, text in entries(world)]


def settled(world: World, body: bytes, *, times: int = 12) -> Answered:
    """Redeliver *body* as Hasura does, after each Retry-After, until it is done."""
    for _ in range(times):
        answer = world.send(body)
        if answer.status == 200:
            return answer
        assert (answer.status, answer.retry_after is not None) == (503, True), answer
        world.clock.advance(answer.retry_after or 0)
    raise AssertionError("never done")


def post(body: str = f"Down {ROW_TEXT}", **over: str) -> bytes:
    return insert("outage_comments", comment(body=body), id="e", created_at=FIRST, **over)  # type: ignore[arg-type]  # a test's own


def edit(old: str, new: str, at: str = LATER, id: str = "") -> bytes:
    return update(
        "outage_comments", comment(body=old), comment(body=new), created_at=at, id=id or f"e{new}"
    )


def send_to(world: World, body: bytes, instance: int) -> Answered:
    return world.send(body, instance=instance)


# Clean


def test_a_comment_is_one_entry_with_its_marker_and_costs_one_call(world: World) -> None:
    answer = world.send(post())

    assert (answer.said, answer.outcome["ticket"]) == ("created", world.incident["number"])
    assert world.calls() == ["PATCH incident"]
    [_, row] = world.servicenow.rows("sys_journal_field")
    text, _, marker = row["value"].rpartition("\n")
    assert (row["element"], text) == ("comments", f"Ada: Down {ROW_TEXT}")
    assert (marker[:8], len(marker)) == ("[hasura:", 25)


def test_nothing_is_sent_with_the_comment_but_the_journal_s_field(world: World) -> None:
    before = world.incident
    world.send(post())

    changed = {column for column, value in world.incident.items() if value != before.get(column)}
    assert changed <= {"sys_mod_count", "sys_updated_on", "sys_updated_by"}


def test_a_work_note_goes_to_the_other_journal() -> None:
    with World(rules=NOTES.replace("field: comments", "field: work_notes")) as world:
        prepare(world)
        world.send(post("Seen"))

        assert entries(world) == []
        assert entries(world, "work_notes")[1] == ("1", "Ada: Seen")


def test_the_same_event_again_is_no_second_entry(world: World) -> None:
    world.send(post("Down"))
    world.calls()

    assert world.send(post("Down")).said == "unchanged"
    assert (texts(world), world.calls()) == (["Ada: Down"], [])


def test_one_text_in_two_comments_is_two_entries(world: World) -> None:
    world.send(insert("outage_comments", comment(7, body="+1")))
    world.send(insert("outage_comments", comment(8, body="+1")))
    [one, other] = [
        row["value"] for row in world.servicenow.rows("sys_journal_field") if "+1" in row["value"]
    ]

    assert texts(world) == ["Ada: +1", "Ada: +1"]
    assert one != other


def test_an_edit_is_an_entry_of_its_own_that_says_so(world: World) -> None:
    world.send(post("Down"))

    assert world.send(edit("Down", "Up")).said == "updated"
    assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_an_update_that_changes_no_word_of_the_text_is_none(world: World) -> None:
    world.send(post("Down"))
    world.calls()
    row = comment(body="Down")
    answer = world.send(update("outage_comments", row, row | {"likes": 3}, created_at=LATER))

    assert (answer.said, world.calls()) == ("unchanged", [])


def test_an_edit_back_and_forth_is_an_entry_each_time(world: World) -> None:
    world.send(post("A"))
    for old, new, at in (("A", "B", LATER), ("B", "A", LAST), ("A", "B", "2026-03-04T05:06:11")):
        world.send(edit(old, new, at, id=at))

    assert texts(world) == ["Ada: A", "edited: Ada: B", "edited: Ada: A", "edited: Ada: B"]


def test_an_event_invoked_by_hand_says_what_was_not_said_and_nothing_twice(world: World) -> None:
    assert world.send(manual("outage_comments", comment(body="Down"))).said == "created"
    assert world.send(manual("outage_comments", comment(body="Down"))).said == "unchanged"
    assert texts(world) == ["Ada: Down"]


def test_a_row_whose_when_is_false_by_now_is_not_told_of() -> None:
    rules = NOTES.replace("    note:", "    when: not row.internal\n    note:")
    with World(rules=rules) as world:
        prepare(world)
        shown, hidden = comment(internal=False), comment(internal=True, body="A secret")
        world.send(insert("outage_comments", shown, created_at=FIRST))
        answer = world.send(update("outage_comments", shown, hidden, created_at=LATER))

        assert answer.said == "skipped when_false"
        assert len(texts(world)) == 1


def test_a_comment_on_a_shared_ticket_goes_to_it() -> None:
    shared = RULES.replace('key: "{{ row.id }}"', "key: all\n      shared: true")
    rules = NOTES.replace(RULES, shared).replace('for: "{{ row.outage_id }}"', "for: all")
    with World(rules=rules) as world:
        prepare(world)

        assert world.send(post("Down")).said == "created"
        assert entries(world) == [("all", "Ada: Down")]


def test_a_text_can_switch_on_no_html_and_forge_no_marker(world: World) -> None:
    world.send(post("[code]<b>x</b>[/CODE] [ /code ] [hasura:0123456789abcdef] [codes]"))

    assert texts(world) == [
        "Ada: ［code]<b>x</b>［/CODE] ［ /code ] ［hasura:0123456789abcdef] [codes]"
    ]


def test_a_long_text_is_cut_and_keeps_its_marker(world: World) -> None:
    world.send(post("x" * 5000))
    value = world.servicenow.rows("sys_journal_field")[-1]["value"]

    assert len(value) <= 4000
    assert value.partition("…")[2].startswith("\n[hasura:")


# The cases of a desk that works from both sides (docs/rules.md)


def test_nothing_known_creates_the_ticket_and_its_comment_follows() -> None:
    with World(rules=NOTES) as world:
        body = post("Down")
        waits = world.send(body)
        world.send(insert("outages", OPEN))
        world.clock.advance(waits.retry_after or 0)
        world.send(body)

        assert world.calls() == ["POST incident", "PATCH incident"]
        assert entries(world) == [("1", "Ada: Down")]


def test_a_known_ticket_and_a_new_comment_send_the_comment_and_nothing_else(world: World) -> None:
    world.send(post("Down"))

    assert world.calls() == ["PATCH incident"]
    assert texts(world) == ["Ada: Down"]


def test_where_both_are_known_only_progress_is_sent(world: World) -> None:
    world.send(post("Down"))
    world.calls()
    world.send(update("outages", OPEN, outage(title="Worse"), created_at=LATER))
    of_the_ticket = world.calls()
    world.send(edit("Down", "Up"))

    assert (of_the_ticket, world.calls()) == (["PATCH incident"], ["PATCH incident"])
    assert world.incident["short_description"] == "Worse"
    assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_what_is_repeated_sends_nothing(world: World) -> None:
    bodies = [insert("outages", OPEN, id="o"), post("Down"), edit("Down", "Up", id="u")]
    for body in bodies:
        world.send(body)
    world.calls()
    for body in bodies:
        world.send(body)
        again = encode(json.loads(body) | {"id": str(uuid.uuid4())})
        world.send(again)

    assert world.calls() == []
    assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


# Order


@pytest.mark.parametrize("count", [2, 3])
def test_an_insert_that_arrives_after_the_edits_adds_nothing(world: World, count: int) -> None:
    ats = [LATER, LAST, "2026-03-04T05:06:11"][:count]
    for number, at in enumerate(ats):
        world.send(edit(str(number), str(number + 1), at))
    answer = world.send(post("0"))

    assert answer.said == "superseded"
    assert texts(world)[0] == "Ada: 1"
    assert texts(world)[1:] == [f"edited: Ada: {number}" for number in range(2, count + 1)]


def test_a_comment_that_is_edited_twice_in_an_outage_is_one_entry_more(world: World) -> None:
    world.send(post("Down"))
    world.servicenow.arm("unavailable_503", method="PATCH", times=None)
    world.servicenow.arm("unavailable_503", method="GET", times=None)
    one, two = edit("Down", "Slow"), edit("Slow", "Up", LAST)
    assert [world.send(body).status for body in (one, two)] == [503, 503]
    world.servicenow.disarm()
    world.clock.advance(3600)

    assert [settled(world, one).said, settled(world, two).said] == ["updated", "unchanged"]
    assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_a_comment_that_is_deleted_before_it_was_sent_is_not_sent(world: World) -> None:
    world.servicenow.arm("semaphore_429", method="PATCH")
    body = post("Down")
    assert world.send(body).status == 503
    gone = world.send(delete("outage_comments", comment(body="Down"), created_at=LATER))
    world.clock.advance(60)

    assert gone.said == "skipped row_gone"
    assert world.send(body).said == "superseded"
    assert texts(world) == []


def test_a_comment_that_is_deleted_afterwards_stays_for_a_journal_forgets_nothing(
    world: World,
) -> None:
    world.send(post("Down"))
    world.calls()
    answer = world.send(delete("outage_comments", comment(body="Down"), created_at=LATER))

    assert (answer.said, world.calls()) == ("skipped row_gone", [])
    assert texts(world) == ["Ada: Down"]


def test_a_comment_that_is_replaced_by_the_same_in_one_transaction_is_one_entry(
    world: World,
) -> None:
    world.send(post("Down"))
    world.send(delete("outage_comments", comment(body="Down"), created_at=LATER))
    world.send(insert("outage_comments", comment(body="Down"), created_at=LATER))

    assert texts(world) == ["Ada: Down"]


def test_an_update_that_the_rule_does_not_hear_is_not_told() -> None:
    with World(rules=NOTES.replace("    note:", "    ops: [INSERT]\n    note:")) as world:
        prepare(world)
        world.send(post("Down"))

        assert world.send(edit("Down", "Up")).body["outcomes"] == []
        assert texts(world) == ["Ada: Down"]


# The ticket


def test_a_comment_that_comes_before_its_ticket_waits_for_it() -> None:
    with World(rules=NOTES) as world:
        body = insert("outage_comments", comment(body="Down"), id="e")
        first = world.send(body)
        world.send(insert("outages", OPEN))
        world.clock.advance(first.retry_after or 0)

        assert (first.status, first.said) == (503, "retrying no_ticket")
        assert world.send(body).said == "created"
        assert entries(world) == [("1", "Ada: Down")]


def test_a_comment_on_a_row_that_gets_no_ticket_is_let_go_after_two_minutes() -> None:
    with World(rules=NOTES) as world:
        world.send(insert("outages", outage(severity="minor")))
        body = insert("outage_comments", comment(body="Down"), id="e")
        world.calls()
        first = world.send(body)
        waiting = world.calls()
        world.clock.advance(121)
        last = world.send(body)

        assert (first.status, waiting) == (503, [])
        assert (last.status, last.said) == (200, "skipped no_ticket")
        assert world.calls() == ["GET incident", "GET incident"]
        assert world.mails == []


def test_a_comment_waits_for_as_long_as_its_ticket_is_under_way() -> None:
    with World(rules=NOTES) as world:
        world.servicenow.arm("semaphore_429", method="POST", times=None)
        ticket, body = insert("outages", OPEN, id="t"), insert("outage_comments", comment(), id="e")
        assert world.send(ticket).status == 503
        world.send(body)
        world.clock.advance(7200)
        later = world.send(body)
        world.servicenow.disarm()
        settled(world, ticket)

        assert (later.status, later.said) == (503, "retrying no_ticket")
        assert settled(world, body).said == "created"
        assert not [mail for mail in world.mails if "comment" in mail["Subject"]]


def test_a_comment_without_a_row_of_its_own_is_let_go_at_once(world: World) -> None:
    answer = world.send(insert("outage_comments", comment(outage_id=None)))

    assert (answer.said, world.calls()) == ("skipped no_ticket", [])


def test_a_comment_goes_to_the_ticket_that_people_work_on() -> None:
    with World(
        rules=NOTES.replace("resolve_when", "after_close: new\n      resolve_when")
    ) as world:
        prepare(world)
        fixed = outage(status="fixed")
        world.send(insert("outage_comments", comment(7, body="Old")))
        world.send(update("outages", OPEN, fixed, created_at=FIRST))
        world.send(update("outages", fixed, OPEN, created_at=LATER))
        world.send(insert("outage_comments", comment(8, body="New")))
        old, new = world.incidents
        said = {
            row["value"][:8]: row["element_id"]
            for row in world.servicenow.rows("sys_journal_field")
        }

        assert (said["Ada: Old"], said["Ada: New"]) == (old["sys_id"], new["sys_id"])


def test_an_edit_on_a_ticket_that_has_the_comment_not_yet_is_the_comment(world: World) -> None:
    world.send(insert("outages", outage(2)))
    world.send(post("Down"))
    moved = comment(body="Down", outage_id=2)
    world.send(update("outage_comments", comment(body="Down"), moved, created_at=LATER))

    assert entries(world) == [("1", "Ada: Down"), ("2", "Ada: Down")]


@pytest.mark.parametrize(
    ("on_missing", "status", "said"),
    [
        ("fail", 422, "dead ticket_not_found"),
        ("ignore", 200, "skipped ticket_missing"),
    ],
)
def test_a_ticket_that_people_deleted_is_as_its_own_rule_says(
    on_missing: str, status: int, said: str
) -> None:
    rules = NOTES.replace("resolve_when", f"on_missing: {on_missing}\n      resolve_when")
    with World(rules=rules) as world:
        prepare(world)
        world.servicenow.tables.delete("incident", world.incident["sys_id"])
        answer = world.send(post("Down"))

        assert (answer.status, answer.said) == (status, said)


def test_a_ticket_that_is_to_be_made_anew_is_waited_for() -> None:
    rules = NOTES.replace("resolve_when", "on_missing: recreate\n      resolve_when")
    with World(rules=rules) as world:
        prepare(world)
        world.servicenow.tables.delete("incident", world.incident["sys_id"])
        body = post("Down")
        first = world.send(body)
        world.send(update("outages", OPEN, outage(title="Worse"), created_at=LATER))
        world.clock.advance(first.retry_after or 0)

        assert (first.status, first.said) == (503, "retrying no_ticket")
        assert world.send(body).said == "created"
        assert entries(world) == [("1", "Ada: Down")]


def test_a_closed_ticket_that_takes_no_comments_is_said_to_be_closed(world: World) -> None:
    world.servicenow.change(
        "incident",
        world.incident["sys_id"],
        state="Closed",
        close_code="Solution provided",
        close_notes="Done",
    )
    world.servicenow.arm("acl_403", method="PATCH")
    answer = world.send(post("Down"))

    assert (answer.status, answer.said) == (422, "dead refused_by_acl")
    assert any("the ticket is closed" in " ".join(str(mail).split()) for mail in world.mails)


# From ServiceNow


def test_a_comment_that_came_from_servicenow_is_not_sent_back(world: World) -> None:
    body = insert("outage_comments", comment(body="Hello"), session_variables=OURS)
    answer = world.send(body)

    assert (answer.said, world.calls()) == ("skipped from_servicenow", [])
    assert texts(world) == []


def test_an_edit_of_a_comment_that_came_from_servicenow_is_sent_as_one(world: World) -> None:
    world.send(
        insert("outage_comments", comment(body="Hello"), created_at=FIRST, session_variables=OURS)
    )
    row = comment(body="Hello")
    world.send(update("outage_comments", row, row | {"likes": 1}, created_at=FIRST))

    assert texts(world) == []
    assert world.send(edit("Hello", "Hello!")).said == "updated"
    assert texts(world) == ["edited: Ada: Hello!"]


def test_an_edit_by_a_mutation_of_ours_is_told_as_any_other(world: World) -> None:
    rows = comment(body="Down"), comment(body="Up")
    world.send(update("outage_comments", *rows, created_at=LATER, session_variables=OURS))
    world.send(post("Down"))

    assert texts(world) == ["Ada: Up"]


def test_an_edit_that_comes_before_the_insert_from_servicenow_is_said_once(world: World) -> None:
    world.send(edit("Hello", "Hello!"))
    late = insert(
        "outage_comments", comment(body="Hello"), created_at=FIRST, session_variables=OURS
    )

    assert world.send(late).said == "superseded"
    assert texts(world) == ["Ada: Hello!"]


# Doubt


@pytest.mark.parametrize("fault", LOST)
def test_a_comment_whose_answer_was_lost_is_found_in_the_journal_at_once(
    world: World, fault: str
) -> None:
    world.servicenow.arm(fault, method="PATCH")
    answer = world.send(post("Down"))

    assert (answer.status, answer.said) == (200, "created")
    assert world.calls() == ["PATCH incident", "GET sys_journal_field"]
    assert texts(world) == ["Ada: Down"]


@pytest.mark.parametrize("fault", NOT_WRITTEN)
def test_a_comment_that_is_not_in_the_journal_is_sent_again_once_that_counts(
    world: World, fault: str
) -> None:
    world.servicenow.arm(fault, method="PATCH")
    body = post("Down")
    first = world.send(body)
    world.calls()
    world.clock.advance(IN_DOUBT_SECONDS - 2)
    early = world.send(body)
    looked = world.calls()
    world.clock.advance(2)
    late = world.send(body)

    assert (first.status, early.status, late.said) == (503, 503, "created")
    assert first.retry_after is not None
    assert first.retry_after >= IN_DOUBT_SECONDS - 2
    assert (early.said, looked) == ("retrying in_doubt", ["GET sys_journal_field"])
    assert early.retry_after is not None
    assert early.retry_after <= 12
    assert texts(world) == ["Ada: Down"]


@pytest.mark.parametrize("fault", NOT_PROCESSED)
def test_a_comment_that_was_not_processed_is_sent_again_without_a_look(
    world: World, fault: str
) -> None:
    world.servicenow.arm(fault, method="PATCH")
    settled(world, post("Down"))

    assert "GET sys_journal_field" not in world.calls()
    assert texts(world) == ["Ada: Down"]


def test_a_comment_that_is_written_forty_seconds_after_its_time_out_is_one_entry(
    world: World,
) -> None:
    world.servicenow.arm("commit_late", method="PATCH", seconds=3600)
    body = post("Down")
    first = world.send(body)
    world.clock.advance(40)
    world.servicenow.commit_now()
    world.clock.advance(IN_DOUBT_SECONDS - 40)

    assert first.status == 503
    assert world.send(body).said == "unchanged"
    assert texts(world) == ["Ada: Down"]


def test_an_edit_waits_until_it_is_known_what_became_of_the_one_before(world: World) -> None:
    world.servicenow.arm("commit_late", method="PATCH", seconds=3600)
    first, second = post("Down"), edit("Down", "Up")
    world.send(first)
    early = world.send(second)
    world.servicenow.commit_now()
    world.clock.advance(early.retry_after or 0)
    late = world.send(second)

    assert (early.said, late.said) == ("retrying in_doubt", "updated")
    assert world.send(first).said == "superseded"
    assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_the_same_words_again_are_not_taken_for_those_of_before(world: World) -> None:
    """A to B to A to B, and the last one's answer is lost, which was not written."""
    world.send(post("A"))
    world.send(edit("A", "B", LATER, id="1"))
    world.send(edit("B", "A", LAST, id="2"))
    world.servicenow.arm("reset", method="PATCH")
    settled(world, edit("A", "B", "2026-03-04T05:06:11", id="3"))

    assert texts(world) == ["Ada: A", "edited: Ada: B", "edited: Ada: A", "edited: Ada: B"]


def test_a_refused_comment_is_looked_for_before_it_is_replayed(world: World) -> None:
    """An instance that refuses what it wrote shows it a little later only."""
    world.servicenow.arm("acl_403", method="PATCH")
    dead = world.send(post("Down"))
    world.calls()
    world.clock.advance(IN_DOUBT_SECONDS)
    again = world.send(insert("outage_comments", comment(body="Down"), id="e", created_at=FIRST))

    assert (dead.status, dead.said) == (422, "dead refused_by_acl")
    assert again.said == "created"
    assert world.calls() == ["GET sys_journal_field", "GET sys_journal_field", "PATCH incident"]


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
    world.servicenow.arm(fault, method="PATCH")
    answer = world.send(post("Down"))

    assert (answer.status, answer.said) == (422, f"dead {reason}")
    assert texts(world) == []


def test_a_journal_that_may_not_be_read_leaves_the_doubt_and_says_what_is_missing(
    world: World,
) -> None:
    world.servicenow.arm("commit_then_500", method="PATCH")
    world.servicenow.arm("acl_403", method="GET", table="sys_journal_field", times=None)
    body = post("Down")
    dead = world.send(body)
    world.clock.advance(3600)
    again = world.send(body)
    world.servicenow.disarm()
    replayed = world.send(body)
    [mail] = [" ".join(str(mail).split()) for mail in world.mails][:1]

    assert (dead.status, dead.said) == (422, "dead refused_by_acl")
    assert (again.status, again.said) == (422, "dead refused_by_acl")
    assert "may not read sys_journal_field" in mail
    assert (replayed.status, texts(world)) == (200, ["Ada: Down"])


def test_a_journal_of_which_nothing_is_shown_is_not_taken_for_an_empty_one() -> None:
    """ServiceNow leaves rows out that the user may not read, and says nothing of that."""
    with World(rules=NOTES) as world:
        world.send(insert("outages", OPEN))
        world.servicenow.arm("reset", method="PATCH")
        body = post("Down")
        world.send(body)
        world.clock.advance(IN_DOUBT_SECONDS + 1)
        dead = world.send(body)
        replayed = world.send(body)

        assert (dead.status, dead.said) == (422, "dead in_doubt")
        assert (replayed.said, texts(world)) == ("created", ["Ada: Down"])


def test_an_entry_in_doubt_is_looked_for_by_the_housekeeping_and_not_sent(world: World) -> None:
    world.servicenow.arm("commit_late", method="PATCH", seconds=3600)
    world.send(post("Down"))
    world.servicenow.commit_now()
    world.clock.advance(IN_DOUBT_SECONDS + 1)
    world.calls()
    answer = world.send(cron("servicenow_housekeeping"))

    assert answer.body["housekeeping"]["settled"] == 1
    assert world.calls() == ["GET sys_journal_field"]
    assert world.send(post("Down")).said == "unchanged"
    assert texts(world) == ["Ada: Down"]


def test_a_comment_in_doubt_whose_row_is_deleted_is_not_sent_again(world: World) -> None:
    world.servicenow.arm("reset", method="PATCH")
    body = post("Down")
    world.send(body)
    gone = world.send(delete("outage_comments", comment(body="Down"), created_at=LATER))
    settled(world, body)

    assert gone.said == "skipped row_gone"
    assert texts(world) == []


def test_what_a_rule_of_the_instance_refused_was_not_written_and_is_sent_without_a_look(
    world: World,
) -> None:
    world.servicenow.arm("business_rule_403", method="PATCH")
    world.send(post("Down"))
    world.calls()

    assert world.send(post("Down")).said == "created"
    assert world.calls() == ["PATCH incident"]


def test_the_housekeeping_does_not_ask_for_ever_for_what_it_may_not_read(world: World) -> None:
    world.servicenow.arm("reset", method="PATCH")
    world.send(post("Down"))
    world.servicenow.arm("acl_403", method="GET", table="sys_journal_field", times=None)
    calls = []
    for _ in range(3):
        world.clock.advance(3600)
        world.calls()
        world.send(cron("servicenow_housekeeping"))
        calls += world.calls()
    world.servicenow.disarm()

    assert calls == ["GET sys_journal_field"]
    assert settled(world, post("Down")).said == "created"
    assert texts(world) == ["Ada: Down"]


# Several at a time, and a ledger that is lost


def test_two_instances_that_get_one_event_at_once_write_it_once() -> None:
    with World(rules=NOTES, instances=2) as world:
        prepare(world)
        for number in range(5):
            body = insert("outage_comments", comment(number, body="Down"), id=f"e{number}")
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(partial(send_to, world, body), (0, 1)))
            settled(world, body)

        assert texts(world) == ["Ada: Down"] * 5


def test_two_instances_that_get_a_comment_and_its_edit_at_once_end_with_the_edit() -> None:
    with World(rules=NOTES, instances=2) as world:
        prepare(world)
        bodies = [post("Down"), edit("Down", "Up")]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(send_to, [world] * 2, bodies, (0, 1)))
        for body in bodies:
            settled(world, body)

        assert texts(world) in (["Ada: Up"], ["Ada: Down", "edited: Ada: Up"])


@pytest.mark.parametrize("honours", [True, False])
def test_a_comment_that_comes_again_after_the_ledger_was_lost_is_found_in_the_journal(
    *, honours: bool
) -> None:
    with World(rules=NOTES, honours_sys_id=honours) as world:
        prepare(world)
        world.send(post("Down"))
        world.send(edit("Down", "Up", id="u"))
        world.forget()
        body = edit("Down", "Up", id="u")
        first = world.send(body)
        world.clock.advance(121)

        assert (first.status, first.said) == (503, "retrying no_ticket")
        assert settled(world, body).said == "unchanged"
        assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_an_edit_after_the_ledger_was_lost_is_known_to_be_one() -> None:
    with World(rules=NOTES) as world:
        prepare(world)
        world.send(post("Down"))
        world.forget()
        body = edit("Down", "Up")
        world.send(body)
        world.clock.advance(121)

        assert settled(world, body).said == "updated"
        assert texts(world) == ["Ada: Down", "edited: Ada: Up"]


def test_of_several_tickets_of_a_row_the_last_is_found_without_the_ledger() -> None:
    rules = NOTES.replace("resolve_when", "after_close: new\n      resolve_when")
    with World(rules=rules) as world:
        prepare(world)
        fixed = outage(status="fixed")
        world.send(update("outages", OPEN, fixed, created_at=FIRST))
        world.send(update("outages", fixed, OPEN, created_at=LATER))
        world.forget()
        body = post("Down")
        world.send(body)
        world.clock.advance(121)
        settled(world, body)
        [entry] = [
            row for row in world.servicenow.rows("sys_journal_field") if "Ada" in row["value"]
        ]

        assert entry["element_id"] == world.incidents[1]["sys_id"]


def test_a_stranger_s_record_at_the_ticket_s_address_gets_no_comment() -> None:
    with World(rules=NOTES) as world:
        prepare(world)
        world.servicenow.change("incident", world.incident["sys_id"], correlation_id="another's")
        world.forget()
        body = post("Down")
        world.send(body)
        world.clock.advance(121)

        assert world.send(body).said == "skipped no_ticket"
        assert texts(world) == []


def test_what_was_retried_before_the_ledger_knew_of_it_is_looked_for_first(world: World) -> None:
    world.send(post("Down"))
    world.query("DELETE FROM servicenow.ticket WHERE rule = 'comment'")
    world.query("DELETE FROM servicenow.delivery WHERE rule = 'comment'")
    world.calls()
    again = insert(
        "outage_comments", comment(body="Down"), id="e", created_at=FIRST, current_retry=2
    )

    assert world.send(again).said == "unchanged"
    assert world.calls() == ["GET sys_journal_field"]
    assert texts(world) == ["Ada: Down"]


# Lives at random


FAULTS = [*LOST, *NOT_WRITTEN, *["commit_late"] * 8, "semaphore_429", "session_sync_202"]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_the_order_and_the_faults_each_text_is_written_once_and_the_last_is_the_row_s(
    seed: int,
) -> None:
    draw = random.Random(seed)
    with World(rules=NOTES, instances=2) as world:
        prepare(world)
        versions = [str(number) for number in range(draw.randint(2, 5))]
        waiting = [post(versions[0])] + [
            edit(old, new, f"2026-03-04T05:07:{int(new):02}") for old, new in pairwise(versions)
        ]
        late = 0.0
        for _ in range(300):
            if not waiting:
                break
            body = draw.choice(waiting)
            if draw.random() < 0.4:
                world.servicenow.arm(draw.choice(FAULTS), method="PATCH", seconds=3600)
            answer = world.send(body, instance=draw.randrange(2))
            if answer.status == 200:
                waiting.remove(body)
                continue
            assert answer.status == 503, answer
            wait = draw.random() * (answer.retry_after or 0)
            late += wait
            if late > IN_DOUBT_SECONDS - 5 or draw.random() < 0.3:
                # What is written late is written before its minute is over.
                world.servicenow.commit_now()
                late = 0.0
            world.clock.advance(wait)
        world.servicenow.commit_now()
        said = [text.removeprefix("edited: ").removeprefix("Ada: ") for text in texts(world)]

        assert waiting == []
        assert said == sorted(set(said), key=int)
        assert said[-1] == versions[-1]
