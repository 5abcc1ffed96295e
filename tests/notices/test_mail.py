"""What a notice's mail says, and what becomes of it with mail servers of every temper. Real SMTP
throughout."""

import base64
import contextlib
import logging
import re
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import fields, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from function.core.outcome import Reason
from function.ledger.records import Alert, AlertKind, DueMail
from function.notices.message import PHRASES, SUBJECT_MAX, WORDS_MAX, compose
from function.notices.smtp import MailNotSent, MailServer, send
from tests.mailserver import MailServerFixture

NOW = 1_763_730_000.0  # 2025-11-21 13:00:00 UTC
PASSWORD = "planted-Pa55word/4711"
LOGIN = ("mailer", PASSWORD)


def changed(mail: DueMail, **facts: Any) -> DueMail:
    """*mail* with other facts, be they its own or its alert's; *lasted_seconds* is one as well."""
    if "lasted_seconds" in facts:
        facts["last_at"] = mail.alert.since + facts.pop("lasted_seconds")
    own = {name: value for name, value in facts.items() if name in {f.name for f in fields(mail)}}
    others = {name: value for name, value in facts.items() if name not in own}
    return replace(mail, alert=replace(mail.alert, **others), **own)


DEAD = DueMail(
    Alert(
        kind=AlertKind.DEAD,
        source_name="shop-prod",
        system="ServiceNow",
        instance="https://dev12345.service-now.com",
        rule="outage",
        table="incident",
        key="42",
        event="5a3e1f0c-7d9b-4b57-9f39-2b1f6d7c8e90",
        reason=Reason.ACL,
        hint="Give the user of SERVICENOW_USERNAME the role itil.",
        remote_message="Operation Failed: ACL Exception Insert Failed due to security constraints",
        attempts=3,
        since=NOW - 754,
        fingerprint="outage/refused_by_acl",
    ),
    last_at=NOW - 754,
    count=1,
    recovered=False,
    now=NOW,
)
UNMAPPED = changed(
    DEAD,
    reason=Reason.UNKNOWN_VALUE,
    hint=(
        "rules.yaml:17: rules[0].ticket.fields.impact: lookup has no entry for the "
        "value and no default"
    ),
    remote_message="",
    attempts=1,
    count=12,
    fingerprint="outage/unknown_value",
)
WAITING = changed(
    DEAD,
    kind=AlertKind.WAITING,
    reason=Reason.UNAVAILABLE,
    hint="Look at the instance's status page.",
    remote_message="",
    fingerprint="outage/servicenow_unavailable",
)
HELD = changed(
    DEAD,
    kind=AlertKind.HELD,
    rule="",
    table="",
    key="",
    event="",
    reason=Reason.UNAUTHORIZED,
    hint="Check SERVICENOW_USERNAME and SERVICENOW_PASSWORD, and whether the account is locked.",
    remote_message="User is not authenticated",
    fingerprint="held/servicenow_unauthorized",
)
FIELD = changed(
    DEAD,
    kind=AlertKind.FIELD,
    reason="field_not_kept",
    hint="",
    remote_message="",
    fields=("impact", "assignment_group"),
    ticket="INC0010001",
    fingerprint="outage/fields",
)
LEFT_ALONE = changed(
    FIELD,
    reason=Reason.FOREIGN_MARK,
    hint="Another system may go by it.",
    fields=("correlation_id",),
    fingerprint="outage/left alone",
)
UNRULED = changed(
    HELD,
    kind=AlertKind.UNRULED,
    table="hasura/public.orders",
    reason=Reason.NO_RULE,
    hint="",
    remote_message="",
)
UPSTREAM = changed(
    UNRULED,
    kind=AlertKind.UPSTREAM,
    table="hasura",
    reason=Reason.REFUSED,
    hint="The body has the event under `payload`.",
)
UNREAD = changed(
    UPSTREAM,
    kind=AlertKind.UNREAD,
    table="incident",
    reason=Reason.TIME_ZONE,
    hint="Set the time zone of the integration user to GMT.",
)
OVER = changed(WAITING, recovered=True, lasted_seconds=4000.0, count=5)
SAMPLES = {
    "dead": DEAD,
    "unmapped": UNMAPPED,
    "waiting": WAITING,
    "held": HELD,
    "field": FIELD,
    "left alone": LEFT_ALONE,
    "unruled": UNRULED,
    "upstream": UPSTREAM,
    "unread": UNREAD,
    "over": OVER,
    "held and over": changed(HELD, rule="outage", key="42", recovered=True, lasted_seconds=4000.0),
    "dead and over": changed(UNMAPPED, recovered=True, lasted_seconds=90000.0),
}


