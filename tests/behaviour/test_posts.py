"""Other systems are told of a row: each with its own fate, whatever the others do."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trustme
from standardwebhooks import Webhook

from function.core.outcome import Status
from function.rules.post import TIMEOUT_SECONDS_MIN
from function.targets.post.client import BODY_BYTES_MAX
from function.targets.post.guarded import CALLS_AT_ONCE, PROBE_WAIT_SECONDS
from tests.answers import Answer, Seen, Server, http
from tests.payloads import TRACE_ID, delete, insert, update
from tests.receiver import TAKEN, Receiver
from tests.world import POST_SECRET, POST_TOKEN, ROW_TEXT, Answered, World, leaks, outage

AWAY = http(503, "try later")
ENV = "version: 1\nenv: [A_URL, B_URL, C_URL, POST_SECRET, POST_TOKEN]\nrules:\n"
FIRST, LATER, LAST = "2026-03-04T05:06:08", "2026-03-04T05:06:09", "2026-03-04T05:06:10"


def rule(name: str, *lines: str, url: str = "", body: str = '{title: "{{ row.title }}"}') -> str:
    """A rule with a post to the receiver of this machine, and *lines* in it."""
    text = f"""\
  - name: {name}
    from: hasura/public.outages
    post:
      url: "{{{{ env.{url or name.upper()}_URL }}}}"
      allow_private: true
      body: {body}
