"""The life of a ticket, through real calls to a sandbox ServiceNow."""

import pytest

from tests.payloads import delete, insert, manual, mssql_update, update
from tests.world import RULES, World, outage, said

OPEN, FIXED = outage(), outage(status="fixed")


def with_options(**options: str) -> str:
    """The rules, with more said of the ticket."""
    lines = "".join(f"      {name}: {value}\n" for name, value in options.items())
    return RULES.replace("      resolve_when:", f"{lines}      resolve_when:")


def open_and_fix(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))


def reopen(world: World) -> str:
    return world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09")).said


def test_a_row_unresolved_again_reopens_its_resolved_ticket(world: World) -> None:
    open_and_fix(world)

    assert reopen(world) == "reopened"
    assert (world.incident["state"], world.incident["reopen_count"]) == ("2", "1")


def test_a_reopened_ticket_is_resolved_again(world: World) -> None:
    open_and_fix(world)
    reopen(world)
    answer = world.send(
        update(
            "outages", OPEN, outage(status="fixed", resolution="For good"), created_at="2027-01-01"
        )
    )

    assert answer.said == "resolved"
    assert (world.incident["state"], world.incident["close_notes"]) == ("6", "For good")


def test_closed_is_final_and_the_row_gets_a_new_ticket_linked_to_it(world: World) -> None:
    open_and_fix(world)
    world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
    answer = reopen(world)

    closed, new = world.incidents
    assert answer == "created"
    assert (closed["state"], new["state"]) == ("7", "1")
    assert new["parent_incident"] == closed["sys_id"]
    assert new["correlation_id"] == closed["correlation_id"]


def test_the_new_ticket_is_the_rows_from_then_on(world: World) -> None:
    open_and_fix(world)
    world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
    reopen(world)
    world.send(update("outages", OPEN, outage(title="Worse"), created_at="2026-03-04T05:06:10"))

    assert [said(row) for row in world.incidents][1] == ("Worse", "1")


def test_after_close_new_follows_a_resolved_ticket_by_a_new_one() -> None:
    with World(rules=with_options(after_close="new")) as world:
        open_and_fix(world)

        assert reopen(world) == "created"
        assert [row["state"] for row in world.incidents] == ["6", "1"]


def test_after_close_leave_leaves_it() -> None:
    with World(rules=with_options(after_close="leave")) as world:
        open_and_fix(world)

        assert reopen(world) == "unchanged"
        assert world.incident["state"] == "6"


def test_a_ticket_that_a_person_closed_stays_closed_when_its_row_is_fixed(world: World) -> None:
    world.send(insert("outages", OPEN))
    sys_id = world.incident["sys_id"]
    world.servicenow.change(
        "incident",
        sys_id,
        state="Resolved",
        close_code="Duplicate",
        close_notes="A person's own words",
    )
    world.servicenow.change("incident", sys_id, state="Closed")
    world.calls()
    answer = world.send(update("outages", OPEN, FIXED))

    assert (answer.status, answer.said) == (200, "unchanged ticket_closed")
    assert (world.incident["state"], world.incident["close_notes"]) == ("7", "A person's own words")
    assert world.calls() == ["GET incident"]


