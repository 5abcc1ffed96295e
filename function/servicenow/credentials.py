"""Who we are to ServiceNow."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from function.event import digest


@dataclass(frozen=True, slots=True)
class Basic:
    """A user name and a password, sent with every call (RFC 7617)."""

    username: str
    password: str = field(repr=False)

    def digest(self, instance_url: str) -> str:
        """What stands for this credential in the ledger, as 32 hex digits.

        Slow on purpose (about 10 ms and 4 MiB): a ledger that leaks must not be a fast way to try passwords.
        """
        salt = digest(instance_url.rstrip("/"), self.username).encode()
        return hashlib.scrypt(self.password.encode(), salt=salt, n=2**12, r=8, p=1, dklen=16).hex()

    def headers(self) -> Mapping[str, str]:
        """What proves it to ServiceNow. UTF-8: requests' own would refuse a password outside Latin-1."""
        proof = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {proof}"}


Credential: TypeAlias = Basic
