"""``explain``: what an event means by the rules."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from function.app import HOUSEKEEPING, SYNC
from function.cli.group import commands, open_app
from function.core.event import Event, Op
from function.core.outcome import Failure, NotDone, Reason
from function.core.step import DesiredState, Step
from function.core.values import text
from function.ledger.backend import LedgerUnavailable
from function.rule_variables import RuleVariables
from function.rules.budget import RenderBudget, RenderError
from function.rules.evaluate import evaluate, names_of
from function.rules.event_types import RuleSelection, select_rules, shorten_type
from function.rules.loader import RulesError
from function.rules.model import Rule, Rules
from function.rules.note import TEXT, TICKET_KEY, NoteRule
from function.rules.post import PostRule
from function.rules.ticket import TicketRule
from function.sources import hasura
from function.targets.note.entry import EDITED, write_entry
from function.targets.ticket.address import address, correlation_id
from function.wiring import read_rules

if TYPE_CHECKING:
    from function.inbound.plan import RuleWork


@commands.command()
@click.argument("event_file", type=click.File("rb"), metavar="EVENT.json", required=False)
@click.option("--ticket", metavar="NUMBER", help="A ticket instead: what the app would be told.")
def explain(event_file: BinaryIO | None, ticket: str | None) -> None:
    """Say what each rule would do with the event in EVENT.json (`-` for standard input), or what it
    would tell the app of a ticket; sends nothing."""
    if (event_file is None) == (ticket is None):
        raise click.UsageError("name a file with an event, or give --ticket (and not both)")
    if ticket is not None:
        _explain_ticket(ticket)
    elif event_file is not None:
        _explain_event(event_file)


def _explain_event(event_file: BinaryIO) -> None:
    environ = os.environ
    try:
        rules = read_rules(environ.get("RULES_FILE") or "rules.yaml", environ)
    except RulesError as error:
        raise click.ClickException(str(error)) from error
    try:
        event = hasura.parse_event(event_file.read())
    except hasura.InvalidRequest as error:
        raise click.ClickException(f"this would be answered 400: {error.message}") from error
    explain_event(event, rules, environ)


def explain_event(event: Event, rules: Rules, environ: Mapping[str, str]) -> None:
    """Print what each of *rules* would do with *event*. Of secrets, and of all variables in a post,
    the names are shown."""
    RuleVariables(rules.env, environ).hide()
    click.echo(f"event {event.id}: {event.op.value} from {event.source}")
    selection = select_rules(rules, event)
    _explain_type(selection)
    if event.source == HOUSEKEEPING:
        click.echo("this wakes the housekeeping; no rule is asked")
    elif event.source == SYNC:
        click.echo("this has changes in ServiceNow looked for; no rule is asked")
    elif selection.failure is not None and selection.failure.reason is not Reason.NO_RULE:
        failure = selection.failure
        click.echo(f"dead letter ({failure.reason.value}), for every rule: {failure.hint}")
    elif not selection.rules:
        click.echo("no rule wants it: it would be answered 422, kept as a dead letter and mailed")
        if selection.failure is not None:
            click.echo(selection.failure.hint)
    else:
        for rule in selection.rules:
            _explain_rule(rule, event, environ.get("SOURCE_NAME", "").strip())


def _explain_type(selection: RuleSelection) -> None:
    if not selection.event_type:
        return
    named_by = ", ".join(rule.id for rule in selection.rules if rule.event_types)
    others = ", ".join(rule.id for rule in selection.rules if not rule.event_types)
    click.echo(
        f"type {shorten_type(selection.event_type)}: named by {named_by or 'no rule'}"
        + (f"; {others} without a `type`" if others else "")
    )


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
        if isinstance(ticket, NoteRule):
            _explain_note(ticket, event, step, wants, source_name)
            continue
        if isinstance(ticket, PostRule):
            _explain_post(ticket, rule, event, step, wants)
            continue
        if not isinstance(ticket, TicketRule):
            click.echo(f"  key {step.key}: {step.op.value}, {ticket.kind} {ticket.table}")
            continue
        correlation = correlation_id(source_name or "SOURCE_NAME", rule.id, step.key)
        click.echo(f"  key {step.key}: {step.op.value}, {ticket.table} {correlation}")
        if wants.sys_id:
            changed = f" but for {', '.join(sorted(step.progress))}" if step.progress else ""
            click.echo(f"    adopts {wants.sys_id}, unless the row has a ticket")
            click.echo(f"    of an adopted ticket, what follows is taken for sent{changed}")
        elif source_name:
            click.echo(f"    sys_id {address(ticket.table, correlation, 0)} (its first ticket)")
        if wants.gone and step.op is Op.DELETE:
            click.echo(f"    the row is gone: on_delete is {ticket.on_delete}")
            continue
        if not wants.when:
            click.echo("    when is false: opens no ticket; one that exists is kept in step")
        elif step.op not in ticket.creates and not wants.sys_id:
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


def _explain_note(
    note: NoteRule, event: Event, step: Step, wants: DesiredState, source_name: str
) -> None:
    """Say what would be written into whose journal."""
    key = wants.fields.get(TICKET_KEY, "")
    of_ticket = f" on the ticket of {note.ticket} {key}" if key else ""
    click.echo(f"  key {step.key}: {step.op.value}, {note.journal}{of_ticket}")
    if wants.gone:
        click.echo("    the row is gone: nothing is sent, and what was written stays")
    elif not wants.when:
        click.echo("    when is false, or the text has no words: nothing is sent")
    elif not key:
        click.echo("    it names no ticket: nothing is sent")
    elif event.is_own_insert:
        click.echo("    the row came from ServiceNow: it is not sent back")
    else:
        if source_name:
            correlation = correlation_id(source_name, note.ticket, key)
            click.echo(f"    sys_id {address(note.table, correlation, 0)} (the first ticket)")
        click.echo(f"    text: {_shown(write_entry(wants.fields[TEXT], '', edited=False))}")
        if step.op is not Op.INSERT:
            click.echo(f"    where another text of it was written, this begins with {EDITED!r}")


def _explain_post(
    post: PostRule, rule: Rule, event: Event, step: Step, wants: DesiredState
) -> None:
    """Say what would be sent to whom; of headers, which may be secrets, the names alone."""
    where = " and ".join(post.url_variables) or "its URL"
    signed = f", signed ({post.sign})" if post.sign else ""
    click.echo(f"  key {step.key}: {step.op.value}, a post to {where}{signed}")
    if not wants.when:
        click.echo("    when is false: nothing is sent")
        return
    if post.templates.headers:
        click.echo(f"    headers: {', '.join(post.templates.headers)}")
    if post.needs_data:
        click.echo("    what is sent depends on `data`, which is asked of Hasura at the sending")
        return
    try:
        names, budget = names_of(rule, event, step)
        post.render_headers(names, budget)
        post.render_body(names, budget)
    except RenderError as unsaid:
        click.echo(f"    dead letter ({unsaid.failure.reason.value}): {unsaid.failure.hint}")
    else:
        click.echo(f"    body: {_show_body(post, names, budget)}")


def _show_body(post: PostRule, names: dict[str, Any], budget: RenderBudget) -> str:
    """The body with the names of variables in the place of their values, of which any may be a
    secret."""
    env = {name: f"(variable {name})" for name in names["env"]}
    try:
        return _shown(post.render_body({**names, "env": env}, budget).decode())
    except RenderError:
        return "not shown, for it is worked out from the value of a variable"


def _shown(value: str) -> str:
    lines = value.splitlines() or [""]
    return lines[0] + (f" (and {len(lines) - 1} more lines)" if len(lines) > 1 else "")


def _explain_ticket(number: str) -> None:
    from function.inbound.preview import preview_ticket  # noqa: PLC0415  # for this command only

    app = open_app()
    app.variables.hide()
    try:
        preview = preview_ticket(
            app.engine.context, app.connection, number, deadline=app.engine.deadline()
        )
    except NotDone as error:
        raise click.ClickException(error.failure.hint) from error
    except LedgerUnavailable as error:
        raise click.ClickException(f"{error}: check DATABASE_URL") from error
    finally:
        app.close()
    look = preview.look
    row = f"the row {look.link.key} of {look.link.rule}" if look.link else "no row of the app"
    click.echo(f"{look.table} {look.number} ({look.sys_id}), the ticket of {row}")
    for work in preview.works:
        _explain_work(work)


def _explain_work(work: "RuleWork") -> None:
    click.echo(f"\nrule {work.rule.id} (line {work.rule.where.line}): {work.op.value}")
    if work.failure is not None:
        click.echo(f"  dead letter ({work.failure.reason.value}): {work.failure.hint}")
    elif work.mutation is not None:
        click.echo(f"  changed: {', '.join(sorted(work.changed)) or 'all'}")
        for name, value in work.mutation.variables.items():
            click.echo(f"  ${name}: {_shown(text(value))}")
    elif work.skipped is not None:
        click.echo(f"  nothing: {work.skipped.value}")
    elif work.op not in work.rule.ops:
        click.echo(f"  nothing: its ops do not name {work.op.value}")
    else:
        click.echo("  nothing: the app has it all")