def test_a_ticket_that_a_person_resolved_is_not_resolved_again(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.servicenow.change(
        "incident",
        world.incident["sys_id"],
        state="Resolved",
        close_code="Duplicate",
        close_notes="A person's own",
    )
    answer = world.send(update("outages", OPEN, FIXED))

    assert answer.said == "unchanged"
    assert world.incident["close_notes"] == "A person's own"


def test_what_the_row_says_after_its_ticket_was_closed_is_not_written_into_history(
    world: World,
) -> None:
    open_and_fix(world)
    world.servicenow.change("incident", world.incident["sys_id"], state="Closed")
    world.send(
        update(
            "outages",
            FIXED,
            outage(status="fixed", title="Later"),
            created_at="2026-03-04T05:06:09",
        )
    )
    world.calls()
    answer = world.send(
        update(
            "outages",
            outage(status="fixed", title="Later"),
            outage(status="fixed", title="Even later"),
        )
    )

    assert answer.status == 200
    assert world.calls() == []


def test_old_rows_already_resolved_and_touched_by_one_big_update_open_no_tickets(
    world: World,
) -> None:
    old = [outage(n, status="fixed") for n in range(50)]
    answers = [world.send(update("outages", row, row | {"touched": True})) for row in old]

    assert {answer.said for answer in answers} == {"skipped already_resolved"}
    assert (world.incidents, world.calls()) == ([], [])


def test_a_row_first_heard_of_as_it_is_fixed_gets_its_ticket_resolved_in_one_call(
    world: World,
) -> None:
    answer = world.send(update("outages", OPEN, FIXED))

    assert answer.said == "created"
    assert world.incident["state"] == "6"
    assert world.calls() == ["POST incident"]


def test_a_ticket_that_exists_follows_its_row_whatever_when_says_by_then(world: World) -> None:
    minor = outage(severity="minor")
    world.send(insert("outages", OPEN))
    world.send(update("outages", OPEN, minor, created_at="2026-03-04T05:06:08"))
    answer = world.send(
        update("outages", minor, minor | {"status": "fixed"}, created_at="2026-03-04T05:06:09")
    )

    assert answer.said == "resolved"
    assert (world.incident["impact"], world.incident["state"]) == ("3", "6")


def test_creates_says_which_events_may_open_a_ticket() -> None:
    with World(rules=with_options(creates="[INSERT]")) as world:
        assert (
            world.send(update("outages", OPEN, outage(title="x"))).said
            == "skipped not_created_by_this_op"
        )
        assert world.incidents == []


def test_a_deleted_rows_ticket_is_resolved() -> None:
    with World(
        rules=RULES.replace(
            "      close_notes: \"{{ row.resolution or 'Fixed in the app' }}\"\n", ""
        )
    ) as world:
        world.send(insert("outages", OPEN))
        answer = world.send(delete("outages", OPEN))

        assert answer.said == "resolved"
        assert (world.incident["state"], world.incident["close_notes"]) == (
            "6",
            "The row was deleted in the app",
        )


def test_on_delete_cancel_cancels_it() -> None:
    with World(rules=with_options(on_delete="cancel")) as world:
        world.send(insert("outages", OPEN))
        world.send(delete("outages", OPEN))

        assert world.incident["state"] == "8"


@pytest.mark.parametrize(
    "by", ["an update", "a deletion", "a deletion that cancels", "its first event"]
)
def test_a_state_that_servicenow_ignores_is_a_dead_letter_that_says_what_to_do(by: str) -> None:
    with World(rules=with_options(on_delete="cancel" if "cancels" in by else "resolve")) as world:
        world.servicenow.tables.protected.add(("incident", "state"))
        if by == "its first event":
            answer = world.send(update("outages", OPEN, FIXED, id="e"))
        else:
            world.send(insert("outages", OPEN))
            answer = world.send(
                update("outages", OPEN, FIXED, id="e")
                if by == "an update"
                else delete("outages", OPEN, id="e")
            )

        assert (answer.status, answer.said) == (422, "dead refused_by_servicenow")
        assert world.incident["state"] == "1"
        [mail] = world.mails
        text = " ".join(str(mail.get_body(("plain",))).split())
        assert "gave up" in str(mail["Subject"])
        assert "in New (1)" in text
        assert "Let the integration user write state" in text
        assert "sent again" not in text


def test_a_state_that_servicenow_ignored_is_written_when_it_may_be_and_the_event_is_replayed() -> (
    None
):
    with World(rules=with_options()) as world:
        world.servicenow.tables.protected.add(("incident", "state"))
        world.send(insert("outages", OPEN))
        world.send(update("outages", OPEN, FIXED, id="e"))
        world.servicenow.tables.protected.clear()
        answer = world.send(update("outages", OPEN, FIXED, id="e", current_retry=0))

        assert answer.said == "resolved"
        assert world.incident["state"] == "6"


def test_a_reopening_that_servicenow_ignores_is_a_dead_letter(world: World) -> None:
    world.send(insert("outages", OPEN))
    world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))
    world.servicenow.tables.protected.add(("incident", "state"))
    answer = world.send(update("outages", FIXED, OPEN, created_at="2026-03-04T05:06:09"))

    assert (answer.status, answer.said) == (422, "dead refused_by_servicenow")
    assert world.incident["state"] == "6"


