"""Which ServiceNow the events go to: the stored configuration's, or the environment's.

It is looked up before each delivery, so that a change is in force at once in every instance. What
is under way ends on the connection that it began with.
"""

import logging
import math
import threading
import time
from dataclasses import dataclass, replace
from typing import Final

from function.connection.credentials import CredentialProvider, CredentialUnreadable
from function.connection.guarded import GuardedClient, GuardedTables, UnconfiguredClient
from function.connection.references import ReferenceLookup
from function.connection.store import ConnectionStore, PasswordUnreadable, StoredConnection
from function.ledger.ledger import Ledger
from function.servicenow import Basic, Credential, NetworkSettings, TableClient
from function.settings import Settings

log = logging.getLogger(__name__)

# An event that brings a call is told at once of another connection; all else hears of it within
# that time.
VERSION_SECONDS: Final = 2.0
NOWHERE: Final = (
    "No configuration is stored, and the environment holds none: store one with POST "
    "/api/servicenow/config, or set SERVICENOW_INSTANCE_URL, SERVICENOW_USERNAME and "
    "SERVICENOW_PASSWORD."
)


@dataclass(frozen=True, slots=True)
class Connection:
    """A way to ServiceNow.

    *version* is the stored configuration's, "" for the environment's. *settings_digest* stands for
    the settings that decide what becomes of an event. *credentials* and *client* are None where
    nobody can sign in: *problem* says why, and *tables* has every event wait.
    """

    version: str
    instance_url: str
    username: str
    settings_digest: str
    tables: GuardedTables
    references: ReferenceLookup
    credentials: CredentialProvider | None = None
    client: TableClient | None = None
    problem: str = ""


class ConnectionProvider:
    """Gives the connection in force; threads share it."""

    def __init__(
        self,
        *,
        settings: Settings,
        ledger: Ledger,
        configurations: ConnectionStore,
        environment: CredentialProvider | None,
        network: NetworkSettings,
    ) -> None:
        """*environment*: who we are by the environment, if it says so."""
        self._network = network
        self._settings = settings
        self._ledger = ledger
        self._configurations = configurations
        self._environment = environment
        self._connection: Connection | None = None
        self._checked_at = -math.inf
        self._switching = threading.Lock()

    def current(self, *, at_once: bool = False) -> Connection:
        """The connection in force; one that was replaced less than VERSION_SECONDS ago may be given
        unless *at_once*.

        Raises LedgerUnavailable.
        """
        connection = self._connection
        if (
            connection is not None
            and not at_once
            and time.monotonic() - self._checked_at < VERSION_SECONDS
        ):
            return connection
        checked_at = time.monotonic()
        if connection is not None and connection.version == self._configurations.version():
            self._checked_at = checked_at
            return connection
        with self._switching:
            stored = self._configurations.read()
            before = self._connection
            if before is None or before.version != (stored.version if stored else ""):
                self._connection = self._connect(stored)
                log.info("events go to %s", self._connection.instance_url or "nowhere")
                if before is not None and before.client is not None:
                    # Closes what is idle. A call under way keeps its connection, and a delivery
                    # under way may go on.
                    before.client.close()
            assert self._connection is not None  # noqa: S101  # for the type checker: it was made above
            self._checked_at = checked_at
            return self._connection

    def close(self) -> None:
        if self._connection is not None and self._connection.client is not None:
            self._connection.client.close()

    def _connect(self, stored: StoredConnection | None) -> Connection:
        if stored is None:
            url, username = (
                self._settings.servicenow_instance_url,
                self._settings.servicenow_username,
            )
            if self._environment is None:
                return self._closed("", "", "", NOWHERE)
            return self._open("", url, username, self._environment)
        try:
            known = self._credential(stored)
        except PasswordUnreadable as error:
            return self._closed(stored.version, stored.instance_url, stored.username, str(error))

        def read_again() -> Credential:
            fresh = self._configurations.read()
            if fresh is None or fresh.instance_url != stored.instance_url:
                # It is no more: its client ends with what is under way, and no other's password may
                # go there.
                return known
            try:
                return self._credential(fresh)
            except PasswordUnreadable as error:
                raise CredentialUnreadable(str(error)) from error

        credentials = CredentialProvider(known, read_again, stored.instance_url)
        return self._open(stored.version, stored.instance_url, stored.username, credentials)

    def _credential(self, stored: StoredConnection) -> Credential:
        return Basic(stored.username, self._configurations.password(stored))

    def _open(
        self, version: str, instance_url: str, username: str, credentials: CredentialProvider
    ) -> Connection:
        client = TableClient(
            instance_url,
            credentials.current,
            timeout_seconds=self._settings.servicenow_timeout_seconds,
            concurrency_max=self._settings.servicenow_max_concurrency,
            network=self._network,
            # The guarded client holds a refused credential back, for all instances.
            auth_pause_seconds=0.0,
        )
        tables = GuardedClient(
            client,
            self._ledger,
            credentials,
            auth_hold_seconds=self._settings.auth_hold_seconds,
            concurrency_max=self._settings.servicenow_max_concurrency,
        )
        return Connection(
            version,
            instance_url,
            username,
            self._settings_digest(instance_url, username),
            tables,
            ReferenceLookup(tables),
            credentials,
            client,
        )

    def _closed(self, version: str, instance_url: str, username: str, problem: str) -> Connection:
        log.error("no event can be delivered: %s", problem)
        tables = UnconfiguredClient(instance_url, problem, since=self._ledger.now())
        digest = self._settings_digest(instance_url, username)
        return Connection(
            version,
            instance_url,
            username,
            digest,
            tables,
            ReferenceLookup(tables),
            problem=problem,
        )

    def _settings_digest(self, instance_url: str, username: str) -> str:
        """What stands for the settings that decide what becomes of an event: under others, a dead
        letter may live."""
        return replace(
            self._settings, servicenow_instance_url=instance_url, servicenow_username=username
        ).digest