"""
    return text + "".join(f"      {line}\n" for line in lines)


ONE = ENV + rule("a")
THREE = ENV + rule("a") + rule("b") + rule("c")
KEYED = ENV + rule("a", "key: '{{ row.id }}'")
TICKET = """\
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
"""


class Site:
    """A world, and the three receivers A, B and C that its rules name."""

    def __init__(self, rules: str, **settings: Any) -> None:
        self.a, self.b, self.c = Receiver(), Receiver(), Receiver()
        self._rules = rules
        self._settings = settings

    def __enter__(self) -> "Site":
        self._open = ExitStack()
        for receiver in (self.a, self.b, self.c):
            self._open.enter_context(receiver)
        environ = {
            "A_URL": self.a.url,
            "B_URL": self.b.url,
            "C_URL": self.c.url,
            "POST_SECRET": POST_SECRET,
            "POST_TOKEN": POST_TOKEN,
        }
        self.world = self._open.enter_context(
            World(rules=self._rules, **{**environ, **self._settings})
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def again(self, body: Callable[[int], bytes], *, times: int) -> Answered:
        """Redeliver an event as Hasura does, after each Retry-After, until it is done or that many
        times."""
        for retry in range(times):
            answer = self.world.send(body(retry))
            if answer.retry_after is None:
                break
            self.world.clock.advance(answer.retry_after + 1)
        return answer


def created(retry: int = 0, *, id: str = "e", **columns: object) -> bytes:
    return insert("outages", outage(**columns), id=id, created_at=FIRST, current_retry=retry)


def statuses(answer: Answered) -> list[str]:
    return [outcome["status"] for outcome in answer.body["outcomes"]]


def reasons(answer: Answered) -> list[str | None]:
    return [outcome["reason"] for outcome in answer.body["outcomes"]]


# Each target has its own fate


def test_three_targets_and_the_middle_one_down_over_twenty_redeliveries() -> None:
    with Site(THREE, RETRY_FOR_SECONDS="2000000") as site:
        site.b.answer = AWAY
        waiting = site.again(created, times=20)
        tried = len(site.b.got)
        site.b.answer = TAKEN
        done = site.again(lambda retry: created(20 + retry), times=2)

        assert (waiting.status, statuses(waiting)) == (503, ["unchanged", "retrying", "unchanged"])
        assert (len(site.a.got), tried, len(site.c.got)) == (1, 20, 1)
        assert (done.status, len(site.b.got)) == (200, 21)
        assert len(set(site.b.ids)) == 1
        assert len({*site.a.ids, *site.b.ids, *site.c.ids}) == 3


def test_a_target_that_asks_for_an_hour_does_not_delay_one_that_failed_for_seconds() -> None:
    with Site(ENV + rule("a") + rule("b")) as site:
        site.a.answer = http(503, "", Retry_After="3600")
        site.b.answer = AWAY
        first = site.world.send(created())
        assert first.retry_after is not None
        assert first.retry_after <= 6
        site.a.answer = site.b.answer = TAKEN
        site.world.clock.advance(first.retry_after + 1)
        second = site.world.send(created(1))

        assert statuses(second) == ["retrying", "sent"]
        assert (len(site.a.got), len(site.b.got)) == (1, 2)
        assert second.retry_after is not None
        assert second.retry_after > 3500
        site.world.clock.advance(second.retry_after)
        assert statuses(site.world.send(created(2))) == ["sent", "unchanged"]
        assert (len(site.a.got), len(site.b.got)) == (2, 2)


def test_a_dead_letter_is_that_target_s_alone_and_replays_with_the_same_id() -> None:
    with Site(THREE) as site:
        site.b.answer = http(400, "no such plan")
        dead = site.world.send(created())
        site.b.answer = TAKEN
        kept = site.world.send(created(1))
        replayed = site.world.send(created())

        assert (dead.status, statuses(dead)) == (422, ["sent", "dead", "sent"])
        assert (kept.status, statuses(kept)) == (422, ["unchanged", "dead", "unchanged"])
        assert (replayed.status, statuses(replayed)) == (200, ["unchanged", "sent", "unchanged"])
        assert [len(each.got) for each in (site.a, site.b, site.c)] == [1, 2, 1]
        assert len(set(site.b.ids)) == 1
        gave_up, over = site.world.mails
        assert "gave up on b/e: 127.0.0.1 refuses it" in str(gave_up["Subject"])
        assert "127.0.0.1 said:\n  > no such plan" in gave_up.get_content()
        assert "over after" in str(over["Subject"])


def test_rules_of_one_event_are_delivered_side_by_side() -> None:
    def slow(sock: socket.socket, seen: Seen) -> bool:
        time.sleep(0.6)
        sock.sendall(TAKEN)
        return True

    with Site(THREE) as site:
        site.a.answer = site.b.answer = site.c.answer = slow
        began = time.monotonic()
        answer = site.world.send(created())

        assert statuses(answer) == ["sent"] * 3
        assert time.monotonic() - began < 1.5


def test_a_410_says_to_remove_the_rule() -> None:
    with Site(ONE) as site:
        site.a.answer = http(410)
        answer = site.world.send(created())

        assert (answer.status, answer.said) == (422, "dead target_gone")
        assert "remove this rule" in " ".join(site.world.mails[0].get_content().split())


# What is kept in step


def test_with_a_key_the_target_ends_with_the_last_state_and_never_goes_back() -> None:
    one, two = outage(title="one"), outage(title="two")
    with Site(KEYED) as site:
        site.world.send(insert("outages", outage(title="none"), id="e0", created_at=FIRST))
        site.a.answer = AWAY
        first = site.world.send(
            update("outages", outage(title="none"), one, id="e1", created_at=LATER)
        )
        site.a.answer = TAKEN
        second = site.world.send(update("outages", one, two, id="e2", created_at=LAST))
        late = site.world.send(
            update("outages", outage(title="none"), one, id="e1", created_at=LATER, current_retry=1)
        )

        assert (first.said, second.said) == ("retrying target_unavailable", "sent")
        assert (late.status, late.said) == (200, "superseded")
        assert [body["title"] for body in site.a.bodies] == ["none", "one", "two"]


def test_with_the_event_as_key_the_target_gets_each() -> None:
    one, two = outage(title="one"), outage(title="two")
    with Site(ONE) as site:
        site.a.answer = AWAY
        site.world.send(update("outages", outage(title="none"), one, id="e1", created_at=LATER))
        site.a.answer = TAKEN
        site.world.send(update("outages", one, two, id="e2", created_at=LAST))
        late = site.world.send(
            update("outages", outage(title="none"), one, id="e1", created_at=LATER, current_retry=1)
        )

        assert late.said == "sent"
        assert [body["title"] for body in site.a.bodies] == ["one", "two", "one"]
        assert len(set(site.a.ids)) == 2


def test_an_older_event_that_arrives_late_is_superseded() -> None:
    one, two = outage(title="one"), outage(title="two")
    with Site(KEYED) as site:
        site.world.send(update("outages", one, two, id="e2", created_at=LAST))
        late = site.world.send(insert("outages", one, id="e1", created_at=FIRST))

        assert late.said == "superseded"
        assert [body["title"] for body in site.a.bodies] == ["two"]


@pytest.mark.parametrize("order", ["created_at", "order_by"])
def test_an_older_event_is_superseded_where_the_row_came_back_to_its_state(order: str) -> None:
    opened = outage(status="open", updated_at="2026-03-04T05:06:08")
    closed = outage(status="closed", updated_at="2026-03-04T05:06:09")
    again = opened
    times = [FIRST, LATER, LAST]
    lines = ["key: '{{ row.id }}'"]
    if order == "order_by":
        # The clock of the events says nothing, and the row's own does.
        lines.append("order_by: event.session_variables['x-at']")
        times = [FIRST] * 3
    events = [
        insert("outages", opened, id="e1", created_at=times[0], session_variables={"x-at": "1"}),
        update(
            "outages", opened, closed, id="e2", created_at=times[1], session_variables={"x-at": "2"}
        ),
        update(
            "outages", closed, again, id="e3", created_at=times[2], session_variables={"x-at": "3"}
        ),
    ]
    with Site(ENV + rule("a", *lines, body='"{{ event.id }} {{ op }}"')) as site:
        site.a.answer = AWAY
        site.world.send(events[0])
        site.a.answer = TAKEN
        for each in events[1:]:
            assert site.world.send(each).said == "sent"
        site.world.clock.advance(60)
        late = site.world.send(events[0])

        assert (late.status, late.said) == (200, "superseded")
        assert [seen.body for seen in site.a.got] == [b"e1 INSERT", b"e2 UPDATE", b"e3 UPDATE"]


def test_two_calls_for_one_key_never_overlap() -> None:
    def slow(sock: socket.socket, seen: Seen) -> bool:
        time.sleep(0.1)
        sock.sendall(TAKEN)
        return True

    rows = [outage(title=str(number)) for number in range(6)]
    bodies = [
        update("outages", old, new, id=f"e{new['title']}", created_at=f"2026-03-04T05:06:1{number}")
        for number, (old, new) in enumerate(pairwise(rows))
    ]
    with Site(KEYED, instances=2) as site:
        site.a.answer = slow

        def send(numbered: tuple[int, bytes]) -> Answered:
            number, body = numbered
            return site.world.send(body, instance=number % 2)

        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(send, enumerate(bodies)))

        assert {answer.status for answer in answers} <= {200, 503}
        assert site.a.server.in_flight_max == 1
        sent = [int(body["title"]) for body in site.a.bodies]
        assert sent[-1] == 5
        assert sent == sorted(sent)


def test_a_deleted_row_is_told_too() -> None:
    body = '{op: "{{ op }}", id: "{{ row.id }}"}'
    with Site(ENV + rule("a", "key: '{{ row.id }}'", body=body)) as site:
        site.world.send(created())
        site.world.send(delete("outages", outage(), created_at=LAST))

        assert site.a.bodies == [{"op": "INSERT", "id": 1}, {"op": "DELETE", "id": 1}]


def test_where_when_is_false_nothing_is_sent_and_nothing_is_kept() -> None:
    rules = ENV + rule("a").replace("    post:", "    when: row.severity == 'low'\n    post:")
    with Site(rules) as site:
        answers = [
            site.world.send(created()),
            site.world.send(update("outages", outage(), outage(title="x"), created_at=LATER)),
        ]

        assert [answer.said for answer in answers] == ["skipped when_false"] * 2
        assert site.a.got == []
        assert site.world.query("SELECT * FROM servicenow.delivery") == []
        assert site.world.query("SELECT * FROM servicenow.ticket") == []


# What is sent

TEXT = 'a=&b+c%20"d"\\ 🦀🏳️‍🌈 שלום مرحبا \u202e end\u2028'


def test_a_body_arrives_byte_for_byte_and_the_public_library_verifies_it() -> None:
    signed = rule("a", "sign: standard", "secret: POST_SECRET", body='{t: "{{ row.title }}"}')
    with Site(ENV + signed) as site:
        answer = site.world.send(created(title=TEXT))
        [seen] = site.a.got

        assert answer.said == "sent"
        assert seen.body == json.dumps({"t": TEXT}, ensure_ascii=False).encode()
        assert seen.headers["content-type"] == "application/json"
        Webhook(POST_SECRET).verify(seen.body, seen.headers, json_parse=False)


def test_an_independent_hmac_verifies_the_aws_form() -> None:
    signed = rule("a", "sign: aws", "secret: POST_SECRET", body='{t: "{{ row.title }}"}')
    with Site(ENV + signed) as site:
        site.world.send(created(title=TEXT))
        [seen] = site.a.got
        timestamp = seen.headers["x-amzn-event-timestamp"]
        mac = hmac.digest(
            POST_SECRET.encode(), f"{timestamp}:".encode() + seen.body, hashlib.sha256
        )

        assert seen.headers["x-amzn-event-signature"] == base64.b64encode(mac).decode()


def test_headers_are_those_of_the_rule() -> None:
    headers = (
        'headers: {X-Id: "{{ event.correlation_id }}", content-type: text/plain, '
        'Authorization: "Bearer {{ env.POST_TOKEN }}", X-Name: "{{ row.title }}"}'
    )
    with Site(ENV + rule("a", headers, body='"{{ row.title }}"')) as site:
        site.world.send(created(title=" Größe 🦀 "))
        [seen] = site.a.got

        assert seen.headers["x-id"] == TRACE_ID
        assert seen.headers["authorization"] == f"Bearer {POST_TOKEN}"
        assert seen.headers["content-type"] == "text/plain"
        assert seen.headers["x-name"].encode("latin-1") == "Größe 🦀".encode()
        assert seen.body == " Größe 🦀 ".encode()


def test_a_row_cannot_write_another_header() -> None:
    with Site(ENV + rule("a", 'headers: {X-Name: "{{ row.title }}"}')) as site:
        answer = site.world.send(created(title="a\r\nX-Evil: 1"))

        assert (answer.status, answer.said) == (422, "dead bad_mapping")
        assert site.a.got == []


def test_the_bytes_of_each_attempt_are_signed_anew_under_the_same_id() -> None:
    with Site(ENV + rule("a", "sign: standard", "secret: POST_SECRET")) as site:
        site.a.answer = AWAY
        site.world.send(created())
        site.a.answer = TAKEN
        time.sleep(1.1)
        site.world.clock.advance(10)
        site.world.send(created(1))
        first, second = site.a.got

        for seen in (first, second):
            Webhook(POST_SECRET).verify(seen.body, seen.headers)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


# What is answered


def cut_after_status(sock: socket.socket, seen: Seen) -> bool:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    return False


@pytest.mark.parametrize(
    "answer",
    [TAKEN, http(200, "x" * (2 * BODY_BYTES_MAX)), http(202, "<html>"), cut_after_status],
    ids=["empty", "large", "page", "cut"],
)
def test_what_follows_a_2xx_does_not_matter(answer: bytes | Answer) -> None:
    with Site(ONE) as site:
        site.a.answer = answer

        assert site.world.send(created()).said == "sent"


# After the status, which is followed by what is none of HTTP, or more than is read.
BROKEN_HEADS = {
    "no colon": b"Bad Header Line\r\nContent-Length: 0\r\n\r\n",
    "blank before the colon": b"X-A : 1\r\nContent-Length: 0\r\n\r\n",
    "folded first": b" folded\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "no length": b"Content-Length: abc\r\n\r\n",
    "long line": b"X-L: " + b"x" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "many lines": b"X-N: 1\r\n" * 150 + b"Content-Length: 0\r\n\r\n",
    "bad chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bad gzip": b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "cut": b"X-A: 1\r\n",
}


@pytest.mark.parametrize("head", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
@pytest.mark.parametrize(
    ("status", "said"), [(b"200 OK", "sent"), (b"400 No", "dead target_refused")]
)
def test_the_status_counts_whatever_is_wrong_with_the_headers(
    head: bytes, status: bytes, said: str
) -> None:
    def once(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(b"HTTP/1.1 " + status + b"\r\n" + head)
        return False

    with Site(ONE) as site:
        site.a.answer = once
        answers = [site.world.send(created(id=f"e{number}", number=number)) for number in range(2)]

        assert [answer.said for answer in answers] == [said, said]


def test_the_status_counts_though_its_headers_never_end() -> None:
    def hang(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\nX-A")
        return not site.a.server.stopping.wait(10)

    with Site(ENV + rule("a", "timeout_seconds: 0.3")) as site:
        site.a.answer = hang

        assert site.world.send(created()).said == "sent"


@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n",
        b"HTTP/1.1 102 Processing\r\n\r\n" * 3,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
    ],
    ids=["103", "102", "100"],
)
def test_an_interim_answer_is_not_taken_for_the_last_one(interim: bytes) -> None:
    with Site(ONE) as site:
        site.a.answer = interim + TAKEN
        taken = [site.world.send(created(id=f"e{number}", number=number)) for number in range(2)]
        site.a.answer = interim + http(404)
        refused = site.world.send(created(id="last"))

        assert [answer.said for answer in taken] == ["sent", "sent"]
        assert refused.said == "dead target_refused"
        assert {seen.connection for seen in site.a.got} == {1}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(302, "", Location="https://example.com/"), "dead target_redirects"),
        (http(404, "x" * (2 * BODY_BYTES_MAX)), "dead target_refused"),
        (http(401, "who?"), "dead target_unauthorized"),
        (http(409), "retrying target_not_ready"),
        (http(429, "", Retry_After="60"), "retrying target_rate_limited"),
        (None, "retrying target_unreachable"),
        (b"no HTTP at all\r\n\r\n", "retrying target_unreachable"),
    ],
    ids=["redirect", "large", "401", "409", "429", "cut", "garbage"],
)
def test_each_answer_has_its_outcome(answer: bytes | None, said: str) -> None:
    with Site(ONE) as site:
        site.a.answer = answer

        assert site.world.send(created()).said == said
        assert len(site.a.got) == 1


def test_a_target_that_hangs_is_given_its_own_time_and_no_more() -> None:
    with Site(ENV + rule("a", "timeout_seconds: 0.3") + TICKET) as site:
        site.a.answer = lambda sock, seen: not site.a.server.stopping.wait(10)
        began = time.monotonic()
        answer = site.world.send(created())

        assert time.monotonic() - began < 3
        assert statuses(answer) == ["retrying", "created"]
        assert reasons(answer) == ["target_timeout", None]


def test_the_shortest_time_that_a_rule_may_give_is_enough_for_a_call() -> None:
    with Site(ENV + rule("a", f"timeout_seconds: {TIMEOUT_SECONDS_MIN}")) as site:
        assert site.world.send(created()).outcome["reason"] != "deadline"


def test_a_port_where_nobody_listens_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Site(ONE, A_URL=f"http://127.0.0.1:{port}/") as site:
        assert site.world.send(created()).said == "retrying target_unreachable"


# A target that does not work is held


def test_after_five_failures_in_a_row_no_instance_calls_it_until_one_event_has_passed() -> None:
    with Site(ONE, instances=2) as site:
        site.a.answer = AWAY
        for number in range(5):
            site.world.send(created(id=f"e{number}", number=number))
        held = [site.world.send(created(id=f"h{n}", number=n), instance=n) for n in (0, 1)]
        assert len(site.a.got) == 5
        assert [answer.said for answer in held] == ["retrying target_unavailable"] * 2
        assert all((answer.retry_after or 0) > 10 for answer in held)

        site.world.clock.advance(16)
        closed = site.world.send(created(1, id="e4", number=4))
        assert (closed.status, len(site.a.got)) == (503, 5)

        site.a.answer = TAKEN
        probe = site.world.send(created(id="new", number=9), instance=1)
        assert (probe.said, len(site.a.got)) == ("sent", 6)
        assert site.world.send(created(2, id="e4", number=4)).said == "sent"


def test_each_probe_that_fails_doubles_the_hold_and_one_that_failed_before_comes_last() -> None:
    with Site(ONE) as site:
        site.a.answer = AWAY
        for number in range(5):
            site.world.send(created(id=f"e{number}", number=number))
        site.world.clock.advance(16)
        site.world.send(created(id="probe", number=9))
        assert len(site.a.got) == 6
        site.world.clock.advance(25)
        site.world.send(created(id="other", number=10))
        assert len(site.a.got) == 6

        site.world.clock.advance(16)
        site.a.answer = TAKEN
        assert site.world.send(created(1, id="e0", number=0)).said == "sent"


def test_a_probe_that_passes_ends_the_hold_though_an_older_call_fails_meanwhile() -> None:
    probed = threading.Event()

    def answer(sock: socket.socket, seen: Seen) -> bool:
        if b"old" in seen.body:
            probed.wait(10)
            sock.sendall(AWAY)
            return True
        if b"probe" in seen.body:
            probed.set()
            time.sleep(0.5)
        sock.sendall(AWAY if b"fails" in seen.body else TAKEN)
        return True

    with Site(ONE) as site:
        site.a.answer = answer
        with ThreadPoolExecutor(2) as pool:
            old = pool.submit(site.world.send, created(id="old", title="old"))
            while not site.a.got:
                time.sleep(0.01)
            for number in range(5):
                site.world.send(created(id=f"e{number}", title="fails", number=number))
            site.world.clock.advance(16)
            probe = pool.submit(site.world.send, created(id="probe", title="probe"))
            said = [old.result().said, probe.result().said]
        after = site.world.send(created(id="after", title="fine"))

        assert said == ["retrying target_unavailable", "sent"]
        assert after.said == "sent"


@pytest.mark.parametrize("asked", ["0", "Tue, 14 Nov 2023 22:13:20 GMT"])
def test_a_rate_limit_whose_time_is_over_holds_nobody(asked: str) -> None:
    with Site(ONE) as site:
        site.a.answer = http(429, "", Retry_After=asked)
        limited = site.world.send(created())
        site.a.answer = TAKEN

        assert limited.said == "retrying target_unavailable"
        assert site.world.send(created(id="next")).said == "sent"


def test_what_fails_again_for_one_event_holds_nobody() -> None:
    def poisoned(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(AWAY if b"poison" in seen.body else TAKEN)
        return True

    with Site(ONE, RETRY_FOR_SECONDS="2000000") as site:
        site.a.answer = poisoned
        site.again(lambda retry: created(retry, title="poison"), times=9)

        assert len(site.a.got) == 9
        assert site.world.send(created(id="sound")).said == "sent"


def test_the_hold_of_a_target_that_no_rule_names_any_more_is_forgotten() -> None:
    with Site(ENV + rule("a") + rule("b")) as site:
        site.a.answer = http(429, "", Retry_After="60")
        for number in range(5):
            site.b.answer = AWAY
            site.world.send(created(id=f"e{number}", number=number))
        held = site.world.query("SELECT kind FROM servicenow.hold ORDER BY kind")
        site.world.clock.advance(91 * 86400)
        site.world.ledger.forget_older_than(90 * 86400)

        assert [row["kind"] for row in held] == ["down", "rate"]
        assert site.world.query("SELECT * FROM servicenow.hold") == []


def test_a_target_whose_name_nobody_looks_up_in_time_is_held() -> None:
    asked = []

    def hang(host: str, port: int, **_: Any) -> Sequence[tuple[Any, ...]]:
        asked.append(host)
        time.sleep(0.6)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with Site(ENV + rule("a", "timeout_seconds: 0.2")) as site:
        site.world.resolve = hang
        site.world.start(A_URL="http://slow.example.com/")
        began = time.monotonic()
        answers = [site.world.send(created(id=f"e{number}", number=number)) for number in range(8)]

        assert {answer.said for answer in answers} == {"retrying target_unreachable"}
        assert len(asked) == 5
        assert time.monotonic() - began < 2


def test_people_are_told_of_a_hold_by_host_and_address_without_a_secret_of_the_url() -> None:
    with Site(ONE) as site:
        site.world.stop()
        secret_url = (
            site.a.url.replace("http://", f"http://user:{POST_TOKEN}@") + f"?k={POST_TOKEN}"
        )
        site.world.start(A_URL=secret_url, NOTIFY_AFTER_SECONDS="1")
        site.a.answer = AWAY
        for number in range(6):
            site.world.send(created(id=f"e{number}", number=number))
        site.world.clock.advance(3)
        site.world.send(created(1, id="e5", number=5))
        site.a.answer = TAKEN
        site.world.clock.advance(40)
        site.world.send(created(id="probe", number=9))

        subjects = [str(mail["Subject"]) for mail in site.world.mails]
        texts = " ".join(" ".join(mail.get_content().split()) for mail in site.world.mails)
        assert any("calls to 127.0.0.1 are held" in subject for subject in subjects)
        assert any("over after" in subject for subject in subjects)
        assert "http://127.0.0.1:" in texts
        assert POST_TOKEN not in texts
        assert "python -m function check" not in texts


def test_nobody_waits_for_a_probe_that_hangs() -> None:
    with Site(ENV + rule("a", "timeout_seconds: 3")) as site:
        site.a.answer = AWAY
        for number in range(5):
            site.world.send(created(id=f"e{number}", number=number))
        site.world.clock.advance(16)
        site.a.answer = lambda sock, seen: not site.a.server.stopping.wait(20)
        with ThreadPoolExecutor(1) as pool:
            probe = pool.submit(site.world.send, created(id="probe"))
            while len(site.a.got) < 6:
                time.sleep(0.01)
            time.sleep(PROBE_WAIT_SECONDS)
            began = time.monotonic()
            answers = [site.world.send(created(id=f"w{number}")) for number in range(10)]
            took = time.monotonic() - began
            site.a.server.stopping.set()
            probe.result()

        assert {answer.said for answer in answers} == {"retrying target_unavailable"}
        assert took < 5 * PROBE_WAIT_SECONDS
        assert len(site.a.got) == 6


def test_one_url_in_two_variables_is_one_target_with_its_calls_at_a_time() -> None:
    with Site(ENV + rule("a", "timeout_seconds: 2.5") + rule("b", "timeout_seconds: 2.5")) as site:
        site.world.start(B_URL=site.a.url)
        site.a.answer = lambda sock, seen: not site.a.server.stopping.wait(5)
        with ThreadPoolExecutor(2 * CALLS_AT_ONCE) as pool:
            bodies = [created(id=f"e{number}", number=number) for number in range(40)]
            list(pool.map(site.world.send, bodies))

        assert site.a.server.in_flight_max == CALLS_AT_ONCE


def test_a_hanging_target_does_not_hold_up_tickets() -> None:
    """Bounded here: the measurement of a thousand events is bench's."""
    with Site(ENV + rule("a", "timeout_seconds: 2").replace("outages", "orders") + TICKET) as site:
        world = site.world
        site.a.answer = lambda sock, seen: not site.a.server.stopping.wait(10)
        world.send(created(id="first", number=0))
        answers: list[Answered] = []

        def hang(number: int) -> None:
            answers.append(world.send(insert("orders", outage(id=number), id=f"o{number}")))

        with ThreadPoolExecutor(60) as pool:
            hanging = [pool.submit(hang, number) for number in range(60)]
            time.sleep(0.3)
            seconds = []
            for number in range(10):
                began = time.monotonic()
                ticket = world.send(
                    insert("outages", outage(id=100 + number), id=f"t{number}", created_at=FIRST)
                )
                seconds.append(time.monotonic() - began)
                assert ticket.said == "created"
            for each in hanging:
                each.result()

        assert max(seconds) < 2
        assert len(answers) == 60
        assert {answer.status for answer in answers} == {503}
        assert len(site.a.got) <= CALLS_AT_ONCE
        assert "target_busy" in {answer.outcome["reason"] for answer in answers}


