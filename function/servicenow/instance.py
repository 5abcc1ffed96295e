"""An instance's address, as people give it. Pure."""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

_FORM: Final = "must be like https://dev12345.service-now.com, or just dev12345"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}", re.ASCII)
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def instance_url(written: str) -> str:
    """``https://host[:port]``, without a slash at the end; *written* may be the instance's name alone.

    Raises ValueError with what is wrong, to be put behind the name of what was written: ``must begin with https://…``.
    Nothing of what was written is quoted: it may hold a password.
    """
    written = written.strip()
    if _NAME.fullmatch(written):
        return f"https://{written.lower()}.service-now.com"
    try:
        parts = urlsplit(written)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"cannot be read as an address: {_FORM}") from None
    if parts.scheme not in ("https", "http") or not (_HOST.fullmatch(host) or _is_ip(host)):
        raise ValueError(_FORM)
    if "@" in parts.netloc:
        raise ValueError("must not hold a user or password: they are given by themselves")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"must end after the host: {_FORM}")
    if parts.scheme == "http" and not _is_loopback(host):
        raise ValueError("must begin with https://: over http:// the password would be sent unencrypted")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
