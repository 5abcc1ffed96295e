"""Rows that name a ticket which is there already: born in ServiceNow, or of an earlier
integration."""

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from function.core.values import Json
from function.ledger.records import IN_DOUBT_SECONDS
from function.targets.ticket.address import address, correlation_id
from tests.payloads import cron, delete, insert, manual, update
from tests.world import RULES, Answered, World, outage, said

ADOPTING = RULES.replace(
    "      resolve_when:",
    "        description: \"{{ row.details or '' }}\"\n"
    "      sys_id: row.servicenow_sys_id\n"
    "      resolve_when:",
)
OURS = correlation_id("shop", "outage", "1")
TIMES = [f"2026-03-04T05:06:{second:02}" for second in range(7, 20)]
COMMITTED = ["commit_then_500", "commit_then_403", "commit_then_reset", "partial_200"]
NOT_COMMITTED = [
    "reset",
    "session_sync_202",
    "semaphore_429",
    "hibernating_html_200",
    "adc_502",
    "unavailable_503",
    "error_500",
    "acl_flap_403",
]


@pytest.fixture
def world(world: World) -> World:
    world.start(rules=ADOPTING)
    return world


def options(**words: str) -> str:
    return ADOPTING.replace(
        "      resolve_when:",
        "".join(f"      {key}: {word}\n" for key, word in words.items()) + "      resolve_when:",
    )


def born(world: World, **fields: str) -> str:
    """A ticket that people opened; its sys_id."""
    words = {"short_description": "The shop is slow", "description": "Since noon"}
    return world.servicenow.tables.insert("incident", words | fields, by="admin")["sys_id"]


def row(sys_id: Json, id: int = 1, **columns: object) -> dict[str, object]:
    """What a mutation inserts for a ticket that was born in ServiceNow: little but its sys_id."""
    about: dict[str, object] = {
        "title": "The shop is slow",
        "details": None,
        "servicenow_sys_id": sys_id,
    }
    return outage(id, **(about | columns))


def words(world: World, sys_id: str) -> tuple[str, str, str]:
    record = world.servicenow.row("incident", sys_id)
    assert record is not None
    return record["short_description"], record["description"], record["state"]


def mark(world: World, sys_id: str) -> str:
    record = world.servicenow.row("incident", sys_id)
    assert record is not None
    return record["correlation_id"]


def resolve(world: World, sys_id: str, state: str = "Resolved") -> None:
    """As people do."""
    world.servicenow.change(
        "incident", sys_id, state="Resolved", close_code="User error", close_notes="It was off"
    )
    if state != "Resolved":
        world.servicenow.change("incident", sys_id, state=state)


def sent(world: World) -> list[dict[str, object]]:
    """What was written into incidents since the last time of asking."""
    bodies = [call.body or {} for call in world.servicenow.take_calls() if call.method != "GET"]
    return [{**body} for body in bodies]


def heal(world: World, *bodies: bytes) -> list[Answered]:
    """Redeliver what is not done, as Hasura does, until all is."""
    last: dict[bytes, Answered] = {}
    for _ in range(30):
        for body in bodies:
            if body not in last or last[body].retry_after is not None:
                last[body] = world.send(body)
        waits = [answer.retry_after for answer in last.values() if answer.retry_after is not None]
        if not waits:
            return [last[body] for body in bodies]
        world.clock.advance(max(waits))
    raise AssertionError("never done")


# What adopting does


def test_a_row_that_names_a_ticket_adopts_it_by_one_look_and_one_write_of_our_marks(
    world: World,
) -> None:
    ticket = born(world)
    world.calls()
    answer = world.send(insert("outages", row(ticket, title="Something else", details="")))
    calls = list(world.servicenow.calls)

    assert (answer.said, answer.outcome["ticket"]) == ("updated", world.incident["number"])
    assert [(call.method, call.sys_id) for call in calls] == [("GET", ticket), ("PATCH", ticket)]
    assert calls[1].body == {"correlation_id": OURS, "correlation_display": "hasura"}
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


@pytest.mark.parametrize("event", ["insert", "update", "manual"])
def test_it_does_so_whichever_event_comes_first(world: World, event: str) -> None:
    ticket = born(world)
    body = {
        "insert": insert("outages", row(ticket)),
        "update": update("outages", row(ticket), row(ticket)),
        "manual": manual("outages", row(ticket)),
    }[event]

    assert world.send(body).said == "updated"
    assert (len(world.incidents), mark(world, ticket)) == (1, OURS)