def test_a_function_that_ends_leaves_no_connection_to_a_target() -> None:
    kept = []

    def keep(sock: socket.socket, seen: Seen) -> bool:
        kept.append(sock)
        sock.sendall(TAKEN)
        return True

    with Site(ONE) as site:
        site.a.answer = keep
        site.world.send(created())
        is_kept = kept[0].fileno() != -1
        site.world.stop()
        until = time.monotonic() + 2
        while kept[0].fileno() != -1 and time.monotonic() < until:
            time.sleep(0.01)

        assert is_kept
        assert kept[0].fileno() == -1


# Where a post may go

REFUSED = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata over TLS": "https://169.254.169.254/",
    "loopback": "https://[::1]:{port}/",
    "hexadecimal": "https://0x7f000001:{port}/",
    "decimal": "https://2130706433:{port}/",
    "mapped": "https://[::ffff:10.0.0.1]/",
    "NAT64": "https://[64:ff9b::a00:1]/",
    "6to4": "https://[2002:a00:1::]/",
    "a name": "https://orders.example.com:{port}/",
    "a name of metadata": "https://metadata.example.com/",
    "a name of ours": "https://both.example.com:{port}/",
    "localhost": "https://localhost:{port}/",
    "http": "http://orders.example.org/",
}
NAMES = {
    "orders.example.com": ["10.0.0.1"],
    "metadata.example.com": ["169.254.169.254"],
    "both.example.com": ["8.8.8.8", "127.0.0.1"],
}


