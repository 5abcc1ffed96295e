"""What `make run` gives a person's rules for the systems that they post to, and what a project says
is to be tried."""

from pathlib import Path

import pytest
import requests

from function.rules.signature import find_secret_fault
from sandbox.receiver import Receiver
from sandbox.stand_ins import find_systems, make_secrets
from sandbox.suggestions import SuggestionsError, read_suggestions
from sandbox.tour import PostLog
from tests.sandbox.test_run import run

RULES = """
version: 1
env: [BILLING_URL, BILLING_SECRET, ORDER_DESK_URL, ORDER_SECRET]
rules:
  - name: billing
    from: hasura/public.outages
    post: &post
      url: "{{ env.BILLING_URL }}"
      allow_private: true
      body: {id: "{{ row.id }}"}
      sign: standard
      secret: BILLING_SECRET
  - name: orders
    from: hasura/public.outages
    post: {<<: *post, url: "{{ env.ORDER_DESK_URL }}", sign: aws, secret: ORDER_SECRET}
"""


def test_the_url_of_each_post_is_that_of_a_system_of_its_own() -> None:
    assert find_systems(RULES, {}) == {"BILLING_URL": "billing", "ORDER_DESK_URL": "order-desk"}


def test_what_is_set_stands_as_it_is() -> None:
    assert find_systems(RULES, {"BILLING_URL": ""}) == {"ORDER_DESK_URL": "order-desk"}
    assert make_secrets(RULES, {"BILLING_SECRET": "", "ORDER_SECRET": ""}) == {}


def test_a_url_of_several_variables_is_left_to_the_person() -> None:
    assert find_systems(RULES.replace("{{ env.BILLING_URL", "https://{{ env.HOST"), {}) == {
        "ORDER_DESK_URL": "order-desk"
    }


def test_secrets_are_made_in_the_form_of_their_signature_and_anew_each_time() -> None:
    made, again = make_secrets(RULES, {}), make_secrets(RULES, {})

    assert find_secret_fault("standard", made["BILLING_SECRET"]) == ""
    assert find_secret_fault("aws", made["ORDER_SECRET"]) == ""
    assert made["BILLING_SECRET"] != again["BILLING_SECRET"]
    assert made["ORDER_SECRET"] != again["ORDER_SECRET"]


@pytest.mark.parametrize(
    "text", ["", "[", "3", "rules: 3", "rules: [3, {post: 3}, {post: {url: 3, secret: [3]}}]"]
)
def test_rules_that_cannot_be_read_name_nothing(text: str) -> None:
    assert (find_systems(text, {}), make_secrets(text, {})) == ({}, {})


def test_a_run_starts_the_systems_and_says_where_they_are(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES, "utf-8")

    ran = run(f"--rules={rules}")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "  ORDER_DESK_URL is         http://127.0.0.1:" in ran.stdout
    assert "/systems/order-desk\n" in ran.stdout


def test_a_project_says_what_is_to_be_tried(tmp_path: Path) -> None:
    assert read_suggestions(tmp_path, {"psql": "/run/psql"}) == []
    (tmp_path / "try.txt").write_text("To try, for $$1:\n   ${psql} -l\n", "utf-8")

    assert read_suggestions(tmp_path, {"psql": "/run/psql"}) == [
        "To try, for $1:",
        "   /run/psql -l",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${pslq} -l", "try.txt: there is no ${pslq} here. There are ${psql}, ${slack}."),
        ("for $ 1", "try.txt: a lone dollar sign is written $$"),
    ],
)
def test_a_project_that_names_what_there_is_not_is_told_so(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "try.txt").write_text(text, "utf-8")

    with pytest.raises(SuggestionsError) as refused:
        read_suggestions(tmp_path, {"psql": "", "slack": ""})
    assert said in str(refused.value)


def test_a_run_shows_what_the_systems_get_once_each_as_it_comes() -> None:
    with Receiver(("agent",)) as receiver:
        url, headers = receiver.url_of("agent"), {"webhook-id": "first"}
        requests.post(url, b"{}", headers=headers, timeout=5)
        posts = PostLog(receiver)
        receiver["agent"].arm("status", status=503)
        for webhook_id in ("second", "third"):
            requests.post(url, b"{}", headers={"webhook-id": webhook_id}, timeout=5)

        assert posts.news() == ["post: agent second -> 503", "post: agent third -> 200"]
        assert posts.news() == []
        receiver["agent"].forget()
        requests.post(url, b"{}", headers=headers, timeout=5)
        assert posts.news() == ["post: agent first -> 200"]
