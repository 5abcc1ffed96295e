"""The asynchronous client in ServiceNow's own package, unmodified: its requests do not say what
they accept.

With a password flow it sends no token either: it builds requests that its session adds nothing to.
That is not here.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pysnc.asyncio import AsyncServiceNowClient
from pysnc.asyncio.auth import AsyncServiceNowClientCredentialsFlow
from pysnc.exceptions import AuthenticationException, RoleException

from sandbox.servicenow import ServiceNow

GUID = "AAAABBBBCCCCDDDDEEEEFFFF00001111"
Work: TypeAlias = Callable[[Any], Awaitable[Any]]
Run: TypeAlias = Callable[[Work], Any]


@pytest.fixture
def context(trusted: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    # For a token the client opens another, which trusts only the machine's authorities.
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return ssl.create_default_context(cafile=str(trusted))


@pytest.fixture
def run(instance: ServiceNow, context: ssl.SSLContext) -> Run:
    """Runs what is to be done with a client of its own, and gives what it gives."""

    def with_client(work: Work) -> Any:
        async def opened() -> Any:
            async with connected(
                instance, context, (instance.username, instance.password)
            ) as client:
                return await work(client)

        return asyncio.run(opened())

    return with_client


@asynccontextmanager
async def connected(instance: ServiceNow, context: ssl.SSLContext, auth: Any) -> AsyncIterator[Any]:
    client = AsyncServiceNowClient(instance.url, auth, verify=context)
    try:
        yield client
    finally:
        await client.close()


async def made(client: Any, table: str = "incident", **fields: str) -> Any:
    record = await client.GlideRecord(table)
    record.initialize()
    for name, value in fields.items():
        record.set_value(name, value)
    assert await record.insert()
    return record


class TestRecords:
    def test_a_record_is_made_changed_read_and_deleted(
        self, run: Run, instance: ServiceNow
    ) -> None:
        async def work(client: Any) -> str:
            record = await made(client, short_description="Link down", description="Port 3")
            record.short_description = "Link up"
            assert await record.update()
            again = await client.GlideRecord("incident")
            assert await again.get(record.sys_id)
            shown = str(again.get_value("short_description"))
            assert await record.delete()
            return shown

        assert run(work) == "Link up"
        assert instance.rows("incident") == []
        assert [call.method for call in instance.calls] == ["POST", "PATCH", "GET", "DELETE"]
        # What this client says of formats is the HTTP library's: anything, or nothing.
        assert {call.headers.get("accept", "") for call in instance.calls} <= {"", "*/*"}

    def test_a_record_without_a_field_is_made(self, run: Run, instance: ServiceNow) -> None:
        run(made)

        assert [row["short_description"] for row in instance.rows("incident")] == [""]

    def test_a_guid_of_the_client_s_own_is_honoured_once(self, run: Run) -> None:
        async def work(client: Any) -> bool:
            for _ in range(2):
                record = await client.GlideRecord("problem")
                record.initialize()
                record.set_new_guid_value(GUID)
                await record.insert()
            return True

        with pytest.raises(RoleException, match="Error during insert of problem"):
            run(work)

    def test_a_record_that_is_not_there_is_not_got(self, run: Run) -> None:
        async def work(client: Any) -> tuple[bool, bool]:
            record = await client.GlideRecord("incident")
            return await record.get(GUID), await record.get("number", "INC9999999")

        assert run(work) == (False, False)


class TestLists:
    def test_a_list_is_paged_and_counted(self, run: Run) -> None:
        async def work(client: Any) -> tuple[int, int]:
            record = await client.GlideRecord("sys_metadata", batch_size=100)
            record.fields = "sys_id"
            record.limit = 250
            await record.query()
            return len(record), len({str(row.sys_id) async for row in record})

        total, seen = run(work)

        assert (total > 500, seen) == (True, 250)

    def test_a_very_long_query_goes_through_a_batch(self, run: Run, instance: ServiceNow) -> None:
        async def work(client: Any) -> list[str]:
            record = await made(client, short_description="Link down")
            found = await client.GlideRecord("incident")
            query = "AAAA=BBBB^" * 2300 + f"sys_id={record.sys_id}"
            found.add_encoded_query(query)
            await found.query()
            return [str(row.get_value("short_description")) async for row in found]

        assert run(work) == ["Link down"]
        assert instance.calls[-1].path == "/api/now/v1/batch"

    def test_many_records_are_changed_in_one_batch(self, run: Run, instance: ServiceNow) -> None:
        async def work(client: Any) -> bool:
            for number in range(5):
                await made(client, short_description=f"Link {number}")
            record = await client.GlideRecord("incident")
            record.add_query("short_description", "STARTSWITH", "Link")
            await record.query()
            while await record.next():
                record.description = "all of them"
            return bool(await record.update_multiple())

        assert run(work)
        assert [row["description"] for row in instance.rows("incident")] == ["all of them"] * 5


class TestAttachments:
    def test_a_file_is_attached_listed_and_read_back(self, run: Run, tmp_path: Path) -> None:
        async def work(client: Any) -> tuple[str, str, bytes, bytes]:
            record = await made(client)
            # The record's own methods open a client each, which they never close.
            files = await client.Attachment("incident")
            address = await files.add_attachment(record.sys_id, "log.bin", bytes(range(256)))
            files.add_query("table_sys_id", record.sys_id)
            await files.query()
            assert await files.next()
            path = await files.write_to(tmp_path)
            return address, files.get_link(), await files.read(), path.read_bytes()

        address, link, read, written = run(work)

        assert address == link
        assert read == written == bytes(range(256))


class TestLogin:
    def test_a_wrong_password_is_an_authentication_error(
        self, instance: ServiceNow, context: ssl.SSLContext
    ) -> None:
        async def work() -> None:
            async with connected(instance, context, (instance.username, "wrong")) as client:
                await (await client.GlideRecord("incident")).get(GUID)

        with pytest.raises(AuthenticationException, match="User is not authenticated"):
            asyncio.run(work())

    def test_client_credentials_buy_a_token_for_every_call(
        self, instance: ServiceNow, context: ssl.SSLContext
    ) -> None:
        async def work() -> None:
            flow = AsyncServiceNowClientCredentialsFlow(
                instance.oauth.client_id, instance.oauth.client_secret
            )
            session = await flow.authenticate(instance.url, verify=context)
            async with connected(instance, context, session) as client:
                for _ in range(3):
                    await made(client)

        asyncio.run(work())

        assert [(asked.grant, asked.status) for asked in instance.token_requests] == [
            ("client_credentials", 200)
        ]
        assert len(instance.rows("incident")) == 3
