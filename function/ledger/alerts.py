"""Alerts in SQL, and which mail is due."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from function.ledger.database import Database, Transaction
from function.ledger.records import (
    Alert,
    AlertKind,
    DueMail,
    facts_to_json,
    one_row,
    read_alert,
)

# Longer than one mail takes to send: whoever claimed it and vanished is replaced.
MAIL_CLAIM_SECONDS: Final = 30.0

_RAISE_ALERT = """
INSERT INTO servicenow.alert AS a
    (fingerprint, kind, facts, since, last_at, due_at, unsent, state)
VALUES (:fingerprint, :kind, :facts, :since, {now}, :since + :wait, 1, 'pending')
ON CONFLICT (fingerprint) DO UPDATE SET
    facts = :facts, last_at = {now},
    since = CASE WHEN a.state IN ('closed', 'recovered') THEN :since ELSE a.since END,
    due_at = CASE WHEN a.state IN ('closed', 'recovered') THEN :since + :wait ELSE a.due_at END,
    unsent = CASE WHEN a.state = 'notified' AND :lasts THEN 0 ELSE a.unsent + 1 END,
    state = CASE WHEN a.state IN ('closed', 'recovered') THEN 'pending' ELSE a.state END
"""

_LOCK_ALERT = "SELECT 1 FROM servicenow.alert WHERE fingerprint = :fingerprint {for_update}"

END_ALERT = """
UPDATE servicenow.alert SET
    state = CASE WHEN state = 'notified' AND NOT :silently THEN 'recovered' ELSE 'closed' END,
    unsent = 0, last_at = {now}
WHERE fingerprint = :fingerprint AND state IN ('pending', 'notified')
"""

_IS_DUE = """claimed_until <= {now} AND (
        state = 'recovered'
        OR (unsent > 0 AND due_at <= {now} AND (mailed_at IS NULL OR mailed_at + :every <= {now})
            AND state IN ('pending', 'notified'))
        OR owed_at <= {now})"""

MAIL_IS_DUE = f"SELECT 1 FROM servicenow.alert WHERE {_IS_DUE} LIMIT 1"  # noqa: S608  # our own words

_CLAIM_MAIL = f"""
UPDATE servicenow.alert SET claimed_until = {{now}} + :claim
WHERE fingerprint = (
    SELECT fingerprint FROM servicenow.alert
    WHERE {_IS_DUE}
    ORDER BY due_at, fingerprint LIMIT 1 {{for_update}}
) AND claimed_until <= {{now}}
RETURNING *, {{now}} AS now
"""  # noqa: S608  # our own words

_MAIL_SENT = """
UPDATE servicenow.alert SET
    claimed_until = 0, mailed_at = {now},
    unsent = CASE WHEN unsent > :count THEN unsent - :count ELSE 0 END,
    state = CASE WHEN :recovered AND state = 'recovered' THEN 'closed'
                   WHEN state = 'pending' AND NOT :recovered THEN 'notified' ELSE state END
WHERE fingerprint = :fingerprint
"""

_SET_OWED = """
UPDATE servicenow.alert SET claimed_until = 0, owed = :owed,
    owed_at = CASE WHEN :owed = '' THEN NULL ELSE {now} + :wait END
