"""Who has had a mail, and who is still owed it, through the whole function and a real
mail server."""

from collections.abc import Iterator

import pytest

from tests.mailserver import MailServerFixture
from tests.payloads import cron, insert, update
from tests.world import World, outage

UNKNOWN = outage(severity="major", title=None)
OPS, DUTY, GONE = "ops@example.com", "duty@example.com", "gone@example.com"
RULES = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {impact: "{{ row.severity | lookup({'critical': 1}) }}"}
"""


@pytest.fixture
def server() -> Iterator[MailServerFixture]:
    with MailServerFixture() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def site(server: MailServerFixture, request: pytest.FixtureRequest) -> Iterator[World]:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    with World(
        rules=RULES,
        database_url=url,
        SMTP_URL=server.url,
        NOTIFY_TO=f"{OPS},{DUTY},{GONE}",
        KEEP_DAYS="90",
    ) as world:
        yield world


def housekeep(world: World, after_seconds: float) -> None:
    world.clock.advance(after_seconds)
    world.send(cron("servicenow_housekeeping"))


def test_a_recipient_refused_for_now_has_the_mail_later_and_the_others_have_it_once(
    site: World, server: MailServerFixture
) -> None:
    server.replies |= {DUTY: "451 4.7.1 greylisted", GONE: "550 5.1.1 no such mailbox"}
    site.send(insert("outages", UNKNOWN))
    housekeep(site, 30)
    housekeep(site, 31)
    del server.replies[DUTY]
    housekeep(site, 60)
    housekeep(site, 61)
    housekeep(site, 3600)

    assert server.envelopes == [[OPS], [DUTY]]
    assert len({message["Subject"] for message in server.messages}) == 1


def test_who_is_owed_a_mail_is_known_after_a_restart(
    site: World, server: MailServerFixture
) -> None:
    server.replies |= {DUTY: "451 4.7.1 greylisted"}
    site.send(insert("outages", UNKNOWN))
    site.start()
    server.replies.clear()
    housekeep(site, 61)

    assert server.envelopes == [[OPS, GONE], [DUTY]]


def test_who_is_not_to_be_told_any_more_is_owed_nothing(
    site: World, server: MailServerFixture
) -> None:
    server.replies |= {DUTY: "451 4.7.1 greylisted"}
    site.send(insert("outages", UNKNOWN))
    site.start(NOTIFY_TO=OPS)
    server.replies.clear()
    housekeep(site, 61)

    assert server.envelopes == [[OPS, GONE]]
    assert site.query("SELECT owed FROM servicenow.alert") == [{"owed": ""}]


def test_a_recipient_that_is_always_refused_for_now_is_given_up_after_about_a_day(
    site: World, server: MailServerFixture, caplog: pytest.LogCaptureFixture
) -> None:
    server.replies |= {DUTY: "451 4.7.1 greylisted"}
    site.send(insert("outages", UNKNOWN))
    for _ in range(40):
        housekeep(site, 3601)

    assert server.envelopes == [[OPS, GONE]]
    assert f"not sent any more to {DUTY}: refused 30 times" in caplog.text


def test_a_mail_server_that_is_down_meanwhile_loses_nothing_that_is_owed(
    site: World, server: MailServerFixture
) -> None:
    server.replies |= {DUTY: "451 4.7.1 greylisted"}
    site.send(insert("outages", UNKNOWN))
    server.fail_with(421)
    housekeep(site, 61)
    server.fail_with(0)
    server.replies.clear()
    housekeep(site, 121)

    assert server.envelopes == [[OPS, GONE], [DUTY]]


def test_a_mail_names_the_ticket_where_there_is_one(world: World) -> None:
    world.send(insert("outages", outage()))
    world.servicenow.arm("data_policy_403", method="PATCH")
    world.send(
        update("outages", outage(), outage(title="Changed"), created_at="2026-03-04T05:06:08")
    )
    [mail] = world.mails
    text = str(mail.get_body(("plain",)))

    assert "INC0010001" in text


def fail_alone(world: World, body: bytes, fault: str, number: int) -> str:
    """Deliver *body* to a ServiceNow that fails for it and for no other event; gives the reason."""
    world.servicenow.arm(fault)
    reason = str(world.send(body).outcome["reason"])
    world.send(insert("outages", outage(number)))
    world.clock.advance(700)
    return reason


def test_an_event_that_waits_is_mailed_once_whatever_it_waits_for_by_then(world: World) -> None:
    body = insert("outages", outage(1), id="e")
    faults = ("error_500", "error_500", "reset", "truncated_200", "error_500")
    reasons = [fail_alone(world, body, fault, number) for number, fault in enumerate(faults, 2)]

    assert len(set(reasons)) == 3
    assert world.query("SELECT kind FROM servicenow.alert") == [{"kind": "waiting"}]
    assert len(world.mails) == 1


def test_a_dead_letter_that_waits_once_it_is_sent_again_has_a_mail_for_that_too(
    world: World,
) -> None:
    body = insert("outages", outage(1), id="e")
    for number, fault in enumerate(("data_policy_403", "error_500", "error_500", "error_500"), 2):
        fail_alone(world, body, fault, number)
    kinds = world.query("SELECT kind FROM servicenow.alert ORDER BY kind")

    assert kinds == [{"kind": "dead"}, {"kind": "waiting"}]
    assert len(world.mails) == 2
