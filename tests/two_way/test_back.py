"""What people change in ServiceNow comes back to the app."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.two_way.desk import RULES, Desk, without

OPEN = "INSERT INTO outages (id, title, severity) VALUES (1, 'Checkout is down', 'critical')"
ONE_WAY = re.sub(r"(?m)^ +sys_id: .*\n", "", RULES)


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql, rules=ONE_WAY) as desk:
        desk.sql(OPEN)
        desk.settle()
        desk.servicenow.forget()
        yield desk


def test_a_ticket_that_we_made_tells_its_number(desk: Desk) -> None:
    assert desk.row()["ticket_number"] == desk.incident["number"]


def test_what_a_person_changes_the_row_says_too_and_nothing_comes_back(desk: Desk) -> None:
    desk.person(short_description="Refunds too", impact="2")
    answer = desk.notify()

    assert (answer.status, answer.outcome["status"]) == (200, "updated")
    assert (desk.row()["title"], desk.row()["severity"]) == ("Refunds too", "major")
    assert desk.calls() == ["GET incident", "GET sys_journal_field"]
    desk.settle()
    assert desk.calls() == []
    assert desk.notify().outcome["status"] == "unchanged"


def test_a_change_of_a_column_that_no_rule_names_rewrites_nothing(desk: Desk) -> None:
    desk.sql("UPDATE outages SET title = 'Edited in the app'")
    desk.person(category="network")

    assert desk.notify().outcome["status"] == "unchanged"
    assert desk.row()["title"] == "Edited in the app"


def test_a_person_resolves_the_row_is_fixed_and_servicenow_is_not_called(desk: Desk) -> None:
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    desk.notify()
    row = desk.row()
    desk.calls()
    desk.settle()

    assert (row["status"], row["resolution"]) == ("fixed", "Rolled back")
    assert desk.calls() == []
    assert desk.incident["state"] == "6"


def test_resolved_there_and_reopened_in_the_app(desk: Desk) -> None:
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    desk.notify()
    desk.settle()
    desk.sql("UPDATE outages SET status = 'open'")
    desk.settle()

    assert desk.incident["state"] == "2"
    assert desk.notify().outcome["status"] == "unchanged"
    assert desk.row()["status"] == "open"


def test_a_reopening_in_the_app_that_overtakes_our_own_mutations_event(desk: Desk) -> None:
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Rolled back")
    desk.notify()
    desk.sql("UPDATE outages SET status = 'open'")
    ours, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()

    assert desk.incident["state"] == "2"
    assert desk.row()["status"] == "open"


def test_a_field_that_the_app_changes_back_is_sent_though_it_was_sent_last(desk: Desk) -> None:
    desk.person(impact="2")
    desk.notify()
    desk.sql("UPDATE outages SET severity = 'critical'")
    ours, apps = desk.events()
    desk.deliver(apps)
    desk.deliver(ours)
    desk.settle()

    assert desk.incident["impact"] == "1"
    assert desk.row()["severity"] == "critical"


def test_a_persons_change_first_seen_in_the_answer_to_our_write_reaches_the_app(
    desk: Desk,
) -> None:
    desk.person(impact="3")
    desk.sql("UPDATE outages SET title = 'Another title'")
    desk.settle()
    desk.sync()

    assert desk.row()["severity"] == "minor"
    assert desk.row()["title"] == desk.incident["short_description"] == "Another title"


def test_a_write_of_ours_is_not_passed_on_even_where_the_instance_rewrote_it(desk: Desk) -> None:
    desk.sql("UPDATE outages SET title = repeat('x', 200)")
    desk.settle()

    assert len(desk.incident["short_description"]) == 160
    assert desk.notify().outcome["status"] == "unchanged"
    assert len(desk.row()["title"]) == 200


def test_two_notifications_of_one_change_tell_the_app_once(desk: Desk) -> None:
    desk.person(impact="2")
    first, second = desk.notify(), desk.notify()

    assert (first.outcome["status"], second.outcome["status"]) == ("updated", "unchanged")


def test_hasura_is_down_and_the_inbox_keeps_the_work(desk: Desk) -> None:
    desk.graphql.stop()
    desk.person(impact="2")
    answer = desk.notify()
    waiting = desk.events()

    assert (answer.status, answer.body["status"]) == (202, "queued")
    assert [event["table_name"] for event in waiting] == ["inbox"]
    assert waiting[0]["payload"]["data"]["new"].keys() == {"id"}
    assert desk.deliver(waiting[0]).status == 503


def test_what_the_inbox_keeps_is_told_when_hasura_is_back(desk: Desk) -> None:
    desk.graphql.arm("error_before_commit")
    desk.person(impact="2")

    assert desk.notify().status == 202
    desk.settle()
    assert desk.row()["severity"] == "major"
    assert desk.query("SELECT * FROM servicenow.inbox") == []


def test_a_mutation_whose_answer_is_lost_is_repeated(desk: Desk) -> None:
    desk.graphql.arm("commit_then_reset")
    desk.person(impact="2")

    assert desk.notify().status == 202
    desk.settle()
    assert desk.row()["severity"] == "major"
    assert len(desk.incidents) == 1


def test_an_unknown_value_is_a_dead_letter_that_names_it_and_is_replayed_when_it_is_known(
    desk: Desk,
) -> None:
    desk.servicenow.change("incident", desk.incident["sys_id"], state="Canceled")
    desk.start(rules=ONE_WAY.replace(", '8': 'fixed'", ""))
    answer = desk.notify()

    assert (answer.status, answer.said) == (422, "dead unknown_value")
    assert "'8'" not in str(answer.body)
    assert len(desk.mails) == 1
    assert desk.notify().status == 422
    assert len(desk.mails) == 1
    desk.start(rules=ONE_WAY)
    assert desk.notify().outcome["status"] == "updated"
    assert desk.row()["status"] == "fixed"


def test_a_ticket_that_no_rule_has_seen_is_noted_and_its_next_change_is_told(desk: Desk) -> None:
    desk.start(rules=without(ONE_WAY, "outage-back", "outage-number", "comment-back"))
    for number in range(2, 12):
        desk.sql("INSERT INTO outages (id, title) VALUES (%s, 'Another')", number)
    desk.settle()
    desk.person(desk.incidents[0]["sys_id"], impact="3")
    rows = desk.sql("SELECT * FROM outages ORDER BY id")
    desk.query("DELETE FROM servicenow.shadow")
    desk.start(rules=ONE_WAY)
    desk.sync()

    assert desk.sql("SELECT * FROM outages ORDER BY id") == rows
    [first, *_] = desk.incidents
    desk.person(first["sys_id"], impact="2")
    assert desk.notify(first["sys_id"]).outcome["status"] == "updated"
    assert desk.row()["severity"] == "major"


def test_a_rule_that_is_new_to_a_ticket_begins_from_what_another_has_given(desk: Desk) -> None:
    newer = ONE_WAY.replace("name: outage-back", "name: outage-back-2")
    desk.person(impact="2")
    desk.start(rules=newer)

    assert desk.notify().outcome["status"] == "updated"
    assert desk.row()["severity"] == "major"


def test_with_the_ledger_lost_the_ticket_says_which_row_it_is_for(desk: Desk) -> None:
    desk.forget()
    desk.notify()
    desk.person(impact="2")

    assert desk.notify().outcome["status"] == "updated"
    assert desk.row()["severity"] == "major"
    desk.settle()
    assert len(desk.incidents) == 1


def test_the_old_ticket_of_a_row_that_is_open_again_tells_nothing(desk: Desk) -> None:
    desk.start(rules=ONE_WAY.replace("      order_by:", "      after_close: new\n      order_by:"))
    desk.sql("UPDATE outages SET status = 'fixed'")
    desk.settle()
    desk.sql("UPDATE outages SET status = 'open'")
    desk.settle()
    old, new = desk.incidents
    desk.person(old["sys_id"], state="Closed")

    assert desk.notify(old["sys_id"]).said == "skipped not_linked"
    assert desk.row()["status"] == "open"
    desk.person(new["sys_id"], state="In Progress")
    assert desk.notify(new["sys_id"]).outcome["status"] == "updated"
    assert desk.row()["status"] == "in progress"


def test_resolved_then_closed_is_one_change_in_the_app(desk: Desk) -> None:
    desk.sql("CREATE TABLE updates (id serial)")
    desk.sql(
        "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO updates DEFAULT VALUES; RETURN NULL; END'"
    )
    desk.sql(
        "CREATE TRIGGER count_it AFTER UPDATE OF status ON outages FOR EACH ROW "
        "WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION count_it()"
    )
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Done")
    desk.notify()
    desk.settle()
    desk.person(state="Closed")
    desk.notify()
    desk.settle()

    assert desk.row()["status"] == "fixed"
    assert len(desk.sql("SELECT * FROM updates")) == 1
    assert desk.incident["state"] == "7"


def test_neither_of_two_apps_on_one_instance_hears_the_others_tickets(desk: Desk) -> None:
    desk.forget()
    desk.start(SOURCE_NAME="warehouse")
    desk.notify()
    desk.person(impact="2")

    assert desk.notify().body["outcomes"] == []
    assert desk.row()["severity"] == "critical"


def test_a_row_that_is_gone_is_skipped(desk: Desk) -> None:
    desk.sql("DELETE FROM outages")
    desk.person(impact="2")

    assert desk.notify().said == "skipped row_gone"
    assert desk.notify().outcome["status"] == "unchanged"


def test_a_runaway_is_held_and_mailed(desk: Desk) -> None:
    for number in range(31):
        desk.person(short_description=f"Title {number}")
        answer = desk.notify()

    assert (answer.status, answer.said) == (202, "retrying too_many_updates")
    assert desk.row()["title"] == "Title 29"
    assert len(desk.mails) == 1
    desk.clock.advance(601)
    desk.settle()
    assert desk.row()["title"] == "Title 30"


def test_a_deletion_is_told_to_rules_that_hear_it(desk: Desk) -> None:
    rule = """
  - name: outage-gone
    from: servicenow/incident
    ops: [DELETE]
    mutate:
      query: |
        mutation($id: bigint!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: {ticket_number: null}) { id }
        }
      variables: {id: "{{ link.key }}"}
