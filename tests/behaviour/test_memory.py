"""512 MiB hold whatever Hasura sends: large bodies of every shape, under the real server, many at a
time."""

import gc
import http.client
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import pytest
import requests

from function.admission import ByteBudget, MemoryBusy, estimate_bytes
from function.core.event import Event
from function.core.values import Json, canonical, digest, digest_values
from function.sources import hasura
from tests.payloads import insert, update
from tests.processes import Function
from tests.receiver import Receiver
from tests.test_main import served
from tests.world import RULES, SECRET, World, outage

MIB: Final = 1024 * 1024
# What README deploys.
MEMORY_MIB: Final = 512


def listed(element: str, size: int) -> str:
    """A JSON array of so many of *element* as *size* bytes hold."""
    return f"[{','.join([element] * (size // (len(element) + 1)))}]"


SHAPES: Final[dict[str, Callable[[int], str]]] = {
    "small numbers": lambda size: listed("1", size),
    "numbers": lambda size: f"[{','.join(str(1000 + n % 9000) for n in range(size // 5))}]",
    "short decimals": lambda size: listed("1.5", size),
    "decimals": lambda size: (
        f"[{','.join(f'{100_000 + n % 900_000}.5' for n in range(size // 9))}]"
    ),
    "texts": lambda size: listed('"ab"', size),
    "one text": lambda size: f'"{"x" * size}"',
    "a text with an emoji": lambda size: f'"{"x" * (size - 8)}😀"',
    "a text with an escaped emoji": lambda size: f'"{"x" * (size - 12)}\\ud83d\\ude00"',
    "empty lists": lambda size: listed("[]", size),
    "lists": lambda size: listed("[1]", size),
    "objects": lambda size: listed('{"a":1}', size),
    "many keys": lambda size: "{" + ",".join(f'"k{n:06x}":1' for n in range(size // 12)) + "}",
    "nested deep": lambda size: listed("[" * 190 + "]" * 190, size),
    "times": lambda size: listed('"2024-01-02T03:04:05.6789+05:30"', size),
}


def large(shape: str, size: int, key: int = 1) -> bytes:
    """An event with one column of about *size* bytes."""
    return insert("outages", outage(key, big="@")).replace(b'"@"', SHAPES[shape](size).encode())


def peak_mib(function: Function) -> int:
    """What the worker took at its most, and beside it what the server shares with nobody: the
    worker is its copy, and an instance counts what both have once."""
    server = psutil.Process(function.pid)
    [worker] = server.children(recursive=True)
    own = Path(f"/proc/{server.pid}/smaps_rollup").read_text()
    kib = _kib(own, "Private_Clean") + _kib(own, "Private_Dirty")
    return (kib + _kib(Path(f"/proc/{worker.pid}/status").read_text(), "VmHWM")) // 1024


def _kib(told: str, name: str) -> int:
    return int(told.split(f"{name}:")[1].split(maxsplit=1)[0])


@contextmanager
def small_events(function: Function) -> Iterator[list[int]]:
    """The statuses of small events, sent one after the other meanwhile."""
    statuses: list[int] = []
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            statuses.append(function.send(insert("outages", outage(10_000 + len(statuses)))).status)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield statuses
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_as_large_as_is_allowed_becomes_a_ticket_within_the_memory_of_an_instance(
    shape: str, tmp_path: Path
) -> None:
    with World() as world, served(world, tmp_path) as function:
        answer = function.send(large(shape, 8 * MIB - 2048))
        peak = peak_mib(function)

    assert (answer.status, answer.said) == (200, "created")
    assert peak < MEMORY_MIB


@pytest.mark.parametrize(
    ("shape", "size", "count"),
    [
        ("small numbers", 4 * MIB, 12),
        ("one text", 8 * MIB - 2048, 30),
        ("objects", 2 * MIB, 12),
        ("lists", MIB, 20),
    ],
)
def test_many_large_bodies_at_once_stay_within_the_memory_of_an_instance_and_cost_no_small_event(
    shape: str, size: int, count: int, tmp_path: Path
) -> None:
    with World() as world, served(world, tmp_path) as function:
        with small_events(function) as small, ThreadPoolExecutor(count) as pool:
            answers = list(
                pool.map(lambda key: function.send(large(shape, size, key)), range(count))
            )
        peak = peak_mib(function)

    assert {answer.status for answer in answers} <= {200, 503}
    assert [answer.status for answer in answers].count(200) >= 2
    assert all(answer.retry_after for answer in answers if answer.status == 503)
    assert set(small) == {200}
    assert peak < MEMORY_MIB


POST = """
  - name: told
    from: hasura/public.outages
    post:
      url: "{{ env.TARGET_URL }}"
      allow_private: true
      body: {id: "{{ row.id }}"}
"""


@pytest.mark.parametrize("fault", [None, "error_500"])
def test_an_event_is_let_go_of_with_its_answer_and_not_by_the_garbage_collector(
    fault: str | None,
) -> None:
    rules = RULES.replace("version: 1", "version: 1\nenv: [TARGET_URL]") + POST
    with Receiver() as receiver, World(rules=rules, TARGET_URL=receiver.url) as world:
        world.send(insert("outages", outage(1)))
        if fault:
            world.servicenow.arm(fault)
        gc.collect()
        gc.disable()
        try:
            answer = world.send(insert("outages", outage(2)))
            left = [kept for kept in gc.get_objects() if isinstance(kept, Event)]
        finally:
            gc.enable()

    assert len(answer.body["outcomes"]) == 2
    assert left == []


def test_large_updates_stay_within_the_memory_of_an_instance(tmp_path: Path) -> None:
    column = SHAPES["small numbers"](4 * MIB - 4096).encode()
    body = update("outages", outage(big="@"), outage(title="Worse", big="@")).replace(
        b'"@"', column
    )
    with World() as world, served(world, tmp_path) as function, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(function.send, [body] * 4))
        peak = peak_mib(function)

    assert {answer.status for answer in answers} <= {200, 503}
    assert peak < MEMORY_MIB


@pytest.mark.parametrize("secret", ["wrong", SECRET])
def test_a_refused_body_is_never_in_memory(secret: str, tmp_path: Path) -> None:
    """Without a length, so that nobody can refuse it before it comes."""

    def send(function: Function) -> int:
        chunks = (b"x" * MIB for _ in range(30))
        answer = requests.post(
            function.url, data=chunks, headers={"X-Webhook-Secret": secret}, timeout=60
        )
        return answer.status_code

    with World() as world, served(world, tmp_path) as function, ThreadPoolExecutor(20) as pool:
        statuses = set(pool.map(lambda _: send(function), range(20)))
        peak = peak_mib(function)

    assert statuses <= ({401} if secret == "wrong" else {413, 503})
    assert peak < 200


def test_a_sender_that_stalls_in_a_large_body_costs_no_small_event(tmp_path: Path) -> None:
    with (
        World(DEADLINE_SECONDS="10", SERVICENOW_TIMEOUT_SECONDS="5") as world,
        served(world, tmp_path) as function,
    ):
        stalled = []
        for _ in range(8):
            connection = http.client.HTTPConnection("127.0.0.1", function.port)
            connection.putrequest("POST", "/")
            connection.putheader("X-Webhook-Secret", SECRET)
            connection.putheader("Content-Length", str(8 * MIB))
            connection.endheaders(b"{")
            stalled.append(connection)
        small = function.send(insert("outages", outage()))
        other = function.send(large("one text", MIB, 2))
        for connection in stalled:
            connection.close()

    assert small.status == 200
    assert (other.status, other.retry_after is None) == (503, False)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_memory_that_a_body_is_let_in_with_is_no_less_than_reading_it_takes(shape: str) -> None:
    body = large(shape, MIB // 4)
    tracemalloc.start()
    hasura.parse_event(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < estimate_bytes(body) + 2 * MIB  # what is written down is cut into pieces of a MiB


def test_the_digest_of_values_is_that_of_their_canonical_forms() -> None:
    values: list[Json] = [
        {"a": [1, "x" * 200_000, None, {"b": 1.50}], "b": None, "c": "\N{SNOWMAN}" * 70_000},
        list(range(5000)),
    ]

    assert digest_values(("p", "q"), values) == digest("p", "q", *map(canonical, values))
    assert digest_values((), values) == digest(*map(canonical, values))


# The budget


def test_what_would_be_more_than_the_budget_waits_until_others_are_done() -> None:
    budget = ByteBudget(100)
    with ThreadPoolExecutor(1) as pool:
        with budget.take(60, timeout_seconds=1):
            waiting = pool.submit(taken, budget, 60, 10)
            time.sleep(0.05)
            waited = not waiting.done()

        assert waited
        assert waiting.result(5)


def test_what_waits_too_long_is_refused_and_holds_nothing() -> None:
    budget = ByteBudget(100)
    with (
        budget.take(60, timeout_seconds=1),
        pytest.raises(MemoryBusy),
        budget.take(60, timeout_seconds=0.05),
    ):
        pass

    assert taken(budget, 100, 0.05)


def test_what_is_more_than_the_whole_budget_is_let_in_alone() -> None:
    budget = ByteBudget(100)
    with budget.take(1000, timeout_seconds=0.05):
        beside = taken(budget, 1, 0.05)

    assert not beside


def test_a_large_one_is_not_overtaken_for_ever_by_small_ones() -> None:
    budget = ByteBudget(100)
    with ThreadPoolExecutor(2) as pool, budget.take(60, timeout_seconds=1):
        large_one = pool.submit(taken, budget, 100, 0.5)
        time.sleep(0.05)
        small_one = pool.submit(taken, budget, 10, 0.05)

        assert not small_one.result(5)
        assert not large_one.result(5)


def taken(budget: ByteBudget, bytes_needed: int, timeout_seconds: float) -> bool:
    """Whether so many bytes could be had."""
    try:
        with budget.take(bytes_needed, timeout_seconds=timeout_seconds):
            return True
    except MemoryBusy:
        return False
