"""``explain``: what an event means by the rules."""

import os
from typing import BinaryIO

import click

from function.app import HOUSEKEEPING
from function.cli.group import commands
from function.core.event import Event, Op
from function.core.outcome import Failure
from function.rules.evaluate import evaluate
from function.rules.loader import RulesError
from function.rules.model import Rule
from function.rules.ticket import TicketRule
from function.sources import hasura
from function.targets.ticket.address import address, correlation_id
from function.wiring import read_rules


@commands.command()
@click.argument("event_file", type=click.File("rb"), metavar="EVENT.json")
def explain(event_file: BinaryIO) -> None:
    """Say what each rule would do with the event in EVENT.json (`-` for standard input); sends
    nothing."""
    environ = os.environ
    try:
        rules = read_rules(environ.get("RULES_FILE") or "rules.yaml", environ)
    except RulesError as error:
        raise click.ClickException(str(error)) from error
    try:
        event = hasura.parse_event(event_file.read())
    except hasura.InvalidRequest as error:
        raise click.ClickException(f"this would be answered 400: {error.message}") from error
    click.echo(f"event {event.id}: {event.op.value} from {event.source}")
    concerned = rules.concerning(event)
    if event.source == HOUSEKEEPING:
        click.echo("this wakes the housekeeping; no rule is asked")
    elif not concerned:
        click.echo("no rule wants it: it would be answered 422, kept as a dead letter and mailed")
    else:
        for rule in concerned:
            _explain_rule(rule, event, environ.get("SOURCE_NAME", "").strip())


def _explain_rule(rule: Rule, event: Event, source_name: str) -> None:
    click.echo(f"\nrule {rule.id} (line {rule.where.line})")
    if event.op not in rule.ops:
        click.echo(f"  nothing: its ops do not name {event.op.value}")
        return
    steps = evaluate(rule, event)
    if not steps:
        click.echo("  nothing: its each gives no element")
    for step in steps:
        if isinstance(step.wants, Failure):
            of_key = f"key {step.key}: " if step.key else ""
            click.echo(f"  {of_key}dead letter ({step.wants.reason.value}): {step.wants.hint}")
            continue
        wants, ticket = step.wants, rule.target
        if not isinstance(ticket, TicketRule):
            click.echo(f"  key {step.key}: {step.op.value}, {ticket.kind} {ticket.table}")
            continue
        correlation = correlation_id(source_name or "SOURCE_NAME", rule.id, step.key)
        click.echo(f"  key {step.key}: {step.op.value}, {ticket.table} {correlation}")
        if source_name:
            click.echo(f"    sys_id {address(ticket.table, correlation, 0)} (its first ticket)")
        if wants.gone and step.op is Op.DELETE:
            click.echo(f"    the row is gone: on_delete is {ticket.on_delete}")
            continue
        if not wants.when:
            click.echo("    when is false: opens no ticket; one that exists is kept in step")
        elif step.op not in ticket.creates:
            click.echo(
                f"    {step.op.value} opens no ticket here (creates); one that "
                "exists is kept in step"
            )
        if wants.resolved:
            by_steps = ", by the states between" if ticket.states.paths else ""
            click.echo(f"    resolve_when is true: the ticket is resolved{by_steps}")
            for field, value in wants.close.items():
                click.echo(f"    {field}: {_shown(value)}")
        for field, value in wants.fields.items():
            click.echo(f"    {field}: {_shown(value)}")


def _shown(value: str) -> str:
    lines = value.splitlines() or [""]
    return lines[0] + (f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else "")
