"""What the ledger does not take costs no event: it is tried again, then dead with a mail, and never
a 500."""

import json
import random
import string

import pytest

from tests.answers import Server
from tests.behaviour.test_hazards import Gate
from tests.payloads import insert, update
from tests.world import RULES, Answered, World, outage

# Stands for whatever a database may refuse, at the places where a row's life is written down.
REFUSALS = {
    "the ticket that was made": ("ticket", "number <> ''"),
    "the end of a delivery": ("delivery", "duration > 0 AND ticket <> ''"),
    "the beginning": ("ticket", "lease_owner <> ''"),
    "an alert of a field": ("alert", "kind = 'field'"),
}


def refuse(world: World, table: str, condition: str) -> None:
    """Have the database refuse every row of *table* that meets *condition*, as it refuses what it
    cannot hold."""
    world.query("SELECT 1 AS one FROM servicenow.ticket")
    if world.environ["DATABASE_URL"].startswith("sqlite"):
        new = " AND ".join(f"NEW.{part}" for part in condition.split(" AND "))
        for what in ("INSERT", "UPDATE"):
            world.query(
                f"CREATE TRIGGER refuse_{what} BEFORE {what} ON {table} WHEN {new} "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
    else:
        world.query(
            f"ALTER TABLE servicenow.{table} ADD CONSTRAINT refused CHECK (NOT "
            f"({condition})) NOT VALID"
        )


def take_again(world: World, table: str) -> None:
    if world.environ["DATABASE_URL"].startswith("sqlite"):
        for what in ("INSERT", "UPDATE"):
            world.query(f"DROP TRIGGER refuse_{what}")
    else:
        world.query(f"ALTER TABLE servicenow.{table} DROP CONSTRAINT refused")


def live(world: World, body: bytes, *, seconds: float = 2 * 86_400) -> list[Answered]:
    """Deliver *body* as Hasura does until it is done or dead."""
    answers = []
    start = world.clock.ahead
    while world.clock.ahead - start < seconds:
        answers.append(world.send(body))
        if answers[-1].retry_after is None:
            return answers
        world.clock.advance(answers[-1].retry_after)
    raise AssertionError("it waits for ever")


@pytest.fixture
def own(request: pytest.FixtureRequest) -> str | None:
    """A database of this test's own, on PostgreSQL; None for a SQLite file."""
    return str(request.getfixturevalue("postgresql")) if request.param == "postgresql" else None


@pytest.mark.parametrize("own", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize(("table", "condition"), REFUSALS.values(), ids=REFUSALS)
def test_an_event_whose_record_is_refused_is_given_up_with_a_mail_and_done_once_it_is_taken(
    own: str | None, table: str, condition: str
) -> None:
    rules = RULES.replace("        impact:", "        u_not_there: x\n        impact:")
    with World(rules=rules, database_url=own) as world:
        refuse(world, table, condition)
        body = insert("outages", outage(), id="e")
        answers = live(world, body)
        dead = world.query(
            "SELECT status, outcome, body FROM servicenow.delivery WHERE event = 'e'"
        )
        take_again(world, table)
        again = live(world, body)

        assert {answer.status for answer in answers[:-1]} == {503}
        assert (answers[-1].status, answers[-1].said) == (422, "dead gave_up")
        assert world.clock.ahead > 86_400
        assert [(row["status"], row["body"] != "") for row in dead] == [("dead", True)]
        assert any(
            "python -m function replay e" in str(mail.get_body(("plain",))) for mail in world.mails
        )
        assert again[-1].status == 200
        assert len(world.incidents) == 1


@pytest.mark.parametrize("own", ["sqlite", "postgresql"], indirect=True)
def test_an_alert_of_eighty_long_columns_is_told(own: str | None) -> None:
    draw = random.Random(1)
    names = [
        "u_" + "".join(draw.choice(string.ascii_lowercase) for _ in range(70)) for _ in range(80)
    ]
    columns = "".join(f"        {name}: x\n" for name in names)
    with World(
        rules=RULES.replace("        impact:", f"{columns}        impact:"), database_url=own
    ) as world:
        answer = world.send(insert("outages", outage()))
        again = world.send(insert("outages", outage(2)))

        assert (answer.status, answer.said, again.said) == (200, "created", "created")
        assert len(world.mails) == 1
        assert len(world.query("SELECT fingerprint FROM servicenow.alert")) == 1


class Odd(Gate):
    """Has *fields* in the place of what ServiceNow says, in every record of an answer."""

    def __init__(self, **fields: object) -> None:
        super().__init__()
        self.fields = fields

    def _passed_on(self, seen: object) -> bytes | None:
        answer = super()._passed_on(seen)  # type: ignore[arg-type]  # what it is given
        if answer is None:
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        read = json.loads(body)
        if isinstance(read.get("result"), dict):
            read["result"] |= self.fields
        body = json.dumps(read).encode()
        lines = [
            line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")
        ]
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


ODD: dict[str, dict[str, object]] = {
    "a NUL in the number": {"number": "INC\x001"},
    "a NUL in the state": {"state": "1\x00"},
    "half a surrogate pair in the number": {"number": "INC\ud800"},
    "a count of 10^12": {"sys_mod_count": str(10**12)},
    "a negative count": {"sys_mod_count": "-1"},
    "a count of 5,000 digits": {"sys_mod_count": "9" * 5000},
    "a number of a million letters": {"number": "I" * 1_000_000},
    "a NUL in a field": {"short_description": "a\x00b"},
}


@pytest.mark.parametrize("own", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("fields", ODD.values(), ids=ODD)
def test_whatever_servicenow_says_of_a_ticket_the_event_has_an_end(
    own: str | None, fields: dict[str, object]
) -> None:
    gate = Odd(**fields)
    with World(database_url=own) as world, Server(gate) as server:
        gate.behind = world.servicenow.url
        world.start(SERVICENOW_INSTANCE_URL=server.url)
        created = live(world, insert("outages", outage(), id="e"))
        changed = live(world, update("outages", outage(), outage(title="changed"), id="u"))

        assert {answers[-1].status for answers in (created, changed)} <= {200, 422}
        assert {answer.status for answer in (*created, *changed)} <= {200, 422, 503}
        assert len(world.incidents) == 1