def test_after_that_only_what_the_row_changes_is_sent(world: World) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket, title="Slow"), created_at=TIMES[0]))
    again = world.send(
        update("outages", row(ticket, title="Slow"), row(ticket, title="Slow"), id="again")
    )
    sent(world)
    changed = world.send(
        update(
            "outages",
            row(ticket, title="Slow"),
            row(ticket, title="Slow", severity="major"),
            created_at=TIMES[1],
        )
    )

    assert (again.said, changed.said) == ("unchanged", "updated")
    assert sent(world) == [{"impact": "2"}]
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_the_row_of_a_ticket_that_is_adopted_resolves_and_reopens_it(world: World) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    fixed = world.send(
        update("outages", row(ticket), row(ticket, status="fixed"), created_at=TIMES[1])
    )
    state = words(world, ticket)[2]
    opened = world.send(
        update("outages", row(ticket, status="fixed"), row(ticket), created_at=TIMES[2])
    )

    assert (fixed.said, state, opened.said) == ("resolved", "6", "reopened")
    assert words(world, ticket)[2] == "2"


def test_a_deleted_row_resolves_the_ticket_that_it_adopted(world: World) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))

    assert world.send(delete("outages", row(ticket), created_at=TIMES[1])).said == "resolved"
    assert words(world, ticket)[2] == "6"


@pytest.mark.parametrize("status", ["open", "fixed"])
@pytest.mark.parametrize("state", ["New", "Resolved", "Closed"])
def test_adopting_neither_resolves_nor_reopens(world: World, status: str, state: str) -> None:
    ticket = born(world)
    if state != "New":
        resolve(world, ticket, state)
    before = words(world, ticket)
    body = insert("outages", row(ticket, status=status))
    answers = [world.send(body), world.send(update("outages", row(ticket), row(ticket)))]

    assert {answer.status for answer in answers} == {200}
    assert (words(world, ticket), len(world.incidents)) == (before, 1)


@pytest.mark.parametrize("state", ["Resolved", "Closed"])
def test_a_ticket_that_people_ended_before_goes_on_when_the_row_ends_and_opens_again(
    world: World, state: str
) -> None:
    ticket = born(world)
    resolve(world, ticket, state)
    fixed = row(ticket, status="fixed")
    for number, body in enumerate(
        [
            insert("outages", row(ticket), created_at=TIMES[0]),
            update("outages", row(ticket), fixed, created_at=TIMES[1]),
            update("outages", fixed, row(ticket), created_at=TIMES[2]),
        ]
    ):
        assert world.send(body).status == 200, number

    states = [record["state"] for record in world.incidents]
    assert states == (["2"] if state == "Resolved" else ["7", "1"])


def test_a_closed_ticket_is_adopted_without_a_write(world: World) -> None:
    ticket = born(world)
    resolve(world, ticket, "Closed")
    answer = world.send(insert("outages", row(ticket)))

    assert answer.said == "unchanged ticket_closed"
    assert answer.outcome["ticket"] == world.incident["number"]
    assert sent(world) == []


def test_an_adoption_opens_nothing_so_it_does_not_matter_which_events_may() -> None:
    with World(rules=options(creates="[INSERT]")) as world:
        ticket = born(world)
        fixed = row(ticket, status="fixed")

        assert world.send(update("outages", fixed, fixed)).said == "updated"
        assert (mark(world, ticket), len(world.incidents)) == (OURS, 1)


def test_a_row_below_when_is_linked_to_no_ticket_until_it_is_to_have_one(world: World) -> None:
    ticket = born(world)
    minor = row(ticket, severity="minor")
    below = [
        world.send(insert("outages", minor, created_at=TIMES[0])).said,
        world.send(update("outages", minor, minor, created_at=TIMES[1])).said,
    ]
    calls = world.calls()
    above = world.send(update("outages", minor, row(ticket), created_at=TIMES[2]))

    assert (below, calls) == (["skipped when_false", "skipped when_false"], [])
    assert (above.said, words(world, ticket)[:2]) == ("updated", ("The shop is slow", "Since noon"))
    assert sent(world)[1:] == [{"impact": "1"}]  # what the row changed by that event


def test_each_element_of_a_list_may_name_a_ticket() -> None:
    rules = """
version: 1
rules:
  - name: items
    from: hasura/public.meetings
    each: row.action_items
    ticket:
      key: ["{{ row.id }}", "{{ item.id }}"]
      fields: {short_description: "{{ item.summary }}"}
      sys_id: item.ticket
"""
    with World(rules=rules) as world:
        ticket = born(world)
        items = [{"id": 1, "summary": "a", "ticket": ticket}, {"id": 2, "summary": "b"}]
        items[1]["ticket"] = None
        answer = world.send(insert("meetings", {"id": 7, "action_items": items}))

        assert [outcome["status"] for outcome in answer.body["outcomes"]] == ["updated", "created"]
        assert [record["correlation_id"] for record in world.incidents] == [
            "shop:items:7/1",
            "shop:items:7/2",
        ]


@pytest.mark.parametrize("spelled", ["upper case", "blanks around it"])
def test_a_sys_id_counts_however_it_is_spelled(world: World, spelled: str) -> None:
    ticket = born(world)
    named = ticket.upper() if spelled == "upper case" else f"\t {ticket}\n"

    assert world.send(insert("outages", row(named))).said == "updated"
    assert mark(world, ticket) == OURS


