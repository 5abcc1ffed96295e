"""The way out as the environment names it: proxies, those that are passed by, and the certificates
to trust."""

import asyncio
import json
import logging
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from function.connection.probe import reach
from function.core.outcome import Reason
from function.http.network import BrokenNetwork, read_network
from function.http.network import ProxyServer as Proxy
from function.notices.smtp import MailNotSent, send
from function.secretmanager import way_out
from function.servicenow import (
    Basic,
    Credential,
    InDoubt,
    InvalidArgument,
    NetworkSettings,
    OAuth,
    ServiceNowClient,
    Unavailable,
    aio,
)
from function.settings import SettingsError, load_settings
from sandbox.servicenow import ServiceNow
from tests.answers import Seen, Server, always, result
from tests.mailserver import MailServerFixture
from tests.payloads import insert
from tests.processes import HERE, find_free_port
from tests.proxyserver import ProxyServer
from tests.test_main import served
from tests.world import PASSWORD, World, outage

ID = "0123456789abcdef0123456789abcdef"
# No name service knows it.
HOST = "dev12345.service-now.com"
BASIC = Basic("svc.hasura", PASSWORD)
OAUTH = OAuth("sandbox-client", "sandbox-client-secret")
ALL = (
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own way out is not the tests'."""
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority's certificate, in a file."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return str(file)


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "127.0.0.1", "localhost").configure_cert(context)
    return context


@pytest.fixture
def instance(tls: ssl.SSLContext) -> Iterator[ServiceNow]:
    with ServiceNow(tls=tls, password=PASSWORD) as instance:
        yield instance


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


# --- What the environment says
# ------------------------------------------------------------------------------------


