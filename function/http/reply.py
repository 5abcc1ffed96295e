"""An HTTP answer, and what every system says in the same way. Pure."""

import email.utils
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Final

# A system's own words, cut short.
WORDS_MAX: Final = 300
# A longer wait is a mistake, or not the system's.
RETRY_AFTER_SECONDS_MAX: Final = 3600.0

_WHOLE: Final = re.compile(r"\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer. *headers* are keyed in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def media_type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_page(reply: Reply) -> bool:
    """Whether it is HTML, which no API answers."""
    return (
        media_type(reply) in {"text/html", "application/xhtml+xml"}
        or reply.body.lstrip()[:1] == b"<"
    )


def read_retry_after(reply: Reply, now: float) -> float | None:
    """How long the system asks us to wait, as it says it; None when it does not say. *now* is UNIX
    seconds."""
    asked = reply.headers.get("retry-after", "").strip()
    if _WHOLE.fullmatch(asked):
        return float(asked)
    until = _http_date(asked)
    return None if until is None else until - now


def bound_wait(seconds: float) -> float:
    return min(max(seconds, 0.0), RETRY_AFTER_SECONDS_MAX)


def shorten_words(words: str) -> str:
    """A system's own words in one line of at most WORDS_MAX characters."""
    shown = "".join(
        " " if unicodedata.category(char)[0] in "CZ" else char for char in words[: 4 * WORDS_MAX]
    )
    return " ".join(shown.split())[:WORDS_MAX]


def _http_date(written: str) -> float | None:
    try:
        when = email.utils.parsedate_to_datetime(written)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
