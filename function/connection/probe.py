"""The connection test: whether the instance is reached, accepts the user, and lets it read; it
writes nothing there.

Whether the user may create records follows from its roles. Only a record proves it, which `check
--write-probe` makes.
"""

import math
import socket
import ssl
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import certifi
from urllib3.util.ssl_ import create_urllib3_context

from function.connection.active import Connection
from function.connection.breaker import IN_A_ROW
from function.connection.store import ConnectionInput, ConnectionStore
from function.core.outcome import Failure, Reason, Retryability
from function.core.permit import HoldKind
from function.core.values import digest
from function.http.addresses import FORBIDDEN
from function.http.network import ProxyServer, load_certificates
from function.http.session import (
    TRUSTED,
    ForbiddenAddressError,
    connect,
    open_tunnel,
    proxy_refusal,
)
from function.ledger.ledger import Ledger
from function.servicenow import (
    Basic,
    Credential,
    NetworkSettings,
    ServiceNowError,
    TableClient,
    equals,
)
from function.servicenow.transport import SETTING, SYSTEM
from function.settings import CONNECTION_PARTS, Settings

# Accounts lock after about five refused passwords in fifteen minutes; one of these is the events'
# own probe.
REFUSED_MAX: Final = 3
WITHIN_SECONDS: Final = 900.0
# A connection that takes longer is none that tickets could be made over.
CONNECT_SECONDS_MAX: Final = 10.0
# Kept back from the deadline for the record and the answer.
ANSWER_SECONDS: Final = 2.0
# Of the user's roles so many are named in a message. A user holds dozens, since roles contain
# others.
ROLES_NAMED_MAX: Final = 8
# Roles that let their holder create records.
CREATORS: Final[Mapping[str, tuple[str, ...]]] = {
    "incident": ("itil", "sn_incident_write", "admin"),
    "change_request": ("itil", "sn_change_write", "change_manager", "admin"),
}


@dataclass(frozen=True, slots=True)
class TableReport:
    """What a connection test found out about one table.

    *signed_in*: whether ServiceNow accepted the credential, None where that is not known.
    """

    success: bool
    message: str
    signed_in: bool | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class TestReport:
    """What a connection test found out. *summary* is about the way there and the credential; of the
    *tables* nothing is known where these fail.

    *retry_after_seconds* is given where the test was not made, so that no account is locked.
    *over_http*: the connection came over HTTP, where its parts have other names than in the
    environment.
    """

    success: bool
    summary: str
    instance_url: str
    signed_in: bool | None = None
    failure: Failure | None = None
    tables: Mapping[str, TableReport] = field(default_factory=dict)
    retry_after_seconds: float | None = None
    over_http: bool = False

    @property
    def message(self) -> str:
        """All of it, as an operator reads it."""
        message = " ".join([self.summary, *(table.message for table in self.tables.values())])
        if self.over_http:
            for part in CONNECTION_PARTS:
                message = message.replace(f"SERVICENOW_{part.upper()}", part)
        return message


# --- The way there, without the credential
# ----------------------------------------------------------------------------