class TestReading:
    @pytest.mark.parametrize(
        ("environ", "proxy"),
        [
            ({}, None),
            ({"HTTPS_PROXY": ""}, None),
            ({"HTTPS_PROXY": "http://proxy.example.com:3128"}, Proxy("proxy.example.com", 3128)),
            ({"https_proxy": "http://proxy.example.com:3128/"}, Proxy("proxy.example.com", 3128)),
            ({"HTTPS_PROXY": " proxy.example.com:3128 "}, Proxy("proxy.example.com", 3128)),
            ({"HTTPS_PROXY": "http://proxy.example.com"}, Proxy("proxy.example.com", 80)),
            ({"HTTPS_PROXY": "http://[::1]:3128"}, Proxy("::1", 3128)),
            (
                {"HTTPS_PROXY": "http://u%40x:p%3A%25@10.0.0.1:8080"},
                Proxy("10.0.0.1", 8080, "u@x", "p:%"),
            ),
            ({"ALL_PROXY": "http://all.example.com:1"}, Proxy("all.example.com", 1)),
            (
                {"ALL_PROXY": "socks5://all.example.com:1", "HTTPS_PROXY": "http://p:1"},
                Proxy("p", 1),
            ),
            ({"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://lower:2"}, Proxy("lower", 2)),
            ({"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, None),
            # It is for http://, which is spoken on this machine only.
            ({"HTTP_PROXY": "http://proxy.example.com:3128"}, None),
            ({"HTTP_PROXY": "nonsense://", "http_proxy": "nonsense://"}, None),
        ],
    )
    def test_the_proxy_is_the_one_that_curl_and_requests_would_take(
        self, environ: dict[str, str], proxy: Proxy | None
    ) -> None:
        assert read_network(environ).proxy_for(f"https://{HOST}") == proxy

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    @pytest.mark.parametrize(
        "written",
        [
            "https://u:planted-password@proxy:3128",
            "socks5://u:planted-password@proxy:1080",
            "socks5h://proxy",
            "ftp://proxy",
            "http://",
            "http://u:planted-password@",
            "http://proxy:port",
            "http://proxy:99999",
            "http://u:planted-password@pro xy:1",
            "http://u:planted-password@proxy:1/path",
            "http://u:planted-password@proxy:1?x",
            "http://u:%ff@proxy:1",
            "http://[::1",
        ],
    )
    def test_one_that_is_none_is_a_sentence_that_names_the_variable_and_no_password(
        self, name: str, written: str
    ) -> None:
        with pytest.raises(BrokenNetwork) as broken:
            read_network({name: written})

        assert str(broken.value).startswith(f"{name.upper()} ")
        assert "planted" not in str(broken.value)

    @pytest.mark.parametrize(
        ("no_proxy", "url", "is_direct"),
        [
            ("", f"https://{HOST}", False),
            ("*", f"https://{HOST}", True),
            (HOST, f"https://{HOST}", True),
            (HOST.upper(), f"https://{HOST}", True),
            ("service-now.com", f"https://{HOST}", True),
            (".service-now.com", f"https://{HOST}", True),
            ("*.service-now.com", f"https://{HOST}", True),
            (".service-now.com.", f"https://{HOST}", True),
            ("now.com", f"https://{HOST}", False),
            (f"x.{HOST}", f"https://{HOST}", False),
            ("localhost, 127.0.0.1 ,service-now.com", f"https://{HOST}", True),
            ("localhost 127.0.0.1 service-now.com", f"https://{HOST}", True),
            ("localhost,127.0.0.1,::1", f"https://{HOST}", False),
            (f"{HOST}:443", f"https://{HOST}", True),
            (f"{HOST}:8443", f"https://{HOST}", False),
            ("service-now.com:8443", f"https://{HOST}:8443", True),
            ("localhost", "https://localhost:8443", True),
            ("localhost", "https://127.0.0.1:8443", False),
            ("127.0.0.1", "https://127.0.0.1:8443", True),
            ("127.0.0.0/8", "https://127.0.0.1:8443", True),
            ("10.0.0.0/8", "https://10.1.2.3", True),
            ("10.0.0.0/8", "https://11.1.2.3", False),
            ("0.0.1", "https://127.0.0.1:8443", False),
            ("::1", "https://[::1]:8443", True),
            ("[::1]", "https://[::1]:8443", True),
            ("[::1]:8443", "https://[::1]:8443", True),
            ("[::1]:1", "https://[::1]:8443", False),
            (",", f"https://{HOST}", False),
            (".", f"https://{HOST}", False),
            ("com", f"https://{HOST}", True),
        ],
    )
    @pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
    def test_those_that_are_passed_by(
        self, name: str, no_proxy: str, url: str, is_direct: bool
    ) -> None:
        network = read_network({"HTTPS_PROXY": "http://proxy:1", name: no_proxy})

        assert (network.proxy_for(url) is None) is is_direct

    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:8091", "http://localhost:8091", "http://[::1]:8091"]
    )
    def test_what_is_not_encrypted_stays_on_this_machine(self, url: str) -> None:
        environ = dict.fromkeys(
            ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "http_proxy"), "http://proxy:1"
        )

        assert read_network(environ).proxy_for(url) is None

    def test_the_first_file_of_certificates_counts(self, trusted: str, tmp_path: Path) -> None:
        other = tmp_path / "other.pem"
        other.write_bytes(Path(trusted).read_bytes())
        named = {"SSL_CERT_DIR": str(tmp_path)}
        assert read_network(named).ca_path == str(tmp_path)
        for name, file in [
            ("SSL_CERT_FILE", trusted),
            ("CURL_CA_BUNDLE", str(other)),
            ("REQUESTS_CA_BUNDLE", trusted),
        ]:
            named[name] = file
            assert read_network(named).ca_path == file
        assert read_network({"REQUESTS_CA_BUNDLE": str(tmp_path)}).ca_path == str(tmp_path)

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_file_of_certificates_that_is_none_is_a_sentence(
        self, name: str, tmp_path: Path, trusted: str
    ) -> None:
        (tmp_path / "empty.pem").touch()
        (tmp_path / "text.pem").write_text("planted")
        said = {}
        for file in ("missing.pem", "empty.pem", "text.pem"):
            # Also where another one is there.
            environ = {
                "REQUESTS_CA_BUNDLE": trusted,
                "SSL_CERT_FILE": trusted,
                name: str(tmp_path / file),
            }
            with pytest.raises(BrokenNetwork) as broken:
                read_network(environ)
            [said[file]] = map(str, broken.value.faults)

        assert said == {
            "missing.pem": f"{name} names {tmp_path}/missing.pem, and there is no such file: "
            "name one with "
            "certificates (PEM), or unset it.",
            "empty.pem": f"{name} names {tmp_path}/empty.pem, which holds no certificates (PEM).",
            "text.pem": f"{name} names {tmp_path}/text.pem, which holds no certificates (PEM).",
        }

    def test_a_folder_of_certificates_that_is_none_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(
            BrokenNetwork, match=r"SSL_CERT_DIR names .*nowhere, which is no folder"
        ):
            read_network({"SSL_CERT_DIR": str(tmp_path / "nowhere")})
        with pytest.raises(BrokenNetwork, match=r"SSL_CERT_FILE names .*, which cannot be read"):
            read_network({"SSL_CERT_FILE": str(tmp_path)})

    def test_a_password_is_in_no_text_of_it(self) -> None:
        network = read_network({"HTTPS_PROXY": "http://user:planted@proxy:1"})

        assert "planted" not in f"{network!r}{network.proxy}{network.proxy and network.proxy.url}"


