"""Corners of the way back: what goes wrong where two things meet."""

import re
import threading
import time
from collections.abc import Iterator

import pytest

from tests.two_way.desk import Desk, without
from tests.two_way.test_back import ONE_WAY, OPEN

WAITING = (
    "SELECT rule, status, reason FROM servicenow.delivery WHERE status <> 'done' ORDER BY rule"
)


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql, rules=ONE_WAY) as desk:
        desk.sql(OPEN)
        desk.settle()
        desk.servicenow.forget()
        yield desk


@pytest.fixture
def empty(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql, rules=ONE_WAY) as desk:
        yield desk


@pytest.fixture(autouse=True)
def _ids_apart(request: pytest.FixtureRequest) -> None:
    """Rows that Hasura inserts have ids of their own."""
    for name in ("desk", "empty"):
        if name in request.fixturenames:
            request.getfixturevalue(name).sql(
                "ALTER TABLE outages ALTER COLUMN id RESTART WITH 1000"
            )


def housekeep(desk: Desk) -> dict[str, int]:
    return desk.apps[0].housekeeping.run()


def test_a_look_that_failed_once_leaves_nothing_waiting(desk: Desk) -> None:
    desk.servicenow.arm("unavailable_503", method="GET", table="incident")
    desk.person(impact="2")
    assert desk.notify().status == 202
    desk.settle()
    assert desk.row()["severity"] == "major"
    assert desk.query(WAITING) == []


def test_a_look_that_failed_once_is_no_false_dead_letter_a_week_later(desk: Desk) -> None:
    desk.servicenow.arm("unavailable_503", method="GET", table="incident")
    desk.person(impact="2")
    desk.notify()
    desk.settle()
    desk.clock.advance(8 * 86400)
    housekeep(desk)
    assert [r for r in desk.query(WAITING) if r["status"] == "dead"] == []
    assert [str(m["Subject"]) for m in desk.mails] == []


def test_a_journal_that_could_not_be_read_once_leaves_nothing_waiting(desk: Desk) -> None:
    desk.servicenow.arm("unavailable_503", method="GET", table="sys_journal_field")
    desk.person(comments="Hello")
    assert desk.notify().status == 202
    desk.settle()
    assert desk.comments() == [("admin", "Hello")]
    assert desk.query(WAITING) == []


def test_a_change_after_a_look_that_was_given_up_is_done_or_kept(desk: Desk) -> None:
    desk.servicenow.arm("acl_403", method="GET", table="incident")
    first = desk.notify()
    assert first.status == 422, first
    assert desk.notify().status in (200, 422)  # the ACL is right again, nothing is new
    desk.person(impact="2")
    desk.servicenow.arm("unavailable_503", method="GET", table="incident")
    answer = desk.notify()
    kept = desk.query("SELECT * FROM servicenow.inbox")
    assert answer.status == 202
    assert kept


def test_a_comment_after_an_unreadable_journal_was_given_up_is_done_or_kept(desk: Desk) -> None:
    desk.servicenow.arm("acl_403", method="GET", table="sys_journal_field")
    desk.person(comments="One")
    first = desk.notify()
    assert first.status == 422, first
    desk.servicenow.arm("unavailable_503", method="GET", table="sys_journal_field")
    desk.person(comments="Two")
    answer = desk.notify()
    kept = desk.query("SELECT * FROM servicenow.inbox")
    assert answer.status == 202
    assert kept


def test_replay_ends_the_dead_letter_of_a_look(desk: Desk) -> None:
    desk.servicenow.arm("acl_403", method="GET", table="incident")
    desk.notify()
    _, said = desk.command("replay", "--failed")
    assert desk.query(WAITING) == [], said


DOTTED = ONE_WAY.replace(
    "      resolve_when:",
    "        assigned_to: \"{{ row.assignee or '' }}\"\n      resolve_when:",
).replace("{{ shown.assigned_to or none }}", "{{ row['assigned_to.user_name'] or none }}")
assert "assigned_to: " in DOTTED


def users(desk: Desk) -> list[dict[str, str]]:
    return [
        u for u in desk.servicenow.rows("sys_user") if u.get("active") in ("true", "1", None, "")
    ]


