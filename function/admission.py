"""How many bytes of requests are in memory at a time. Knows nothing of what the requests say."""

import ctypes
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Final

# Rows are a few KiB. Those never wait; a hundred threads with the worst of such bodies take less
# than 100 MB.
SMALL_BYTES_MAX: Final = 16 * 1024
# What all bodies under work may take together, as multiples of the largest one allowed. No body of
# the largest size takes more (measured: 8 MiB of `[],` take 250 MB), so that 8 MiB and 512 MiB of
# memory go together.
WORK_FACTOR: Final = 32
WORK_BYTES_MIN: Final = 64 * 1024 * 1024
# All bodies that were read, those that wait for their turn included.
READING_FACTOR: Final = 4


class MemoryBusy(Exception):  # noqa: N818  # what is the case
    """Other large requests took all the memory for the whole time."""


class ByteBudget:
    """Gives out bytes until *bytes_max* are taken, first come, first served; one request may take
    more if alone."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._taken = 0

    @contextmanager
    def take(self, bytes_needed: int, *, timeout_seconds: float) -> Iterator[None]:
        """Hold *bytes_needed* for a while. Raises MemoryBusy after *timeout_seconds*."""
        needed = min(bytes_needed, self._bytes_max)
        mine = object()
        until = time.monotonic() + timeout_seconds
        with self._changed:
            self._queue.append(mine)
            try:
                while self._queue[0] is not mine or self._taken + needed > self._bytes_max:
                    left_seconds = until - time.monotonic()
                    if left_seconds <= 0:
                        raise MemoryBusy
                    self._changed.wait(left_seconds)
                self._taken += needed
            finally:
                self._queue.remove(mine)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= needed
                self._changed.notify_all()


class BodyAdmission:
    """Lets few large bodies in at a time, so that all of them together stay within a multiple of
    *body_bytes_max*."""

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._reading = ByteBudget(READING_FACTOR * body_bytes_max)
        self._working = ByteBudget(max(WORK_BYTES_MIN, WORK_FACTOR * body_bytes_max))

    @contextmanager
    def admit_reading(self, length: int | None, *, timeout_seconds: float) -> Iterator[None]:
        """Hold the memory for a body of *length* bytes (None: it does not say) while it is there.
        Raises MemoryBusy."""
        if length is not None and length <= SMALL_BYTES_MAX:
            yield
            return
        return_freed_memory()
        needed = self._body_bytes_max if length is None else length
        with self._reading.take(needed, timeout_seconds=timeout_seconds):
            yield

    @contextmanager
    def admit_work(self, body: bytes | bytearray, *, timeout_seconds: float) -> Iterator[None]:
        """Hold the memory that work on *body* may take. Raises MemoryBusy."""
        if len(body) <= SMALL_BYTES_MAX:
            yield
            return
        with self._working.take(estimate_bytes(body), timeout_seconds=timeout_seconds):
            yield


# malloc.h of the GNU C library.
_M_MMAP_THRESHOLD: Final = -3
_OWN_MAPPING_BYTES: Final = 256 * 1024


@cache
def return_freed_memory() -> None:
    """Have large blocks given back to the system when they are freed.

    The GNU C library keeps up to 32 MiB of them for each thread otherwise: fifty lists, one after
    the other, are then there all at once. Other C libraries have no such call, and no such habit.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


# Of CPython 3.11 on 64 bits, with what lists and dictionaries keep in reserve.
_ELEMENT_BYTES: Final = 40  # a number of up to nine digits, and its place
_LIST_BYTES: Final = 100
_OBJECT_BYTES: Final = 250
_MEMBER_BYTES: Final = 120
_TEXT_BYTES: Final = 64
_DECIMAL_BYTES: Final = 80  # beside the element's
# The body, its text, a column's, what the ledger is sent, and its driver's copy.
_COPIES: Final = 6
# An emoji, as it is in UTF-8 or escaped, and any other character that Latin-1 has not.
_FOUR_BYTES: Final = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_TWO_BYTES: Final = re.compile(rb"\\u(?!00)")


def estimate_bytes(body: bytes | bytearray) -> int:
    """About how much memory *body* takes while it is worked on; rather too much than too little,
    and found fast.

    Commas and brackets within texts count like others.
    """
    # Python keeps a text in as many bytes a character as its widest character needs.
    character_bytes = (
        4 if _FOUR_BYTES.search(body) else 2 if not body.isascii() or _TWO_BYTES.search(body) else 1
    )
    return (
        _COPIES * character_bytes * len(body)
        + _ELEMENT_BYTES * body.count(b",")
        + _LIST_BYTES * body.count(b"[")
        + _OBJECT_BYTES * body.count(b"{")
        + _MEMBER_BYTES * body.count(b":")
        + _TEXT_BYTES * body.count(b'"') // 2
        + _DECIMAL_BYTES * body.count(b".")
    )
