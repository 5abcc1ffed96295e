"""What a person is told of a command, in words. Pure.

Source: https://docs.slack.dev/messaging/formatting-message-text (three characters are escaped, so
that nothing that stands in a ticket is a mention or a link).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from function.core.event import Event
from function.core.outcome import Reason, Status
from function.ledger.commands import CommandResult
from function.rules.budget import RenderBudget, RenderError
from function.rules.command import CommandRule, command_names, parse_ticket, write_usage
from function.rules.model import Rule
from function.rules.reply import ReplyRule, reply_of
from function.servicenow import split_shown

PROCESSING: Final = "Processing…"
# Slack shows longer texts behind "see more", and cuts those over 40,000.
TEXT_CHARACTERS_MAX: Final = 3000
_NOTES_CHARACTERS_MAX: Final = 300
# Others, such as a password that is refused, or a fault of ours, are not ServiceNow's.
_NO_ANSWER: Final = frozenset(
    {
        Reason.UNREACHABLE,
        Reason.TIMEOUT,
        Reason.UNAVAILABLE,
        Reason.HIBERNATING,
        Reason.OVERLOADED,
        Reason.RATE_LIMITED,
    }
)
_FAILED_ALONE: Final = (
    "Whoever looks after the function has been told. Try again later, or do it in ServiceNow."
)


def escape_text(text: str) -> str:
    """*text* as Slack shows it and takes nothing in it for a command of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def write_message(text: str, *, in_channel: bool = False) -> bytes:
    """The body of an answer that says *text*: to the person alone, unless *in_channel*."""
    if len(text) > TEXT_CHARACTERS_MAX:
        text = text[: TEXT_CHARACTERS_MAX - 1] + "…"
    response_type = "in_channel" if in_channel else "ephemeral"
    return json.dumps({"response_type": response_type, "text": escape_text(text)}).encode()


@dataclass(frozen=True, slots=True)
class CommandReply:
    """What is told of a command that is over: to all who are in the channel where *in_channel*.
    *problem* is what is wrong with the rule's own text, "" for nothing."""

    text: str
    in_channel: bool = False
    problem: str = ""


def compose_reply(rule: Rule, event: Event, result: CommandResult) -> CommandReply:
    """What is told of the command *event* that is over."""
    reply = reply_of(rule)
    if result.status not in (Status.SKIPPED, Status.DEAD, Status.RETRYING):
        try:
            return CommandReply(_render(rule, reply, event, result), reply.in_channel)
        except RenderError as unsaid:
            return CommandReply(_done(reply.command, result), problem=unsaid.failure.hint)
    if result.status is Status.SKIPPED:
        return CommandReply(_say_skipped(reply.command, result))
    return CommandReply(_say_failed(reply.command, result))


def compose_interim(number: str, reason: Reason, *, in_doubt: bool) -> str:
    """What is told of a command that takes longer, because of *reason*."""
    if in_doubt:
        return (
            f"ServiceNow has not confirmed that {number or 'it'} is done. It is being looked at "
            "again; you hear what became of it within half an hour."
        )
    why = "ServiceNow does not answer" if reason in _NO_ANSWER else "It cannot be done"
    return f"{why} just now. It is tried again for up to 25 minutes; you hear what became of it."


def compose_no_rule(command: str, *, begun: bool) -> str:
    """What is told of a command that no rule is for any more. *begun*: one was, and its work began
    by it."""
    if begun:
        return f"/{command} is not set up any more. It may be done: look before you do it again."
    return f"/{command} is not set up any more: nothing was done."


def _render(rule: Rule, reply: ReplyRule, event: Event, result: CommandResult) -> str:
    """The rule's own text. Raises RenderError, also where it is blank: Slack takes no such
    answer."""
    values, shown = split_shown(dict(result.record)) if reply.command.table else (None, None)
    budget = RenderBudget()
    names: dict[str, Any] = command_names(rule, event, notes="", values=values, shown=shown)
    number = reply.command.templates.number
    named = parse_ticket(number.text(names, budget)) if number is not None else None
    names["notes"] = named.notes if named is not None else ""
    text = reply.text.text(names, budget)
    if not text.strip():
        raise RenderError("says nothing; give it a text for every ticket", where=reply.text.where)
    return text