def resolve(host: str, port: int, **_: Any) -> Sequence[tuple[Any, ...]]:
    """A name service of the test's own, where an address is itself."""
    if host not in NAMES:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in NAMES[host]]


@pytest.fixture
def watched() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, on which nobody may be reached, and what came there."""
    came: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.05)
        stopping = threading.Event()

        def accept() -> None:
            while not stopping.is_set():
                try:
                    with listener.accept()[0] as sock:
                        came.append(sock.recv(100))
                except OSError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield int(listener.getsockname()[1]), came
        stopping.set()
        thread.join()


@pytest.mark.parametrize("written", REFUSED.values(), ids=REFUSED)
def test_what_is_not_public_is_refused_by_name_and_kept_as_a_dead_letter(
    watched: tuple[int, list[bytes]], written: str
) -> None:
    port, came = watched
    public = ENV + rule("a").replace("      allow_private: true\n", "")
    with Site(public, A_URL=written.format(port=port)) as site:
        site.world.resolve = resolve
        site.world.start()
        answer = site.world.send(created())

        assert (answer.status, answer.said) == (422, "dead target_address")
        assert "A_URL" in " ".join(site.world.mails[0].get_content().split())
        [letter] = site.world.ledger.deliveries.dead_letters()
        assert (letter.rule, letter.reason) == ("a", "target_address")
        assert came == []


def test_a_redirect_to_a_private_address_is_refused_by_name(
    watched: tuple[int, list[bytes]],
) -> None:
    port, came = watched
    with Site(ONE) as site:
        for location in ("http://169.254.169.254/", f"http://127.0.0.1:{port}/"):
            site.a.answer = http(307, "", Location=location)
            answer = site.world.send(created(id=location))
            assert (answer.status, answer.said) == (422, "dead target_redirects")

        assert "A_URL" in " ".join(site.world.mails[0].get_content().split())
        assert came == []


def test_with_allow_private_an_internal_name_is_called() -> None:
    with Site(ONE) as site:
        site.world.stop()
        port = site.a.url.rpartition(":")[2]
        site.world.resolve = lambda host, port, **_: [(2, 1, 6, "", ("127.0.0.1", port))]
        site.world.start(A_URL=f"http://orders.internal:{port}")

        assert site.world.send(created()).said == "sent"
        assert site.a.got[0].headers["host"].startswith("orders.internal:")


class SecureSite:
    """A world whose one rule calls https://orders.example.com, which is a receiver of this machine
    with a certificate for *name* by *authority*. The function trusts *trusted*."""

    def __init__(
        self, folder: Path, *, name: str, authority: trustme.CA, trusted: trustme.CA
    ) -> None:
        trusted.cert_pem.write_to_path(folder / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(tls)
        self.receiver = Receiver(tls=tls)
        self._ca_file = str(folder / "ca.pem")

    def __enter__(self) -> "SecureSite":
        def resolve(host: str, port: int, **_: Any) -> Sequence[tuple[Any, ...]]:
            assert host == "orders.example.com"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        with ExitStack() as opened:
            opened.enter_context(self.receiver)
            port = self.receiver.url.split(":")[2]
            url = f"https://orders.example.com:{port}"
            rules = ONE.replace("[A_URL, B_URL, C_URL, POST_SECRET, POST_TOKEN]", "[A_URL]")
            self.world = World(rules=rules, A_URL=url, SSL_CERT_FILE=self._ca_file)
            self.world.resolve = resolve
            opened.enter_context(self.world)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()


def test_over_https_a_host_with_a_certificate_for_its_name_is_told(tmp_path: Path) -> None:
    ours = trustme.CA()
    with SecureSite(tmp_path, name="orders.example.com", authority=ours, trusted=ours) as site:
        answers = [site.world.send(created(id=f"e{number}", number=number)) for number in range(2)]

        assert [answer.said for answer in answers] == ["sent", "sent"]
        assert site.receiver.bodies == [{"title": outage()["title"]}] * 2
        assert site.receiver.got[0].headers["host"].startswith("orders.example.com:")
        assert {seen.connection for seen in site.receiver.got} == {1}


@pytest.mark.parametrize(
    ("name", "is_trusted"),
    [("orders.example.com", False), ("example.com", True), ("127.0.0.1", True)],
    ids=["of nobody we trust", "of another name", "of its address"],
)
def test_over_https_nothing_is_sent_to_a_host_with_another_certificate(
    tmp_path: Path, name: str, is_trusted: bool
) -> None:
    ours = trustme.CA()
    authority = ours if is_trusted else trustme.CA()
    with SecureSite(tmp_path, name=name, authority=authority, trusted=ours) as site:
        answer = site.world.send(created())
        site.world.clock.advance(100_000)
        site.world.send(created(1))

        assert answer.said == "retrying target_unreachable"
        assert site.receiver.got == []
        told = " ".join(site.world.mails[0].get_content().split())
        assert "check A_URL and the host's certificate" in told


def test_an_unset_url_keeps_the_function_from_starting_and_is_named() -> None:
    from function.rules.loader import RulesError

    with pytest.raises(RulesError, match="the environment has no `A_URL`"), World(rules=ONE):
        pass


# What is fetched

DATA = """\
    data:
      query: 'query Get($id: Int!) { outages_by_pk(id: $id) { title severity } }'
      variables: {id: "{{ row.id }}"}
