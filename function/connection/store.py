"""The connection to ServiceNow that operators store over HTTP, with its password encrypted.

There is one, or none: then the environment's is in force. Every change gives it another version, by
which each instance of the function notices.

    ApiError                 the operator's request was not done; .status is the answer's
    PasswordUnreadable       the stored password cannot be decrypted
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from function.ledger.backend import Record
from function.ledger.database import Database, Transaction
from function.settings import CONNECTION_PARTS, MAKE_CONFIG_KEY

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class ApiError(Exception):
    """An operator's request was not done; *message* says why, and what to do."""

    def __init__(self, status: int, message: str) -> None:
        """*status* is the answer's: 400 for what cannot be taken, 404, 409 or 503."""
        super().__init__(message)
        self.status = status


class PasswordUnreadable(Exception):  # noqa: N818  # what is the case
    """The stored password cannot be decrypted; the text says what to do."""


@dataclass(frozen=True, slots=True)
class ConnectionInput:
    """What an operator sent. *password* is "" where it was left out."""

    instance_url: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """The stored configuration. *secret* is its password, encrypted; *created_at* is
    UNIX seconds."""

    id: str
    version: str
    instance_url: str
    username: str
    secret: str = field(repr=False)
    created_at: float

    def shown(self) -> dict[str, str]:
        """What operators are told of it."""
        created_at = datetime.fromtimestamp(self.created_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "id": self.id,
            "instance_url": self.instance_url,
            "username": self.username,
            "created_at": created_at,
        }


# What is not written like a name is not repeated: it may be a value in the wrong place.
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}")
UNKNOWN_MAX: Final = 10


def parse_input(body: bytes) -> ConnectionInput:
    """Read what an operator sent: a JSON object of *instance_url*, *username* and *password*.

    Raises ApiError with all that is wrong, a sentence each. A password that is left out is the
    caller's to judge.
    """
    try:
        sent = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ApiError(
            400,
            'The body must be a JSON object: {"instance_url": "…", "username": "…", "password": '
            '"…"}.',
        ) from None
    known = ", ".join(CONNECTION_PARTS)
    faults = [
        (
            f"{name if _PLAIN.fullmatch(name) else 'A key'} is unknown: leave it out; "
            f"there are {known}."
        )
        for name in sent
        if name not in CONNECTION_PARTS
    ][:UNKNOWN_MAX]
    read = dict.fromkeys(CONNECTION_PARTS, "")
    for name, parse_part in CONNECTION_PARTS.items():
        written = sent.get(name)
        if written is None or (isinstance(written, str) and not written.strip()):
            if name != "password":
                faults.append(f"{name} must be given.")
        elif not isinstance(written, str):
            faults.append(f"{name} must be a text, in quotes.")
        else:
            try:
                read[name] = parse_part(written)
            except ValueError as error:
                faults.append(f"{name} {error}.")
    if faults:
        raise ApiError(400, " ".join(faults))
    return ConnectionInput(**read)


NOT_STORED: Final = "No configuration is stored, so the environment's is in force. POST stores one."
ALREADY_STORED: Final = "A configuration is stored already. PUT replaces it, DELETE removes it."
CHANGED_MEANWHILE: Final = (
    "Somebody else changed the configuration just now. GET it, and send yours again."
)
NO_KEY: Final = (
    "CONFIG_KEY is not set, and a password is not stored unencrypted. Set it to what this prints, "
    f"deploy, and send this again: {MAKE_CONFIG_KEY}"
)
PASSWORD_MISSING: Final = "password must be given."  # noqa: S105  # no password
PASSWORD_OF_ANOTHER: Final = (
    "password must be given again: the instance_url is another one, and "  # noqa: S105
    "the stored password is not for it."
)

_INSERT = """
INSERT INTO servicenow.configuration AS c
    (one, id, version, instance_url, username, password, created_at, updated_at)
VALUES (1, :id, :version, :instance_url, :username, :password, {now}, {now})
ON CONFLICT (one) DO UPDATE SET id = :id WHERE c.id = :id
RETURNING *
"""

# The new version is there already where the transaction is repeated after a lost connection.
_UPDATE = """
UPDATE servicenow.configuration SET
    version = :version, instance_url = :instance_url, username = :username, password = :password,
    updated_at = {now}
WHERE version = :seen OR version = :version
RETURNING *
"""