def test_a_ticket_that_people_close_a_moment_before_it_is_resolved_stays_closed(
    world: World,
) -> None:
    world.send(insert("outages", OPEN))
    sys_id = world.incident["sys_id"]
    closed = {"state": "7", "close_code": "Duplicate", "close_notes": "See INC0000001"}
    world.servicenow.meanwhile.append(lambda: world.servicenow.change("incident", sys_id, **closed))
    answer = world.send(update("outages", OPEN, FIXED, created_at="2026-03-04T05:06:08"))

    assert answer.status == 200
    assert (world.incident["state"], world.incident["close_code"]) == ("7", "Duplicate")
    assert world.mails == []


def test_on_delete_leave_leaves_it() -> None:
    with World(rules=with_options(on_delete="leave")) as world:
        world.send(insert("outages", OPEN))
        world.calls()

        assert world.send(delete("outages", OPEN)).said == "unchanged"
        assert world.calls() == []


def test_a_row_that_is_gone_before_it_was_heard_of_gets_no_ticket(world: World) -> None:
    assert world.send(delete("outages", OPEN)).said == "skipped row_gone"
    assert world.send(insert("outages", OPEN)).said == "superseded"
    assert world.incidents == []


def test_a_changed_key_resolves_the_old_ticket_and_opens_a_new_one(world: World) -> None:
    world.send(insert("outages", OPEN))
    answer = world.send(update("outages", OPEN, outage(2)))

    assert [outcome["status"] for outcome in answer.body["outcomes"]] == ["resolved", "created"]
    assert [(row["correlation_id"], row["state"]) for row in world.incidents] == [
        ("shop:outage:1", "6"),
        ("shop:outage:2", "1"),
    ]


def test_a_primary_key_changed_in_mssql_opens_the_new_keys_ticket() -> None:
    with World(rules=RULES.replace("public.", "dbo.")) as world:
        answer = world.send(mssql_update("outages", None, outage(2)))

        assert answer.said == "created"


@pytest.mark.parametrize(
    ("word", "status", "count"), [("fail", 422, 0), ("recreate", 200, 1), ("ignore", 200, 0)]
)
def test_a_ticket_that_people_deleted(word: str, status: int, count: int) -> None:
    with World(rules=with_options(on_missing=word)) as world:
        world.send(insert("outages", OPEN))
        world.servicenow.remove("incident", world.incident["sys_id"])
        answer = world.send(update("outages", OPEN, outage(title="Worse")))

        assert (answer.status, len(world.incidents)) == (status, count)
        assert len(world.mails) == (1 if word == "fail" else 0)


def test_a_recreated_ticket_is_the_rows_again() -> None:
    with World(rules=with_options(on_missing="recreate")) as world:
        world.send(insert("outages", OPEN))
        world.servicenow.remove("incident", world.incident["sys_id"])
        world.send(update("outages", OPEN, outage(title="Worse"), created_at="2026-03-04T05:06:08"))
        world.send(
            update(
                "outages",
                outage(title="Worse"),
                outage(title="Worse", status="fixed"),
                created_at="2026-03-04T05:06:09",
            )
        )

        assert said(world.incident) == ("Worse", "6")


SHARED = """
version: 1
rules:
  - name: host
    from: hasura/public.alerts
    ticket:
      key: "{{ row.host }}"
      shared: true
      fields: {short_description: "{{ row.host }} is unwell"}
      resolve_when: row.state == 'ok'
"""


def alert(id: int, state: str = "bad") -> dict[str, object]:
    return {"id": id, "host": "db1", "state": state}


def test_rows_that_share_a_ticket_open_it_once_and_none_closes_it() -> None:
    with World(rules=SHARED) as world:
        said = [
            world.send(insert("alerts", alert(1))).said,
            world.send(insert("alerts", alert(2))).said,
            world.send(update("alerts", alert(1), alert(1, "ok"))).said,
            world.send(delete("alerts", alert(2))).said,
        ]

        assert said == ["created", "unchanged", "unchanged", "unchanged"]
        assert world.incident["state"] == "1"


