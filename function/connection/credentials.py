"""Who we are to ServiceNow, and read anew when that is refused."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from function.deadline import seconds_left
from function.servicenow import Credential
from function.servicenow.single_flight import NotFetched, SingleFlight

log = logging.getLogger(__name__)

# As long as ServiceNow's own slowest good answer.
READ_SECONDS: Final = 20.0


class CredentialUnreadable(Exception):  # noqa: N818  # what happened
    """Where the secrets are kept does not answer; the text names the variable, never a value."""


class CredentialProvider:
    """Who we are to ServiceNow, read anew when that is refused: rotation needs no redeploy."""

    def __init__(
        self, known: Credential, read: Callable[[], Credential], instance_url: str
    ) -> None:
        self._read = read
        self._instance_url = instance_url
        self._lock = threading.Lock()
        self._flights = SingleFlight[str, None]()
        self._current = known
        self._digest = ""

    def current(self) -> Credential:
        return self._current

    @property
    def digest(self) -> str:
        """What stands for the credential in the ledger. Slow to make, so made once."""
        with self._lock:
            if not self._digest:
                self._digest = self._current.digest(self._instance_url)
            return self._digest

    def refresh(self) -> bool:
        """Read the secrets again; True when they are others now. Of several who ask at once, one
        reads; it does so, and the others wait for it, no longer than the answer that is due may
        take."""
        known = self._current
        # Where another thread's reading failed or takes too long, this one is no wiser.
        with suppress(NotFetched):
            self._flights.run(
                "credential",
                lambda: self._read_again(known),
                wait_seconds=min(READ_SECONDS, seconds_left()),
            )
        return self._current != known

    def _read_again(self, known: Credential) -> None:
        if self._current != known:
            return  # another thread has read it since
        try:
            fresh = self._read()
        except CredentialUnreadable as error:
            log.warning("the credential could not be read again: %s", error)
            return
        with self._lock:
            if fresh != self._current:
                self._current, self._digest = fresh, ""