"""
    desk.start(rules=ONE_WAY + rule)
    sys_id = desk.incident["sys_id"]
    desk.notify()
    desk.servicenow.remove("incident", sys_id)

    answer = desk.notify(sys_id)
    assert [(one["rule"], one["status"]) for one in answer.body["outcomes"]] == [
        ("outage-gone", "updated")
    ]
    assert desk.row()["ticket_number"] is None
    assert desk.notify(sys_id).body["outcomes"] == []


def test_each_comment_comes_once_also_one_that_says_the_same_or_quotes_us(desk: Desk) -> None:
    desk.person(comments="First")
    desk.notify()
    desk.notify()
    desk.person(comments="First")
    desk.person(comments="[hasura:0123456789abcdef] they wrote")
    desk.notify()
    desk.notify()

    assert sorted(desk.comments()) == [
        ("admin", "First"),
        ("admin", "First"),
        ("admin", "[hasura:0123456789abcdef] they wrote"),
    ]


def test_comments_that_were_there_before_the_way_back_are_not_told(desk: Desk) -> None:
    desk.person(comments="Long ago")
    desk.query("DELETE FROM servicenow.shadow")
    desk.notify()
    desk.clock.advance(300)
    desk.person(comments="Now")
    desk.notify()

    assert desk.comments() == [("admin", "Now")]


def test_an_entry_that_fails_waits_and_the_next_ones_behind_it(desk: Desk) -> None:
    desk.graphql.arm("error_before_commit")
    desk.person(comments="First")
    time.sleep(1.1)  # ServiceNow's stamps are whole seconds
    desk.person(comments="Second")

    assert desk.notify().status == 202
    assert desk.comments() == []
    desk.settle()
    assert desk.comments() == [("admin", "First"), ("admin", "Second")]


def test_an_entry_that_the_app_refuses_is_a_dead_letter_and_is_replayed_by_its_id(
    desk: Desk,
) -> None:
    desk.sql("ALTER TABLE outage_comments ADD CONSTRAINT polite CHECK (body <> 'Damn')")
    desk.person(comments="Damn")
    desk.person(comments="Sorry")

    answer = desk.notify()
    assert sorted(one["status"] for one in answer.body["outcomes"]) == [
        "created",
        "dead",
        "unchanged",
    ]
    assert desk.comments() == [("admin", "Sorry")]
    desk.sql("ALTER TABLE outage_comments DROP CONSTRAINT polite")
    code, said = desk.command("replay", "--failed")
    assert (code, said.splitlines()[-1]) == (0, "1 created")
    assert sorted(desk.comments()) == [("admin", "Damn"), ("admin", "Sorry")]
    desk.notify()
    assert len(desk.comments()) == 2


def test_explain_says_what_the_app_would_be_told_of_a_ticket_and_tells_nothing(desk: Desk) -> None:
    desk.person(impact="2")

    code, said = desk.command("explain", "--ticket", desk.incident["number"])
    assert code == 0
    assert "the ticket of the row 1 of outage" in said
    assert "  changed: impact\n" in said
    assert '"severity":"major"' in said.replace(" ", "")
    assert "title" not in said
    assert desk.row()["severity"] == "critical"
    code, said = desk.command("explain", "--ticket", "INC7")
    assert (code, "has the ticket INC7" in said) == (1, True)


def test_a_rule_whose_when_comes_true_tells_all_that_it_names(desk: Desk) -> None:
    rule = """
  - name: outage-closed
    from: servicenow/incident
    when: row.state == '7'
    mutate:
      query: |
        mutation($id: bigint!, $set: outages_set_input!) {
          update_outages_by_pk(pk_columns: {id: $id}, _set: $set) { id }
        }
      variables: {id: "{{ link.key }}", set: {resolution: "{{ row.short_description }}"}}
