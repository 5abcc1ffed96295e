"""One thread fetches, and the others that ask for the same at that time wait for what it brings."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from function.servicenow.single_flight import NotFetched, SingleFlight

LONG = 10.0


class Gate:
    """What is fetched: it is there when the gate is opened. *fetches* counts who asked for it."""

    def __init__(self, fetched: str | BaseException = "fetched") -> None:
        self._fetched = fetched
        self._lock = threading.Lock()
        self._open = threading.Event()
        self.entered = threading.Event()
        self.fetches = 0

    def __call__(self) -> str:
        with self._lock:
            self.fetches += 1
        self.entered.set()
        assert self._open.wait(LONG)
        if isinstance(self._fetched, BaseException):
            raise self._fetched
        return self._fetched

    def open(self) -> None:
        self._open.set()


def never() -> str:
    raise AssertionError("another thread fetches it")


def crowd(
    pool: ThreadPoolExecutor, count: int, flights: SingleFlight[str, str], gate: Gate
) -> list[Future[str]]:
    """*count* threads that wait for the one that is at the *gate*."""
    waiting = threading.Barrier(count + 1)

    def ask() -> str:
        waiting.wait(LONG)
        return flights.run("key", never, wait_seconds=LONG)

    assert gate.entered.wait(LONG)
    asked = [pool.submit(ask) for _ in range(count)]
    waiting.wait(LONG)
    time.sleep(0.5)  # from the barrier to the wait, also on a machine that is busy
    return asked


def outcome(call: Callable[[], str]) -> str | NotFetched:
    try:
        return call()
    except NotFetched as error:
        return error


def test_of_a_crowd_one_fetches_and_all_have_what_it_brings() -> None:
    flights, gate = SingleFlight[str, str](), Gate()
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(flights.run, "key", gate, wait_seconds=LONG)
        others = crowd(pool, 19, flights, gate)
        gate.open()

        assert {asked.result(LONG) for asked in [first, *others]} == {"fetched"}
    assert gate.fetches == 1


def test_of_a_crowd_that_comes_at_once_one_fetches_at_a_time() -> None:
    flights, together = SingleFlight[str, int](), threading.Barrier(20)
    under_way, most = 0, 0

    def fetch() -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        time.sleep(0.02)
        under_way -= 1
        return 1

    def ask() -> int:
        together.wait(LONG)
        return sum(flights.run("key", fetch, wait_seconds=LONG) for _ in range(10))

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(ask) for _ in range(20)]

        assert [one.result(LONG) for one in asked] == [10] * 20
    assert most == 1


def test_what_the_one_fails_by_is_raised_to_it_and_told_to_the_others() -> None:
    failure = ValueError("no")
    flights, gate = SingleFlight[str, str](), Gate(failure)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(flights.run, "key", gate, wait_seconds=LONG)
        others = crowd(pool, 3, flights, gate)
        gate.open()

        assert first.exception(LONG) is failure
        told = [other.exception(LONG) for other in others]
    assert [error.error for error in told if isinstance(error, NotFetched)] == [failure] * 3


def test_an_interrupt_of_the_one_does_not_leave_the_others_waiting() -> None:
    flights, gate = SingleFlight[str, str](), Gate(KeyboardInterrupt())
    with ThreadPoolExecutor(2) as pool:
        pool.submit(flights.run, "key", gate, wait_seconds=LONG)
        (other,) = crowd(pool, 1, flights, gate)
        gate.open()

        told = other.exception(LONG)
    assert isinstance(told, NotFetched)
    assert isinstance(told.error, KeyboardInterrupt)


@pytest.mark.parametrize("wait_seconds", [0.2, 0.0, -1.0])
def test_who_waits_does_so_no_longer_than_is_said(wait_seconds: float) -> None:
    flights, gate = SingleFlight[str, str](), Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.run, "key", gate, wait_seconds=LONG)
        assert gate.entered.wait(LONG)
        began = time.monotonic()
        told = outcome(lambda: flights.run("key", never, wait_seconds=wait_seconds))
        waited_seconds = time.monotonic() - began
        gate.open()

        assert first.result(LONG) == "fetched"
    assert isinstance(told, NotFetched)
    assert told.error is None
    assert max(0.0, wait_seconds) <= waited_seconds < LONG / 2


def test_another_key_is_fetched_meanwhile() -> None:
    flights, gate = SingleFlight[str, str](), Gate()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(flights.run, "key", gate, wait_seconds=LONG)
        assert gate.entered.wait(LONG)

        assert flights.run("other", lambda: "other", wait_seconds=0.0) == "other"
        gate.open()
        assert first.result(LONG) == "fetched"


@pytest.mark.parametrize("fails", [True, False])
def test_who_asks_afterwards_fetches_anew(*, fails: bool) -> None:
    flights = SingleFlight[str, str]()

    def fail() -> str:
        raise ValueError("no")

    if fails:
        with pytest.raises(ValueError, match="no"):
            flights.run("key", fail, wait_seconds=0.0)
    else:
        assert flights.run("key", lambda: "first", wait_seconds=0.0) == "first"

    assert flights.run("key", lambda: "second", wait_seconds=0.0) == "second"


def test_what_is_remembered_by_the_fetch_is_fetched_once_however_the_threads_meet() -> None:
    flights, remembered, fetches = SingleFlight[str, str](), dict[int, str](), list[int]()
    together = threading.Barrier(8)

    def ask(key: int) -> str:
        def fetch() -> str:
            if key not in remembered:
                fetches.append(key)
                remembered[key] = f"of {key}"
            return remembered[key]

        together.wait(LONG)
        return remembered.get(key) or flights.run(str(key), fetch, wait_seconds=LONG)

    with ThreadPoolExecutor(8) as pool:
        for key in range(200):
            assert set(pool.map(ask, [key] * 8)) == {f"of {key}"}

    assert fetches == list(range(200))
