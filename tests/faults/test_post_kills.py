"""A function is killed at each step of a post; Hasura sends the event again; the receiver knows by
the id what it has already."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from function.failpoints import FAILPOINTS, Failpoint
from tests.faults.clock import SharedClock
from tests.faults.site import KILLABLE
from tests.payloads import insert
from tests.processes import HERE, Function
from tests.receiver import Receiver
from tests.world import World, outage

RULES = """
version: 1
env: [A_URL]
rules:
  - name: a
    from: hasura/public.outages
    post:
      url: "{{ env.A_URL }}"
      allow_private: true
      body: {id: "{{ row.id }}"}
"""
# How often the target is called where the process dies there: what was not written down, nobody
# knows.
CALLS: dict[Failpoint, int] = {
    "received": 1,
    "leased": 1,
    "before_call": 1,
    "after_call": 2,
    "recorded": 1,
}
LEASE_SECONDS_MAX = 120.0


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def killable(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Function]:
    """A function whose process can be killed at each step."""
    folder = tmp_path_factory.mktemp("posts")
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    with World(rules=RULES, A_URL=receiver.url) as world:
        environ = {
            **world.environ,
            "RULES_FILE": str(rules),
            "TRIAL_FOLDER": str(folder),
            "PYTHONPATH": str(HERE),
        }
        with Function(environ, folder, source=KILLABLE) as function:
            yield function


@pytest.fixture
def folder(killable: Function) -> Path:
    return Path(killable._environ["TRIAL_FOLDER"])


@pytest.mark.parametrize("place", FAILPOINTS)
def test_killed_at_a_step_the_target_is_called_again_with_the_same_id_at_most(
    killable: Function, receiver: Receiver, folder: Path, place: Failpoint
) -> None:
    before = len(receiver.got)
    (folder / f"kill-at-{place}").touch()
    body = insert("outages", outage(), id=f"e-{place}")
    with pytest.raises(requests.ConnectionError):
        killable.send(body)
    killable.kill()
    killable.start()
    SharedClock(folder / "clock").advance(LEASE_SECONDS_MAX)
    answer = killable.send(body)

    assert answer.status == 200
    assert len(receiver.got) - before == CALLS[place]
    assert len(set(receiver.ids[before:])) == 1
