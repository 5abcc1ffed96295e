"""The secrets that posts carry: read at start, read again once a target has refused one."""

from collections.abc import Iterator

import pytest

from function.rule_variables import REFRESH_SECONDS
from sandbox.receiver import Receiver
from tests.payloads import insert
from tests.world import World, outage

RULES = """\
version: 1
env: [HOOK_URL, HOOK_TOKEN]
rules:
  - name: hook
    from: hasura/public.outages
    post:
      url: "{{ env.HOOK_URL }}"
      allow_private: true
      headers: {Authorization: "Bearer {{ env.HOOK_TOKEN }}"}
      body: {id: "{{ row.id }}"}
"""


class Vault:
    """Stands for Secret Manager."""

    def __init__(self, **holds: str) -> None:
        self.holds = holds
        self.asked: list[str] = []

    def read(self, name: str) -> str:
        self.asked.append(name)
        return self.holds[name.split("/")[3]]


class Site:
    def __init__(self, receiver: Receiver) -> None:
        self.hook = receiver["a"]
        self.vault = Vault(url=receiver.url_of("a"), token="first-token")
        self.world = World(
            HOOK_URL="secret://projects/p/secrets/url",
            HOOK_TOKEN="secret://projects/p/secrets/token",
        )
        self.world.read_secret = self.vault.read

    def tokens(self) -> list[str]:
        return [got.header("authorization") for got in self.hook.received]


@pytest.fixture
def site() -> Iterator[Site]:
    with Receiver(("a",)) as receiver:
        site = Site(receiver)
        with site.world as world:
            world.start(rules=RULES)
            yield site


def test_a_post_goes_to_the_address_and_with_the_token_that_its_secrets_hold(site: Site) -> None:
    answer = site.world.send(insert("outages", outage()))

    assert (answer.status, answer.said) == (200, "sent")
    assert site.tokens() == ["Bearer first-token"]


def test_a_token_that_was_replaced_costs_no_event(site: Site) -> None:
    site.world.send(insert("outages", outage(1)))
    site.hook.require_header("Authorization", "Bearer second-token")
    site.vault.holds["token"] = "second-token"
    answers = [site.world.send(insert("outages", outage(id))) for id in (2, 3)]

    assert [answer.said for answer in answers] == ["sent", "sent"]
    assert site.tokens() == [
        "Bearer first-token",
        "Bearer first-token",
        "Bearer second-token",
        "Bearer second-token",
    ]


def test_a_token_that_is_refused_and_was_not_replaced_is_a_dead_letter(site: Site) -> None:
    site.hook.require_header("Authorization", "Bearer another")
    asked = len(site.vault.asked)
    answer = site.world.send(insert("outages", outage()))

    assert (answer.status, answer.said) == (422, "dead target_unauthorized")
    assert len(site.vault.asked) == asked + 2


def test_what_is_refused_shortly_after_its_secrets_were_read_waits_for_them(site: Site) -> None:
    site.hook.require_header("Authorization", "Bearer another")
    site.world.send(insert("outages", outage(1)))
    asked = len(site.vault.asked)
    waiting = [site.world.send(insert("outages", outage(id), id=f"e{id}")) for id in (2, 3)]
    site.world.clock.advance(2 * REFRESH_SECONDS)
    again = [site.world.send(insert("outages", outage(id), id=f"e{id}")) for id in (2, 3)]

    assert {answer.said for answer in waiting} == {"retrying target_unauthorized"}
    assert all((answer.retry_after or 0) > 50 for answer in waiting)
    assert {answer.said for answer in again} == {"dead target_unauthorized"}
    # Not read for each: those of before count for what has waited.
    assert len(site.vault.asked) == asked


OTHER = """\
  - name: other
    from: hasura/public.orders
    post:
      url: "{{ env.OTHER_URL }}"
      allow_private: true
      headers: {Authorization: "Bearer {{ env.OTHER_TOKEN }}"}
      body: {id: "{{ row.id }}"}
"""


def test_a_replaced_token_costs_no_event_whatever_another_target_refuses(site: Site) -> None:
    rules = RULES.replace("HOOK_TOKEN]", "HOOK_TOKEN, OTHER_URL, OTHER_TOKEN]") + OTHER
    site.vault.holds["other"] = "old-token"
    with Receiver(("b",)) as receiver:
        site.world.stop()
        site.world.start(
            rules=rules,
            OTHER_URL=receiver.url_of("b"),
            OTHER_TOKEN="secret://projects/p/secrets/other",
        )
        site.hook.require_header("Authorization", "Bearer another")
        site.world.send(insert("outages", outage()))
        receiver["b"].require_header("Authorization", "Bearer new-token")
        site.vault.holds["other"] = "new-token"

        assert site.world.send(insert("orders", outage())).said == "sent"


def test_a_secret_stands_nowhere_but_in_the_call(site: Site) -> None:
    site.hook.require_header("Authorization", "Bearer another")
    answer = site.world.send(insert("outages", outage()))

    kept = str(
        [
            site.world.query(f"SELECT * FROM servicenow.{table}")  # noqa: S608  # our own names
            for table in ("delivery", "alert", "ticket", "hold")
        ]
    )
    mails = "".join(map(str, site.world.mails))
    assert "first-token" not in kept + mails + str(answer.body)
