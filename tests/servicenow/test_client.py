"""What ServiceNow's answers mean (pure), and that the client keeps its bounds and its secrets (on
real sockets)."""

import base64
import json
import logging
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from function.connection.probe import reach
from function.core.outcome import Failure, Reason, Retryability
from function.servicenow import (
    BODY_BYTES_MAX,
    Basic,
    Record,
    Reply,
    Request,
    ServiceNowClient,
    ServiceNowError,
    equals,
    interpret,
)
from function.servicenow.transport import Transport
from tests.answers import LINK_LOCAL, Answer, Seen, Server, always, drip, http, reset, result

ID = "0123456789abcdef0123456789abcdef"
GET = Request("GET", "incident", ID)
FIND = Request("GET", "incident")
POST = Request("POST", "incident")
PATCH = Request("PATCH", "incident", ID)
NOW = 1_780_000_000.0  # 2026-05-28T20:26:40Z

T, D, P = Retryability.TRANSIENT, Retryability.IN_DOUBT, Retryability.PERMANENT


def said(message: str, detail: str | None = None) -> str:
    return json.dumps({"error": {"message": message, "detail": detail}, "status": "failure"})


def reply(
    status: int, body: str | bytes = b"", content_type: str = "application/json", **headers: str
) -> Reply:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Reply(
        status,
        {"content-type": content_type} | named,
        body.encode() if isinstance(body, str) else body,
    )


def page(status: int, body: str = "<html><body>Hello</body></html>", **headers: str) -> Reply:
    return reply(status, body, "text/html;charset=UTF-8", **headers)


def failure(request: Request, answer: Reply) -> Failure:
    verdict = interpret(request, answer, now=NOW)
    assert isinstance(verdict, Failure), "expected a failure"
    return verdict


def records(request: Request, answer: Reply) -> list[Record]:
    verdict = interpret(request, answer, now=NOW)
    assert isinstance(verdict, list), verdict
    return verdict


ROW = json.dumps({"result": {"sys_id": ID, "number": "INC0010001"}})
CREATED = reply(201, ROW)


