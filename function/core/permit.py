"""Leave to make a call, as the ledger gives it for all instances of the function. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class HoldKind(StrEnum):
    """Why calls to a system are held."""

    DOWN = "down"  # it does not answer as it should
    RATE = "rate"  # its rate limit is used up
    AUTH = "auth"  # it refused the credential
    CONFIG = "config"  # it is not known how to sign in
    ROW = "row"  # many rows failed, each by itself perhaps: those are tried one at a time


@dataclass(frozen=True, slots=True)
class CallPermit:
    """Whether a call may be made: *wait_seconds* is 0 when it may; otherwise which hold stands in
    its way.

    *probing*: nobody else may until this probe has ended; *held*: because calls were held.
    *kind*, *reason*, *remote_message* and *since* are those of the hold that does.
    *waiting_for_probe*: no hold stands in the way, but somebody else's probe is finding out. *now*
    is when this was said.
    """

    wait_seconds: float = 0.0
    probing: bool = False
    held: bool = False
    kind: HoldKind = HoldKind.DOWN
    reason: str = ""
    remote_message: str = ""
    since: float = 0.0
    waiting_for_probe: bool = False
    now: float = 0.0
