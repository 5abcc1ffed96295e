"""Several parts of one request's work at a time."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Final, TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

# In the whole process, whatever comes in at once: memory and the ledger's connections are bounded.
THREADS_MAX: Final = 32


class WorkThreads:
    """Threads beside those of the requests; a request that gets none does its work by itself."""

    def __init__(self, at_once: int) -> None:
        """*at_once*: so many parts of one request are worked on at a time at most."""
        self._at_once = at_once
        self._free = threading.BoundedSemaphore(THREADS_MAX)

    def run(self, parts: Sequence[Callable[[], T]]) -> list[T]:
        """Do all *parts*, and give what each gave, in their order.

        Where one raises, those that were not begun are left, those that were are waited for, and
        then the first error is raised.
        """
        done: dict[int, T] = {}
        errors: dict[int, BaseException] = {}
        todo = iter(enumerate(parts))
        turn = threading.Lock()

        def work() -> None:
            while True:
                with turn:
                    number, part = (-1, None) if errors else next(todo, (-1, None))
                if part is None:
                    return
                try:
                    done[number] = part()
                except BaseException as error:  # noqa: BLE001  # raised below, by the request's own thread
                    errors[number] = error

        threads = self._start(work, most=min(self._at_once, len(parts)) - 1)
        work()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[min(errors)]
        return [done[number] for number in range(len(parts))]

    def _start(self, work: Callable[[], None], *, most: int) -> list[threading.Thread]:
        """Threads that do *work*, as many of *most* as there are."""

        def help_out() -> None:
            try:
                work()
            finally:
                self._free.release()

        threads: list[threading.Thread] = []
        while len(threads) < most and self._free.acquire(blocking=False):
            # What bounds the request's waiting bounds this thread's too.
            thread = threading.Thread(target=copy_context().run, args=(help_out,))
            try:
                thread.start()
            except RuntimeError:
                self._free.release()
                log.warning("no further thread can be started: the work goes on in fewer")
                break
            threads.append(thread)
        return threads
