"""Who may say that a ticket changed, and what follows of it."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import pytest

from tests.two_way.desk import WEBHOOK_SECRET, Desk
from tests.two_way.test_back import ONE_WAY, OPEN


@pytest.fixture
def desk(postgresql: str) -> Iterator[Desk]:
    with Desk(postgresql, rules=ONE_WAY) as desk:
        desk.sql(OPEN)
        desk.settle()
        desk.person(impact="2")
        desk.servicenow.forget()
        yield desk


def body(desk: Desk, **over: object) -> bytes:
    fields = {"version": 1, "table": "incident", "sys_id": desk.incident["sys_id"], "mod_count": 1}
    return json.dumps({**fields, **over}).encode()


def refused(desk: Desk) -> bool:
    """Whether nothing followed."""
    kept = desk.query("SELECT * FROM servicenow.inbox")
    return desk.row()["severity"] == "critical" and not kept and desk.calls() == []


@pytest.mark.parametrize("seconds", [-301, 301])
def test_a_notification_that_is_stale_or_of_the_future_is_refused(
    desk: Desk, seconds: float
) -> None:
    assert desk.post_notification(body(desk), at=time.time() + seconds).status == 401
    assert refused(desk)


def test_a_forged_notification_is_refused(desk: Desk) -> None:
    assert desk.post_notification(body(desk), secret="planted-wrong-secret").status == 401
    assert desk.post_notification(body(desk), signed=body(desk, mod_count=2)).status == 401
    assert desk.request("POST", "/servicenow", body(desk)).status == 401
    assert refused(desk)


def test_a_truncated_notification_is_refused(desk: Desk) -> None:
    whole = body(desk)

    assert desk.post_notification(whole[:-9], signed=whole).status == 401
    assert refused(desk)


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ({"version": 2}, "version"),
        ({"table": "../sys_user"}, "table"),
        ({"sys_id": "x"}, "sys_id"),
        ({"mod_count": "many"}, "mod_count"),
    ],
)
def test_a_signed_body_that_is_no_notification_is_told_what_is_wrong(
    desk: Desk, over: dict[str, object], named: str
) -> None:
    answer = desk.post_notification(body(desk, **over))

    assert answer.status == 400
    assert f"`{named}`" in answer.body["error"]
    assert refused(desk)


def test_more_than_four_kibibytes_are_not_read(desk: Desk) -> None:
    assert desk.post_notification(body(desk, more="x" * 4096)).status == 413
    assert refused(desk)


def test_either_of_two_secrets_is_taken_in_base64_or_hex(desk: Desk) -> None:
    desk.start(SERVICENOW_WEBHOOK_SECRETS=f"planted-newer-secret-1,{WEBHOOK_SECRET}")
    stamp, sent = str(int(time.time())), body(desk)
    mac = hmac.new(b"planted-newer-secret-1", stamp.encode() + b"." + sent, hashlib.sha256)
    for signature in (mac.hexdigest(), base64.b64encode(mac.digest()).decode()):
        headers = {"X-ServiceNow-Timestamp": stamp, "X-ServiceNow-Signature": f"v1={signature}"}

        assert desk._request("POST", "/servicenow", sent, headers, instance=0).status == 200
    assert desk.notify().status == 200


def test_without_secrets_the_route_is_closed(desk: Desk) -> None:
    desk.start(SERVICENOW_WEBHOOK_SECRETS="")

    assert desk.notify().status == 401
    assert refused(desk)


def test_a_notification_that_is_sent_again_is_a_look_and_no_more(desk: Desk) -> None:
    desk.notify()
    desk.calls()

    assert desk.notify(mod_count=1).outcome["status"] == "unchanged"
    assert desk.calls() == ["GET incident", "GET sys_journal_field"]


def test_a_table_that_no_rule_hears_of_is_named(desk: Desk) -> None:
    answer = desk.post_notification(body(desk, table="problem"))

    assert answer.status == 422
    assert "servicenow/problem" in answer.body["error"]


def test_a_ticket_that_a_clone_tells_of_and_we_do_not_have_is_nothing(desk: Desk) -> None:
    answer = desk.post_notification(body(desk, sys_id="0" * 32, mod_count=900))

    assert (answer.status, answer.body["outcomes"]) == (200, [])


def test_a_count_of_another_instances_only_has_the_ticket_looked_at_once_more(desk: Desk) -> None:
    answer = desk.notify(mod_count=900)

    assert answer.outcome["status"] == "updated"
    assert desk.calls() == ["GET incident", "GET incident", "GET sys_journal_field"]
