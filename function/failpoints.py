"""Named places in the work on an event: the steps between which a process may die.

Nothing happens there in production. The fault tests listen, and end the process (tests/faults).
"""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

Failpoint: TypeAlias = Literal[
    "received",
    "leased",
    "before_call",
    "after_call",
    "recorded",
    "looked",
    "before_mutation",
    "after_mutation",
    "accepted",
]
# In the order in which an event comes by: authenticated and read; the key is ours and the attempt
# counted; the write is written down and not sent; it was answered, or failed, and that is not
# written down; all is, and nobody was told.
FAILPOINTS: Final[tuple[Failpoint, ...]] = (
    "received",
    "leased",
    "before_call",
    "after_call",
    "recorded",
)
# In the order in which a ticket's change comes by: it was looked at; what the app is given is
# written down and not sent; it was answered, or failed, and that is not written down.
SYNC_FAILPOINTS: Final[tuple[Failpoint, ...]] = ("looked", "before_mutation", "after_mutation")

_listener: Callable[[Failpoint], None] | None = None


def failpoint(place: Failpoint) -> None:
    """Say that the work has come to *place*."""
    if _listener is not None:
        _listener(place)


def listen(listener: Callable[[Failpoint], None] | None) -> None:
    """Have *listener* called at every place from now on; None: nobody."""
    global _listener  # noqa: PLW0603  # a process dies as a whole
    _listener = listener
