"""The life of tickets that are no incidents: change requests, and tables whose states a rule
declares."""

import json
import re
import socket
from pathlib import Path

import pytest

from function.core.lifecycle import CHOICES
from function.rules import loader as rules_file
from function.rules.schema import STATES_KEYS
from tests.answers import Seen, Server, result
from tests.payloads import delete, insert, update
from tests.world import World

CHANGE = """
version: 1
rules:
  - name: release
    from: hasura/public.releases
    ticket:
      table: change_request
      key: "{{ row.id }}"
      fields:
        short_description: "Release {{ row.version }}"
        type: "{{ row.kind }}"
        risk: "{{ row.risk }}"
      resolve_when: row.deployed
      close_code: "{{ 'unsuccessful' if row.rolled_back else 'successful' }}"
"""
TEMPLATE = "Clear BGP sessions on a Cisco router - 1"
DOCS = Path(__file__).parents[2] / "docs" / "tables.md"


def release(**columns: object) -> dict[str, object]:
    row = {
        "id": 7,
        "version": "1.0",
        "kind": "normal",
        "risk": 3,
        "deployed": False,
        "rolled_back": False,
    }
    return row | columns


PLANNED, DEPLOYED = release(), release(deployed=True)


def with_options(text: str = CHANGE, **options: str) -> str:
    """The rules, with more said of the ticket."""
    lines = "".join(f"      {name}: {value}\n" for name, value in options.items())
    return text.replace("      key:", f"{lines}      key:")


def changes(world: World) -> list[dict[str, str]]:
    return world.servicenow.rows("change_request")


def change(world: World) -> dict[str, str]:
    [only] = changes(world)
    return only


def states_sent(world: World) -> list[str]:
    """The states that were sent since the last time of asking, in their order."""
    return [
        call.body["state"]
        for call in world.servicenow.take_calls()
        if call.body and "state" in call.body
    ]


def refuse(world: World, condition: str, table: str = "change_request") -> str:
    """Have a business rule of the instance refuse updates that fit *condition*; what is returned
    removes it."""
    script = {
        "name": "Approval is missing",
        "collection": table,
        "when": "before",
        "filter_condition": condition,
    }
    flags = {"active": "true", "action_update": "true", "abort_action": "true"}
    return world.servicenow.tables.insert("sys_script", script | flags, by="admin")["sys_id"]


def plan_and_deploy(world: World) -> str:
    world.send(insert("releases", PLANNED))
    return world.send(update("releases", PLANNED, DEPLOYED, created_at="2026-03-04T05:06:08")).said


# Opened


def test_a_change_is_opened_as_new_with_its_model_named_like_its_type() -> None:
    with World(rules=CHANGE) as world:
        answer = world.send(insert("releases", release(kind="emergency")))

        assert answer.said == "created"
        assert (change(world)["state"], change(world)["number"][:3]) == ("-5", "CHG")
        assert (change(world)["type"], change(world)["chg_model"]) == ("emergency", "emergency")
        assert world.mails == []


def test_a_model_that_the_rule_gives_is_the_rules() -> None:
    with World(
        rules=CHANGE.replace("        risk:", "        chg_model: hotfix\n        risk:")
    ) as world:
        world.send(insert("releases", PLANNED))

        assert (change(world)["type"], change(world)["chg_model"]) == ("normal", "hotfix")


def test_a_standard_change_is_made_from_its_template_under_our_own_sys_id() -> None:
    rules = with_options(template=TEMPLATE).replace('        type: "{{ row.kind }}"\n', "")
    with World(rules=rules) as world:
        [template] = world.servicenow.rows("std_change_producer_version")
        answer = world.send(insert("releases", PLANNED))
        world.send(update("releases", PLANNED, release(version="1.1")))

        made = change(world)
        assert answer.said == "created"
        assert made["std_change_producer_version"] == template["sys_id"]
        assert (made["type"], made["chg_model"]) == ("standard", "standard")
        # The rule's own words are kept, what it leaves out is the template's.
        assert (made["short_description"], made["description"]) == (
            "Release 1.1",
            template["description"],
        )
        assert world.calls() == [
            "GET std_change_producer_version",
            "POST change_request",
            "PATCH change_request",
        ]
        assert world.mails == []


