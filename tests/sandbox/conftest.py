"""A ServiceNow, its clock and a client, for every test of the sandbox that wants them."""

from collections.abc import Iterator

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import Api, Time


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def instance(clock: Time) -> Iterator[ServiceNow]:
    with ServiceNow(clock=clock) as running:
        yield running


@pytest.fixture
def api(instance: ServiceNow) -> Iterator[Api]:
    client = Api(instance)
    with client.session:
        yield client
