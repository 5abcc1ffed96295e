"""A real mail server for tests: aiosmtpd on a port of 127.0.0.1, in every manner that send()
speaks."""

import asyncio
import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Self, cast
from urllib.parse import quote

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from function.notices.smtp import MailServer, Tls


class MailServerFixture:
    """A context manager: a mail server that keeps what it is sent in *messages*.

    *login* is the user name and password it demands, None where anybody may send. *mechanisms* are
    the ways to log in that it offers. *refuses* are recipients that it does not know. *tls* without
    a *certificate* makes one for localhost and 127.0.0.1; *context* trusts it. *port* 0 is one that
    is free.
    """

    def __init__(
        self,
        tls: Tls = "none",
        *,
        login: tuple[str, str] | None = None,
        mechanisms: tuple[str, ...] = ("LOGIN", "PLAIN"),
        refuses: tuple[str, ...] = (),
        certificate: trustme.LeafCert | None = None,
        port: int = 0,
    ) -> None:
        self.messages: list[EmailMessage] = []
        self.logins = 0
        self._tls = tls
        self._login = login
        # What is said to a recipient instead of 250.
        self.replies = dict.fromkeys(refuses, "550 5.1.1 no such mailbox")
        self.names: list[str] = []
        self.envelopes: list[list[str]] = []
        self._fails_with = 0
        self._hangs = False
        authority = trustme.CA()
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)
        served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or authority.issue_cert("localhost", "127.0.0.1")).configure_cert(served)
        self._controller = _Controller(
            self,
            hostname="127.0.0.1",
            port=port,
            ssl_context=served if tls == "implicit" else None,
            tls_context=served if tls == "starttls" else None,
            require_starttls=tls == "starttls",
            authenticator=self._authenticate,
            # aiosmtpd takes only STARTTLS for encrypted; handle_MAIL demands the login itself.
            auth_require_tls=tls == "starttls",
            auth_exclude_mechanism=tuple({"LOGIN", "PLAIN"} - set(mechanisms)),
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._controller.stop()

    @property
    def port(self) -> int:
        return self._controller.bound_port

    @property
    def server(self) -> MailServer:
        """This server, with its right login."""
        username, password = self._login or ("", "")
        return MailServer("127.0.0.1", self.port, username, password, self._tls)

    @property
    def url(self) -> str:
        """This server, with its right login, as ``SMTP_URL`` has it."""
        login = (
            "{}:{}@".format(*(quote(part, safe="") for part in self._login)) if self._login else ""
        )
        scheme = "smtps" if self._tls == "implicit" else "smtp"
        return f"{scheme}://{login}127.0.0.1:{self.port}" + (
            "?starttls=1" if self._tls == "starttls" else ""
        )

    def fail_with(self, code: int) -> None:
        """Refuse every mail with *code* from now on; 0 takes them again."""
        self._fails_with = code

    def hang(self, *, hangs: bool = True) -> None:
        """Take every message from now on and never say so; ``hangs=False`` answers again."""
        self._hangs = hangs

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, sent: object
    ) -> AuthResult:
        self.logins += 1
        known = (
            isinstance(sent, LoginPassword)
            and (sent.login.decode(), sent.password.decode()) == self._login
        )
        return AuthResult(success=known, handled=False)

    async def handle_EHLO(  # noqa: N802  # aiosmtpd's name
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        self.names.append(hostname)
        session.host_name = hostname
        return responses

    async def handle_MAIL(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self._fails_with:
            return f"{self._fails_with} not now"
        if self._login and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.replies:
            return self.replies[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # likewise
        if self._hangs:
            await asyncio.Event().wait()
        # On the way a line ends in CRLF; kept with the ends that it was written with.
        written = cast(bytes, envelope.content).replace(b"\r\n", b"\n")
        self.envelopes.append([*envelope.rcpt_tos])
        self.messages.append(message_from_bytes(written, policy=policy.default))
        return "250 OK"


class _Controller(Controller):
    """aiosmtpd's controller on a port that the system may choose."""

    @property
    def bound_port(self) -> int:
        return cast(int, cast(asyncio.Server, self.server).sockets[0].getsockname()[1])

    def _trigger_server(self) -> None:
        # The original knocks at the port that was asked for, which may be 0 here.
        self.port = self.bound_port
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd leaves it without types
