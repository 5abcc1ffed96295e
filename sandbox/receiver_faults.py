"""What the receiver's systems can do wrong, and what arrived at them.

status     answers that status, with a Retry-After where one is given
redirect   answers 307 to *location*
reset      reads the request, and ends the connection with a TCP reset
hang       reads the request, says nothing for *seconds*, then hangs up
slow       answers 200, and takes *seconds* for its body
large      answers 200, with a body of a mebibyte
down       nobody listens (at a port of its own), or the connection is reset unread
"""

from dataclasses import dataclass
from typing import Final

KINDS: Final = ("status", "redirect", "reset", "hang", "slow", "large", "down")
STATUS_DEFAULT: Final = 503
SECONDS_DEFAULT: Final = 60.0


@dataclass(slots=True)
class ReceiverFault:
    """What the next requests to a system meet; *times* None is until it is switched off.

    *retry_after* goes with a status, as it is to stand in the header. Raises ValueError for what no
    fault can be.
    """

    kind: str
    times: int | None = 1
    status: int = STATUS_DEFAULT
    retry_after: str = ""
    seconds: float = SECONDS_DEFAULT
    location: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"there is no fault {self.kind!r}; there are {', '.join(KINDS)}")
        if not 200 <= self.status <= 599:
            raise ValueError("a status is a number from 200 to 599")
        if not 0 < self.seconds <= 3600:
            raise ValueError("seconds are more than 0, and 3600 at most")
        if self.times is not None and not 1 <= self.times <= 1_000_000:
            raise ValueError("times is a number from 1 to 1000000, or none for always")
        if any(ord(character) < 32 for character in self.retry_after + self.location):
            raise ValueError("a header is one line")
        if self.kind == "redirect" and not self.location:
            raise ValueError("a redirect needs a location")
        if self.kind == "down" and self.times is not None:
            # Nobody hears of those who find the door closed, so nobody counts them.
            raise ValueError("a system that is down is so until it is switched on: no times")

    @property
    def described(self) -> str:
        """The fault in a few words."""
        match self.kind:
            case "status" if self.retry_after:
                return f"{self.status}, Retry-After: {self.retry_after}"
            case "status":
                return str(self.status)
            case "redirect":
                return f"redirect to {self.location}"
            case "hang" | "slow":
                return f"{self.kind} for {self.seconds:g} s"
            case _:
                return self.kind


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request as it arrived. *number* counts from 1 in its system, *at* is UNIX seconds.

    *headers* are in the order in which they came, spelled as they were. *status* is what it was
    answered, 0 for nothing; *fault* describes the fault that it met, "" for none.
    """

    number: int
    system: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    at: float
    status: int
    fault: str

    def header(self, name: str) -> str:
        """The first header of that name, in capitals or not; "" without one."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), "")

    @property
    def webhook_id(self) -> str:
        """The id that Standard Webhooks gives a message: the same at each attempt."""
        return self.header("webhook-id")

    @property
    def is_taken(self) -> bool:
        """Whether it was answered with success."""
        return 200 <= self.status < 300