def test_our_own_write_of_a_reference_is_not_told_by_its_dotted_column(empty: Desk) -> None:
    desk = empty
    [u["user_name"] for u in desk.servicenow.rows("sys_user")][:10], len(DOTTED)
    one, two, *_ = [
        u["user_name"]
        for u in desk.servicenow.rows("sys_user")
        if u["user_name"] not in ("admin", "svc.hasura")
    ]
    desk.start(rules=DOTTED)
    desk.sql("INSERT INTO outages (id, title, severity) VALUES (1, 'Checkout is down', 'critical')")
    desk.settle()
    desk.sql("UPDATE outages SET assignee = %s", one)
    desk.settle()
    assert desk.incident["assigned_to"], desk.incident
    desk.sql("UPDATE outages SET assignee = %s", two)  # its event is under way
    desk.person(category="network")
    desk.person(impact="2")
    desk.notify()
    desk.settle()
    names = {u["sys_id"]: u["user_name"] for u in desk.servicenow.rows("sys_user")}
    assert (desk.row()["assignee"], names[desk.incident["assigned_to"]]) == (two, two)


BOTH_OPS = ONE_WAY.replace(
    "  - name: outage-back\n    from: servicenow/incident\n",
    "  - name: outage-back\n    from: servicenow/incident\n    ops: [INSERT, UPDATE]\n",
)
assert "ops: [INSERT, UPDATE]" in BOTH_OPS


def test_a_rule_that_hears_inserts_and_updates_does_not_undo_the_apps_edit(empty: Desk) -> None:
    desk = empty
    desk.start(rules=BOTH_OPS)
    desk.sql(OPEN)
    [created] = desk.events()
    desk.deliver(created)
    desk.sql("UPDATE outages SET title = 'Edited in the app'")
    events = desk.events()
    [e["table_name"] for e in events]
    for event in events:
        if event["table_name"] == "inbox":
            desk.deliver(event)
    desk.settle()
    both = desk.row()["title"], desk.incident["short_description"]
    assert both == ("Edited in the app", "Edited in the app")


# E, F: a create in doubt
def test_the_number_of_a_ticket_seen_before_its_create_was_settled_is_told(empty: Desk) -> None:
    desk = empty
    desk.sql(OPEN)
    desk.servicenow.arm("commit_then_reset", method="POST", table="incident")
    desk.servicenow.arm("down", method="GET", table="incident")
    desk.deliver_all()
    desk.servicenow.disarm()
    assert len(desk.incidents) == 1
    desk.person(impact="2")
    desk.notify()
    desk.settle()
    assert desk.row()["ticket_number"] == desk.incident["number"]


def test_what_a_person_did_before_a_create_in_doubt_was_settled_is_told(empty: Desk) -> None:
    desk = empty
    desk.sql(OPEN)
    desk.servicenow.arm("commit_then_reset", method="POST", table="incident")
    desk.servicenow.arm("down", method="GET", table="incident")
    desk.deliver_all()
    desk.servicenow.disarm()
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    desk.clock.advance(70)
    desk.settle()
    desk.notify()
    desk.settle()
    assert desk.row()["status"] == "fixed"


def test_close_notes_that_the_app_changes_back_are_sent(desk: Desk) -> None:
    desk.sql("UPDATE outages SET status = 'fixed', resolution = 'R1'")
    desk.settle()
    assert desk.incident["close_notes"] == "R1"
    desk.person(close_notes="R2")
    desk.notify()
    assert desk.row()["resolution"] == "R2"
    desk.sql("UPDATE outages SET resolution = 'R1'")
    ours, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()
    assert (desk.row()["resolution"], desk.incident["close_notes"]) == ("R1", "R1")


