"""The sandbox's ServiceNow tells an app that a ticket changed, as a business rule does."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests

from function.sources.servicenow import parse_notification, verify_signature
from sandbox.loopback import Loopback
from sandbox.notifier import DeliveryFaults, NotifiedTable, Notifier, generate_mac
from sandbox.servicenow import ServiceNow, UserAccount
from tests.sandbox.client import CLOSE, HEX, Api, Time, group

HERE = Path(__file__).resolve().parent.parent.parent
SECRET = "a secret of the instance, ü"
OURS = "correlation_idSTARTSWITHshop:"
SECONDS_MAX = 10.0


class Listener(Loopback):
    """Keeps what was sent to it; answers with *status*, once *answering* is set."""

    def __init__(self) -> None:
        super().__init__("the listener", 0, _Hear)
        self.heard: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.answering = threading.Event()
        self.answering.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/servicenow"

    def wait_for(self, count: int) -> None:
        """Wait until so many have been heard, or too long."""
        until = time.monotonic() + SECONDS_MAX
        while len(self.heard) < count and time.monotonic() < until:
            time.sleep(0.01)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.heard]

    @property
    def counts(self) -> list[int]:
        return [body["mod_count"] for body in self.bodies]


class _Hear(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(
            ({name.lower(): value for name, value in self.headers.items()}, body)
        )
        self.server.answering.wait(SECONDS_MAX)
        self.send_response_only(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    listener.start()
    yield listener
    listener.answering.set()
    listener.stop()


def started(instance: ServiceNow, listener: Listener, **rule: Any) -> Notifier:
    """Switch on a business rule of the instance; of incidents of ours, if not said otherwise."""
    table = NotifiedTable(**{"filter": OURS, **rule})
    notifier = Notifier(listener.url, SECRET, tables=[table])
    instance.start_notifying(notifier)
    return notifier


@pytest.fixture
def notifier(instance: ServiceNow, listener: Listener) -> Notifier:
    return started(instance, listener)


@pytest.fixture
def ours(api: Api, notifier: Notifier) -> str:
    """An incident of ours, on an instance that tells of it."""
    sys_id: str = api.make(sys_id=HEX, correlation_id="shop:outage:1")["sys_id"]
    return sys_id


class TestWhatIsSent:
    def test_that_a_ticket_changed_and_not_what(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        instance.change("incident", ours, state="Resolved", comments="Fixed ü", **CLOSE)
        notifier.wait_until_idle(SECONDS_MAX)

        [(headers, body)] = listener.heard
        assert body == f'{{"version":1,"table":"incident","sys_id":"{HEX}","mod_count":1}}'.encode()
        assert headers["content-type"] == "application/json"

    def test_the_function_reads_it_and_lets_it_in(
        self,
        instance: ServiceNow,
        listener: Listener,
        notifier: Notifier,
        ours: str,
        clock: Time,
    ) -> None:
        instance.change("incident", ours, state="In Progress")
        notifier.wait_until_idle(SECONDS_MAX)

        [(headers, body)] = listener.heard
        stamp, signature = (headers[f"x-servicenow-{name}"] for name in ("timestamp", "signature"))
        assert stamp == "1790000000"
        assert verify_signature(stamp, signature, body, ["another", SECRET], now=clock.now)
        assert parse_notification(body).mod_count == 1

    def test_a_mac_is_the_base64_of_an_hmac(self) -> None:
        # printf '1.{}' | openssl dgst -sha256 -hmac key -binary | base64
        assert generate_mac("key", "1.{}") == "G6a4FxGG78YT6LzAy9qydI8kmE18WoT6omN6+g5A0iQ="

    @pytest.mark.parametrize(
        "change",
        [
            {"state": "In Progress"},
            {"assigned_to": "Beth Anglin"},
            {"impact": "1", "urgency": "1"},
            {"comments": "It burns"},
            {"work_notes": "psst"},
        ],
    )
    def test_a_watched_column_or_an_entry_of_a_journal_is_told(
        self,
        instance: ServiceNow,
        listener: Listener,
        notifier: Notifier,
        ours: str,
        change: dict[str, str],
    ) -> None:
        instance.change("incident", ours, **change)
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [1]

    def test_another_column_is_not(
        self, instance: ServiceNow, notifier: Notifier, ours: str
    ) -> None:
        instance.change("incident", ours, description="not watched")

        assert notifier.waiting == 0
        assert notifier.sent == []

    def test_neither_is_what_changes_nothing(
        self, instance: ServiceNow, notifier: Notifier, ours: str
    ) -> None:
        instance.change("incident", ours, state="New")

        assert notifier.waiting == 0

    def test_journals_are_told_apart(
        self, api: Api, instance: ServiceNow, listener: Listener
    ) -> None:
        notifier = started(instance, listener, journals=("comments",))
        api.make(sys_id=HEX, correlation_id="shop:1")
        instance.change("incident", HEX, work_notes="psst")
        instance.change("incident", HEX, comments="It burns")
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [2]

    def test_what_the_integration_user_does_is_not_told(
        self, api: Api, notifier: Notifier, ours: str
    ) -> None:
        api.patch(ours, state=2, comments="ours")
        api.call("DELETE", f"table/incident/{ours}")

        assert notifier.waiting == 0
        assert notifier.sent == []

    def test_what_another_user_does_over_the_api_is_told_also_when_it_is_committed_late(
        self, listener: Listener, clock: Time
    ) -> None:
        with ServiceNow(clock=clock, users=[UserAccount("admin", "sandbox")]) as instance:
            notifier = started(instance, listener, filter="", insert=True, delete=True)
            api = Api(instance)
            with api.session:
                api.session.auth = ("admin", "sandbox")
                api.make(sys_id=HEX)
                instance.arm("commit_late", method="PATCH", seconds=60)
                with pytest.raises(requests.ConnectionError):
                    api.patch(HEX, state="2")
                notifier.wait_until_idle(SECONDS_MAX)
                before = listener.counts
                instance.commit_now()
                api.call("DELETE", f"table/incident/{HEX}")
            notifier.wait_until_idle(SECONDS_MAX)

        assert (before, listener.counts) == ([0], [0, 1, 1])

    def test_another_app_s_tickets_and_other_tables_are_not_told(
        self, api: Api, instance: ServiceNow, notifier: Notifier
    ) -> None:
        other = api.make(correlation_id="market:outage:1")
        problem = instance.tables.insert("problem", {"correlation_id": "shop:1"}, by="admin")
        instance.change("incident", other["sys_id"], state="In Progress")
        instance.tables.update("problem", problem["sys_id"], {"impact": "1"}, by="admin")

        assert notifier.waiting == 0
        assert notifier.sent == []

    def test_the_filter_looks_at_the_record_as_it_is_now_and_through_references(
        self, api: Api, instance: ServiceNow, listener: Listener
    ) -> None:
        notifier = started(instance, listener, filter="assignment_group.name=Network")
        api.make(sys_id=HEX)
        instance.change("incident", HEX, assignment_group="Network")
        instance.change("incident", HEX, assignment_group="Software")
        instance.change("incident", HEX, assignment_group=group(instance, "Network"))
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [1, 3]

    def test_a_ticket_that_comes_to_meet_the_filter_is_told(
        self, api: Api, instance: ServiceNow, listener: Listener
    ) -> None:
        query = "short_description=Down^ORcaller_id.name=Beth Anglin^NQlocationISNOTEMPTY"
        notifier = started(instance, listener, filter=query, columns=("state",))
        api.make(sys_id=HEX)
        instance.change("incident", HEX, short_description="Up")
        instance.change("incident", HEX, short_description="Down")
        instance.change("incident", HEX, description="not watched")
        instance.change("incident", HEX, caller_id="Beth Anglin")
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [2, 4]

    def test_inserts_and_deletes_are_told_where_that_is_asked_for(
        self, instance: ServiceNow, listener: Listener, ours: str
    ) -> None:
        notifier = started(instance, listener, insert=True, delete=True)
        instance.change("incident", ours, comments="Gone soon")
        instance.remove("incident", ours)
        instance.tables.insert("incident", {"correlation_id": "shop:2"}, by="admin")
        instance.tables.insert("incident", {"correlation_id": "market:2"}, by="admin")
        notifier.wait_until_idle(SECONDS_MAX)

        assert [body["mod_count"] for body in listener.bodies] == [1, 1, 0]
        assert [body["sys_id"] == ours for body in listener.bodies] == [True, True, False]

    def test_inserts_and_deletes_are_not_told_otherwise(
        self, instance: ServiceNow, notifier: Notifier, ours: str
    ) -> None:
        instance.tables.insert("incident", {"correlation_id": "shop:2"}, by="admin")
        instance.remove("incident", ours)

        assert notifier.waiting == 0
        assert notifier.sent == []

    def test_what_was_refused_is_not_told(
        self, instance: ServiceNow, notifier: Notifier, ours: str
    ) -> None:
        rule = {"name": "No", "collection": "incident", "action_update": "true"}
        abort = {"abort_action": "true", "filter_condition": "stateVALCHANGES"}
        instance.tables.insert("sys_script", rule | abort, by="admin")
        requests.post(
            f"{instance.url}/incidents/INC0010001/resolve", data={"close_code": "x"}, timeout=5
        )

        assert instance.rows("incident")[0]["state"] == "1"
        assert notifier.waiting == 0
        assert notifier.sent == []

    def test_one_write_that_two_rules_of_a_table_hear_is_told_once(
        self, api: Api, instance: ServiceNow, listener: Listener
    ) -> None:
        tables = [NotifiedTable(filter=OURS), NotifiedTable(filter="active=true")]
        notifier = Notifier(listener.url, SECRET, tables=tables)
        instance.start_notifying(notifier)
        api.make(sys_id=HEX, correlation_id="shop:1")
        instance.change("incident", HEX, state="In Progress")
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [1]


class TestHowItArrives:
    def change(self, instance: ServiceNow, times: int) -> None:
        for place in range(times):
            instance.change("incident", HEX, comments=str(place))

    def test_in_order_and_each_once(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        self.change(instance, 20)
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == list(range(1, 21))

    def test_nobody_waits_for_it(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        listener.answering.clear()
        began = time.monotonic()
        self.change(instance, 3)

        assert time.monotonic() - began < 5
        assert notifier.waiting == 3
        listener.wait_for(1)
        with pytest.raises(TimeoutError, match=r"2 notifications wait, 1 are being sent"):
            notifier.wait_until_idle(0.2)
        listener.answering.set()
        notifier.wait_until_idle(SECONDS_MAX)
        assert listener.counts == [1, 2, 3]

    def test_instances_of_the_app_take_turns(
        self, instance: ServiceNow, listener: Listener, ours: str
    ) -> None:
        urls = [f"{listener.url}?{number}" for number in range(3)]
        notifier = Notifier(urls[0], SECRET, more_urls=urls[1:])
        notifier.faults = DeliveryFaults(duplicate=1)
        instance.start_notifying(notifier)
        self.change(instance, 3)
        notifier.wait_until_idle(SECONDS_MAX)

        assert [sent.notification.url for sent in notifier.sent] == urls * 2

    def test_several_can_be_under_way_at_one_time(
        self, instance: ServiceNow, listener: Listener, ours: str
    ) -> None:
        notifier = Notifier(listener.url, SECRET, senders=2)
        instance.start_notifying(notifier)
        listener.answering.clear()
        self.change(instance, 3)
        with pytest.raises(TimeoutError, match=r"1 notifications wait, 2 are being sent"):
            notifier.wait_until_idle(0.3)
        listener.answering.set()
        notifier.wait_until_idle(SECONDS_MAX)

        assert sorted(listener.counts) == [1, 2, 3]

    def test_what_is_refused_is_not_sent_again_and_its_answer_is_kept(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        listener.status = 503
        self.change(instance, 1)
        notifier.wait_until_idle(SECONDS_MAX)

        [sent] = notifier.sent
        assert listener.counts == [1]
        assert (sent.notification.fields["sys_id"], sent.status, sent.answer) == (HEX, 503, b"{}")

    def test_nobody_listening_holds_nobody_up(self, api: Api, instance: ServiceNow) -> None:
        notifier = Notifier("http://127.0.0.1:9/", SECRET)
        instance.start_notifying(notifier)
        api.make(sys_id=HEX)
        self.change(instance, 1)
        notifier.wait_until_idle(SECONDS_MAX)

        assert [sent.status for sent in notifier.sent] == [0]

    @pytest.mark.parametrize(
        ("faults", "arrived"),
        [
            (DeliveryFaults(lose=1), []),
            (DeliveryFaults(duplicate=1), [1, 1, 2, 2, 3, 3, 4, 4]),
            (DeliveryFaults(reorder=1), [2, 1, 4, 3]),
            (DeliveryFaults(delay_seconds=0.2), [1, 2, 3, 4]),
        ],
        ids=str,
    )
    def test_all_of_them_can_go_wrong(
        self,
        instance: ServiceNow,
        listener: Listener,
        notifier: Notifier,
        ours: str,
        faults: DeliveryFaults,
        arrived: list[int],
    ) -> None:
        notifier.faults = faults
        notifier.hold()
        self.change(instance, 4)
        notifier.release()
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == arrived
        assert [lost.fields["mod_count"] for lost in notifier.lost] == (
            [] if arrived else [1, 2, 3, 4]
        )

    def test_the_last_one_is_sent_although_nothing_overtakes_it(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        notifier.faults = DeliveryFaults(reorder=1)
        self.change(instance, 1)
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [1]

    def test_a_share_of_them_can_and_the_seed_says_which(
        self, instance: ServiceNow, listener: Listener, ours: str
    ) -> None:
        counts: list[list[int]] = []
        for seed in (7, 7, 8):
            notifier = Notifier(
                listener.url,
                SECRET,
                faults=DeliveryFaults(lose=0.2, duplicate=0.2, reorder=0.2),
                seed=seed,
                held=True,
            )
            instance.start_notifying(notifier)
            before = int(instance.rows("incident")[0]["sys_mod_count"])
            self.change(instance, 100)
            notifier.release()
            notifier.wait_until_idle(SECONDS_MAX)
            counts.append([count - before for count in listener.counts])
            listener.heard.clear()
            assert 10 <= len(notifier.lost) <= 30

        assert counts[0] == counts[1]
        assert counts[0] != counts[2]
        assert counts[0] != sorted(counts[0])

    def test_a_delay_is_waited_for(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        notifier.faults = DeliveryFaults(delay_seconds=1000)
        self.change(instance, 1)
        with pytest.raises(TimeoutError):
            notifier.wait_until_idle(0.2)

        assert listener.heard == []

    def test_what_is_held_back_is_sent_when_it_is_released(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        notifier.hold()
        self.change(instance, 2)
        with pytest.raises(TimeoutError):
            notifier.wait_until_idle(0.2)
        before = listener.counts
        notifier.release()
        notifier.wait_until_idle(SECONDS_MAX)

        assert (before, listener.counts) == ([], [1, 2])

    def test_what_waits_when_the_instance_ends_is_lost(
        self, listener: Listener, clock: Time
    ) -> None:
        notifier = Notifier(listener.url, SECRET, held=True)
        with ServiceNow(clock=clock, notify=notifier) as instance:
            instance.tables.insert("incident", {"sys_id": HEX}, by="admin")
            self.change(instance, 1)

        assert (listener.heard, notifier.waiting) == ([], 1)

    @pytest.mark.parametrize(
        "wrong",
        [{"lose": 1.1}, {"duplicate": -0.1}, {"reorder": float("nan")}, {"delay_seconds": -1}],
    )
    def test_a_share_that_is_none_is_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="are shares from 0 to 1"):
            DeliveryFaults(**wrong)


class TestWhoPlays:
    def test_what_a_person_does_on_the_pages_is_told(
        self, instance: ServiceNow, listener: Listener, notifier: Notifier, ours: str
    ) -> None:
        page = f"{instance.url}/incidents/{instance.rows('incident')[0]['number']}"
        requests.post(f"{page}/comment", data={"text": "It burns"}, timeout=5)
        requests.post(f"{page}/resolve", data=CLOSE, timeout=5)
        notifier.wait_until_idle(SECONDS_MAX)

        assert listener.counts == [1, 2]


class TestWhatIsNoRule:
    @pytest.mark.parametrize(
        ("rule", "sentence"),
        [
            ({"table": "incidents"}, "There is no table incidents"),
            ({"columns": ("stat",)}, "incident.stat is no column to watch"),
            ({"columns": ("comments",)}, "incident.comments is no column to watch"),
            ({"journals": ("state",)}, "incident.state is no journal"),
            ({"filter": "sys_tags.x=1"}, "The filter cannot be used"),
        ],
    )
    def test_it_is_refused_at_the_start(
        self, clock: Time, rule: dict[str, Any], sentence: str
    ) -> None:
        notify = Notifier("http://127.0.0.1:9/", SECRET, tables=[NotifiedTable(**rule)])

        with pytest.raises(ValueError, match=sentence), ServiceNow(clock=clock, notify=notify):
            pass


class TestFromElsewhere:
    def test_it_is_switched_on_and_watched_over_http(
        self, api: Api, instance: ServiceNow, listener: Listener
    ) -> None:
        control = f"{instance.url}/sandbox/notifications"
        sent = {"url": listener.url, "secret": SECRET, "tables": [{"columns": ["state"]}]}
        absent = requests.get(control, timeout=5).status_code
        answers = [
            requests.post(control, json=sent, timeout=5).status_code,
            requests.put(control, json={"held": True, "duplicate": 1}, timeout=5).status_code,
        ]
        api.make(sys_id=HEX)
        instance.change("incident", HEX, assignment_group="Network")
        instance.change("incident", HEX, state="In Progress")
        held = requests.get(control, timeout=5).json()
        requests.put(control, json={"lose": 1}, timeout=5)
        instance.change("incident", HEX, state="On Hold", hold_reason="1", comments="Wait")
        assert instance.notifier is not None
        instance.notifier.wait_until_idle(SECONDS_MAX)

        told = {"version": 1, "table": "incident", "sys_id": HEX}
        assert (absent, answers) == (404, [200, 200])
        assert held == {"waiting": 2, "sent": [], "lost": []}
        assert requests.get(control, timeout=5).json() == {
            "waiting": 0,
            "sent": [{**told, "mod_count": 2, "status": 200, "answer": "{}"}] * 2,
            "lost": [{**told, "mod_count": 3}],
        }

    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": 1},
            {"url": "ftp://x"},
            {"secret": None},
            {"tables": {}},
            {"tables": [1]},
            {"tables": [{"table": "incidents"}]},
            {"tables": [{"table": ["incident"]}]},
            {"tables": [{"columns": "state"}]},
            {"tables": [{"filter": 1}]},
            {"tables": [{"x": 1}]},
        ],
    )
    def test_what_is_no_rule_is_400(
        self, instance: ServiceNow, listener: Listener, wrong: dict[str, Any]
    ) -> None:
        sent = {"url": listener.url, "secret": SECRET} | wrong

        answer = requests.post(f"{instance.url}/sandbox/notifications", json=sent, timeout=5)

        assert answer.status_code == 400
        assert answer.json()["error"]
        assert instance.notifier is None

    @pytest.mark.parametrize("wrong", [{"lose": 2}, {"lose": "x"}, {"x": 1}])
    def test_a_fault_of_delivery_that_is_none_is_400(
        self, instance: ServiceNow, notifier: Notifier, wrong: dict[str, Any]
    ) -> None:
        answer = requests.put(f"{instance.url}/sandbox/notifications", json=wrong, timeout=5)

        assert answer.status_code == 400
        assert notifier.faults == DeliveryFaults()


class TestCommandLine:
    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """What refuses to start, and in which words."""
        return subprocess.run(
            [sys.executable, "-m", "sandbox.servicenow", "--port=0", *options],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def test_options_name_the_app_and_what_it_is_told(self, listener: Listener) -> None:
        command = [
            *(sys.executable, "-m", "sandbox.servicenow", "--port=0"),
            *(f"--notify-url={listener.url}", f"--notify-secret={SECRET}"),
            *("--notify-table=incident", "--notify-table=problem", "--notify-insert"),
            *("--notify-columns=short_description", "--notify-filter=correlation_id=shop:1"),
        ]
        with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            url = lines[0].split()[3]
            for table, correlation in (
                ("incident", "shop:1"),
                ("problem", "shop:1"),
                ("problem", "x"),
            ):
                made = requests.post(
                    f"{url}/api/now/table/{table}",
                    json={"correlation_id": correlation},
                    auth=("svc.hasura", "sandbox"),
                    timeout=5,
                )
                assert made.status_code == 201
            requests.post(f"{url}/incidents/INC0010001/comment", data={"text": "x"}, timeout=5)
            listener.wait_for(1)
            process.terminate()

        assert listener.url in "".join(lines)
        assert [(body["table"], body["mod_count"]) for body in listener.bodies] == [("incident", 1)]

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--notify-url=http://x"], "--notify-url and --notify-secret go together"),
            (["--notify-secret=x"], "--notify-url and --notify-secret go together"),
            (["--notify-url=x", "--notify-secret=x"], "say http://… or https://…"),
            (
                ["--notify-url=http://x", "--notify-secret=x", "--notify-table=x"],
                "There is no table x.",
            ),
        ],
    )
    def test_a_wrong_option_is_a_sentence(self, options: list[str], sentence: str) -> None:
        ended = self.run(*options)

        assert ended.returncode != 0
        assert sentence in ended.stderr
        assert "Traceback" not in ended.stderr
