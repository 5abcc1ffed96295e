"""ServiceNowClient for asyncio: the same client, to be awaited, and cancelled at any time."""

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import psutil
import pytest

from function.servicenow import (
    Basic,
    InDoubt,
    InvalidArgument,
    NotFound,
    Record,
    Refused,
    Unavailable,
)
from function.servicenow import ServiceNowClient as Waiting
from function.servicenow.aio import ServiceNowClient
from function.servicenow.search import PAGE_ROWS
from sandbox.servicenow import ServiceNow
from tests.answers import Seen, Server, always, result
from tests.processes import HERE

T = TypeVar("T")
ID = "0123456789abcdef0123456789abcdef"
CLOSING: dict[str, Any] = {"close_code": "Solution provided", "close_notes": "Restarted."}


@asynccontextmanager
async def calling(
    url: str, *, timeout_seconds: float = 10, concurrency_max: int = 4
) -> AsyncIterator[ServiceNowClient]:
    async with ServiceNowClient(
        instance_url=url,
        username="svc.hasura",
        password="sandbox",
        timeout_seconds=timeout_seconds,
        concurrency_max=concurrency_max,
    ) as client:
        yield client


def run(work: Callable[[ServiceNow, ServiceNowClient], Awaitable[T]]) -> T:
    """What *work* makes of an instance and a client of it."""

    async def within() -> T:
        async with calling(instance.url) as client:
            return await work(instance, client)

    with ServiceNow() as instance:
        return asyncio.run(within())


def opened(instance: ServiceNow, **fields: str) -> Record:
    return instance.tables.insert("incident", {"short_description": "Slow"} | fields, by="admin")


def public(of: type) -> dict[str, Any]:
    return {name: member for name, member in inspect.getmembers(of) if not name.startswith("_")}