def test_a_reference_that_the_app_changes_back_is_sent_when_events_are_reordered(
    empty: Desk,
) -> None:
    desk = empty
    one, two, *_ = [
        u for u in desk.servicenow.rows("sys_user") if u["user_name"] not in ("admin", "svc.hasura")
    ]
    desk.start(rules=DOTTED)
    desk.sql(
        "INSERT INTO outages (id, title, assignee) VALUES (1, 'Checkout is down', %s)",
        one["user_name"],
    )
    desk.settle()
    assert desk.incident["assigned_to"] == one["sys_id"]
    desk.person(assigned_to=two["sys_id"])
    desk.notify()
    assert desk.row()["assignee"] == two["user_name"]
    desk.sql("UPDATE outages SET assignee = %s", one["user_name"])
    desk.sql("UPDATE outages SET details = 'more'")
    ours, back, own = desk.events()
    for event in (own, back, ours):
        desk.deliver(event)
    desk.settle()
    assert desk.row()["assignee"] == one["user_name"]
    assert desk.incident["assigned_to"] == one["sys_id"]


def test_a_title_that_the_app_changes_back_is_sent_when_events_are_reordered(desk: Desk) -> None:
    """The same with a text: the control."""
    desk.person(short_description="Two")
    desk.notify()
    desk.sql("UPDATE outages SET title = 'Checkout is down'")
    desk.sql("UPDATE outages SET details = 'more'")
    ours, back, own = desk.events()
    for event in (own, back, ours):
        desk.deliver(event)
    desk.settle()
    assert desk.row()["title"] == "Checkout is down"
    assert desk.incident["short_description"] == "Checkout is down"


LOG = """
  - name: comment-log
    from: servicenow/incident.comments
    mutate:
      query: |
        mutation Log($outage: outages_insert_input!) {
          insert_outages_one(
            object: $outage,
            on_conflict: {
              constraint: outages_servicenow_sys_id_key,
              update_columns: [servicenow_sys_id]
            }
          ) { id }
        }
      variables:
        outage:
          title: "{{ row.value }}"
          servicenow_sys_id: "{{ row.sys_id }}"
"""


def stranger(desk: Desk, **values: str) -> str:
    desk.servicenow.tables  # noqa: B018
    fields = {"short_description": "Another app's", "correlation_id": "", **values}
    return desk.servicenow.tables.insert("incident", fields, by="admin")["sys_id"]


def test_a_comment_rule_does_not_hear_other_apps_tickets(desk: Desk) -> None:
    desk.start(rules=without(ONE_WAY, "comment-back") + LOG)
    sys_id = stranger(desk, correlation_id="warehouse:outage:1")
    desk.person(sys_id, comments="Theirs")
    desk.notify(sys_id)
    assert desk.sql("SELECT title FROM outages WHERE id <> 1") == []


def test_a_comment_rules_filter_is_kept(desk: Desk) -> None:
    filtered = LOG.replace(
        "    mutate:", "    filter: priority=1^category=security\n    mutate:", 1
    )
    desk.start(rules=without(ONE_WAY, "comment-back") + filtered)
    sys_id = stranger(desk, category="network")
    desk.person(sys_id, comments="Not security")
    desk.notify(sys_id)
    assert desk.sql("SELECT title FROM outages WHERE id <> 1") == []


def test_a_comment_before_the_ticket_is_linked_is_told_later_where_when_is_link(
    empty: Desk,
) -> None:
    desk = empty
    desk.start(
        rules=ONE_WAY.replace(
            "servicenow/incident.comments\n    when: link.rule == 'outage'",
            "servicenow/incident.comments\n    when: link",
        )
    )
    desk.servicenow.overrides["correlation_id"] = ""
    desk.sql(OPEN)
    desk.servicenow.arm("commit_then_reset", method="POST", table="incident")
    desk.servicenow.arm("down", method="GET", table="incident")
    desk.deliver_all()
    desk.servicenow.disarm()
    desk.person(comments="Early")
    desk.notify()
    desk.clock.advance(70)
    desk.settle()
    desk.person(category="network")
    desk.notify()
    desk.settle()
    assert desk.comments() == [("admin", "Early")]


def test_a_comment_comes_though_the_integration_users_time_zone_is_not_gmt(desk: Desk) -> None:
    desk.servicenow.tables.local_times = True
    [user] = [u for u in desk.servicenow.rows("sys_user") if u["user_name"] == "svc.hasura"]
    desk.servicenow.change("sys_user", user["sys_id"], time_zone="US/Pacific")
    desk.person(comments="First")
    desk.notify()
    desk.person(comments="Second")
    desk.notify()
    desk.notify()
    assert sorted(desk.comments()) == [("admin", "First"), ("admin", "Second")]


