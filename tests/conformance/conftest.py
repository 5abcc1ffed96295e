"""A sandbox ServiceNow over https, because ServiceNow's own client speaks nothing else, and that
client."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trustme
from pysnc import ServiceNowClient

from sandbox.servicenow import ServiceNow

Connect: TypeAlias = Callable[[Any], ServiceNowClient]


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(scope="session")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def instance(tls: ssl.SSLContext) -> Iterator[ServiceNow]:
    with ServiceNow(tls=tls) as running:
        yield running


@pytest.fixture
def connect(instance: ServiceNow, trusted: Path) -> Iterator[Connect]:
    """Makes clients of the instance, by what they log in with, and closes them afterwards."""
    with ExitStack() as opened:

        def connected(auth: Any) -> ServiceNowClient:
            client = ServiceNowClient(instance.url, auth, verify=str(trusted))
            # Else the machine's own REQUESTS_CA_BUNDLE would be trusted in place of ours, and its
            # proxies asked.
            client.session.trust_env = False
            opened.callback(client.session.close)
            return client

        yield connected


@pytest.fixture
def client(instance: ServiceNow, connect: Connect) -> ServiceNowClient:
    return connect((instance.username, instance.password))
