"""The way to the mail server: one mail, sent within a time, and what the server said of each
recipient."""

import contextlib
import logging
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from function.notices.message import VALUE_MAX, domain_of, single_line

log = logging.getLogger(__name__)

Tls: TypeAlias = Literal["none", "starttls", "implicit"]


# Once the server has taken the message, its good-bye is worth no more waiting than this.
QUIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over. A password crosses a network only inside TLS: any other server is
    a ValueError."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)
    tls: Tls = "none"

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("the mail server's address names no host")
        if not 0 < self.port < 65536:
            raise ValueError("the mail server's port is not between 1 and 65535")
        if bool(self.username) != bool(self.password):
            raise ValueError("a mail server takes a user name and a password, or neither")
        if not (self.username + self.password).isascii():
            raise ValueError(
                "the mail server's user name and password may hold ASCII characters only"
            )
        if self.password and self.tls == "none" and not _is_loopback(self.host):
            raise ValueError(
                f"the password for the mail server {self.host} would be sent unencrypted: "
                "use smtps://, or smtp:// with ?starttls=1"
            )

    @classmethod
    def from_url(cls, url: str) -> "MailServer":
        """Read ``smtp[s]://user:password@host:port?starttls=1``, user and password percent-encoded.

        Without a port it is 465 for smtps, 587 with STARTTLS, else 25. Anything else is a
        ValueError, whose text holds nothing of the address but the host.
        """
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname or ""
            username = unquote(parts.username or "", errors="strict")
            password = unquote(parts.password or "", errors="strict")
            options = dict(
                parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
            )
        except ValueError:
            # The error quotes the piece that it could not read, and that can be the password.
            raise ValueError(f"the mail server's address cannot be read: {_SHAPE}") from None
        if parts.scheme not in ("smtp", "smtps") or parts.path not in ("", "/") or parts.fragment:
            raise ValueError(
                f"the mail server's address is not of the form that is needed: {_SHAPE}"
            )
        starttls = options.pop("starttls", "0")
        if options or starttls not in ("0", "1"):
            raise ValueError(
                "after '?' the mail server's address takes starttls=1 and nothing else"
            )
        if parts.scheme == "smtps":
            if starttls == "1":
                raise ValueError(
                    "smtps is encrypted from the start: leave starttls=1 away, or use smtp"
                )
            return cls(host, 465 if port is None else port, username, password, "implicit")
        if starttls == "1":
            return cls(host, 587 if port is None else port, username, password, "starttls")
        return cls(host, 25 if port is None else port, username, password, "none")