def mail(notice: DueMail, *, recipients: tuple[str, ...] = ("ops@example.com",)) -> EmailMessage:
    return compose(notice, sender="Shop <function@example.com>", recipients=recipients)


def text_of(message: EmailMessage) -> str:
    return str(message.get_content())


# What a mail says


def test_a_permanent_failure_says_what_happened_and_how_to_send_it_again() -> None:
    message = mail(DEAD)

    assert (
        message["Subject"]
        == "[shop-prod] gave up on outage/42: a ServiceNow access rule refuses it"
    )
    assert text_of(message) == (
        "The function gave up on outage/42: a ServiceNow access rule refuses it. The\n"
        "event is kept as a dead letter; it is not tried again by itself.\n"
        "\n"
        "ServiceNow said:\n"
        "  > Operation Failed: ACL Exception Insert Failed due to security constraints\n"
        "\n"
        "What to check:\n"
        "  Give the user of SERVICENOW_USERNAME the role itil.\n"
        "\n"
        "Once that is put right, and deployed, this sends it again:\n"
        "  python -m function replay 5a3e1f0c-7d9b-4b57-9f39-2b1f6d7c8e90\n"
        "\n"
        "Run commands in the project's folder, with the function's settings in the\n"
        "environment.\n"
        "\n"
        "Details:\n"
        "  source      shop-prod\n"
        "  ServiceNow  https://dev12345.service-now.com\n"
        "  rule        outage\n"
        "  table       incident\n"
        "  key         42\n"
        "  event       5a3e1f0c-7d9b-4b57-9f39-2b1f6d7c8e90\n"
        "  reason      refused_by_acl\n"
        "  since       2025-11-21 12:47:26 UTC (12 minutes ago)\n"
        "  attempts    3\n"
    )


@pytest.mark.parametrize(
    ("sample", "subject"),
    [
        (
            "unmapped",
            (
                "[shop-prod] gave up on outage/42: rules.yaml:17: "
                "rules[0].ticket.fields.impact: lookup has"
            ),
        ),
        ("waiting", "[shop-prod] outage/42 waiting for 12 minutes: ServiceNow is unavailable"),
        ("held", "[shop-prod] calls to ServiceNow are held: ServiceNow refuses our credentials"),
        ("field", "[shop-prod] ServiceNow did not keep impact, assignment_group of outage/42"),
        ("unruled", "[shop-prod] no rule is for hasura/public.orders"),
        ("upstream", "[shop-prod] request refused: it is not an event as Hasura sends it"),
        ("unread", "[shop-prod] changes of incident are not read: ServiceNow reads times in"),
        ("over", "[shop-prod] over after 66 minutes: outage, ServiceNow is unavailable"),
        ("held and over", "[shop-prod] over after 66 minutes: ServiceNow refuses our credentials"),
    ],
)
def test_the_subject_alone_says_what_is_wrong_and_where(sample: str, subject: str) -> None:
    said = str(mail(SAMPLES[sample])["Subject"])

    assert said.startswith(subject)
    assert len(said) <= SUBJECT_MAX


def test_a_mail_for_many_says_how_many_more_and_how_to_replay_them_all() -> None:
    message = mail(UNMAPPED)

    assert message["Subject"].endswith("(+11 more)")
    assert "11 more like it since the last mail." in text_of(message)
    assert "  python -m function replay 5a3e1f0c-7d9b-4b57-9f39-2b1f6d7c8e90\n" in text_of(message)
    assert "  python -m function replay --failed --rule=outage\n" in text_of(message)


