"""Addresses as people give them; those that must not be called, and those of this machine. Pure."""

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from function.core.values import digest

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
            # NAT64 of a network's own (RFC 8215): where in it the IPv4 address stands is for the
            # network to say (RFC 6052, 2.2), so any of the above may be behind it
            "64:ff9b:1::/48",
        ),
    )
)
PRIVATE: Final = (
    "a private or reserved address, which a rule calls only with `allow_private: true` and where "
    "nobody else chooses the URL"
)
# What is not of the public internet, by the registries of IANA for special purposes
# (https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry). A
# network that another one is reached through stands for whatever is behind it, so those of NAT64,
# 6to4 and Teredo and IPv4-mapped addresses are here whole.
_NOT_PUBLIC_V4: Final = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
        ),
    )
)
# Of IPv6, all that is public is in here, but for the ones below.
_PUBLIC_V6: Final = ip_network("2000::/3")
_NOT_PUBLIC_V6: Final = tuple(
    map(ip_network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)
_FORBIDDEN_NAMES: Final = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
# Networks whose addresses end in an IPv4 address: IPv4-compatible (RFC 4291), NAT64 (RFC 6052) and
# IPv4-translated (RFC 2765).
_CARRYING: Final = tuple(map(ip_network, ("::/96", "64:ff9b::/96", "::ffff:0:0:0/96")))


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
    address = read_ip(host)
    return address is not None and _is_forbidden_ip(address)


def is_not_public(host: str) -> bool:
    """Whether *host*, an address in any spelling that a resolver reads, is none of the public
    internet, or must not be called at all. A name says nothing of that, but for `localhost` and
    those where clouds tell their secrets."""
    if is_forbidden(host) or _names_this_machine(host):
        return True
    address = read_ip(host)
    if isinstance(address, IPv6Address):
        return address not in _PUBLIC_V6 or any(address in each for each in _NOT_PUBLIC_V6)
    return address is not None and any(address in network for network in _NOT_PUBLIC_V4)


def _names_this_machine(host: str) -> bool:
    name = host.rstrip(".").lower()
    return name == "localhost" or name.endswith(".localhost")


def read_ip(host: str) -> IPv4Address | IPv6Address | None:
    """The address that *host* spells, as a resolver reads it; None of a name."""
    host = host.strip("[]").partition("%")[0]
    with suppress(ValueError):
        return ip_address(host)
    # 2852039166, 0xa9fea9fe, 0251.0376.0251.0376 and 169.254.43518 are 169.254.169.254 to the C
    # library.
    with suppress(OSError, UnicodeError, ValueError):
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    return None


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


_URL_FORM: Final = "must be a URL such as https://orders.example.com/hooks"
# What a URL may be written with; all else is percent-encoded, and a name of another script is in
# its xn-- form.
_URL: Final = re.compile(r"[!-\[\]-~]{1,2000}", re.ASCII)
_URL_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?", re.ASCII)
# That many digits of a digest tell the paths of one host apart.
_PATH_DIGITS: Final = 8


def target_url(written: str) -> str:
    """The URL of a system that a rule calls, as the environment has it.

    Raises ValueError with what is wrong, to be put behind the name of what was written. Nothing of
    it is quoted: it may hold a secret. Whether it may be called is for refuse_target() to say.
    """
    url = written.strip()
    if not url:
        raise ValueError(f"is empty: {_URL_FORM}")
    if not _URL.fullmatch(url):
        raise ValueError(
            f"holds a character that no URL has (percent-encode it), or is too long: {_URL_FORM}"
        )
    parts = split_address(url, _URL_HOST, _URL_FORM)
    if parts.fragment or url.endswith("#"):
        raise ValueError("must have no `#`: what follows it is never sent")
    return url


def refuse_target(url: str, *, allow_private: bool) -> str:
    """Why *url*, which target_url() has read, must not be called; "" where its text says nothing
    against it. What its name resolves to is looked at where the connection is made."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_forbidden(host):
        return f"is {FORBIDDEN}"
    if allow_private:
        return ""
    if is_not_public(host):
        return f"is {PRIVATE}"
    if parts.scheme != "https":
        return (
            "must begin with https://: over http:// anybody on the way reads and changes what is "
            "sent; a rule calls it only with `allow_private: true`"
        )
    return ""


def show_target(url: str) -> tuple[str, str]:
    """The host of *url*, and an address by which people and the ledger know it.

    Of user, path and query, each of which may be a secret, a few digits of a digest are shown: they
    tell the targets on one host apart.
    """
    parts = urlsplit(url)
    rest = url.partition("://")[2].removeprefix(parts.netloc)
    if "@" in parts.netloc:
        rest = parts.netloc.rpartition("@")[0] + rest
    tail = f"/…{digest(rest)[:_PATH_DIGITS]}" if rest not in ("", "/") else ""
    return parts.hostname or "", write_origin(parts) + tail