class TestAnswers:
    def test_a_record_is_returned_as_text(self) -> None:
        row = {
            "sys_id": ID,
            "state": "2",
            "caller_id": {"link": "https://x/1", "value": "abc"},
            "closed_at": None,
        }
        more = {"active": True, "reopen_count": 3}

        assert records(GET, reply(200, json.dumps({"result": row | more}))) == [
            {
                "sys_id": ID,
                "state": "2",
                "caller_id": "abc",
                "closed_at": "",
                "active": "true",
                "reopen_count": "3",
            }
        ]

    def test_a_query_returns_what_it_found(self) -> None:
        assert records(FIND, reply(200, '{"result":[{"sys_id":"a"},{"sys_id":"b"}]}')) == [
            {"sys_id": "a"},
            {"sys_id": "b"},
        ]

    def test_a_query_that_finds_nothing_is_an_empty_list(self) -> None:
        assert records(FIND, reply(200, '{"result":[]}')) == []

    def test_a_query_that_finds_nothing_in_version_1_is_an_empty_list(self) -> None:
        assert (
            records(FIND, reply(404, said("No Record found", "Records matching query not found.")))
            == []
        )

    def test_a_created_record_is_returned(self) -> None:
        assert records(POST, CREATED)[0]["number"] == "INC0010001"

    def test_a_row_that_talks_of_hibernating_is_a_row(self) -> None:
        row = json.dumps(
            {"result": {"sys_id": ID, "short_description": "<html>Your instance is hibernating"}}
        )

        assert len(records(GET, reply(200, row))) == 1

    @given(
        st.sampled_from([GET, FIND, POST, PATCH]),
        st.integers(100, 700),
        st.dictionaries(
            st.sampled_from(
                ["content-type", "retry-after", "location", "x-ratelimit-reset", "x-mfa_token"]
            ),
            st.text()
            | st.sampled_from(["application/json", "http://[", "Thu, 99 Foo 2026", "9" * 5000]),
        ),
        st.binary()
        | st.sampled_from(
            [b'{"result":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}", b"[" * 100_000]
        )
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(["result", "error", "message", "detail", "sys_id", "value"]),
                    inner,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
    def test_no_answer_is_too_strange(
        self, request_: Request, status: int, headers: dict[str, str], body: bytes
    ) -> None:
        verdict = interpret(request_, Reply(status, headers, body), now=NOW)

        if isinstance(verdict, Failure):
            assert verdict.hint
            assert len(verdict.remote_message) <= 300
            assert verdict.status == status
        else:
            assert request_ == FIND or len(verdict) == 1
            assert all(isinstance(value, str) for record in verdict for value in record.values())


BR = (
    "Operation against file 'incident' was aborted by Business Rule 'No ACL Exception^{}'. "
    "Business Rule Stack:No"
)

# facts, 1.5: status, message, detail → what it is for a GET, and for a write.
ERRORS: list[tuple[int, str, str | None, tuple[Retryability, Reason, str]]] = [
    (400, "Invalid table bad_table_name", None, (P, Reason.REFUSED, "rule's table")),
    (
        400,
        "Requested URI does not represent any resource",
        "/x",
        (P, Reason.REFUSED, "SERVICENOW_INSTANCE_URL"),
    ),
    (
        404,
        "Requested URI does not represent any resource",
        "/x",
        (P, Reason.REFUSED, "SERVICENOW_INSTANCE_URL"),
    ),
    (400, "Exception while reading request", "Unexpected token", (P, Reason.REFUSED, "JSON")),
    (
        400,
        "Rejected large REST payload with content-length = 99999999 bytes.",
        None,
        (P, Reason.REFUSED, "10 MB"),
    ),
    (
        401,
        "User Not Authenticated",
        "Required to provide Auth information",
        (T, Reason.UNAUTHORIZED, "locked out"),
    ),
    (
        401,
        "User is not authenticated",
        "Required to provide Auth information",
        (T, Reason.UNAUTHORIZED, "PASSWORD"),
    ),
    (
        403,
        "Operation Failed",
        "ACL Exception Insert Failed due to security constraints",
        (P, Reason.ACL, "role itil"),
    ),
    (403, "Operation Failed", BR.format(ID), (P, Reason.BUSINESS_RULE, "sys_script")),
    (
        403,
        "Operation Failed",
        "Data Policy Exception: The following fields are mandatory: Resolution code",
        (P, Reason.DATA_POLICY, "mandatory"),
    ),
    (
        403,
        "Operation Failed",
        "Error during insert of incident (INC1)",
        (D, Reason.INSERT_FAILED, "system log"),
    ),
    (403, "User Not Authorized", "Failed API level ACL Validation", (T, Reason.ACL, "KB2466644")),
    (403, "Insufficient rights to query records", None, (P, Reason.ACL, "role itil")),
    (403, "Something nobody has seen", "yet", (P, Reason.REFUSED, "own words")),
    (
        404,
        "No Record found",
        "Record doesn't exist or ACL restricts the record retrieval",
        (P, Reason.MISSING, "deleted"),
    ),
    (405, "Method not allowed", None, (P, Reason.REFUSED, "method")),
    (406, "Not acceptable", None, (P, Reason.REFUSED, "JSON")),
    (414, "Too long", None, (P, Reason.REFUSED, "too long")),
    (415, "Unsupported media type", None, (P, Reason.REFUSED, "JSON")),
    (409, "Nothing documents this", None, (P, Reason.REFUSED, "own words")),
]


@pytest.mark.parametrize("request_", [GET, PATCH], ids=["GET", "PATCH"])
@pytest.mark.parametrize(("status", "message", "detail", "expected"), ERRORS)
def test_an_error_is_known_by_its_words(
    request_: Request,
    status: int,
    message: str,
    detail: str | None,
    expected: tuple[Retryability, Reason, str],
) -> None:
    found = failure(request_, reply(status, said(message, detail)))

    assert (found.retryability, found.reason, found.status) == (*expected[:2], status)
    assert expected[2] in found.hint
    assert found.remote_message.startswith(message)


@pytest.mark.parametrize(
    ("status", "message", "detail", "expected"),
    [row for row in ERRORS if row[1] != "No Record found"],
)
def test_a_refused_insert_is_known_by_the_same_words_and_keeps_its_status(
    status: int, message: str, detail: str | None, expected: tuple[Retryability, Reason, str]
) -> None:
    found = failure(POST, reply(status, said(message, detail)))

    assert (found.retryability, found.reason, found.status) == (*expected[:2], status)


def test_a_business_rule_is_named_in_the_words() -> None:
    assert (
        "No ACL Exception"
        in failure(POST, reply(403, said("Operation Failed", BR.format(ID)))).remote_message
    )


def test_a_quoted_value_cannot_pass_for_what_servicenow_says() -> None:
    detail = (
        "Error during insert of incident (was aborted by Business Rule, ACL Exception, Data "
        "Policy Exception)"
    )

    assert (
        failure(POST, reply(403, said("Operation Failed", detail))).reason is Reason.INSERT_FAILED
    )


def test_a_user_with_a_second_factor_gets_a_hint_of_their_own() -> None:
    headers = {"content-type": "application/json", "x-mfa_token": "invalid"}
    found = failure(GET, Reply(401, headers, said("User is not authenticated").encode()))

    assert (found.retryability, found.reason) == (T, Reason.UNAUTHORIZED)
    assert "Multi-factor" in found.hint


def test_words_are_cut_and_hold_no_control_characters() -> None:
    found = failure(GET, reply(400, said("a\x00b\r\nc\u202ed " + "x" * 1000, None)))

    assert found.remote_message.startswith("a b c d x")
    assert len(found.remote_message) == 300


class TestNotAnAnswer:
    """Facts, 2.4, and what else looks like an answer and is none. *kinds* are for a GET and for a
    write."""

    @pytest.mark.parametrize(
        ("answer", "kinds", "reason"),
        [
            pytest.param(
                page(200, "<h1>Your instance is hibernating"),
                (T, T),
                Reason.HIBERNATING,
                id="hibernating",
            ),
            pytest.param(
                page(200, "<b id=instance-hibernating-page>"),
                (T, T),
                Reason.HIBERNATING,
                id="hibernating id",
            ),
            pytest.param(
                page(503, "<h1>Hibernating Instance"),
                (T, T),
                Reason.HIBERNATING,
                id="hibernating 503",
            ),
            pytest.param(
                page(302, "", Location="https://developer.servicenow.com/dev.do#!/wake"),
                (T, T),
                Reason.HIBERNATING,
                id="redirect to the developer site",
            ),
            pytest.param(
                page(
                    302,
                    "",
                    Location="https://login.example.com/saml?RelayState=developer.servicenow.com",
                ),
                (T, T),
                Reason.NOT_SERVICENOW,
                id="redirect to an identity provider",
            ),
            pytest.param(
                page(307, "", Location="/login.do"),
                (T, T),
                Reason.NOT_SERVICENOW,
                id="redirect to a login",
            ),
            pytest.param(
                page(301, "", Location="http://["),
                (T, T),
                Reason.NOT_SERVICENOW,
                id="redirect to nowhere",
            ),
            pytest.param(reply(304), (T, T), Reason.NOT_SERVICENOW, id="redirect without a place"),
            pytest.param(
                page(200, "<form><input type='password'>"),
                (T, T),
                Reason.NOT_SERVICENOW,
                id="login page with 200",
            ),
            pytest.param(
                page(200, "<title>Log in | Acme</title>"),
                (T, T),
                Reason.NOT_SERVICENOW,
                id="login by title",
            ),
            pytest.param(page(200), (T, D), Reason.NOT_SERVICENOW, id="some page with 200"),
            pytest.param(
                page(201, "<title>Log in</title>"),
                (T, D),
                Reason.NOT_SERVICENOW,
                id="some page with 201",
            ),
            pytest.param(page(403), (T, D), Reason.NOT_SERVICENOW, id="a firewall's page"),
            pytest.param(page(404), (T, D), Reason.NOT_SERVICENOW, id="another host's 404"),
            pytest.param(
                reply(404, '{"error":"no route"}'),
                (T, D),
                Reason.NOT_SERVICENOW,
                id="a gateway's 404",
            ),
            pytest.param(
                page(400), (P, P), Reason.REFUSED, id="page with 400 for a URL that is too long"
            ),
            pytest.param(
                page(414), (P, P), Reason.REFUSED, id="page with 414 for a URL that is too long"
            ),
            pytest.param(reply(413), (P, P), Reason.REFUSED, id="too large for a proxy"),
            pytest.param(reply(202), (T, T), Reason.OVERLOADED, id="session sync"),
            pytest.param(reply(202, ROW), (T, T), Reason.OVERLOADED, id="session sync with a body"),
            pytest.param(page(502, Server="snow_adc"), (T, D), Reason.UNAVAILABLE, id="502"),
            pytest.param(page(503), (T, D), Reason.UNAVAILABLE, id="503"),
            pytest.param(page(504), (T, D), Reason.UNAVAILABLE, id="504"),
            pytest.param(
                reply(500, said("Transaction cancelled: maximum execution time exceeded")),
                (T, D),
                Reason.UNAVAILABLE,
                id="500 of a cancelled transaction",
            ),
            pytest.param(reply(499), (T, D), Reason.TIMEOUT, id="499"),
            pytest.param(reply(408), (T, D), Reason.TIMEOUT, id="408"),
            pytest.param(
                reply(200, ROW[:-1] + ',"error":{"message":"Transaction cancelled"}}'),
                (T, D),
                Reason.BAD_ANSWER,
                id="an error beside the result",
            ),
            pytest.param(reply(200, said("Oh")), (T, D), Reason.BAD_ANSWER, id="an error with 200"),
            pytest.param(
                reply(200, '{"error":null}'),
                (T, D),
                Reason.BAD_ANSWER,
                id="an empty error with 200",
            ),
            pytest.param(reply(200, ROW[:-3]), (T, D), Reason.BAD_ANSWER, id="truncated JSON"),
            pytest.param(
                reply(200, '{"result":{"x":"Hibernating Instance <title>Log in</title>'),
                (T, D),
                Reason.BAD_ANSWER,
                id="truncated JSON of a row that says so",
            ),
            pytest.param(
                reply(200, ROW + said("late")),
                (T, D),
                Reason.BAD_ANSWER,
                id="an error behind the JSON",
            ),
            pytest.param(reply(200, ""), (T, D), Reason.BAD_ANSWER, id="nothing"),
            pytest.param(reply(204, ""), (T, D), Reason.BAD_ANSWER, id="204"),
            pytest.param(
                reply(200, ROW, "text/plain"),
                (T, D),
                Reason.BAD_ANSWER,
                id="JSON that says it is text",
            ),
            pytest.param(
                reply(200, b'{"result":"\xff"}'), (T, D), Reason.BAD_ANSWER, id="not UTF-8"
            ),
            pytest.param(reply(200, '{"result":{"a":NaN}}'), (T, D), Reason.BAD_ANSWER, id="NaN"),
            pytest.param(reply(200, "[" * 100_000), (T, D), Reason.BAD_ANSWER, id="deep"),
            pytest.param(reply(200, "[]"), (T, D), Reason.BAD_ANSWER, id="not an object"),
            pytest.param(reply(200, "{}"), (T, D), Reason.BAD_ANSWER, id="no result"),
            pytest.param(
                reply(200, '{"result":"x"}'),
                (T, D),
                Reason.BAD_ANSWER,
                id="a result that is no record",
            ),
            pytest.param(
                reply(200, '{"result":[1]}'), (T, D), Reason.BAD_ANSWER, id="a list of no records"
            ),
            pytest.param(
                reply(200, '{"result":{"a":[1]}}'),
                (T, D),
                Reason.BAD_ANSWER,
                id="a field that is a list",
            ),
        ],
    )
    def test_it_is_recognised(
        self, answer: Reply, kinds: tuple[Retryability, Retryability], reason: Reason
    ) -> None:
        for request, kind in (
            (GET, kinds[0]),
            (FIND, kinds[0]),
            (POST, kinds[1]),
            (PATCH, kinds[1]),
        ):
            found = failure(request, answer)

            assert (found.retryability, found.reason, found.status) == (
                kind,
                reason,
                answer.status,
            ), request

    @pytest.mark.parametrize(
        "answer",
        [
            reply(201, '{"result":{}}'),
            reply(201, '{"result":{"number":"INC1"}}'),
            reply(201, '{"result":{"sys_id":""}}'),
            reply(201, ""),
            reply(200, ROW),
        ],
    )
    def test_a_create_without_201_and_sys_id_is_in_doubt(self, answer: Reply) -> None:
        assert failure(POST, answer).retryability is D

    @pytest.mark.parametrize("request_", [GET, PATCH])
    def test_201_is_no_answer_to_anything_but_a_create(self, request_: Request) -> None:
        assert failure(request_, CREATED).reason is Reason.BAD_ANSWER

    def test_a_record_is_no_answer_to_a_query_nor_a_list_to_a_get(self) -> None:
        assert failure(FIND, reply(200, ROW)).reason is Reason.BAD_ANSWER
        assert failure(GET, reply(200, '{"result":[]}')).reason is Reason.BAD_ANSWER

    def test_no_record_found_is_no_missing_ticket_for_a_create(self) -> None:
        assert failure(POST, reply(404, said("No Record found"))).reason is Reason.REFUSED


class TestWaits:
    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry_After": "17"}, 17.0),
            ({"Retry_After": "0"}, 0.0),
            ({"Retry_After": "Thu, 28 May 2026 20:27:10 GMT"}, 30.0),
            ({"Retry_After": "Thu, 28 May 2026 20:00:00 GMT"}, 0.0),
            ({"X_RateLimit_Reset": str(int(NOW) + 90)}, 90.0),
            ({"Retry_After": "5", "X_RateLimit_Reset": str(int(NOW) + 90)}, 5.0),
            ({"Retry_After": "soon", "X_RateLimit_Reset": str(int(NOW) + 90)}, 90.0),
            ({"Retry_After": "999999"}, 3600.0),
        ],
    )
    def test_a_rate_limit_says_when(self, headers: dict[str, str], seconds: float) -> None:
        found = failure(POST, reply(429, said("Rate limit exceeded"), **headers))

        assert (found.retryability, found.reason, found.retry_after_seconds) == (
            T,
            Reason.RATE_LIMITED,
            seconds,
        )

    @pytest.mark.parametrize("headers", [{}, {"Retry_After": "soon"}, {"X_RateLimit_Limit": "100"}])
    def test_a_429_without_a_time_is_a_full_queue(self, headers: dict[str, str]) -> None:
        found = failure(POST, reply(429, said("Too many requests"), **headers))

        assert (found.retryability, found.reason, found.retry_after_seconds) == (
            T,
            Reason.OVERLOADED,
            None,
        )

    def test_a_503_may_ask_for_a_wait(self) -> None:
        assert failure(PATCH, page(503, Retry_After="120")).retry_after_seconds == 120

    def test_a_rate_limit_that_is_not_reached_asks_for_no_wait(self) -> None:
        assert (
            failure(GET, page(500, X_RateLimit_Reset=str(int(NOW) + 90))).retry_after_seconds
            is None
        )

    def test_a_refusal_asks_for_no_wait(self) -> None:
        assert (
            failure(GET, reply(400, said("Invalid table x"), Retry_After="9")).retry_after_seconds
            is None
        )