"""
FETCHED = ENV + rule("a", body='{t: "{{ data.outages_by_pk.title }}", n: "{{ row.id }}"}') + DATA


class Graphql:
    """Hasura's GraphQL in one answer."""

    def __init__(self) -> None:
        self.answer: Any = {"data": {"outages_by_pk": {"title": "Now", "severity": "low"}}}
        self.status = 200
        self.server = Server(self._answer)

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        probes = b"__typename" in seen.body
        answer = {"data": {"__typename": "query_root"}} if probes else self.answer
        sock.sendall(http(self.status, json.dumps(answer)))
        return True


@pytest.fixture
def graphql() -> Iterator[Graphql]:
    graphql = Graphql()
    with graphql.server:
        yield graphql


def fetching(graphql: Graphql, rules: str = FETCHED) -> Site:
    return Site(
        rules,
        HASURA_GRAPHQL_URL=f"{graphql.server.url}/v1/graphql",
        HASURA_ADMIN_SECRET=POST_TOKEN,
        HASURA_ROLE="fanout",
    )


def test_data_is_as_of_the_sending_by_the_role_that_is_set(graphql: Graphql) -> None:
    with fetching(graphql) as site:
        site.a.answer = AWAY
        site.world.send(created())
        graphql.answer = {"data": {"outages_by_pk": {"title": "Later"}}}
        site.a.answer = TAKEN
        site.world.clock.advance(10)
        answer = site.world.send(created(1))
        asked = [json.loads(seen.body) for seen in graphql.server.seen]

        assert answer.said == "sent"
        assert site.a.bodies == [{"t": "Now", "n": 1}, {"t": "Later", "n": 1}]
        assert [each["variables"] for each in asked] == [{"id": 1}] * 2
        assert [each["operationName"] for each in asked] == ["Get"] * 2
        assert {seen.headers["x-hasura-role"] for seen in graphql.server.seen} == {"fanout"}