def test_a_template_may_be_named_by_its_sys_id() -> None:
    with World(rules=CHANGE) as world:
        [template] = world.servicenow.rows("std_change_producer_version")
        rules = with_options(template=template["sys_id"]).replace(
            '        type: "{{ row.kind }}"\n', ""
        )
        world.start(rules=rules)
        world.send(insert("releases", PLANNED))

        assert change(world)["std_change_producer_version"] == template["sys_id"]


def test_a_template_that_is_not_there_is_a_dead_letter_and_opens_nothing() -> None:
    with World(
        rules=with_options(template="No such").replace('        type: "{{ row.kind }}"\n', "")
    ) as world:
        answer = world.send(insert("releases", PLANNED))

        assert (answer.status, answer.said) == (422, "dead unknown_reference")
        assert changes(world) == []


# Closed


@pytest.mark.parametrize(
    ("kind", "passed"),
    [
        ("normal", ["-4", "-3", "-2", "-1", "0", "3"]),
        ("emergency", ["-3", "-2", "-1", "0", "3"]),
        ("standard", ["-2", "-1", "0", "3"]),
    ],
)
def test_a_change_passes_through_the_states_of_its_type_until_it_is_closed(
    kind: str, passed: list[str]
) -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", release(kind=kind)))
        answer = world.send(
            update("releases", release(kind=kind), release(kind=kind, deployed=True))
        )

        assert answer.said == "resolved"
        assert states_sent(world) == passed
        assert (change(world)["state"], change(world)["close_code"]) == ("3", "successful")
        assert change(world)["close_notes"] == "Resolved in the app"
        assert world.mails == []


def test_a_change_that_failed_is_closed_as_the_rule_says() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        world.send(update("releases", PLANNED, release(deployed=True, rolled_back=True)))

        assert change(world)["close_code"] == "unsuccessful"


def test_a_change_that_people_moved_on_goes_on_from_there() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        for state in ("-4", "-3", "-2", "-1"):
            world.servicenow.change("change_request", change(world)["sys_id"], state=state)
        world.calls()
        world.send(update("releases", PLANNED, DEPLOYED))

        assert world.calls() == [
            "GET change_request",
            "PATCH change_request",
            "PATCH change_request",
        ]
        assert change(world)["state"] == "3"


def test_a_row_first_heard_of_as_it_is_well_gets_its_change_and_that_is_closed() -> None:
    with World(rules=CHANGE) as world:
        answer = world.send(update("releases", PLANNED, DEPLOYED))

        assert answer.said == "created"
        assert states_sent(world) == ["-4", "-3", "-2", "-1", "0", "3"]
        assert change(world)["state"] == "3"


def test_a_closed_change_says_no_more_and_costs_no_call() -> None:
    with World(rules=CHANGE) as world:
        plan_and_deploy(world)
        world.calls()
        later = release(deployed=True, version="2.0")
        answer = world.send(update("releases", DEPLOYED, later, created_at="2026-03-04T05:06:09"))

        assert answer.said == "unchanged ticket_closed"
        assert world.calls() == []


def test_what_the_row_says_is_sent_before_the_transitions() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        world.servicenow.forget()
        world.send(update("releases", PLANNED, release(version="1.1", deployed=True)))

        bodies = [call.body for call in world.servicenow.take_calls() if call.body]
        assert bodies[:2] == [{"short_description": "Release 1.1"}, {"state": "-4"}]


# Refused


def test_a_refused_transition_is_a_dead_letter_in_servicenows_words_and_mailed_with_a_hint() -> (
    None
):
    with World(rules=CHANGE) as world:
        refuse(world, "state=-2")
        said = plan_and_deploy(world)

        assert said == "dead refused_by_business_rule"
        assert change(world)["state"] == "-3"
        [mail] = world.mails
        text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert (
            "from Authorize (-3) to Scheduled (-2): an approval has to be given first"
            in " ".join(text.split())
        )
        assert "Approval is missing" in text


