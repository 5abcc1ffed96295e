"""Both sides edit one ticket, and what lies between them goes wrong: each corner was found by a
review, after the round trips had passed."""

from collections.abc import Iterator

import pytest

from tests.two_way.desk import RULES, Desk, without
from tests.two_way.test_back import ONE_WAY, OPEN
from tests.two_way.test_born import born


@pytest.fixture
def empty(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql, rules=ONE_WAY) as desk:
        yield desk


@pytest.fixture
def desk(empty: Desk) -> Desk:
    empty.sql(OPEN)
    empty.settle()
    empty.sync()
    empty.settle()
    return empty


def test_a_value_that_both_sides_chose_and_a_person_changes_back_is_told(desk: Desk) -> None:
    desk.person(impact="2")  # its notification is lost
    desk.sql("UPDATE outages SET details = 'more'")
    desk.settle()  # the answer tells of impact 2
    desk.sql("UPDATE outages SET severity = 'major'")
    desk.settle()  # nothing to send
    desk.person(impact="1")
    desk.notify()
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.incident["impact"], desk.row()["severity"]) == ("1", "critical")


def test_a_resolution_by_both_sides_that_a_person_takes_back_is_told(desk: Desk) -> None:
    desk.person(state="In Progress")
    desk.notify()
    desk.settle()
    assert desk.row()["status"] == "in progress"
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    # its notification is lost, or still waits; meanwhile the app's people fix it, too
    desk.sql("UPDATE outages SET status = 'fixed'")
    desk.settle()
    desk.person(state="In Progress")
    desk.notify()
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.incident["state"], desk.row()["status"]) == ("2", "in progress")


SHIPPED = """version: 1
rules:
  - name: outage
    from: hasura/public.outages
    when: row.severity in ['major', 'critical']
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
      resolve_when: row.status == 'fixed'
      close_code: Solution provided
      close_notes: "{{ row.resolution or 'Fixed in the app' }}"
      order_by: row.updated_at
  - name: outage-back
    from: servicenow/incident
    when: link.rule == 'outage' and row.state in ['6', '7'] # Resolved, Closed
    mutate:
      query: |
        mutation OutageFixed($id: bigint!, $set: outages_set_input!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: $set) { id }
        }
      variables:
        id: "{{ link.key }}"
        set:
          status: fixed
          resolution: "{{ row.close_notes or none }}"
"""


def test_with_the_shipped_rules_a_second_resolution_is_told(empty: Desk) -> None:
    desk = empty
    desk.start(rules=SHIPPED)
    desk.sql(OPEN)
    desk.settle()
    desk.sync()
    desk.settle()
    resolved = {"state": "Resolved", "close_code": "Solution provided", "close_notes": "Done"}
    desk.person(**resolved)
    desk.notify()
    desk.settle()
    assert desk.row()["status"] == "fixed"
    desk.person(state="In Progress")
    desk.notify()
    desk.settle()
    desk.sql("UPDATE outages SET status = 'open'")
    desk.settle()
    assert desk.incident["state"] == "2"
    desk.person(**resolved)
    desk.notify()
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.incident["state"], desk.row()["status"]) == ("6", "fixed")


@pytest.mark.parametrize("fault", ["acl_403", "data_policy_403", "semaphore_429", "reset"])
def test_a_former_ticket_does_not_fix_a_row_whose_next_ticket_waits(
    empty: Desk, fault: str
) -> None:
    desk = empty
    desk.start(rules=ONE_WAY.replace("      order_by:", "      after_close: new\n      order_by:"))
    desk.sql(OPEN)
    desk.settle()
    desk.sync()
    desk.settle()
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Done")
    desk.notify()
    desk.settle()
    assert desk.row()["status"] == "fixed"
    desk.sql("UPDATE outages SET status = 'open'")
    desk.servicenow.arm(fault, method="POST", table="incident")
    [event] = desk.events()
    desk.deliver(event)
    assert len(desk.incidents) == 1
    if fault == "reset":  # the housekeeping finds out that it was not made, before the event comes
        desk.clock.advance(70)
        desk.apps[0].housekeeping.run()
    desk.person(state="Closed")
    desk.notify()
    assert desk.row()["status"] == "open"
    desk.settle()
    assert desk.row()["status"] == "open"


def test_what_a_person_alone_changes_before_a_create_is_settled_stands(empty: Desk) -> None:
    desk = empty
    desk.servicenow.arm("commit_then_reset", method="POST")
    desk.sql(OPEN)
    desk.deliver_all()
    desk.person(impact="3")
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.incident["impact"], desk.row()["severity"]) == ("3", "minor")


@pytest.mark.parametrize("looked", [False, True])
def test_an_adopted_tickets_words_stand_though_the_ledger_was_lost(
    postgresql: str, looked: bool
) -> None:
    with Desk(postgresql) as desk:
        sys_id = born(desk, description="First words")
        desk.notify(sys_id)
        desk.settle()
        desk.person(sys_id, description="A person's words")
        desk.notify(sys_id)
        desk.settle()
        desk.forget()
        if looked:
            desk.notify(sys_id)
        desk.sql("UPDATE outages SET title = 'Search is down'")
        desk.settle()
        assert desk.incident["short_description"] == "Search is down"
        assert desk.incident["description"] == "A person's words"