def test_a_row_that_is_gone_before_its_data_is_asked_for_is_skipped(graphql: Graphql) -> None:
    rules = FETCHED + "    when: data.outages_by_pk\n"
    with fetching(graphql, rules) as site:
        graphql.answer = {"data": {"outages_by_pk": None}}
        answer = site.world.send(created())

        assert (answer.status, answer.said) == (200, "skipped when_false")
        assert (site.a.got, site.world.mails) == ([], [])


def test_a_row_that_is_gone_is_skipped_by_a_when_that_asks_what_it_holds(
    graphql: Graphql,
) -> None:
    with fetching(graphql, FETCHED + "    when: data.outages_by_pk.severity == 'low'\n") as site:
        there = site.world.send(created(id="e1"))
        graphql.answer = {"data": {"outages_by_pk": None}}
        gone = site.world.send(created(id="e2"))
        graphql.answer = {"data": {"outages_by_pk": {"title": "Now"}}}
        asked_too_little = site.world.send(created(id="e3"))

        assert (there.said, gone.said) == ("sent", "skipped when_false")
        assert asked_too_little.said == "dead bad_mapping"
        assert len(site.a.got) == 1


def test_without_such_a_when_a_row_that_is_gone_is_a_dead_letter(graphql: Graphql) -> None:
    with fetching(graphql) as site:
        graphql.answer = {"data": {"outages_by_pk": None}}
        answer = site.world.send(created())

        assert (answer.status, answer.said) == (422, "dead bad_mapping")
        assert site.a.got == []


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (503, {}, "retrying hasura_unavailable"),
        (200, {"errors": [{"message": "x", "extensions": {"code": "unexpected"}}]},
         "retrying data_failed"),
        (200, {"data": {"outages_by_pk": {"title": "half"}},
               "errors": [{"message": "x", "extensions": {"code": "unexpected"}}]},
         "retrying data_failed"),
        (200, {"errors": [{"message": "field 'plan' not found in type: 'outages'",
                           "extensions": {"code": "validation-failed"}}]}, "dead data_invalid"),
        (200, {"errors": [{"message": "no", "extensions": {"code": "permission-denied"}}]},
         "dead data_forbidden"),
    ],
)  # fmt: skip
def test_while_the_data_fails_nothing_is_sent(
    graphql: Graphql, status: int, answer: Any, said: str
) -> None:
    with fetching(graphql) as site:
        graphql.status, graphql.answer = status, answer

        assert site.world.send(created()).said == said
        assert site.a.got == []


