"""Triggers in a Hasura project, checked: what Hasura would refuse or drop, and what this function
cannot work with."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import yaml

from function.core.event import SCHEDULED, Op
from function.core.finding import FileLocation, Finding, Level
from function.core.values import did_you_mean
from function.hasura.metadata import Metadata, locate
from function.rules.model import Rule, Rules, RuleTemplate
from function.rules.yaml_nodes import (
    is_null,
    read_entries,
    read_fields,
    read_items,
    read_plain,
    read_text,
)

# The keys of retry_conf with the YAML type of each: Hasura drops any other key without a word, and
# a time-out or a number of retries with it. Of an event trigger, and of a cron trigger, where they
# have other names.
_RETRY_CONF: Final = {"num_retries": "int", "interval_sec": "int", "timeout_sec": "int"}
_CRON_RETRY_CONF: Final = {
    "num_retries": "int",
    "retry_interval_seconds": "float",
    "timeout_seconds": "float",
    "tolerance_seconds": "float",
}
_NUMBERS: Final = {"int": "a whole number, without quotes", "float": "a number, without quotes"}
# Without these Hasura refuses an event trigger.
_RETRY_REQUIRED: Final = {
    "num_retries": "write how often to try again while this function cannot be reached, such as 60",
    "interval_sec": "write the seconds between two attempts, such as 60",
}
_NO_RETRY_CONF: Final = (
    "is missing: Hasura refuses a trigger without it; write {num_retries: "
    "60, interval_sec: 60, timeout_sec: 60}"
)
_TRIGGER_NAME: Final = re.compile(r"[A-Za-z]+[A-Za-z0-9_\-]*", re.ASCII)
# The functions that it names in the database must keep to PostgreSQL's 63.
TRIGGER_NAME_CHARACTERS_MAX: Final = 42
# Of an event trigger and of a cron trigger alike, unless they say otherwise.
TIMEOUT_SECONDS: Final = 60
HASURAS_OWN: Final = "HASURA_GRAPHQL_"
SECRET_HEADER: Final = "x-webhook-secret"  # noqa: S105  # its name
HOUSEKEEPING_NAME: Final = "servicenow_housekeeping"
HOUSEKEEPING: Final = f"cron/{HOUSEKEEPING_NAME}"
SYNC_NAME: Final = "servicenow_sync"
SYNC: Final = f"cron/{SYNC_NAME}"
INBOX_TABLE: Final = "servicenow.inbox"
INBOX: Final = f"hasura/{INBOX_TABLE}"
# What the function answers by itself, whatever the rules are.
_OWN_SOURCES: Final = frozenset({HOUSEKEEPING, SYNC, INBOX})


@dataclass(slots=True)
class TriggerReport:
    """What is wrong with a project's metadata, and what is allowed and seldom meant."""

    event_triggers: int = 0
    cron_triggers: int = 0
    faults: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)


def check_triggers(
    metadata: Metadata, rules: Rules | None, *, deadline_seconds: float | None
) -> TriggerReport:
    """Check the triggers of *metadata*, by themselves and against *rules* and the settings, where
    those are known."""
    checking = _Checking(deadline_seconds)
    triggers = list(checking.triggers(metadata))
    ours = _ours(triggers, rules)
    for trigger in ours:
        checking.ours(trigger)
    if not any(trigger.source == HOUSEKEEPING for trigger in ours):
        what = (
            f"has no {HOUSEKEEPING_NAME} that sends X-Webhook-Secret: until the next event nothing "
            "looks at tickets in doubt, or sends mails that wait"
        )
        checking.warn(str(metadata.cron_triggers_file), what)
    if rules is not None:
        checking.against(rules, ours, triggers)
        checking.way_back(rules, ours, str(metadata.cron_triggers_file))
    return checking.report


def _list_sources(rules: Rules) -> set[str]:
    """Whose events are for this function."""
    return {rule.source for rule in rules.rules} | _OWN_SOURCES


@dataclass(frozen=True, slots=True)
class _Trigger:
    """An event trigger or a cron trigger. *source* is spelled as rules do; *ops* are those that it
    sends; *webhook* is spelled one way, for this function's two routes are one."""

    node: yaml.Node
    path: str
    source: str
    database: str
    name: str
    webhook: str
    sends_secret: bool
    ops: frozenset[Op]


