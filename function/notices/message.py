"""One alert as one mail: what it says. Pure.

When a mail is due, and to whom, is for mailer.py to decide; smtp.py sends it.
"""

import logging
import shlex
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from function.core.event import SCHEDULED
from function.core.outcome import Reason
from function.core.values import digest
from function.ledger.records import Alert, AlertKind, DueMail

log = logging.getLogger(__name__)

# Subjects are read in a list: what follows 120 characters is not seen there.
SUBJECT_MAX: Final = 120
# A system's words can quote what it was sent; 300 characters hold every message that ServiceNow's
# API is known to give.
WORDS_MAX: Final = 300
HINT_MAX: Final = 500
# An event's id is a UUID, a key one cell: whatever is longer is no longer read.
VALUE_MAX: Final = 200


# What a reason is to somebody who has never seen our code, where {system} failed. Reasons of which
# no mail is written are not here.
PHRASES: Final[dict[str, str]] = {
    Reason.UNREACHABLE: "{system} cannot be reached",
    Reason.TIMEOUT: "{system} does not answer in time",
    Reason.UNAVAILABLE: "{system} is unavailable",
    Reason.HIBERNATING: "the {system} instance is hibernating",
    Reason.OVERLOADED: "{system} is overloaded",
    Reason.RATE_LIMITED: "{system}'s rate limit is reached",
    Reason.UNAUTHORIZED: "{system} refuses our credentials",
    Reason.NOT_SERVICENOW: "something other than {system} answers",
    Reason.BAD_ANSWER: "{system}'s answer cannot be understood",
    Reason.HASURA_UNREACHABLE: "{system} cannot be reached",
    Reason.HASURA_TIMEOUT: "{system} does not answer in time",
    Reason.HASURA_UNAVAILABLE: "{system} is unavailable",
    Reason.HASURA_OVERLOADED: "{system} is overloaded",
    Reason.HASURA_UNAUTHORIZED: "{system} refuses our admin secret",
    Reason.HASURA_BAD_ANSWER: "{system}'s answer cannot be understood",
    Reason.MUTATION_FAILED: "{system} failed on the mutation",
    Reason.MUTATION_INVALID: "{system} cannot make sense of the mutation",
    Reason.MUTATION_FORBIDDEN: "{system} does not permit the mutation",
    Reason.MUTATION_REFUSED: "the app's database refuses the mutation",
    Reason.DATA_FAILED: "{system} failed on the query for `data`",
    Reason.DATA_INVALID: "{system} cannot make sense of the query for `data`",
    Reason.DATA_FORBIDDEN: "{system} does not permit the query for `data`",
    Reason.TARGET_UNREACHABLE: "{system} cannot be reached",
    Reason.TARGET_TIMEOUT: "{system} does not answer in time",
    Reason.TARGET_UNAVAILABLE: "{system} is unavailable",
    Reason.TARGET_RATE_LIMITED: "{system}'s rate limit is reached",
    Reason.TARGET_NOT_READY: "{system} asks for it to be sent later",
    Reason.TARGET_BUSY: "{system} is too slow for all that is to be sent",
    Reason.TARGET_UNAUTHORIZED: "{system} does not let the function in",
    Reason.TARGET_REFUSED: "{system} refuses it",
    Reason.TARGET_GONE: "{system} says that what stood there is gone for good",
    Reason.TARGET_REDIRECTS: "{system} answers with a redirect",
    Reason.TARGET_ADDRESS: "its URL must not be called",
    Reason.SLACK_UNREACHABLE: "{system} cannot be reached",
    Reason.SLACK_TIMEOUT: "{system} does not answer in time",
    Reason.SLACK_UNAVAILABLE: "{system} is unavailable",
    Reason.SLACK_RATE_LIMITED: "{system} takes fewer answers at a time",
    Reason.SLACK_REFUSED: "{system} refuses the answer",
    Reason.REPLY_EXPIRED: "{system} takes no answer there any more",
    Reason.WRONG_RECORD: "{system} answers with another record",
    Reason.TIME_ZONE: "{system} reads times in another time zone than GMT",
    Reason.NOT_KEPT: "{system} did not keep a value",
    Reason.FAULT: "a fault of our own",
    Reason.IN_DOUBT: "it is not known whether {system} did it",
    Reason.ACL: "a {system} access rule refuses it",
    Reason.BUSINESS_RULE: "a {system} business rule refuses it",
    Reason.DATA_POLICY: "a {system} data policy refuses it",
    Reason.INSERT_FAILED: "{system} could not insert it",
    Reason.REFUSED: "{system} refuses it",
    Reason.FOREIGN_MARK: "its ticket has another system's correlation_id",
    Reason.CONFLICT: "its sys_id in {system} is that of another ticket",
    Reason.MISSING: "its ticket is not in {system} any more",
    Reason.UNKNOWN_REFERENCE: "{system} does not know a name that the rule refers to",
    Reason.BAD_MAPPING: "the rule cannot be applied to the row",
    Reason.UNKNOWN_VALUE: "the rule has no entry for a value of the row",
    Reason.BAD_KEY: "the row has no usable key",
    Reason.NO_RULE: "no rule is for it",
    Reason.NOT_A_ROW: "the event carries no row",
    Reason.NOT_CONFIGURED: "it is not known how to sign in to {system}",
    Reason.NO_TICKET: "the ticket that it is for is not there yet",
    Reason.BUSY: "another delivery is at work on its key",
    Reason.NO_CAPACITY: "the function has no capacity left",
    Reason.DEADLINE: "there was not enough time to finish",
    Reason.TOO_MANY_UPDATES: "the app was told of one ticket too often",
    Reason.GAVE_UP: "it kept failing for too long",
}