class TestWhatIsAsked:
    @pytest.mark.parametrize(
        "table",
        ["", "Incident", "incident/x", "incident?x=1", "..", "inci dent", "incident\n", "é"],
    )
    def test_only_a_table_becomes_part_of_an_address(self, table: str) -> None:
        with pytest.raises(ValueError, match="table"):
            Request("GET", table)

    @pytest.mark.parametrize("sys_id", ["abc", ID[:-1] + "/", ID + "\n", "../" + ID[3:], ID + "0"])
    def test_only_a_sys_id_becomes_part_of_an_address(self, sys_id: str) -> None:
        with pytest.raises(ValueError, match="sys_id"):
            Request("GET", "incident", sys_id)

    def test_a_term_is_field_and_value(self) -> None:
        assert equals("correlation_id", "shop:outage:1=2") == "correlation_id=shop:outage:1=2"

    @pytest.mark.parametrize(
        "value",
        ["a^b", "a\nb", "a\rb", "", "=a", " =a", "javascript:x", " JavaScript:x", "a\u2028b"],
    )
    def test_a_value_that_could_mean_more_is_refused_and_not_quoted(self, value: str) -> None:
        with pytest.raises(ValueError, match="a query for name") as refused:
            equals("name", value)

        assert not value or value not in str(refused.value)

    @pytest.mark.parametrize("field", ["", "Name", "a^b", "a=b", "a b", ".a", "a."])
    def test_a_field_that_is_none_is_refused(self, field: str) -> None:
        with pytest.raises(ValueError, match="field"):
            equals(field, "x")


