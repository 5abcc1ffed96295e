"""A function is told to stop, as by the platform that takes an instance away. In a file of its own,
in the middle of the run: at its end nothing else would be left to do meanwhile."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.payloads import insert
from tests.test_main import served
from tests.world import World, outage


def test_a_server_that_is_told_to_stop_answers_what_is_under_way_first(tmp_path: Path) -> None:
    """33 seconds: gunicorn's own grace is 30."""
    with (
        World(SERVICENOW_TIMEOUT_SECONDS="40") as world,
        served(world, tmp_path) as function,
        ThreadPoolExecutor(1) as pool,
    ):
        world.servicenow.arm("slow", method="POST", seconds=33)
        under_way = pool.submit(function.send, insert("outages", outage()))
        until = time.monotonic() + 10
        while world.servicenow.armed() and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(function.pid, signal.SIGTERM)
        answer = under_way.result(60)
        ended = function.wait(20)

    assert (answer.status, answer.said) == (200, "created")
    assert ended == 0
