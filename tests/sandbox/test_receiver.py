"""The receiver: several downstream systems, what each of them got, and how each of them fails."""

import base64
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from html import unescape

import pytest
import requests

from sandbox.receiver import DownstreamSystem, Receiver
from tests.processes import HERE


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(("a", "b")) as receiver:
        yield receiver


@pytest.fixture
def system(receiver: Receiver) -> DownstreamSystem:
    return receiver["a"]


def post(
    receiver: Receiver, body: bytes = b"{}", name: str = "a", timeout: float = 5.0, **headers: str
) -> requests.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return requests.post(
        receiver.url_of(name), body, headers=named, timeout=timeout, allow_redirects=False
    )


def form(receiver: Receiver, path: str, **fields: str) -> requests.Response:
    return requests.post(receiver.url + path, fields, timeout=5, allow_redirects=False)


def page(receiver: Receiver, path: str = "/") -> str:
    return requests.get(receiver.url + path, timeout=5).text


# What arrives


def test_what_arrives_is_kept_byte_for_byte_with_its_headers(receiver: Receiver) -> None:
    body = '{"a": "&+%\\" 🙂 שלום"}\n'.encode()
    before = time.time()

    answer = requests.post(
        f"{receiver.url_of('a')}/deeper?x=1",
        body,
        headers={"webhook-id": "msg_1", "X-Odd-Case": "a, b"},
        timeout=5,
    )

    [got] = receiver["a"].received
    assert (answer.status_code, answer.json()) == (200, {"received": True})
    assert (got.body, got.method, got.path) == (body, "POST", "/hooks/a/deeper?x=1")
    assert (got.webhook_id, got.header("x-odd-case")) == ("msg_1", "a, b")
    assert ("X-Odd-Case", "a, b") in got.headers
    assert before <= got.at <= time.time()
    assert (got.number, got.status, got.is_taken, got.fault) == (1, 200, True, "")


def test_each_system_has_its_own(receiver: Receiver) -> None:
    post(receiver, b"1", "a")
    post(receiver, b"2", "b")
    post(receiver, b"3", "b")

    assert [got.body for got in receiver["a"].received] == [b"1"]
    assert [got.body for got in receiver["b"].received] == [b"2", b"3"]
    assert (receiver["b"].total, receiver["b"].taken) == (2, 2)


def test_it_counts_how_often_a_message_came(receiver: Receiver, system: DownstreamSystem) -> None:
    system.arm("status", times=2)
    for _ in range(3):
        post(receiver, webhook_id="msg_1")
    post(receiver, webhook_id="msg_2")
    post(receiver)

    assert system.counts == {"msg_1": 3, "msg_2": 1}
    assert (system.total, system.taken) == (5, 3)


