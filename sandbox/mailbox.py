"""A mailbox on a real SMTP socket, on the standard library alone: what the function mails lands
here and can be read.

It speaks as much of RFC 5321 as a client needs that sends plainly on loopback: no TLS, no login.
"""

import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Final, Self

from sandbox.loopback import Loopback

# More than any notice, less than what could hurt the machine.
_MESSAGE_BYTES_MAX: Final = 10_485_760
# RFC 5321, 4.5.3.1.6: a text line has at most 1000 octets; commands are shorter. Generous, and
# still bounded.
_LINE_BYTES_MAX: Final = 65_536
_RECIPIENTS_MAX: Final = 100
# A client that says nothing for so long is hung up on.
_IDLE_SECONDS: Final = 60.0


class Mailbox:
    """Accepts every mail, from enter to exit. *messages* are in order of arrival.

    Each message also carries its envelope, as ``X-Mail-From`` and ``X-Rcpt-To``. *port* 0 takes a
    free one; entering raises OSError with a sentence where the port is taken.
    """

    def __init__(self, *, port: int = 0) -> None:
        self.messages: list[EmailMessage] = []
        self._port = port
        self._arrived = threading.Condition()

    def __enter__(self) -> Self:
        self._server = _Server(self, self._port)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._server.port}"

    def wait(self, count: int, timeout_seconds: float) -> list[EmailMessage]:
        """The messages, as soon as there are *count* or *timeout_seconds* have passed: perhaps
        fewer than asked for."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(self.messages) >= count, timeout_seconds)
            return list(self.messages)

    def receive(self, sender: str, recipients: list[str], content: bytes) -> None:
        """Take in a message as it came over the wire."""
        # Lines end in CR LF on the wire only.
        message = message_from_bytes(content.replace(b"\r\n", b"\n"), policy=policy.default)
        message["X-Mail-From"] = sender
        message["X-Rcpt-To"] = ", ".join(recipients)
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()


class _Server(Loopback):
    def __init__(self, mailbox: Mailbox, port: int) -> None:
        super().__init__("the sandbox's mailbox", port, _Session)
        self.mailbox = mailbox


_PATH = re.compile(r"(?:FROM|TO):\s*<([^<>\r\n]*)>(.*)", re.IGNORECASE)
_SIZE = re.compile(r"\bSIZE=(\d{1,18})", re.IGNORECASE | re.ASCII)


class _Session(socketserver.StreamRequestHandler):
    """One client's conversation."""

    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server
    _sender: str | None
    _recipients: list[str]

    def setup(self) -> None:
        super().setup()
        self._forget()

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the client went away
            self._say("220 sandbox ESMTP")
            for line in self._lines():
                verb, _, rest = line.partition(" ")
                if not self._obey(verb.upper(), rest):
                    return

    def _obey(self, verb: str, rest: str) -> bool:
        """Answer one command. False when the conversation is over."""
        match verb:
            case "EHLO":
                self._forget()
                self._say("250-sandbox", f"250-SIZE {_MESSAGE_BYTES_MAX}", "250 8BITMIME")
            case "HELO":
                self._forget()
                self._say("250 sandbox")
            case "MAIL":
                self._mail(_PATH.fullmatch(rest))
            case "RCPT":
                self._rcpt(_PATH.fullmatch(rest))
            case "DATA":
                return self._data()
            case "RSET":
                self._forget()
                self._say("250 forgotten")
            case "NOOP":
                self._say("250 ok")
            case "QUIT":
                self._say("221 bye")
                return False
            case _:
                self._say("502 command not known")
        return True

    def _mail(self, path: re.Match[str] | None) -> None:
        size = _SIZE.search(path[2]) if path else None
        if path is None:
            self._say("501 say MAIL FROM:<address>")
        elif size and int(size[1]) > _MESSAGE_BYTES_MAX:
            self._say("552 message too large")
        else:
            self._forget()
            self._sender = path[1]
            self._say("250 ok")

    def _rcpt(self, path: re.Match[str] | None) -> None:
        if self._sender is None:
            self._say("503 MAIL first")
        elif path is None or not path[1]:
            self._say("501 say RCPT TO:<address>")
        elif len(self._recipients) >= _RECIPIENTS_MAX:
            self._say("452 too many recipients")
        else:
            self._recipients.append(path[1])
            self._say("250 ok")

    def _data(self) -> bool:
        if self._sender is None or not self._recipients:
            self._say("503 MAIL and RCPT first")
            return True
        self._say("354 end with a line that is one dot")
        kept: list[bytes] = []
        size = 0
        begins = True  # a line longer than what is read at once comes in pieces
        while (line := self.rfile.readline(_LINE_BYTES_MAX)) not in {
            b".\r\n",
            b".\n",
        } or not begins:
            if not line:
                return False  # gone in the middle: not a message
            size += len(line)
            if size <= _MESSAGE_BYTES_MAX:
                kept.append(
                    line.removeprefix(b".") if begins else line
                )  # RFC 5321, 4.5.2: a leading dot was doubled
            begins = line.endswith(b"\n")
        if size > _MESSAGE_BYTES_MAX:
            self._say("552 message too large")
        else:
            self.server.mailbox.receive(self._sender, self._recipients, b"".join(kept))
            self._say("250 kept")
        self._forget()
        return True

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []

    def _say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def _lines(self) -> Iterator[str]:
        while line := self.rfile.readline(_LINE_BYTES_MAX):
            yield line.decode(errors="replace").strip()
