"""Addresses as people give them; those that must not be called, and those of this machine. Pure."""

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

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


def split_address(written: str, host: re.Pattern[str], form: str) -> SplitResult:
    """The parts of an address, whose host is an IP address or like *host*.

    Raises ValueError with what is wrong; *form* says what the address must be like.
    """
    try:
        parts = urlsplit(written)
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"cannot be read as an address: {form}") from None
    if parts.scheme not in ("https", "http") or not (host.fullmatch(name) or is_ip(name)):
        raise ValueError(form)
    return parts


def write_origin(parts: SplitResult) -> str:
    """``https://host[:port]`` of an address that split_address() has read."""
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if parts.port is None else f":{parts.port}")


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


def is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)
