"""Failure mail: who is mailed an alert, and when. The ledger decides which instance sends it."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from function.ledger.alerts import MAIL_CLAIM_SECONDS
from function.ledger.ledger import Ledger
from function.ledger.records import DueMail
from function.notices.message import compose
from function.notices.smtp import MailNotSent, MailServer, send

log = logging.getLogger(__name__)

# A mail server that hangs is left alone by this instance for a while.
SLOW_SECONDS: Final = 1.0
REST_SECONDS: Final = 60.0
# A recipient refused for the time being (greylisting, a full mailbox) has it sent again after a
# minute, then after twice as long each time, and for about a day.
OWED_SECONDS: Final = 60.0
OWED_SECONDS_MAX: Final = 3600.0
OWED_TRIES_MAX: Final = 30


class AlertMailer:
    """Sends what is due. A mail server that is down changes nothing else: the next one to come by
    tries again."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        server: MailServer | None,
        sender: str,
        recipients: Sequence[str],
        every_seconds: float,
    ) -> None:
        """Without a *server* nothing is sent; the alerts are kept."""
        self._ledger = ledger
        self._server = server
        self._sender = sender
        self._recipients = recipients
        self._every_seconds = every_seconds
        self._resting_until = 0.0

    def flush(self, *, timeout_seconds: float) -> int:
        """Send the mails that are due, for *timeout_seconds* at most; gives how many went out."""
        if self._server is None:
            return 0
        ends_at = time.monotonic() + timeout_seconds
        if time.monotonic() < self._resting_until:
            return 0
        sent = 0
        while (seconds_left := ends_at - time.monotonic()) > 0:
            mail = self._ledger.alerts.claim_due_mail(every_seconds=self._every_seconds)
            if mail is None:
                break
            began = time.monotonic()
            # Who is owed it and is no recipient any more is owed nothing.
            recipients = [
                name for name in self._recipients if name in mail.owed_to or not mail.owed_to
            ]
            if not recipients:
                self._ledger.alerts.mark_sent(mail)
                continue
            try:
                # Shorter than the claim: nobody else may send it meanwhile.
                seconds_left = min(seconds_left, MAIL_CLAIM_SECONDS - 5.0)
                message = compose(mail, sender=self._sender, recipients=recipients)
                refused = send(message, self._server, timeout_seconds=seconds_left)
            except MailNotSent as error:
                log.error("a notice was not sent and is kept: %s", error)  # noqa: TRY400  # the message is the whole story
                if mail.owed_to:
                    # All that it was for may have been refused again: some for good, others not.
                    self._record(mail, error.refused or dict.fromkeys(recipients, 450))
                else:
                    self._ledger.alerts.mark_not_sent(mail)
                # A server that refuses at once is asked by the next event again; one that hangs
                # would slow each down.
                now = time.monotonic()
                if now - began > SLOW_SECONDS:
                    self._resting_until = now + REST_SECONDS
                break
            self._record(mail, refused)
            sent += 1
        return sent

    def _record(self, mail: DueMail, refused: Mapping[str, int]) -> None:
        """The mail is out; *refused* has the codes of those for whom the server did not take it."""
        owed = [name for name, code in refused.items() if code < 500]
        if owed and mail.owed_tries + 1 >= OWED_TRIES_MAX:
            log.error(
                "a notice is not sent any more to %s: refused %d times",
                ", ".join(owed),
                OWED_TRIES_MAX,
            )
            owed = []
        wait_seconds = min(OWED_SECONDS_MAX, OWED_SECONDS * 2.0**mail.owed_tries)
        self._ledger.alerts.mark_sent(mail, owed_to=owed, owed_wait_seconds=wait_seconds)
