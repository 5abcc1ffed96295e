"""What every target that writes to ServiceNow has: a connection to it."""

from function.connection.active import Connection


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

    @property
    def unverified(self) -> str | None:
        return self._connection.tables.unverified