def test_who_waits_for_what_arrives_is_told_at_once(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(system.wait, 2, 5.0)
        post(receiver)
        post(receiver)

        assert len(waiting.result()) == 2
    assert len(system.wait(3, 0.01)) == 2


def test_what_was_forgotten_is_not_there_and_what_is_armed_stays(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("status", times=2)
    post(receiver, webhook_id="msg_1")
    system.forget()

    assert (system.received, system.total, system.counts) == ([], 0, {})
    assert post(receiver).status_code == 503


def test_a_path_of_no_system_is_404_and_kept_nowhere(receiver: Receiver) -> None:
    for path in ("/hooks/c", "/hooks/", "/hooks", "/hooks/A", "/systems/c", "/nothing"):
        assert requests.post(receiver.url + path, b"{}", timeout=5).status_code == 404
    assert receiver["a"].total + receiver["b"].total == 0


def test_a_body_without_its_length_is_refused(receiver: Receiver) -> None:
    answer = requests.post(receiver.url_of("a"), iter([b"x", b"y"]), timeout=5)

    assert (answer.status_code, receiver["a"].total) == (411, 0)


def test_who_hangs_up_half_way_has_sent_nothing(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", int(receiver.url.rpartition(":")[2]))) as half:
        half.sendall(b"POST /hooks/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        half.shutdown(socket.SHUT_WR)
        assert half.recv(1000) == b""

    assert receiver["a"].total == 0


def test_a_system_that_wants_a_token_refuses_who_has_another(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.require_header("Authorization", "Bearer new")
    answers = [post(receiver, Authorization=f"Bearer {token}") for token in ("old", "new")]
    without = post(receiver)
    system.require_header("", "")

    assert [answer.status_code for answer in answers] == [401, 200]
    assert without.status_code == 401
    assert post(receiver).status_code == 200
    assert (system.total, system.taken) == (4, 2)


# What fails


def test_a_status_is_answered_as_often_as_it_was_armed_for(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("status", times=2, status=429, retry_after="3600")
    system.arm("status", status=410)
    answers = [post(receiver) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [429, 429, 410, 200]
    assert [answer.headers.get("Retry-After") for answer in answers] == ["3600", "3600", None, None]
    assert [got.fault for got in system.received] == [
        "429, Retry-After: 3600",
        "429, Retry-After: 3600",
        "410",
        "",
    ]


def test_a_fault_for_always_ends_when_it_is_switched_off(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("status", times=None)
    failed = {post(receiver).status_code for _ in range(3)}
    system.disarm("status")

    assert failed == {503}
    assert post(receiver).status_code == 200
    assert system.armed == []


def test_a_fault_of_one_system_is_not_another_one_s(receiver: Receiver) -> None:
    receiver["b"].arm("status", times=None)

    assert (post(receiver, name="a").status_code, post(receiver, name="b").status_code) == (
        200,
        503,
    )


def test_a_redirect_leads_where_it_was_told_to(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("redirect", location="http://10.0.0.1/")

    answer = post(receiver)

    assert (answer.status_code, answer.headers["Location"]) == (307, "http://10.0.0.1/")


def test_a_reset_keeps_what_was_sent_and_answers_nothing(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("reset")

    with pytest.raises(requests.ConnectionError):
        post(receiver, b"sent")

    [got] = system.received
    assert (got.body, got.status, got.is_taken) == (b"sent", 0, False)


def test_who_is_hung_on_times_out_and_the_others_are_answered(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("hang", seconds=30)
    started = time.monotonic()

    with pytest.raises(requests.ReadTimeout):
        post(receiver, timeout=0.2)
    others = (post(receiver).status_code, post(receiver, name="b").status_code)

    assert others == (200, 200)
    assert time.monotonic() - started < 3
    assert [got.status for got in system.received] == [0, 200]


def test_who_is_hung_on_is_hung_up_on_when_the_time_is_over(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("hang", seconds=0.1)

    with pytest.raises(requests.ConnectionError):
        post(receiver)


def test_switching_a_fault_off_hangs_up_on_who_waits(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("hang", seconds=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(post, receiver, timeout=20)
        system.wait(1, 5)
        system.disarm()

        assert isinstance(waiting.exception(5), requests.ConnectionError)


def test_a_receiver_ends_at_once_whoever_waits() -> None:
    with ThreadPoolExecutor(2) as pool:
        with Receiver(("a",)) as receiver:
            receiver["a"].open_port()
            receiver["a"].arm("hang", seconds=30, times=None)
            waiting = [
                pool.submit(requests.post, url, b"", timeout=20)
                for url in (receiver.url_of("a"), receiver["a"].open_port())
            ]
            receiver["a"].wait(2, 5)
            started = time.monotonic()

        assert time.monotonic() - started < 3
        assert all(one.exception(5) is not None for one in waiting)


def test_a_slow_answer_begins_at_once_and_drips(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("slow", seconds=0.4)
    started = time.monotonic()

    with requests.post(receiver.url_of("a"), b"", timeout=5, stream=True) as answer:
        begun = time.monotonic() - started
        body = answer.content

    assert (answer.status_code, body) == (200, b'{"received": true}\n')
    assert begun < 0.3 < time.monotonic() - started


def test_a_large_answer_has_a_mebibyte(receiver: Receiver, system: DownstreamSystem) -> None:
    system.arm("large")

    assert len(post(receiver).content) == 1024 * 1024


def test_at_a_port_of_its_own_nobody_listens_while_a_system_is_down(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    url = system.open_port()
    first = requests.post(url, b"1", timeout=5).status_code
    system.arm("down")
    port = int(url.rpartition(":")[2])
    with socket.socket() as refused:
        status = refused.connect_ex(("127.0.0.1", port))
    system.disarm("down")
    last = requests.post(url, b"2", timeout=5).status_code

    assert status != 0
    assert (first, last, system.open_port()) == (200, 200, url)
    assert [got.body for got in system.received] == [b"1", b"2"]


def test_a_system_that_goes_down_hangs_up_on_those_that_wait_and_can_hang_again(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    url = system.open_port()
    system.arm("hang", seconds=30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(requests.post, url, b"", timeout=20)
        system.wait(1, 5)
        started = time.monotonic()
        system.arm("down")
        took = time.monotonic() - started
        hung_up_on = waiting.exception(5)
    system.disarm()
    system.arm("hang", seconds=30)

    assert isinstance(hung_up_on, requests.ConnectionError)
    assert took < 3
    with pytest.raises(requests.ReadTimeout):
        requests.post(url, b"", timeout=0.2)
    assert receiver["a"].total == 2


def test_at_a_path_a_system_that_is_down_resets_and_keeps_nothing(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("down")

    with pytest.raises(requests.ConnectionError):
        post(receiver)

    assert (system.total, post(receiver, name="b").status_code) == (0, 200)


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ({"kind": "flood"}, "there is no fault 'flood'; there are status"),
        ({"kind": "status", "status": 99}, "a status is a number from 200 to 599"),
        ({"kind": "status", "times": 0}, "times is a number from 1"),
        ({"kind": "hang", "seconds": 0}, "seconds are more than 0"),
        ({"kind": "redirect"}, "a redirect needs a location"),
        ({"kind": "status", "retry_after": "1\r\nX: y"}, "a header is one line"),
    ],
)
def test_what_is_no_fault_is_refused(
    system: DownstreamSystem, fault: dict[str, object], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        system.arm(**fault)  # type: ignore[arg-type]  # that is the point

    assert system.armed == []


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "x" * 33])
def test_what_is_no_name_of_a_system_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a system"):
        Receiver((name,))


# Many


def test_a_thousand_posts_of_many_threads_arrive_quickly_and_once_each(receiver: Receiver) -> None:
    url = receiver["a"].open_port()
    senders = 16

    def send(sender: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for number in range(sender, 1000, senders):
                session.post(
                    url, b"x" * 1000, headers={"webhook-id": f"msg_{number}"}, timeout=10
                ).raise_for_status()

    started = time.monotonic()
    with ThreadPoolExecutor(senders) as pool:
        list(pool.map(send, range(senders)))
    took = time.monotonic() - started

    assert receiver["a"].total == receiver["a"].taken == 1000
    assert set(receiver["a"].counts.values()) == {1}
    assert len(receiver["a"].counts) == 1000
    assert took < 10


def test_a_hundred_hanging_ones_keep_nobody_else_waiting(receiver: Receiver) -> None:
    receiver["a"].arm("hang", times=None, seconds=30)

    def hang(_: int) -> None:
        with suppress(requests.RequestException):
            post(receiver, timeout=20)

    with ThreadPoolExecutor(100) as pool:
        hanging = [pool.submit(hang, number) for number in range(100)]
        receiver["a"].wait(100, 10)
        started = time.monotonic()
        status = post(receiver, name="b").status_code
        took = time.monotonic() - started
        still_hanging = not any(one.done() for one in hanging)
        receiver["a"].disarm()

    assert (status, still_hanging) == (200, True)
    assert took < 2


# The pages


def test_the_page_shows_the_systems_and_what_arrived(receiver: Receiver) -> None:
    assert "Nothing has arrived yet" in page(receiver)
    receiver["b"].arm("status", status=429, retry_after="60", times=2)
    post(receiver, b'{"name": "<b>Ada</b>"}', webhook_id="msg_1")
    post(receiver, b"second", name="b", webhook_id="msg_2")

    text = page(receiver)

    assert receiver.url_of("a") in text
    assert receiver.url_of("b") in text
    assert "429, Retry-After: 60" in text
    assert "msg_1" in text
    assert '{"name": "<b>Ada</b>"}' in unescape(text)
    assert "<b>Ada" not in text
    assert text.index("second") < text.index("msg_1")
    assert 'http-equiv="refresh"' in text


def test_the_page_of_a_system_shows_bodies_headers_and_how_often_a_message_came(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    system.arm("reset")
    with suppress(requests.ConnectionError):
        post(receiver, "Grüße & <b>".encode(), webhook_id="msg_1", X_Correlation_Id="c-1")
    post(receiver, "Grüße & <b>".encode(), webhook_id="msg_1", X_Correlation_Id="c-1")

    text = page(receiver, "/systems/a")

    assert "Grüße &amp; &lt;b&gt;" in text
    assert "X-Correlation-Id: c-1" in text
    assert "no answer" in text
    assert "× 2" in text
    assert "What arrived: 2, of which 1 taken" in text
    assert "http-equiv" not in text


def test_a_person_arms_faults_and_switches_them_off(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    armed = [
        form(receiver, "/systems/a/arm", kind="status", times="2", status="410", retry_after=""),
        form(receiver, "/systems/a/arm", kind="hang", times="", seconds="2.5"),
        form(receiver, "/systems/a/arm", kind="down", times="1"),
    ]

    assert {(answer.status_code, answer.headers["Location"]) for answer in armed} == {
        (303, "/systems/a")
    }
    assert [(fault.described, fault.times) for fault in system.armed] == [
        ("410", 2),
        ("hang for 2.5 s", None),
        ("down", None),
    ]
    assert "hang for 2.5 s" in page(receiver, "/systems/a")
    form(receiver, "/systems/a/disarm", kind="down")
    assert post(receiver).status_code == 410
    form(receiver, "/systems/a/disarm")
    assert system.armed == []


def test_a_person_forgets_what_arrived(receiver: Receiver, system: DownstreamSystem) -> None:
    post(receiver)
    assert "/systems/a/forget" in page(receiver, "/systems/a")

    form(receiver, "/systems/a/forget")

    assert system.total == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "flood"},
        {"kind": "status", "times": "x"},
        {"kind": "status", "times": "0"},
        {"kind": "status", "status": "9"},
        {"kind": "hang", "seconds": "-1"},
        {"kind": "redirect"},
        {},
    ],
)
def test_a_fault_that_is_none_is_said_on_the_page(
    receiver: Receiver, system: DownstreamSystem, fields: dict[str, str]
) -> None:
    answer = requests.post(f"{receiver.url}/systems/a/arm", fields, timeout=5)

    assert answer.status_code == 200
    assert 'class="said"' in answer.text
    assert system.armed == []


def test_a_page_of_another_site_cannot_play(receiver: Receiver, system: DownstreamSystem) -> None:
    answers = [
        requests.post(
            f"{receiver.url}/systems/a/arm",
            {"kind": "status"},
            headers={"Origin": origin},
            timeout=5,
            allow_redirects=False,
        )
        for origin in ("https://example.com", "null", receiver.url)
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 303]
    assert len(system.armed) == 1


def test_other_processes_read_what_arrived_as_json(
    receiver: Receiver, system: DownstreamSystem
) -> None:
    post(receiver, b"\xff\x00", webhook_id="msg_1")

    told = requests.get(f"{receiver.url}/systems/a.json", timeout=5).json()

    [got] = told["received"]
    assert (told["total"], told["taken"], told["counts"]) == (1, 1, {"msg_1": 1})
    assert (base64.b64decode(got["body"]), got["webhook_id"]) == (b"\xff\x00", "msg_1")
    assert ["webhook-id", "msg_1"] in got["headers"]


def test_a_form_for_nothing_is_refused(receiver: Receiver) -> None:
    assert form(receiver, "/systems/a").status_code == 405
    assert form(receiver, "/systems/c/arm", kind="status").status_code == 404
    assert requests.get(f"{receiver.url}/systems/a/arm", timeout=5).status_code == 405


# By itself


def test_it_names_its_addresses_as_rules_may_name_them() -> None:
    with Receiver(("a", "crm-eu")) as receiver:
        assert receiver.environ == {
            "SYSTEM_A_URL": receiver.url_of("a"),
            "SYSTEM_CRM_EU_URL": receiver.url_of("crm-eu"),
        }


def test_it_runs_alone_until_it_is_told_to_end() -> None:
    command = [sys.executable, "-m", "sandbox.receiver", "--port=0", "--system=a"]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        shown = running.stdout.readline().split()[-1]
        url = running.stdout.readline().split()[-1]
        status = requests.post(url, b"{}", timeout=5).status_code
        text = requests.get(shown, timeout=5).text
        running.send_signal(signal.SIGTERM)

        assert running.wait(10) == 0
    assert (status, "Downstream systems" in text) == (200, True)


def test_a_port_that_is_taken_is_a_sentence(receiver: Receiver) -> None:
    port = int(receiver.url.rpartition(":")[2])

    with (
        pytest.raises(OSError, match=f"the sandbox's receiver cannot listen on port {port}"),
        Receiver(port=port),
    ):
        pass