@pytest.mark.parametrize("named", [None, "", " \n"])
def test_a_row_that_names_nothing_gets_a_ticket_of_its_own(world: World, named: str | None) -> None:
    assert world.send(insert("outages", row(named))).said == "created"
    assert world.incident["sys_id"] == address("incident", OURS, 0)


@pytest.mark.parametrize("named", ["INC0010001", "0" * 31, "g" * 32, 7, True, ["0" * 32], {}])
def test_what_is_no_sys_id_is_a_dead_letter_that_names_the_place(world: World, named: Json) -> None:
    answer = world.send(insert("outages", row(named)))

    assert (answer.status, answer.said) == (422, "dead bad_mapping")
    assert world.incidents == []
    [mail] = world.mails
    assert "rules[0].ticket.sys_id: is not a sys_id" in " ".join(str(mail["Subject"]).split())


def test_people_stay_in_a_field_of_whom_the_row_names_nobody_that_servicenow_knows() -> None:
    rules = ADOPTING.replace(
        "        impact:", '        caller_id: "{{ row.who }}"\n        impact:'
    ).replace(
        "      resolve_when:", "      on_unknown: {caller_id: leave_empty}\n      resolve_when:"
    )
    with World(rules=rules) as world:
        caller = world.servicenow.tables.select("sys_user")[0]["sys_id"]
        ticket = born(world, caller_id=caller)
        world.send(insert("outages", row(ticket, who="nobody@example.com"), created_at=TIMES[0]))
        world.send(
            update(
                "outages",
                row(ticket, who="nobody@example.com"),
                row(ticket, who="unknown@example.com"),
                created_at=TIMES[1],
            )
        )

        assert world.incident["caller_id"] == caller


# What the row changed before


def test_an_update_that_comes_first_is_sent_for_what_it_changed_and_nothing_else(
    world: World,
) -> None:
    ticket = born(world)
    sent(world)
    before = row(ticket, title="Slow")
    answer = world.send(update("outages", before, before | {"severity": "major"}))

    assert answer.said == "updated"
    assert sent(world)[1:] == [{"impact": "2"}]
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_the_update_by_which_a_row_comes_to_name_a_ticket_is_taken_for_sent(world: World) -> None:
    ticket = born(world)
    minor = row(None, severity="minor")
    world.send(insert("outages", minor, created_at=TIMES[0]))
    sent(world)
    named = row(ticket, title="Something else", status="fixed")
    world.send(update("outages", minor, named, created_at=TIMES[1]))

    assert len(sent(world)) == 1
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_an_update_that_comes_late_is_sent_for_what_it_changed(world: World) -> None:
    ticket = born(world)
    first, second = row(ticket), row(ticket, title="Down")
    third = second | {"severity": "major"}
    for body in [
        update("outages", second, third, created_at=TIMES[2]),
        insert("outages", first, created_at=TIMES[0]),
        update("outages", first, second, created_at=TIMES[1]),
    ]:
        world.send(body)
    record = world.incident

    assert (record["short_description"], record["impact"]) == ("Down", "2")
    assert record["description"] == "Since noon"


def test_what_was_sent_since_is_not_sent_again_by_an_update_that_comes_late(world: World) -> None:
    ticket = born(world)
    first, second, third = row(ticket), row(ticket, title="Down"), row(ticket, title="Burning")
    world.send(update("outages", second, third, created_at=TIMES[2]))
    world.servicenow.change("incident", ticket, short_description="A person's words")
    late = world.send(update("outages", first, second, created_at=TIMES[1]))

    assert late.said == "superseded"
    assert words(world, ticket)[0] == "A person's words"


@pytest.mark.parametrize("title", ["Burning", "The shop is slow"], ids=["sent", "said already"])
def test_nor_is_what_somebody_had_the_function_look_at_since(world: World, title: str) -> None:
    """A MANUAL says where the row is, and not what changed."""
    ticket = born(world)
    first, second, third = row(ticket, title="A"), row(ticket, title="B"), row(ticket, title=title)
    world.send(insert("outages", first, created_at=TIMES[0]))
    world.send(manual("outages", third, created_at=TIMES[2]))
    world.servicenow.change("incident", ticket, short_description="A person's words")
    world.send(manual("outages", third | {"severity": "major"}, created_at=TIMES[3]))
    world.send(update("outages", first, second, created_at=TIMES[1]))

    assert words(world, ticket)[0] == "A person's words"


def test_a_ticket_that_people_reopened_is_not_resolved_by_an_update_that_comes_late(
    world: World,
) -> None:
    ticket = born(world)
    fixed = row(ticket, status="fixed")
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    world.send(manual("outages", fixed | {"severity": "major"}, created_at=TIMES[2]))
    resolved = words(world, ticket)[2]
    world.servicenow.change("incident", ticket, state="In Progress")
    world.send(update("outages", row(ticket), fixed, created_at=TIMES[1]))

    assert (resolved, words(world, ticket)[2]) == ("6", "2")