# --- The client
# --------------------------------------------------------------------------------------------------


class TestClient:
    @pytest.mark.parametrize("credential", [BASIC, OAUTH], ids=["basic", "oauth"])
    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
    def test_it_calls_and_fetches_its_token_through_the_proxy(
        self,
        instance: ServiceNow,
        trusted: str,
        monkeypatch: pytest.MonkeyPatch,
        credential: Credential,
        name: str,
    ) -> None:
        with ProxyServer({HOST: port_of(instance.url)}) as proxy:
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            with ServiceNowClient(f"https://{HOST}", credential) as client:
                made = client.create_incident("Checkout is down")
                client.add_work_note(made["number"], "Seen.")

            assert instance.rows("incident")[0]["number"] == made["number"]
            assert set(proxy.asked) == {f"{HOST}:443"}
            # A connection is kept, and none of what goes through it is the proxy's to see.
            assert len(proxy.asked) == 1
            assert b"uthorization" not in proxy.seen

    @pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_it_trusts_whom_the_environment_names(
        self, instance: ServiceNow, trusted: str, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with (
            ServiceNowClient(instance.url, BASIC) as client,
            pytest.raises(Unavailable, match="certificate"),
        ):
            client.create_incident("x")
        monkeypatch.setenv(name, trusted)
        with ServiceNowClient(instance.url, BASIC) as client:
            assert client.create_incident("x")["number"]

    def test_a_folder_of_certificates_will_do(
        self,
        instance: ServiceNow,
        authority: trustme.CA,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        subprocess.run(["openssl", "rehash", str(tmp_path)], check=True, capture_output=True)
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))

        with ServiceNowClient(instance.url, BASIC) as client:
            assert client.create_incident("x")["number"]
        assert reach(instance.url, timeout_seconds=5, network=read_network(os.environ)) == ""

    def test_it_is_read_when_the_client_is_made(
        self, instance: ServiceNow, trusted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ProxyServer() as proxy:
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            with ServiceNowClient(instance.url, BASIC) as client:
                monkeypatch.setenv("HTTPS_PROXY", proxy.url)
                monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
                client.create_incident("x")

            assert proxy.asked == []

    @pytest.mark.parametrize("passed_by", ["127.0.0.1", "localhost,127.0.0.0/8", "*"])
    def test_it_passes_the_proxy_by_for_those_named(
        self, instance: ServiceNow, trusted: str, monkeypatch: pytest.MonkeyPatch, passed_by: str
    ) -> None:
        with ProxyServer() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            with ServiceNowClient(instance.url, BASIC) as client:
                client.create_incident("x")
            through = list(proxy.asked)
            monkeypatch.setenv("NO_PROXY", passed_by)
            with ServiceNowClient(instance.url, BASIC) as client:
                client.create_incident("x")

            assert through == [f"127.0.0.1:{port_of(instance.url)}"]
            assert proxy.asked == through

    def test_what_is_given_counts_more_than_the_environment(
        self, instance: ServiceNow, trusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")

        with ServiceNowClient(
            instance.url, BASIC, ca_file=trusted, network=NetworkSettings()
        ) as client:
            assert client.create_incident("x")["number"]

    def test_a_file_that_is_not_there_is_an_error_before_any_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")

        with pytest.raises(
            InvalidArgument, match=r"SSL_CERT_FILE names /nowhere\.pem, and there is no such file"
        ):
            ServiceNowClient("dev12345", BASIC)

    def test_the_awaited_client_goes_the_same_way(
        self, instance: ServiceNow, trusted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def work() -> str:
            async with aio.ServiceNowClient(f"https://{HOST}", BASIC) as client:
                return (await client.create_incident("x"))["number"]

        with ProxyServer({HOST: port_of(instance.url)}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            assert asyncio.run(work()) == "INC0010001"
            assert proxy.asked == [f"{HOST}:443"]

    def test_the_proxy_is_told_who_we_are_and_nobody_else_is(
        self,
        instance: ServiceNow,
        trusted: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with ProxyServer({HOST: port_of(instance.url)}, login="me@home:planted-pässword") as proxy:
            monkeypatch.setenv(
                "HTTPS_PROXY", f"http://me%40home:planted-p%C3%A4ssword@127.0.0.1:{proxy.port}"
            )
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            with ServiceNowClient(f"https://{HOST}", BASIC) as client:
                assert client.create_incident("x")["number"]

        assert all("Proxy-Authorization" not in call.headers for call in instance.calls)
        assert all("proxy-authorization" not in call.headers for call in instance.calls)
        assert "planted-p" not in caplog.text
        assert "me@home" not in caplog.text

    @pytest.mark.parametrize(
        ("proxy", "hint"),
        [
            (
                {"login": "u:planted-other"},
                "The proxy does not accept the user and password that HTTPS_PROXY has",
            ),
            ({"refusing": 403}, r"does not connect us to ServiceNow \(it answers HTTP 403\)"),
            ({"refusing": 502}, r"does not connect us to ServiceNow \(it answers HTTP 502\)"),
            ({"refusing": 302}, r"does not connect us to ServiceNow \(it answers HTTP 302\)"),
            ({"silent": True}, "could not be reached through the proxy"),
        ],
    )
    def test_what_the_proxy_refuses_was_not_sent_and_says_what_to_check(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        proxy: dict[str, Any],
        hint: str,
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with ProxyServer(**proxy) as server:
            monkeypatch.setenv("HTTPS_PROXY", f"http://u:planted@127.0.0.1:{server.port}")
            client = ServiceNowClient(f"https://{HOST}", BASIC, timeout_seconds=2)
            with client, pytest.raises(Unavailable, match=hint) as refused:
                client.create_incident("x")

            assert refused.value.failure.reason is Reason.UNREACHABLE
            assert "planted" not in caplog.text + refused.value.message
            assert client.calls == 0

    def test_a_proxy_that_is_not_there_is_said_to_be_the_trouble(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        client = ServiceNowClient(f"https://{HOST}", BASIC)
        with (
            client,
            pytest.raises(
                Unavailable, match="could not be reached through the proxy: check HTTPS_PROXY"
            ),
        ):
            client.create_incident("x")
        monkeypatch.setenv("HTTPS_PROXY", "http://no-such-host.invalid:1")
        client = ServiceNowClient(f"https://{HOST}", BASIC)
        with (
            client,
            pytest.raises(
                Unavailable, match="The host name of the proxy is not known: check HTTPS_PROXY"
            ),
        ):
            client.create_incident("x")

    def test_a_certificate_that_is_not_trusted_is_refused_through_a_proxy_too(
        self, instance: ServiceNow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ProxyServer({HOST: port_of(instance.url)}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            client = ServiceNowClient(f"https://{HOST}", BASIC)
            with (
                client,
                pytest.raises(
                    Unavailable, match=r"No secure connection .* SSL_CERT_FILE has its certificate"
                ),
            ):
                client.create_incident("x")

        assert instance.calls == []

    def test_the_whole_call_is_within_its_bound_also_through_a_proxy(
        self, tls: ssl.SSLContext, trusted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            return not server.stopping.wait(30)

        with Server(answer, tls) as server, SlowProxy({HOST: port_of(server.url)}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            with ServiceNowClient(f"https://{HOST}", BASIC, timeout_seconds=3) as client:
                began = time.monotonic()
                with pytest.raises(InDoubt):
                    client.update_incident(ID, description="x")
                took = time.monotonic() - began

        assert 2.5 < took < 3.4

    def test_a_proxy_that_drips_its_answer_is_not_waited_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with DrippingProxy() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            client = ServiceNowClient(f"https://{HOST}", BASIC, timeout_seconds=2)
            began = time.monotonic()
            with client, pytest.raises(Unavailable, match="could not be reached through the proxy"):
                client.update_incident(ID, description="x")
            said = reach(f"https://{HOST}", timeout_seconds=1, network=read_network(os.environ))
            took = time.monotonic() - began

        assert "does not answer on port" in said
        assert took < 3

    def test_an_awaited_call_is_cut_off_through_a_proxy_too(
        self, tls: ssl.SSLContext, trusted: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def answer(sock: Any, seen: Seen) -> bool:
            if seen.method == "PATCH":
                return not server.stopping.wait(30)
            return always(result({"sys_id": ID}))(sock, seen)

        async def work() -> None:
            async with aio.ServiceNowClient(
                f"https://{HOST}", BASIC, timeout_seconds=30, concurrency_max=1
            ) as client:
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(client.update_incident(ID, description="x"), 0.5)
                began = time.monotonic()
                await client.get_incident(ID)
                assert time.monotonic() - began < 3

        with Server(answer, tls) as server, ProxyServer({HOST: port_of(server.url)}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            monkeypatch.setenv("SSL_CERT_FILE", trusted)
            asyncio.run(work())


class SlowProxy(ProxyServer):
    """One that takes half a second to connect."""

    def _connect(self, client: Any, target: str) -> None:
        time.sleep(0.5)
        super()._connect(client, target)


class DrippingProxy(ProxyServer):
    """One that answers a byte at a time, without end."""

    def _connect(self, client: Any, target: str) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nX-Padding: ")
        while True:
            client.sendall(b"x")
            time.sleep(0.05)


# --- The connection test
# ------------------------------------------------------------------------------------------


class TestReach:
    def test_it_goes_through_the_proxy(self, instance: ServiceNow, trusted: str) -> None:
        with ProxyServer({HOST: port_of(instance.url)}, login="u:p") as proxy:
            network = read_network(
                {"HTTPS_PROXY": f"http://u:p@127.0.0.1:{proxy.port}", "SSL_CERT_FILE": trusted}
            )
            assert reach(f"https://{HOST}", timeout_seconds=5, network=network) == ""

            assert proxy.asked == [f"{HOST}:443"]

    @pytest.mark.parametrize(
        ("made", "sentence"),
        [
            (
                lambda: ProxyServer(login="u:other"),
                "The proxy does not accept the user and password",
            ),
            (
                lambda: ProxyServer(refusing=503),
                "does not connect us to ServiceNow (it answers HTTP 503)",
            ),
            (
                lambda: ProxyServer(silent=True),
                "The proxy 127.0.0.1 that HTTPS_PROXY names does not answer on port",
            ),
        ],
        ids=["login", "503", "silent"],
    )
    def test_what_the_proxy_refuses_is_a_sentence(
        self, made: Callable[[], ProxyServer], sentence: str
    ) -> None:
        with made() as proxy:
            network = read_network({"HTTPS_PROXY": f"http://u:planted@127.0.0.1:{proxy.port}"})
            said = reach(f"https://{HOST}", timeout_seconds=1, network=network)

        assert sentence in said
        assert "planted" not in said

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("http://127.0.0.1:1", "refuses connections to port 1: check HTTPS_PROXY"),
            ("http://no-such-host.invalid:1", "is not known by that name: check HTTPS_PROXY"),
        ],
    )
    def test_a_proxy_that_is_not_there_is_a_sentence(self, url: str, sentence: str) -> None:
        assert sentence in reach(
            f"https://{HOST}", timeout_seconds=5, network=read_network({"HTTPS_PROXY": url})
        )

    def test_a_server_that_is_no_proxy_is_a_sentence(self) -> None:
        with Server(always(b"SSH-2.0-x\r\n\r\n")) as server:
            said = reach(
                f"https://{HOST}",
                timeout_seconds=2,
                network=read_network({"HTTPS_PROXY": server.url}),
            )

        assert "that it is an HTTP proxy" in said

    def test_a_certificate_of_nobody_is_the_instances(self, instance: ServiceNow) -> None:
        with ProxyServer({HOST: port_of(instance.url)}) as proxy:
            said = reach(
                f"https://{HOST}",
                timeout_seconds=5,
                network=read_network({"HTTPS_PROXY": proxy.url}),
            )

        assert said.startswith(
            f"The certificate of {HOST} is signed by nobody whom this function trusts"
        )


# --- Mail, and secrets
# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_mail_trusts_whom_the_environment_names(
    authority: trustme.CA, trusted: str, monkeypatch: pytest.MonkeyPatch, tls: Any
) -> None:
    message = EmailMessage()
    message["From"], message["To"] = "tickets@example.com", "ops@example.com"
    with MailServerFixture(tls, certificate=authority.issue_cert("127.0.0.1")) as server:
        with pytest.raises(MailNotSent, match="certificate"):
            send(message, server.server, timeout_seconds=5)
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        send(message, server.server, timeout_seconds=5)

        assert len(server.messages) == 1


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_secrets_are_read_through_the_proxy(tmp_path: Path, trusted: str, name: str) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": key.decode(),
    }
    account |= {
        "client_email": "f@p.example.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    code = (
        "from function.secretmanager import read_secret; "
        "read_secret('projects/p/secrets/s/versions/1', seconds=3)"
    )
    with ProxyServer(refusing=403) as proxy:
        environ = {
            name: proxy.url,
            "SSL_CERT_FILE": trusted,
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "account.json"),
            "PATH": os.environ["PATH"],
        }
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=HERE,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert "SecretUnreadable" in run.stderr
    assert "secretmanager.googleapis.com:443" in proxy.asked


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, {}),
        (
            {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "x"},
            {"https_proxy": "http://p:1", "no_proxy": "x"},
        ),
        (
            {"SSL_CERT_FILE": "/ca.pem"},
            {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/ca.pem", "REQUESTS_CA_BUNDLE": "/ca.pem"},
        ),
        (
            {"SSL_CERT_FILE": "/ca.pem", "CURL_CA_BUNDLE": "/curl.pem"},
            {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/curl.pem", "REQUESTS_CA_BUNDLE": "/curl.pem"},
        ),
    ],
)
def test_googles_libraries_are_told_of_the_way_out_by_their_own_names(
    environ: dict[str, str], said: dict[str, str]
) -> None:
    assert way_out(environ) == said


# --- The function
# -------------------------------------------------------------------------------------------------


class TestFunction:
    def test_a_file_that_is_not_there_ends_the_start_with_one_sentence(
        self, world: World, tmp_path: Path
    ) -> None:
        function = served(world, tmp_path, REQUESTS_CA_BUNDLE="/nowhere.pem")
        function.start(wait=False)

        assert function.wait(30) != 0
        assert "REQUESTS_CA_BUNDLE names /nowhere.pem, and there is no such file" in function.log
        assert "Traceback" not in function.log

    def test_all_that_is_wrong_is_said_at_once(self) -> None:
        with pytest.raises(SettingsError) as wrong:
            load_settings(
                {
                    "SSL_CERT_FILE": "/nowhere.pem",
                    "HTTPS_PROXY": "socks5://u:planted@x",
                    "DEADLINE_SECONDS": "soon",
                }
            )

        said = "\n".join(map(str, wrong.value.faults))
        assert all(
            name in said
            for name in ("SSL_CERT_FILE", "HTTPS_PROXY", "DEADLINE_SECONDS", "SOURCE_NAME")
        )
        assert "planted" not in said

    def test_its_tickets_go_through_the_proxy_and_so_does_its_test(
        self, instance: ServiceNow, trusted: str
    ) -> None:
        with ProxyServer({HOST: port_of(instance.url)}, login="u:planted-password") as proxy:
            url = f"http://u:planted-password@127.0.0.1:{proxy.port}"
            with World(
                SERVICENOW_INSTANCE_URL=f"https://{HOST}", HTTPS_PROXY=url, SSL_CERT_FILE=trusted
            ) as world:
                answer = world.send(insert("outages", outage()))
                tested = world.operate("POST", "test")

            assert (answer.status, answer.said) == (200, "created")
            assert (tested.status, tested.body["success"]) == (200, True)
            assert len(instance.rows("incident")) == 1
            assert set(proxy.asked) == {f"{HOST}:443"}

    def test_as_a_process_it_takes_them_from_its_environment(
        self, instance: ServiceNow, trusted: str, tmp_path: Path
    ) -> None:
        with (
            ProxyServer({HOST: port_of(instance.url)}) as proxy,
            World(SERVICENOW_INSTANCE_URL=f"https://{HOST}") as world,
            served(world, tmp_path, https_proxy=proxy.url, CURL_CA_BUNDLE=trusted) as function,
        ):
            assert function.send(insert("outages", outage())).said == "created"
            assert proxy.asked == [f"{HOST}:443"]

    def test_a_proxy_that_refuses_keeps_the_event_and_says_why(self) -> None:
        with (
            ProxyServer(refusing=403) as proxy,
            World(SERVICENOW_INSTANCE_URL=f"https://{HOST}", HTTPS_PROXY=proxy.url) as world,
        ):
            answer = world.send(insert("outages", outage()))
            tested = world.operate("POST", "test")

        assert (answer.status, answer.said) == (503, "retrying servicenow_unreachable")
        assert (
            "The proxy that HTTPS_PROXY names does not connect us to ServiceNow"
            in tested.body["message"]
        )


def test_the_sandbox_starts_behind_a_proxy_that_knows_nothing_of_it() -> None:
    port = find_free_port()
    command = [
        sys.executable,
        "-m",
        "sandbox",
        "--once",
        f"--port={port}",
        "--servicenow-port=0",
        "--receiver-port=0",
        "--mail-port=0",
    ]
    environ = {
        **os.environ,
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:1"),
    }

    run = subprocess.run(
        command, cwd=HERE, env=environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert run.returncode == 0, run.stderr
    assert "-> 200 created" in run.stdout