_SHAPE: Final = (
    "write smtp[s]://user:password@host:port, with /, ?, #, @, : and % in user and "
    "password percent-encoded (/ is %2F)"
)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class MailNotSent(Exception):  # noqa: N818  # what happened, not whose error it is
    """The mail server did not take the mail. The text names the host and what failed, never the
    password.

    *refused* has the code for each recipient, where it was they that were refused.
    """

    def __init__(self, message: str, refused: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.refused: Mapping[str, int] = refused or {}


def send(
    message: EmailMessage,
    server: MailServer,
    *,
    timeout_seconds: float,
    context: ssl.SSLContext | None = None,
) -> dict[str, int]:
    """Hand *message* to *server*, within *timeout_seconds* in all (the look-up of its name is the
    system's to bound).

    Returns when the server has taken the message for at least one recipient, and raises MailNotSent
    otherwise. What it returns has the code for each recipient that was refused: below 500 for the
    time being, else for good. Certificates are verified against *context*, by default the system's.
    Where STARTTLS is asked for, a server that has none is not sent anything.
    """
    deadline = time.monotonic() + timeout_seconds
    step = "connecting"
    try:
        with contextlib.ExitStack() as opened:
            wire = opened.enter_context(_dial(server, deadline))
            opened.enter_context(_cut_off(wire, deadline))
            if server.tls == "implicit":
                step = "TLS"
                # Made only where it is wanted: it reads all certificates of the system, for twenty
                # milliseconds.
                context = context or ssl.create_default_context()
                wire = opened.enter_context(context.wrap_socket(wire, server_hostname=server.host))
            step = "greeting"
            session = _SmtpSession(wire, server, name=domain_of(message))
            opened.callback(session.close)
            if server.tls == "starttls":
                step = "STARTTLS"
                session.starttls(context=context or ssl.create_default_context())
            if server.password:
                step = "login"
                session.login(server.username, server.password)
            step = "sending"
            refused = session.send_message(message)
            for recipient, (code, words) in refused.items():
                log.log(
                    logging.WARNING if code < 500 else logging.ERROR,
                    "mail server %s took the mail, but not for %s: %d %s",
                    server.host,
                    recipient,
                    code,
                    _reply(words),
                )
            with contextlib.suppress(smtplib.SMTPException, OSError):
                cast(socket.socket, session.sock).settimeout(QUIT_SECONDS)
                session.quit()
    except (smtplib.SMTPException, OSError, ValueError) as error:
        overdue = time.monotonic() >= deadline
        why = f"not finished within {timeout_seconds:g} s" if overdue else _why(error, step)
        # A server can quote the password or the message that it refuses: no traceback may show what
        # it said then.
        cause = None if step == "login" or isinstance(error, smtplib.SMTPDataError) else error
        by_recipient = error.recipients if isinstance(error, smtplib.SMTPRecipientsRefused) else {}
        codes = {recipient: code for recipient, (code, _) in by_recipient.items()}
        raise MailNotSent(
            f"mail server {server.host}:{server.port}, {step}: {why}", codes
        ) from cause
    return {recipient: code for recipient, (code, _) in refused.items()}


class _SmtpSession(smtplib.SMTP):
    """smtplib's client on a connection that is open already, so that its first byte is under the
    deadline too."""

    def __init__(self, wire: socket.socket, server: MailServer, *, name: str) -> None:
        self._wire = wire
        # smtplib would look our own name up to introduce itself, and a look-up has no bound.
        super().__init__(server.host, server.port, local_hostname=name)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:  # noqa: ARG002
        # The hook by which smtplib's own SMTP_SSL brings its socket.
        return self._wire


def _dial(server: MailServer, deadline: float) -> socket.socket:
    """Connect to the first of the host's addresses that answers, giving each a fair share of the
    time."""
    found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    for number, address in enumerate(addresses):
        left = deadline - time.monotonic()
        try:
            wire = socket.create_connection(
                (address, server.port), max(left / (len(addresses) - number), 0.001)
            )
        except OSError:
            if number == len(addresses) - 1:
                raise
        else:
            wire.settimeout(max(deadline - time.monotonic(), 0.001))
            return wire
    raise OSError("its name has no address")


@contextlib.contextmanager
def _cut_off(wire: socket.socket, deadline: float) -> Iterator[None]:
    """Shut the connection at the deadline: a socket's own time-out begins anew with every byte that
    trickles in."""
    with wire.dup() as handle:

        def cut() -> None:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        watch = threading.Timer(max(deadline - time.monotonic(), 0), cut)
        watch.daemon = True
        watch.start()
        try:
            yield
        finally:
            watch.cancel()
            watch.join()


_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b", re.ASCII)


def _why(error: Exception, step: str) -> str:
    """What *error* says, without what a server may have been told in confidence: the login and the
    message."""
    match error:
        case smtplib.SMTPRecipientsRefused():
            replies = dict.fromkeys(
                f"{code} {_reply(words)}" for code, words in error.recipients.values()
            )
            return ", ".join(["no recipient accepted", *replies])[:VALUE_MAX]
        case smtplib.SMTPResponseException() if step == "login" or isinstance(
            error, smtplib.SMTPDataError
        ):
            # The words may quote what they refuse; the enhanced code (RFC 3463) is but digits.
            enhanced = _ENHANCED.match(_reply(error.smtp_error))
            return f"refused with {error.smtp_code}" + (f" {enhanced[0]}" if enhanced else "")
        case smtplib.SMTPResponseException():
            return f"refused with {error.smtp_code} {_reply(error.smtp_error)}"
        case smtplib.SMTPNotSupportedError():
            return single_line(str(error), VALUE_MAX)
        case smtplib.SMTPException() if step == "login":
            return "no way to log in that both sides know"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}"
        case TimeoutError():
            return "no answer in time"
        case OSError() if error.strerror:
            return error.strerror
        case smtplib.SMTPException():
            return single_line(str(error), VALUE_MAX)
        case _:
            return type(error).__name__


def _reply(words: bytes | str) -> str:
    return single_line(
        words.decode(errors="replace") if isinstance(words, bytes) else words, VALUE_MAX
    )
