"""The secrets among the variables of `env:`: read at start, and again when one is refused."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from function import secretmanager
from function.deadline import seconds_left

log = logging.getLogger(__name__)

# A target that refuses everybody must not have Secret Manager asked for every event; a secret that
# was replaced is in use within this time.
REFRESH_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ReadVariables:
    """What came of reading variables: the *values* of the secrets, the *references* that stood in
    their place, and what is wrong with those that are *unread*; each by variable."""

    values: Mapping[str, str] = field(repr=False)
    references: Mapping[str, str]
    unread: Mapping[str, str]


def read_variables(
    names: Iterable[str],
    environ: Mapping[str, str],
    *,
    read_secret: Callable[[str], str] = secretmanager.read_secret,
) -> ReadVariables:
    """Read those of the variables *names* whose value in *environ* is ``secret://…``, or several
    separated by commas."""
    references = {
        name: environ[name] for name in names if secretmanager.is_reference(environ.get(name, ""))
    }
    values: dict[str, str] = {}
    unread: dict[str, str] = {}
    for name, reference in references.items():
        try:
            values[name] = secretmanager.resolve(reference, read_secret)
            if not values[name].strip():
                unread[name] = f"is empty: the secret that {reference} names holds nothing"
        except ValueError as error:
            unread[name] = str(error)
    return ReadVariables(values, references, unread)


class RuleVariables:
    """The secrets among the variables of `env:`, which all rules share; one for a process, used by
    many threads.

    A target that renders a secret takes the *version* first. Where it is then refused (401, 403) it
    asks refresh(), and makes the call again if that says so: the value may have been replaced.
    """

    def __init__(
        self,
        env: dict[str, str],
        environ: Mapping[str, str],
        *,
        read_secret: Callable[[str], str] = secretmanager.read_secret,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*env* is that of the Rules: its values are replaced in place. *environ* has what stands
        in the place of secrets; *clock* gives seconds."""
        self._env = env
        self._references = {
            name: environ[name] for name in env if secretmanager.is_reference(environ.get(name, ""))
        }
        self._read_secret = read_secret
        self._clock = clock
        self._lock = threading.Lock()
        self._version = 0
        self._read_at = -math.inf

    @property
    def version(self) -> int:
        """Counts how often a value was replaced."""
        return self._version

    def refresh(self, used: int) -> bool:
        """Whether the values are others than those of the version *used*, which was refused.

        They are read again for that, at most once in REFRESH_SECONDS in this process; who comes
        meanwhile waits for it, no longer than its answer may. What cannot be read stays as it was.
        Raises nothing.
        """
        if not self._references or not self._lock.acquire(timeout=_wait_seconds()):
            return False
        try:
            if self._version == used and self._clock() - self._read_at >= REFRESH_SECONDS:
                self._read_again()
            return self._version != used
        finally:
            self._lock.release()

    def hide(self) -> None:
        """Put the variable's name in the place of each secret: for those who show what rules make
        of an event."""
        with self._lock:
            self._env.update({name: f"(secret {name})" for name in self._references})

    def _read_again(self) -> None:
        read = read_variables(self._references, self._references, read_secret=self._read_secret)
        self._read_at = self._clock()
        for name, what in read.unread.items():
            log.warning("the variable %s was not read again, and stays as it is: it %s", name, what)
        changed = {
            name: value
            for name, value in read.values.items()
            if name not in read.unread and value != self._env[name]
        }
        if changed:
            self._env.update(changed)
            self._version += 1
            log.info("the secrets of the variables %s were replaced", ", ".join(sorted(changed)))


def _wait_seconds() -> float:
    """As long as a secret may take to read, where the answer is not due before."""
    return max(0.0, min(secretmanager.READ_SECONDS, seconds_left()))