def test_hasura_s_outage_is_told_as_hasura_s_and_not_as_the_target_s(graphql: Graphql) -> None:
    with fetching(graphql) as site:
        graphql.status = 503
        for number in range(8):
            site.world.send(created(id=f"e{number}", number=number))
        site.world.clock.advance(700)
        site.world.send(created(1, id="e7", number=7))

        subjects = [str(mail["Subject"]) for mail in site.world.mails]
        assert subjects
        assert all("Hasura" in subject for subject in subjects)
        assert not any("127.0.0.1" in subject for subject in subjects)


def test_no_data_is_asked_for_where_nothing_is_sent(graphql: Graphql) -> None:
    rules = FETCHED + "    when: row.severity == 'low'\n"
    with fetching(graphql, rules) as site:
        assert site.world.send(created()).said == "skipped when_false"
        assert graphql.server.seen == []


# What must not be seen


def dump(world: World) -> str:
    """All that the ledger keeps."""
    tables = ("ticket", "delivery", "alert", "hold", "shadow", "inbox")
    return json.dumps(
        [world.query(f"SELECT * FROM servicenow.{table}") for table in tables],  # noqa: S608  # our own names
        default=str,
    )


def test_a_secret_and_a_header_s_value_are_nowhere_but_in_the_call(graphql: Graphql) -> None:
    lines = (
        'headers: {Authorization: "Bearer {{ env.POST_TOKEN }}", X-Name: "{{ row.title }}"}',
        "sign: standard",
        "secret: POST_SECRET",
    )
    echo: list[bytes] = []

    def repeat(sock: socket.socket, seen: Seen) -> bool:
        """Answer with all that came, as some do."""
        said = f"{seen.headers['authorization']} {seen.headers['x-name']} {POST_SECRET} no"
        echo.append(said.encode())
        sock.sendall(http(400 if len(echo) % 2 else 503, said))
        return True

    named = "planted-header-value"
    with fetching(graphql, ENV + rule("a", *lines, body="{x: 1}")) as site:
        site.a.answer = repeat
        answers = [
            site.world.send(created(number, id=f"e{number % 2}", title=named, number=number % 2))
            for number in range(4)
        ]
        said = json.dumps([answer.body for answer in answers])
        mails = " ".join(str(mail) for mail in site.world.mails)
        ledger = dump(site.world)

        assert echo
        assert POST_TOKEN in echo[0].decode()
        for secret in (POST_TOKEN, POST_SECRET):
            assert secret not in ledger
        assert leaks([said, mails.replace(ROW_TEXT, "")]) == []
        kept = [
            row["remote_message"] for row in site.world.query("SELECT * FROM servicenow.delivery")
        ]
        assert any(kept)
        assert not [words for words in kept if named in words]


