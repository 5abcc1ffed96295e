"""What the answers of a post's target mean."""

import pytest

from function.core.outcome import Failure, Reason, Retryability
from function.http.reply import RETRY_AFTER_SECONDS_MAX, Reply
from function.targets.post.answers import WORDS_MAX, interpret_answer, read_words
from function.targets.post.secrets import list_secrets

NOW = 1_700_000_000.0


def failure(status: int, body: bytes = b"", **headers: str) -> Failure | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return interpret_answer(
        Reply(status, named, body), target="The target at A_URL", hidden=["s3cret-token"], now=NOW
    )


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_is_done(status: int) -> None:
    assert failure(status, b"<html>") is None


@pytest.mark.parametrize(
    ("status", "retryability", "reason"),
    [
        (301, "permanent", Reason.TARGET_REDIRECTS),
        (302, "permanent", Reason.TARGET_REDIRECTS),
        (304, "permanent", Reason.TARGET_REDIRECTS),
        (308, "permanent", Reason.TARGET_REDIRECTS),
        (400, "permanent", Reason.TARGET_REFUSED),
        (401, "permanent", Reason.TARGET_UNAUTHORIZED),
        (403, "permanent", Reason.TARGET_UNAUTHORIZED),
        (404, "permanent", Reason.TARGET_REFUSED),
        (405, "permanent", Reason.TARGET_REFUSED),
        (408, "transient", Reason.TARGET_TIMEOUT),
        (409, "transient", Reason.TARGET_NOT_READY),
        (410, "permanent", Reason.TARGET_GONE),
        (413, "permanent", Reason.TARGET_REFUSED),
        (422, "permanent", Reason.TARGET_REFUSED),
        (425, "transient", Reason.TARGET_NOT_READY),
        (429, "transient", Reason.TARGET_UNAVAILABLE),
        (500, "transient", Reason.TARGET_UNAVAILABLE),
        (501, "transient", Reason.TARGET_UNAVAILABLE),
        (503, "transient", Reason.TARGET_UNAVAILABLE),
        (599, "transient", Reason.TARGET_UNAVAILABLE),
    ],
)
def test_each_status_is_tried_again_or_is_final(
    status: int, retryability: str, reason: Reason
) -> None:
    found = failure(status)

    assert found is not None
    assert (found.retryability, found.reason) == (Retryability(retryability), reason)
    assert f"The target at A_URL answers HTTP {status}" in found.hint


def test_a_410_says_to_remove_the_rule() -> None:
    found = failure(410)

    assert found is not None
    assert "remove this rule" in found.hint


@pytest.mark.parametrize(
    ("status", "asked", "seconds"),
    [
        (503, "7", 7.0),
        (429, "120", 120.0),
        (409, "1", 1.0),
        (503, "86400", RETRY_AFTER_SECONDS_MAX),
        (503, "Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        (503, "9" * 13, RETRY_AFTER_SECONDS_MAX),
        (503, "9" * 500, RETRY_AFTER_SECONDS_MAX),
        (429, "0", 0.0),
        (429, "Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        (503, "soon", None),
        (503, "-1", None),
        (400, "7", None),
    ],
)
def test_the_target_s_own_retry_after_counts_an_hour_at_most(
    status: int, asked: str, seconds: float | None
) -> None:
    found = failure(status, retry_after=asked)

    assert found is not None
    assert found.retry_after_seconds == seconds


def test_a_rate_limit_with_a_time_holds_the_target() -> None:
    found = failure(429, retry_after="120")

    assert found is not None
    assert found.reason is Reason.TARGET_RATE_LIMITED


def test_so_much_of_the_answer_is_kept() -> None:
    found = failure(400, "é ".encode() * 5000)

    assert found is not None
    assert len(found.remote_message) == WORDS_MAX


def test_a_secret_that_the_answer_repeats_is_not_kept() -> None:
    hidden = ["Bearer s3cret-token", "A"]
    words = read_words(
        b'{"got": "Bearer s3cret-token", "or": "s3cret-token", "A": 1}\xff\x00', hidden
    )

    assert "s3cret" not in words
    assert '"A": 1' in words


def test_a_secret_at_the_cut_is_not_kept_by_half() -> None:
    words = read_words(b"x" * (WORDS_MAX - 3) + b"s3cret-token", ["s3cret-token"])

    assert "s3" not in words


@pytest.mark.parametrize(
    "said",
    [
        r'{"got": "Bearer abc\/defghi+jk=="}',
        r'{"got": "Bearer abc\u002fdefghi+jk=="}',
        "token=abc%2Fdefghi%2Bjk%3D%3D is unknown",
        "token=abc%252Fdefghi%252Bjk%253D%253D is unknown",
        "abc&#x2F;defghi+jk== is unknown",
        "ABC/DEFGHI+JK== is unknown",
    ],
)
def test_a_secret_in_another_spelling_is_not_kept(said: str) -> None:
    words = read_words(said.encode(), ["Bearer abc/defghi+jk=="])

    assert "defghi" not in words.lower()


def test_words_without_a_secret_are_kept_with_their_escapes() -> None:
    said = r'{"error": "no \"plan\" in 100%25 of \/orders &amp; so"}'

    assert read_words(said.encode(), ["Bearer abc/defghi+jk=="]) == said


URL = (
    "https://jo%40x:p%2Fpassword@a.example.com/services/T0/B1/s3cr%2Ft-path/"
    "?token=s3cr%2Ft+query&v=1"
)


@pytest.mark.parametrize(
    "said",
    [
        "Cannot POST /services/T0/B1/s3cr%2Ft-path/",
        "no hook s3cr/t-path",
        "the token s3cr%2Ft+query is unknown",
        "the token s3cr/t query is unknown",
        "Authorization: Basic am9AeDpwL3Bhc3N3b3Jk",
        "jo@x may not use p/password",
    ],
)
def test_what_may_be_secret_of_the_url_is_not_kept(said: str) -> None:
    words = read_words(said.encode(), list_secrets(URL, {}, {"A_URL": URL}))

    assert not [part for part in ("s3cr", "am9AeDpw", "password") if part in words]
    assert words.strip("…")


def test_what_is_too_short_for_a_secret_stays_readable() -> None:
    hidden = list_secrets("https://a.example.com/hooks/in?v=1", {"X-A": "json"}, {})
    said = "no json in 1 call of /hooks/in"

    assert read_words(said.encode(), hidden) == said
