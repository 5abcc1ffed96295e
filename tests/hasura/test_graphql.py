"""Mutations over Hasura's GraphQL: what is sent, and what each answer means."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import requests

from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.hasura.endpoint import graphql_url
from function.hasura.graphql import GraphqlClient, HasuraError
from function.hasura.graphql_answers import interpret
from function.http.network import NetworkSettings, ProxyServer
from function.http.reply import Reply
from sandbox.graphql import GraphQLFault
from tests.answers import LINK_LOCAL, Answer, Seen, Server, always, drip, http, reset
from tests.sandbox.test_graphql import SECRET, TABLES, App

UPDATE = """
mutation ToApp($id: bigint!, $set: outages_set_input!) {
  update_outages_by_pk(pk_columns: {id: $id}, _set: $set) { id title severity }
}
"""
DONE = {"data": {"update_outages_by_pk": {"id": 1}}}
PLANTED = "planted-admin-secret"


@pytest.fixture(scope="module")
def engine(postgresql_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE mutations")
    url = postgresql_server.replace("/postgres?", "/mutations?")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)
    app = App(url, tmp_path_factory.mktemp("hasura"))
    with app.hasura, app.session:
        yield app
    with psycopg.connect(postgresql_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE mutations WITH (FORCE)")


@pytest.fixture
def app(engine: App) -> App:
    engine.sql("TRUNCATE outages, comments RESTART IDENTITY")
    engine.sql("INSERT INTO outages (title, owner) VALUES ('Mail', '7'), ('Web', '7')")
    engine.sql("TRUNCATE hdb_catalog.event_log")
    return engine


def client_of(app: App, **options: Any) -> GraphqlClient:
    return GraphqlClient(app.hasura.graphql.url, **{"admin_secret": SECRET, **options})


def within(seconds: float = 10.0) -> Deadline:
    return Deadline.after(seconds)


def failure_of(client: GraphqlClient, query: str = UPDATE, **options: Any) -> Failure:
    with pytest.raises(HasuraError) as caught:
        client.execute(query, options.pop("variables", {}), **{"deadline": within(), **options})
    return caught.value.failure


def against(answer: Answer | bytes, **options: Any) -> tuple[Failure, list[Seen]]:
    """What comes of a mutation where a server says *answer*, and what that has seen."""
    with Server(always(answer) if isinstance(answer, bytes) else answer) as server:
        failure = failure_of(GraphqlClient(f"{server.url}/v1/graphql", **options))
        return failure, server.seen


def answered(content: Any, status: int = 200, **headers: str) -> bytes:
    return http(status, json.dumps(content), **headers)


def refused(code: str, message: str = "its own words") -> dict[str, Any]:
    return {"errors": [{"message": message, "extensions": {"code": code, "path": "$"}}]}


# --- Against the sandbox's Hasura


def test_a_mutation_is_made_and_its_event_says_what_caused_it(app: App) -> None:
    data = client_of(app).execute(
        UPDATE,
        {"id": 1, "set": {"severity": "major"}},
        operation_name="ToApp",
        event="snow:1",
        deadline=within(),
    )

    assert data == {"update_outages_by_pk": {"id": 1, "title": "Mail", "severity": "major"}}
    [(session,)] = app.sql("SELECT payload->'session_variables' FROM hdb_catalog.event_log")
    assert session == {"x-hasura-role": "admin", "x-hasura-servicenow-event": "snow:1"}


def test_a_row_that_is_not_there_is_null(app: App) -> None:
    data = client_of(app).execute(UPDATE, {"id": 99, "set": {}}, deadline=within())

    assert data == {"update_outages_by_pk": None}


def test_no_digit_of_a_number_is_lost_on_its_way(app: App) -> None:
    query = """mutation($cost: numeric, $id: bigint) {
      insert_outages_one(object: {title: "x", cost: $cost, id: $id}) { cost id }
    }"""
    given: dict[str, Any] = {"cost": Decimal("123456.70"), "id": 9007199254740993}
    data = client_of(app).execute(query, given, deadline=within())

    assert data == {"insert_outages_one": {"cost": Decimal("123456.70"), "id": 9007199254740993}}
    assert app.sql("SELECT cost FROM outages WHERE id > 99") == [(Decimal("123456.70"),)]


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        ("5b6c-1", "5b6c-1"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("ü\r\nx-hasura-role: admin", "%C3%BC%0D%0Ax-hasura-role:%20admin"),
    ],
)
def test_what_an_event_is_called_makes_no_other_header(app: App, event: str, sent: str) -> None:
    client_of(app).execute(
        UPDATE, {"id": 1, "set": {"severity": "major"}}, event=event, deadline=within()
    )

    [(session,)] = app.sql("SELECT payload->'session_variables' FROM hdb_catalog.event_log")
    assert session == {"x-hasura-role": "admin", "x-hasura-servicenow-event": sent}


REFUSALS = [
    ("mutation { nothing { id } }", "", Reason.MUTATION_INVALID),
    ("mutation { delete_outages_by_pk(id: 1) { id } }", "stranger", Reason.MUTATION_INVALID),
    ("mutation { update_outages_by_pk(", "", Reason.MUTATION_INVALID),
    (
        'mutation { insert_outages_one(object: {title: "x", severity: "critical"}) { id } }',
        "agent",
        Reason.MUTATION_INVALID,  # its permission asks for X-Hasura-User-Id
    ),
    (
        'mutation { insert_outages_one(object: {title: "x", severity: "unheard-of"}) { id } }',
        "",
        Reason.MUTATION_FORBIDDEN,
    ),
    (
        'mutation { insert_outages_one(object: {title: "Mail"}) { id } }',
        "",
        Reason.MUTATION_REFUSED,
    ),
    (
        'mutation { insert_outages_one(object: {title: "x", begun_at: "soon"}) { id } }',
        "",
        Reason.MUTATION_REFUSED,
    ),
]


@pytest.mark.parametrize(("query", "role", "reason"), REFUSALS)
def test_what_the_app_says_to_the_mutation_itself_is_final(
    app: App, query: str, role: str, reason: Reason
) -> None:
    failure = failure_of(client_of(app, role=role), query)

    assert (failure.retryability, failure.reason) == (Retryability.PERMANENT, reason)
    assert failure.remote_message
    assert failure.remote_message not in failure.hint


@pytest.mark.parametrize("secret", ["", "wrong"])
def test_a_wrong_admin_secret_may_be_put_right(app: App, secret: str) -> None:
    failure = failure_of(client_of(app, admin_secret=secret))

    assert (failure.retryability, failure.reason) == (
        Retryability.TRANSIENT,
        Reason.HASURA_UNAUTHORIZED,
    )
    assert "HASURA_ADMIN_SECRET" in failure.hint


@pytest.mark.parametrize(
    ("fault", "reason", "severity"),
    [
        (GraphQLFault.ERROR_BEFORE_COMMIT, Reason.HASURA_UNAVAILABLE, "minor"),
        (GraphQLFault.COMMIT_THEN_RESET, Reason.HASURA_UNREACHABLE, "major"),
    ],
)
def test_a_mutation_that_went_wrong_is_made_again_whatever_came_of_it(
    app: App, fault: GraphQLFault, reason: Reason, severity: str
) -> None:
    app.hasura.graphql.arm(fault)
    client = client_of(app)
    variables: dict[str, Any] = {"id": 1, "set": {"severity": "major"}}
    failure = failure_of(client, variables=variables)
    [(by_then,)] = app.sql("SELECT severity FROM outages WHERE id = 1")
    again = client.execute(UPDATE, variables, deadline=within())

    assert (failure.retryability, failure.reason) == (Retryability.TRANSIENT, reason)
    assert by_then == severity
    assert again["update_outages_by_pk"] is not None


def test_a_probe_asks_and_changes_nothing(app: App) -> None:
    client_of(app).probe(deadline=within())
    with pytest.raises(HasuraError):
        client_of(app, admin_secret="wrong").probe(deadline=within())

    assert app.sql("SELECT count(*) FROM hdb_catalog.event_log") == [(0,)]


# --- What is sent


def test_what_is_sent_is_the_operation_and_who_we_are() -> None:
    with Server(always(answered(DONE))) as server:
        client = GraphqlClient(f"{server.url}/v1/graphql", admin_secret="sécret", role="desk")
        client.execute(
            "mutation A { a }", {"n": Decimal("1.50")}, operation_name="A", deadline=within()
        )
        client.execute("mutation { b }", {}, deadline=within())

    first, second = server.seen
    assert (first.method, first.target, first.connection) == ("POST", "/v1/graphql", 1)
    assert (second.connection, second.headers["x-hasura-role"]) == (1, "desk")
    assert (
        first.body
        == b'{"query": "mutation A { a }", "variables": {"n": 1.50}, "operationName": "A"}'
    )
    assert "operationName" not in json.loads(second.body)
    assert first.headers["x-hasura-admin-secret"].encode("latin-1").decode() == "sécret"
    assert first.headers["content-type"] == "application/json"
    assert "x-hasura-servicenow-event" not in second.headers


def test_nothing_is_sent_of_who_we_are_that_is_not_set() -> None:
    with Server(always(answered(DONE))) as server:
        GraphqlClient(server.url + "/v1/graphql").execute("mutation { a }", {}, deadline=within())

    assert not [name for name in server.seen[0].headers if name.startswith("x-hasura")]


def test_no_cookie_is_kept_and_no_netrc_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("home") / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(netrc))
    with Server(always(answered(DONE, Set_Cookie="session=1; Path=/"))) as server:
        client = GraphqlClient(f"{server.url}/v1/graphql")
        for _ in range(2):
            client.execute("mutation { a }", {}, deadline=within())

    assert not any({"cookie", "authorization"} & seen.headers.keys() for seen in server.seen)


def test_threads_share_a_client() -> None:
    def echo(sock: Any, seen: Seen) -> bool:
        time.sleep(0.05)
        sock.sendall(answered({"data": json.loads(seen.body)["variables"]}))
        return True

    with Server(echo) as server:
        client = GraphqlClient(f"{server.url}/v1/graphql")
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(
                    lambda n: client.execute("mutation { a }", {"n": n}, deadline=within()),
                    range(24),
                )
            )

    assert answers == [{"n": n} for n in range(24)]
    assert server.in_flight_max > 1


# --- What an answer means

TEXT, JSON, HTML = "text/plain", "application/json", "text/html"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("access-denied", Reason.HASURA_UNAUTHORIZED),
        ("invalid-jwt", Reason.HASURA_UNAUTHORIZED),
        ("rate-limit-exceeded", Reason.HASURA_OVERLOADED),
        ("postgres-max-connections-error", Reason.HASURA_OVERLOADED),
        ("postgres-error", Reason.HASURA_UNAVAILABLE),
        ("unexpected", Reason.MUTATION_FAILED),
        ("concurrent-update", Reason.MUTATION_FAILED),
        ("an-actions-own", Reason.MUTATION_FAILED),
        ("", Reason.MUTATION_FAILED),
    ],
)
def test_what_may_pass_is_tried_again(code: str, reason: Reason) -> None:
    failure, _ = against(answered(refused(code)))

    assert (failure.retryability, failure.reason) == (Retryability.TRANSIENT, reason)
    assert failure.remote_message == "its own words"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, Reason.MUTATION_INVALID) for code in (
            "validation-failed", "parse-failed", "bad-request", "not-exists", "not-found",
            "not-supported", "invalid-params", "constraint-error", "unexpected-payload",
        )),
        ("permission-error", Reason.MUTATION_FORBIDDEN),
        ("permission-denied", Reason.MUTATION_FORBIDDEN),
        ("constraint-violation", Reason.MUTATION_REFUSED),
        ("data-exception", Reason.MUTATION_REFUSED),
    ],
)  # fmt: skip
def test_what_trying_again_cannot_help_is_final(code: str, reason: Reason) -> None:
    failure, _ = against(answered(refused(code), Retry_After="60"))

    assert (failure.retryability, failure.reason) == (Retryability.PERMANENT, reason)
    assert failure.retry_after_seconds is None


@pytest.mark.parametrize(
    ("status", "body", "content_type", "reason"),
    [
        (401, "", TEXT, Reason.HASURA_UNAUTHORIZED),
        (403, '{"code": "access-denied", "error": "no"}', JSON, Reason.HASURA_UNAUTHORIZED),
        (403, "<html>forbidden</html>", HTML, Reason.HASURA_BAD_ANSWER),
        (404, '{"code": "not-found", "error": "no"}', JSON, Reason.HASURA_BAD_ANSWER),
        (405, "", TEXT, Reason.HASURA_BAD_ANSWER),
        (400, '{"code": "parse-failed", "error": "no"}', JSON, Reason.MUTATION_INVALID),
        (400, "", TEXT, Reason.HASURA_BAD_ANSWER),
        (408, "", TEXT, Reason.HASURA_TIMEOUT),
        (413, "", TEXT, Reason.MUTATION_INVALID),
        (429, "", TEXT, Reason.HASURA_OVERLOADED),
        (500, json.dumps(refused("validation-failed")), JSON, Reason.HASURA_UNAVAILABLE),
        (502, "<html>", HTML, Reason.HASURA_UNAVAILABLE),
        (503, "", TEXT, Reason.HASURA_UNAVAILABLE),
        (504, "", TEXT, Reason.HASURA_TIMEOUT),
        (301, "", TEXT, Reason.HASURA_BAD_ANSWER),
        (302, "<html>login</html>", HTML, Reason.HASURA_BAD_ANSWER),
        (200, "<html>login</html>", HTML, Reason.HASURA_BAD_ANSWER),
        (200, "", JSON, Reason.HASURA_BAD_ANSWER),
        (200, "[]", JSON, Reason.HASURA_BAD_ANSWER),
        (200, "{}", JSON, Reason.HASURA_BAD_ANSWER),
        (200, '{"data": null}', JSON, Reason.HASURA_BAD_ANSWER),
        (200, '{"data": {"a": 1', JSON, Reason.HASURA_BAD_ANSWER),
        (200, '{"data": {"a": 1e999999999999999999999}}', JSON, Reason.HASURA_BAD_ANSWER),
        (200, "[" * 100_000, JSON, Reason.HASURA_BAD_ANSWER),
        (204, "", JSON, Reason.HASURA_BAD_ANSWER),
        (201, json.dumps(DONE), JSON, Reason.HASURA_BAD_ANSWER),
        (200, '{"errors": "no"}', JSON, Reason.MUTATION_FAILED),
        (200, '{"errors": [{"message": 1, "extensions": []}]}', JSON, Reason.MUTATION_FAILED),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_graphql_is_told_by_its_form(
    status: int, body: str, content_type: str, reason: Reason
) -> None:
    found = interpret(Reply(status, {"content-type": content_type}, body.encode()), now=time.time())

    assert isinstance(found, Failure)
    assert (found.reason, found.status) == (reason, status)
    assert (found.retryability is Retryability.PERMANENT) == (reason is Reason.MUTATION_INVALID)


def test_an_address_that_is_none_of_graphql_says_which_it_must_be() -> None:
    for status, page in ((302, ""), (404, ""), (200, "<html>")):
        failure, seen = against(http(status, page, Location="/console", content_type="text/html"))

        assert "HASURA_GRAPHQL_URL must be the address of /v1/graphql" in failure.hint
        assert len(seen) == 1, "no redirect is followed: the secret would go along"


def test_data_beside_an_error_is_an_error() -> None:
    failure, _ = against(answered({**DONE, **refused("unexpected")}))

    assert failure.reason is Reason.MUTATION_FAILED


def test_of_several_errors_one_that_may_pass_keeps_the_others_from_being_final() -> None:
    errors = [*refused("validation-failed", "a")["errors"], *refused("unexpected", "b")["errors"]]
    failure, _ = against(answered({"errors": errors}))

    assert failure.reason is Reason.MUTATION_FAILED
    assert failure.remote_message == "a; b"


def test_hasuras_own_words_are_cut_short_and_in_one_line() -> None:
    failure, _ = against(answered(refused("unexpected", "a\r\n\tb\x00" + "c" * 1000)))

    assert failure.remote_message == "a b " + "c" * 296


@pytest.mark.parametrize(
    ("asked", "seconds"), [("120", 120.0), ("999999", 3600.0), ("soon", None), ("", None)]
)
def test_a_rate_limit_says_how_long(asked: str, seconds: float | None) -> None:
    failure, _ = against(http(429, "", Retry_After=asked))

    assert failure.retry_after_seconds == seconds


# --- Bad days


def test_a_slow_drip_ends_with_the_time_out() -> None:
    def answer(sock: Any, _: Seen) -> bool:
        drip(sock, answered(DONE) * 9, server)
        return False

    began = time.monotonic()
    with Server(answer) as server:
        failure = failure_of(GraphqlClient(f"{server.url}/v1/graphql", timeout_seconds=0.4))

    assert failure.reason is Reason.HASURA_TIMEOUT
    assert time.monotonic() - began < 2


def test_a_deadline_that_is_sooner_counts() -> None:
    began = time.monotonic()
    with Server(lambda *_: bool(server.stopping.wait(5))) as server:
        failure = failure_of(GraphqlClient(f"{server.url}/v1/graphql"), deadline=within(0.3))

    assert failure.reason is Reason.HASURA_TIMEOUT
    assert time.monotonic() - began < 2


def test_without_time_nothing_is_sent() -> None:
    with Server(always(answered(DONE))) as server:
        failure = failure_of(GraphqlClient(f"{server.url}/v1/graphql"), deadline=within(0.01))

    assert (failure.reason, server.seen) == (Reason.DEADLINE, [])


def test_an_answer_that_is_too_large_is_not_read_to_its_end() -> None:
    failure, _ = against(answered({"data": {"a": "x" * 1024 * 1024}}))

    assert failure.reason is Reason.HASURA_BAD_ANSWER
    assert "1 MiB" in failure.hint


def breaks(sock: Any, _: Seen) -> bool:
    reset(sock)
    return False


def ends_early(sock: Any, _: Seen) -> bool:
    sock.sendall(answered(DONE)[:-5])
    return False


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (breaks, Reason.HASURA_UNREACHABLE),
        (ends_early, Reason.HASURA_BAD_ANSWER),
        (always(b"HTTP/1.1 what\r\n\r\n"), Reason.HASURA_UNREACHABLE),
    ],
)
def test_an_answer_that_breaks_off_is_tried_again(answer: Answer, reason: Reason) -> None:
    failure, _ = against(answer)

    assert (failure.retryability, failure.reason) == (Retryability.TRANSIENT, reason)


def test_a_refusal_whose_body_breaks_off_is_one() -> None:
    def answer(sock: Any, _: Seen) -> bool:
        sock.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nno")
        return False

    assert against(answer)[0].reason is Reason.HASURA_UNAUTHORIZED


def test_a_host_that_is_not_there_is_named_by_its_setting() -> None:
    with Server(always(b"")) as server:
        url = server.url
    failure = failure_of(GraphqlClient(f"{url}/v1/graphql"))

    assert failure.reason is Reason.HASURA_UNREACHABLE
    assert "Hasura could not be reached: check HASURA_GRAPHQL_URL" in failure.hint


def test_a_proxy_that_is_not_there_is_named() -> None:
    with Server(always(b"")) as server:
        port = int(server.url.rpartition(":")[2])
    network = NetworkSettings(ProxyServer("127.0.0.1", port))
    failure = failure_of(GraphqlClient("https://hasura.example.com/v1/graphql", network=network))

    assert failure.reason is Reason.HASURA_UNREACHABLE
    assert "HTTPS_PROXY" in failure.hint


def test_no_error_says_the_secret_or_what_was_sent() -> None:
    for answer in (breaks, always(answered({"echo": PLANTED})), always(http(200, PLANTED))):
        with Server(answer) as server, pytest.raises(HasuraError) as caught:
            GraphqlClient(f"{server.url}/v1/graphql", admin_secret=PLANTED).execute(
                "mutation { a }", {"a": PLANTED}, event=PLANTED, deadline=within()
            )
        chain = f"{caught.value} {caught.value.__cause__} {caught.value.__context__}"
        assert PLANTED not in chain
        assert PLANTED not in caught.value.failure.hint


def test_the_sandbox_is_asked_as_an_app_would_ask_it(app: App) -> None:
    """The same mutation by another client gives the same answer."""
    variables: dict[str, Any] = {"id": 1, "set": {"severity": "major"}}
    ours = client_of(app).execute(UPDATE, variables, deadline=within())
    theirs = requests.post(
        app.hasura.graphql.url,
        json={"query": UPDATE, "variables": variables},
        headers={"x-hasura-admin-secret": SECRET},
        timeout=10,
    ).json()

    assert theirs == {"data": ours}


# --- The address


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("https://hasura.example.com/v1/graphql", None),
        (
            " https://Hasura.example.com:8443/v1/graphql/ ",
            "https://hasura.example.com:8443/v1/graphql",
        ),
        ("https://example.com/hasura/v1/graphql", None),
        ("http://127.0.0.1:8080/v1/graphql", None),
        ("http://localhost:8080/v1/graphql", None),
        ("http://engine:8080/v1/graphql", None),
        ("http://graphql_engine:8080/v1/graphql", None),
        ("http://10.0.0.5/v1/graphql", None),
        ("http://[fd00::5]:8080/v1/graphql", None),
        ("http://hasura.apps.svc.cluster.local/v1/graphql", None),
        ("http://hasura.corp.internal/v1/graphql", None),
    ],
)
def test_an_address_of_graphql_is_taken(written: str, read: str | None) -> None:
    assert graphql_url(written) == (read or written)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("", "must be like https://"),
        ("hasura.example.com", "must be like https://"),
        ("ftp://hasura.example.com/v1/graphql", "must be like https://"),
        ("https://has ura/v1/graphql", "must be like https://"),
        ("https://[::1/v1/graphql", "cannot be read as an address"),
        ("https://h.example.com:port/v1/graphql", "cannot be read as an address"),
        ("https://hasura.example.com", "must be the whole address"),
        ("https://hasura.example.com/", "must be the whole address"),
        ("https://hasura.example.com/v1/graphql?a=b", "must be the whole address"),
        ("https://hasura.example.com/v1/graphql#a", "must be the whole address"),
        ("https://hasura.example.com/v1 graphql", "must be the whole address"),
        (f"https://u:{PLANTED}@hasura.example.com/v1/graphql", "must not hold a user or password"),
        ("http://hasura.example.com/v1/graphql", "must begin with https://"),
        ("http://8.8.8.8/v1/graphql", "must begin with https://"),
        *(
            (f"https://{host}/v1/graphql", "must not be a link-local address")
            for host in LINK_LOCAL
        ),
        ("https://metadata.google.internal/v1/graphql", "must not be a link-local address"),
    ],
)
def test_any_other_is_refused_with_what_it_must_be(written: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|cannot)") as caught:
        graphql_url(written)

    assert words in str(caught.value)
    assert PLANTED not in str(caught.value)