def test_an_entry_that_is_seen_a_moment_later_than_its_ticket_is_told(desk: Desk) -> None:
    desk.person(comments="First")
    [entry] = desk.servicenow.rows("sys_journal_field")
    desk.servicenow.remove("sys_journal_field", entry["sys_id"])  # a replica has it not yet
    desk.notify()
    desk.servicenow.tables.insert("sys_journal_field", entry, by="admin")
    assert len(desk.servicenow.rows("sys_journal_field")) == 1
    desk.notify()
    desk.clock.advance(600)
    desk.notify()
    assert desk.comments() == [("admin", "First")]


URGENT = """
  - name: urgent
    from: servicenow/incident
    filter: category=security
    mutate:
      query: |
        mutation Urgent($id: bigint!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: {severity: "critical"}) { id }
        }
      variables: {id: "{{ 1 if row.category == 'security' else 1 }}"}
"""


def test_a_ticket_that_comes_to_meet_a_filter_is_born_though_another_rule_has_filters(
    desk: Desk,
) -> None:
    born = ONE_WAY.replace(
        "assignment_group.name=Software^active=true^correlation_idISEMPTY",
        "subcategory=app",
    )
    desk.start(rules=born + URGENT)
    sys_id = stranger(desk, category="network")
    desk.notify(sys_id)
    desk.person(sys_id, subcategory="app")
    desk.notify(sys_id)
    assert len(desk.sql("SELECT id FROM outages")) == 2


def test_a_ticket_that_comes_to_meet_a_filter_is_born_control(desk: Desk) -> None:
    born = ONE_WAY.replace(
        "assignment_group.name=Software^active=true^correlation_idISEMPTY",
        "subcategory=app",
    )
    desk.start(rules=born)
    sys_id = stranger(desk, category="network")
    desk.notify(sys_id)
    desk.person(sys_id, subcategory="app")
    desk.notify(sys_id)
    assert len(desk.sql("SELECT id FROM outages")) == 2


def test_one_entry_that_cannot_be_worked_does_not_stop_the_housekeeping(desk: Desk) -> None:
    from function.ledger.inbox import ticket_entry

    desk.sql("INSERT INTO outages (id, title) VALUES (2, 'Another')")
    desk.settle()
    first, second = desk.incidents
    # As a newer version may write it, while both are deployed.
    desk.query(
        "UPDATE servicenow.shadow SET journal = '{\"version\": 2}' WHERE sys_id = :s",
        s=first["sys_id"],
    )
    for one in (first, second):
        desk.person(one["sys_id"], impact="2")
        desk.ledger.inbox.put(ticket_entry("incident", one["sys_id"]))
    for _ in range(3):
        desk.clock.advance(120)
        try:
            housekeep(desk)
        except KeyError as error:
            "housekeeping ended by", repr(error)
    assert desk.row(2)["severity"] == "major"


def test_a_dead_letter_with_another_versions_reason_does_not_stop_a_ticket(desk: Desk) -> None:
    desk.servicenow.change("incident", desk.incident["sys_id"], state="Canceled")
    desk.start(rules=ONE_WAY.replace(", '8': 'fixed'", ""))
    assert desk.notify().status == 422
    desk.query("UPDATE servicenow.delivery SET reason = 'a_newer_reason' WHERE status = 'dead'")
    answer = desk.notify()
    assert answer.status == 422, answer


def test_failures_are_no_updates(desk: Desk) -> None:
    desk.graphql.stop()
    for number in range(32):
        desk.person(short_description=f"Title {number}")
        answer = desk.notify()
    assert answer.said != "retrying too_many_updates"


def test_a_ticket_that_was_hidden_for_a_while_loses_no_change(desk: Desk) -> None:
    row = dict(desk.incident)
    desk.servicenow.remove("incident", row["sys_id"])
    desk.notify(row["sys_id"], mod_count=3)
    desk.servicenow.tables.insert(
        "incident", row | {"impact": "2", "sys_mod_count": "5"}, by="admin"
    )
    desk.notify()
    assert desk.row()["severity"] == "major"


