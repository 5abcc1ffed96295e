"""Several parts of one request's work at a time, in real threads."""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from function.parallel import THREADS_MAX, WorkThreads

KEPT: ContextVar[str] = ContextVar("kept", default="")


def meeting(parties: int) -> Callable[[], None]:
    """Done only where so many do it at the same time."""
    barrier = threading.Barrier(parties, timeout=20)

    def part() -> None:
        barrier.wait()

    return part


def test_parts_are_worked_on_together_and_give_their_results_in_order() -> None:
    meet = meeting(3)

    def part(number: int) -> int:
        meet()
        time.sleep(0.05 * (3 - number))
        return number

    given = WorkThreads(3).run([lambda n=n: part(n) for n in range(3)])  # type: ignore[misc]

    assert given == [0, 1, 2]


def test_no_more_parts_are_worked_on_than_at_once() -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def part() -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1

    WorkThreads(2).run([part] * 8)

    assert most == 2


def test_one_at_once_is_the_requests_own_thread() -> None:
    threads = WorkThreads(1).run([threading.get_ident] * 3)

    assert threads == [threading.get_ident()] * 3


def test_after_an_error_what_was_begun_is_ended_and_nothing_else_is_begun() -> None:
    done = []
    meet = meeting(2)

    def slow() -> None:
        meet()
        time.sleep(0.2)
        done.append("begun before")

    def failing() -> None:
        meet()
        raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        WorkThreads(2).run([slow, failing, lambda: done.append("after")])

    assert done == ["begun before"]


def test_of_several_errors_the_first_parts_is_raised() -> None:
    meet = meeting(2)

    def failing(error: Exception) -> None:
        meet()
        raise error

    with pytest.raises(KeyError):
        WorkThreads(2).run([lambda: failing(KeyError("a")), lambda: failing(ValueError("b"))])


def test_what_bounds_the_request_bounds_its_threads() -> None:
    KEPT.set("for 5 seconds")
    meet = meeting(2)

    def part() -> str:
        meet()
        return KEPT.get()

    assert WorkThreads(2).run([part, part]) == ["for 5 seconds"] * 2


def test_where_all_threads_are_taken_a_request_does_its_work_by_itself() -> None:
    threads = WorkThreads(THREADS_MAX + 1)
    over, begun = threading.Event(), threading.Semaphore(0)

    def part() -> None:
        begun.release()
        over.wait(20)

    taken = threading.Thread(target=threads.run, args=([part] * (THREADS_MAX + 1),))
    taken.start()
    for _ in range(THREADS_MAX + 1):
        assert begun.acquire(timeout=20)

    own = threads.run([threading.get_ident] * 3)
    over.set()
    taken.join()
    meet = meeting(2)

    assert own == [threading.get_ident()] * 3
    # They are free again.
    threads.run([meet, meet])
