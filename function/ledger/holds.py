"""Calls that are held while another system as a whole does not answer as it should, for all
instances of the function. A system is known by its address: *instance*."""

from typing import Final

from function.core.outcome import Failure
from function.core.permit import CallPermit, HoldKind
from function.ledger.alerts import END_ALERT
from function.ledger.backend import Record
from function.ledger.database import Database, Transaction
from function.ledger.records import PermitReturn

# So many holds, each for several rows that failed, were ended by a probe without one write since.
IN_VAIN_MANY: Final = 3
# A probe that has told nothing by then is taken for lost (its process was killed), and another may
# try.
PROBE_SECONDS: Final = 10.0

_CLAIM_LOGIN_ATTEMPT = """
INSERT INTO servicenow.login_attempt AS t (instance, account, tries, last_at)
    VALUES (:instance, :account, 1, {now})
ON CONFLICT (instance, account) DO UPDATE SET
    tries = CASE WHEN t.last_at + :within <= {now} THEN 1 ELSE t.tries + 1 END,
    last_at = {now}
WHERE t.last_at + :within <= {now} OR t.tries < :most
RETURNING tries
"""

_CLAIM_PROBE = """
UPDATE servicenow.hold SET probe_until = {now} + :seconds
WHERE instance = :instance AND kind = :kind AND credential = :credential AND probe_until <= {now}
    AND until <= {now}
RETURNING kind
"""

_END_PROBE = """
UPDATE servicenow.hold SET probe_until = 0
WHERE instance = :instance AND credential IN ('', :credential)
"""

_CONFIRM_CREDENTIAL = """
UPDATE servicenow.hold SET verified_at = {now}, probe_until = 0, until = 0, failures = 0,
    doublings = 0, reason = '', remote_message = ''
WHERE instance = :instance AND kind = 'auth' AND credential = :credential
"""

# What was let in a moment ago ends no hold: another call may have been refused since.
_CONFIRM_UNHELD = """
UPDATE servicenow.hold SET verified_at = {now}, probe_until = 0
WHERE instance = :instance AND kind = 'auth' AND credential = :credential AND until = 0
"""

_KNOW_CREDENTIAL = """
INSERT INTO servicenow.hold (instance, kind, credential, since)
    VALUES (:instance, 'auth', :credential, {now})
ON CONFLICT (instance, kind, credential) DO NOTHING
"""

# Held for twice as long with each probe that failed, and with each one but the first that passed in
# vain.
_HOLD_SECONDS = """(
    SELECT CASE WHEN doubled > 4 THEN :seconds_max ELSE :seconds * (
        CASE WHEN doubled < 1 THEN 1 WHEN doubled = 1 THEN 2 WHEN doubled = 2 THEN 4
            WHEN doubled = 3 THEN 8 ELSE 16 END
    ) END
    FROM (SELECT h.doublings + (CASE WHEN h.until = 0 THEN 0 ELSE 1 END)
        + (CASE WHEN h.in_vain > 2 THEN h.in_vain - 2 ELSE 0 END) AS doubled) AS counted
)"""

_COUNT_FAILURE = f"""
INSERT INTO servicenow.hold AS h
    (instance, kind, credential, reason, remote_message, failures, since, until)
VALUES (:instance, :kind, :credential, :reason, :remote_message, 1, {{now}},
    CASE WHEN :at_once OR CAST(:page_seconds AS DOUBLE PRECISION) IS NOT NULL
        THEN {{now}} + :seconds ELSE 0 END)
ON CONFLICT (instance, kind, credential) DO UPDATE SET
    reason = :reason, remote_message = :remote_message, failures = h.failures + 1,
    verified_at = CASE WHEN :kind = 'auth' THEN 0 ELSE h.verified_at END,
    since = CASE WHEN h.failures = 0 THEN {{now}} ELSE h.since END,
    doublings = CASE WHEN h.until = 0 OR h.until > {{now}} OR :sent_before
        THEN h.doublings ELSE h.doublings + 1 END,
    until = CASE
        WHEN :fixed THEN {{now}} + :seconds
        WHEN h.until > {{now}} OR (h.until > 0 AND :sent_before) THEN h.until
        WHEN h.until = 0 AND h.failures + 1 < :in_a_row AND NOT :at_once
            AND NOT COALESCE(
                h.verified_at + CAST(:page_seconds AS DOUBLE PRECISION) <= {{now}}, FALSE) THEN 0
        ELSE {{now}} + {_HOLD_SECONDS}
    END
RETURNING since, until, {{now}} AS now
"""  # noqa: S608  # our own text