def reach(
    instance_url: str,
    *,
    timeout_seconds: float,
    ca_file: str | None = None,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008  # it is frozen
) -> str:
    """Connect to the instance, and say what is wrong with the way there; "" for nothing. Sends it
    nothing."""
    parts = urlsplit(instance_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    proxy = network.proxy_for(instance_url)
    try:
        sock = (
            connect(host, port, timeout_seconds=timeout_seconds)
            if proxy is None
            else _tunnel(proxy, host, port, timeout_seconds)
        )
        if isinstance(sock, str):
            return sock
        with sock:
            if parts.scheme == "https":
                context = create_urllib3_context()  # as the calls have it
                load_certificates(context, ca_file or network.ca_path or certifi.where())
                with context.wrap_socket(sock, server_hostname=host):
                    pass
    except (OSError, UnicodeError) as error:
        return unreached(error, host=host, port=port)
    return ""


def _tunnel(
    proxy: ProxyServer, host: str, port: int, timeout_seconds: float
) -> socket.socket | str:
    """A connection to *host* through *proxy*, or the sentence for what kept us from it."""
    where = f"The proxy {proxy.host} that HTTPS_PROXY names"
    with ExitStack() as opened:
        try:
            sock = opened.enter_context(
                connect(proxy.host, proxy.port, timeout_seconds=timeout_seconds, policy=TRUSTED)
            )
            status = open_tunnel(sock, proxy, host, port)
        except (socket.gaierror, UnicodeError):
            return (
                f"{where} is not known by that name: check HTTPS_PROXY, and the "
                "network's name service."
            )
        except ConnectionRefusedError:
            return (
                f"{where} refuses connections to port {proxy.port}: check HTTPS_PROXY, and "
                "whether the proxy is up."
            )
        except TimeoutError:
            return (
                f"{where} does not answer on port {proxy.port} in time: check "
                "HTTPS_PROXY, and the proxy."
            )
        except OSError:
            return (
                f"{where} cannot be used on port {proxy.port}: check HTTPS_PROXY, and that it "
                "is an HTTP proxy."
            )
        if not 200 <= status < 300:
            return proxy_refusal(status, system=SYSTEM, setting=SETTING)
        opened.pop_all()
        return sock


def unreached(error: Exception, *, host: str, port: int) -> str:
    """The sentence for what kept us from *host*."""
    match error:
        case ForbiddenAddressError():
            return f"The host name {host} stands for {FORBIDDEN}. Check SERVICENOW_INSTANCE_URL."
        case socket.gaierror() | UnicodeError():
            return (
                f"The host name {host} is not known: check SERVICENOW_INSTANCE_URL for typing "
                "errors, and the network's name service."
            )
        case ConnectionRefusedError():
            return (
                f"{host} refuses connections to port {port}: check SERVICENOW_INSTANCE_URL, and "
                "whether a firewall lets the function out."
            )
        case ssl.SSLCertVerificationError():
            return _CERTIFICATES.get(error.verify_code, _CERTIFICATE).format(host=host)
        case ssl.SSLError():
            return (
                f"{host} speaks no TLS on port {port}, or none that is safe: check the port in "
                "SERVICENOW_INSTANCE_URL, and proxies on the way."
            )
        case TimeoutError():
            return (
                f"{host} does not answer on port {port} in time: check SERVICENOW_INSTANCE_URL, "
                "and whether firewalls and egress rules let the function out."
            )
        case _:
            return (
                f"{host} cannot be reached on port {port}: check SERVICENOW_INSTANCE_URL, the "
                "network, firewalls and egress rules."
            )


_UNTRUSTED: Final = (
    "The certificate of {host} is signed by nobody whom this function trusts (it is self-signed, "
    "or of a private authority): check that SERVICENOW_INSTANCE_URL is the instance's own "
    "address, and that no proxy opens the connection."
)
_CERTIFICATE: Final = (
    "The certificate of {host} is not valid: check SERVICENOW_INSTANCE_URL, and proxies on the way."
)
# OpenSSL's X509_V_ERR_… codes.
_CERTIFICATES: Final = {
    10: (
        "The certificate of {host} has expired: it must be renewed, or this machine's "
        "clock be put right."
    ),
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    62: "The certificate of {host} is for another host name: check SERVICENOW_INSTANCE_URL.",
    64: "The certificate of {host} is for another address: check SERVICENOW_INSTANCE_URL.",
}


# --- What ServiceNow lets the user do
# ---------------------------------------------------------------------------------


def try_out(
    instance_url: str,
    credential: Credential,
    *,
    username: str,
    tables: Sequence[str],
    timeout_seconds: float,
    ca_file: str | None = None,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008  # it is frozen
) -> TestReport:
    """Find out what *credential* may read of each of *tables*, and whether its user's roles allow
    creating there.

    It only reads. At most one call is made with a credential that is refused.
    """
    until = time.monotonic() + timeout_seconds
    problem = reach(
        instance_url,
        timeout_seconds=min(CONNECT_SECONDS_MAX, timeout_seconds),
        ca_file=ca_file,
        network=network,
    )
    if problem:
        return TestReport(success=False, summary=problem, instance_url=instance_url)
    client = TableClient(
        instance_url,
        credential,
        timeout_seconds=timeout_seconds,
        concurrency_max=1,
        ca_file=ca_file,
        network=network,
    )
    probe = TableProbe(client, username, until)
    reports: dict[str, TableReport] = {}
    try:
        for table in tables:
            report = probe.examine(table)
            if not report.success and not report.signed_in:
                # Who was let in once was let in, whatever another table is answered by.
                was_let_in = report.signed_in is None and any(
                    earlier.signed_in for earlier in reports.values()
                )
                return TestReport(
                    success=False,
                    summary=report.message,
                    instance_url=instance_url,
                    signed_in=True if was_let_in else report.signed_in,
                    failure=report.failure,
                )
            reports[table] = report
    finally:
        client.close()
    return TestReport(
        success=all(report.success for report in reports.values()),
        summary=f"ServiceNow accepts {probe.username or 'the credential'}.",
        instance_url=instance_url,
        signed_in=True,
        tables=reports,
    )


class TableProbe:
    """What one user may read, and what its roles allow."""

    def __init__(self, client: TableClient, username: str, until: float) -> None:
        self._client = client
        self.username = username
        self._until = until
        self._roles: frozenset[str] | None = None

    def examine(self, table: str) -> TableReport:
        try:
            visible = self._client.find(
                table, "", fields=["sys_id"], limit=1, timeout_seconds=self._left()
            )
            self.username = self.username or self._own_name()
        except ServiceNowError as error:
            return _unread(table, error.failure)
        if self._roles is None:
            self._roles = self._read_roles()
        message = f"{table}: {_what_was_read(visible)}; {_what_roles_allow(table, self._roles)}"
        return TableReport(success=True, message=message, signed_in=True)

    def _own_name(self) -> str:
        """Who an OAuth client, or an API key, acts as; "" where the user may not read its own
        record."""
        try:
            rows = self._client.find(
                "sys_user",
                "sys_id=javascript:gs.getUserID()",
                fields=["user_name"],
                limit=2,
                timeout_seconds=self._left(),
            )
        except ServiceNowError as error:
            if error.failure.retryability is Retryability.PERMANENT:
                return ""
            raise
        # A query that ServiceNow does not understand returns everybody.
        return rows[0].get("user_name", "") if len(rows) == 1 else ""

    def _read_roles(self) -> frozenset[str]:
        """The roles that the user holds; none where they cannot be read (they often cannot)."""
        if not self.username:
            return frozenset()
        try:
            who = equals("user.user_name", self.username)
            rows = self._client.find(
                "sys_user_has_role",
                who,
                fields=["user.user_name", "role.name"],
                limit=200,
                timeout_seconds=self._left(),
            )
        except (ServiceNowError, ValueError):
            return frozenset()
        # A query that ServiceNow does not understand returns everybody's.
        return frozenset(
            row["role.name"]
            for row in rows
            if row.get("role.name")
            and row.get("user.user_name", "").casefold() == self.username.casefold()
        )

    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())


