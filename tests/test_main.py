"""The deployed entry point, as processes of its own."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.payloads import insert, update
from tests.processes import HERE, Function
from tests.world import SECRET, World, outage, said

LAZY = [
    "google.cloud.secretmanager",
    "slack_sdk",
    "authlib",
    "prometheus_client",
    "cryptography",
    "psycopg",
    "graphql",
    "standardwebhooks",
]


def served(world: World, folder: Path, **settings: str) -> Function:
    """A process that shares *world*'s ServiceNow and ledger."""
    rules = folder / "rules.yaml"
    rules.write_text(world._rules)
    return Function({**world.environ, "RULES_FILE": str(rules), **settings}, folder)


@pytest.mark.parametrize("name", LAZY)
def test_importing_main_does_not_load_what_is_seldom_needed(name: str) -> None:
    code = f"import sys, main; sys.exit({name!r} in sys.modules)"

    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=HERE, env={}, timeout=60, check=False
        ).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SOURCE_NAME": ""}, "SOURCE_NAME"),
        ({"SERVICENOW_INSTANCE_URL": "http://example.com"}, "SERVICENOW_INSTANCE_URL"),
        ({"DEADLINE_SECONDS": "soon"}, "DEADLINE_SECONDS"),
        ({"RULES_FILE": "/nowhere.yaml"}, "/nowhere.yaml"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_sentence(
    world: World, tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    function = served(world, tmp_path, **settings)
    function.start(wait=False)

    assert function.wait(30) != 0
    assert words in function.log
    assert "Traceback" not in function.log


def test_the_function_answers_as_functions_framework_runs_it(world: World, tmp_path: Path) -> None:
    with served(world, tmp_path) as function:
        created = function.send(insert("outages", outage()))
        refused = function.send(insert("outages", outage(2)), secret="wrong")
        large = requests.post(
            f"http://127.0.0.1:{function.port}/",
            data=b"x" * 20_000_000,
            headers={"X-Webhook-Secret": SECRET},
            timeout=30,
        )
        chunked = requests.post(
            f"http://127.0.0.1:{function.port}/",
            data=(b"x" * 1_000_000 for _ in range(20)),
            headers={"X-Webhook-Secret": SECRET},
            timeout=30,
        )
        got = requests.get(f"http://127.0.0.1:{function.port}/", timeout=30)

    assert (created.status, created.said, refused.status) == (200, "created", 401)
    assert (large.status_code, chunked.status_code, got.status_code) == (413, 413, 405)
    assert said(world.incident) == (outage()["title"], "1")


def test_ten_at_once_from_two_processes_on_one_postgresql_are_one_incident(
    postgresql: str, tmp_path: Path
) -> None:
    with (
        World(database_url=postgresql) as world,
        served(world, tmp_path) as one,
        served(world, tmp_path) as two,
    ):
        body = insert("outages", outage(), id="e")
        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(lambda n: (one, two)[n % 2].send(body), range(10)))

        assert [answer.status for answer in answers] == [200] * 10, answers
        assert {answer.outcome["ticket"] for answer in answers} == {world.incident["number"]}


def test_killed_between_a_patch_and_its_record_and_then_changed_back(
    world: World, tmp_path: Path
) -> None:
    """ServiceNow commits the PATCH and holds its answer; the process is killed; the row changes
    back."""
    back = update("outages", outage(title="Worse"), outage(), created_at="2026-03-04T05:06:09")
    doubted = update(
        "outages", outage(), outage(title="Worse"), created_at="2026-03-04T05:06:08", id="killed"
    )
    world.send(insert("outages", outage()))
    with served(world, tmp_path) as function:
        world.servicenow.arm("commit_then_hang", method="PATCH", seconds=30)
        threading.Thread(target=_ignoring, args=(function, doubted)).start()
        until = time.monotonic() + 10
        while said(world.incident)[0] != "Worse" and time.monotonic() < until:
            time.sleep(0.02)
        committed = said(world.incident)[0]
        function.kill()
    world.servicenow.disarm()
    busy = world.send(back)
    world.clock.advance(100)
    changed_back = world.send(back)
    world.clock.advance(100)
    again = world.send(doubted)

    assert committed == "Worse"
    assert (busy.status, busy.said) == (503, "retrying key_busy")
    assert changed_back.status == 200
    assert again.status == 200
    assert said(world.incident) == (outage()["title"], "1")


def test_killed_between_a_post_and_its_record_is_one_incident(world: World, tmp_path: Path) -> None:
    body = insert("outages", outage(), id="killed")
    with served(world, tmp_path) as function:
        world.servicenow.arm("commit_then_hang", method="POST", seconds=30)
        threading.Thread(target=_ignoring, args=(function, body)).start()
        until = time.monotonic() + 10
        while not world.incidents and time.monotonic() < until:
            time.sleep(0.02)
        function.kill()
    world.clock.advance(100)
    answer = world.send(body)

    assert answer.status == 200
    assert answer.outcome["ticket"] == world.incident["number"]


def _ignoring(function: Function, body: bytes) -> None:
    try:
        function.send(body)
    except requests.RequestException:
        return


def test_a_holder_frozen_past_its_lease_and_woken_again_is_found_by_looking(
    world: World, tmp_path: Path
) -> None:
    """It sent its PATCH, was stopped before the answer, and wakes up when the row has long moved
    on."""
    frozen = update(
        "outages", outage(), outage(title="Worse"), created_at="2026-03-04T05:06:08", id="frozen"
    )
    newer = update(
        "outages", outage(title="Worse"), outage(title="Better"), created_at="2026-03-04T05:06:09"
    )
    world.send(insert("outages", outage()))
    with served(world, tmp_path) as function:
        world.servicenow.arm("slow", method="PATCH", seconds=1)
        sending = threading.Thread(target=_ignoring, args=(function, frozen))
        sending.start()
        until = time.monotonic() + 10
        while world.servicenow.armed() and time.monotonic() < until:
            time.sleep(0.01)
        function.pause()
        world.clock.advance(100)
        moved_on = world.send(newer)
        # What it had sent commits after all, behind everybody's back.
        world.servicenow.change("incident", world.incident["sys_id"], short_description="Worse")
        function.resume()
        sending.join()
    world.clock.advance(100)
    again = world.send(frozen)

    assert (moved_on.status, again.status) == (200, 200)
    assert said(world.incident) == ("Better", "1")