def test_a_slow_servicenow_is_answered_within_eight_seconds(desk: Desk) -> None:
    desk.person(impact="2")
    desk.servicenow.arm("slow", method="GET", table="incident", seconds=15)
    began = time.monotonic()
    answer = desk.notify()
    took = time.monotonic() - began
    assert took < 8.0
    assert answer.status == 202
    assert desk.query("SELECT * FROM servicenow.inbox")


def test_a_slow_hasura_is_answered_within_eight_seconds(desk: Desk) -> None:
    import psycopg

    desk.person(impact="2")
    with psycopg.connect(desk._app_database_url) as connection:
        connection.execute("SELECT * FROM outages FOR UPDATE")
        began = time.monotonic()
        answer = desk.notify()
        took = time.monotonic() - began
    assert took < 8.0
    assert answer.status == 202
    assert desk.query("SELECT * FROM servicenow.inbox")


GONE = """
  - name: outage-gone
    from: servicenow/incident
    ops: [DELETE]
    filter: category=security
    mutate:
      query: |
        mutation($id: bigint!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: {ticket_number: null}) { id }
        }
      variables: {id: "{{ link.key }}"}
"""


def test_a_deletion_of_a_ticket_that_never_met_the_filter_is_not_told(desk: Desk) -> None:
    desk.start(rules=ONE_WAY + GONE)
    desk.person(category="network")
    desk.notify()
    sys_id = desk.incident["sys_id"]
    desk.servicenow.remove("incident", sys_id)
    desk.notify(sys_id)
    assert desk.row()["ticket_number"] is not None


def test_a_column_that_is_new_to_a_rule_is_noted_as_it_is(desk: Desk) -> None:
    less = re.sub(r"(?m)^          severity: .*lookup\(\{'1': 'critical'.*\n", "", ONE_WAY, count=1)
    assert less != ONE_WAY
    desk.start(rules=less)
    desk.person(impact="2")
    desk.notify()
    assert desk.row()["severity"] == "critical"
    desk.start(rules=ONE_WAY)
    desk.person(category="network")
    desk.notify()
    assert desk.row()["severity"] == "critical"


# More
def test_comments_that_answer_each_other_are_held(desk: Desk) -> None:
    for number in range(40):
        desk.person(comments=f"Automatic answer {number}")
        answer = desk.notify()
    assert answer.status == 202
    assert len(desk.comments()) <= 31


def test_of_many_entries_that_were_there_before_none_is_told(desk: Desk) -> None:
    for number in range(130):
        desk.person(comments=f"Import {number}")
    desk.query("DELETE FROM servicenow.shadow")
    desk.notify()
    desk.settle()
    desk.notify()
    assert len(desk.comments()) == 0


def test_a_long_inbox_does_not_keep_mails_from_being_sent(desk: Desk) -> None:
    from function.core.outcome import Failure, Reason, Retryability
    from function.ledger.inbox import ticket_entry

    desk.start(DEADLINE_SECONDS="6", SERVICENOW_TIMEOUT_SECONDS="5", HASURA_TIMEOUT_SECONDS="5")
    for number in range(12):
        desk.ledger.inbox.put(ticket_entry("incident", f"{number:032x}"))
    desk.clock.advance(60)
    builder = desk.apps[0].engine.context.alerts.about("Hasura", "x")
    failure = Failure(Retryability.PERMANENT, Reason.REFUSED, "told")
    desk.ledger.alerts.raise_alert(builder.upstream(failure, "hasura", now=desk.ledger.now()))
    desk.servicenow.arm("slow", method="GET", table="incident", seconds=0.9, times=None)
    housekeep(desk)
    desk.servicenow.disarm()
    assert len(desk.mails) == 1


def test_a_mail_holds_no_value_that_the_database_refused(desk: Desk) -> None:
    rule = """
  - name: bad-type
    from: servicenow/incident
    mutate:
      query: |
        mutation Bad($id: bigint!, $title: String!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: {title: $title}) { id }
        }
      variables: {id: "{{ row.short_description }}", title: x}
"""
    desk.start(rules=without(ONE_WAY, "outage-back") + rule)
    desk.notify()
    desk.person(short_description="secretword of a person")
    answer = desk.notify()
    assert answer.status == 422
    told = "".join(mail.as_string() for mail in desk.mails)
    assert "secretword" not in told + str(answer)


