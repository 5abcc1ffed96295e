"""The way out as the environment names it: a proxy, and the certificates to trust.

Read once, when a client is made: looking at each call costs 8 % of its CPU. The variables are those
of curl and of requests, in upper or lower case, of which the lower counts where both are set.
"""

import base64
import functools
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

from function.core.finding import FaultsError, Finding, Level
from function.http.addresses import is_ip

PROXIES: Final = ("HTTPS_PROXY", "ALL_PROXY")
# The first that is set counts, for HTTPS; mail goes by the last two, which OpenSSL reads itself.
FILES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
FOLDER: Final = "SSL_CERT_DIR"

_FORM: Final = (
    "must be like http://proxy.example.com:3128, or http://user:password@…, percent-encoded"
)
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
# http.client's own port is what curl and requests take for a proxy without one.
_PROXY_PORT: Final = 80


class BrokenNetwork(FaultsError, ValueError):  # noqa: N818  # what is the case
    """The environment names a way out that is none. *faults* name the variable, and no password."""


@dataclass(frozen=True, slots=True)
class ProxyServer:
    """A proxy that connects us to others (CONNECT), spoken to without TLS."""

    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Its address, without the user."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is told of who we are."""
        if not self.username and not self.password:
            return {}
        proof = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {proof}"}


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How to reach other hosts: through *proxy*, but for those that *bypassed* names; trusting what
    is at *ca_path*.

    *ca_path* is a file, or a folder that OpenSSL made (c_rehash); None: the certificates that
    certifi has.
    """

    proxy: ProxyServer | None = None
    bypassed: tuple[str, ...] = ()
    ca_path: str | None = None

    def proxy_for(self, url: str) -> ProxyServer | None:
        """The proxy on the way to *url*; none to http://, which stays on this machine or in its
        network and has the password in clear."""
        parts = urlsplit(url)
        if self.proxy is None or parts.scheme != "https":
            return None
        host, port = (parts.hostname or "").rstrip("."), parts.port or 443
        return None if any(_is_meant(entry, host, port) for entry in self.bypassed) else self.proxy


def read_network(environ: Mapping[str, str]) -> NetworkSettings:
    """What *environ* says of the way out. Raises BrokenNetwork."""
    faults: list[Finding] = []
    proxy = None
    for name in PROXIES:
        if proxy is None and (written := _read(environ, name)):
            try:
                proxy = _proxy(written)
            except ValueError as error:
                faults.append(_fault(name, str(error)))
                break
    ca_path = None
    for name in FILES:
        if path := environ.get(name, "").strip():
            fault = _file_fault(path, may_be_folder=name != "SSL_CERT_FILE")
            if fault:
                faults.append(_fault(name, f"names {path}, {fault}"))
            ca_path = ca_path or path
    if ca_path is None and (path := environ.get(FOLDER, "").strip()):
        if not os.path.isdir(path):
            what = f"names {path}, which is no folder: name one, or a file in SSL_CERT_FILE"
            faults.append(_fault(FOLDER, what))
        ca_path = path
    if faults:
        raise BrokenNetwork(*faults)
    bypassed = tuple(entry for entry in re.split(r"[,\s]+", _read(environ, "NO_PROXY")) if entry)
    return NetworkSettings(proxy, bypassed, ca_path)


def _fault(name: str, what: str) -> Finding:
    return Finding(Level.FAULT, name, what, sep=" ")


def load_certificates(context: ssl.SSLContext, ca_path: str) -> None:
    """Have *context* trust what is in the file or folder *ca_path*."""
    if os.path.isdir(ca_path):
        context.load_verify_locations(capath=ca_path)
    else:
        context.load_verify_locations(cafile=ca_path)


def _read(environ: Mapping[str, str], name: str) -> str:
    """Lower case counts, and where it is empty there is none: as with curl and requests."""
    return environ.get(name.lower(), environ.get(name, "")).strip()


def _proxy(written: str) -> ProxyServer:
    """Raises ValueError, whose text quotes nothing: what was written may hold a password."""
    try:
        parts = urlsplit(written if "://" in written else f"http://{written}")
        host, port = parts.hostname or "", parts.port
        username = unquote(parts.username or "", errors="strict")
        password = unquote(parts.password or "", errors="strict")
    except ValueError:
        raise ValueError(f"cannot be read as an address: {_FORM}") from None
    if parts.scheme != "http":
        raise ValueError(
            f"{_FORM}: a proxy that is spoken to over TLS (https://) or SOCKS is not supported. "
            "What goes through the proxy is encrypted all the same"
        )
    if (
        not (_HOST.fullmatch(host) or is_ip(host))
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(_FORM)
    return ProxyServer(host, _PROXY_PORT if port is None else port, username, password)


def _is_meant(entry: str, host: str, port: int) -> bool:
    """Whether *entry* of NO_PROXY means *host*: ``*``, a name and all below it, an address or a
    network."""
    if entry == "*":
        return True
    name, entry_port = entry.lower(), ""
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        entry_port = rest.removeprefix(":")
    elif name.count(":") == 1:
        name, _, entry_port = name.partition(":")
    if entry_port and entry_port != str(port):
        return False
    if is_ip(host):
        try:
            return ip_address(host) in ip_network(name, strict=False)
        except ValueError:
            return False
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _file_fault(path: str, *, may_be_folder: bool) -> str:
    """What is wrong with the file of certificates at *path*; "" for nothing."""
    if may_be_folder and os.path.isdir(path):
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return "and there is no such file: name one with certificates (PEM), or unset it"
    return _content_fault(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=16)
def _content_fault(path: str, changed_at: int, size: int) -> str:  # noqa: ARG001  # as it was read
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        return "which holds no certificates (PEM)"
    except OSError as error:
        return f"which cannot be read ({error.strerror or type(error).__name__})"
    return ""
