"""Every order of arrival ends as the row did, through rules, ledger and real calls."""

from itertools import pairwise, permutations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.payloads import delete, insert, update
from tests.world import World, outage, said

Row = dict[str, object]
OPEN, ACK, FIXED = outage(), outage(title="Acknowledged"), outage(status="fixed")
A, B, C, D, E = (outage(title=letter) for letter in "ABCDE")


def events(*images: Row | None, created_at: list[str] | None = None) -> list[bytes]:
    """The events of a row from its INSERT through *images*; None at the end is its DELETE."""
    times = created_at or [f"2026-03-04T05:06:{second:02}" for second in range(len(images))]
    bodies = [insert("outages", images[0], created_at=times[0])]
    for (old, new), at in zip(pairwise(images), times[1:], strict=True):
        bodies.append(
            delete("outages", old, created_at=at)
            if new is None
            else update("outages", old, new, created_at=at)
        )
    return bodies


def ends(world: World, last: Row | None) -> bool:
    """Whether the ticket (there is one at most) says what the row last said; a row that is gone has
    none open."""
    incidents = world.incidents
    if last is None:
        return [row["state"] for row in incidents] in ([], ["6"])
    [incident] = incidents
    return said(incident) == (
        last["title"],
        "6" if last["status"] == "fixed" else incident["state"],
    ) and (incident["state"] == "6") == (last["status"] == "fixed")


def equal(count: int) -> list[str]:
    return ["2026-03-04T05:06:07.123456"] * count


def backwards(count: int) -> list[str]:
    return [f"2026-03-04T05:06:{59 - second:02}" for second in range(count)]


@pytest.mark.parametrize(
    "times", [None, equal, backwards], ids=["clocks right", "clocks equal", "clocks backwards"]
)
@pytest.mark.parametrize(
    "images",
    [(A, B, C), (OPEN, FIXED, ACK, OPEN), (A, B, None), (A, B, C, D, E)],
    ids=["insert-update-update", "open-fixed-ack-open", "insert-update-delete", "four updates"],
)
def test_every_order_of_arrival_ends_as_the_row_did(
    images: tuple[Row | None, ...], times: object
) -> None:
    stamps = times(len(images)) if callable(times) else None
    wrong = []
    with World() as world:
        for number, order in enumerate(permutations(range(len(images)))):
            # A key of its own for each order, so that one world serves all.
            mine = [image and {**image, "id": number} for image in images]
            bodies = events(*mine, created_at=stamps)
            for arrival in order:
                answer = world.send(bodies[arrival])
                assert answer.status == 200, answer
            tickets = [
                row for row in world.incidents if row["correlation_id"] == f"shop:outage:{number}"
            ]
            states = [row["state"] == "6" for row in tickets]
            last = mine[-1]
            good = states in ([], [True]) if last is None else states == [last["status"] == "fixed"]
            if good and last is not None:
                good = tickets[0]["short_description"] == last["title"]
            if not good:
                wrong.append((order, tickets))

    assert not wrong


AT, THEN = "2026-03-04T05:06:07.123456", "2026-03-04T05:06:08.654321"


def send(world: World, bodies: list[bytes]) -> None:
    for body in bodies:
        answer = world.send(body)
        assert answer.status == 200, answer


