"""The secrets among the variables of `env:`: read at start, and again when one is refused."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from function import secretmanager
from function.deadline import seconds_left

log = logging.getLogger(__name__)

# A target that refuses everybody must not have Secret Manager asked for every event. What it
# refuses in this time after a reading is sent again at its end.
REFRESH_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class SecretRefresh:
    """What came of reading secrets again that were refused: whether they are *replaced* by others.
    Where they are not, and may be out of date yet, they are read again in *wait_seconds*."""

    replaced: bool
    wait_seconds: float = 0.0


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

    A target that renders secrets counts their replacements first. Where it is then refused (401,
    403) it asks refresh(), and makes the call again if that says so: one may have been replaced.
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
        # By variable.
        self._replacements = dict.fromkeys(self._references, 0)
        self._read_at = dict.fromkeys(self._references, -math.inf)
        self._unread: set[str] = set()

    def count_replacements(self, names: Collection[str]) -> int:
        """How often the values of the variables *names* were replaced."""
        return sum(count for name, count in self._replacements.items() if name in names)

    def refresh(
        self, names: Collection[str], used: int, *, refused_before: bool = False
    ) -> SecretRefresh:
        """Whether the secrets among the variables *names* are others than those that were refused,
        of which *used* is count_replacements().

        They are read again for that, each at most once in REFRESH_SECONDS in this process; who
        comes meanwhile waits for it, no longer than its answer may. What cannot be read stays as it
        was. *refused_before*: what was refused waited for its secrets already, so that those that
        were read within REFRESH_SECONDS are taken for those of now. Raises nothing.
        """
        secrets = self._references.keys() & names
        if not secrets:
            return SecretRefresh(replaced=False)
        if not self._lock.acquire(timeout=_wait_seconds()):
            return SecretRefresh(replaced=False, wait_seconds=secretmanager.READ_SECONDS)
        try:
            due = {name for name in secrets if self._due_seconds(name) <= 0}
            if due and self.count_replacements(secrets) == used:
                self._read_again(due)
            if self.count_replacements(secrets) != used:
                return SecretRefresh(replaced=True)
            doubtful = secrets & self._unread if refused_before else secrets - (due - self._unread)
            # A clock that went on meanwhile must not make it none.
            wait = max((max(1.0, self._due_seconds(name)) for name in doubtful), default=0.0)
            return SecretRefresh(replaced=False, wait_seconds=wait)
        finally:
            self._lock.release()

    def hide(self) -> None:
        """Put the variable's name in the place of each secret: for those who show what rules make
        of an event."""
        with self._lock:
            self._env.update({name: f"(secret {name})" for name in self._references})

    def _due_seconds(self, name: str) -> float:
        """The time until the variable may be read again."""
        return self._read_at[name] + REFRESH_SECONDS - self._clock()

    def _read_again(self, names: Collection[str]) -> None:
        read = read_variables(names, self._references, read_secret=self._read_secret)
        self._read_at.update(dict.fromkeys(names, self._clock()))
        self._unread = (self._unread - {*names}) | read.unread.keys()
        for name, what in read.unread.items():
            log.warning("the variable %s was not read again, and stays as it is: it %s", name, what)
        changed = {
            name: value
            for name, value in read.values.items()
            if name not in read.unread and value != self._env[name]
        }
        if changed:
            self._env.update(changed)
            for name in changed:
                self._replacements[name] += 1
            log.info("the secrets of the variables %s were replaced", ", ".join(sorted(changed)))


def _wait_seconds() -> float:
    """As long as a secret may take to read, where the answer is not due before."""
    return max(0.0, min(secretmanager.READ_SECONDS, seconds_left()))