@pytest.mark.parametrize("over", [SAMPLES["dead and over"], OVER])
def test_what_is_over_has_nothing_left_to_replay(over: DueMail) -> None:
    assert "replay" not in text_of(mail(over))


def test_a_field_that_was_not_kept_is_named_with_its_ticket_and_nothing_is_replayed() -> None:
    text = text_of(mail(FIELD))

    assert "impact, assignment_group" in text
    assert "INC0010001" in text
    assert "replay" not in text


def test_what_another_system_wrote_and_was_left_alone_is_not_called_a_value_that_was_not_kept() -> (
    None
):
    message = mail(LEFT_ALONE)

    assert "left correlation_id of outage/42 as it was" in str(message["Subject"])
    assert "its ticket has another system's correlation_id" in " ".join(text_of(message).split())
    assert "not keep" not in text_of(message)


@pytest.mark.parametrize(
    ("notice", "command"),
    [
        (HELD, "check"),
        (changed(HELD, reason=Reason.UNAVAILABLE), "check"),
        (changed(HELD, reason=Reason.RATE_LIMITED), ""),
        (changed(UNRULED, event="e1"), "replay e1"),
        (changed(WAITING, event="e1"), "replay e1"),
        (UPSTREAM, ""),
        (UNREAD, "sync"),
        (changed(FIELD, event="e1"), ""),
        (SAMPLES["held and over"], ""),
    ],
)
def test_a_mail_gives_the_one_command_that_helps(notice: DueMail, command: str) -> None:
    text = text_of(mail(notice))

    commands = re.findall(r"^  python -m function (.*)$", text, re.MULTILINE)
    assert commands == ([command] if command else [])
    assert ("Run commands in the project's folder" in text) == bool(command)


def test_a_hold_names_no_event_for_it_concerns_all() -> None:
    text = text_of(mail(changed(HELD, rule="outage", key="42", event="e1")))

    assert not re.findall(r"^  (rule|table|key|event) ", text, re.MULTILINE)
    assert "  reason      servicenow_unauthorized\n" in text


def test_what_was_refused_upstream_is_not_put_down_to_servicenow() -> None:
    message = mail(UPSTREAM)

    assert "What to check:\n  The body has the event under `payload`.\n" in text_of(message)
    assert "refused_by_servicenow" not in text_of(message)
    assert "ServiceNow" not in message["Subject"]


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_line_but_a_fact_or_a_command_is_longer_than_78_characters(sample: str) -> None:
    lines = text_of(
        mail(changed(SAMPLES[sample], hint="a few words " * 40, remote_message="some more " * 20))
    ).splitlines()

    assert [
        line for line in lines if len(line) > 78 and not re.match(r"  (\w+  |python )", line)
    ] == []


def test_every_reason_that_can_fail_has_words_for_people() -> None:
    nothing_to_do = set(list(Reason)[: list(Reason).index(Reason.UNREACHABLE)])

    assert set(PHRASES) == set(Reason) - nothing_to_do


def test_an_unknown_reason_is_still_a_sentence() -> None:
    assert (
        "refused: not json"
        in mail(changed(UNRULED, kind=AlertKind.UPSTREAM, reason="not_json"))["Subject"]
    )


def test_servicenows_words_are_cut_short() -> None:
    text = text_of(mail(changed(DEAD, remote_message="w" * 5000)))

    assert "w" * (WORDS_MAX - 3) + "..." in text
    assert "w" * (WORDS_MAX - 2) not in text


def test_a_mail_is_from_a_machine_at_its_senders_domain() -> None:
    message = mail(DEAD)

    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"].endswith("@example.com>")
    assert message["Date"] == "Fri, 21 Nov 2025 13:00:00 +0000"
    assert message["From"] == "Shop <function@example.com>"
    assert (
        mail(DEAD, recipients=("a@example.com", "b@example.com"))["To"]
        == "a@example.com, b@example.com"
    )