def test_a_transition_refused_because_a_flow_was_faster_goes_on_from_where_the_flow_took_it() -> (
    None
):
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        sys_id = change(world)["sys_id"]

        def flow() -> None:
            for state in ("-4", "-3", "-2", "-1"):
                world.servicenow.change("change_request", sys_id, state=state)

        world.servicenow.meanwhile.append(flow)
        world.calls()
        answer = world.send(update("releases", PLANNED, DEPLOYED, created_at="2026-03-04T05:06:08"))

        assert answer.said == "resolved"
        assert change(world)["state"] == "3"
        assert world.calls() == [
            "GET change_request",
            "PATCH change_request",  # to Assess, refused: it is in Implement by now
            "GET change_request",
            "PATCH change_request",
            "PATCH change_request",
        ]
        assert world.mails == []


def test_a_change_that_people_canceled_a_moment_before_is_left_canceled() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        sys_id = change(world)["sys_id"]
        world.servicenow.meanwhile.append(
            lambda: world.servicenow.change("change_request", sys_id, state="4")
        )
        answer = world.send(update("releases", PLANNED, DEPLOYED, created_at="2026-03-04T05:06:08"))

        assert answer.status == 200
        assert change(world)["state"] == "4"
        assert world.mails == []


def test_a_refused_transition_is_not_tried_again_by_itself() -> None:
    with World(rules=CHANGE) as world:
        refuse(world, "state=-2")
        plan_and_deploy(world)
        body = update("releases", PLANNED, DEPLOYED, id="e-9", created_at="2026-03-04T05:06:08")
        world.send(body)
        world.calls()
        again = json.loads(body)
        again["delivery_info"]["current_retry"] = 1

        assert world.send(json.dumps(again).encode()).status == 422
        assert world.calls() == []
        assert world.apps[0].housekeeping.run()["settled"] == 0
        assert world.calls() == []


def test_a_change_goes_on_from_where_it_was_refused_once_it_is_approved_and_redelivered() -> None:
    with World(rules=CHANGE) as world:
        script = refuse(world, "state=-2")
        world.send(insert("releases", PLANNED))
        body = update("releases", PLANNED, DEPLOYED, created_at="2026-03-04T05:06:08")
        refused = world.send(body)
        world.servicenow.remove("sys_script", script)
        world.servicenow.forget()
        answer = world.send(body)

        assert (refused.status, answer.said) == (422, "resolved")
        assert states_sent(world) == ["-2", "-1", "0", "3"]


def test_a_change_that_is_held_up_still_says_what_its_row_says() -> None:
    with World(rules=CHANGE) as world:
        refuse(world, "state=-4")
        plan_and_deploy(world)
        later = release(deployed=True, version="2.0")
        answer = world.send(update("releases", DEPLOYED, later, created_at="2026-03-04T05:06:09"))

        assert answer.said == "dead refused_by_business_rule"
        assert change(world)["short_description"] == "Release 2.0"


def test_a_row_that_is_unwell_again_leaves_a_change_that_was_held_up_where_it_is() -> None:
    with World(rules=CHANGE) as world:
        refuse(world, "state=-2")
        plan_and_deploy(world)
        world.calls()
        answer = world.send(update("releases", DEPLOYED, PLANNED, created_at="2026-03-04T05:06:09"))

        assert answer.said == "unchanged"
        assert (world.calls(), change(world)["state"]) == ([], "-3")