class TestCredential:
    def test_its_digest_is_32_hex_digits_that_depend_on_everything(self) -> None:
        url = "https://dev1.service-now.com"
        digests = {
            Basic("u", "p").digest(url),
            Basic("u", "q").digest(url),
            Basic("v", "p").digest(url),
            Basic("u", "p").digest("https://dev2.service-now.com"),
        }

        assert len(digests) == 4
        assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)
        assert Basic("u", "p").digest(url + "/") == Basic("u", "p").digest(url)

    def test_its_repr_hides_the_password(self) -> None:
        assert "hunter2" not in repr(Basic("u", "hunter2"))


# --- On real sockets
# --------------------------------------------------------------------------------------------------

FIELDS = ("number", "state")
FOUND = result({"sys_id": ID, "number": "INC0010001", "state": "1"})
MADE = result({"sys_id": ID, "number": "INC0010001", "state": "1"}, 201)
PASSWORD = "pässwörd-日本-hunter2"
PLANTED = "planted row content"


@contextmanager
def calling(
    url: str, *, timeout_seconds: float = 10, concurrency_max: int = 4, ca_file: str | None = None
) -> Iterator[ServiceNowClient]:
    client = ServiceNowClient(
        url,
        lambda: Basic("svc.häsura", PASSWORD),
        timeout_seconds=timeout_seconds,
        concurrency_max=concurrency_max,
        ca_file=ca_file,
    )
    try:
        yield client
    finally:
        client.close()