def test_mails_about_one_thing_are_one_thread_and_each_its_own_mail() -> None:
    first, over, other = mail(WAITING), mail(OVER), mail(HELD)

    assert first["References"] == over["References"] == over["In-Reply-To"]
    assert first["Message-ID"] != over["Message-ID"]
    assert first["References"] != other["References"]


@pytest.mark.parametrize("domain", ["bücher.example", ""])
def test_a_message_id_is_ascii_whatever_the_sender(domain: str) -> None:
    message = compose(DEAD, sender=f"f@{domain}" if domain else "f", recipients=["ops@example.com"])

    assert message["Message-ID"].isascii()
    assert re.fullmatch(r"<\w+@[\w.-]+>", message["Message-ID"])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (89, "89 seconds"),
        (90, "1 minute"),
        (5400, "1 hour"),
        (200_000, "2 days"),
    ],
)
def test_a_length_of_time_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert f"over after {said}:" in mail(changed(OVER, lasted_seconds=seconds))["Subject"]


@pytest.mark.parametrize("kind", AlertKind)
@pytest.mark.parametrize("recovered", [False, True])
@pytest.mark.parametrize("reason", Reason)
def test_a_mail_about_another_system_does_not_call_it_servicenow(
    kind: AlertKind, recovered: bool, reason: Reason
) -> None:
    about = {"system": "Hasura's GraphQL", "instance": "https://hasura.example.com"}
    for whose in ({}, {"rule": "", "table": "", "key": "", "event": ""}):
        message = mail(
            changed(DEAD, kind=kind, recovered=recovered, reason=reason, **about, **whose, hint="")
        )

        assert "ServiceNow" not in message["Subject"] + text_of(message)
        assert "  Hasura's GraphQL  https://hasura.example.com\n" in text_of(message)


def test_what_a_reason_says_names_the_system_that_failed() -> None:
    message = mail(changed(WAITING, system="Hasura's GraphQL"))

    assert message["Subject"].endswith(
        "outage/42 waiting for 12 minutes: Hasura's GraphQL is unavailable"
    )


# What a row, a rule or ServiceNow may try


INJECTION = (
    "x\r\nBcc: thief@example.net\r\n\r\n"
    "<script>alert(1)</script>\x00\x1b[31m\u2028\u202egnp.exe\ud800"
)


@pytest.mark.parametrize(
    "place",
    [
        "key",
        "rule",
        "table",
        "event",
        "reason",
        "hint",
        "remote_message",
        "source_name",
        "system",
        "ticket",
    ],
)
def test_no_value_can_add_a_header_or_a_line(place: str) -> None:
    notice = changed(DEAD, **{place: INJECTION})
    message = message_from_bytes(bytes(mail(notice)), policy=policy.default)

    assert message["Bcc"] is None
    assert message.keys() == mail(DEAD).keys()
    assert len(message["To"].addresses) == 1
    text = text_of(message)
    assert "\nBcc:" not in text
    assert not set("\x00\x1b\u2028\u202e") & set(text + message["Subject"])


def test_a_command_cannot_be_turned_into_another_by_what_it_names() -> None:
    text = text_of(mail(changed(UNMAPPED, event="$(reboot)", rule="a; reboot")))

    assert "  python -m function replay '$(reboot)'\n" in text
    assert "  python -m function replay --failed --rule='a; reboot'\n" in text


@pytest.mark.parametrize(
    "event",
    [
        "--failed",
        "-h",
        "--rule=x",
        "a b",
        "it's",
        '"; reboot #',
        "`id`",
        "$HOME",
        "*",
        "~",
        "!!",
        "-",
        "--",
    ],
)
def test_the_command_that_a_mail_gives_is_for_that_event_and_no_other(
    event: str, tmp_path: Path
) -> None:
    text = text_of(mail(changed(DEAD, event=event)))
    [command] = [
        line.strip()
        for line in text.splitlines()
        if line.startswith("  python -m function replay ")
    ]
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nshift 3\n[ "$1" = -- ] && shift\nprintf %s "$1"\n[ $# = 1 ]\n')
    python.chmod(0o700)
    run = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
        capture_output=True,
        check=True,
        text=True,
    )

    assert run.stdout == event