class HoldRepository:
    """The holds, and who may probe. Every method is one short transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def request_permit(
        self,
        instance: str,
        credential: str,
        *,
        probe_seconds: float,
        verified_after: float | None,
        failed_before: bool = False,
        locks_accounts: bool = True,
        others_first_seconds: float = 0.0,
    ) -> CallPermit:
        """Ask whether the first of some calls may be made now.

        Under a hold nobody calls until it ends; then one probes and the others wait. Without one,
        it is the same with a credential: one call finds out whether it is still good, so that many
        waiting rows cannot lock the account. *verified_after*: since then the caller has waited for
        another's probe, which will do for its own if it passed. *failed_before*: it asks for a row
        whose last call failed. Where many rows failed and not one write has passed since, such rows
        are tried one at a time, now and then; others need not wait for them. *locks_accounts*: the
        system does so after a few wrong passwords; of any other, no call has to find out first
        whether a credential is good. *others_first_seconds*: for so long after a hold has ended,
        what failed before is not let in as its probe.
        """

        return self._database.run(
            lambda transaction: request_permit(
                transaction,
                instance,
                credential,
                probe_seconds=probe_seconds,
                verified_after=verified_after,
                failed_before=failed_before,
                locks_accounts=locks_accounts,
                others_first_seconds=others_first_seconds,
            )
        )

    def record_success(self, instance: str, credential: str, *, sent_seconds_ago: float) -> None:
        """The system answered: no hold that began before the call stands any more, and what was
        held is over."""
        self._database.run(
            lambda transaction: _end_holds(
                transaction, instance, credential, sent_seconds_ago, by_probe=False
            )
        )

    def record_probe_success(
        self, instance: str, credential: str, *, sent_seconds_ago: float
    ) -> None:
        """It answered a probe: the same, but should event after event fail again before one
        of them passes, the next hold is a longer one."""
        self._database.run(
            lambda transaction: _end_holds(
                transaction, instance, credential, sent_seconds_ago, by_probe=True
            )
        )

    def record_row_failure(
        self, instance: str, *, failure: Failure, seconds: float, seconds_max: float
    ) -> None:
        """A call failed for a row whose last call failed. If they are many, such rows wait
        *seconds*, doubling."""
        self.call_failed(
            instance,
            kind=HoldKind.ROW,
            credential="",
            failure=failure,
            seconds=seconds,
            seconds_max=seconds_max,
            in_a_row=1,
            at_once=True,
            fixed=False,
            claimed=False,
        )

    def release_probe(self, instance: str, credential: str) -> None:
        """Our probe found out nothing about the instance as a whole: let the next one try."""
        self._database.run(
            lambda transaction: transaction.execute(
                _END_PROBE, instance=instance, credential=credential
            )
        )

    def call_failed(
        self,
        instance: str,
        *,
        kind: HoldKind,
        credential: str,
        failure: Failure,
        seconds: float,
        seconds_max: float,
        in_a_row: int,
        at_once: bool,
        fixed: bool,
        claimed: bool,
        at_once_unless_proven_seconds: float | None = None,
    ) -> tuple[float, float]:
        """Count a failure that concerns every event; gives (since when, seconds that calls are
        held: 0 for not).

        Held from *in_a_row* failures on, or *at_once*, for *seconds*; each probe that fails doubles
        it up to *seconds_max*, unless it is *fixed*. *claimed*: it was a probe of ours, which has
        ended; what fails beside one was sent before the hold, and leaves it as it is.
        *at_once_unless_proven_seconds*: at once, unless a hold of its kind was ended by a probe so
        short a time ago.
        """

        def work(transaction: Transaction) -> tuple[float, float]:
            row = transaction.execute(
                _COUNT_FAILURE,
                instance=instance,
                kind=kind.value,
                credential=credential if kind is HoldKind.AUTH else "",
                reason=failure.reason.value,
                remote_message=failure.remote_message,
                seconds=seconds,
                seconds_max=seconds_max,
                in_a_row=in_a_row,
                at_once=at_once,
                page_seconds=at_once_unless_proven_seconds,
                fixed=fixed,
                sent_before=not claimed and kind is not HoldKind.ROW,
            )[0]
            if claimed:
                transaction.execute(_END_PROBE, instance=instance, credential=credential)
            return row["since"], max(0.0, row["until"] - row["now"])

        return self._database.run(work)

    def claim_login_attempt(
        self, instance: str, account: str, *, most: int, within_seconds: float
    ) -> float:
        """Count a connection test of *account* before it is made; gives the seconds to wait, 0 for
        none.

        *most* may be refused, or under way, until *within_seconds* have passed since the last of
        them.
        """
        names = {"instance": instance, "account": account}

        def work(transaction: Transaction) -> float:
            if transaction.execute(_CLAIM_LOGIN_ATTEMPT, **names, most=most, within=within_seconds):
                return 0.0
            left = transaction.execute(
                "SELECT last_at + :within - {now} AS seconds FROM servicenow.login_attempt "
                "WHERE instance = :instance AND account = :account",
                **names,
                within=within_seconds,
            )
            return max(1.0, left[0]["seconds"]) if left else 1.0

        return self._database.run(work)

    def end_login_attempt(self, instance: str, account: str, *, signed_in: bool | None) -> None:
        """The test was let in (then those that were refused before count no more), refused, or
        (None) nobody knows."""
        names = {"instance": instance, "account": account}

        def work(transaction: Transaction) -> None:
            if signed_in:
                transaction.execute(
                    "DELETE FROM servicenow.login_attempt WHERE instance = :instance AND "
                    "account = :account",
                    **names,
                )
            elif signed_in is None:
                transaction.execute(
                    "UPDATE servicenow.login_attempt SET tries = tries - 1 "
                    "WHERE instance = :instance AND account = :account AND tries > 0",
                    **names,
                )

        self._database.run(work)


def held_fingerprint(instance: str, kind: HoldKind) -> str:
    """The alert that tells of a hold. Without a configuration there is no instance that it could be
    about."""
    return f"held {kind}" if kind is HoldKind.CONFIG else f"held {kind} {instance}"


def _end_holds(
    transaction: Transaction,
    instance: str,
    credential: str,
    sent_seconds_ago: float,
    *,
    by_probe: bool,
) -> None:
    """*by_probe*: nothing was written, so whether that can be done is still to be seen."""
    if transaction.execute(
        "SELECT 1 FROM servicenow.hold WHERE instance = :instance AND credential IN ('', "
        ":credential) AND kind <> 'row' AND until > 0 AND since > {now} - :seconds",
        instance=instance,
        credential=credential,
        seconds=sent_seconds_ago,
    ):
        # Another instance's call, sent later, was refused: what passed says nothing of now.
        transaction.execute(_END_PROBE, instance=instance, credential=credential)
        return
    transaction.execute(_CONFIRM_CREDENTIAL, instance=instance, credential=credential)
    transaction.execute(
        "DELETE FROM servicenow.hold WHERE instance = :instance AND kind NOT IN ('auth', 'down') "
        "AND NOT (kind = 'row' AND :by_probe)",
        instance=instance,
        by_probe=by_probe,
    )
    transaction.execute(
        "UPDATE servicenow.hold SET "
        "verified_at = CASE WHEN until > 0 THEN {now} ELSE verified_at END, "
        "failures = CASE WHEN :by_probe AND until = 0 THEN failures ELSE 0 END, "
        "probe_until = 0, until = 0, reason = '', remote_message = '', "
        "doublings = 0, in_vain = CASE WHEN NOT :by_probe THEN 0 WHEN until > 0 THEN in_vain + 1 "
        "ELSE in_vain END "
        "WHERE instance = :instance AND kind = 'down'",
        instance=instance,
        by_probe=by_probe,
    )
    # A hold of another credential says nothing any more once this one works.
    transaction.execute(
        "DELETE FROM servicenow.hold "
        "WHERE instance = :instance AND kind = 'auth' AND credential <> :credential "
        "AND until > 0 AND until <= {now}",
        instance=instance,
        credential=credential,
    )
    for kind in (HoldKind.DOWN, HoldKind.RATE, HoldKind.AUTH, HoldKind.CONFIG):
        transaction.execute(END_ALERT, fingerprint=held_fingerprint(instance, kind), silently=False)


def _refused_permit(row: Record, wait_seconds: float, *, waiting_for_probe: bool) -> CallPermit:
    return CallPermit(
        wait_seconds,
        kind=HoldKind(row["kind"]),
        reason=row["reason"],
        remote_message=row["remote_message"],
        since=row["since"],
        waiting_for_probe=waiting_for_probe,
        now=row["now"],
    )


def request_permit(
    transaction: Transaction,
    instance: str,
    credential: str,
    *,
    probe_seconds: float,
    verified_after: float | None,
    failed_before: bool,
    locks_accounts: bool = True,
    others_first_seconds: float = 0.0,
) -> CallPermit:
    """See HoldRepository.request_permit."""
    if locks_accounts:
        transaction.execute(_KNOW_CREDENTIAL, instance=instance, credential=credential)
    rows = transaction.execute(
        "SELECT *, {now} AS now FROM servicenow.hold "
        "WHERE instance = :instance AND credential IN ('', :credential) ORDER BY until DESC",
        instance=instance,
        credential=credential,
    )
    many_failed = any(
        row["kind"] == HoldKind.DOWN and row["in_vain"] >= IN_VAIN_MANY for row in rows
    )
    if not (failed_before and many_failed):
        rows = [row for row in rows if row["kind"] != HoldKind.ROW]
    for row in rows:
        until = row["until"]
        if failed_before and until > 0 and row["kind"] != HoldKind.ROW:
            until += others_first_seconds
        if until > row["now"]:
            return _refused_permit(row, until - row["now"], waiting_for_probe=False)
    needed = [
        row
        for row in rows
        if row["kind"] != HoldKind.ROW
        and (row["until"] > 0 or (row["kind"] == HoldKind.AUTH and locks_accounts))
    ]
    if not needed:
        return CallPermit()
    if verified_after is not None and all(
        row["kind"] == HoldKind.AUTH and row["until"] == 0 and row["verified_at"] >= verified_after
        for row in needed
    ):
        return CallPermit()
    probed = next((row for row in needed if row["probe_until"] > row["now"]), None)
    for row in needed if probed is None else ():
        if not transaction.execute(
            _CLAIM_PROBE,
            instance=instance,
            kind=row["kind"],
            credential=row["credential"],
            seconds=probe_seconds,
        ):
            probed = row
            break
    if probed is not None:
        return _refused_permit(
            probed, max(0.001, probed["probe_until"] - probed["now"]), waiting_for_probe=True
        )
    return CallPermit(probing=True, held=any(row["until"] > 0 for row in needed))


def return_permit(transaction: Transaction, instance: str, permit: PermitReturn) -> None:
    """The delivery that had the *permit* is finished: others need not wait for what it
    finds out."""
    transaction.execute(
        _CONFIRM_UNHELD if permit.passed else _END_PROBE,
        instance=instance,
        credential=permit.credential,
    )
