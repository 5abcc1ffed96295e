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
            delete("outages", old, created_at=at) if new is None else update("outages", old, new, created_at=at)
        )
    return bodies


def ends(world: World, last: Row | None) -> bool:
    """Whether the ticket (there is one at most) says what the row last said; a row that is gone has none open."""
    incidents = world.incidents
    if last is None:
        return [row["state"] for row in incidents] in ([], ["6"])
    [incident] = incidents
    return said(incident) == (last["title"], "6" if last["status"] == "fixed" else incident["state"]) and (
        incident["state"] == "6"
    ) == (last["status"] == "fixed")


def equal(count: int) -> list[str]:
    return ["2026-03-04T05:06:07.123456"] * count


def backwards(count: int) -> list[str]:
    return [f"2026-03-04T05:06:{59 - second:02}" for second in range(count)]


@pytest.mark.parametrize("times", [None, equal, backwards], ids=["clocks right", "clocks equal", "clocks backwards"])
@pytest.mark.parametrize(
    "images",
    [(A, B, C), (OPEN, FIXED, ACK, OPEN), (A, B, None), (A, B, C, D, E)],
    ids=["insert-update-update", "open-fixed-ack-open", "insert-update-delete", "four updates"],
)
def test_every_order_of_arrival_ends_as_the_row_did(images: tuple[Row | None, ...], times: object) -> None:
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
            tickets = [row for row in world.incidents if row["correlation_id"] == f"shop:outage:{number}"]
            states = [row["state"] == "6" for row in tickets]
            last = mine[-1]
            good = states in ([], [True]) if last is None else states == [last["status"] == "fixed"]
            if good and last is not None:
                good = tickets[0]["short_description"] == last["title"]
            if not good:
                wrong.append((order, tickets))

    assert not wrong


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    order = data.draw(st.permutations(bodies + data.draw(st.lists(st.sampled_from(bodies), max_size=3))))
    answers = [world.send(body) for body in order]

    assert {answer.status for answer in answers} == {200}
    tickets = [row for row in world.incidents if row["correlation_id"] == f"shop:outage:{number}"]
    last = images[-1]
    assert last is not None
    assert len(tickets) <= 1
    if deleted:
        assert all(row["state"] == "6" for row in tickets)
    elif any(image and image["severity"] != "minor" and image["status"] != "fixed" for image in images[-1:]):
        [ticket] = tickets
        assert (ticket["short_description"], ticket["state"] == "6") == (last["title"], False)
    for ticket in tickets if not deleted else []:
        assert (ticket["short_description"], ticket["state"] == "6") == (last["title"], last["status"] == "fixed")