def _unread(table: str, failure: Failure) -> TableReport:
    """Not even a query was answered as it should be."""
    if failure.reason is Reason.UNAUTHORIZED:
        return TableReport(success=False, message=failure.hint, signed_in=False, failure=failure)
    if failure.reason is Reason.ACL and failure.retryability is Retryability.PERMANENT:
        message = f"{table}: the user may not read records: give it the role {_creators(table)}."
        return TableReport(success=False, message=message, signed_in=True)
    if failure.reason in {Reason.REFUSED, Reason.MISSING} or failure.reason is Reason.ACL:
        return TableReport(
            success=False, message=f"{table}: {failure.hint}", signed_in=True, failure=failure
        )
    return TableReport(success=False, message=failure.hint, failure=failure)


def _what_was_read(visible: Sequence[Mapping[str, str]]) -> str:
    if visible:
        return "the user may read records"
    # ServiceNow leaves out what an ACL hides, without a word.
    return "no record was returned (there are none, or the user may not read them)"


def _what_roles_allow(table: str, roles: Collection[str]) -> str:
    allowing = next((role for role in CREATORS.get(table, ()) if role in roles), None)
    if allowing is not None:
        return f"the user's role {allowing} allows creating them."
    if roles:
        # A role of the customer's own may allow it as well.
        what = (
            f"the user's roles are {_named(sorted(roles))}, and none of them is known to "
            "allow creating records"
        )
    else:
        what = "the user's roles cannot be read, so it is not known whether it may create records"
    return (
        f"{what}. Have an administrator check that it has the role {_creators(table)}, or run "
        "check --write-probe, which creates a record."
    )


