"""Reads secrets from Google Secret Manager. Its client is loaded (0.1 s, 27 MB) when the first one
is asked for."""

import functools
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from function.deadline import seconds_left
from function.http.network import FILES

# At start somebody is waiting for the first answer; a secret that takes longer than this will not
# come.
READ_SECONDS: Final = 10.0

_RESOURCE: Final = re.compile(r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+")


class SecretUnreadable(Exception):  # noqa: N818  # what happened, not whose error it is
    """A secret could not be read. The text says why in Google's word for it, never what the secret
    holds."""


def resource(reference: str) -> str | None:
    """The resource that ``secret://projects/P/secrets/S[/versions/V]`` names, its latest version by
    default.

    None when *reference* is not of that form.
    """
    named = reference.removeprefix("secret://")
    if "/versions/" not in named:
        named += "/versions/latest"
    return named if reference.startswith("secret://") and _RESOURCE.fullmatch(named) else None


def is_reference(written: str) -> bool:
    """Whether a value names a secret, or several separated by commas, in its stead."""
    return written.strip().startswith("secret://")


def resolve(written: str, read: Callable[[str], str]) -> str:
    """The value that the references in *written* name, joined by commas where there are several.

    *read* is read_secret(), or stands for it. Raises ValueError with what must be, or why a secret
    could not be read.
    """
    return ",".join(_resolve_one(reference.strip(), read) for reference in written.split(","))


def _resolve_one(reference: str, read: Callable[[str], str]) -> str:
    name = resource(reference)
    if name is None:
        raise ValueError(
            "must be secret://projects/PROJECT/secrets/SECRET, with "
            "/versions/VERSION if not the latest"
        )
    try:
        return read(name)
    except SecretUnreadable as error:
        raise ValueError(
            f"could not be read from {name} ({error}): check that it exists and that the "
            "function's service account has the role Secret Manager Secret Accessor"
        ) from None


def read_secret(name: str, *, client: Any = None, seconds: float = READ_SECONDS) -> str:
    """The secret that the resource *name* holds, without the line end that ``echo`` leaves behind.

    *client* is a SecretManagerServiceClient, by default one with the credentials that the function
    runs with. It is asked each time: who reads often keeps what was read. Raises SecretUnreadable,
    after *seconds* at the latest, and in time for the answer that is due.
    """
    # Here, because loading them is what takes the time.
    from google.api_core.exceptions import GoogleAPICallError, RetryError, ServiceUnavailable  # noqa: PLC0415
    from google.api_core.retry import Retry, if_exception_type  # noqa: PLC0415
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415

    seconds = max(0.0, min(seconds, seconds_left()))
    try:
        client = client or _client()
        # The library's own retries go on for a minute, whatever the time-out of one try.
        again = Retry(if_exception_type(ServiceUnavailable), initial=0.2, timeout=seconds)
        answer = client.access_secret_version(request={"name": name}, retry=again, timeout=seconds)
        return str(answer.payload.data.decode("utf-8")).rstrip("\r\n")
    except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
        # Its text can quote credentials' files and addresses; its name (PermissionDenied, NotFound)
        # says enough.
        raise SecretUnreadable(type(error).__name__) from None
    except UnicodeDecodeError:
        raise SecretUnreadable("it is not UTF-8 text") from None


def way_out(environ: Mapping[str, str]) -> dict[str, str]:
    """What *environ* says of proxies and certificates, by the names that Google's libraries know.

    gRPC reads proxies in lower case only, and certificates of its own; the tokens are fetched with
    requests.
    """
    environment = {
        name.lower(): environ[name] for name in ("HTTPS_PROXY", "NO_PROXY") if environ.get(name)
    }
    trusted = next(
        (environ[name] for name in FILES if environ.get(name) and not os.path.isdir(environ[name])),
        "",
    )
    if trusted:
        environment |= dict.fromkeys(
            ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "REQUESTS_CA_BUNDLE"), trusted
        )
    return environment


@functools.cache
def _client() -> Any:
    """One for the process: each has a channel and threads of its own, which nothing closes."""
    for name, value in way_out(os.environ).items():
        os.environ.setdefault(name, value)
    from google.cloud.secretmanager import SecretManagerServiceClient  # noqa: PLC0415

    return SecretManagerServiceClient()
