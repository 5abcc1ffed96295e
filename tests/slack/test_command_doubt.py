"""A command whose write is in doubt, or whose look comes too early."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.payloads import insert
from tests.slack.desk import RULES, SlackWorld
from tests.world import RULES as OUTAGES
from tests.world import outage

# The tickets of outages, whose changes the app is told of; its GraphQL does not answer, so that
# what it is still to be told stays in the inbox.
LINKED = (
    OUTAGES
    + RULES.partition("rules:\n")[2]
    + """
  - name: back
    from: servicenow/incident
    mutate:
      query: >-
        mutation M($id: bigint!, $s: String!)
        { update_outages_by_pk(pk_columns: {id: $id}, _set: {status: $s}) { id } }
      variables: {id: "{{ link.key }}", s: "{{ row.state }}"}
"""
)


@contextmanager
def linked_world() -> Iterator[tuple[SlackWorld, dict[str, str]]]:
    """A world with the ticket of a row, of which the app has nothing left to be told."""
    hasura = {
        "HASURA_GRAPHQL_URL": "http://127.0.0.1:9/v1/graphql",
        "HASURA_ADMIN_SECRET": "x" * 20,
        "HASURA_ROLE": "servicenow",
    }
    with SlackWorld(rules=LINKED, **hasura) as world:
        world.send(insert("public.outages", outage()))
        world.apps[0].housekeeping.run()
        world.query("DELETE FROM servicenow.inbox")
        world.servicenow.catch_up()
        yield world, world.incident


def sources(world: SlackWorld) -> list[str]:
    """Whose work the inbox keeps."""
    return sorted(row["source"] for row in world.inbox)


# A look that comes too early


def test_a_row_is_told_though_the_first_look_is_older_than_the_write() -> None:
    with linked_world() as (world, incident):
        world.servicenow.meanwhile.append(
            lambda: world.servicenow.arm("stale_read", method="GET", times=1)
        )
        world.type(f"/ops-resolve {incident['number']}")
        world.work()

        assert world.incident["state"] == "6"
        assert sources(world) == ["servicenow"]


def test_a_second_command_whose_look_is_older_than_the_first_ones_write_changes_nothing() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.catch_up()
        world.run(f"/ops-resolve {incident['number']} first")
        world.servicenow.arm("stale_read", method="GET", times=2)
        [said] = world.run(f"/ops-resolve {incident['number']} second")

        assert "is resolved already" in said
        assert world.row(incident)["close_notes"] == "first (ada, U0ADA0001)"
        assert world.row(incident)["sys_mod_count"] == "1"


def test_a_command_waits_while_every_look_is_older_than_what_is_known() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.catch_up()
        world.run(f"/ops-resolve {incident['number']} first")
        world.servicenow.arm("stale_read", method="GET", times=3)
        command = world.type(f"/ops-resolve {incident['number']} second")
        [answered] = world.work()
        world.clock.advance(6)
        world.work()

        assert (answered.status, answered.outcome["reason"]) == (503, "servicenow_bad_answer")
        assert "is resolved already" in command.answers[-1].text
        assert world.row(incident)["sys_mod_count"] == "1"


def test_a_count_that_went_back_is_a_restored_instances_after_a_minute() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.run(f"/ops-resolve {incident['number']}")
        world.query("UPDATE servicenow.ticket SET mod_count = 9 WHERE rule = ''")
        command = world.type(f"/ops-resolve {incident['number']}")
        for _ in range(8):
            world.work()
            world.clock.advance(11)

        assert "is resolved already" in command.answers[-1].text


# A lost answer


def lose_answer(world: SlackWorld) -> None:
    """Have the next write done, and its answer lost."""
    world.servicenow.arm("commit_then_reset", times=1, method="PATCH")


def test_a_ticket_that_a_person_reopens_meanwhile_is_not_resolved_again() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        lose_answer(world)
        command = world.type(f"/ops-resolve {incident['number']} mine")
        world.work()
        world.servicenow.change("incident", incident["sys_id"], state="In Progress")
        for _ in range(8):
            world.clock.advance(11)
            world.work()

        assert world.row(incident)["state"] == "2"
        assert command.answers[-1].text == (
            f"{incident['number']} was resolved, and has been opened again since: it stays open."
        )
        assert world.inbox == []


def test_the_notes_of_an_earlier_command_are_not_taken_for_those_of_one_that_was_not_done() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.run(f"/ops-resolve {incident['number']} mine")
        world.servicenow.change("incident", incident["sys_id"], state="In Progress")
        world.servicenow.arm("reset", times=1, method="PATCH")
        command = world.type(f"/ops-resolve {incident['number']} mine")
        for _ in range(9):
            world.work()
            world.clock.advance(11)

        assert command.answers[-1].text == f"{incident['number']} is resolved"
        assert world.row(incident)["state"] == "6"


# The row of a ticket in doubt


def test_while_a_write_is_in_doubt_the_app_is_to_look_at_the_ticket() -> None:
    with linked_world() as (world, incident):
        lose_answer(world)
        world.type(f"/ops-resolve {incident['number']}")
        world.work()

        assert sources(world) == ["servicenow", "slack"]


def test_of_a_command_that_is_given_up_in_doubt_the_app_is_to_look_at_the_ticket() -> None:
    with linked_world() as (world, incident):
        world.type(f"/ops-resolve {incident['number']}")
        lose_answer(world)
        world.work()
        world.query("DELETE FROM servicenow.inbox WHERE source = 'servicenow'")
        world.servicenow.arm("unavailable_503", times=None)
        for _ in range(28):
            world.clock.advance(60)
            world.work()

        assert world.incident["state"] == "6"
        assert sources(world) == ["servicenow"]


def test_when_it_is_settled_the_app_is_to_look_at_the_ticket_whoever_ended_it() -> None:
    with linked_world() as (world, incident):
        world.servicenow.arm("reset", times=1, method="PATCH")
        command = world.type(f"/ops-resolve {incident['number']}")
        world.work()
        closed = {"close_code": "Solution provided", "close_notes": "By hand"}
        world.servicenow.change("incident", incident["sys_id"], state="Resolved", **closed)
        world.query("DELETE FROM servicenow.inbox WHERE source = 'servicenow'")
        world.clock.advance(11)
        world.work()

        assert "is resolved already" in command.answers[-1].text
        assert sources(world) == ["servicenow"]


@pytest.mark.parametrize("changed", ["{} [closed by API]", "[closed by API]\r\n{}"])
def test_our_own_notes_to_which_the_instance_adds_are_ours(changed: str) -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        lose_answer(world)
        command = world.type(f"/ops-resolve {incident['number']} mine")
        world.work()
        notes = changed.format(world.row(incident)["close_notes"])
        world.servicenow.change("incident", incident["sys_id"], close_notes=notes)
        world.clock.advance(11)
        world.work()

        assert command.answers[-1].text == f"{incident['number']} is resolved"


# Two commands for one ticket


def test_while_a_write_of_one_command_may_still_be_done_another_one_waits() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.arm("commit_late", times=1, method="PATCH", seconds=3600)
        first = world.type(f"/ops-resolve {incident['number']} first")
        world.work()
        second = world.type(f"/ops-resolve {incident['number']} second")
        answered = world.bring(next(row["id"] for row in world.inbox if "second" in row["body"]))
        world.servicenow.commit_now()
        for _ in range(2):
            world.clock.advance(11)
            world.work()

        assert (answered.status, answered.outcome["reason"]) == (503, "key_busy")
        assert first.answers[-1].text == f"{incident['number']} is resolved"
        assert ["is resolved already" in answer.text for answer in second.answers] == [True]
        assert world.row(incident)["close_notes"] == "first (ada, U0ADA0001)"
        assert world.row(incident)["sys_mod_count"] == "1"


def test_another_command_resolves_a_ticket_that_the_first_ones_write_did_not_reach() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.arm("reset", times=1, method="PATCH")
        first = world.type(f"/ops-resolve {incident['number']} first")
        world.work()
        first_entry = world.inbox[0]["id"]
        world.type(f"/ops-resolve {incident['number']} second")
        entry = next(row["id"] for row in world.inbox if row["id"] != first_entry)
        statuses = []
        for _ in range(8):
            statuses.append(world.bring(entry).status)
            world.clock.advance(11)
        world.bring(first_entry)

        assert statuses[:5] == [503] * 5
        assert 200 in statuses
        assert world.row(incident)["close_notes"] == "second (ada, U0ADA0001)"
        assert "is resolved already" in first.answers[-1].text


def test_a_write_whose_answer_does_not_tell_the_state_is_looked_at_again() -> None:
    with SlackWorld() as world:
        incident = world.open_incident()
        world.servicenow.meanwhile.append(lambda: world.servicenow.overrides.update(state=""))
        command = world.type(f"/ops-resolve {incident['number']}")
        [answered] = world.work()
        world.servicenow.overrides.clear()
        world.clock.advance(11)
        world.work()

        assert (answered.status, answered.outcome["reason"]) == (503, "in_doubt")
        assert command.answers[-1].text == f"{incident['number']} is resolved"
        assert world.row(incident)["sys_mod_count"] == "1"


def test_a_ticket_that_is_not_found_while_its_write_is_in_doubt_is_looked_for_again() -> None:
    with SlackWorld() as world:
        incident, _ = world.open_incident(), world.open_incident()
        lose_answer(world)
        command = world.type(f"/ops-resolve {incident['number']}")
        world.work()
        world.servicenow.arm("another_record", times=1, method="GET")
        for _ in range(2):
            world.clock.advance(11)
            world.work()

        assert [answer.text for answer in command.answers[1:]] == [
            f"{incident['number']} is resolved"
        ]