def _ours(triggers: Collection[_Trigger], rules: Rules | None) -> list[_Trigger]:
    """The triggers that are meant for this function.

    A rule's table, and X-Webhook-Secret, which others use too, say so together; then any with the
    same webhook is. Where one of a table's goes where the housekeeping goes, another one of that
    table is for somebody else.
    """
    sending = [trigger for trigger in triggers if trigger.sends_secret]
    sources = _list_sources(rules) if rules is not None else set()
    sure = [trigger for trigger in sending if trigger.source in sources] or sending
    home = {trigger.webhook for trigger in sure if trigger.source == HOUSEKEEPING} - {""}
    at_home = {trigger.source for trigger in sure if trigger.webhook in home}
    sure = [trigger for trigger in sure if trigger.webhook in home or trigger.source not in at_home]
    webhooks = {trigger.webhook for trigger in sure} - {""}
    return [trigger for trigger in triggers if trigger in sure or trigger.webhook in webhooks]


class _Checking:
    """Goes on after a fault, so that all are reported at once."""

    def __init__(self, deadline_seconds: float | None) -> None:
        self.deadline_seconds = deadline_seconds
        self.report = TriggerReport()

    def fault(self, where: FileLocation, what: str) -> None:
        self.report.faults.append(Finding(Level.FAULT, where, what, end=""))

    def warn(self, where: FileLocation | str, what: str) -> None:
        self.report.warnings.append(Finding(Level.WARNING, where, what, end=""))

    def triggers(self, metadata: Metadata) -> Iterator[_Trigger]:
        """Every trigger, as far as it can be read."""
        for source in self.mappings(metadata.sources, "databases"):
            names: dict[str, FileLocation] = {}
            for table in self.mappings(read_fields(source).get("tables"), "tables"):
                for path, node in self.numbered(
                    read_fields(table).get("event_triggers"), "event_triggers"
                ):
                    self.report.event_triggers += 1
                    definition = self.mapping(
                        read_fields(node).get("definition"), f"{path}.definition"
                    )
                    for op in ("insert", "update", "delete"):
                        self.mapping(definition.get(op), f"{path}.definition.{op}")
                    self.retries(node, path, _RETRY_CONF, _RETRY_REQUIRED)
                    self.named(node, path, names)
                    self.webhook(node, path)
                    self.headers(node, path)
                    database = read_text(read_fields(source).get("name"))
                    yield _trigger(node, path, f"hasura/{_table(table)}", database)
        for path, node in self.numbered(metadata.cron_triggers, "cron_triggers"):
            self.report.cron_triggers += 1
            self.retries(node, path, _CRON_RETRY_CONF, {})
            self.headers(node, path)
            yield _trigger(node, path, f"cron/{read_text(read_fields(node).get('name'))}", "")

    # The general shape. Where something is not there, or null, nothing is wrong with its shape.

    def mapping(self, node: yaml.Node | None, path: str) -> dict[str, yaml.Node]:
        """The values of what has to be a mapping."""
        if node is not None and not is_null(node) and not isinstance(node, yaml.MappingNode):
            self.fault(locate(node, path), "must be a mapping of names to values")
        return read_fields(node)

    def numbered(self, node: yaml.Node | None, path: str) -> Iterator[tuple[str, yaml.Node]]:
        """Each mapping of what has to be a list of them, with its path."""
        if node is not None and not is_null(node) and not isinstance(node, yaml.SequenceNode):
            self.fault(locate(node, path), "must be a list")
        for number, element in enumerate(read_items(node)):
            where = f"{path}[{number}]"
            self.mapping(element, where)
            if isinstance(element, yaml.MappingNode):
                yield where, element

    def mappings(self, node: yaml.Node | None, path: str) -> Iterator[yaml.Node]:
        return (element for _, element in self.numbered(node, path))

    # One trigger

    def retries(
        self, node: yaml.Node, path: str, known: Mapping[str, str], required: Mapping[str, str]
    ) -> None:
        """Its retry_conf: the keys that are *known*, each of its type, and with those that are
        *required*."""
        path = f"{path}.retry_conf"
        retry_conf = read_fields(node).get("retry_conf")
        if retry_conf is None:
            if required:
                self.fault(locate(node, path), _NO_RETRY_CONF)
            return
        fields = self.mapping(retry_conf, path)
        for name, key, _ in read_entries(retry_conf):
            if name not in known:
                self.fault(
                    locate(key, f"{path}.{name}"),
                    f"there is no such key, Hasura drops it{did_you_mean(name, known)}",
                )
        for name, what in required.items():
            if name not in fields and isinstance(retry_conf, yaml.MappingNode):
                self.fault(locate(retry_conf, f"{path}.{name}"), f"is missing: {what}")
        for name, value in fields.items():
            number, kind = _number(value), known.get(name)
            if kind and (number is None or (kind == "int" and not number.is_integer())):
                self.fault(locate(value, f"{path}.{name}"), f"must be {_NUMBERS[kind]}")

    def named(self, node: yaml.Node, path: str, names: dict[str, FileLocation]) -> None:
        """*names* are those of the same source, each with its place."""
        given = read_fields(node).get("name")
        name = read_text(given)
        if given is None or not name:
            return
        if not _TRIGGER_NAME.fullmatch(name) or len(name) > TRIGGER_NAME_CHARACTERS_MAX:
            what = (
                "must be a letter, then letters, digits, _ and -, "
                f"{TRIGGER_NAME_CHARACTERS_MAX} characters at most"
            )
            self.fault(locate(given, f"{path}.name"), what)
        if name in names:
            self.fault(
                locate(given, f"{path}.name"),
                f"`{name}` is the name of the trigger at {names[name]} already",
            )
        names.setdefault(name, locate(given))

    def webhook(self, node: yaml.Node, path: str) -> None:
        fields = read_fields(node)
        if "webhook" in fields and "webhook_from_env" in fields:
            self.fault(
                locate(fields["webhook_from_env"], f"{path}.webhook_from_env"),
                "stands beside `webhook`; take one out",
            )
        elif "webhook_from_env" in fields:
            variable = read_text(fields["webhook_from_env"]) or "VARIABLE"
            what = f"is deprecated by Hasura; write webhook: '{{{{{variable}}}}}'"
            self.warn(locate(fields["webhook_from_env"], f"{path}.webhook_from_env"), what)
        elif not read_text(fields.get("webhook")):
            self.fault(
                locate(fields.get("webhook", node), f"{path}.webhook"),
                "is missing; write webhook: '{{SERVICENOW_FUNCTION_URL}}'",
            )

    def ours(self, trigger: _Trigger) -> None:
        """What this function asks of a trigger that goes to it."""
        fields = read_fields(trigger.node)
        if not trigger.sends_secret:
            what = (
                "sends no X-Webhook-Secret, so every event would be answered 401; add "
                "{name: X-Webhook-Secret, value_from_env: SERVICENOW_FUNCTION_SECRET}"
            )
            self.fault(locate(trigger.node, f"{trigger.path}.headers"), what)
        if "request_transform" in fields:
            what = "changes the body, which the function wants as Hasura makes it; take it out"
            self.warn(
                locate(fields["request_transform"], f"{trigger.path}.request_transform"), what
            )
        is_cron = trigger.source.startswith("cron/")
        if "retry_conf" not in fields and not is_cron:
            return  # reported already
        retry_conf = fields.get("retry_conf", trigger.node)
        retry = read_fields(retry_conf) if "retry_conf" in fields else {}
        if "num_retries" in retry and not is_cron and (_number(retry["num_retries"]) or 0) <= 0:
            what = (
                "0 survives an outage of ServiceNow all the same, by Retry-After; an outage of "
                "this function itself loses the event to `error`: write a number "
                "above 0, such as 60"
            )
            self.warn(locate(retry["num_retries"], f"{trigger.path}.retry_conf.num_retries"), what)
        timeout = retry.get("timeout_seconds" if is_cron else "timeout_sec")
        seconds = TIMEOUT_SECONDS if timeout is None else _number(timeout)
        if (
            self.deadline_seconds is not None
            and seconds is not None
            and seconds <= self.deadline_seconds
        ):
            key = "timeout_seconds" if is_cron else "timeout_sec"
            what = (
                f"({seconds:g}) must be above DEADLINE_SECONDS ({self.deadline_seconds:g}), or "
                "what is still being done is sent again"
            )
            self.fault(locate(timeout or retry_conf, f"{trigger.path}.retry_conf.{key}"), what)

    def headers(self, node: yaml.Node, path: str) -> None:
        for where, header in self.numbered(read_fields(node).get("headers"), f"{path}.headers"):
            fields = read_fields(header)
            variable = fields.get("value_from_env")
            if "value" in fields and variable is not None:
                self.fault(locate(header, where), "has both value and value_from_env; take one out")
            elif "value" not in fields and variable is None:
                self.fault(
                    locate(header, where),
                    "has no value; write value_from_env: SERVICENOW_FUNCTION_SECRET",
                )
            if variable is not None and read_text(variable).startswith(HASURAS_OWN):
                what = (
                    f"Hasura gives out none of its own variables ({HASURAS_OWN}…); set "
                    "one of another name"
                )
                self.fault(locate(variable, f"{where}.value_from_env"), what)
            if read_text(fields.get("name")).lower() == SECRET_HEADER and "value" in fields:
                what = (
                    "Hasura writes it in clear into its log of every delivery; write "
                    "value_from_env and the name of a variable, and change the secret"
                )
                self.fault(locate(fields["value"], f"{where}.value"), what)

    def against(
        self, rules: Rules, ours: Collection[_Trigger], others: Collection[_Trigger]
    ) -> None:
        for rule in rules.rules:
            self.rule(rule, ours, others)
        sources = _list_sources(rules)
        for trigger in ours:
            if trigger.source == INBOX:
                self.inbox(trigger)
            if trigger.source not in sources:
                what = (
                    f"no rule is for {trigger.source}, so every event would be answered 422; "
                    "add one, or take it out"
                )
                self.fault(locate(trigger.node, trigger.path), what)

    def rule(self, rule: Rule, ours: Iterable[_Trigger], others: Iterable[_Trigger]) -> None:
        if rule.source == SCHEDULED or rule.source.startswith(("servicenow/", "slack/")):
            return  # no metadata names who sends them
        of_source = [trigger for trigger in ours if trigger.source == rule.source]
        matching = [trigger for trigger in of_source if rule.trigger in ("", trigger.name)]
        if not of_source:
            known = "".join(
                f"; `{trigger.name}` ({locate(trigger.node)}) sends no X-Webhook-Secret"
                for trigger in others
                if trigger.source == rule.source
            )
            what = f"no trigger sends {rule.source} here; add one{known}"
            self.fault(rule.where.key("from"), what)
            return
        if not matching:
            names = {trigger.name: None for trigger in of_source}
            what = (
                f"{rule.source} has no trigger `{rule.trigger}`{did_you_mean(rule.trigger, names)}"
            )
            self.fault(rule.where.key("trigger"), what)
            return
        if rule.source.startswith("cron/"):
            return
        if databases := sorted({trigger.database for trigger in matching} - {matching[0].database}):
            several = " and ".join([matching[0].database, *databases])
            what = (
                f"{rule.source} of {several} come here, and Hasura does not say which: rows with "
                "equal keys would share a ticket; name one trigger in `trigger:` of a rule each, "
                "or send one to a function with a SOURCE_NAME of its own"
            )
            self.fault(locate(matching[0].node, matching[0].path), what)
        sent = frozenset[Op]().union(*(trigger.ops for trigger in matching))
        unsent = [op.value for op in Op if op in rule.ops - sent]
        definition = read_fields(matching[0].node).get("definition", matching[0].node)
        if not rule.ops & sent:
            what = f"sends none of {', '.join(unsent)}, which is all that {rule.id} hears"
            self.fault(locate(definition, f"{matching[0].path}.definition"), what)
        elif unsent:
            what = (
                f"does not send {', '.join(unsent)}, which {rule.id} hears; add it, or name "
                "the others in its `ops`"
            )
            self.warn(locate(definition, f"{matching[0].path}.definition"), what)
        for trigger in matching:
            self.columns(trigger, rule)

    # The way back

    def inbox(self, trigger: _Trigger) -> None:
        """The trigger that brings back what is in the inbox: by the id of each entry."""
        definition = read_fields(trigger.node).get("definition", trigger.node)
        path = f"{trigger.path}.definition"
        if Op.INSERT not in trigger.ops:
            what = (
                "sends no INSERT, by which the function gets its work back; add insert: "
                "{columns: '*', payload: [id]}"
            )
            self.fault(locate(definition, path), what)
        payload = read_fields(read_fields(definition).get("insert")).get("payload")
        if isinstance(payload, yaml.SequenceNode) and "id" not in map(
            read_text, read_items(payload)
        ):
            what = "lacks id, by which the function finds the entry; write payload: [id]"
            self.fault(locate(payload, f"{path}.insert.payload"), what)
        if not isinstance(payload, yaml.SequenceNode) or "body" in map(
            read_text, read_items(payload)
        ):
            what = (
                "has Hasura keep what the entry says, and where a command of Slack's is answered "
                "is a secret; write payload: [id]"
            )
            self.warn(locate(payload or definition, f"{path}.insert.payload"), what)

    def way_back(self, rules: Rules, ours: Collection[_Trigger], cron_triggers_file: str) -> None:
        """What rules from slack/COMMAND need, and those from servicenow/TABLE beside a
        notification."""
        sources = {trigger.source for trigger in ours}
        command = next((rule for rule in rules.rules if rule.source.startswith("slack/")), None)
        if command is not None and INBOX not in sources:
            what = (
                f"no trigger on {INBOX_TABLE} sends X-Webhook-Secret here: a command waits for the "
                "housekeeping; `python -m function setup hasura` prints the trigger"
            )
            self.warn(command.where.key("from"), what)
        first = next((rule for rule in rules.rules if rule.ticket_source is not None), None)
        if first is None:
            return
        if INBOX not in sources:
            what = (
                f"no trigger on {INBOX_TABLE} sends X-Webhook-Secret here: a change that cannot be "
                "told at once waits for the housekeeping; `python -m function setup hasura` "
                "prints the trigger"
            )
            self.warn(first.where.key("from"), what)
        if SYNC not in sources:
            what = (
                f"has no {SYNC_NAME} that sends X-Webhook-Secret: a change of a ticket whose "
                "notification is lost does not reach the app; `python -m function setup hasura` "
                "prints it"
            )
            self.warn(cron_triggers_file, what)

    def columns(self, trigger: _Trigger, rule: Rule) -> None:
        """That the trigger's lists of columns have those that the rule names; of a deleted row,
        those of its key."""
        identity = [
            rule_template
            for rule_template in (*rule.templates.key, rule.templates.each)
            if rule_template is not None
        ]
        definition = read_fields(read_fields(trigger.node).get("definition"))
        for op, templates in (
            ("insert", rule.all_templates()),
            ("update", rule.all_templates()),
            ("delete", iter(identity)),
        ):
            if Op(op.upper()) not in rule.ops or op not in definition:
                continue
            named = _columns(templates)
            spec = read_fields(definition[op])
            unlisted = named - set(map(read_text, read_items(spec.get("payload"))))
            if isinstance(spec.get("payload"), yaml.SequenceNode) and unlisted:
                what = (
                    f"lacks {', '.join(sorted(unlisted))}, which {rule.id} reads: its events "
                    "would be dead letters"
                )
                self.fault(locate(spec["payload"], f"{trigger.path}.definition.{op}.payload"), what)
            unmatching = named - set(map(read_text, read_items(spec.get("columns"))))
            if op == "update" and isinstance(spec.get("columns"), yaml.SequenceNode) and unmatching:
                what = (
                    f"lacks {', '.join(sorted(unmatching))}, which {rule.id} reads: nothing "
                    "is sent when they change"
                )
                self.warn(locate(spec["columns"], f"{trigger.path}.definition.{op}.columns"), what)


