"""The sandbox's ServiceNow tells us what people did."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import requests

from sandbox.loopback import Loopback
from sandbox.outbound import Delivery, signature
from sandbox.servicenow import ServiceNow
from tests.sandbox.client import CLOSE, Api, group

KEY = b"a secret of the instance"


class Listener(Loopback):
    """Keeps what was sent to it; answers with *status*."""

    def __init__(self) -> None:
        super().__init__("the listener", 0, _Hear)
        self.heard: list[tuple[dict[str, str], str]] = []
        self.status = 200


class _Hear(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode("ascii")
        self.server.heard.append(
            ({name.lower(): value for name, value in self.headers.items()}, body)
        )
        self.send_response_only(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    listener.start()
    yield listener
    listener.stop()


@pytest.fixture
def ours(api: Api, instance: ServiceNow, listener: Listener) -> dict[str, Any]:
    """An incident of ours, on an instance that tells us of it."""
    instance.send_webhooks(f"http://127.0.0.1:{listener.port}/hook", KEY)
    return api.make(correlation_id="shop:outage:1", correlation_display="hasura")


def bodies(instance: ServiceNow, listener: Listener) -> list[dict[str, Any]]:
    assert instance.outbound is not None
    instance.outbound.settle()
    return [json.loads(body) for _, body in listener.heard]


def test_what_a_person_does_is_sent(
    instance: ServiceNow, listener: Listener, ours: dict[str, Any]
) -> None:
    instance.change(
        "incident",
        ours["sys_id"],
        state="Resolved",
        assignment_group="Network",
        comments="Fixed ü",
        **CLOSE,
    )

    [told] = bodies(instance, listener)
    [entry] = told.pop("journal")
    row = instance.rows("incident")[0]
    assert told == {
        "version": 1,
        "event_id": f"{row['sys_id']}-1",
        "table": "incident",
        "sys_id": row["sys_id"],
        "number": row["number"],
        "correlation_id": "shop:outage:1",
        "sys_mod_count": 1,
        "sys_updated_on": row["sys_updated_on"],
        "sys_updated_by": "admin",
        "state": "6",
        "assigned_to": "",
        "close_code": "Solution provided",
        "close_notes": "Cable replaced",
        "changed": {
            "state": {"from": "1", "to": "6"},
            "assignment_group": {"from": "", "to": group(instance, "Network")},
            "close_code": {"from": "", "to": "Solution provided"},
        },
    }
    assert (entry["kind"], entry["text"], entry["author"]) == ("comments", "Fixed ü", "admin")
    assert entry["id"] == instance.rows("sys_journal_field")[0]["sys_id"]


def test_what_is_sent_is_ascii_and_signed_with_its_time(
    instance: ServiceNow, listener: Listener, ours: dict[str, Any]
) -> None:
    instance.change("incident", ours["sys_id"], comments="Grüße")
    bodies(instance, listener)

    [(headers, body)] = listener.heard
    assert body.isascii()
    assert headers["x-servicenow-timestamp"] == "1790000000"
    assert headers["x-servicenow-signature"] == f"v1={signature(KEY, '1790000000', body)}"
    assert headers["content-type"] == "application/json"


def test_a_signature_is_the_base64_of_an_hmac() -> None:
    # printf '1.{}' | openssl dgst -sha256 -hmac key -binary | base64
    assert signature(b"key", "1", "{}") == "G6a4FxGG78YT6LzAy9qydI8kmE18WoT6omN6+g5A0iQ="


def test_what_we_did_and_what_is_not_ours_is_not_sent(
    api: Api, instance: ServiceNow, listener: Listener, ours: dict[str, Any]
) -> None:
    other = api.make()
    api.patch(ours["sys_id"], state=2, comments="ours")
    instance.change("incident", other["sys_id"], state="In Progress")
    instance.change("incident", ours["sys_id"], description="not watched")

    assert bodies(instance, listener) == []


def test_work_notes_stay_inside_unless_asked_for(
    api: Api, instance: ServiceNow, listener: Listener
) -> None:
    url = f"http://127.0.0.1:{listener.port}/hook"
    instance.send_webhooks(url, KEY, journals=("comments", "work_notes"), name="ours")
    made = api.make(correlation_display="ours")
    instance.change("incident", made["sys_id"], work_notes="psst")
    first = bodies(instance, listener)
    instance.send_webhooks(url, KEY, name="ours")
    instance.change("incident", made["sys_id"], work_notes="psst")

    assert [entry["kind"] for entry in first[0]["journal"]] == ["work_notes"]
    assert bodies(instance, listener)[1]["journal"] == []


def test_what_is_refused_is_not_sent_again(
    instance: ServiceNow, listener: Listener, ours: dict[str, Any]
) -> None:
    assert instance.outbound is not None
    listener.status = 500
    instance.change("incident", ours["sys_id"], state="In Progress")
    bodies(instance, listener)

    assert len(listener.heard) == 1
    assert [sent.status for sent in instance.outbound.sent] == [500]


def test_nobody_listening_holds_nobody_up(api: Api, instance: ServiceNow) -> None:
    outbound = instance.send_webhooks("http://127.0.0.1:9/", KEY)
    made = api.make(correlation_display="hasura")
    instance.change("incident", made["sys_id"], state="In Progress")
    outbound.settle()

    assert [sent.status for sent in outbound.sent] == [0]


@pytest.mark.parametrize(
    ("delivery", "arrived"),
    [
        (Delivery.ONCE, [1, 2, 3, 4]),
        (Delivery.DROP, []),
        (Delivery.DUPLICATE, [1, 1, 2, 2, 3, 3, 4, 4]),
        (Delivery.REORDER, [2, 1, 4, 3]),
    ],
)
def test_delivery_can_go_wrong(
    instance: ServiceNow,
    listener: Listener,
    ours: dict[str, Any],
    delivery: Delivery,
    arrived: list[int],
) -> None:
    assert instance.outbound is not None
    instance.outbound.delivery = delivery
    for place in range(4):
        instance.change("incident", ours["sys_id"], comments=str(place))

    assert [told["sys_mod_count"] for told in bodies(instance, listener)] == arrived


def test_it_can_be_switched_on_over_http(
    api: Api, instance: ServiceNow, listener: Listener
) -> None:
    control = f"{instance.url}/sandbox/webhook"
    sent = {"url": f"http://127.0.0.1:{listener.port}/hook", "key": "k", "delivery": "duplicate"}
    wrong = [
        requests.post(control, json=sent | bad, timeout=5).status_code
        for bad in ({"url": 1}, {"delivery": "x"})
    ]
    requests.post(control, json=sent, timeout=5)
    made = api.make(correlation_display="hasura")
    instance.change("incident", made["sys_id"], state="In Progress")

    assert wrong == [400, 400]
    assert len(bodies(instance, listener)) == 2