class TestAlike:
    def test_both_clients_have_the_same_public_methods_and_parameters(self) -> None:
        waiting, awaited = public(Waiting), public(ServiceNowClient)

        # The address is an attribute of the one, and a property of the other.
        assert set(awaited) - {"instance_url"} == set(waiting)
        for name, method in [*waiting.items(), ("__init__", Waiting.__init__)]:
            other = getattr(ServiceNowClient, name)
            if isinstance(method, property):
                assert isinstance(other, property), name
                continue
            parameters = inspect.signature(method).parameters
            assert [*inspect.signature(other).parameters.values()] == [*parameters.values()], name

    def test_every_method_is_a_coroutine_but_the_search(self) -> None:
        methods = {
            name: member
            for name, member in public(ServiceNowClient).items()
            if inspect.isfunction(member)
        }
        waited_for = {
            name for name, method in methods.items() if inspect.iscoroutinefunction(method)
        }

        assert set(methods) - waited_for == {"search_incidents"}

    def test_a_method_says_what_the_other_says(self) -> None:
        assert ServiceNowClient.create_incident.__doc__ == Waiting.create_incident.__doc__

    def test_an_incident_goes_its_way(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> list[Any]:
            made = await client.create_incident(
                short_description="Checkout is down", urgency="High"
            )
            assert await client.add_work_note(
                table="incident", sys_id=made["sys_id"], work_note="Restarted."
            )
            assert await client.add_comment(made["number"], "Restarted.", key="1")
            assert not await client.add_comment(made["number"], "Restarted.", key="1")
            changed = await client.update_incident(sys_id=made["sys_id"], state="In Progress")
            resolved = await client.resolve_incident(made["number"], **CLOSING)
            reopened = await client.reopen_incident(made["number"])
            closed = await client.close_incident(number=made["number"], **CLOSING)
            got = await client.get_incident(made["sys_id"])
            raw = await client.get("incident", made["sys_id"], fields=["number"], timeout_seconds=5)
            assert raw["number"] == made["number"]
            assert client.instance_url == instance.url
            assert client.calls > 10
            return [row["state"] for row in (made, changed, resolved, reopened, closed, got)]

        assert run(work) == ["1", "2", "6", "2", "7", "7"]

    def test_a_change_request_goes_its_way(self) -> None:
        async def work(_: ServiceNow, client: ServiceNowClient) -> str:
            made = await client.create_change_request("Upgrade", type_="emergency")
            moved = await client.update_change_request(made["number"], state="Authorize")
            assert (await client.get_change_request(number=made["number"]))["sys_id"] == made[
                "sys_id"
            ]
            return moved["state"]

        assert run(work) == "-3"

    def test_an_error_is_the_other_clients_error(self) -> None:
        async def work(_: ServiceNow, client: ServiceNowClient) -> None:
            with pytest.raises(NotFound, match="ticket_not_found") as missing:
                await client.get_incident("INC9999999")
            assert missing.value.doing == "getting an incident"
            with pytest.raises(InvalidArgument, match="did you mean assignment_group"):
                await client.create_incident("x", assigment_group="Network")

        run(work)

    def test_calls_go_side_by_side_and_no_more_than_may(self) -> None:
        there = most = 0
        counting = threading.Lock()

        def answer(sock: Any, seen: Seen) -> bool:
            nonlocal there, most
            with counting:
                there += 1
                most = max(most, there)
            time.sleep(0.1)
            with counting:
                there -= 1
            return always(result({"sys_id": ID}))(sock, seen)

        async def work() -> None:
            async with calling(server.url, concurrency_max=3) as client:
                await asyncio.gather(*(client.get_incident(ID) for _ in range(9)))

        with Server(answer) as server:
            asyncio.run(work())

        assert most == 3

    def test_the_loop_is_not_held_up(self) -> None:
        async def work() -> int:
            ticks = 0
            async with calling(server.url) as client:
                asking = asyncio.create_task(client.get_incident(ID))
                while not asking.done():
                    await asyncio.sleep(0.01)
                    ticks += 1
                await asking
            return ticks

        def answer(sock: Any, seen: Seen) -> bool:
            time.sleep(0.5)
            return always(result({"sys_id": ID}))(sock, seen)

        with Server(answer) as server:
            assert asyncio.run(work()) > 10


class TestSearch:
    def test_it_is_a_list_where_it_is_awaited(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            numbers = [opened(instance)["number"] for _ in range(3)]
            opened(instance, state="2")
            found = client.search_incidents(state="New")

            assert [row["number"] for row in await found] == numbers
            assert [row["number"] for row in await found] == numbers
            assert len(await client.search_incidents(limit=2)) == 2
            assert await client.search_incidents(category="none such") == []

        run(work)

    def test_its_records_come_one_by_one(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            there = [opened(instance)["number"] for _ in range(PAGE_ROWS + 7)]

            assert [
                row["number"] async for row in client.search_incidents(fields=["number"])
            ] == there

        run(work)

    def test_no_more_is_read_than_is_asked_for(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            for _ in range(PAGE_ROWS * 2):
                opened(instance)
            async for _ in client.search_incidents():
                break

            assert client.calls == 1

        run(work)

    def test_bad_arguments_are_an_error_where_it_is_asked_for(self) -> None:
        async def work(nothing: ServiceNow, client: ServiceNowClient) -> None:
            found = client.search_incidents(state="Fresh")
            with pytest.raises(InvalidArgument, match="state of an incident must be one of"):
                await found
            with pytest.raises(InvalidArgument, match="state of an incident must be one of"):
                async for _ in found:
                    pass
            assert client.calls == 0

        run(work)

    def test_what_was_found_before_an_error_comes_before_it(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            for n in range(PAGE_ROWS):
                opened(instance, number=f"INC{n:07}")
            opened(instance, number="INC9^OR")
            had: list[Record] = []

            async def read() -> None:
                async for row in client.search_incidents(fields=["number"]):
                    had.append(row)

            with pytest.raises(Refused, match="number"):
                await read()
            assert len(had) == PAGE_ROWS + 1

        run(work)

    def test_one_whose_reading_was_cancelled_is_not_read_on_as_if_it_were_whole(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            opened(instance)
            instance.arm("slow", method="GET", seconds=5)
            found = aiter(client.search_incidents())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(found), 0.2)
            instance.disarm()
            with pytest.raises(RuntimeError, match="begin another one"):
                await anext(found)
            assert len(await client.search_incidents()) == 1

        run(work)


async def cancelled(work: Coroutine[Any, Any, object], *, when: Callable[[], bool]) -> float:
    """Cancel *work* once it has come so far; how long that took, in seconds."""
    task = asyncio.create_task(work)
    until = time.monotonic() + 5
    while not when():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)
    began = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return time.monotonic() - began


def has_seen(server: Server, requests: int) -> bool:
    return len(server.seen) == requests


class TestCancel:
    def test_it_ends_at_once_and_its_turn_is_the_next_calls(self) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            if "hang" in seen.target or "hang" in seen.body.decode():
                return not server.stopping.wait(30)
            return always(result({"sys_id": ID}))(sock, seen)

        async def work() -> None:
            async with calling(server.url, timeout_seconds=30, concurrency_max=2) as client:
                for n in range(1, 7):
                    call = client.update_incident(ID, description="hang")
                    assert await cancelled(call, when=partial(has_seen, server, n)) < 1
                began = time.monotonic()
                assert (await client.get_incident(ID))["sys_id"] == ID
                assert time.monotonic() - began < 2

        with Server(answer) as server:
            asyncio.run(work())

    def test_others_go_on(self) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            if "hang" in seen.body.decode():
                return not server.stopping.wait(30)
            time.sleep(0.3)
            return always(result({"sys_id": ID}))(sock, seen)

        async def work() -> None:
            async with calling(server.url, timeout_seconds=30) as client:
                others = [asyncio.create_task(client.get_incident(ID)) for _ in range(3)]
                await cancelled(
                    client.update_incident(ID, description="hang"),
                    when=partial(has_seen, server, 4),
                )
                assert [row["sys_id"] for row in await asyncio.gather(*others)] == [ID] * 3

        with Server(answer) as server:
            asyncio.run(work())

    def test_one_that_waits_for_its_turn_is_never_sent(self) -> None:
        async def work() -> None:
            async with calling(server.url, timeout_seconds=30, concurrency_max=1) as client:
                first = asyncio.create_task(client.get_incident(ID))
                waits = asyncio.create_task(client.update_incident(ID, description="planted"))
                await asyncio.sleep(0.1)
                waits.cancel()
                await first
                assert [seen.method for seen in server.seen] == ["GET"]
                await client.get_incident(ID)
                assert [seen.method for seen in server.seen] == ["GET", "GET"]

        def answer(sock: Any, seen: Seen) -> bool:
            time.sleep(0.3)
            return always(result({"sys_id": ID}))(sock, seen)

        with Server(answer) as server:
            asyncio.run(work())

    def test_nothing_more_is_sent_for_it(self) -> None:
        """A create looks whether its record was made: not when nobody waits for the answer."""

        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            instance.arm("commit_then_hang", method="POST", seconds=5)
            await cancelled(
                client.create_incident("x"), when=lambda: bool(instance.rows("incident"))
            )
            await asyncio.sleep(0.3)
            assert {call.method for call in instance.calls} <= {"POST"}
            assert (await client.create_incident("y"))["number"]

        run(work)

    def test_a_cancelled_create_may_have_arrived_and_is_repeated_by_its_sys_id(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            instance.arm("commit_then_hang", method="POST", seconds=5)
            await cancelled(
                client.create_incident("x", sys_id=ID), when=lambda: bool(instance.rows("incident"))
            )
            again = await client.create_incident("x", sys_id=ID)

            assert [row["sys_id"] for row in instance.rows("incident")] == [again["sys_id"]]

        run(work)

    def test_a_name_that_others_ask_for_too_is_found_for_them(self) -> None:
        async def work(instance: ServiceNow, client: ServiceNowClient) -> None:
            instance.arm("slow", method="GET", seconds=1)
            leading = asyncio.create_task(client.create_incident("x", assignment_group="Network"))
            await asyncio.sleep(0.2)
            following = asyncio.create_task(client.create_incident("y", assignment_group="Network"))
            await asyncio.sleep(0.2)
            leading.cancel()
            assert (await following)["assignment_group"]

        run(work)

    def test_no_thread_and_no_connection_is_left(self) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            return not server.stopping.wait(30)

        async def work() -> None:
            async with calling(server.url, timeout_seconds=30) as client:
                for n in range(1, 20):
                    await cancelled(client.get_incident(ID), when=partial(has_seen, server, n))
                before = time.monotonic()
            assert time.monotonic() - before < 3

        threads = threading.active_count()
        with Server(answer) as server:
            port = int(server.url.rpartition(":")[2])
            asyncio.run(work())
            connected = [
                c
                for c in psutil.Process().net_connections("tcp")
                if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED
            ]
            assert connected == []
        assert threading.active_count() <= threads


class TestBounds:
    def test_what_waits_too_long_for_its_turn_is_told_so(self) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            return not server.stopping.wait(30)

        async def work() -> str:
            async with calling(server.url, timeout_seconds=0.5, concurrency_max=1) as client:
                first = asyncio.create_task(client.update_incident(ID, description="x"))
                second = asyncio.create_task(client.get_incident(ID))
                with pytest.raises(InDoubt):
                    await first
                with pytest.raises(Unavailable) as told:
                    await second
            return str(told.value)

        # Both have the same time: now and then the second has its turn at the very end.
        with Server(answer) as server:
            said = [asyncio.run(work()) for _ in range(5)]
        assert any("All our calls to ServiceNow were taken" in words for words in said)

    def test_closing_ends_what_is_under_way(self) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            return not server.stopping.wait(30)

        async def work() -> None:
            client = ServiceNowClient(server.url, Basic("u", "p"), timeout_seconds=30)
            call = asyncio.create_task(client.update_incident(ID, description="x"))
            while not server.seen:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(client.close(), 5)
            with pytest.raises(InDoubt):
                await call
            with pytest.raises(RuntimeError, match="the client is closed"):
                await client.get_incident(ID)

        with Server(answer) as server:
            asyncio.run(work())


@pytest.mark.parametrize("name", ["main", "function.servicenow"])
def test_who_does_not_await_does_not_load_it(name: str) -> None:
    code = f"import sys, {name}; sys.exit('function.servicenow.aio' in sys.modules)"

    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=HERE, env={}, timeout=60, check=False
        ).returncode
        == 0
    )