def test_an_instance_that_takes_a_state_and_sets_it_back_is_a_dead_letter_not_a_loop() -> None:
    record = {
        "number": "CHG0000001",
        "state": "-5",
        "type": "normal",
        "sys_mod_count": "1",
        "correlation_id": "",
    }

    def answer(sock: socket.socket, seen: Seen) -> bool:
        said = json.loads(seen.body) if seen.body else {}
        kept = {name: value for name, value in said.items() if name != "state"}
        record.update(kept)
        sock.sendall(result(record, 201 if seen.method == "POST" else 200))
        return True

    with Server(answer) as server, World(rules=CHANGE, SERVICENOW_INSTANCE_URL=server.url) as world:
        said = plan_and_deploy(world)

        assert said == "dead refused_by_servicenow"
        assert [seen.method for seen in server.seen] == ["POST", "GET", "PATCH"]


@pytest.mark.parametrize("fault", ["commit_then_500", "commit_then_reset", "error_500"])
def test_a_transition_in_doubt_is_looked_at_and_the_rest_follows(fault: str) -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        world.send(
            update("releases", PLANNED, release(version="1.1"), created_at="2026-03-04T05:06:08")
        )
        world.servicenow.arm(fault, method="PATCH", table="change_request")
        body = update(
            "releases",
            release(version="1.1"),
            release(version="1.1", deployed=True),
            created_at="2027-01-01",
        )
        in_doubt = world.send(body)
        world.clock.advance(61)
        answer = world.send(body)

        assert (in_doubt.status, answer.status) == (503, 200)
        assert (change(world)["state"], change(world)["close_code"]) == ("3", "successful")
        assert world.mails == []


def test_a_transition_that_was_made_behind_a_403_is_seen_and_the_rest_follows() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        world.servicenow.arm("commit_then_403", method="PATCH", table="change_request")
        answer = world.send(update("releases", PLANNED, DEPLOYED))

        assert (answer.said, change(world)["state"]) == ("resolved", "3")


# Gone, and unwell again


def test_a_deleted_rows_change_is_canceled() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        world.servicenow.forget()
        answer = world.send(delete("releases", PLANNED))

        assert answer.said == "resolved"
        assert states_sent(world) == ["4"]
        gone = change(world)
        assert (gone["close_code"], gone["close_notes"]) == ("", "The row was deleted in the app")


@pytest.mark.parametrize(("word", "state"), [("resolve", "3"), ("cancel", "4"), ("leave", "-5")])
def test_on_delete_says_what_becomes_of_the_change(word: str, state: str) -> None:
    with World(rules=with_options(on_delete=word)) as world:
        world.send(insert("releases", PLANNED))
        world.send(delete("releases", PLANNED))

        assert change(world)["state"] == state


def test_a_change_in_review_that_may_not_be_canceled_is_a_dead_letter_that_says_so() -> None:
    with World(rules=CHANGE) as world:
        world.send(insert("releases", PLANNED))
        for state in ("-4", "-3", "-2", "-1", "0"):
            world.servicenow.change("change_request", change(world)["sys_id"], state=state)
        answer = world.send(delete("releases", PLANNED))

        assert answer.said == "dead refused_by_business_rule"
        assert "from Review (0) to Canceled (4)" in " ".join(str(world.mails[0]).split())


@pytest.mark.parametrize("word", ["reopen", "new"])
def test_closed_is_final_and_the_row_gets_a_new_change_whose_parent_it_is(word: str) -> None:
    with World(rules=with_options(after_close=word)) as world:
        plan_and_deploy(world)
        answer = world.send(update("releases", DEPLOYED, PLANNED, created_at="2026-03-04T05:06:09"))

        closed, new = changes(world)
        assert answer.said == "created"
        assert (closed["state"], new["state"], new["parent"]) == ("3", "-5", closed["sys_id"])


def test_after_close_new_is_what_a_change_has_unless_it_says_leave() -> None:
    with World(rules=CHANGE) as world:
        plan_and_deploy(world)
        assert (
            world.send(update("releases", DEPLOYED, PLANNED, created_at="2026-03-04T05:06:09")).said
            == "created"
        )
    with World(rules=with_options(after_close="leave")) as world:
        plan_and_deploy(world)
        answer = world.send(update("releases", DEPLOYED, PLANNED, created_at="2026-03-04T05:06:09"))

        assert (answer.said, len(changes(world))) == ("unchanged ticket_closed", 1)


