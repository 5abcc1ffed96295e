"""The address of Hasura's GraphQL, as people give it. Pure."""

import re
from ipaddress import ip_address
from typing import Final

from function.http.addresses import (
    FORBIDDEN,
    is_forbidden,
    is_ip,
    is_loopback,
    split_address,
    write_origin,
)

_FORM: Final = "must be like https://hasura.example.com/v1/graphql"
# Docker's names of services may have underscores.
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", re.ASCII)
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+", re.ASCII)
# Names that only a private network knows (RFC 6761, RFC 6762, ICANN's .internal).
_PRIVATE_ENDINGS: Final = (".internal", ".local", ".localhost")


def graphql_url(written: str) -> str:
    """The address, without a slash at the end.

    Raises ValueError with what is wrong, to be put behind the name of what was written. Nothing of
    what was written is quoted: it may hold a password.
    """
    parts = split_address(written.strip(), _HOST, _FORM)
    host = parts.hostname or ""
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password: HASURA_ADMIN_SECRET is by itself")
    path = parts.path.rstrip("/")
    if not _PATH.fullmatch(path) or parts.query or parts.fragment:
        raise ValueError(f"must be the whole address of GraphQL, and no more: {_FORM}")
    if parts.scheme == "http" and not _is_private(host):
        raise ValueError(
            "must begin with https://: over http:// the admin secret would be sent unencrypted, "
            "which is for this machine and private networks"
        )
    if is_forbidden(host):
        raise ValueError(f"must not be {FORBIDDEN}")
    return write_origin(parts) + path


def _is_private(host: str) -> bool:
    if is_ip(host):
        return ip_address(host).is_private
    return is_loopback(host) or "." not in host or host.endswith(_PRIVATE_ENDINGS)