def _done(command: CommandRule, result: CommandResult) -> str:
    what = "is resolved" if result.status is Status.RESOLVED else "was looked up"
    return f"{result.number} {what}." if command.table else "Done."


def _say_skipped(command: CommandRule, result: CommandResult) -> str:
    number, usage = result.number, write_usage(command)
    match result.reason:
        case Reason.NOT_UNDERSTOOD:
            return f"Usage: {usage}"
        case Reason.NOT_ALLOWED:
            of_ticket = f" on {number}" if number else ""
            return f"You may not use /{command.command}{of_ticket}: its rule does not allow it."
        case Reason.MISSING:
            return f"{number} was not found: there is no such {_noun(command)}, or it is hidden."
        case Reason.SEVERAL_TICKETS:
            return f"Two tickets go by the number {number}: nothing was done."
        case Reason.ALREADY_RESOLVED:
            return f"{number} is resolved already{_ended(result.record, 'resolved')}."
        case Reason.TICKET_CLOSED:
            state = command.states.names.get(result.record.get("state", ""), "closed").lower()
            return f"{number} is {state}{_ended(result.record, 'closed')}: it stays as it is."
        case Reason.REOPENED:
            return f"{number} was resolved, and has been opened again since: it stays open."
        case Reason.RESOLVE_WHEN_FALSE:
            return f"{number} is left as it is: its rule does not resolve it."
        case Reason.BUSINESS_RULE:
            return f"Not done: a business rule of ServiceNow's does not let {number} be resolved."
        case Reason.DATA_POLICY:
            return (
                f"Not done: ServiceNow wants more to be filled in before {number} can be resolved. "
                "Fill it in there."
            )
        case Reason.ACL:
            return f"Not done: the function has no right in ServiceNow to do this to {number}."
        case Reason.NOT_KEPT:
            return (
                f"Not done: ServiceNow took the change, but {number} is not resolved. Its close "
                "notes may have been written."
            )
        case _:
            return f"Not done: ServiceNow refused to resolve {number}."


def _say_failed(command: CommandRule, result: CommandResult) -> str:
    number = result.number
    if result.in_doubt:
        return (
            f"It may be done: ServiceNow has not confirmed it. Look at {number} before you try "
            "again."
        )
    if result.reason is Reason.GAVE_UP:
        return (
            f"Not done: it did not succeed within 25 minutes, and {number or 'it'} was given up. "
            "Try again later."
        )
    what = f"/{command.command} {number}".rstrip()
    return f"Not done: {what} failed. {_FAILED_ALONE}"


def _noun(command: CommandRule) -> str:
    return command.table.replace("_", " ")


def _ended(record: Mapping[str, str], verb: str) -> str:
    """By whom, when, and with which notes a ticket was ended, as far as it says so."""
    by = record.get(f"{verb}_by:shown", "") or record.get(f"{verb}_by", "")
    at = _write_time(record.get(f"{verb}_at", ""))
    notes = " ".join(record.get("close_notes", "").split())
    if len(notes) > _NOTES_CHARACTERS_MAX:
        notes = notes[: _NOTES_CHARACTERS_MAX - 1] + "…"
    parts = [f"by {by}" if by else "", f"on {at}" if at else "", f"with “{notes}”" if notes else ""]
    said = ", ".join(filter(None, parts))
    return f", {said}" if said else ""


def _write_time(written: str) -> str:
    """ServiceNow's time, which is UTC, for a person; "" where it is none."""
    try:
        when = datetime.strptime(written, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return ""
    return f"{when:%Y-%m-%d at %H:%M} UTC"