def test_a_second_change_is_found_by_its_parent_where_the_sys_id_is_not_honoured() -> None:
    with World(rules=CHANGE, honours_sys_id=False) as world:
        plan_and_deploy(world)
        world.servicenow.arm("commit_then_500", method="POST", table="change_request")
        body = update("releases", DEPLOYED, PLANNED, created_at="2026-03-04T05:06:09")
        in_doubt = world.send(body)
        world.clock.advance(61)
        world.send(body)

        closed, new = changes(world)
        assert in_doubt.status == 503
        assert new["parent"] == closed["sys_id"]


# Values


@pytest.mark.parametrize(("column", "value"), [("risk", 5), ("risk", "high"), ("kind", "urgent")])
def test_a_computed_value_that_is_no_choice_is_a_dead_letter_and_no_call(
    column: str, value: object
) -> None:
    with World(rules=CHANGE) as world:
        answer = world.send(insert("releases", release(**{column: value})))

        assert (answer.status, answer.said) == (422, "dead unknown_value")
        assert world.calls() == []
        assert "must be one of" in " ".join(str(world.mails[0]).split())
        assert str(value) not in answer.body["outcomes"][0]["reason"]


def test_a_value_that_is_nothing_leaves_the_choice_to_servicenow() -> None:
    with World(rules=CHANGE) as world:
        answer = world.send(insert("releases", release(risk=None)))

        assert answer.said == "created"


# Tables whose states the rule declares

TASK = """
version: 1
rules:
  - name: chore
    from: hasura/public.chores
    ticket:
      table: change_task
      states: {resolved: 3, reopened: 2, canceled: 4, final: [4, 7]}
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
      resolve_when: row.done
"""


def chore(**columns: object) -> dict[str, object]:
    return {"id": 1, "title": "Label the cables", "done": False} | columns


OPEN, DONE = chore(), chore(done=True)


def tasks(world: World) -> list[dict[str, str]]:
    return world.servicenow.rows("change_task")


def do(world: World) -> str:
    world.send(insert("chores", OPEN))
    return world.send(update("chores", OPEN, DONE, created_at="2026-03-04T05:06:08")).said


def test_a_ticket_of_any_table_is_resolved_and_reopened_by_the_states_that_its_rule_declares() -> (
    None
):
    with World(rules=TASK) as world:
        resolved, state = do(world), tasks(world)[0]["state"]
        reopened = world.send(update("chores", DONE, OPEN, created_at="2026-03-04T05:06:09")).said

        assert (resolved, state) == ("resolved", "3")
        assert (reopened, tasks(world)[0]["state"]) == ("reopened", "2")


def test_another_table_is_sent_and_asked_for_only_the_close_fields_that_its_rule_gives() -> None:
    with World(rules=with_options(TASK, close_notes="Done")) as world:
        do(world)

        calls = world.servicenow.take_calls()
        assert calls[-1].body == {"state": "3", "close_notes": "Done"}
        assert all("close_notes" in call.query and "close_code" not in call.query for call in calls)


def test_a_change_of_the_close_notes_of_another_table_is_sent() -> None:
    with World(rules=with_options(TASK, close_notes='"{{ row.title }}!"')) as world:
        do(world)
        world.send(
            update("chores", DONE, chore(done=True, title="All"), created_at="2026-03-04T05:06:09")
        )

        assert (tasks(world)[0]["short_description"], tasks(world)[0]["close_notes"]) == (
            "All",
            "All!",
        )


def test_a_table_without_states_is_asked_for_no_close_fields() -> None:
    with World(
        rules=TASK.replace("      resolve_when: row.done\n", "").replace("      states:", "      #")
    ) as world:
        world.send(insert("chores", OPEN))

        [call] = world.servicenow.take_calls()
        assert "close" not in call.query
        assert "parent" not in call.query


