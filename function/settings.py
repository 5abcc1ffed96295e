"""The environment, read once and checked whole, every fault with its variable.

Every value may be a reference to Google Secret Manager instead,
``secret://projects/P/secrets/S[/versions/V]``; where a list is expected, so may each of its
elements.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, TypeVar

from function import secretmanager
from function.core.finding import FaultsError, Finding, Level
from function.core.values import digest
from function.hasura.endpoint import graphql_url
from function.http.network import BrokenNetwork, read_network
from function.notices.smtp import MailServer
from function.servicenow.credentials import ApiKey, Basic, Credential, OAuth
from function.servicenow.instance import instance_url

T = TypeVar("T")


class SettingsError(FaultsError):
    """The environment cannot be worked with."""


_DAY_SECONDS: Final = 86_400
_LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
# CONSOLE_TOKEN's too. Shorter ones can be guessed, and are mostly the halves of one that holds a
# comma.
SECRET_CHARACTERS_MIN: Final = 16
MAKE_SECRET: Final = 'python -c "import secrets; print(secrets.token_urlsafe(32))"'  # noqa: S105  # makes one
# Fernet's form: 32 bytes in URL-safe base64.
MAKE_CONFIG_KEY: Final = (
    'python -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
)

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _printable(written: str) -> str:
    if _CONTROL.search(written):
        raise ValueError("must not hold control characters, such as a line end")
    return written


def _source_name(written: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", written.strip()):
        raise ValueError(
            "must be 1 to 40 letters (A to Z), digits, dots, hyphens and "
            "underscores, such as shop-prod"
        )
    return written.strip()


def _username(written: str) -> str:
    if ":" in written:
        raise ValueError("must not hold a colon, which Basic auth has no way to send")
    return _printable(written.strip())


def _header_value(written: str) -> str:
    return _printable(written.strip())


def _client_id(written: str) -> str:
    return _printable(written.strip())


def _api_key(written: str) -> str:
    if not re.fullmatch(r"[!-~]+", written.strip()):
        raise ValueError(
            "must be letters, digits and signs of ASCII without blanks, as a header can carry them"
        )
    return written.strip()


def _token(written: str) -> str:
    written = written.strip()
    # RFC 6750: what a bearer token may look like.
    if not re.fullmatch(rf"[A-Za-z0-9._~+/-]{{{SECRET_CHARACTERS_MIN},}}=*", written):
        raise ValueError(
            f"must be {SECRET_CHARACTERS_MIN} or more letters (A to Z), digits and -._~+/, such as "
            f"what this prints: {MAKE_SECRET}"
        )
    return written


def _config_keys(written: str) -> tuple[str, ...]:
    keys = _list(written)
    if not all(re.fullmatch(r"[A-Za-z0-9_-]{43}=", key) for key in keys):
        raise ValueError(
            "must be a key, or several separated by commas with the newest first; this prints a "
            f"new one: {MAKE_CONFIG_KEY}"
        )
    return keys


def _secrets(written: str) -> tuple[str, ...]:
    secrets = tuple(_printable(secret) for secret in _list(written))
    if any(len(secret) < SECRET_CHARACTERS_MIN for secret in secrets):
        raise ValueError(
            f"must be a secret of {SECRET_CHARACTERS_MIN} or more characters, or several "
            "separated by commas; none may hold a comma, which would make two of it. "
            f"This prints a good one: {MAKE_SECRET}"
        )
    return secrets


def _public_url(written: str) -> str:
    url = written.strip().rstrip("/")
    if "@" in url:
        raise ValueError("must not hold a user or password: notifications are signed instead")
    if not re.fullmatch(r"https?://[!-~]+", url) or re.search(r"[?#]", url):
        raise ValueError(
            "must be the function's address, such as "
            "https://europe-west1-shop.cloudfunctions.net/tickets"
        )
    if not url.startswith("https://") and not _is_this_machine(url):
        raise ValueError("must begin with https://, except on this machine")
    return url


def _slack_ids(letters: str, of_what: str, example: str) -> Callable[[str], tuple[str, ...]]:
    def read(written: str) -> tuple[str, ...]:
        ids = _list(written)
        # One that names nobody is no list: unset, it lets in everybody.
        if not ids or not all(re.fullmatch(rf"[{letters}][A-Z0-9]{{2,30}}", each) for each in ids):
            raise ValueError(
                f"must be the id of {of_what} such as {example}, or several separated by commas"
            )
        return ids

    return read


def _sandbox_url(written: str) -> str:
    url = written.strip().rstrip("/")
    if not re.fullmatch(r"http://(localhost|127\.0\.0\.1|\[::1\]):\d{1,5}", url, re.ASCII):
        raise ValueError(
            "must be on this machine, such as http://127.0.0.1:8093; replies to Slack itself need "
            "no setting"
        )
    return url


def _is_this_machine(url: str) -> bool:
    return re.match(r"http://(localhost|127\.0\.0\.1|\[::1\])(?=[:/]|$)", url) is not None


def _list(written: str) -> tuple[str, ...]:
    return tuple(element.strip() for element in written.split(",") if element.strip())


def _database_url(written: str) -> str:
    written = written.strip()
    if written.startswith(("postgresql://", "postgres://")):
        login, at, _ = written.partition("://")[2].partition("?")[0].rpartition("@")
        if at and not re.fullmatch(r"([^@/?#\[\]%\s]|%[0-9A-Fa-f]{2})*", login):
            raise ValueError(
                "must have its user and password percent-encoded, such as %40 for @ and %25 for %"
            )
        return written
    path = written.removeprefix("sqlite:///")
    if path == written or not path:
        raise ValueError(
            "must be postgresql://user:password@host/name, or sqlite:///path "
            "(sqlite:////path from the root)"
        )
    if ":memory:" in path:
        raise ValueError(
            "must name a file: a ledger in memory is forgotten with the process, "
            "and tickets with it"
        )
    return written


def _on_or_off(written: str) -> bool:
    match written.strip().lower():
        case "on":
            return True
        case "off":
            return False
    raise ValueError("must be on or off")


def _mail_server(written: str) -> MailServer:
    try:
        return MailServer.from_url(written.strip())
    except ValueError as error:
        raise ValueError(f"is wrong: {error}") from None


# Plain ASCII: anything else needs a mail server with SMTPUTF8.
_ADDRESS: Final = re.compile(r"[!#-+./-9=?A-Z^-~-]+@[!#-+./-9=?A-Z^-~-]+")


def _address(written: str) -> str:
    if not _ADDRESS.fullmatch(written.strip()):
        raise ValueError(
            "must be plain mail addresses such as ops@example.com, without names or brackets"
        )
    return written.strip()


def _addresses(written: str) -> tuple[str, ...]:
    return tuple(map(_address, _list(written)))


def _log_level(written: str) -> str:
    if written.strip().upper() not in _LOG_LEVELS:
        raise ValueError(f"must be one of {', '.join(_LOG_LEVELS)}")
    return written.strip().upper()


def _whole(least: int, most: int) -> Callable[[str], int]:
    def read(written: str) -> int:
        if re.fullmatch(r"\d{1,12}", written.strip(), re.ASCII) and least <= int(written) <= most:
            return int(written)
        raise ValueError(f"must be a whole number from {least} to {most}")

    return read


def _seconds(most: int, *, least: float = 0.0) -> Callable[[str], float]:
    def read(written: str) -> float:
        if (
            re.fullmatch(r"\d{1,12}(\.\d{1,6})?", written.strip(), re.ASCII)
            and least <= float(written) <= most
            and float(written) > 0
        ):
            return float(written)
        raise ValueError(
            "must be a number of seconds "
            f"{f'from {least:g}' if least else 'above 0'}, {most} at most"
        )

    return read


def _declare(
    meaning: str, read: Callable[[str], object], *, secret: bool = False
) -> Mapping[str, object]:
    """The metadata of a setting that has no default."""
    return {"meaning": meaning, "read": read, "secret": secret}


def _setting(meaning: str, read: Callable[[str], T], *, default: T, secret: bool = False) -> T:
    """A setting: what docs/settings.md says of it, what reads its text, and its value unset."""
    setting: T = field(
        default=default, repr=not secret, metadata=_declare(meaning, read, secret=secret)
    )
    return setting


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the environment decides; the names are the variables', in lower case."""

    source_name: str = field(
        metadata=_declare(
            "Which app the rows are of. It is in every ticket's address: `shop-prod` and "
            "`shop-staging` must differ, and under another name every row is a new ticket.",
            _source_name,
        )
    )
    # https://host[:port], without a slash at the end.
    servicenow_instance_url: str = field(
        metadata=_declare(
            "The instance, `https://dev12345.service-now.com` or just `dev12345`; `http://` only "
            "on this machine. With `CONSOLE_TOKEN` and `CONFIG_KEY` set, this and what signs in "
            "may be left out together, and be stored over HTTP.",
            instance_url,
        )
    )
    servicenow_username: str = _setting(
        "The user that signs in to ServiceNow: by Basic auth, or beside `SERVICENOW_CLIENT_ID` by "
        "OAuth's password grant. Required without `SERVICENOW_CLIENT_ID` and "
        "`SERVICENOW_API_KEY`.",
        _username,
        default="",
    )
    servicenow_password: str = _setting(
        "The password of `SERVICENOW_USERNAME`. Required with it.",
        _printable,
        default="",
        secret=True,
    )
    servicenow_client_id: str = _setting(
        "The client of ServiceNow's OAuth that signs in: for itself (the client credentials "
        "grant), or for `SERVICENOW_USERNAME` where that is set too.",
        _client_id,
        default="",
    )
    servicenow_client_secret: str = _setting(
        "The secret of `SERVICENOW_CLIENT_ID`. Required with it.",
        _printable,
        default="",
        secret=True,
    )
    servicenow_api_key: str = _setting(
        "An API key of ServiceNow's, sent as `x-sn-apikey`. Instead of the four above.",
        _api_key,
        default="",
        secret=True,
    )
    servicenow_max_concurrency: int = _setting(
        "Calls to ServiceNow at a time, per instance of the function. A node of ServiceNow serves "
        "4 and queues 50.",
        _whole(1, 1000),
        default=8,
    )
    servicenow_timeout_seconds: float = _setting(
        "How long one call to ServiceNow may take.", _seconds(3600, least=0.2), default=20.0
    )
    hasura_event_secrets: tuple[str, ...] = _setting(
        "What the header `X-Webhook-Secret` may say: 16 characters at least, without a comma. "
        "Several, separated by commas, while one is replaced. Unset, every event is answered 401.",
        _secrets,
        default=(),
        secret=True,
    )
    servicenow_webhook_secrets: tuple[str, ...] = _setting(
        "What ServiceNow's notifications are signed with: 16 characters at least, without a comma. "
        "Several, separated by commas, while one is replaced. Unset, every notification is "
        "answered 401.",
        _secrets,
        default=(),
        secret=True,
    )
    public_url: str = _setting(
        "Where ServiceNow and Slack reach the function: its address without the route, such as "
        "`https://europe-west1-shop.cloudfunctions.net/tickets`. `setup business-rule` and `setup "
        "slack` print it.",
        _public_url,
        default="",
    )
    slack_signing_secret: tuple[str, ...] = _setting(
        "What Slack signs its requests with: the app's Signing Secret. Several, separated by "
        "commas, while one is replaced. Unset, every command is answered 401.",
        _secrets,
        default=(),
        secret=True,
    )
    slack_allowed_teams: tuple[str, ...] = _setting(
        "The workspaces whose commands are taken, by their ids (`T…`), separated by commas. "
        "Unset, none is.",
        _slack_ids("T", "a workspace", "T0123ABCD"),
        default=(),
    )
    slack_allowed_users: tuple[str, ...] = _setting(
        "The people whose commands are taken, by their ids (`U…` or `W…`), separated by commas. "
        "Unset, all of an allowed workspace are.",
        _slack_ids("UW", "a person", "U0123ABCD"),
        default=(),
    )
    slack_sandbox_url: str = _setting(
        "Where `make run` has its Slack, on this machine: replies may go there too. Not for "
        "production, where they go to Slack alone.",
        _sandbox_url,
        default="",
    )
    hasura_graphql_url: str = _setting(
        "Hasura's GraphQL, for rules with `mutate` or `data`: "
        "`https://hasura.example.com/v1/graphql`; `http://` only on this machine "
        "and in private networks. Required with such a rule.",
        graphql_url,
        default="",
    )
    hasura_admin_secret: str = _setting(
        "Hasura's admin secret, by which mutations and queries are let in.",
        _header_value,
        default="",
        secret=True,
    )
    hasura_role: str = _setting(
        "The role that mutations and queries are made as; the admin unless set.",
        _header_value,
        default="",
    )
    hasura_timeout_seconds: float = _setting(
        "How long one mutation or query may take.", _seconds(3600, least=0.2), default=10.0
    )
    database_url: str = _setting(
        "The ledger: `postgresql://user:password@host/name` or `sqlite:///path`. Must be set on "
        "Cloud Run and Cloud Functions, where a local disk is gone with the instance.",
        _database_url,
        default="sqlite:///ledger.db",
        secret=True,
    )
    # Transactions are short and none is held across a call to ServiceNow, so 8 serve more events
    # than 8 calls bring; and twelve instances stay below PostgreSQL's usual 100.
    database_pool_size: int = _setting(
        "Connections to PostgreSQL, per instance of the function.", _whole(1, 1000), default=8
    )
    ledger_migrate: bool = _setting(
        "`on`: the ledger's tables are brought up to date at first use. `off`: only `python -m "
        "function migrate` does.",
        _on_or_off,
        default=True,
    )
    rules_file: str = _setting("Which rows become which tickets.", str.strip, default="rules.yaml")
    smtp_url: MailServer | None = _setting(  # noqa: RUF009  # a field
        "The mail server: `smtp://user:password@host:port?starttls=1` or `smtps://…`, with user "
        "and password percent-encoded. Unset, no mail is sent.",
        _mail_server,
        default=None,
        secret=True,
    )
    notify_from: str = _setting(
        "The address that mails come from. Its domain is the name by which the mail server is "
        "greeted. Required with `SMTP_URL`.",
        _address,
        default="",
    )
    notify_to: tuple[str, ...] = _setting(
        "Who is told, separated by commas. Required with `SMTP_URL`.", _addresses, default=()
    )
    notify_every_seconds: float = _setting(
        "At most one mail about the same thing in this time.",
        _seconds(30 * _DAY_SECONDS),
        default=900.0,
    )
    notify_after_seconds: float = _setting(
        "What may pass by itself is mailed once it has lasted this long.",
        _seconds(30 * _DAY_SECONDS),
        default=600.0,
    )
    console_token: str = _setting(
        "What operators send as `Authorization: Bearer …` to `/api/servicenow/…`: 16 characters "
        "at least. Unset, they are answered 401.",
        _token,
        default="",
        secret=True,
    )
    config_key: tuple[str, ...] = _setting(
        "Encrypts the password of a configuration that is stored over HTTP. Several, separated by "
        "commas, while one is replaced: the newest first. Unset, none is taken.",
        _config_keys,
        default=(),
        secret=True,
    )
    # 3600: what Cloud Functions gives a request at most.
    deadline_seconds: float = _setting(
        "Every event is answered within this time, 3600 at most. Keep it below `timeout_sec` of "
        "the trigger's `retry_conf` (60).",
        _seconds(3600, least=1),
        default=50.0,
    )
    rules_at_once: int = _setting(
        "How many rules of one event are worked on at a time. `1`: one after the other.",
        _whole(1, 16),
        default=4,
    )
    retry_for_seconds: float = _setting(
        "How long an event is tried again before it becomes a dead letter.",
        _seconds(365 * _DAY_SECONDS),
        default=86_400.0,
    )
    # Accounts lock after about five failures in fifteen minutes.
    auth_hold_seconds: float = _setting(
        "After ServiceNow refused the password, the OAuth client or the API key, or Hasura the "
        "admin secret, it is tried once in this time, not more.",
        _seconds(_DAY_SECONDS),
        default=600.0,
    )
    max_body_bytes: int = _setting(
        "A larger request is answered 413. 1024 to 268435456.",
        _whole(1024, 256 * 1024 * 1024),
        default=8 * 1024 * 1024,
    )
    keep_days: int = _setting(
        "How long the ledger remembers what is done, 3650 at most.", _whole(1, 3650), default=90
    )

    @property
    def lease_seconds(self) -> float:
        """How long the lease on a key lasts: longer than one attempt can take, however it goes.

        An attempt makes no call after its deadline, and each call, a post's too, ends by then. A
        lease shorter than a POST makes two tickets, so there is one time-out more, for a process
        that is slow to notice. Ten seconds are for what the ledger takes to write it down (its
        statements' own limit).
        """
        timeout = self.servicenow_timeout_seconds
        if self.hasura_graphql_url:
            timeout = max(timeout, self.hasura_timeout_seconds)
        return self.deadline_seconds + timeout + 10

    @property
    def credential(self) -> Credential:
        """Who the function is to ServiceNow."""
        return _credential(
            self.servicenow_username,
            self.servicenow_password,
            self.servicenow_client_id,
            self.servicenow_client_secret,
            self.servicenow_api_key,
        )

    @property
    def digest(self) -> str:
        """Stands for the settings that decide what becomes of an event; when they change, a dead
        letter may live.

        No secret is part of it: it is written into the ledger.
        """
        return digest(
            self.source_name,
            self.servicenow_instance_url,
            self.servicenow_username,
            self.servicenow_client_id,
            f"{self.servicenow_timeout_seconds:.15g}",
            f"{self.deadline_seconds:.15g}",
            f"{self.retry_for_seconds:.15g}",
        )

    @property
    def mutate_digest(self) -> str:
        """Stands for the settings that decide what becomes of a mutation, as *digest* does for a
        ticket's."""
        return digest(
            self.digest,
            self.hasura_graphql_url,
            self.hasura_role,
            f"{self.hasura_timeout_seconds:.15g}",
        )


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the environment: a line of the table in docs/settings.md.

    *read* makes a value of what is written, or raises ValueError with what must be. *unset* is the
    value without it; MISSING where it must be set.
    """

    name: str
    unset: Any
    meaning: str
    read: Callable[[str], Any]
    secret: bool = False

    @property
    def default(self) -> str | None:
        """*unset* as it would be written: "" for nothing, None where it must be set."""
        match self.unset:
            case bool(on):
                return "on" if on else "off"
            case float(number):
                return f"{number:.15g}"
            case int() | str():
                return str(self.unset)
        return None if self.unset is MISSING else ""


VARIABLES: Final = (
    *(Variable(item.name.upper(), item.default, **item.metadata) for item in fields(Settings)),
    # The log is set up before there are settings, so that what is wrong with them can be logged.
    Variable("LOG_LEVEL", "INFO", "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.", _log_level),
)
_VARIABLES: Final = {variable.name: variable for variable in VARIABLES}
_INSTANCE_URL: Final = "SERVICENOW_INSTANCE_URL"
# In the order of what _credential takes.
_LOGIN: Final = (
    "SERVICENOW_USERNAME",
    "SERVICENOW_PASSWORD",
    "SERVICENOW_CLIENT_ID",
    "SERVICENOW_CLIENT_SECRET",
    "SERVICENOW_API_KEY",
)


def table() -> str:
    """The table of settings in docs/settings.md."""
    lines = ["| Variable | Default | Secret | Meaning |", "|---|---|---|---|"]
    for variable in VARIABLES:
        default = {None: "required", "": ""}.get(variable.default, f"`{variable.default}`")
        lines.append(
            f"| `{variable.name}` | {default} | {'yes' if variable.secret else ''} | "
            f"{variable.meaning} |"
        )
    return "\n".join(lines) + "\n"


def load_settings(
    environ: Mapping[str, str], *, read_secret: Callable[[str], str] = secretmanager.read_secret
) -> Settings:
    """Read Settings from *environ*, or raise SettingsError with everything that is wrong, also with
    the way out.

    *read_secret* is given the full name of a version, ``projects/P/secrets/S/versions/V``, and
    raises SecretUnreadable.
    """
    reader = _Reader(environ, read_secret)
    if environ.get("K_SERVICE") and not environ.get("DATABASE_URL", "").strip():
        reader.fault(
            "DATABASE_URL",
            "must be set on Cloud Run and Cloud Functions, to "
            "postgresql://user:password@host/name: a local disk there is gone with the instance, "
            "and the ledger with it",
        )
    left_to_http = _is_left_to_http(environ)
    for variable in VARIABLES:
        reader.read(variable, needed=not (left_to_http and variable.name == _INSTANCE_URL))
        if variable.name == _LOGIN[-1]:
            _check_login(reader, needed=not left_to_http)
    settings = Settings(
        **{item.name: reader.values[item.name.upper()] for item in fields(Settings)}
    )
    try:
        read_network(environ)
    except BrokenNetwork as error:
        reader.faults.extend(error.faults)
    _relate(settings, reader)
    if reader.faults:
        raise SettingsError(*reader.faults)
    return settings


def missing_for_mutate(settings: Settings) -> tuple[Finding, ...]:
    """What must be set where a rule has `mutate`, and is not."""
    return _missing_for_graphql(settings, "`mutate`, which tells the app by it")


def missing_for_data(settings: Settings) -> tuple[Finding, ...]:
    """What must be set where a rule has `data`, and is not."""
    return _missing_for_graphql(settings, "`data`, which is asked of it")


def _missing_for_graphql(settings: Settings, used_by: str) -> tuple[Finding, ...]:
    if settings.hasura_graphql_url:
        return ()
    what = f"must be set, to the address of Hasura's /v1/graphql: a rule has {used_by}"
    return (Finding(Level.FAULT, "HASURA_GRAPHQL_URL", what, sep=" "),)


# What follows of each that a rule from slack/COMMAND needs and is not set.
SLACK_UNSET: Final = {
    "SLACK_SIGNING_SECRET": "every command of Slack's is answered 401",
    "SLACK_ALLOWED_TEAMS": "every command of Slack's is refused, whatever workspace it is from",
}


def missing_for_slack(settings: Settings) -> tuple[str, ...]:
    """Of SLACK_UNSET, those that are not set."""
    is_set = {
        "SLACK_SIGNING_SECRET": settings.slack_signing_secret,
        "SLACK_ALLOWED_TEAMS": settings.slack_allowed_teams,
    }
    return tuple(name for name in SLACK_UNSET if not is_set[name])


def _is_left_to_http(environ: Mapping[str, str]) -> bool:
    """Whether the connection to ServiceNow is nowhere in *environ*, and may be stored over HTTP
    instead."""

    def is_set(name: str) -> bool:
        return bool(environ.get(name, "").strip())

    return all(map(is_set, ("CONSOLE_TOKEN", "CONFIG_KEY"))) and not any(
        map(is_set, (_INSTANCE_URL, *_LOGIN))
    )


def _relate(settings: Settings, reader: "_Reader") -> None:
    """What must hold between settings that are right by themselves."""
    timeout, deadline = settings.servicenow_timeout_seconds, settings.deadline_seconds
    retry_for = settings.retry_for_seconds
    reader.relate(
        "NOTIFY_FROM",
        "SMTP_URL",
        holds=bool(settings.notify_from) or not settings.smtp_url,
        what="must be set when SMTP_URL is: the address that mails come from",
    )
    reader.relate(
        "NOTIFY_TO",
        "SMTP_URL",
        holds=bool(settings.notify_to) or not settings.smtp_url,
        what="must be set when SMTP_URL is: who is told, separated by commas",
    )
    reader.relate(
        "SMTP_URL",
        "NOTIFY_TO",
        holds=bool(settings.smtp_url) or not settings.notify_to,
        what="must be set when NOTIFY_TO is: without a mail server nobody is told",
    )
    reader.relate(
        "SERVICENOW_TIMEOUT_SECONDS",
        "DEADLINE_SECONDS",
        holds=timeout <= deadline,
        what=f"({timeout:.15g}) must not be more than DEADLINE_SECONDS ({deadline:.15g}): "
        "every event is answered by then",
    )
    hasura_timeout = settings.hasura_timeout_seconds
    reader.relate(
        "HASURA_TIMEOUT_SECONDS",
        "DEADLINE_SECONDS",
        holds=hasura_timeout <= deadline or not settings.hasura_graphql_url,
        what=f"({hasura_timeout:.15g}) must not be more than DEADLINE_SECONDS ({deadline:.15g}): "
        "every event is answered by then",
    )
    reader.relate(
        "RETRY_FOR_SECONDS",
        "DEADLINE_SECONDS",
        holds=retry_for > deadline,
        what=f"({retry_for:.15g}) must be more than DEADLINE_SECONDS ({deadline:.15g}): an event "
        "would be given up during its first attempt",
    )
    reader.relate(
        "KEEP_DAYS",
        "RETRY_FOR_SECONDS",
        holds=settings.keep_days * _DAY_SECONDS > retry_for,
        what=f"({settings.keep_days}) must be longer than RETRY_FOR_SECONDS ({retry_for:.15g}): "
        "an event would be forgotten while it is still tried",
    )


def _credential(
    username: str, password: str, client_id: str, client_secret: str, api_key: str
) -> Credential:
    """Who the function is to ServiceNow by these; "" for what is not set."""
    if api_key:
        return ApiKey(api_key)
    if client_id:
        return OAuth(client_id, client_secret, username, password)
    return Basic(username, password)


def _check_login(reader: "_Reader", *, needed: bool = True) -> None:
    """Of the five variables one of four combinations must be set; or none, where it is not
    *needed*."""
    if reader.is_faulty(*_LOGIN):
        return
    api_key = reader.values["SERVICENOW_API_KEY"]
    beside = [name for name in _LOGIN[:-1] if reader.values[name]]
    if api_key and beside:
        reader.fault(
            "SERVICENOW_API_KEY",
            f"must be unset, or {_listed(beside)}: an API key signs in by itself",
        )
    elif needed and not api_key and not beside:
        reader.fault(
            "SERVICENOW_USERNAME",
            "and SERVICENOW_PASSWORD must be set, or SERVICENOW_CLIENT_ID and "
            "SERVICENOW_CLIENT_SECRET, or SERVICENOW_API_KEY: with one of these the function signs "
            "in to ServiceNow",
        )
    elif not api_key:
        for name, other in (
            ("SERVICENOW_USERNAME", "SERVICENOW_PASSWORD"),
            ("SERVICENOW_PASSWORD", "SERVICENOW_USERNAME"),
            ("SERVICENOW_CLIENT_ID", "SERVICENOW_CLIENT_SECRET"),
            ("SERVICENOW_CLIENT_SECRET", "SERVICENOW_CLIENT_ID"),
        ):
            if other in beside and name not in beside:
                reader.fault(name, f"must be set when {other} is: they go together")


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def credential(
    environ: Mapping[str, str], *, read_secret: Callable[[str], str] = secretmanager.read_secret
) -> Credential:
    """Read anew who the function is to ServiceNow, and nothing else. Raises SettingsError."""
    reader = _Reader(environ, read_secret)
    for name in _LOGIN:
        reader.read(_VARIABLES[name])
    _check_login(reader)
    if reader.faults:
        raise SettingsError(*reader.faults)
    return _credential(*(reader.values[name] for name in _LOGIN))


class _Reader:
    """Reads variables one by one, and goes on after a fault so that all are found."""

    def __init__(self, environ: Mapping[str, str], read_secret: Callable[[str], str]) -> None:
        self.values: dict[str, Any] = {}
        self.faults: list[Finding] = []
        self._faulty: set[str] = set()
        self._environ = environ
        self._read_secret = read_secret

    def fault(self, name: str, what: str) -> None:
        self.faults.append(Finding(Level.FAULT, name, what, sep=" "))
        self._faulty.add(name)

    def is_faulty(self, *names: str) -> bool:
        """Whether one of *names* is wrong by itself."""
        return not self._faulty.isdisjoint(names)

    def relate(self, name: str, other: str, *, holds: bool, what: str) -> None:
        """A fault of *name*, unless the relation *holds* or one of the two is wrong by itself."""
        if not holds and not self.is_faulty(name, other):
            self.fault(name, what)

    def read(self, variable: Variable, *, needed: bool = True) -> None:
        """Read *variable* into *values*; where it is unset, and after a fault, what it is unset.

        Where it has no default it is a fault to be unset, unless it is not *needed*.
        """
        name = variable.name
        self.values[name] = "" if variable.unset is MISSING else variable.unset
        try:
            written = self._resolved(self._environ.get(name, ""))
            if written:
                self.values[name] = variable.read(written)
        except ValueError as error:
            self.fault(name, str(error))
        else:
            if not written and variable.unset is MISSING and needed:
                self.fault(
                    name,
                    f"must be set: {variable.meaning[0].lower()}{variable.meaning[1:].rstrip('.')}",
                )

    def _resolved(self, written: str) -> str:
        if not secretmanager.is_reference(written):
            return written if written.strip() else ""
        return secretmanager.resolve(written, self._read_secret)


# How the parts of a connection are read, wherever they are written; each raises ValueError with
# what must be.
CONNECTION_PARTS: Final[Mapping[str, Callable[[str], str]]] = {
    part: _VARIABLES[f"SERVICENOW_{part.upper()}"].read
    for part in ("instance_url", "username", "password")
}