def test_nothing_that_was_rendered_is_kept_of_what_was_done() -> None:
    with Site(ENV + rule("a", "key: '{{ row.id }}'", body='{made: "{{ row.title }} so"}')) as site:
        assert site.world.send(created()).said == Status.SENT.value

        assert ROW_TEXT in site.a.got[0].body.decode()
        assert ROW_TEXT not in dump(site.world)


@pytest.mark.parametrize("form", ["path", "query", "user"])
def test_a_secret_of_the_url_that_the_answer_repeats_is_nowhere(form: str) -> None:
    secret = "uRlS3cr3tT0ken99"
    basic = base64.b64encode(f"u:{secret}".encode()).decode()

    def cannot_post(sock: socket.socket, seen: Seen) -> bool:
        said = seen.headers["authorization"] if form == "user" else seen.target
        sock.sendall(http(404, f"Cannot POST {said}"))
        return True

    with Site(ONE) as site:
        port = site.a.url.split(":")[2].split("/")[0]
        urls = {
            "path": f"http://127.0.0.1:{port}/services/T0/{secret}",
            "query": f"http://127.0.0.1:{port}/hook?token={secret}",
            "user": f"http://u:{secret}@127.0.0.1:{port}/hook",
        }
        site.world.stop()
        site.world.start(A_URL=urls[form])
        site.a.answer = cannot_post
        answer = site.world.send(created())
        told = " ".join(
            [dump(site.world), str(answer.body), *map(str, site.world.mails)]
        ) + " ".join(mail.get_content() for mail in site.world.mails)

        assert "Cannot POST" in told
        assert secret not in told
        assert basic not in told
