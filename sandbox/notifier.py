"""The business rules of the instance that tell an app that a ticket changed: signed, at most once.

They stand in for the script that `python -m function setup business-rule` prints, which sends with
RESTMessageV2.executeAsync and never tries again: same condition, same body, same headers.
"""

import base64
import hashlib
import hmac
import itertools
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import Any, Final

from function.cli.business_rule import WatchedTable
from function.targets.ticket.address import query_of_source
from sandbox.loopback import DIRECT
from sandbox.query import named_columns
from sandbox.schema import SCHEMA, Kind, Refused, defaults
from sandbox.tables import Tables, Written

# setHttpTimeout in the script.
_TIMEOUT_SECONDS: Final = 10.0
# One that is to be overtaken goes all the same when nothing has come after it for so long.
_OVERTAKEN_SECONDS: Final = 0.3
# What is kept of an answer.
_ANSWER_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class NotifiedTable:
    """What is told of the records of *table* that *filter*, an encoded query, describes.

    An update that changes one of *columns* or one that *filter* is about, or adds to one of
    *journals*; with *insert* and *delete* also those. What the integration user does is not told.
    """

    table: str = "incident"
    columns: tuple[str, ...] = ("state", "assigned_to", "assignment_group", "priority")
    filter: str = ""
    journals: tuple[str, ...] = ("comments", "work_notes")
    insert: bool = False
    delete: bool = False


def notified_tables(watched: Iterable[WatchedTable], source_name: str) -> list[NotifiedTable]:
    """What the business rules that are printed for *watched* tell the app *source_name*."""
    return [
        NotifiedTable(
            each.table,
            columns=tuple(dict.fromkeys(path.partition(".")[0] for path in each.columns)),
            filter=query,
            journals=each.journals,
            insert=each.insert,
            delete=each.delete,
        )
        for each in watched
        for query in each.filters or (query_of_source(source_name),)
    ]


@dataclass(frozen=True, slots=True)
class DeliveryFaults:
    """How what is sent arrives: the share that is lost, sent twice, or overtaken by the next one;
    and the seconds that each waits, drawn from 0 to *delay_seconds*. Waiting alone changes no
    order: what comes later waits for it."""

    lose: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay_seconds: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.lose, self.duplicate, self.reorder)
        if not all(0 <= share <= 1 for share in shares) or not self.delay_seconds >= 0:
            raise ValueError("lose, duplicate and reorder are shares from 0 to 1, a delay is >= 0")


@dataclass(frozen=True, slots=True)
class Notification:
    """One request, as it is sent. *headers* are those that the script sets."""

    url: str
    body: bytes
    headers: dict[str, str]

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


@dataclass(frozen=True, slots=True)
class SentNotification:
    """A request and its answer. *status* 0: there was none; nothing is sent again."""

    notification: Notification
    status: int
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """*due* is on the monotonic clock."""

    notification: Notification
    due: float
    overtaken: bool = False


