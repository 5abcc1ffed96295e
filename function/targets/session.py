"""What every target that writes to ServiceNow has: a connection to it."""

from typing import Self

from function.connection.active import Connection
from function.core.outcome import Reason
from function.rules.model import Rule


class ServiceNowSession:
    """Work on one connection to ServiceNow."""

    system = "ServiceNow"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def instance(self) -> str:
        return self._connection.instance_url

    @property
    def version(self) -> str:
        return self._connection.version

    @property
    def settings_digest(self) -> str:
        return self._connection.settings_digest

    def for_rule(self, rule: Rule) -> Self:  # noqa: ARG002  # all rules go to one instance
        return self

    def find_system(self, reason: Reason) -> tuple[str, str]:  # noqa: ARG002  # nothing else is asked
        return self.system, self.instance

    @property
    def unverified(self) -> str | None:
        return self._connection.tables.unverified