@pytest.mark.parametrize(("word", "state"), [("resolve", "3"), ("cancel", "4"), ("leave", "1")])
def test_on_delete_works_by_declared_states(word: str, state: str) -> None:
    with World(rules=with_options(TASK, on_delete=word)) as world:
        world.send(insert("chores", OPEN))
        world.send(delete("chores", OPEN))

        assert tasks(world)[0]["state"] == state


def test_a_state_that_is_declared_final_is_never_left() -> None:
    with World(rules=TASK) as world:
        do(world)
        world.servicenow.change("change_task", tasks(world)[0]["sys_id"], state="7")
        answer = world.send(update("chores", DONE, OPEN, created_at="2026-03-04T05:06:09"))

        assert (answer.said, [task["state"] for task in tasks(world)]) == ("created", ["7", "1"])


def test_a_ticket_without_a_state_to_go_back_to_is_followed_by_a_new_one() -> None:
    with World(rules=TASK.replace("reopened: 2, ", "")) as world:
        do(world)
        answer = world.send(update("chores", DONE, OPEN, created_at="2026-03-04T05:06:09"))

        assert (answer.said, [task["state"] for task in tasks(world)]) == ("created", ["3", "1"])


def test_a_second_ticket_of_another_table_is_found_by_the_one_that_it_follows() -> None:
    with World(rules=TASK.replace("reopened: 2, ", ""), honours_sys_id=False) as world:
        do(world)
        world.servicenow.arm("commit_then_500", method="POST", table="change_task")
        body = update("chores", DONE, OPEN, created_at="2026-03-04T05:06:09")
        world.send(body)
        world.clock.advance(61)
        answer = world.send(body)

        assert answer.status == 200
        first = tasks(world)[0]["sys_id"]
        assert [(task["state"], task["parent"]) for task in tasks(world)] == [
            ("3", ""),
            ("1", first),
        ]


# States that are passed through, and those of an instance's own

DEFECT = """
version: 1
rules:
  - name: defect
    from: hasura/public.defects
    ticket:
      table: problem
      states: {path: [101, 102, 103, 104], resolved: 106, reopened: 103,
        canceled: 107, final: [107]}
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
        assigned_to: "{{ row.owner }}"
        cause_notes: "{{ row.cause }}"
        fix_notes: "{{ row.fix }}"
        resolution_code: "{{ row.code }}"
      resolve_when: row.done
"""
LOOPS = {
    "id": 1,
    "title": "Loops",
    "owner": "problem.manager",
    "cause": "",
    "fix": "",
    "code": "",
    "done": False,
}
SOLVED = LOOPS | {"cause": "A loop", "fix": "No loop", "code": "fix_applied", "done": True}


def last_mail(world: World) -> str:
    body = world.mails[-1].get_body(("plain",))
    assert body is not None
    return " ".join(str(body.get_content()).replace("\n  >", " ").split())


def problem(world: World) -> dict[str, str]:
    [made] = [row for row in world.servicenow.rows("problem") if row["correlation_id"]]
    return made


def test_a_declared_path_is_walked_by_one_patch_a_state() -> None:
    with World(rules=DEFECT) as world:
        world.send(insert("defects", LOOPS))
        world.servicenow.take_calls()
        answer = world.send(update("defects", LOOPS, SOLVED, created_at="2026-03-04T05:06:08"))

        patches = [call.body for call in world.servicenow.take_calls() if call.method == "PATCH"]
        assert (answer.said, problem(world)["state"]) == ("resolved", "106")
        assert patches[0] == {
            "cause_notes": "A loop",
            "fix_notes": "No loop",
            "resolution_code": "fix_applied",
        }
        assert patches[1:] == [{"state": state} for state in ("102", "103", "104", "106")]


