"""Log lines as Cloud Logging reads them, and which event they are about."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from function.log import EventFields, log_event, name_event
from function.parallel import WorkThreads
from tests.payloads import insert
from tests.test_main import served
from tests.world import World, outage


def fields_of_a_line(**extra: str) -> dict[str, Any]:
    record = logging.LogRecord("function", logging.INFO, __file__, 1, "said", (), None)
    record.__dict__.update(extra)
    assert EventFields().filter(record)
    return {name: record.__dict__.get(name) for name in ("event", "correlation_id")}


def test_a_line_names_the_event_that_is_worked_on() -> None:
    with log_event("e-1", "c-1"):
        within = fields_of_a_line()
    after = fields_of_a_line()

    assert within == {"event": "e-1", "correlation_id": "c-1"}
    assert after == {"event": None, "correlation_id": None}


def test_an_event_that_is_named_later_is_named_until_the_request_is_over() -> None:
    with log_event():
        before = fields_of_a_line()
        name_event("e-1", "c-1")
        within = fields_of_a_line()
    after = fields_of_a_line()

    assert (before["event"], within["event"], after["event"]) == (None, "e-1", None)


def test_a_line_that_names_an_event_itself_keeps_it() -> None:
    with log_event("e-1", "c-1"):
        own = fields_of_a_line(event="e-2", correlation_id="c-2")
        without = fields_of_a_line(event="e-2")

    assert own == {"event": "e-2", "correlation_id": "c-2"}
    assert without == {"event": "e-2", "correlation_id": None}


def test_threads_that_work_on_the_same_event_name_it_too() -> None:
    with log_event("e-1", "c-1"):
        named = WorkThreads(4).run([lambda: fields_of_a_line()["event"]] * 8)

    assert named == ["e-1"] * 8


def test_every_line_about_an_event_carries_its_correlation_id_at_each_attempt(
    world: World, tmp_path: Path
) -> None:
    session = {"x-hasura-role": "app", "x-hasura-correlation-id": "c-77"}
    first = insert("outages", outage(), id="e-1", session_variables=session)
    second = insert("outages", outage(), id="e-1", session_variables=session, current_retry=1)
    world.servicenow.arm("semaphore_429", method="POST")
    with served(world, tmp_path) as function:
        answers = [function.send(first).said, function.send(second).said]
        lines = [json.loads(line) for line in function.log.splitlines() if line.startswith("{")]

    assert answers == ["retrying servicenow_overloaded", "created"]
    about = [line for line in lines if "event" in line]
    assert {(line["event"], line["correlation_id"]) for line in about} == {("e-1", "c-77")}
    # The calls, and what followed.
    told_of = Counter(line["logger"] for line in about)
    assert told_of["function.servicenow"] >= 2
    assert told_of["function.engine"] == 2


def test_a_line_about_a_failure_at_the_edge_carries_it_too(world: World, tmp_path: Path) -> None:
    with served(world, tmp_path, DATABASE_URL="postgresql://127.0.0.1:1/none") as function:
        answer = function.send(insert("outages", outage(), id="e-1"))
        [line] = [json.loads(line) for line in function.log.splitlines() if "answered 503" in line]

    assert answer.status == 503
    assert (line["event"], line["correlation_id"]) == ("e-1", "00112233445566778899aabbccddeeff")