class Notifier:
    """Posts to *url* what *tables* say, signed with *secret*, from threads of its own.

    *more_urls* are other instances of the app, each of which has its turn; *senders* is how many
    are under way at one time. *faults* may be set at any time, and hold for what is written from
    then on; what they draw follows *seed* and the order of the writes. *held*: nothing is sent
    until release().
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        tables: Sequence[NotifiedTable] = (NotifiedTable(),),
        faults: DeliveryFaults | None = None,
        seed: int = 0,
        held: bool = False,
        more_urls: Sequence[str] = (),
        senders: int = 1,
    ) -> None:
        self.faults = faults or DeliveryFaults()
        self.sent: list[SentNotification] = []
        self.lost: list[Notification] = []
        self.doubled = 0
        self._urls = itertools.cycle([url, *more_urls])
        self._secret = secret
        self._notified = tuple(tables)
        self._random = random.Random(seed)  # noqa: S311  # faults, not secrets
        self._held = held
        self._stopped = False
        self._queue: deque[_Waiting] = deque()
        self._sending = 0
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name="the sandbox's business rules", daemon=True)
            for _ in range(senders)
        ]

    def start(self, tables: Tables, *, user: str, clock: Callable[[], float]) -> None:
        """Begin, for an instance whose integration user is *user*. Raises ValueError where a table,
        a column or a filter is none."""
        for notified in self._notified:
            _check(notified, tables)
        self._tables = tables
        self._user = user
        self._clock = clock
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; what is not sent yet is lost, as when an instance ends."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def hold(self) -> None:
        """Keep back what is to be sent, until release()."""
        with self._changed:
            self._held = True

    def release(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many are not sent, or not answered, yet."""
        with self._changed:
            return len(self._queue) + self._sending

    def wait_until_idle(self, timeout_seconds: float) -> None:
        """Wait until everything is sent and answered. Raises TimeoutError, also for what is held
        back."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: not self._queue and not self._sending, timeout_seconds
            ):
                raise TimeoutError(
                    f"{len(self._queue)} notifications wait, {self._sending} are being sent"
                )

    def written(self, write: Written) -> None:
        """Queue what *write*, which is committed, makes the business rules send. Does not wait."""
        if write.by != self._user and any(
            self._concerns(notified, write) for notified in self._notified
        ):
            self._enqueue(self._compose(write))

    def _concerns(self, notified: NotifiedTable, write: Written) -> bool:
        if notified.table != write.table:
            return False
        before, after = write.before, write.after
        if after is None or before is None:
            told = notified.delete if after is None else notified.insert
        else:
            watched = {*notified.columns, *named_columns(notified.filter, notified.table)}
            told = any(before[column] != after[column] for column in watched) or any(
                entry["element"] in notified.journals for entry in write.journal
            )
        return told and self._tables.meets(notified.filter, write.table, write.record, before)

    def _compose(self, write: Written) -> Notification:
        """What the script makes of the record: ASCII, for there is nothing else in it."""
        fields = {
            "version": 1,
            "table": write.table,
            "sys_id": write.record["sys_id"],
            "mod_count": int(write.record["sys_mod_count"]),
        }
        body = json.dumps(fields, separators=(",", ":"))
        stamp = str(int(self._clock()))
        headers = {
            "Content-Type": "application/json",
            "X-ServiceNow-Timestamp": stamp,
            "X-ServiceNow-Signature": f"v1={generate_mac(self._secret, f'{stamp}.{body}')}",
        }
        return Notification(next(self._urls), body.encode("ascii"), headers)

    def _enqueue(self, notification: Notification) -> None:
        faults = self.faults
        # All are drawn each time, so that a share that is changed moves no other draw.
        lose, duplicate, reorder, delay = (self._random.random() for _ in range(4))
        if lose < faults.lose:
            self.lost.append(notification)
            return
        due = time.monotonic() + delay * faults.delay_seconds
        with self._changed:
            self._queue.append(_Waiting(notification, due, reorder < faults.reorder))
            if duplicate < faults.duplicate:
                self.doubled += 1
                again = replace(notification, url=next(self._urls))
                self._queue.append(_Waiting(again, due))
            self._changed.notify_all()

    def _work(self) -> None:
        while (notification := self._take()) is not None:
            sent = _post(notification)
            with self._changed:
                self.sent.append(sent)
                self._sending -= 1
                self._changed.notify_all()

    def _take(self) -> Notification | None:
        """The next one, once it is due; None when this is over."""
        with self._changed:
            while not self._stopped:
                seconds = self._seconds_left()
                if seconds is not None and seconds <= 0:
                    self._sending += 1
                    return self._pop()
                self._changed.wait(seconds)
        return None

    def _seconds_left(self) -> float | None:
        """Until the next one is to be sent; None while there is none, or it is held back."""
        if self._held or not self._queue:
            return None
        first = self._queue[0]
        alone = first.overtaken and len(self._queue) == 1
        due = self._queue[1].due if first.overtaken and not alone else first.due
        return due + (_OVERTAKEN_SECONDS if alone else 0) - time.monotonic()

    def _pop(self) -> Notification:
        first = self._queue.popleft()
        if not first.overtaken or not self._queue:
            return first.notification
        overtaking = self._queue.popleft()
        self._queue.appendleft(replace(first, overtaken=False))
        return overtaking.notification


def generate_mac(secret: str, signed: str) -> str:
    """What ``generateMac`` gives for a key that is *secret* in base64: HMAC-SHA256, in base64."""
    return base64.b64encode(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)).decode()


def _post(notification: Notification) -> SentNotification:
    request = urllib.request.Request(  # noqa: S310  # the url is the test's
        notification.url, notification.body, notification.headers, method="POST"
    )
    try:
        with DIRECT.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            return SentNotification(notification, answer.status, answer.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as refused:
        with refused:
            return SentNotification(notification, refused.code, refused.read(_ANSWER_BYTES_MAX))
    except (OSError, HTTPException):
        return SentNotification(notification, 0)


def _check(notified: NotifiedTable, tables: Tables) -> None:
    columns = SCHEMA.get(notified.table)
    if columns is None:
        raise ValueError(f"There is no table {notified.table}")
    for names, journals in ((notified.columns, False), (notified.journals, True)):
        for name in names:
            if name not in columns or (columns[name].kind is Kind.JOURNAL) is not journals:
                what = "journal" if journals else "column to watch"
                raise ValueError(f"{notified.table}.{name} is no {what}")
    try:
        tables.meets(notified.filter, notified.table, defaults(notified.table))
    except Refused as refused:
        raise ValueError(f"The filter cannot be used: {refused.detail}") from refused