@pytest.mark.parametrize("order", ["fixed first", "fixed late"])
def test_a_row_that_was_fixed_before_its_ticket_was_adopted_resolves_it(
    world: World, order: str
) -> None:
    ticket = born(world)
    first, second = row(ticket), row(ticket, status="fixed")
    third = second | {"severity": "major"}
    bodies = [
        update("outages", first, second, created_at=TIMES[1]),
        update("outages", second, third, created_at=TIMES[2]),
    ]
    for body in bodies if order == "fixed first" else reversed(bodies):
        world.send(body)
    world.send(insert("outages", first, created_at=TIMES[0]))

    assert words(world, ticket) == ("The shop is slow", "Since noon", "6")
    assert world.incident["impact"] == "2"


def test_a_row_that_is_gone_before_it_was_heard_of_adopts_nothing(world: World) -> None:
    ticket = born(world)
    gone = world.send(delete("outages", row(ticket), created_at=TIMES[1]))
    late = world.send(insert("outages", row(ticket), created_at=TIMES[0]))

    assert (gone.said, late.said) == ("skipped row_gone", "superseded")
    assert mark(world, ticket) == ""


# The ledger is lost


def test_without_a_ledger_the_ticket_is_adopted_again_and_nothing_is_written(world: World) -> None:
    ticket = born(world)
    before, after = row(ticket, title="Slow"), row(ticket, title="Slow", severity="major")
    world.send(insert("outages", before, created_at=TIMES[0]))
    world.forget()
    sent(world)
    again = world.send(insert("outages", before, created_at=TIMES[0], id="again"))
    nothing = sent(world)
    changed = world.send(update("outages", before, after, created_at=TIMES[1]))

    assert (again.said, nothing, changed.said) == ("unchanged", [], "updated")
    assert again.outcome["ticket"] == world.incident["number"]
    assert sent(world) == [{"impact": "2"}]


def test_without_a_ledger_the_event_that_fixed_the_row_resolves_its_ticket(world: World) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    world.forget()
    world.send(update("outages", row(ticket), row(ticket, status="fixed"), created_at=TIMES[1]))

    assert words(world, ticket)[2] == "6"


def test_without_a_ledger_a_resolved_ticket_is_not_reopened_on_the_word_of_one_event(
    world: World,
) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    resolve(world, ticket)
    world.forget()
    world.send(update("outages", row(ticket, status="fixed"), row(ticket), created_at=TIMES[1]))

    assert (words(world, ticket)[2], len(world.incidents)) == ("6", 1)


@pytest.mark.parametrize("honours", [True, False], ids=["our sys_id", "its own sys_id"])
@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_a_ticket_that_follows_the_adopted_one_is_the_rows_from_then_on(
    honours: bool, ledger: str
) -> None:
    with World(rules=options(after_close="new"), honours_sys_id=honours) as world:
        ticket = born(world)
        fixed = row(ticket, status="fixed")
        world.send(insert("outages", row(ticket), created_at=TIMES[0]))
        world.send(update("outages", row(ticket), fixed, created_at=TIMES[1]))
        followed = world.send(update("outages", fixed, row(ticket), created_at=TIMES[2]))
        if ledger == "lost":
            traits = world.ledger.tickets.traits(world.servicenow.url, "incident")
            world.forget()
            # Another row's create has shown it again.
            world.ledger.tickets.learn_traits(world.servicenow.url, "incident", traits)
        world.send(
            update("outages", row(ticket), row(ticket, severity="major"), created_at=TIMES[3])
        )
        first, second = world.incidents

        assert followed.said == "created"
        assert (first["sys_id"], first["state"], first["impact"]) == (ticket, "6", "3")
        assert (second["parent_incident"], second["state"]) == (ticket, "1")
        assert (second["correlation_id"], second["impact"]) == (OURS, "2")
        assert not honours or second["sys_id"] == address("incident", OURS, 1)


def test_without_a_ledger_a_closed_ticket_without_our_mark_leads_to_the_one_that_follows_it(
    world: World,
) -> None:
    ticket = born(world)
    resolve(world, ticket, "Closed")
    fixed = row(ticket, status="fixed")
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    world.send(update("outages", row(ticket), fixed, created_at=TIMES[1]))
    world.send(update("outages", fixed, row(ticket), created_at=TIMES[2]))
    world.forget()
    again = world.send(update("outages", row(ticket), row(ticket), created_at=TIMES[3]))

    assert again.outcome["ticket"] == world.incidents[1]["number"]
    assert (len(world.incidents), mark(world, ticket)) == (2, "")


# Whose it is


def test_a_ticket_of_an_earlier_integration_keeps_its_correlation_id_and_is_adopted(
    world: World,
) -> None:
    ticket = born(world, correlation_id="zendesk-4711", correlation_display="Zendesk")
    adopted = world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    nothing = sent(world)
    world.send(update("outages", row(ticket), row(ticket, severity="major"), created_at=TIMES[1]))

    assert (adopted.said, nothing) == ("unchanged foreign_correlation_id", [])
    assert adopted.outcome["ticket"] == world.incident["number"]
    assert sent(world) == [{"impact": "2"}]
    assert mark(world, ticket) == "zendesk-4711"
    [mail] = world.mails
    assert "left correlation_id of outage/1 as it was" in str(mail["Subject"])
    assert "zendesk" not in str(mail)