@pytest.mark.parametrize("event", ["a  b", " a", "a\u202eb", "a\u2028b", "a\u00a0b"])
def test_an_event_that_cannot_be_pasted_as_it_is_is_replayed_with_all_like_it(event: str) -> None:
    text = text_of(mail(changed(DEAD, event=event)))

    assert f"  python -m function replay --failed --rule={DEAD.alert.rule}\n" in text
    assert f"replay {event}" not in text


def test_a_line_break_in_a_recipient_is_refused() -> None:
    with pytest.raises(ValueError, match="linefeed"):
        mail(DEAD, recipients=("ops@example.com\r\nBcc: thief@example.net",))


texts = st.fixed_dictionaries(
    {name: st.text() for name in ("key", "rule", "remote_message", "reason", "hint")}
)


@given(texts, st.integers(1, 10**9), st.sampled_from(sorted(SAMPLES)))
def test_every_notice_becomes_a_mail_that_can_be_sent_and_read(
    said: dict[str, str], count: int, sample: str
) -> None:
    notice = changed(SAMPLES[sample], count=count, **said)
    message = message_from_bytes(bytes(mail(notice)), policy=policy.default)

    assert len(message["Subject"]) <= SUBJECT_MAX
    assert text_of(message).split()
    assert not message.defects


# Handing it over


def test_a_mail_arrives_as_it_was_written() -> None:
    notice = changed(DEAD, key="Köln/停电", remote_message="Ungültiger Wert für „impact“")
    with MailServerFixture() as server:
        send(mail(notice), server.server, timeout_seconds=5)

        (received,) = server.messages
    assert received["Subject"] == mail(notice)["Subject"]
    assert "Köln/停电" in received["Subject"]
    assert [part.get_content_type() for part in received.walk()] == ["text/plain"]
    assert text_of(received) == text_of(mail(notice))


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
def test_a_login_is_made_over_tls_or_to_this_machine(tls: str) -> None:
    with MailServerFixture(tls, login=LOGIN) as server:  # type: ignore[arg-type]  # one of the three
        send(mail(DEAD), MailServer.from_url(server.url), timeout_seconds=5, context=server.context)

        assert len(server.messages) == server.logins == 1


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
def test_a_login_is_made_in_the_way_that_the_server_knows(mechanism: str) -> None:
    with MailServerFixture(login=LOGIN, mechanisms=(mechanism,)) as server:
        send(mail(DEAD), server.server, timeout_seconds=5)

        assert len(server.messages) == server.logins == 1


@pytest.mark.parametrize("host", ["mail.example.com", "10.0.0.5", "localhost.example.com"])
def test_a_password_never_crosses_a_network_in_the_clear(host: str) -> None:
    with pytest.raises(ValueError, match="unencrypted") as refused:
        MailServer(host, 25, *LOGIN)

    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_nobody_vouches_for_is_refused(tls: str) -> None:
    with MailServerFixture(tls, login=LOGIN) as server:  # type: ignore[arg-type]  # one of the three
        with pytest.raises(MailNotSent, match=r"127\.0\.0\.1:\d+, .*certificate"):
            send(mail(DEAD), server.server, timeout_seconds=5)

        assert server.logins == len(server.messages) == 0


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_certificate_for_another_name_is_refused(tls: Literal["starttls", "implicit"]) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("elsewhere.example")
    with MailServerFixture(tls, login=LOGIN, certificate=certificate) as server:
        authority.configure_trust(server.context)
        with pytest.raises(MailNotSent, match="certificate is not valid for"):
            send(mail(DEAD), server.server, timeout_seconds=5, context=server.context)

        assert server.logins == len(server.messages) == 0


def test_a_server_without_starttls_is_sent_nothing_where_starttls_was_asked_for() -> None:
    with MailServerFixture(login=LOGIN) as server:
        with pytest.raises(MailNotSent, match="STARTTLS"):
            send(mail(DEAD), replace(server.server, tls="starttls"), timeout_seconds=5)

        assert server.logins == len(server.messages) == 0