def test_a_ticket_that_was_moved_on_is_taken_from_where_it_is() -> None:
    with World(rules=DEFECT) as world:
        world.send(insert("defects", LOOPS))
        world.servicenow.change("problem", problem(world)["sys_id"], state="103")
        world.servicenow.take_calls()
        world.send(update("defects", LOOPS, SOLVED, created_at="2026-03-04T05:06:08"))

        patches = [call.body for call in world.servicenow.take_calls() if call.method == "PATCH"]
        assert patches[1:] == [{"state": "104"}, {"state": "106"}]


@pytest.mark.parametrize(
    ("lacking", "left", "words"),
    [
        ("owner", "101", "Assigned to"),
        ("cause", "103", "Cause notes"),
        ("fix", "103", "Fix notes"),
        ("code", "104", "Resolution code"),
    ],
)
def test_a_state_that_wants_more_is_a_dead_letter_with_its_words(
    lacking: str, left: str, words: str
) -> None:
    with World(rules=DEFECT) as world:
        world.send(insert("defects", LOOPS | ({"owner": ""} if lacking == "owner" else {})))
        answer = world.send(
            update("defects", LOOPS, SOLVED | {lacking: ""}, created_at="2026-03-04T05:06:08")
        )

        assert (answer.status, answer.said) == (422, "dead refused_by_data_policy")
        assert problem(world)["state"] == left
        assert f"The following fields are mandatory: {words}" in last_mail(world)
        # What the row said stands there all the same, and the next change goes on from there.
        owner = {"owner": "problem.manager"}
        world.send(
            update(
                "defects", SOLVED | {lacking: ""}, SOLVED | owner, created_at="2026-03-04T05:06:09"
            )
        )
        assert problem(world)["state"] == "106"


def test_a_problem_that_is_to_skip_its_states_is_a_dead_letter_with_servicenow_s_words() -> None:
    with World(rules=DEFECT.replace("path: [101, 102, 103, 104], ", "")) as world:
        world.send(insert("defects", LOOPS))
        answer = world.send(update("defects", LOOPS, SOLVED, created_at="2026-03-04T05:06:08"))

        assert (answer.status, problem(world)["state"]) == (422, "101")
        assert "state transition from state 101 to 106 is not possible" in last_mail(world)


def test_a_problem_that_is_unwell_again_goes_back_and_is_resolved_again() -> None:
    with World(rules=DEFECT) as world:
        world.send(insert("defects", LOOPS))
        world.send(update("defects", LOOPS, SOLVED, created_at="2026-03-04T05:06:08"))
        reopened = world.send(
            update("defects", SOLVED, LOOPS, created_at="2026-03-04T05:06:09")
        ).said
        state = problem(world)["state"]
        world.send(update("defects", LOOPS, SOLVED, created_at="2026-03-04T05:06:10"))

        assert (reopened, state, problem(world)["state"]) == ("reopened", "103", "106")


OWN = """
version: 1
rules:
  - name: till
    from: hasura/public.tills
    ticket:
      states: {resolved: 60, reopened: 20, canceled: 80, final: [70, 80]}
      choices: {urgency: [1, 2, 3, 4]}
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}", urgency: "{{ row.urgency }}"}
      resolve_when: row.works
      close_code: Till replaced
"""
DEAD = {"id": 1, "title": "Till 4 is dead", "urgency": 4, "works": False}
WORKS = DEAD | {"works": True}


def test_an_incident_lives_by_the_states_of_the_instance_s_own() -> None:
    with World(rules=OWN) as world:
        world.send(insert("tills", DEAD))
        resolved = world.send(update("tills", DEAD, WORKS, created_at="2026-03-04T05:06:08")).said
        first = world.incident
        reopened = world.send(update("tills", WORKS, DEAD, created_at="2026-03-04T05:06:09")).said

        assert (resolved, first["state"], first["urgency"]) == ("resolved", "60", "4")
        assert (first["close_code"], first["close_notes"]) == (
            "Till replaced",
            "Resolved in the app",
        )
        assert (reopened, world.incident["state"]) == ("reopened", "20")