def test_a_ticket_that_another_row_has_is_not_adopted(world: World) -> None:
    ticket = born(world)
    world.send(insert("outages", row(ticket)))
    sent(world)
    answer = world.send(insert("outages", row(ticket, id=2)))

    assert (answer.status, answer.said) == (422, "dead sys_id_conflict")
    assert "another row's already" in answer.outcome.get("hint", "") + str(world.mails[0])
    assert (sent(world), mark(world, ticket)) == ([], OURS)


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_neither_is_one_that_a_row_had_before_it_was_followed_by_another(
    world: World, ledger: str
) -> None:
    ticket = born(world)
    fixed = row(ticket, status="fixed")
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    resolve(world, ticket, "Closed")
    world.send(update("outages", row(ticket), fixed, created_at=TIMES[1]))
    world.send(update("outages", fixed, row(ticket), created_at=TIMES[2]))
    if ledger == "lost":
        world.forget()
    answer = world.send(insert("outages", row(ticket, id=2)))

    assert (len(world.incidents), answer.said) == (2, "dead sys_id_conflict")


def test_a_ticket_that_another_app_has_is_not_adopted(world: World) -> None:
    ticket = born(world, correlation_id="staging:outage:1", correlation_display="hasura")

    assert world.send(insert("outages", row(ticket))).said == "dead sys_id_conflict"


@pytest.mark.parametrize("kept", ["dropped", "another system's"])
def test_of_two_rows_one_has_the_ticket_though_it_carries_no_mark_of_ours(
    world: World, kept: str
) -> None:
    if kept == "dropped":
        columns = ("correlation_id", "correlation_display")
        world.servicenow.tables.protected = {("incident", column) for column in columns}
    ticket = born(world, **({} if kept == "dropped" else {"correlation_id": "zendesk-4711"}))
    one = world.send(insert("outages", row(ticket)))
    other = world.send(insert("outages", row(ticket, id=2)))
    world.send(delete("outages", row(ticket), created_at=TIMES[1]))
    later = world.send(insert("outages", row(ticket, id=2), created_at=TIMES[2]))

    assert (one.status, other.said) == (200, "dead sys_id_conflict")
    # The first row is gone by now.
    assert later.status == 200


@pytest.mark.parametrize("dropped", ["correlation_id", "both"])
def test_an_instance_that_drops_our_marks_is_told_of_and_the_ticket_is_adopted_all_the_same(
    world: World, dropped: str
) -> None:
    columns = ["correlation_id"] + (["correlation_display"] if dropped == "both" else [])
    world.servicenow.tables.protected = {("incident", column) for column in columns}
    ticket = born(world)
    answer = world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    told = [str(mail["Subject"]) for mail in world.mails]
    world.send(insert("outages", row(None, id=2)))
    world.forget()
    world.send(insert("outages", row(None, id=3)))
    again = world.send(
        update("outages", row(ticket), row(ticket, severity="major"), created_at=TIMES[1])
    )
    record = world.servicenow.row("incident", ticket)

    assert (answer.said, again.said) == ("updated", "updated")
    assert record is not None
    assert (record["impact"], len(world.incidents)) == ("2", 3)
    assert [subject for subject in told if "did not keep correlation_id" in subject] == told
    assert told


def test_two_rows_that_name_one_ticket_at_the_same_time_end_with_one_that_has_it(
    postgresql: str,
) -> None:
    with World(rules=ADOPTING, database_url=postgresql, instances=2) as world:
        tickets = [born(world) for _ in range(5)]
        world.servicenow.arm("slow", times=None, seconds=0.05)
        bodies = [
            insert("outages", row(ticket, id=2 * number + twin), id=f"{number} {twin}")
            for number, ticket in enumerate(tickets)
            for twin in (0, 1)
        ]
        with ThreadPoolExecutor(10) as pool:
            list(
                pool.map(
                    lambda numbered: world.send(numbered[1], instance=numbered[0] % 2),
                    enumerate(bodies),
                )
            )
        world.servicenow.disarm()
        answers = [answer.said for answer in heal(world, *bodies)]

        assert len(world.incidents) == 5
        for number, ticket in enumerate(tickets):
            pair = answers[2 * number : 2 * number + 2]
            assert sorted(pair) == ["dead sys_id_conflict", "unchanged"]
            winner = 2 * number + pair.index("unchanged")
            assert mark(world, ticket) == f"shop:outage:{winner}"


def test_two_instances_that_hear_two_events_of_one_row_adopt_its_ticket_once(
    postgresql: str,
) -> None:
    with World(rules=ADOPTING, database_url=postgresql, instances=2) as world:
        ticket = born(world)
        world.servicenow.arm("slow", times=None, seconds=0.2)
        first, second = row(ticket), row(ticket, title="Down")
        bodies = [
            update("outages", first, second, created_at=TIMES[1], id="u"),
            insert("outages", first, created_at=TIMES[0], id="i"),
        ]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda n: world.send(bodies[n], instance=n), range(2)))
        world.servicenow.disarm()
        heal(world, *bodies)

        assert [call.method for call in world.servicenow.calls].count("PATCH") == 2
        assert words(world, ticket) == ("Down", "Since noon", "1")


