"""One thread fetches, and the others that ask for the same at that time wait for what it brings."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class NotFetched(Exception):  # noqa: N818  # what is the case
    """Another thread was fetching it, and did not bring it: *error* is why, None where it takes too
    long."""

    def __init__(self, error: BaseException | None) -> None:
        super().__init__("failed" if error else "not in time")
        self.error = error


class SingleFlight(Generic[K, T]):
    """Makes one request of those for the same key that are asked for at a time. Threads share it.

    It keeps nothing: a *fetch* that is to be remembered is remembered by itself, before it returns;
    and it looks first whether that has happened since it was asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[K, Future[T]] = {}

    def run(self, key: K, fetch: Callable[[], T], *, wait_seconds: float) -> T:
        """What *fetch* brings; or another thread's, where one is under way for *key*.

        The other is waited for *wait_seconds* at most: *fetch* has to be bounded by itself. What it
        raises is raised in its own thread; where another is waited for, NotFetched is.
        """
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                ours = self._flights[key] = Future()
        if flight is not None:
            return _await(flight, wait_seconds)
        try:
            fetched = fetch()
        except BaseException as error:
            ours.set_exception(error)
            raise
        else:
            ours.set_result(fetched)
            return fetched
        finally:
            with self._lock:
                del self._flights[key]


def _await(flight: Future[T], seconds: float) -> T:
    try:
        error = flight.exception(timeout=max(0.0, seconds))
    except TimeoutError:
        raise NotFetched(None) from None
    if error is not None:
        raise NotFetched(error)
    return flight.result()
