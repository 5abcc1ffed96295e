"""The sandbox's mailbox, spoken to by the standard library's own client and by hand."""

import errno
import smtplib
import socket
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from urllib.parse import urlsplit

import pytest

from sandbox.mailbox import Mailbox


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with Mailbox() as running:
        yield running


def port_of(mailbox: Mailbox) -> int:
    return urlsplit(mailbox.url).port or 0


def client(mailbox: Mailbox) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port_of(mailbox), timeout=5)


def a_mail(subject: str = "It failed", text: str = "See the ledger.") -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["To"] = subject, "function@example.com", "ops@example.com"
    mail.set_content(text)
    return mail


def test_a_mail_sent_is_a_mail_kept(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        smtp.send_message(a_mail())

    (kept,) = mailbox.wait(1, 5)
    assert kept["Subject"] == "It failed"
    assert kept.get_content() == "See the ledger.\n"


def test_text_and_html_arrive_as_they_were_written(mailbox: Mailbox) -> None:
    mail = a_mail("Störung: 東京 ✓", "Grüße\n")
    mail.add_alternative("<p>Grüße <b>✓</b></p>\n", subtype="html")

    with client(mailbox) as smtp:
        smtp.send_message(mail)

    (kept,) = mailbox.wait(1, 5)
    plain, html = kept.get_body(["plain"]), kept.get_body(["html"])
    assert kept["Subject"] == "Störung: 東京 ✓"
    assert plain is not None
    assert html is not None
    assert plain.get_content() == "Grüße\n"
    assert html.get_content() == "<p>Grüße <b>✓</b></p>\n"


@pytest.mark.parametrize(
    "line", [".", "..", ".hidden", "." + "x" * 70_000, "x" * 65_536 + ".", "x" * 65_537 + "\n."]
)
def test_a_line_with_dots_is_text_and_no_end(mailbox: Mailbox, line: str) -> None:
    with client(mailbox) as smtp:
        smtp.sendmail(
            "a@example.com",
            ["b@example.com"],
            f"Subject: dots\r\n\r\nbefore\r\n{line}\r\nafter\r\n",
        )

    (kept,) = mailbox.wait(1, 5)
    assert kept.get_content() == f"before\n{line}\nafter\n"


def test_the_envelope_is_kept_with_the_mail(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        smtp.send_message(a_mail(), "bounce@example.com", ["one@example.com", "two@example.com"])

    (kept,) = mailbox.wait(1, 5)
    assert kept["X-Mail-From"] == "bounce@example.com"
    assert kept["X-Rcpt-To"] == "one@example.com, two@example.com"


def test_one_conversation_can_carry_several_mails(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        smtp.send_message(a_mail("one"))
        smtp.rset()
        smtp.noop()
        smtp.send_message(a_mail("two"))

    assert [mail["Subject"] for mail in mailbox.wait(2, 5)] == ["one", "two"]


def test_a_client_that_only_knows_helo_is_understood(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        assert smtp.helo()[0] == 250
        smtp.mail("a@example.com")
        smtp.rcpt("b@example.com")
        assert smtp.data(b"Subject: old\r\n\r\nfashioned\r\n")[0] == 250

    assert mailbox.wait(1, 5)[0]["Subject"] == "old"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("DATA", 503),
        ("RCPT TO:<a@example.com>", 503),
        ("MAIL a@example.com", 501),
        ("MAIL FROM:<a@example.com> SIZE=99999999", 552),
        ("STARTTLS", 502),
        ("AUTH PLAIN AGEAYg==", 502),
        ("\x00\xff", 502),
    ],
)
def test_a_command_out_of_place_is_refused(mailbox: Mailbox, command: str, code: int) -> None:
    with client(mailbox) as smtp:
        smtp.ehlo()
        smtp.command_encoding = "latin-1"

        assert smtp.docmd(command)[0] == code


def test_a_recipient_must_have_an_address(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        smtp.ehlo()
        smtp.mail("a@example.com")

        assert smtp.docmd("RCPT TO:<>")[0] == 501


def test_a_mail_that_is_too_large_is_refused_and_not_kept(mailbox: Mailbox) -> None:
    with client(mailbox) as smtp:
        smtp.helo()  # a client that does not announce the size
        smtp.mail("a@example.com")
        smtp.rcpt("b@example.com")
        code, _ = smtp.data(b"x" * 76 + b"\r\n" + (b"y" * 998 + b"\r\n") * 11_000)

    assert code == 552
    assert mailbox.messages == []


def test_a_mail_that_is_cut_off_is_not_kept(mailbox: Mailbox) -> None:
    with socket.create_connection(("127.0.0.1", port_of(mailbox)), timeout=5) as raw:
        raw.sendall(b"HELO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: half\r\n")
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass

    assert mailbox.messages == []


def test_waiting_ends_with_what_there_is(mailbox: Mailbox) -> None:
    assert mailbox.wait(1, 0.05) == []


def test_many_clients_at_once_lose_no_mail(mailbox: Mailbox) -> None:
    def send(number: int) -> None:
        with client(mailbox) as smtp:
            smtp.send_message(a_mail(str(number)))

    senders = [threading.Thread(target=send, args=(number,)) for number in range(12)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert sorted(int(mail["Subject"]) for mail in mailbox.wait(12, 5)) == list(range(12))


def test_a_client_that_stays_does_not_keep_the_mailbox_from_stopping() -> None:
    with Mailbox() as mailbox:
        idle = client(mailbox)

    with pytest.raises(smtplib.SMTPServerDisconnected):
        idle.noop()
    idle.close()


def test_a_second_start_on_the_same_port_works_at_once() -> None:
    with Mailbox() as first:
        port = port_of(first)
        # The side that hangs up first is the one whose port the kernel keeps.
        idle = client(first)
    idle.close()

    with Mailbox(port=port) as second, client(second) as smtp:
        assert smtp.noop()[0] == 250


def test_a_taken_port_is_one_clear_sentence(mailbox: Mailbox) -> None:
    port = port_of(mailbox)

    with (
        pytest.raises(
            OSError, match=f"cannot listen on port {port}: Address already in use"
        ) as taken,
        Mailbox(port=port),
    ):
        pass
    assert taken.value.errno == errno.EADDRINUSE
