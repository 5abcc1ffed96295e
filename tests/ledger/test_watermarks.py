"""How far a table was read, on both databases."""

from function.ledger.inbox import ticket_entry
from function.ledger.watermarks import Watermark
from tests.world import World

INSTANCE = "https://dev1.service-now.com"
EARLY, LATE = Watermark("2026-11-27 08:00:00", "b"), Watermark("2026-11-27 08:00:01", "a")


def test_a_watermark_only_moves_forward_and_whoever_was_overtaken_has_put_his_entries(
    world: World,
) -> None:
    watermarks = world.ledger.watermarks
    before = watermarks.find(INSTANCE, "incident?active=true")
    watermarks.advance(INSTANCE, "incident?active=true", LATE, [ticket_entry("incident", "a")])
    watermarks.advance(INSTANCE, "incident?active=true", EARLY, [ticket_entry("incident", "b")])
    watermarks.advance(INSTANCE, "problem?active=true", EARLY, [])

    assert before is None
    assert watermarks.find(INSTANCE, "incident?active=true") == LATE
    assert watermarks.find(INSTANCE, "problem?active=true") == EARLY
    assert watermarks.find("https://dev2.service-now.com", "incident?active=true") is None
    found = [world.ledger.inbox.find(f"servicenow/incident/{name}") for name in "ab"]
    assert [entry.subject for entry in found if entry] == ["incident/a", "incident/b"]


def test_of_two_that_begin_the_first_says_where(world: World) -> None:
    watermarks = world.ledger.watermarks
    watermarks.begin(INSTANCE, "incident?", EARLY)
    watermarks.begin(INSTANCE, "incident?", LATE)

    assert watermarks.find(INSTANCE, "incident?") == EARLY


def test_what_was_read_beside_the_watermark_is_put_and_moves_nothing(world: World) -> None:
    world.ledger.watermarks.put([ticket_entry("incident", "c")])

    assert world.ledger.inbox.find("servicenow/incident/c") is not None
    assert world.query("SELECT * FROM servicenow.watermark") == []
