"""Bodies of requests, read within bounds, and JSON answers."""

import io
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from flask import Request, Response

# Our own trouble is short (a database that restarts); spread, so that what waited does not come
# back at one moment.
UNAVAILABLE_SECONDS: Final = (5, 15)
# So much of a refused body is read and thrown away, so that its sender hears the answer; Google's
# front end lets no more through over HTTP/1.
DISCARD_BYTES_MAX: Final = 32 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
JSON_TYPE: Final = "application/json"
BROKEN_OFF: Final = "the body broke off before its end: send it again"


class BodyTooLarge(Exception):  # noqa: N818  # what is the case
    """The request's body is larger than we take."""


def read_body(request: Request, limit: int, *, too_large: str) -> bytearray | None:
    """The body; None where it broke off. Raises BodyTooLarge over *limit* bytes."""
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body is larger than {too_large}")
    body = bytearray()
    try:
        # Bit by bit: asked for all at once, servers hold it two and three times.
        while chunk := request.stream.read(min(_CHUNK_BYTES, limit + 1 - len(body))):
            body += chunk
    except Exception:  # noqa: BLE001  # each server has its own for a body that breaks off or is malformed
        return None
    if len(body) < min(request.content_length or 0, limit):
        return None
    if len(body) > limit:
        raise BodyTooLarge(f"the body is larger than {too_large}")
    return body


def discard_rest(request: Request) -> None:
    """Read what is left of the body, and keep nothing of it.

    functions-framework reads it whole into memory after every answer, whoever sent it.
    """
    left = DISCARD_BYTES_MAX
    with suppress(Exception):  # each server has its own for a body that breaks off
        while left > 0 and (chunk := request.stream.read(min(_CHUNK_BYTES, left))):
            left -= len(chunk)
    request.stream = io.BytesIO()


def answer_unavailable(why: str) -> Response:
    """Try again soon."""
    answer = answer_json(503, {"error": why})
    answer.headers["Retry-After"] = str(random.randint(*UNAVAILABLE_SECONDS))  # noqa: S311  # jitter
    return answer


def answer_json(status: int, body: Mapping[str, object]) -> Response:
    return Response(json.dumps(body) + "\n", status=status, content_type=JSON_TYPE)