def _named(roles: Sequence[str]) -> str:
    more = len(roles) - ROLES_NAMED_MAX
    return ", ".join(roles[:ROLES_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")


def _creators(table: str) -> str:
    creators = CREATORS.get(table, ())[:2]
    return " or ".join(creators) or f"that may create records in {table}"


# --- An operator's test
# -----------------------------------------------------------------------------------------------


class ConnectionTester:
    """Makes connection tests, a few of one account in a while, and has the ledger's holds follow
    from them."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        configurations: ConnectionStore,
        *,
        tables: Sequence[str],
        network: NetworkSettings,
    ) -> None:
        """*tables*: where the rules make tickets."""
        self._network = network
        self._settings = settings
        self._ledger = ledger
        self._configurations = configurations
        self._tables = tuple(tables)

    def test(self, given: ConnectionInput | None, in_force: Connection) -> TestReport:
        """Test the connection that is *given*, or the one *in_force*. Raises ApiError where a
        password is needed."""
        if given is not None:
            password = self._configurations.completed(given, self._configurations.read())
            credential = Basic(given.username, password)
            report = self._run_test(given.instance_url, given.username, credential, in_force)
            return replace(report, over_http=True)
        if in_force.credentials is None:
            return TestReport(
                success=False, summary=in_force.problem, instance_url=in_force.instance_url
            )
        # A secret that was rotated is tried as it is now.
        in_force.credentials.refresh()
        report = self._run_test(
            in_force.instance_url, in_force.username, in_force.credentials.current(), in_force
        )
        return replace(report, over_http=bool(in_force.version))

    def _run_test(
        self, instance_url: str, username: str, credential: Credential, in_force: Connection
    ) -> TestReport:
        sign = credential.digest(instance_url)
        account = digest(instance_url, username or sign)
        wait_seconds = self._ledger.holds.claim_login_attempt(
            instance_url, account, most=REFUSED_MAX, within_seconds=WITHIN_SECONDS
        )
        if wait_seconds:
            return TestReport(
                success=False,
                summary=(
                    f"Not tried: {REFUSED_MAX} tests of this user were refused or are under way, "
                    "and ServiceNow locks an account after about five wrong passwords in fifteen "
                    f"minutes. Try again at {_clock(wait_seconds)}."
                ),
                instance_url=instance_url,
                retry_after_seconds=wait_seconds,
            )
        report, began = None, time.monotonic()
        try:
            report = try_out(
                instance_url,
                credential,
                username=username,
                tables=self._tables,
                timeout_seconds=min(
                    self._settings.servicenow_timeout_seconds,
                    self._settings.deadline_seconds
                    - min(ANSWER_SECONDS, self._settings.deadline_seconds / 10),
                ),
                network=self._network,
            )
        finally:
            self._ledger.holds.end_login_attempt(
                instance_url, account, signed_in=report.signed_in if report else None
            )
        self._remember(report, sign, in_force, seconds=time.monotonic() - began)
        return report

    def _remember(
        self, report: TestReport, sign: str, in_force: Connection, *, seconds: float
    ) -> None:
        if report.signed_in is False and report.failure is not None:
            # It was this credential's probe: no event tries it before so long, as if its own call
            # had been refused.
            self._ledger.holds.call_failed(
                report.instance_url,
                kind=HoldKind.AUTH,
                credential=sign,
                failure=report.failure,
                seconds=max(self._settings.auth_hold_seconds, WITHIN_SECONDS),
                seconds_max=WITHIN_SECONDS,
                in_a_row=IN_A_ROW,
                at_once=True,
                fixed=True,
                claimed=False,
            )
        in_use = in_force.credentials
        if (
            report.signed_in
            and in_use is not None
            and (report.instance_url, sign) == (in_force.instance_url, in_use.digest)
        ):
            self._ledger.holds.record_success(report.instance_url, sign, sent_seconds_ago=seconds)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(math.ceil(time.time() + seconds), UTC).strftime("%H:%M:%SZ (UTC)")