WHERE fingerprint = :fingerprint
"""


class AlertRepository:
    """Alerts, and the mails that are due for them. Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def raise_alert(self, alert: Alert) -> None:
        """Count *alert*, and have it mailed when that is due."""
        self._database.run(lambda transaction: raise_alert(transaction, alert))

    def find_kind(self, fingerprint: str) -> AlertKind | None:
        """The kind of the alert with *fingerprint*; None where there is no such alert."""
        if not fingerprint:
            return None
        row = one_row(
            self._database.run(
                lambda transaction: transaction.execute(
                    "SELECT kind FROM servicenow.alert WHERE fingerprint = :fingerprint",
                    fingerprint=fingerprint,
                )
            )
        )
        return AlertKind(row["kind"]) if row else None

    def claim_due_mail(self, *, every_seconds: float) -> DueMail | None:
        """Take one mail that is due; nobody else gets it for MAIL_CLAIM_SECONDS. None: there is
        none."""

        row = one_row(
            self._database.run(
                lambda transaction: transaction.execute(
                    _CLAIM_MAIL, claim=MAIL_CLAIM_SECONDS, every=every_seconds
                )
            )
        )
        if row is None:
            return None
        mail = DueMail(
            read_alert(row),
            last_at=row["last_at"],
            count=row["unsent"],
            recovered=row["state"] == "recovered",
            now=row["now"],
        )
        if row["owed_at"] is None or row["owed_at"] > row["now"]:
            return mail
        # What is owed is sent first, and by itself; what is new follows, for all.
        owed = json.loads(row["owed"])
        return replace(
            mail,
            count=owed["count"],
            recovered=owed["recovered"],
            owed_to=tuple(owed["to"]),
            owed_tries=owed["tries"],
        )

    def mark_sent(
        self, mail: DueMail, *, owed_to: Sequence[str] = (), owed_wait_seconds: float = 0.0
    ) -> None:
        """The mail is out; to those of *owed_to* it is to be sent again in *owed_wait_seconds*."""
        fingerprint = mail.alert.fingerprint
        owed = {
            "to": [*owed_to],
            "tries": mail.owed_tries + 1,
            "count": mail.count,
            "recovered": mail.recovered,
        }

        def work(transaction: Transaction) -> None:
            if not mail.owed_to:
                transaction.execute(
                    _MAIL_SENT,
                    fingerprint=fingerprint,
                    count=mail.count,
                    recovered=mail.recovered,
                )
            if mail.owed_to or owed_to:
                owed_json = json.dumps(owed) if owed_to else ""
                transaction.execute(
                    _SET_OWED, fingerprint=fingerprint, owed=owed_json, wait=owed_wait_seconds
                )

        self._database.run(work)

    def mark_not_sent(self, mail: DueMail) -> None:
        """The mail is not out: whoever comes next may try."""
        self._database.run(
            lambda transaction: transaction.execute(
                "UPDATE servicenow.alert SET claimed_until = 0 WHERE fingerprint = :fingerprint",
                fingerprint=mail.alert.fingerprint,
            )
        )

    def open_fingerprints(self, kind: AlertKind) -> list[str]:
        """Those of the alerts of this *kind* that are not over."""
        rows = self._database.run(
            lambda transaction: transaction.execute(
                "SELECT fingerprint FROM servicenow.alert WHERE kind = :kind "
                "AND state IN ('pending', 'notified')",
                kind=kind.value,
            )
        )
        return [row["fingerprint"] for row in rows]

    def end_alerts(self, fingerprints: Sequence[str]) -> None:
        """What these alerts are about is over."""

        def work(transaction: Transaction) -> None:
            for fingerprint in fingerprints:
                transaction.execute(END_ALERT, fingerprint=fingerprint, silently=False)

        self._database.run(work)


def raise_alert(transaction: Transaction, alert: Alert) -> None:
    transaction.execute(
        _RAISE_ALERT,
        fingerprint=alert.fingerprint,
        kind=alert.kind.value,
        facts=facts_to_json(alert),
        since=alert.since,
        wait=alert.wait_seconds,
        lasts=alert.is_episode,
    )


def end_alert_if_none_left(
    transaction: Transaction, fingerprint: str, *, silently: bool = False
) -> None:
    """The alert is over once no delivery belongs to it any more; *silently*: because they were
    given up on."""
    # Of two that end at once, the second counts what the first has written.
    transaction.execute(_LOCK_ALERT, fingerprint=fingerprint)
    deliveries = transaction.execute(
        "SELECT 1 FROM servicenow.delivery WHERE fingerprint = :fingerprint AND "
        "status <> 'done' LIMIT 1",
        fingerprint=fingerprint,
    )
    if not deliveries:
        transaction.execute(END_ALERT, fingerprint=fingerprint, silently=silently)