def open_tickets(world: World) -> dict[str, str]:
    """By correlation_id, what each open incident says; a second one of the same is an error."""
    found = [
        (row["correlation_id"], row["short_description"])
        for row in world.incidents
        if row["state"] != "6"
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


@pytest.mark.parametrize(
    "heard_before", [True, False], ids=["known before", "older than the trigger"]
)
@pytest.mark.parametrize("moved", [False, True], ids=["replaced", "replaced and changed"])
def test_a_row_deleted_and_inserted_in_one_transaction_keeps_its_open_ticket(
    heard_before: bool, moved: bool
) -> None:
    """A replace, or a row that moves to another partition."""
    ends = {}
    with World() as world:
        steps = 3 if moved else 2
        for number, order in enumerate(permutations(range(steps))):
            a, b, c = ({**row, "id": number} for row in (A, B, C))
            then = [delete("outages", a, created_at=THEN), insert("outages", b, created_at=THEN)]
            then += [update("outages", b, c, created_at=THEN)] if moved else []
            before = [insert("outages", a, created_at=AT)] if heard_before else []
            send(world, before + [then[step] for step in order])
            ends[f"shop:outage:{number}"] = "C" if moved else "B"

        assert open_tickets(world) == ends
        assert len(world.incidents) == len(ends)
        assert world.mails == []


def test_a_row_deleted_after_a_change_that_is_not_listened_to_stays_deleted() -> None:
    with World() as world:
        for number, order in enumerate(permutations(range(3))):
            a, b, unheard = ({**row, "id": number} for row in (A, B, C))
            bodies = [
                insert("outages", a, created_at=AT),
                update("outages", a, b, created_at=THEN),
                delete("outages", unheard, created_at=THEN),
            ]
            send(world, [bodies[step] for step in order])

        assert open_tickets(world) == {}


def test_two_rows_that_swap_keys_keep_a_ticket_each_with_the_other_ones_words() -> None:
    """UPDATE with a deferred constraint: each key is left by one row and entered by the other."""
    ends: dict[str, str] = {}
    with World() as world:
        for number, order in enumerate(permutations(range(2))):
            one, other = 2 * number, 2 * number + 1
            first = [
                insert("outages", {**A, "id": one}, created_at=AT),
                insert("outages", {**B, "id": other}, created_at=AT),
            ]
            then = [
                update("outages", {**A, "id": one}, {**A, "id": other}, created_at=THEN),
                update("outages", {**B, "id": other}, {**B, "id": one}, created_at=THEN),
            ]
            send(world, first + [then[step] for step in order])
            ends |= {f"shop:outage:{one}": "B", f"shop:outage:{other}": "A"}

        assert open_tickets(world) == ends
        assert len(world.incidents) == len(ends)


EACH = """
version: 1
rules:
  - name: action
    from: hasura/public.meetings
    each: row.items
    ticket:
      key: "{{ row.id }}-{{ item.id }}"
      fields: {short_description: "{{ item.summary }}"}
"""


@pytest.mark.parametrize("again", ["as before", "other words"])
def test_a_list_emptied_and_filled_in_one_transaction_keeps_its_tickets_open(again: str) -> None:
    ends = {}
    with World(rules=EACH) as world:
        for number, order in enumerate(permutations(range(2))):
            full = {"id": number, "items": [{"id": 1, "summary": "as before"}]}
            empty, filled = {**full, "items": []}, {**full, "items": [{"id": 1, "summary": again}]}
            then = [
                update("meetings", full, empty, created_at=THEN),
                update("meetings", empty, filled, created_at=THEN),
            ]
            send(world, [insert("meetings", full, created_at=AT)] + [then[step] for step in order])
            ends[f"shop:action:{number}-1"] = again

        assert open_tickets(world) == ends
        assert len(world.incidents) == len(ends)


ROWS = st.lists(
    st.builds(
        lambda title, status, severity: outage(title=title, status=status, severity=severity),
        st.sampled_from(["One", "Two", "Three"]),
        st.sampled_from(["open", "open", "fixed"]),
        st.sampled_from(["critical", "major", "minor"]),
    ),
    min_size=1,
    max_size=6,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=ROWS, deleted=st.booleans(), data=st.data())
def test_any_history_in_any_order_with_duplicates_ends_as_the_row_did(
    world: World, rows: list[Row], deleted: bool, data: st.DataObject
) -> None:
    number = len(world.query("SELECT DISTINCT key FROM servicenow.ticket")) + 1
    distinct = [rows[0]] + [new for old, new in pairwise(rows) if new != old]
    images: list[Row | None] = [{**image, "id": number} for image in distinct]
    # Each image is a place of its own, as a row with an updated_at has it.
    images = [image and {**image, "version": version} for version, image in enumerate(images)]
    bodies = events(*images, *([None] if deleted else []))
    order = data.draw(
        st.permutations(bodies + data.draw(st.lists(st.sampled_from(bodies), max_size=3)))
    )
    answers = [world.send(body) for body in order]

    assert {answer.status for answer in answers} == {200}
    tickets = [row for row in world.incidents if row["correlation_id"] == f"shop:outage:{number}"]
    last = images[-1]
    assert last is not None
    assert len(tickets) <= 1
    if deleted:
        assert all(row["state"] == "6" for row in tickets)
    elif any(
        image and image["severity"] != "minor" and image["status"] != "fixed"
        for image in images[-1:]
    ):
        [ticket] = tickets
        assert (ticket["short_description"], ticket["state"] == "6") == (last["title"], False)
    for ticket in tickets if not deleted else []:
        assert (ticket["short_description"], ticket["state"] == "6") == (
            last["title"],
            last["status"] == "fixed",
        )
