"""ServiceNowClient for asyncio: the same methods, to be awaited.

async with ServiceNowClient("dev12345", username="svc.app", password=password) as servicenow:
    incident = await servicenow.create_incident("Checkout is down", urgency="High",
    assignment_group="Network")
    async for row in servicenow.search_incidents(state="New"):
        print(row["number"])
    new = await servicenow.search_incidents(state="New", limit=10)

One client (itsm.py) does the work, in threads of this one's own, so that both ways of calling mean
the same.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias, TypeVar

from function.http.network import NetworkSettings
from function.http.session import SCOPE, CancelScope
from function.servicenow import itsm
from function.servicenow.client import AUTH_PAUSE_SECONDS
from function.servicenow.credentials import Credential
from function.servicenow.errors import ServiceNowError, error_of
from function.servicenow.responses import Record
from function.servicenow.search import PAGE_ROWS
from function.servicenow.transport import CROWDED

P = ParamSpec("P")
T = TypeVar("T")
Run: TypeAlias = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]
"""Does something in a thread."""


class AwaitableRecords:
    """What a search finds: ``async for`` has the records one by one, a page in memory at a time;
    ``await`` a list.

    The search is made when it is asked for, each time anew; what is wrong with its arguments is
    raised then.
    """

    def __init__(self, run: Run, search: Callable[[], Iterator[Record]]) -> None:
        self._run = run
        self._search = search

    def __aiter__(self) -> AsyncIterator[Record]:
        return _RecordIterator(self._run, self._search)

    def __await__(self) -> Generator[Any, None, list[Record]]:
        return self._listed().__await__()

    async def _listed(self) -> list[Record]:
        return [record async for record in self]


class _RecordIterator:
    """The records of one search; after an error, or a cancelled await, there are no more."""

    def __init__(self, run: Run, search: Callable[[], Iterator[Record]]) -> None:
        self._run = run
        self._search = search
        self._found: Iterator[Record] | None = None
        self._page: list[Record] = []
        self._trouble: BaseException | None = None
        self._reading = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if not self._page:
            await self._read_page()
        if not self._page:
            raise StopAsyncIteration
        return self._page.pop()

    async def _read_page(self) -> None:
        if self._trouble is not None:
            raise self._trouble
        if self._reading:
            # Its thread may still be at it: what would follow here is not what the caller has not
            # had yet.
            raise RuntimeError(
                "reading this search was cancelled, or is under way: begin another one"
            )
        self._reading = True
        try:
            page, self._trouble = await self._run(self._next_page)
        except ServiceNowError:
            self._reading = False  # it did not get its turn
            raise
        self._reading = False
        page.reverse()
        self._page = page
        if not page and self._trouble is not None:
            raise self._trouble

    def _next_page(self) -> tuple[list[Record], ServiceNowError | None]:
        """The next records, and what befell the search behind them."""
        page: list[Record] = []
        try:
            if self._found is None:
                self._found = self._search()
            for record in islice(self._found, PAGE_ROWS):
                page.append(record)  # what came before an error counts
        except ServiceNowError as error:
            return page, error
        return page, None


def _awaited(
    method: Callable[Concatenate[itsm.ServiceNowClient, P], T],
) -> Callable[Concatenate["ServiceNowClient", P], Coroutine[Any, Any, T]]:
    """*method* as a coroutine."""

    @functools.wraps(method)
    async def call(self: "ServiceNowClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(functools.partial(method, self._client, *args, **kwargs))

    return call


def _searched(
    method: Callable[Concatenate[itsm.ServiceNowClient, P], Iterator[Record]],
) -> Callable[Concatenate["ServiceNowClient", P], AwaitableRecords]:
    """*method* as one that gives AwaitableRecords."""

    @functools.wraps(method)
    def search(self: "ServiceNowClient", /, *args: P.args, **kwargs: P.kwargs) -> AwaitableRecords:
        return AwaitableRecords(self._run, functools.partial(method, self._client, *args, **kwargs))

    return search


class ServiceNowClient:
    """Incidents, change requests, notes and any table: the methods and errors of
    itsm.ServiceNowClient, awaited.

    At most *concurrency_max* calls run at a time, each in a thread of this client's; what waits
    longer than *timeout_seconds* for its turn raises Unavailable. Tasks of one event loop may share
    a client.

    Cancelling an await is safe: its connection is cut, nothing more is sent for it, its turn is the
    next call's, and other calls go on. It takes nothing back: a write that had been sent may still
    arrive, as after InDoubt, and of a call that makes several writes (close_incident: resolve, then
    close) the first may be done. So repeat a create with the same *sys_id*, and a note with the
    same *key*.
    """

    def __init__(
        self,
        instance_url: str,
        credential: Credential | Callable[[], Credential] | str | None = None,
        password: str = "",
        *,
        username: str = "",
        timeout_seconds: float = 20.0,
        concurrency_max: int = 4,
        ca_file: str | None = None,
        network: NetworkSettings | None = None,
        auth_pause_seconds: float = AUTH_PAUSE_SECONDS,
    ) -> None:
        self._client = itsm.ServiceNowClient(
            instance_url,
            credential,
            password,
            username=username,
            timeout_seconds=timeout_seconds,
            concurrency_max=concurrency_max,
            ca_file=ca_file,
            network=network,
            auth_pause_seconds=auth_pause_seconds,
        )
        self._timeout_seconds = timeout_seconds
        self._turns = asyncio.Semaphore(concurrency_max)
        self._threads = ThreadPoolExecutor(concurrency_max, thread_name_prefix="servicenow")
        self._scopes: set[CancelScope] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def instance_url(self) -> str:
        """``https://host[:port]``, without a slash at the end."""
        return self._client.instance_url

    @property
    def calls(self) -> int:
        """How many requests were sent, those for tokens too."""
        return self._client.calls

    @property
    def rate_limit_per_hour(self) -> int | None:
        """The limit that the last answer named; None where no rate limit rule applies."""
        return self._client.rate_limit_per_hour

    create_incident = _awaited(itsm.ServiceNowClient.create_incident)
    get_incident = _awaited(itsm.ServiceNowClient.get_incident)
    update_incident = _awaited(itsm.ServiceNowClient.update_incident)
    search_incidents = _searched(itsm.ServiceNowClient.search_incidents)
    resolve_incident = _awaited(itsm.ServiceNowClient.resolve_incident)
    close_incident = _awaited(itsm.ServiceNowClient.close_incident)
    reopen_incident = _awaited(itsm.ServiceNowClient.reopen_incident)
    add_work_note = _awaited(itsm.ServiceNowClient.add_work_note)
    add_comment = _awaited(itsm.ServiceNowClient.add_comment)
    create_change_request = _awaited(itsm.ServiceNowClient.create_change_request)
    get_change_request = _awaited(itsm.ServiceNowClient.get_change_request)
    update_change_request = _awaited(itsm.ServiceNowClient.update_change_request)
    get = _awaited(itsm.ServiceNowClient.get)
    find = _awaited(itsm.ServiceNowClient.find)
    create = _awaited(itsm.ServiceNowClient.create)
    update = _awaited(itsm.ServiceNowClient.update)

    async def close(self) -> None:
        """End the calls that are under way, as if they were cancelled, and close the
        connections."""
        for scope in list(self._scopes):
            scope.cancel()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        self._client.close()

    async def _run(self, work: Callable[[], T]) -> T:
        """Do *work* in a thread, when it is its turn."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._turns.acquire()
        except TimeoutError:
            raise error_of(CROWDED) from None
        scope, context = CancelScope(), copy_context()
        context.run(SCOPE.set, scope)
        try:
            future = self._threads.submit(context.run, work)
        except RuntimeError:
            self._turns.release()
            raise RuntimeError("the client is closed") from None
        self._scopes.add(scope)
        loop = asyncio.get_running_loop()

        def pass_turn(_: Future[T]) -> None:
            # In whatever thread it ends, and maybe after the loop has.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._turns.release)

        future.add_done_callback(pass_turn)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            scope.cancel()
            raise
        finally:
            self._scopes.discard(scope)
