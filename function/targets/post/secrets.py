"""The secrets of a call, and words without them. Pure."""

import base64
import html
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import unquote, unquote_plus, urlsplit

# What is shorter is a word as any other, and no secret.
SECRET_CHARACTERS_MIN: Final = 6
# Some proxies escape what was escaped already; nobody does so more often.
_ESCAPES_MAX: Final = 3
_JSON_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|(.))", re.DOTALL)
_BETWEEN_PARTS: Final = re.compile(r"[\s,]+")


def list_secrets(url: str, headers: Mapping[str, str], env: Mapping[str, str]) -> frozenset[str]:
    """What must not be kept of a call of *url*: the values of *headers* and of *env*, and of the
    URL its user, its path and its query, by parts."""
    return frozenset((*headers.values(), *env.values(), *_list_url_parts(url)))


def hide_secrets(words: str, secrets: Collection[str]) -> str:
    """*words* with ``…`` in the place of each of the *secrets* and of their parts, in any case.

    Nothing is left of words that hold one in another spelling, as JSON, URLs and HTML have them.
    """
    parts = {part for secret in secrets for part in (secret, *_BETWEEN_PARTS.split(secret))}
    hidden = _replace_any(parts, words)
    unescaped = _unescape(hidden)
    return hidden if _replace_any(map(_unescape, parts), unescaped) == unescaped else "…"


def _list_url_parts(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    user, password = parts.username or "", parts.password or ""
    if user or password:
        pair = f"{unquote(user)}:{unquote(password)}".encode("latin-1", "replace")
        yield base64.b64encode(pair).decode()
    pairs = [pair.partition("=") for pair in parts.query.split("&")]
    for part in (
        user,
        password,
        *parts.path.split("/"),
        *(value or name for name, _, value in pairs),
    ):
        yield from (part, unquote(part), unquote_plus(part))


def _replace_any(parts: Iterable[str], words: str) -> str:
    long = sorted((p for p in parts if len(p) >= SECRET_CHARACTERS_MIN), key=len, reverse=True)
    return (
        re.sub("|".join(map(re.escape, long)), "…", words, flags=re.IGNORECASE) if long else words
    )


def _unescape(words: str) -> str:
    """*words* without the escapes of JSON, URLs and HTML."""
    for _ in range(_ESCAPES_MAX):
        plain = html.unescape(unquote(_JSON_ESCAPE.sub(_read_json_escape, words)))
        if plain == words:
            break
        words = plain
    return words


def _read_json_escape(escape: re.Match[str]) -> str:
    code, character = escape.groups()
    return chr(int(code, 16)) if code else str(character)