def _trigger(node: yaml.Node, path: str, source: str, database: str) -> _Trigger:
    fields = read_fields(node)
    definition = read_fields(fields.get("definition"))
    ops = {op for op in Op if op.value.lower() in definition}
    if read_text(definition.get("enable_manual")).lower() == "true":
        ops.add(Op.MANUAL)
    from_env = read_text(fields.get("webhook_from_env"))
    webhook = read_text(fields.get("webhook")) or (f"{{{{{from_env}}}}}" if from_env else "")
    return _Trigger(
        node=node,
        path=path,
        source=source,
        database=database,
        name=read_text(fields.get("name")),
        webhook=webhook.rstrip("/").removesuffix("/hasura").rstrip("/"),
        sends_secret=any(
            read_text(read_fields(header).get("name")).lower() == SECRET_HEADER
            for header in read_items(fields.get("headers"))
        ),
        ops=frozenset(ops),
    )


def _table(entry: yaml.Node) -> str:
    """``public.outages``: a table's name may stand alone."""
    table = read_fields(entry).get("table")
    fields = read_fields(table)
    schema = read_text(fields.get("schema")) or "public"
    return f"{schema}.{read_text(fields.get('name') if fields else table)}"


def _columns(templates: Iterable[RuleTemplate]) -> set[str]:
    return {
        column
        for rule_template in templates
        for image in ("row", "old", "new")
        for column in rule_template.syntax.find_parts(image)
    }


def _number(node: yaml.Node) -> float | None:
    """The value of a number without quotes. A tag makes no number of a text."""
    try:
        value = read_plain(node)
    except (ValueError, yaml.YAMLError):
        return None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