Call = Callable[[ServiceNowClient, float], object]


def get(client: ServiceNowClient, timeout_seconds: float = 10) -> Record:
    return client.get("incident", ID, fields=FIELDS, timeout_seconds=timeout_seconds)


def create(client: ServiceNowClient, timeout_seconds: float = 10) -> Record:
    values = {"sys_id": ID, "short_description": PLANTED}
    return client.create("incident", values, fields=FIELDS, timeout_seconds=timeout_seconds)


def update(client: ServiceNowClient, timeout_seconds: float = 10) -> Record:
    return client.update(
        "incident", ID, {"description": PLANTED}, fields=FIELDS, timeout_seconds=timeout_seconds
    )


def find(client: ServiceNowClient, timeout_seconds: float = 10) -> list[Record]:
    query = equals("sys_id", ID)
    return client.find("incident", query, fields=FIELDS, limit=5, timeout_seconds=timeout_seconds)


def fails(call: Call, client: ServiceNowClient, timeout_seconds: float = 10) -> Failure:
    with pytest.raises(ServiceNowError) as raised:
        call(client, timeout_seconds)
    return raised.value.failure


EVERY_CALL = pytest.mark.parametrize(
    ("call", "kind"),
    [(get, T), (find, T), (create, D), (update, D)],
    ids=["get", "find", "create", "update"],
)


class TestRequests:
    def test_a_get_names_the_record_the_fields_and_wants_plain_values(self) -> None:
        with Server(always(FOUND)) as server, calling(server.url + "/") as client:
            record = get(client)

            assert record == {"sys_id": ID, "number": "INC0010001", "state": "1"}
            [seen] = server.seen
            assert seen.method == "GET"
            assert urlsplit(seen.target).path == f"/api/now/table/incident/{ID}"
            assert parse_qs(urlsplit(seen.target).query) == {
                "sysparm_fields": ["sys_id,number,state"],
                "sysparm_exclude_reference_link": ["true"],
                "sysparm_display_value": ["false"],
            }
            assert seen.headers["accept"] == seen.headers["content-type"] == "application/json"
            assert seen.headers["user-agent"].startswith("hasura-servicenow")

    def test_a_query_is_limited_and_counts_nothing(self) -> None:
        with Server(always(result([{"sys_id": ID}]))) as server, calling(server.url) as client:
            assert find(client) == [{"sys_id": ID}]

            assert parse_qs(urlsplit(server.seen[0].target).query) == {
                "sysparm_query": [f"sys_id={ID}"],
                "sysparm_limit": ["5"],
                "sysparm_no_count": ["true"],
                "sysparm_suppress_pagination_header": ["true"],
                "sysparm_fields": ["sys_id,number,state"],
                "sysparm_exclude_reference_link": ["true"],
                "sysparm_display_value": ["false"],
            }

    def test_a_create_posts_the_values_as_json(self) -> None:
        with Server(always(MADE)) as server, calling(server.url) as client:
            assert create(client)["sys_id"] == ID

            [seen] = server.seen
            assert (seen.method, urlsplit(seen.target).path) == ("POST", "/api/now/table/incident")
            assert json.loads(seen.body) == {"sys_id": ID, "short_description": PLANTED}
            assert "sysparm_exclude_reference_link=true" in seen.target

    def test_an_update_patches_the_record(self) -> None:
        with Server(always(FOUND)) as server, calling(server.url) as client:
            assert update(client)["state"] == "1"

            [seen] = server.seen
            assert (seen.method, urlsplit(seen.target).path) == (
                "PATCH",
                f"/api/now/table/incident/{ID}",
            )
            assert json.loads(seen.body) == {"description": PLANTED}

    def test_text_of_any_kind_arrives_as_it_is(self) -> None:
        text = "é日本 \U0001f600 \x00 \n {{ }} <b> ^ \ud800"
        with Server(always(FOUND)) as server, calling(server.url) as client:
            client.update("incident", ID, {"description": text}, fields=FIELDS, timeout_seconds=5)

            assert json.loads(server.seen[0].body) == {"description": text}

    def test_the_user_and_password_are_sent_as_utf_8(self) -> None:
        with Server(always(FOUND)) as server, calling(server.url) as client:
            get(client)

            scheme, _, encoded = server.seen[0].headers["authorization"].partition(" ")
            assert (scheme, base64.b64decode(encoded).decode()) == (
                "Basic",
                f"svc.häsura:{PASSWORD}",
            )

    def test_a_new_password_is_used_from_the_next_call_on(self) -> None:
        passwords = iter(["old", "new"])
        with Server(always(FOUND)) as server:
            client = ServiceNowClient(
                instance_url=server.url,
                credential=lambda: Basic("u", next(passwords)),
                timeout_seconds=5,
                concurrency_max=1,
            )
            get(client)
            get(client)
            client.close()

            sent = [
                base64.b64decode(seen.headers["authorization"].split()[1]) for seen in server.seen
            ]
            assert sent == [b"u:old", b"u:new"]

    def test_a_netrc_is_not_asked_nor_is_a_proxy_for_what_stays_on_this_machine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        with Server(always(FOUND)) as server, calling(server.url) as client:
            get(client)

            assert PASSWORD.encode() in base64.b64decode(
                server.seen[0].headers["authorization"].split()[1]
            )

    def test_cookies_are_not_sent_back(self) -> None:
        cookies = (
            "JSESSIONID=abc; Path=/\r\nSet-Cookie: glide_user_route=glide.node1; Path=/; HttpOnly"
        )
        with (
            Server(always(result({"sys_id": ID}, Set_Cookie=cookies))) as server,
            calling(server.url) as client,
        ):
            get(client)
            get(client)

            assert [("cookie" in seen.headers, seen.connection) for seen in server.seen] == [
                (False, 1),
                (False, 1),
            ]

    def test_a_redirect_is_not_followed(self) -> None:
        with (
            Server(always(FOUND)) as other,
            Server(always(http(302, Location=other.url + "/login.do"))) as server,
        ):
            with calling(server.url) as client:
                found = fails(create, client)

            assert (found.retryability, found.reason, found.status) == (
                T,
                Reason.NOT_SERVICENOW,
                302,
            )
            assert len(server.seen) == 1
            assert other.seen == []

    @pytest.mark.parametrize(
        "location", ["http://[", "https://exa mple/\\", "", "file:///etc/passwd", "http://x:99999/"]
    )
    def test_a_redirect_to_nowhere_is_one_like_any_other(self, location: str) -> None:
        with Server(always(http(302, Location=location))) as server, calling(server.url) as client:
            assert fails(get, client).reason is Reason.NOT_SERVICENOW

    @pytest.mark.parametrize("sys_id", ["", "x", ID + "/"])
    def test_a_record_without_a_proper_sys_id_is_never_asked_for(self, sys_id: str) -> None:
        with Server(always(FOUND)) as server, calling(server.url) as client:
            with pytest.raises(ValueError, match="sys_id"):
                client.get("incident", sys_id, fields=FIELDS, timeout_seconds=1)
            with pytest.raises(ValueError, match="sys_id"):
                client.update("incident", sys_id, {}, fields=FIELDS, timeout_seconds=1)

            assert server.seen == []

    def test_it_counts_what_was_sent(self) -> None:
        with Server(always(FOUND)) as server, calling(server.url) as client:
            get(client)
            fails(create, client)
            fails(get, client, 0.01)

            assert client.calls == 2