def test_a_wrong_password_is_said_without_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with MailServerFixture("starttls", login=("mailer", "another")) as server:
        wrong = replace(server.server, password=PASSWORD)
        with pytest.raises(
            MailNotSent, match=r"mail server 127\.0\.0\.1:\d+, login: refused with 535"
        ) as failed:
            send(mail(DEAD), wrong, timeout_seconds=5, context=server.context)

        assert server.messages == []
    assert PASSWORD not in caplog.text + str(failed.value) + repr(wrong)


def test_a_server_that_quotes_the_password_it_refuses_is_not_quoted_by_us(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoded = base64.b64encode(f"\0mailer\0{PASSWORD}".encode())
    refusal = b"535 no such login " + PASSWORD.encode() + b" " + encoded + b"\r\n"
    with scripted(b"220 hello\r\n", b"250-hello\r\n250 AUTH PLAIN\r\n", refusal) as port:
        with pytest.raises(MailNotSent, match="login: refused with 535") as failed:
            send(mail(DEAD), MailServer("127.0.0.1", port, *LOGIN), timeout_seconds=5)
        logging.getLogger("test").exception("not sent", exc_info=failed.value)

    assert PASSWORD not in caplog.text + str(failed.value)
    assert encoded.decode() not in caplog.text + str(failed.value)


def test_a_server_that_offers_no_login_is_said_so() -> None:
    with (
        scripted(b"220 hello\r\n", b"250 hello\r\n") as port,
        pytest.raises(MailNotSent, match=r"login: .*AUTH extension not supported"),
    ):
        send(mail(DEAD), MailServer("127.0.0.1", port, *LOGIN), timeout_seconds=5)


def test_a_server_that_is_down_is_said_so_by_name() -> None:
    with MailServerFixture() as server:
        down = server.server

    with pytest.raises(
        MailNotSent, match=rf"mail server 127\.0\.0\.1:{down.port}, connecting: Connection refused"
    ):
        send(mail(DEAD), down, timeout_seconds=5)


def test_a_host_without_an_address_is_said_so_by_name() -> None:
    with pytest.raises(MailNotSent, match=r"mail server nowhere\.invalid:25, connecting: "):
        send(mail(DEAD), MailServer("nowhere.invalid", 25), timeout_seconds=5)


def test_a_server_that_fails_is_quoted_until_it_has_seen_the_mail() -> None:
    with MailServerFixture() as server:
        server.fail_with(451)
        with pytest.raises(MailNotSent, match="sending: refused with 451 not now"):
            send(mail(DEAD), server.server, timeout_seconds=5)
        server.fail_with(0)
        send(mail(DEAD), server.server, timeout_seconds=5)

        assert len(server.messages) == 1


def test_a_server_that_quotes_the_mail_it_refuses_is_not_quoted_by_us() -> None:
    script = [
        b"220 hello\r\n",
        *[b"250 fine\r\n"] * 3,
        b"354 go on\r\n",
        b"554 5.7.1 spam: the row's text\r\n",
    ]
    with (
        scripted(*script) as port,
        pytest.raises(MailNotSent, match=r"sending: refused with 554 5\.7\.1$") as failed,
    ):
        send(mail(DEAD), MailServer("127.0.0.1", port), timeout_seconds=5)

    assert "row" not in "".join(traceback.format_exception(failed.value))


def test_one_recipient_refused_of_two_is_a_mail_sent_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = mail(DEAD, recipients=("gone@example.com", "ops@example.com"))
    with MailServerFixture(refuses=("gone@example.com",)) as server:
        send(message, server.server, timeout_seconds=5)

        assert len(server.messages) == 1
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "function.notices.smtp"]
    assert warning == (
        "mail server 127.0.0.1 took the mail, but not for gone@example.com: 550 "
        "5.1.1 no such mailbox"
    )


def test_it_is_told_who_was_refused_for_now_and_who_for_good() -> None:
    message = mail(DEAD, recipients=("gone@example.com", "full@example.com", "ops@example.com"))
    with MailServerFixture(refuses=("gone@example.com",)) as server:
        server.replies["full@example.com"] = "451 4.2.2 mailbox full"

        assert send(message, server.server, timeout_seconds=5) == {
            "gone@example.com": 550,
            "full@example.com": 451,
        }