class ConnectionStore:
    """Stores the configuration, and reads it. *keys* are CONFIG_KEY's, the newest first."""

    def __init__(self, database: Database, keys: Sequence[str]) -> None:
        self._database = database
        self._keys = tuple(keys)

    def version(self) -> str:
        """What stands for the stored configuration as it is now; "" for none."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT version FROM servicenow.configuration WHERE one = 1"
            )
        )
        return str(rows[0]["version"]) if rows else ""

    def read(self) -> StoredConnection | None:
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT * FROM servicenow.configuration WHERE one = 1"
            )
        )
        return _stored(rows[0]) if rows else None

    def show(self) -> StoredConnection:
        """The stored configuration. Raises ApiError where there is none."""
        stored = self.read()
        if stored is None:
            raise ApiError(404, NOT_STORED)
        return stored

    def password(self, stored: StoredConnection) -> str:
        """Decrypt the password of *stored*. Raises PasswordUnreadable."""
        if not self._keys:
            raise PasswordUnreadable(
                "A configuration is stored, and CONFIG_KEY, which decrypts its password, is not "
                "set: set it, or remove "
                "the configuration with DELETE /api/servicenow/config."
            )
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # slow to load, and seldom needed

        try:
            instance_url, password = json.loads(self._fernet().decrypt(stored.secret.encode()))
        except (InvalidToken, ValueError):
            raise PasswordUnreadable(
                "CONFIG_KEY does not decrypt the stored password: set it to the new key, a comma "
                "and the key that was set when the password was stored; or send the password "
                "again with PUT /api/servicenow/config."
            ) from None
        if instance_url != stored.instance_url:
            # Somebody who may write into the ledger must not have the password sent to an address
            # of theirs.
            raise PasswordUnreadable(
                "The stored password is for another instance than the one that is stored with "
                "it, so the ledger was changed by hand: send all three with PUT "
                "/api/servicenow/config."
            )
        return str(password)

    def create(self, asked: ConnectionInput) -> StoredConnection:
        """Store *asked* where there is none. Raises ApiError."""
        self._need_key()
        if not asked.password:
            raise ApiError(400, PASSWORD_MISSING)
        values = self._values(asked) | {"id": uuid.uuid4().hex}
        rows = self._database.run(lambda transaction: transaction.execute(_INSERT, **values))
        if not rows:
            raise ApiError(409, ALREADY_STORED)
        return _stored(rows[0])

    def replace(self, asked: ConnectionInput) -> StoredConnection:
        """Store *asked* in the place of what there is, encrypted with the newest key.

        A password that was left out is kept, unless the instance is another one. Raises ApiError.
        """
        self._need_key()
        before = self.show()
        values = self._values(
            ConnectionInput(asked.instance_url, asked.username, self.completed(asked, before))
        )
        rows = self._database.run(
            lambda transaction: transaction.execute(_UPDATE, **values, seen=before.version)
        )
        if not rows:
            raise ApiError(409, CHANGED_MEANWHILE)
        return _stored(rows[0])

    def completed(self, asked: ConnectionInput, stored: StoredConnection | None) -> str:
        """The password of *asked*, or the one in *stored* where it may stand in for it. Raises
        ApiError."""
        if asked.password:
            return asked.password
        if stored is None:
            raise ApiError(400, PASSWORD_MISSING)
        if asked.instance_url != stored.instance_url:
            raise ApiError(400, PASSWORD_OF_ANOTHER)
        try:
            return self.password(stored)
        except PasswordUnreadable as error:
            raise ApiError(400, f"{PASSWORD_MISSING} {error}") from None

    def delete(self) -> None:
        """Remove the configuration. Raises ApiError where there is none."""

        def work(transaction: Transaction) -> list[Record]:
            return transaction.execute("DELETE FROM servicenow.configuration RETURNING id")

        if not self._database.run(work):
            raise ApiError(404, NOT_STORED)

    def _need_key(self) -> None:
        if not self._keys:
            raise ApiError(503, NO_KEY)

    def _values(self, asked: ConnectionInput) -> dict[str, object]:
        secret = json.dumps([asked.instance_url, asked.password])
        return {
            "version": uuid.uuid4().hex,
            "instance_url": asked.instance_url,
            "username": asked.username,
            "password": self._fernet().encrypt(secret.encode()).decode(),
        }

    def _fernet(self) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415  # slow to load, and seldom needed

        return MultiFernet([Fernet(key) for key in self._keys])


def _stored(row: Record) -> StoredConnection:
    return StoredConnection(
        row["id"],
        row["version"],
        row["instance_url"],
        row["username"],
        row["password"],
        row["created_at"],
    )