def test_our_marks_are_not_written_where_they_are_known_to_be_dropped(world: World) -> None:
    columns = ("correlation_id", "correlation_display")
    world.servicenow.tables.protected = {("incident", column) for column in columns}
    world.send(insert("outages", row(None, id=2)))
    ticket = born(world)
    world.calls()

    assert world.send(insert("outages", row(ticket))).said == "unchanged"
    assert set(world.calls()) == {"GET incident"}


# The lease of a ticket that is no row's yet


def test_a_ticket_at_which_somebody_is_at_work_is_adopted_when_that_is_done(world: World) -> None:
    """Such as passing the ticket on to the app, from which the row comes."""
    ticket = born(world)
    keyed = {"instance": world.servicenow.url, "rule": "", "key": ticket}
    leased = world.ledger.tickets.begin_settling(**keyed, owner="sync", lease_seconds=60)
    busy = world.send(insert("outages", row(ticket), id="e"))
    calls = world.calls()
    assert leased is not None
    world.ledger.tickets.give_back(leased[0], owner="sync")
    answer = world.send(insert("outages", row(ticket), id="e"))

    assert (busy.status, busy.said, calls) == (503, "retrying key_busy", [])
    assert busy.retry_after is not None
    assert busy.retry_after <= 10
    assert answer.said == "updated"


@pytest.mark.parametrize("fault", ["none", "semaphore_429", "acl_403"])
def test_that_lease_is_given_back_whatever_came_of_it(world: World, fault: str) -> None:
    ticket = born(world)
    if fault != "none":
        world.servicenow.arm(fault, method="PATCH")
    world.send(insert("outages", row(ticket)))

    assert world.query("SELECT lease_owner FROM servicenow.ticket WHERE rule = ''") == [
        {"lease_owner": ""}
    ]


def test_it_is_kept_while_a_write_may_still_commit_so_that_no_other_row_comes_in_between(
    world: World,
) -> None:
    ticket = born(world)
    world.servicenow.arm("reset", method="PATCH")
    one = world.send(insert("outages", row(ticket), id="one"))
    other = world.send(insert("outages", row(ticket, id=2), id="other"))
    # The instance commits what it had received.
    world.servicenow.change("incident", ticket, correlation_id=OURS)
    world.clock.advance(IN_DOUBT_SECONDS + 1)
    late = world.send(insert("outages", row(ticket, id=2), id="other"))
    done = world.send(insert("outages", row(ticket), id="one"))

    assert (one.status, other.said) == (503, "retrying key_busy")
    assert (late.said, done.said) == ("dead sys_id_conflict", "unchanged")


# Answers that are lost, refusals


@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize("fault", COMMITTED + NOT_COMMITTED)
@pytest.mark.parametrize("method", ["GET", "PATCH"])
def test_the_ticket_is_adopted_whatever_becomes_of_a_call(
    world: World, method: str, fault: str, ledger: str
) -> None:
    ticket = born(world)
    world.servicenow.arm(fault, method=method)
    body = insert("outages", row(ticket, title="Something else"), id="e")
    world.send(body)
    if ledger == "lost":
        world.forget()
    heal(world, body)

    assert (mark(world, ticket), len(world.incidents)) == (OURS, 1)
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_a_write_that_committed_though_its_answer_was_lost_is_not_written_again(
    world: World,
) -> None:
    ticket = born(world)
    world.servicenow.arm("commit_then_reset", method="PATCH")
    first = world.send(insert("outages", row(ticket), id="e"))
    world.calls()
    early = world.send(insert("outages", row(ticket), id="e"))
    nothing = world.calls()
    world.clock.advance(first.retry_after or 0)
    second = world.send(insert("outages", row(ticket), id="e"))

    assert first.retry_after is not None
    assert first.retry_after >= IN_DOUBT_SECONDS
    assert (early.said, nothing) == ("retrying in_doubt", [])
    assert (second.said, world.calls()) == ("unchanged", ["GET incident"])


def test_a_refusal_after_which_our_marks_stand_there_was_none(world: World) -> None:
    ticket = born(world)
    world.servicenow.arm("commit_then_403", method="PATCH")

    assert world.send(insert("outages", row(ticket))).said == "updated"
    assert world.calls() == ["GET incident", "PATCH incident", "GET incident"]


def test_a_ticket_that_reads_do_not_show_yet_is_asked_for_again(world: World) -> None:
    ticket = born(world)
    world.servicenow.arm("stale_read", method="GET")

    assert world.send(insert("outages", row(ticket))).said == "updated"


