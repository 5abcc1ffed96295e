"""An instance's address, as people give it. Pure."""

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

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
        raise ValueError(
            "must begin with https://: over http:// the password would be sent unencrypted"
        )
    if is_forbidden(host):
        raise ValueError(f"must not be {FORBIDDEN}")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")


FORBIDDEN: Final = (
    "a link-local address, or one where a cloud tells machines their secrets: no instance is there"
)
_FORBIDDEN_NETWORKS: Final = tuple(
    map(
        ip_network,
        (
            # link-local (RFC 3927); 169.254.169.254 tells every cloud's machine its tokens
            "169.254.0.0/16",
            "fe80::/10",  # link-local (RFC 4291)
            "fd00:ec2::/32",  # Amazon's over IPv6
            "fd20:ce::/32",  # Google's over IPv6
            "100.100.100.200/32",  # Alibaba's
            "168.63.129.16/32",  # Azure's
            "192.0.0.192/32",  # Oracle's
        ),
    )
)
_FORBIDDEN_NAMES: Final = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
# Networks whose addresses end in an IPv4 address: IPv4-compatible (RFC 4291), NAT64 (RFC 6052, RFC
# 8215) and IPv4-translated (RFC 2765).
_CARRYING: Final = tuple(
    map(ip_network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/96", "::ffff:0:0:0/96"))
)


def is_forbidden(host: str) -> bool:
    """Whether *host*, an address in any spelling that a resolver reads, or a name, must not be
    called."""
    if host.rstrip(".").lower() in _FORBIDDEN_NAMES:
        return True
    host = host.strip("[]").partition("%")[0]
    with suppress(ValueError):
        return _is_forbidden_ip(ip_address(host))
    # 2852039166, 0xa9fea9fe, 0251.0376.0251.0376 and 169.254.43518 are 169.254.169.254 to the C
    # library.
    with suppress(OSError, UnicodeError):
        return _is_forbidden_ip(IPv4Address(socket.inet_aton(host.rstrip("."))))
    return False


def _is_forbidden_ip(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and any(address in network for network in _CARRYING):
            inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is not None and _is_forbidden_ip(inner):
            return True
    return any(address in network for network in _FORBIDDEN_NETWORKS)


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_ip(host) and ip_address(host).is_loopback)
