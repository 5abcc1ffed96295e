"""The business rule of the instance that tells us what people did: incidents, signed, at most once.

It stands in for a script on a real instance, which sends with RESTMessageV2.executeAsync and never
tries again: same condition, same payload, same signature.
"""

import base64
import hashlib
import hmac
import json
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sandbox.loopback import DIRECT
from sandbox.schema import Record, shown_as
from sandbox.tables import Tables, Written

# setHttpTimeout in the script.
_TIMEOUT_SECONDS: Final = 10.0
_WATCHED: Final = ("state", "assigned_to", "assignment_group", "priority", "close_code")
_TRIGGERS: Final = ("state", "assigned_to", "assignment_group")


class Delivery(StrEnum):
    """How what is sent arrives; REORDER swaps each with the next one."""

    ONCE = "once"
    DROP = "drop"
    DUPLICATE = "duplicate"
    REORDER = "reorder"


@dataclass(frozen=True, slots=True)
class Sent:
    """One request to the webhook. *status* 0: there was no answer; nothing is sent again."""

    body: dict[str, Any]
    status: int


class Outbound:
    """Sends what concerns *name*, our name in ``correlation_display``, but not what *user*, who is
    us, did.

    *key* is the secret itself; the instance keeps it as base64.
    """

    def __init__(
        self,
        url: str,
        key: bytes,
        *,
        tables: Tables,
        user: str,
        clock: Callable[[], float],
        name: str = "hasura",
        journals: tuple[str, ...] = ("comments",),
        delivery: Delivery = Delivery.ONCE,
    ) -> None:
        self.delivery = delivery
        self.sent: list[Sent] = []
        self._url = url
        self._key = key
        self._tables = tables
        self._user = user
        self._clock = clock
        self._name = name
        self._journals = journals
        self._waiting: queue.Queue[tuple[dict[str, Any], float] | None] = queue.Queue()
        self._thread = threading.Thread(
            target=self._work, name="the sandbox's webhook", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Send what is due and end."""
        self._waiting.put(None)
        self._thread.join()

    def settle(self) -> None:
        """Wait until everything that is due was sent; what REORDER holds back waits for its next
        one."""
        self._waiting.join()

    def written(self, write: Written) -> None:
        """Queue what *write* says, if it concerns us."""
        before, after = write.before, write.after
        if (
            before is None
            or write.table != "incident"
            or after["correlation_display"] != self._name
        ):
            return
        changed = any(before[column] != after[column] for column in _TRIGGERS) or bool(
            write.journal
        )
        if changed and after["sys_updated_by"] != self._user:
            self._waiting.put((self._payload(before, write), self._clock()))

    def _payload(self, before: Record, write: Written) -> dict[str, Any]:
        after = write.after
        copied = ("sys_id", "number", "correlation_id", "sys_updated_on", "sys_updated_by", "state")
        return {
            "version": 1,
            "event_id": f"{after['sys_id']}-{after['sys_mod_count']}",
            "table": write.table,
            **{column: after[column] for column in copied},
            "sys_mod_count": int(after["sys_mod_count"]),
            "assigned_to": self._tables.shown(write.table, "assigned_to", after["assigned_to"]),
            "close_code": after["close_code"],
            "close_notes": after["close_notes"],
            "changed": {
                column: {"from": before[column], "to": after[column]}
                for column in _WATCHED
                if before[column] != after[column]
            },
            "journal": [
                {
                    "id": entry["sys_id"],
                    "kind": entry["element"],
                    "text": entry[shown_as("sys_journal_field")],
                    "author": entry["sys_created_by"],
                    "at": entry["sys_created_on"],
                }
                for entry in reversed(write.journal)
                if entry["element"] in self._journals
            ],
        }

    def _work(self) -> None:
        held: tuple[dict[str, Any], float] | None = None
        while (due := self._waiting.get()) is not None:
            match self.delivery:
                case Delivery.DROP:
                    pass
                case Delivery.DUPLICATE:
                    self._send(*due)
                    self._send(*due)
                case Delivery.REORDER if held is None:
                    held = due
                case _:
                    self._send(*due)
                    if held is not None:
                        self._send(*held)
                        held = None
            self._waiting.task_done()
        if held is not None:
            self._send(*held)
        self._waiting.task_done()

    def _send(self, body: dict[str, Any], at: float) -> None:
        # ASCII, so that the bytes signed and the bytes sent are the same.
        text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
        stamp = str(int(at))
        headers = {
            "Content-Type": "application/json",
            "X-ServiceNow-Timestamp": stamp,
            "X-ServiceNow-Signature": f"v1={signature(self._key, stamp, text)}",
        }
        request = urllib.request.Request(self._url, text.encode(), headers, method="POST")  # noqa: S310  # the url is the test's
        try:
            with DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                status = int(answer.status)
        except urllib.error.HTTPError as refused:
            with refused:
                status = refused.code
        except OSError:
            status = 0
        self.sent.append(Sent(body, status))


def signature(key: bytes, stamp: str, text: str) -> str:
    """What generateMac gives: HMAC-SHA256 of stamp, dot and text, in base64."""
    return base64.b64encode(hmac.digest(key, f"{stamp}.{text}".encode(), hashlib.sha256)).decode()