@pytest.mark.parametrize("fault", ["commit_then_reset", "reset"])
@pytest.mark.parametrize("then", ["names none", "below when", "gone"])
def test_what_is_in_doubt_is_found_out_though_the_row_does_not_want_that_ticket_any_more(
    world: World, fault: str, then: str
) -> None:
    ticket = born(world)
    first = insert("outages", row(ticket), created_at=TIMES[0], id="e")
    second = {
        "names none": update("outages", row(ticket), row(None), created_at=TIMES[1]),
        "below when": update(
            "outages", row(ticket), row(ticket, severity="minor"), created_at=TIMES[1]
        ),
        "gone": delete("outages", row(ticket), created_at=TIMES[1]),
    }[then]
    world.servicenow.arm(fault, method="PATCH")
    world.send(first)
    heal(world, second, first)
    committed = fault == "commit_then_reset"

    assert mark(world, ticket) == (OURS if committed else "")
    assert len(world.incidents) == (2 if then == "names none" and not committed else 1)
    assert words(world, ticket)[2] == ("6" if then == "gone" and committed else "1")
    assert words(world, ticket)[:2] == ("The shop is slow", "Since noon")


@pytest.mark.parametrize("fault", ["commit_then_reset", "reset"])
def test_a_row_that_names_another_ticket_by_then_has_one_of_the_two(
    world: World, fault: str
) -> None:
    one, other = born(world), born(world)
    first = insert("outages", row(one), created_at=TIMES[0], id="e")
    second = update("outages", row(one), row(other), created_at=TIMES[1])
    world.servicenow.arm(fault, method="PATCH")
    world.send(first)
    answer = heal(world, second)[0]

    marks = (mark(world, one), mark(world, other))
    if fault == "reset":
        assert (answer.said, marks) == ("updated", ("", OURS))
    else:
        assert (answer.said, marks) == ("dead sys_id_conflict", (OURS, ""))


def test_the_housekeeping_finds_out_what_is_in_doubt_when_the_event_never_returns(
    world: World,
) -> None:
    ticket = born(world)
    world.servicenow.arm("commit_then_reset", method="PATCH")
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    world.clock.advance(IN_DOUBT_SECONDS + 70)
    settled = world.send(cron("servicenow_housekeeping")).body["housekeeping"]["settled"]
    changed = world.send(
        update("outages", row(ticket), row(ticket, severity="major"), created_at=TIMES[1])
    )

    assert settled == 1
    assert (changed.said, words(world, ticket)[0]) == ("updated", "The shop is slow")
    assert sent(world)[-1] == {"impact": "2"}


def test_what_is_in_doubt_waits_for_an_event_that_tells_what_the_row_wants(world: World) -> None:
    ticket = born(world)
    world.servicenow.arm("commit_then_reset", method="PATCH")
    world.send(insert("outages", row(ticket), created_at=TIMES[0]))
    broken = world.send(update("outages", row(ticket), row("nonsense"), created_at=TIMES[1]))
    world.clock.advance(IN_DOUBT_SECONDS + 70)
    housekeeping = world.send(cron("servicenow_housekeeping"))
    good = world.send(update("outages", row("nonsense"), row(ticket), created_at=TIMES[2]))

    assert (broken.said, housekeeping.status, good.said) == ("dead bad_mapping", 200, "unchanged")
    assert (good.outcome["ticket"], len(world.incidents)) == (world.incident["number"], 1)
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_what_a_process_without_its_lease_wrote_is_found_and_taken_for_an_adoption(
    world: World,
) -> None:
    """It was frozen before its write, and woke up when others had found nothing."""
    ticket = born(world)
    world.servicenow.arm("unavailable_503", method="GET")
    body = insert("outages", row(ticket, title="Something else"), id="e")
    world.send(body)
    world.query(
        "UPDATE servicenow.ticket SET stale_writes = 1, stale_fields = "
        """'["correlation_display", "correlation_id"]' WHERE rule <> ''"""
    )
    world.servicenow.change("incident", ticket, correlation_id=OURS)
    [answer] = heal(world, body)

    assert (answer.said, answer.outcome["ticket"]) == ("unchanged", world.incident["number"])
    assert words(world, ticket) == ("The shop is slow", "Since noon", "1")


def test_a_refusal_to_write_the_marks_is_a_dead_letter(world: World) -> None:
    ticket = born(world)
    world.servicenow.arm("acl_403", method="PATCH")
    answer = world.send(insert("outages", row(ticket), id="e"))
    replayed = world.send(insert("outages", row(ticket), id="e"))

    assert (answer.status, answer.said) == (422, "dead refused_by_acl")
    assert replayed.said == "updated"


# A ticket that is not there