def test_a_comment_from_servicenow_that_the_app_touches_is_not_doubled(desk: Desk) -> None:
    desk.person(comments="Hello")
    desk.notify()
    assert desk.comments() == [("admin", "Hello")]
    desk.sql("UPDATE outage_comments SET created_at = now() - interval '1 hour'")
    ours, touched = [e for e in desk.events() if e["table_name"] == "outage_comments"]
    desk.deliver(touched)
    desk.deliver(ours)
    desk.settle()
    entries = [row["value"] for row in desk.servicenow.rows("sys_journal_field")]
    assert entries == ["Hello"]


def test_a_ticket_does_not_begin_from_what_another_rows_ticket_was_given(empty: Desk) -> None:
    desk = empty
    desk.sql("INSERT INTO outages (id, title, severity) VALUES (2, 'Another', 'critical')")
    desk.settle()
    other = desk.incident["sys_id"]
    desk.person(other, assigned_to="Beth Anglin")
    desk.notify(other)
    desk.settle()
    assert desk.row(2)["assignee"] == "Beth Anglin"
    desk.servicenow.arm("commit_then_reset", method="POST")
    desk.sql(OPEN)
    desk.deliver_all()
    [mine] = [row["sys_id"] for row in desk.incidents if row["sys_id"] != other]
    desk.person(mine, assigned_to="Beth Anglin", parent_incident=other)
    desk.settle()
    desk.sync()
    desk.settle()
    assert desk.row(1)["assignee"] == "Beth Anglin"


@pytest.mark.parametrize("gap", [False, True])
def test_a_row_that_is_mended_after_a_dead_letter_is_sent(desk: Desk, gap: bool) -> None:
    if gap:  # a change of a column that the trigger does not listen to
        desk.sql("UPDATE outages SET ticket_number = 'as the app calls it'")
        desk.sql("DELETE FROM hdb_catalog.event_log WHERE NOT delivered")
        desk.sql("UPDATE outages SET details = 'more'")
        desk.settle()
    desk.sql("UPDATE outages SET title = 'Refunds too', severity = 'bogus'")
    desk.settle()
    desk.sql("UPDATE outages SET severity = 'minor'")
    desk.settle()
    said = desk.incident["short_description"], desk.incident["impact"]
    assert said == ("Refunds too", "3")


def test_what_the_app_alone_says_of_a_resolution_that_a_person_began_is_sent(desk: Desk) -> None:
    desk.person(state="Resolved", close_code="Solution provided", close_notes="R2")
    desk.notify()
    desk.settle()
    assert desk.row()["resolution"] == "R2"
    desk.sql("UPDATE outages SET resolution = 'R3'")
    desk.settle()
    desk.sync()
    desk.settle()
    assert desk.incident["close_notes"] == desk.row()["resolution"] == "R3"


GONE = """
  - name: outage-gone
    from: servicenow/incident
    ops: [DELETE]
    when: link.rule == 'outage'
    mutate:
      query: |
        mutation($id: bigint!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: {ticket_number: null}) { id }
        }
      variables: {id: "{{ link.key }}"}
"""


@pytest.mark.parametrize("doubt", [False, True])
def test_a_deletion_of_a_ticket_in_doubt_is_told(desk: Desk, doubt: bool) -> None:
    desk.start(rules=ONE_WAY + GONE)
    desk.sync()
    desk.settle()
    if doubt:
        desk.servicenow.arm("reset", method="PATCH", table="incident")
        desk.sql("UPDATE outages SET title = 'B'")
        desk.deliver_all()
    sys_id = desk.incident["sys_id"]
    desk.servicenow.remove("incident", sys_id)
    desk.clock.advance(70)
    desk.notify(sys_id)
    desk.settle()
    desk.notify(sys_id)
    desk.settle()
    assert desk.row()["ticket_number"] is None


@pytest.mark.parametrize("stamped", [True, False])
def test_what_the_app_says_after_a_person_had_said_it_is_sent(desk: Desk, stamped: bool) -> None:
    if not stamped:
        desk.sql("ALTER TABLE outages DISABLE TRIGGER set_updated_at")
    desk.person(impact="2")
    desk.notify()
    desk.person(impact="1")
    desk.notify()
    first, second = desk.events()
    desk.deliver(second)
    desk.sql("UPDATE outages SET severity = 'major'")
    third = desk.events()[-1]
    desk.deliver(third)
    desk.deliver(first)
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.row()["severity"], desk.incident["impact"]) == ("major", "2")