class TestBounds:
    @EVERY_CALL
    def test_a_server_that_never_answers_ends_at_the_bound(
        self, call: Call, kind: Retryability
    ) -> None:
        def hang(sock: socket.socket, seen: Seen) -> bool:
            server.stopping.wait(10)
            return False

        with Server(hang) as server, calling(server.url) as client:
            started = time.monotonic()
            found = fails(call, client, 0.4)

            assert (found.retryability, found.reason) == (kind, Reason.TIMEOUT)
            assert 0.35 < time.monotonic() - started < 1.0
            assert client.calls == 1

    def test_the_clients_own_bound_applies_too(self) -> None:
        def hang(sock: socket.socket, seen: Seen) -> bool:
            server.stopping.wait(10)
            return False

        with Server(hang) as server, calling(server.url, timeout_seconds=0.3) as client:
            started = time.monotonic()
            fails(get, client, 10)

            assert time.monotonic() - started < 1.0

    @EVERY_CALL
    def test_a_dripping_body_ends_at_the_bound(self, call: Call, kind: Retryability) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(FOUND.split(b"{")[0])
            drip(sock, b"{" + b" " * 1000, server)
            return False

        with Server(answer) as server, calling(server.url) as client:
            started = time.monotonic()
            found = fails(call, client, 0.5)

            assert (found.retryability, found.reason, found.status) == (kind, Reason.TIMEOUT, 200)
            assert time.monotonic() - started < 1.0

    @EVERY_CALL
    def test_dripping_headers_end_at_the_bound(self, call: Call, kind: Retryability) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            drip(sock, b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 1000, server)
            return False

        with Server(answer) as server, calling(server.url) as client:
            started = time.monotonic()
            found = fails(call, client, 0.5)

            assert (found.retryability, found.reason) == (kind, Reason.TIMEOUT)
            assert time.monotonic() - started < 1.0

    def test_a_dripping_chunked_answer_ends_at_the_bound(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: "
                b"chunked\r\n\r\n"
            )
            drip(sock, b"1\r\n \r\n" * 1000, server)
            return False

        with Server(answer) as server, calling(server.url) as client:
            started = time.monotonic()

            assert fails(get, client, 0.5).reason is Reason.TIMEOUT
            assert time.monotonic() - started < 1.0

    def test_a_slow_answer_within_the_bound_is_an_answer(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            for part in (FOUND[:20], FOUND[20:150], FOUND[150:]):
                time.sleep(0.1)
                sock.sendall(part)
            return True

        with Server(answer) as server, calling(server.url) as client:
            assert get(client, 2)["number"] == "INC0010001"
            assert get(client, 2)["number"] == "INC0010001"
            assert server.seen[1].connection == 1

    def test_what_the_last_answer_left_of_its_time_does_not_bound_the_next_request(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(FOUND)
            time.sleep(0.6)  # before reading on
            return True

        with Server(answer) as server, calling(server.url) as client:
            get(client, 0.3)
            values = {"description": "x" * 20_000_000}  # more than the sockets' buffers hold

            assert (
                client.update("incident", ID, values, fields=FIELDS, timeout_seconds=8)["sys_id"]
                == ID
            )
            assert server.seen[1].connection == 1

    def test_a_401_whose_body_never_comes_is_still_a_401(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\n")
            server.stopping.wait(10)
            return False

        with Server(answer) as server, calling(server.url) as client:
            assert fails(create, client, 0.3).reason is Reason.UNAUTHORIZED

    @EVERY_CALL
    def test_an_answer_without_end_is_not_read_to_its_end(
        self, call: Call, kind: Retryability
    ) -> None:
        sent = []

        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
            for _ in range(BODY_BYTES_MAX * 4 // 1_000_000):
                sock.sendall(b" " * 1_000_000)
                sent.append(1_000_000)
            return False

        with Server(answer) as server, calling(server.url) as client:
            found = fails(call, client)

            assert (found.retryability, found.reason) == (kind, Reason.BAD_ANSWER)
            assert "16 MiB" in found.hint
            assert sum(sent) < BODY_BYTES_MAX * 2

    def test_no_call_is_made_with_no_time_left(self) -> None:
        with Server(always(FOUND)) as server, calling(server.url) as client:
            found = fails(get, client, 0.04)

            assert (found.retryability, found.reason) == (T, Reason.DEADLINE)
            assert server.seen == []

    def test_no_more_calls_are_under_way_than_allowed(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            time.sleep(0.03)
            sock.sendall(FOUND)
            return True

        with Server(answer) as server, calling(server.url, concurrency_max=3) as client:
            with ThreadPoolExecutor(12) as pool:
                list(pool.map(lambda _: get(client), range(36)))

            assert server.in_flight_max == 3
            assert len(server.seen) == client.calls == 36
            assert max(seen.connection for seen in server.seen) == 3

    def test_a_call_that_never_gets_its_turn_is_not_sent(self) -> None:
        release = threading.Event()

        def answer(sock: socket.socket, seen: Seen) -> bool:
            release.wait(10)
            sock.sendall(FOUND)
            return True

        with (
            Server(answer) as server,
            calling(server.url, concurrency_max=1) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            first = pool.submit(get, client)
            while not server.seen:
                time.sleep(0.01)
            started = time.monotonic()
            found = fails(create, client, 0.2)
            waited_seconds = time.monotonic() - started
            release.set()
            first.result()

            assert (found.retryability, found.reason) == (T, Reason.NO_CAPACITY)
            assert waited_seconds < 0.6
            assert len(server.seen) == client.calls == 1

    def test_a_turn_is_given_back_after_every_failure(self) -> None:
        with Server(always(http(500))) as server, calling(server.url, concurrency_max=1) as client:
            for _ in range(3):
                assert fails(get, client).reason is Reason.UNAVAILABLE
        with calling("http://127.0.0.1:1", concurrency_max=1) as client:
            for _ in range(3):
                assert fails(get, client).reason is Reason.UNREACHABLE


class TestBrokenConnections:
    @EVERY_CALL
    def test_a_refused_connection_was_certainly_not_used(
        self, call: Call, kind: Retryability
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with calling(f"http://127.0.0.1:{port}") as client:
            found = fails(call, client)

            assert (found.retryability, found.reason, found.status) == (T, Reason.UNREACHABLE, 0)
            assert client.calls == 0

    @pytest.mark.parametrize("host", LINK_LOCAL)
    def test_a_host_whose_address_is_link_local_is_not_called(self, host: str) -> None:
        """Numbers are resolved by the C library as names are, so what a name resolves to is looked
        at."""
        transport = Transport(f"https://{host}", concurrency_max=1)
        deadline = time.monotonic() + 4
        found = transport.send(
            POST, {}, {}, headers=lambda: {"Authorization": "planted"}, deadline=deadline
        )

        assert isinstance(found, Failure)
        assert (found.retryability, found.reason, transport.calls) == (T, Reason.UNREACHABLE, 0)
        assert "link-local" in found.hint
        assert time.monotonic() < deadline - 3

    @pytest.mark.parametrize(
        "host", ["169.254.169.254", "2852039166", "[::ffff:a9fe:a9fe]", "[fe80::1%lo]"]
    )
    def test_the_connection_test_does_not_connect_to_a_link_local_address_either(
        self, host: str
    ) -> None:
        assert "link-local" in reach(f"https://{host}", timeout_seconds=5)

    def test_an_unknown_host_was_certainly_not_called(self) -> None:
        with calling("https://no-such-instance.invalid") as client:
            found = fails(create, client)

            assert (found.retryability, found.reason) == (T, Reason.UNREACHABLE)
            assert "host name" in found.hint

    def test_a_host_that_does_not_accept_was_certainly_not_called(self) -> None:
        # One connection fills the backlog of 0; the kernel leaves the next ones without an answer.
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            held = [socket.socket() for _ in range(3)]
            for sock in held:
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            with calling(f"http://127.0.0.1:{full.getsockname()[1]}") as client:
                started = time.monotonic()
                found = fails(create, client, 2)
                waited_seconds = time.monotonic() - started
            for sock in held:
                sock.close()

            assert (found.retryability, found.reason) == (T, Reason.UNREACHABLE)
            assert "in time" in found.hint
            assert waited_seconds < 1  # so that several addresses, and TLS, fit into the bound

    @EVERY_CALL
    def test_a_reset_after_the_request_leaves_a_write_in_doubt(
        self, call: Call, kind: Retryability
    ) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            reset(sock)
            return False

        with Server(answer) as server, calling(server.url) as client:
            found = fails(call, client)

            assert (found.retryability, found.reason) == (kind, Reason.UNREACHABLE)
            assert len(server.seen) == client.calls == 1  # and nothing was sent twice

    @EVERY_CALL
    def test_a_reset_within_the_answer_leaves_a_write_in_doubt(
        self, call: Call, kind: Retryability
    ) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(MADE[:-10])
            time.sleep(0.05)
            reset(sock)
            return False

        with Server(answer) as server, calling(server.url) as client:
            found = fails(call, client)

            assert (found.retryability, found.reason, found.status) == (
                kind,
                Reason.BAD_ANSWER,
                201,
            )

    @EVERY_CALL
    def test_an_answer_that_ends_too_early_leaves_a_write_in_doubt(
        self, call: Call, kind: Retryability
    ) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(FOUND.replace(b"Content-Length: ", b"Content-Length: 9"))
            return False

        with Server(answer) as server, calling(server.url) as client:
            found = fails(call, client)

            assert (found.retryability, found.reason) == (kind, Reason.BAD_ANSWER)

    @EVERY_CALL
    def test_a_kept_connection_that_dies_under_the_request_leaves_a_write_in_doubt(
        self, call: Call, kind: Retryability
    ) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            if len(server.seen) == 1:
                sock.sendall(FOUND)
                return True
            return False

        with Server(answer) as server, calling(server.url) as client:
            get(client)
            found = fails(call, client)

            assert (found.retryability, found.reason) == (kind, Reason.UNREACHABLE)
            assert [seen.connection for seen in server.seen] == [1, 1]

    def test_a_kept_connection_that_died_before_is_replaced(self) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(FOUND if seen.method == "GET" else MADE)
            return False

        with Server(answer) as server, calling(server.url) as client:
            get(client)
            time.sleep(0.1)

            assert create(client)["sys_id"] == ID
            assert [seen.connection for seen in server.seen] == [1, 2]

    @pytest.mark.parametrize(
        "rubbish",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Type application/json\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
            b"HTTP/1.1 200 " + b"x" * 100_000,
            b"",
        ],
    )
    def test_rubbish_leaves_a_write_in_doubt(
        self, rubbish: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            sock.sendall(rubbish)
            return False

        with Server(answer) as server, calling(server.url) as client:
            assert fails(create, client).retryability is D
            assert fails(get, client).retryability is T
            # A library that warns quotes what it could not read; our own line does not.
            loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert {record.name for record in loud} == {"function.servicenow"}


class TestTls:
    def test_a_certificate_that_is_not_trusted_means_that_nothing_was_sent(self) -> None:
        with Server(always(FOUND), _tls(trustme.CA())) as server, calling(server.url) as client:
            found = fails(create, client)

            assert (found.retryability, found.reason) == (T, Reason.UNREACHABLE)
            assert "certificate" in found.hint
            assert server.seen == []

    def test_a_server_that_speaks_no_tls_was_certainly_sent_nothing(self) -> None:
        with (
            Server(always(FOUND)) as server,
            calling(server.url.replace("http:", "https:")) as client,
        ):
            assert fails(create, client, 1).retryability is T
            assert client.calls == 0

    def test_what_breaks_after_the_handshake_leaves_a_write_in_doubt(self, tmp_path: Path) -> None:
        def answer(sock: socket.socket, seen: Seen) -> bool:
            if seen.method == "GET":
                sock.sendall(FOUND)
                return True
            if len(server.seen) == 2:
                drip(sock, MADE, server)
            return False  # without TLS's farewell

        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        trusted = str(tmp_path / "ca.pem")
        with (
            Server(answer, _tls(authority)) as server,
            calling(server.url, ca_file=trusted) as client,
        ):
            assert get(client)["sys_id"] == ID
            assert fails(create, client, 0.4).reason is Reason.TIMEOUT
            assert fails(create, client).retryability is D


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class TestSecrets:
    @pytest.mark.parametrize(
        "answer",
        [
            always(FOUND),
            always(MADE),
            always(http(401, said("User is not authenticated", PLANTED))),
            always(
                http(403, said("Operation Failed", f"Error during insert of incident ({PLANTED})"))
            ),
            always(http(500, PLANTED)),
            always(http(302, PLANTED, Location=f"/{PLANTED}")),
            always(
                b"HTTP/1.1 200 "
                + PLANTED.encode()
                + b"\r\nno header "
                + PLANTED.encode()
                + b"\r\n\r\n"
            ),
            always(PLANTED.encode() + b"\r\n\r\n"),
            lambda sock, seen: sock.close() or False,
        ],
        ids=["200", "201", "401", "403", "500", "302", "bad headers", "no HTTP", "closed"],
    )
    def test_no_log_line_and_no_error_holds_a_password_or_what_was_sent(
        self, answer: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        texts = []
        with (
            Server(lambda sock, seen: answer(sock, seen) and False) as server,
            calling(server.url) as client,
        ):
            for call in (create, update, get):
                try:
                    call(client, 1)
                except ServiceNowError as error:
                    texts += [str(error), repr(error), *traceback.format_exception(error)]
                    texts += [error.failure.hint]

        encoded = base64.b64encode(f"svc.häsura:{PASSWORD}".encode()).decode()
        texts += [
            record.getMessage() + str(record.__dict__) + caplog.text for record in caplog.records
        ]
        assert len(texts) > 3
        assert not [
            text for text in texts if PLANTED in text or "hunter2" in text or encoded in text
        ]

    def test_an_error_drags_no_other_exception_along(self) -> None:
        """Those of requests and urllib3 hold addresses, headers and what was received."""
        closing: Answer = lambda sock, seen: False  # noqa: E731  # an answer that is none
        with (
            Server(closing) as server,
            calling(server.url) as cut,
            calling("http://127.0.0.1:1") as refused,
        ):
            for client in (cut, refused):
                with pytest.raises(ServiceNowError) as raised:
                    create(client)

                assert raised.value.__cause__ is raised.value.__context__ is None

    def test_a_call_is_one_line_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        with Server(always(http(401))) as server, calling(server.url) as client:
            fails(get, client)

        [line] = [record.getMessage() for record in caplog.records]
        assert line.startswith("ServiceNow GET incident: HTTP 401 in ")
        assert line.endswith(" ms, transient, servicenow_unauthorized")
