"""``replay``: deliver dead letters again."""

import sys
from collections import Counter
from datetime import UTC, datetime

import click

from function.app import App
from function.cli.group import commands, open_app
from function.core.outcome import Outcome, Status
from function.core.values import instant
from function.ledger.backend import LedgerUnavailable
from function.ledger.records import Delivery
from function.notices.message import replay_command
from function.sources.kept import AnsweredEvent, UnknownSource, read_event


@commands.command()
@click.argument("events", nargs=-1, metavar="ID…")
@click.option("--failed", is_flag=True, help="Every dead letter.")
@click.option(
    "--since", metavar="T", help="Of --failed: those that died at or after this ISO time (UTC)."
)
@click.option("--rule", metavar="R", help="Of this rule only.")
def replay(events: tuple[str, ...], *, failed: bool, since: str | None, rule: str | None) -> None:
    """Deliver dead letters again, by the rules as they are now. Safe to repeat: what is done is not
    done twice."""
    if bool(events) == failed:
        raise click.UsageError("name the events to replay, or give --failed (and not both)")
    if events and since:
        raise click.UsageError("--since goes with --failed")
    moment = (instant(since) or instant(f"{since}T00:00:00")) if since else None
    if since and moment is None:
        raise click.UsageError("--since takes an ISO time such as 2026-11-21T08:00:00Z")
    app = open_app()
    try:
        tally = _replay(app, events, since=moment.timestamp() if moment else None, rule=rule)
    except LedgerUnavailable as error:
        raise click.ClickException(
            f"{error}: check DATABASE_URL; nothing was lost, replay again"
        ) from error
    finally:
        app.close()
    click.echo(", ".join(f"{count} {what}" for what, count in tally.items()) or "nothing to replay")
    if tally["dead"] or tally["retrying"] or tally["unknown"]:
        sys.exit(1)


def _replay(
    app: App, events: tuple[str, ...], *, since: float | None, rule: str | None
) -> Counter[str]:
    tally: Counter[str] = Counter()
    letters = app.ledger.deliveries.dead_letters(events=events, since=since, rule=rule)
    for event in events:
        if not any(letter.event == event for letter in letters):
            known = app.ledger.deliveries.is_known(event)
            click.echo(
                f"{event}: " + ("already done" if known else "not in the ledger"), err=not known
            )
            tally["already done" if known else "unknown"] += 1
    # An id that was used again is another event; each entry of a ticket's journal is one.
    kept = {
        (letter.event, letter.content, letter.key if _is_change(letter) else ""): letter
        for letter in letters
    }
    waiting: list[str] = []
    for number, ((event_id, _, _), letter) in enumerate(kept.items(), start=1):
        try:
            outcomes = _deliver_again(app, letter, rule)
        except UnknownSource as error:
            is_answered = isinstance(error, AnsweredEvent)
            click.echo(f"{event_id}: {error}", err=not is_answered)
            tally["left as it is" if is_answered else "unknown"] += 1
            continue
        for outcome in outcomes:
            tally[outcome.status.value] += 1
            said = [
                outcome.status.value,
                outcome.ticket,
                outcome.reason.value if outcome.reason else "",
            ]
            if outcome.status is Status.RETRYING and outcome.retry_at:
                said.append(
                    f"after {datetime.fromtimestamp(outcome.retry_at, UTC):%Y-%m-%dT%H:%M:%SZ}"
                )
                waiting.append(event_id)
            where = (
                f"{outcome.rule or 'no rule'}/{outcome.key}"
                if outcome.key
                else outcome.rule or "no rule"
            )
            click.echo(f"[{number}/{len(kept)}] {event_id} {where}: {' '.join(filter(None, said))}")
            if outcome.hint:
                click.echo(f"    {outcome.hint}")
    if waiting:
        # Hasura has given these up: nobody but the operator sends them again.
        click.echo(f"to try again: {replay_command(list(dict.fromkeys(waiting)))}")
    return tally


def _is_change(letter: Delivery) -> bool:
    """Whether it is of a ticket's change, and not of an event of Hasura's."""
    return letter.source.startswith("servicenow/")


def _deliver_again(app: App, letter: Delivery, rule: str | None) -> tuple[Outcome, ...]:
    """Raises UnknownSource, LedgerUnavailable."""
    if not _is_change(letter):
        event = read_event(letter.source, letter.body)
        only_rules = [rule] if rule else None
        return app.engine.deliver(event, fresh=True, only_rules=only_rules).outcomes
    table, _, sys_id = letter.event.partition("/")
    tickets, deadline = app.inbound().tickets, app.engine.deadline()
    if letter.key == sys_id:
        return tickets.sync_ticket(table, sys_id, deadline=deadline, fresh=True).outcomes
    return tickets.give_entry(table, sys_id, letter.rule, letter.key, deadline=deadline).outcomes