def test_the_server_is_greeted_by_the_senders_domain() -> None:
    with MailServerFixture() as server:
        send(mail(DEAD), server.server, timeout_seconds=5)

        assert server.names == ["example.com"]


@pytest.mark.parametrize(
    ("replies", "says"),
    [
        ([b"421 4.3.2 shutting down\r\n"], "greeting: refused with 421 4.3.2 shutting down"),
        ([b"554 5.7.1 not from there\r\n"], "greeting: refused with 554 5.7.1 not from there"),
        (
            [b"220 x\r\n", b"250 x\r\n", b"421 4.7.0 too many\r\n"],
            "sending: refused with 421 4.7.0 too many",
        ),
        (
            [b"220 x\r\n", b"250 x\r\n", b"250 x\r\n", b"421 4.7.0 bye\r\n"],
            "no recipient accepted, 421 4.7.0 bye",
        ),
        (
            [
                b"220 x\r\n",
                b"250 x\r\n",
                b"250 x\r\n",
                b"250 x\r\n",
                b"354 x\r\n",
                b"550 5.7.26 spf row text\r\n",
            ],
            "sending: refused with 550 5.7.26",
        ),
    ],
)
def test_whatever_stage_it_is_refused_at_the_codes_are_told(
    replies: list[bytes], says: str
) -> None:
    with scripted(*replies) as port, pytest.raises(MailNotSent) as failed:
        send(mail(DEAD), MailServer("127.0.0.1", port), timeout_seconds=5)

    assert says in str(failed.value)
    assert "row text" not in str(failed.value)


def test_every_recipient_refused_is_a_mail_not_sent() -> None:
    with MailServerFixture(refuses=("ops@example.com",)) as server:
        with pytest.raises(
            MailNotSent, match=r"no recipient accepted, 550 5\.1\.1 no such mailbox"
        ):
            send(mail(DEAD), server.server, timeout_seconds=5)

        assert server.messages == []


def test_a_server_that_never_takes_the_message_is_left_in_time() -> None:
    with MailServerFixture() as server:
        server.hang()
        with within(1.5), pytest.raises(MailNotSent, match=r"not finished within 0\.5 s"):
            send(mail(DEAD), server.server, timeout_seconds=0.5)


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
def test_a_server_that_never_says_a_word_is_left_in_time(tls: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silence = MailServer("127.0.0.1", silent.getsockname()[1], tls=tls)  # type: ignore[arg-type]  # one of the three
        with within(1.5), pytest.raises(MailNotSent, match=r"not finished within 0\.5 s"):
            send(mail(DEAD), silence, timeout_seconds=0.5)


def test_a_server_that_trickles_is_left_in_time() -> None:
    drops = [b"2", b"2", b"0", b"-"] + [b"x"] * 30
    with (
        scripted(*drops, answers=False) as port,
        within(1.5),
        pytest.raises(MailNotSent, match="not finished within"),
    ):
        send(mail(DEAD), MailServer("127.0.0.1", port), timeout_seconds=0.5)


def test_a_server_that_does_not_say_good_bye_has_the_mail_all_the_same() -> None:
    script = [b"220 hello\r\n", *[b"250 fine\r\n"] * 3, b"354 go on\r\n", b"250 taken\r\n"]
    with scripted(*script) as port:
        send(mail(DEAD), MailServer("127.0.0.1", port), timeout_seconds=5)


@settings(deadline=None)  # a socket, on a machine that may be busy
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_whatever_a_server_says_the_mail_is_sent_or_not_sent(lines: list[bytes]) -> None:
    with scripted(*(line + b"\r\n" for line in lines)) as port, contextlib.suppress(MailNotSent):
        send(mail(DEAD), MailServer("127.0.0.1", port, *LOGIN), timeout_seconds=2)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@contextlib.contextmanager
def scripted(*replies: bytes, answers: bool = True) -> Iterator[int]:
    """A port where one caller is told *replies*: each after it said something, or all, one every
    0.1 s.

    After the last it is hung up on.
    """

    def serve() -> None:
        with contextlib.suppress(OSError):
            caller, _ = listening.accept()
            with caller:
                for number, reply in enumerate(replies):
                    if not answers:
                        time.sleep(0.1)
                    elif number and not _hears(
                        caller, message=replies[number - 1].startswith(b"354")
                    ):
                        return
                    caller.sendall(reply)

    def _hears(caller: socket.socket, *, message: bool) -> bool:
        heard = b""
        while not heard.endswith(b"\r\n.\r\n" if message else b"\r\n"):
            piece = caller.recv(65536)
            if not piece:
                return False
            heard += piece
        return True

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve)
        server.start()
        try:
            yield listening.getsockname()[1]
        finally:
            # A caller that never came is what accept() would wait for.
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            server.join()