def test_a_shared_ticket_that_people_resolved_is_reopened_by_a_new_row() -> None:
    with World(rules=SHARED) as world:
        world.send(insert("alerts", alert(1)))
        world.servicenow.change(
            "incident",
            world.incident["sys_id"],
            state="Resolved",
            close_code="User error",
            close_notes="x",
        )

        assert world.send(insert("alerts", alert(2))).said == "reopened"


EACH = """
version: 1
rules:
  - name: items
    from: hasura/public.meetings
    each: row.action_items
    ticket: {key: "{{ row.id }}/{{ item.id }}", fields: {short_description: "{{ item.summary }}"}}
"""


def meeting(*items: tuple[int, str]) -> dict[str, object]:
    return {"id": 7, "action_items": [{"id": id, "summary": summary} for id, summary in items]}


def test_each_element_has_a_ticket_and_one_that_leaves_the_list_is_resolved() -> None:
    with World(rules=EACH) as world:
        before, after = meeting((1, "a"), (2, "b")), meeting((2, "B"), (3, "c"))
        world.send(insert("meetings", before))
        world.send(update("meetings", before, after))

        assert [
            (row["correlation_id"], row["short_description"], row["state"])
            for row in world.incidents
        ] == [
            ("shop:items:7/1", "a", "6"),
            ("shop:items:7/2", "B", "1"),
            ("shop:items:7/3", "c", "1"),
        ]


REFERENCES = RULES.replace(
    "        impact:", '        assignment_group: "{{ row.group }}"\n        impact:'
)


def test_a_reference_by_name_is_sent_as_its_sys_id_and_looked_up_once() -> None:
    with World(rules=REFERENCES) as world:
        for n in range(3):
            world.send(insert("outages", outage(n, group="Network")))

        [group] = [
            row["sys_id"]
            for row in world.servicenow.rows("sys_user_group")
            if row["name"] == "Network"
        ]
        assert {row["assignment_group"] for row in world.incidents} == {group}
        assert world.calls().count("GET sys_user_group") == 1


def test_an_unknown_reference_is_a_permanent_failure_and_opens_nothing() -> None:
    with World(rules=REFERENCES) as world:
        answer = world.send(insert("outages", outage(group="No such group")))

        assert (answer.status, answer.said) == (422, "dead unknown_reference")
        assert world.incidents == []


def test_a_field_that_comes_back_different_is_an_alert_that_names_it() -> None:
    with World(
        rules=RULES.replace("        impact:", "        priority: 1\n        impact:")
    ) as world:
        first = world.send(insert("outages", outage(severity="major")))
        world.send(
            update("outages", outage(severity="major"), outage(severity="major", unmapped=1))
        )

        assert first.said == "created"
        [mail] = world.mails
        assert "priority" in str(mail)
        assert world.calls() == ["POST incident"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7 * 7 }}",
        "[code]<b>x</b>[/code]",
        "<script>alert(1)</script>",
        "a^b^ORstate=1",
        "one\ntwo",
        "=1",
        "{% x %}",
    ],
)
def test_a_value_arrives_as_the_text_it_is(world: World, text: str) -> None:
    world.send(insert("outages", outage(title=text)))

    assert world.incident["short_description"] == text


def test_a_key_that_could_not_stand_in_a_query_still_has_one_ticket(world: World) -> None:
    for body in (
        insert("outages", outage("a^b")),
        manual("outages", outage("a^b", title="Worse"), created_at="2027-01-01"),
    ):
        assert world.send(body).status == 200

    assert said(world.incident) == ("Worse", "1")
    assert len(world.incident["correlation_id"]) <= 100


def test_a_long_text_is_cut_at_its_fields_limit_with_an_ellipsis(world: World) -> None:
    world.send(insert("outages", outage(title="x" * 500)))

    assert world.incident["short_description"] == "x" * 159 + "…"
    assert world.mails == []