"""
    desk.start(rules=without(ONE_WAY, "outage-back") + rule)
    desk.notify()
    desk.person(state="Resolved", close_code="Solution provided", close_notes="Done")
    desk.notify()
    assert desk.row()["resolution"] is None
    desk.person(state="Closed")

    desk.notify()
    assert desk.row()["resolution"] == "Checkout is down"


def test_a_look_that_is_older_than_what_is_known_is_made_again(desk: Desk) -> None:
    desk.person(impact="2")
    desk.servicenow.arm("stale_read", method="GET")

    assert desk.notify().outcome["status"] == "updated"
    assert desk.row()["severity"] == "major"


def test_a_ticket_in_doubt_is_settled_first_and_what_we_sent_is_not_told(desk: Desk) -> None:
    desk.servicenow.arm("commit_then_reset", method="PATCH")
    desk.sql("UPDATE outages SET title = 'Refunds too'")
    [event] = desk.events()
    assert desk.deliver(event).status == 503
    desk.person(impact="2")

    answer = desk.notify()
    assert (answer.status, answer.body["outcomes"][0]["reason"]) == (202, "in_doubt")
    desk.sql("UPDATE outages SET title = 'Only refunds'")
    desk.settle()
    assert (desk.row()["title"], desk.row()["severity"]) == ("Only refunds", "major")
    assert desk.incident["short_description"] == "Only refunds"


def test_a_write_that_commits_long_after_its_answer_was_lost_is_not_told(desk: Desk) -> None:
    desk.servicenow.arm("commit_late", method="PATCH", seconds=30.0)
    desk.sql("UPDATE outages SET title = 'Refunds too'")
    [event] = desk.events()
    assert desk.deliver(event).status == 503
    assert desk.notify().status == 202
    desk.servicenow.commit_now()
    desk.clock.advance(70)
    desk.sql("UPDATE outages SET title = 'Only refunds'")
    desk.settle()

    assert desk.row()["title"] == desk.incident["short_description"] == "Only refunds"


def test_pushed_the_app_is_given_what_was_only_noted(desk: Desk) -> None:
    desk.query("DELETE FROM servicenow.shadow")
    desk.sql("UPDATE outages SET assignee = 'nobody', title = 'Stale'")
    app = desk.apps[0]
    app.inbound().tickets.sync_ticket(
        "incident", desk.incident["sys_id"], deadline=app.engine.deadline(), push=True
    )

    assert (desk.row()["title"], desk.row()["assignee"]) == ("Checkout is down", None)


def test_the_app_is_down_for_an_hour_and_nothing_is_lost(desk: Desk) -> None:
    url = desk.graphql.url
    desk.start(HASURA_GRAPHQL_URL="http://127.0.0.1:9/v1/graphql")
    for impact in ("2", "3", "2"):
        desk.person(impact=impact)
        assert desk.notify().status == 202
    desk.person(comments="Still down?")
    desk.notify()
    for _ in range(4):
        desk.clock.advance(900)
        assert {answer.status for answer in desk.deliver_all()} == {503}
    desk.start(HASURA_GRAPHQL_URL=url)
    desk.clock.advance(900)
    desk.settle()

    assert desk.row()["severity"] == "major"
    assert desk.comments() == [("admin", "Still down?")]
    assert desk.query("SELECT * FROM servicenow.inbox") == []
    assert desk.query("SELECT * FROM servicenow.delivery WHERE status <> 'done'") == []