# Where it is handed over


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://localhost:2525", MailServer("localhost", 2525)),
        ("smtp://mail.example.com", MailServer("mail.example.com", 25)),
        ("smtp://[::1]:2525/", MailServer("::1", 2525)),
        ("smtps://u:p@mail.example.com", MailServer("mail.example.com", 465, "u", "p", "implicit")),
        (
            "smtp://u:p@mail.example.com?starttls=1",
            MailServer("mail.example.com", 587, "u", "p", "starttls"),
        ),
        (
            "smtps://me%40example.com:p%2Fa%3Fs%23s%25@mail.example.com:2465",
            MailServer("mail.example.com", 2465, "me@example.com", "p/a?s#s%", "implicit"),
        ),
    ],
)
def test_an_address_is_read_as_it_is_written(url: str, server: MailServer) -> None:
    assert MailServer.from_url(url) == server


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "write smtp"),
        ("mail.example.com:25", "write smtp"),
        ("http://mail.example.com", "write smtp"),
        ("smtp://", "names no host"),
        ("smtp://host:0", "port"),
        ("smtp://host:70000", "cannot be read"),
        ("smtp://host/path", "write smtp"),
        ("smtp://host?tls=1", "starttls=1"),
        ("smtp://host?starttls=yes", "starttls=1"),
        ("smtps://host?starttls=1", "leave starttls=1 away"),
        ("smtps://user@host", "user name and a password"),
        ("smtp://user:Pa55@mail.example.com", "unencrypted"),
        ("smtps://user:Pa55/word@host", "percent-encoded"),
        ("smtps://user:Pa55?word@host", "percent-encoded"),
        ("smtps://user:Pa55#word@host", "percent-encoded"),
        ("smtps://user:Pa55%ffword@host", "percent-encoded"),
        ("smtps://user:Pa55\u2100word@host", "percent-encoded"),
        ("smtps://user:Pa55[word@host", "percent-encoded"),
        ("smtps://user:Pa55wörd@host", "ASCII"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(
    url: str, says: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        MailServer.from_url(url)

    assert "Pa55" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=6))
def test_no_refusal_of_an_address_quotes_its_password(password: str) -> None:
    for form in (
        "smtp://user:{}@host",
        "smtps://user:{}@host:465",
        "smtp://host:{}",
        "smtps://u:p@host?starttls={}",
    ):
        try:
            said = repr(MailServer.from_url(form.format(f"planted{password}")))
        except ValueError as refused:
            said = str(refused)
        assert "planted" not in said


@pytest.mark.parametrize(
    "rule",
    [
        "000)¡ 0¡¡¡¡𐀀𐀀𐀀𐀀 ¡",
        "a, (é) <b> 漢; c: d= ?e é " * 3,
        "names `title` that the row does not have … at all",
    ],
)
def test_a_subject_is_read_as_it_was_written(rule: str) -> None:
    message = compose(
        changed(FIELD, rule=rule, now=FIELD.alert.since),
        sender="a@example.com",
        recipients=["b@example.com"],
    )
    received = message_from_bytes(message.as_bytes(), policy=policy.default)

    assert received["Subject"] == message["Subject"]
    assert "=?" not in received["Subject"]