# The hint of these begins with the line of the rules that is to blame: that is what a reader looks
# for first.
RULE_TO_BLAME: Final = frozenset(
    {Reason.BAD_MAPPING, Reason.UNKNOWN_VALUE, Reason.BAD_KEY, Reason.NOT_A_ROW}
)

# Why calls of a post's target are held.
_OF_TARGETS: Final = frozenset(
    {
        Reason.TARGET_UNREACHABLE,
        Reason.TARGET_TIMEOUT,
        Reason.TARGET_UNAVAILABLE,
        Reason.TARGET_RATE_LIMITED,
    }
)

# How the id of a command of Slack's begins: it is not sent again, for its person was told what
# became of it.
COMMAND_EVENT: Final = "slack/"

# What the function sends of its own accord, not because a row says so.
UNMAPPED: Final = frozenset({"state", "correlation_id"})


# The library's folding of a subject with other than ASCII characters loses and gains spaces at the
# folds (in 1,078 of 20,000 tried; unfolded in none). A line of a mail may have 998 characters (RFC
# 5322, 2.1.1).
_UNFOLDED: Final = policy.default.clone(max_line_length=998)


def compose(mail: DueMail, *, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Write the *mail*, in plain text.

    The same one at the same time has the same Message-ID. Raises ValueError where *sender* or
    *recipients* hold a line break.
    """
    alert = mail.alert
    headline, opening = _headline(mail)
    message = EmailMessage(policy=_UNFOLDED)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = _subject(mail, headline)
    message["Date"] = format_datetime(datetime.fromtimestamp(mail.now, UTC))
    domain = domain_of(message)
    mail_id = digest(
        alert.source_name,
        alert.fingerprint,
        alert.kind.value,
        alert.event,
        str(mail.recovered),
        str(mail.now),
    )
    message["Message-ID"] = f"<{mail_id}@{domain}>"
    # The thread's root is a mail that was never sent: mail programs gather what refers to it all
    # the same.
    thread = f"<alert-{digest(alert.source_name, alert.fingerprint or mail_id)}@{domain}>"
    message["In-Reply-To"] = thread
    message["References"] = thread
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers, please
    # Quoted-printable: 7 bits are taken by every server, and a long line is not a line too long.
    paragraphs = (
        _wrapped(single_line(opening, 2 * HINT_MAX)),
        *_advice(mail),
        _details(mail),
    )
    message.set_content("\n\n".join(paragraphs) + "\n", cte="quoted-printable")
    return message


def compose_trial(
    source_name: str, *, sender: str, recipients: Sequence[str], now: datetime
) -> EmailMessage:
    """The mail of ``check --send-mail``: it says that it can be ignored."""
    message = EmailMessage(policy=_UNFOLDED)
    message["From"], message["To"] = sender, ", ".join(recipients)
    message["Subject"] = f"[{single_line(source_name, 40)}] a mail sent to try the mail server"
    message["Date"] = format_datetime(now)
    message["Message-ID"] = f"<check.{digest(now.isoformat(), source_name)}@{domain_of(message)}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(
        "Somebody ran `check --send-mail`. Failures of tickets will be told from this address.\n"
    )
    return message


def domain_of(message: EmailMessage) -> str:
    """The sender's domain: in the Message-ID, and as our own name to the server. Some take no
    address in brackets."""
    addresses = message["From"].addresses
    domain = addresses[0].domain if addresses else ""
    try:
        return domain.encode("idna").decode() or "localhost"
    except UnicodeError:
        return "localhost"


def _subject(mail: DueMail, headline: str) -> str:
    more = f" (+{mail.count - 1} more)" if mail.count > 1 and not mail.recovered else ""
    prefix = f"[{single_line(mail.alert.source_name, 40)}] "
    return prefix + single_line(headline, SUBJECT_MAX - len(prefix) - len(more)) + more


def _headline(mail: DueMail) -> tuple[str, str]:
    """The subject's end and the body's first sentences."""
    alert = mail.alert
    who = _who(alert)
    system = _system(alert)
    phrase = PHRASES.get(alert.reason, "").format(system=system)
    why = phrase or alert.reason.replace("_", " ") or "no reason is known"
    where = (alert.hint if alert.reason in RULE_TO_BLAME else "") or why
    lasted = _span(mail.lasted_seconds)
    # One key that works again says that the trouble is over, not that the key of this alert is
    # done.
    concerned = single_line(alert.rule or alert.table, 60) or system
    match alert.kind:
        case AlertKind.HELD if mail.recovered:
            return (
                f"over after {lasted}: {why}",
                (
                    f"It is over: calls to {system} pass again, after {lasted}. "
                    f"What was wrong: {why}."
                ),
            )
        case _ if mail.recovered:
            return (
                f"over after {lasted}: {concerned}, {why}",
                f"It is over: {concerned} works again, after {lasted}. What was wrong: {why}.",
            )
        case AlertKind.DEAD:
            return (
                f"gave up on {who}: {where}",
                f"The function gave up on {who}: {why}. The event is kept as a dead letter; it is "
                "not tried again by itself.",
            )
        case AlertKind.WAITING:
            waited = _span(mail.now - alert.since)
            return (
                f"{who} waiting for {waited}: {why}",
                f"{who} has been waiting for {waited}: {why}. It is tried again by itself.",
            )
        case AlertKind.HELD:
            return (
                f"calls to {system} are held: {why}",
                f"Calls to {system} are held: {why}. Events wait until a probe passes; Hasura "
                "sends them again by itself.",
            )
        case AlertKind.UNREAD:
            return (
                f"changes of {concerned} are not read: {why}",
                f"What changed of {concerned} in {system} cannot be read by `sync`: {why}. It is "
                "tried again by itself, and goes on from where it was.",
            )
        case AlertKind.FIELD if alert.reason == Reason.UNKNOWN_REFERENCE:
            fields = ", ".join(alert.fields)
            return (
                f"left {fields} of {who} empty",
                f"The ticket of {who} was written without {fields}: {why}. The rule says to leave "
                "that empty in this case.",
            )
        case AlertKind.FIELD if alert.reason == Reason.FOREIGN_MARK:
            fields = ", ".join(alert.fields)
            return (
                f"left {fields} of {who} as it was",
                f"The ticket of {who} was there already, and its {fields} was left as it was: "
                f"{why}.",
            )
        case AlertKind.FIELD:
            fields = ", ".join(alert.fields)
            when_sent = (
                " A field is sent again when the row gives another value for it, and not before."
            )
            return (
                f"{system} did not keep {fields} of {who}",
                (
                    f"{system} took the ticket of {who}, but returned other values than were "
                    f"sent for: {fields}."
                )
                + (when_sent if set(alert.fields) - UNMAPPED else ""),
            )
        case _ if alert.reason == Reason.NO_RULE:
            what = "one-off scheduled events" if alert.table == SCHEDULED else alert.table or who
            opening = (
                "A one-off scheduled event" if alert.table == SCHEDULED else f"An event of {what}"
            )
            event_type = single_line(alert.event_type, 60)
            of_type = f" of the type {event_type}" if event_type else ""
            return (
                f"no rule is for {what}{of_type}",
                f"{opening}{of_type} came in, and no rule is for it. It was answered 422. Some of "
                "these events are kept as dead letters, not all.",
            )
        case _:
            # The function itself refused it, whatever the reason is called.
            why = "it is not an event as Hasura sends it" if alert.reason == Reason.REFUSED else why
            return (
                f"request refused: {why}",
                f"A request with the right secret was refused: {why}. Something between Hasura "
                "and the function has changed.",
            )


def _system(alert: Alert) -> str:
    return single_line(alert.system, 40)


def _who(alert: Alert) -> str:
    named = "/".join(
        part for part in (single_line(alert.rule, 40), single_line(alert.key, 60)) if part
    )
    return named or single_line(alert.table, 60) or _system(alert)


def _advice(mail: DueMail) -> Iterator[str]:
    """What the system said, what to check, and the commands to paste, a paragraph each."""
    alert = mail.alert
    if mail.recovered:
        if mail.count > 1:
            yield f"{mail.count - 1} more like it since the last mail."
        return
    if words := single_line(alert.remote_message, WORDS_MAX):
        yield f"{_system(alert)} said:\n" + _wrapped(words, "  > ")
    if hint := single_line(alert.hint, HINT_MAX):
        yield "What to check:\n" + _wrapped(hint, "  ")
    commands = [*_commands(mail)]
    for heading, command in commands:
        yield f"{heading}\n  {command}"  # never wrapped: it is there to be pasted
    if mail.count > 1 and alert.kind is not AlertKind.DEAD:
        yield f"{mail.count - 1} more like it since the last mail."
    if commands:
        yield _wrapped(
            "Run commands in the project's folder, with the function's settings in the environment."
        )


def _commands(mail: DueMail) -> Iterator[tuple[str, str]]:
    """What to run, each with the line above it. The event of a field's mail was delivered: it needs
    none."""
    alert, system = mail.alert, _system(mail.alert)
    if alert.event.startswith(COMMAND_EVENT):
        return
    match alert.kind:
        case AlertKind.HELD if alert.reason == Reason.RATE_LIMITED:
            return  # events go on at the time that it gave, and a call before it is refused
        case AlertKind.HELD if alert.reason in _OF_TARGETS:
            return  # one of the events that wait is the probe, and `check` calls no target
        case AlertKind.HELD if alert.reason in (Reason.UNAUTHORIZED, Reason.NOT_CONFIGURED):
            yield (
                "Once that is put right, this tries the connection, and events go on at once:",
                _CHECK,
            )
        case AlertKind.HELD:
            yield (
                f"This tries the connection now. If {system} answers, events go on at once:",
                _CHECK,
            )
        case AlertKind.WAITING if alert.event:
            yield "To try it at once:", _replay(alert)
        case AlertKind.UNREAD:
            yield "To try it at once:", _SYNC
        case AlertKind.DEAD | AlertKind.UNRULED | AlertKind.UPSTREAM if alert.event:
            yield "Once that is put right, and deployed, this sends it again:", _replay(alert)
    if alert.kind is AlertKind.DEAD and mail.count > 1:
        which = "of the rule " if alert.rule else ""
        more = f"{mail.count - 1} more like it since the last mail."
        yield f"{more}\nThis sends all dead letters {which}again:", _replay_failed(alert)


_CHECK: Final = "python -m function check"
_SYNC: Final = "python -m function sync"


def _details(mail: DueMail) -> str:
    """What is known, one line each."""
    facts = [*_facts(mail)]
    width = max(len(label) for label, _ in facts)
    return "Details:\n" + "\n".join(f"  {label:<{width}}  {value}" for label, value in facts)


def _facts(mail: DueMail) -> Iterator[tuple[str, str]]:
    """Label and value of what is known."""
    alert = mail.alert
    concerned = {
        "rule": alert.rule,
        "table": alert.table,
        "key": alert.key,
        "ticket": alert.ticket,
        "fields": ", ".join(alert.fields),
        "event": alert.event,
    }
    known = {"source": alert.source_name, _system(alert): alert.instance}
    # A hold concerns every event. What was refused upstream is no event at all, and the system did
    # not refuse it.
    known |= concerned if alert.kind not in (AlertKind.HELD, AlertKind.UPSTREAM) else {}
    known |= {"reason": alert.reason} if alert.kind is not AlertKind.UPSTREAM else {}
    for label, value in known.items():
        if line := single_line(value, VALUE_MAX):
            yield label, line
    began = datetime.fromtimestamp(alert.since, UTC)
    yield "since", f"{began:%Y-%m-%d %H:%M:%S} UTC ({_span(mail.now - alert.since)} ago)"
    if mail.recovered:
        yield "lasted", _span(mail.lasted_seconds)
    if alert.attempts and alert.kind in (AlertKind.DEAD, AlertKind.WAITING):
        yield "attempts", str(alert.attempts)


def _replay(alert: Alert) -> str:
    """The command that sends the event again; where its id cannot be pasted as it is, that for all
    like it."""
    if single_line(alert.event, VALUE_MAX) != alert.event:
        return _replay_failed(alert)
    return replay_command([alert.event])


def replay_command(events: Sequence[str]) -> str:
    """The command that sends *events* (ids) again, to be pasted into a shell. An id may look like
    an option."""
    options_end = "-- " if any(event.startswith("-") for event in events) else ""
    return f"python -m function replay {options_end}{shlex.join(events)}"


def _replay_failed(alert: Alert) -> str:
    rule = single_line(alert.rule, VALUE_MAX)
    return "python -m function replay --failed" + (f" --rule={shlex.quote(rule)}" if rule else "")


# A reader must not be shown other words than stand there: these turn the direction of what follows
# them.
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROL: Final = frozenset(("Cc", "Cs", "Zl", "Zp"))


def single_line(words: str, characters_max: int) -> str:
    """*words* as one line without control characters or halves of a character, cut at
    *characters_max*."""
    folded = "".join(" " if c in _BIDI or unicodedata.category(c) in _CONTROL else c for c in words)
    line = " ".join(folded.split())
    if len(line) <= characters_max:
        return line
    # Three dots are ASCII: a subject with another character is folded, and gains a space, where it
    # is encoded.
    cut = line[: characters_max - 3]
    return (cut.rpartition(" ")[0] if " " in cut[characters_max // 2 :] else cut) + "..."


def _span(seconds: float) -> str:
    """A length of time as people say it."""
    count, unit = max(int(seconds), 0), "second"
    for size, larger, enough in ((60, "minute", 90), (60, "hour", 90), (24, "day", 48)):
        if count < enough:
            break
        count, unit = count // size, larger
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _wrapped(words: str, margin: str = "") -> str:
    return textwrap.fill(
        words,
        78,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
