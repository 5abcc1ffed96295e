"""An instance's address, as people give it. Pure."""

import re
from typing import Final

from function.http.addresses import (
    FORBIDDEN,
    is_forbidden,
    is_loopback,
    split_address,
    write_origin,
)

_FORM: Final = "must be like https://dev12345.service-now.com, or just dev12345"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def instance_url(written: str) -> str:
    """``https://host[:port]``, without a slash at the end; *written* may be the instance's name
    alone.

    Raises ValueError with what is wrong, to be put behind the name of what was written: ``must
    begin with https://…``. Nothing of what was written is quoted: it may hold a password.
    """
    written = written.strip()
    if _NAME.fullmatch(written):
        return f"https://{written.lower()}.service-now.com"
    parts = split_address(written, _HOST, _FORM)
    host = parts.hostname or ""
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password: they are given by themselves")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"must end after the host: {_FORM}")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(
            "must begin with https://: over http:// the password would be sent unencrypted"
        )
    if is_forbidden(host):
        raise ValueError(f"must not be {FORBIDDEN}")
    return write_origin(parts)