@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize(
    ("word", "status", "count"), [("fail", 422, 0), ("recreate", 200, 1), ("ignore", 200, 0)]
)
def test_a_ticket_that_is_not_there_is_what_on_missing_says(
    word: str, status: int, count: int, ledger: str
) -> None:
    with World(rules=options(on_missing=word, creates="[MANUAL]")) as world:
        missing = "0123456789abcdef" * 2
        first = world.send(insert("outages", row(missing), created_at=TIMES[0]))
        if ledger == "lost":
            world.forget()
        second = world.send(
            update("outages", row(missing), row(missing, title="Down"), created_at=TIMES[1])
        )

        assert (first.status, second.status) == (status, status)
        assert [said(record) for record in world.incidents] == [("Down", "1")] * count
        if word == "recreate":
            assert world.incident["sys_id"] == address("incident", OURS, 0)
        if word == "fail":
            assert any("that incident does not have" in _text(mail) for mail in world.mails)


def _text(mail: object) -> str:
    return " ".join(str(mail).replace("=\n", "").split())


@pytest.mark.parametrize(("word", "count"), [("fail", 0), ("recreate", 1)])
def test_a_ticket_that_is_deleted_after_it_was_adopted_is_missing_as_any_other(
    word: str, count: int
) -> None:
    with World(rules=options(on_missing=word)) as world:
        ticket = born(world)
        world.send(insert("outages", row(ticket), created_at=TIMES[0]))
        world.servicenow.remove("incident", ticket)
        answers = [
            world.send(
                update("outages", row(ticket), row(ticket, title="Down"), created_at=TIMES[1])
            ),
            world.send(
                update(
                    "outages",
                    row(ticket, title="Down"),
                    row(ticket, title="Burning"),
                    created_at=TIMES[2],
                )
            ),
        ]

        assert {answer.status for answer in answers} == {200 if count else 422}
        assert [said(record) for record in world.incidents] == [("Burning", "1")] * count


# A row that has a ticket


@pytest.mark.parametrize(
    ("followed", "named", "honours"),
    [
        case
        for case in product((0, 1, 2), ("at once", "late"), (True, False))
        # Nobody knows any more which ticket was the first.
        if case != (2, "late", False)
    ],
)
def test_a_row_may_name_the_ticket_that_it_has_whichever_of_its_generations(
    followed: int, named: str, honours: bool
) -> None:
    """The app keeps the sys_id of its row's ticket, and does not care that another has followed."""
    with World(rules=options(after_close="new"), honours_sys_id=honours) as world:
        bare = row(None)
        world.send(insert("outages", bare, created_at=TIMES[0]))
        own = row(world.incident["sys_id"])
        last = own if named == "at once" else bare
        world.send(update("outages", bare, last, created_at=TIMES[1]))
        for number in range(followed):
            fixed, at = last | {"status": "fixed"}, TIMES[2 * number + 2 :]
            world.send(update("outages", last, fixed, created_at=at[0]))
            world.send(update("outages", fixed, last, created_at=at[1]))
        world.calls()
        said = world.send(update("outages", last, own, created_at=TIMES[8])).said
        calls = world.calls()
        changed = world.send(
            update("outages", own, own | {"severity": "major"}, created_at=TIMES[9])
        )

        assert (said, calls, changed.said) == ("unchanged", [], "updated")
        assert [record["impact"] for record in world.incidents] == ["1"] * followed + ["2"]


def test_without_a_ledger_a_ticket_that_was_made_for_the_row_says_what_the_row_says(
    world: World,
) -> None:
    """Though the row names it: of an event that was waiting then, nothing else tells."""
    bare = row(None)
    world.send(insert("outages", bare, created_at=TIMES[0]))
    named = row(world.incident["sys_id"], title="Down")
    world.forget()
    world.send(update("outages", bare | {"title": "Down"}, named, created_at=TIMES[2]))
    world.send(update("outages", bare, bare | {"title": "Down"}, created_at=TIMES[1]))

    assert [said(record) for record in world.incidents] == [("Down", "1")]


def test_a_row_that_has_a_ticket_and_names_another_is_a_dead_letter(world: World) -> None:
    world.send(insert("outages", row(None), created_at=TIMES[0]))
    other = born(world)
    world.calls()
    named = world.send(update("outages", row(None), row(other), created_at=TIMES[1]))
    calls = world.calls()
    gone = world.send(delete("outages", row(other), created_at=TIMES[2]))

    assert (named.status, named.said, calls) == (422, "dead sys_id_conflict", [])
    assert (gone.said, mark(world, other)) == ("resolved", "")


@pytest.mark.parametrize("fault", ["commit_then_reset", "reset"])
def test_a_create_in_doubt_is_settled_before_the_row_adopts_a_ticket(
    world: World, fault: str
) -> None:
    ticket = born(world)
    world.servicenow.arm(fault, method="POST")
    first = insert("outages", row(None), created_at=TIMES[0], id="e")
    world.send(first)
    second = update("outages", row(None), row(ticket), created_at=TIMES[1])
    answer = heal(world, second)[0]

    if fault == "reset":
        assert (answer.said, mark(world, ticket), len(world.incidents)) == ("updated", OURS, 1)
        assert words(world, ticket) == ("The shop is slow", "Since noon", "1")
    else:
        assert (answer.said, mark(world, ticket), len(world.incidents)) == (
            "dead sys_id_conflict",
            "",
            2,
        )