def test_a_state_of_the_instance_s_own_that_is_final_is_never_left() -> None:
    with World(rules=OWN) as world:
        world.send(insert("tills", DEAD))
        world.send(update("tills", DEAD, WORKS, created_at="2026-03-04T05:06:08"))
        world.servicenow.change("incident", world.incident["sys_id"], state="70")
        answer = world.send(update("tills", WORKS, DEAD, created_at="2026-03-04T05:06:09"))

        assert answer.said == "created"
        assert [(row["state"], row["parent_incident"]) for row in world.incidents] == [
            ("70", ""),
            ("1", world.incidents[0]["sys_id"]),
        ]


@pytest.mark.parametrize(("word", "state"), [("resolve", "60"), ("cancel", "80"), ("leave", "1")])
def test_on_delete_ends_an_incident_by_the_instance_s_own_states(word: str, state: str) -> None:
    with World(rules=with_options(OWN, on_delete=word)) as world:
        world.send(insert("tills", DEAD))
        world.send(delete("tills", DEAD))

        assert world.incident["state"] == state


def test_a_state_that_ships_is_nothing_special_to_an_instance_with_its_own() -> None:
    with World(rules=OWN) as world:
        world.send(insert("tills", DEAD))
        world.servicenow.change("incident", world.incident["sys_id"], state="2")
        said = world.send(update("tills", DEAD, WORKS, created_at="2026-03-04T05:06:08")).said

        assert (said, world.incident["state"]) == ("resolved", "60")


def test_a_value_that_is_none_of_the_declared_choices_is_a_dead_letter() -> None:
    with World(rules=OWN) as world:
        answer = world.send(insert("tills", DEAD | {"urgency": 5}))

        assert (answer.status, answer.said) == (422, "dead unknown_value")
        assert "must be one of 1, 2, 3, 4" in last_mail(world)


def test_a_change_passes_through_the_states_of_a_model_of_the_instance_s_own() -> None:
    own = """
version: 1
rules:
  - name: rollout
    from: hasura/public.rollouts
    ticket:
      table: change_request
      states: {path: [-5, -2, 9], resolved: 3, canceled: 4, final: [3, 4]}
      choices: {close_code: [done, undone], type: [normal, screens]}
      key: "{{ row.id }}"
      fields: {type: screens, short_description: "{{ row.title }}"}
      resolve_when: row.done
      close_code: "{{ row.code }}"
"""
    with World(rules=own) as world:
        world.servicenow.tables.change_models["screens"] = ("-5", "-2", "9", "3")
        row = {"id": 1, "title": "Screens", "done": False, "code": "done"}
        world.send(insert("rollouts", row))
        said = world.send(
            update("rollouts", row, row | {"done": True}, created_at="2026-03-04T05:06:08")
        ).said

        [change] = world.servicenow.rows("change_request")
        assert (said, change["state"], change["close_code"]) == ("resolved", "3", "done")
        assert (change["type"], change["chg_model"]) == ("screens", "screens")
        refused = world.send(
            insert("rollouts", row | {"id": 2, "done": False, "code": "successful"})
        )
        assert refused.status == 200
        late = row | {"id": 2, "done": True, "code": "successful"}
        answer = world.send(
            update("rollouts", row | {"id": 2}, late, created_at="2026-03-04T05:06:09")
        )
        assert (answer.status, answer.said) == (422, "dead unknown_value")


# What is written about it


@pytest.mark.parametrize(
    "text", re.findall(r"^```yaml\n(.*?)^```", DOCS.read_text("utf-8"), re.MULTILINE | re.DOTALL)
)
def test_the_examples_that_are_documented_load(text: str) -> None:
    assert rules_file.load_rules(text, environ={}).rules


def test_every_part_of_states_and_every_choice_is_documented() -> None:
    text = DOCS.read_text("utf-8")

    assert {f"| `{key}` |" for key in STATES_KEYS if f"| `{key}` |" not in text} == set()
    assert "`choices`" in text
    assert all(f"`{column}`" in text for choices in CHOICES.values() for column in choices)