def test_a_look_from_before_the_rows_lease_was_had_is_not_compared(empty: Desk) -> None:
    desk = empty
    desk.sql(OPEN)
    desk.servicenow.arm("commit_then_reset", method="POST", table="incident")
    desk.servicenow.arm("down", method="GET", table="incident")
    desk.deliver_all()
    desk.servicenow.disarm()
    # The ticket is read at once; whose it is, is found out a while later.
    desk.servicenow.arm("slow", method="GET", table="incident")
    desk.servicenow.arm("slow", method="GET", table="incident", seconds=2.0)
    look = threading.Thread(target=desk.notify)
    look.start()
    while desk.servicenow.armed():
        time.sleep(0.01)
    # Meanwhile another worker settles the create, and then writes what the app edits.
    desk.clock.advance(70)
    for edit in ("", "UPDATE outages SET title = 'Edited in the app'"):
        if edit:
            desk.sql(edit)
        for event in desk.events():
            if event["table_name"] == "outages":
                desk.deliver(event)
    still_looking = look.is_alive()
    look.join()

    assert still_looking
    assert desk.incident["short_description"] == "Edited in the app"
    assert desk.row()["title"] == "Edited in the app"


def test_a_title_with_a_blank_behind_that_the_app_changes_back_is_sent(desk: Desk) -> None:
    desk.person(short_description="Two")
    desk.notify()
    desk.sql("UPDATE outages SET title = 'Two ' WHERE id = 1")
    desk.settle()
    desk.person(short_description="Three")
    desk.notify()
    desk.settle()
    desk.person(short_description="Two")
    desk.notify()
    desk.settle()
    desk.sql("UPDATE outages SET title = 'Three'")
    desk.sql("UPDATE outages SET details = 'more'")
    back, own = desk.events()
    desk.deliver(own)
    desk.deliver(back)
    desk.settle()
    assert desk.row()["title"] == desk.incident["short_description"] == "Three"


def test_a_dead_mutation_is_not_mailed_anew_after_each_failed_look(desk: Desk) -> None:
    desk.servicenow.change("incident", desk.incident["sys_id"], state="Canceled")
    desk.start(rules=ONE_WAY.replace(", '8': 'fixed'", ""))
    assert desk.notify().status == 422
    mails = len(desk.mails)
    for _ in range(3):
        desk.clock.advance(1000)
        desk.servicenow.arm("unavailable_503", method="GET", table="incident")
        desk.notify()
        desk.settle()
        desk.notify()
    [str(m["Subject"]) for m in desk.mails]
    assert len(desk.mails) == mails


def test_what_was_sent_in_doubt_is_ours_also_where_the_row_cannot_be_said(desk: Desk) -> None:
    desk.servicenow.arm("commit_then_reset", method="PATCH", table="incident")
    desk.sql("UPDATE outages SET title = 'B'")
    [a.status for a in desk.deliver_all()]
    desk.sql("UPDATE outages SET title = 'C', severity = 'bogus'")
    [a.status for a in (desk.deliver(desk.events()[-1]),)]
    desk.clock.advance(70)
    desk.notify()
    assert desk.row()["title"] == "C"


def test_a_dead_letter_of_a_look_that_was_mended_is_over_after_a_good_look(desk: Desk) -> None:
    desk.servicenow.arm("acl_403", method="GET", table="incident")
    desk.notify()
    desk.person(impact="2")
    assert desk.notify().status == 200
    assert desk.query(WAITING) == []


def test_what_a_rows_former_ticket_said_alone_is_not_left_in_the_row(desk: Desk) -> None:
    desk.person(assigned_to="Beth Anglin")
    desk.notify()
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Done")
    desk.notify()
    desk.person(state="Closed")
    desk.notify()
    desk.settle()
    assert (desk.row()["assignee"], desk.row()["status"]) == ("Beth Anglin", "fixed")

    desk.sql("UPDATE outages SET status = 'in progress'")
    desk.settle()

    assert len(desk.incidents) == 2
    assert (desk.row()["assignee"], desk.row()["status"]) == (None, "in progress")