@pytest.mark.parametrize("in_order", [True, False])
def test_a_row_that_waits_for_an_insert_that_wants_no_ticket_is_done_then(
    empty: Desk, in_order: bool
) -> None:
    desk = empty
    desk.start(
        rules=ONE_WAY.replace(
            "    from: hasura/public.outages\n    ticket:",
            "    from: hasura/public.outages\n    when: row.severity in ['major', 'critical']\n"
            "    ticket:",
        )
    )
    desk.sql(OPEN)
    desk.settle()
    desk.sync()
    desk.settle()
    desk.sql("DELETE FROM outages")
    desk.settle()
    assert desk.incident["state"] == "6"
    desk.sql("INSERT INTO outages (id, title, severity) VALUES (1, 'Again', 'minor')")
    desk.sql("UPDATE outages SET severity = 'critical'")
    insert, update = desk.events()
    for event in (insert, update) if in_order else (update, insert):
        desk.deliver(event)
    desk.clock.advance(60)
    desk.apps[0].housekeeping.run()
    last = desk.incidents[-1]
    assert (last["short_description"], last["state"]) == ("Again", "2")


def test_the_settled_state_of_a_write_in_doubt_is_ours(desk: Desk) -> None:
    desk.person(state="In Progress")
    desk.notify()
    desk.settle()
    desk.servicenow.arm("commit_then_reset", method="PATCH", table="incident")
    desk.sql("UPDATE outages SET status = 'fixed'")
    desk.deliver_all()
    desk.person(state="In Progress")
    desk.settle()
    desk.notify()
    desk.settle()
    desk.sync()
    desk.settle()
    state = {"6": "fixed", "2": "in progress"}[desk.incident["state"]]
    assert desk.row()["status"] == state


def test_a_value_in_doubt_that_a_person_changes_back_is_told(desk: Desk) -> None:
    desk.servicenow.arm("commit_then_reset", method="PATCH", table="incident")
    desk.sql("UPDATE outages SET severity = 'major'")
    desk.deliver_all()
    desk.person(impact="1")
    desk.settle()
    desk.notify()
    desk.settle()
    desk.sync()
    desk.settle()
    impact = {"critical": "1", "major": "2"}[desk.row()["severity"]]
    assert desk.incident["impact"] == impact


@pytest.mark.parametrize(
    "title",
    ["Straße \N{PARTY POPPER}", "a\r\nb", " blanks ", "{{ row.id }}", "a^b=c", "\u202ertl", "null"],
)
def test_odd_titles_come_back_and_rest(desk: Desk, title: str) -> None:
    desk.person(short_description=title)
    desk.notify()
    desk.settle()
    assert desk.row()["title"] == desk.incident["short_description"]
    desk.sql("UPDATE outages SET title = %s", title + "!")
    desk.settle()
    desk.servicenow.forget()
    desk.sync()
    desk.settle()
    assert [c for c in desk.calls() if not c.startswith("GET")] == []
    assert desk.row()["title"] == title + "!"


def test_a_change_back_while_a_mutation_is_in_doubt_is_told(desk: Desk) -> None:
    desk.person(impact="2")
    desk.graphql.arm("commit_then_reset")
    desk.notify()
    desk.person(impact="1")
    desk.settle()
    desk.sync()
    desk.settle()
    assert (desk.incident["impact"], desk.row()["severity"]) == ("1", "critical")


def test_switched_off_and_on_again_nothing_is_rewritten(desk: Desk) -> None:
    desk.start(rules=without(ONE_WAY, "outage-back"))
    desk.sql("UPDATE outages SET title = 'B'")
    desk.settle()
    desk.sql("UPDATE outages SET title = 'C'")
    events = desk.events()
    desk.start(rules=ONE_WAY)
    desk.person(category="network")
    desk.notify()
    assert desk.row()["title"] == "C"
    assert events
    desk.settle()
    assert desk.row()["title"] == desk.incident["short_description"] == "C"


def test_a_row_resolved_in_doubt_and_a_gap(desk: Desk) -> None:
    desk.sql("UPDATE outages SET ticket_number = 'as the app calls it'")
    desk.sql("DELETE FROM hdb_catalog.event_log WHERE NOT delivered")
    desk.sql("UPDATE outages SET details = 'more'")
    desk.settle()
    desk.servicenow.arm("business_rule_403", method="PATCH", table="incident")
    desk.sql("UPDATE outages SET status = 'fixed', title = 'Gone'")
    for event in desk.events():
        desk.deliver(event)
    desk.sql("UPDATE outages SET details = 'even more'")
    desk.settle()
    assert desk.incident["short_description"] == "Gone"


def test_a_row_that_names_a_ticket_later_keeps_the_apps_later_edit(postgresql: str) -> None:
    with Desk(postgresql, rules=without(RULES, "outage-born")) as desk:
        sys_id = born(desk)
        desk.sql(
            "INSERT INTO outages (id, title, severity, servicenow_sys_id) "
            "VALUES (1, 'Mine', 'minor', %s)",
            sys_id,
        )
        desk.settle()
        desk.person(sys_id, impact="1")
        desk.notify(sys_id)
        desk.settle()
        assert desk.row()["severity"] == "critical"
        desk.sql("UPDATE outages SET severity = 'minor'")
        desk.settle()
        assert desk.incident["impact"] == "3"
