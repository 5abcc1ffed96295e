"""A Hasura project's metadata (CLI config v3): read with its includes resolved and every place known, and checked.

MetadataError   it cannot be read; names every fault with its file and line
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from function.core.event import SCHEDULED, Op
from function.rules.model import Rule, Rules, Saying
from function.rules.templates import meant

# Includes of includes: Hasura's own have three levels.
INCLUDES_DEEP_MAX: Final = 10
INCLUDE: Final = "!include "


class MetadataError(Exception):
    """*faults* are sentences, each with file and line."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Metadata:
    """What concerns events: the sources with their tables, and the cron triggers; None where the file is not there.

    Every node's `start_mark` has the file it stands in as its `name`, relative to where the project's folder is.
    """

    sources: yaml.Node | None
    cron_triggers: yaml.Node | None
    cron_triggers_file: Path


def read(project: Path) -> Metadata:
    """Read ``metadata/`` of the Hasura project in *project* (the folder that holds config.yaml).

    Raises MetadataError.
    """
    folder = project / _metadata_folder(project)
    if not (folder / "version.yaml").is_file():
        raise MetadataError(f"{folder}: is no Hasura metadata folder (there is no version.yaml)")
    faults: list[str] = []
    found = Metadata(
        sources=_composed_if_there(folder / "databases" / "databases.yaml", faults),
        cron_triggers=_composed_if_there(folder / "cron_triggers.yaml", faults),
        cron_triggers_file=folder / "cron_triggers.yaml",
    )
    if faults:
        raise MetadataError(*dict.fromkeys(faults))
    return found


def place(node: yaml.Node) -> str:
    """``hasura/metadata/cron_triggers.yaml:3`` of a node."""
    return f"{node.start_mark.name}:{node.start_mark.line + 1}"


def plain(node: yaml.Node | None) -> Any:
    """The node as lists, dicts, texts, numbers, bools and None."""
    if node is None:
        return None
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def entries(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, the key's node, value) of a mapping; nothing of any other node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value


def items(node: yaml.Node | None) -> list[yaml.Node]:
    """The elements of a sequence; none of any other node."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _metadata_folder(project: Path) -> str:
    config = project / "config.yaml"
    if not config.is_file():
        raise MetadataError(f"{config}: is not there; name the folder of a Hasura CLI project")
    faults: list[str] = []
    named = plain(_composed(config, faults, deep=0))
    if faults:
        raise MetadataError(*faults)
    folder = named.get("metadata_directory", "metadata") if isinstance(named, dict) else "metadata"
    return str(folder)


def _composed_if_there(file: Path, faults: list[str]) -> yaml.Node | None:
    return _composed(file, faults, deep=0) if file.is_file() else None


def _composed(file: Path, faults: list[str], *, deep: int) -> yaml.Node | None:
    """What *file* holds; what cannot be read is None, and one of the *faults*."""
    try:
        with file.open(encoding="utf-8") as stream:  # a stream with a name gives it to every mark
            node = yaml.compose(stream, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        faults.append(f"{file}:{line}: is no YAML: {error.problem}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        faults.append(f"{file}: cannot be read: {type(error).__name__}")
    else:
        return _included(node, file, faults, deep=deep) if node is not None else None
    return None


def _included(node: yaml.Node, file: Path, faults: list[str], *, deep: int) -> yaml.Node:
    """*node* with what it includes in the place of the includes (Hasura writes them as quoted texts), and with what it
    merges (``<<``)."""
    if isinstance(node, yaml.ScalarNode):
        return _one_included(node, file, faults, deep=deep)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                faults.append(f"{place(key)}: `{name}` stands in line {seen[name].start_mark.line + 1} already")
            seen.setdefault(name, key)
        try:
            yaml.constructor.SafeConstructor().flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            faults.append(f"{place(node)}: is no YAML: {error.problem}")
        node.value = [(key, _included(value, file, faults, deep=deep)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_included(value, file, faults, deep=deep) for value in node.value]
    return node


def _one_included(node: yaml.ScalarNode, file: Path, faults: list[str], *, deep: int) -> yaml.Node:
    if node.tag != INCLUDE.strip() and not node.value.startswith(INCLUDE):
        return node
    named = node.value.removeprefix(INCLUDE).strip()
    target = file.parent / named
    if deep >= INCLUDES_DEEP_MAX:
        faults.append(f"{place(node)}: includes itself, or more than {INCLUDES_DEEP_MAX} levels")
    elif not target.is_file():
        faults.append(f"{place(node)}: includes {named}, which is not there")
    else:
        return _composed(target, faults, deep=deep + 1) or node
    return node


# What Hasura takes. In brackets, the names of the schemas in its metadata.openapi.json (v2.48), which is generated from
# the server's codecs. They say less than is true: an unknown key passes them, and the server drops it without a word.


@dataclass(frozen=True, slots=True)
class _Scalar:
    """One value, of one of the YAML types *tags*; one of *values*, where there are any."""

    words: str
    tags: frozenset[str]
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _ListOf:
    of: "_Shape"


@dataclass(frozen=True, slots=True)
class _Keys:
    """A mapping with these keys and no others. A null stands for none."""

    of: "Mapping[str, _Shape]"
    required: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _AnyKeys:
    """A mapping of names that its author chooses."""

    of: "_Shape"


@dataclass(frozen=True, slots=True)
class _By:
    """A mapping whose *key* says which of the shapes it has; *usual* says it where there is none."""

    key: str
    of: Mapping[str, _Keys]
    usual: str = ""


@dataclass(frozen=True, slots=True)
class _Either:
    """One value, or something made of several."""

    scalar: _Scalar
    other: "_ListOf | _AnyKeys"


_Shape: TypeAlias = "_Scalar | _ListOf | _Keys | _AnyKeys | _By | _Either | None"  # None: whatever it is


def _scalar(words: str, *tags: str, values: tuple[str, ...] = ()) -> _Scalar:
    return _Scalar(words, frozenset(f"tag:yaml.org,2002:{tag}" for tag in tags), values)


_TEXT: Final = _scalar("a text (in quotes, where YAML takes it for something else)", "str")
_WHOLE: Final = _scalar("a whole number, without quotes", "int")
_NUMBER: Final = _scalar("a number, without quotes", "int", "float")
_FLAG: Final = _scalar("true or false", "bool")
_COLUMNS: Final = _Either(_scalar("'*' or a list of columns", "str", values=("*",)), _ListOf(_TEXT))
_OP_SPEC: Final = _Keys({"columns": _COLUMNS, "payload": _COLUMNS}, ("columns",))  # (PostgresSubscribeOpSpec)
_HEADERS: Final = _ListOf(  # (HeaderConfValue and HeaderConfFromEnv)
    _Keys({"name": _TEXT, "value": _TEXT, "value_from_env": _TEXT}, ("name",))
)
_TEMPLATE_ENGINE: Final = _scalar("Kriti", "str", values=("Kriti",))
_BODY: Final = _By(  # (BodyTransformFn_…)
    "action",
    {
        "remove": _Keys({"action": _TEXT}),
        "transform": _Keys({"action": _TEXT, "template": _TEXT}, ("template",)),
        "x_www_form_urlencoded": _Keys({"action": _TEXT, "form_template": _AnyKeys(_TEXT)}, ("form_template",)),
    },
)
_RESPONSE: Final[Mapping[str, _Shape]] = {"version": _WHOLE, "template_engine": _TEMPLATE_ENGINE, "body": _TEXT}
_REQUEST: Final[Mapping[str, _Shape]] = {
    **_RESPONSE,
    "method": _TEXT,
    "url": _TEXT,
    "content_type": _TEXT,  # in no schema, but in what Hasura's console writes
    "query_params": _Either(_TEXT, _AnyKeys(_TEXT)),
    "request_headers": _Keys({"add_headers": _AnyKeys(_TEXT), "remove_headers": _ListOf(_TEXT)}),
}
_TRANSFORMS: Final[Mapping[str, _Shape]] = {  # (RequestTransformV1 and V2, ResponseTransformV1 and V2)
    "request_transform": _By("version", {"1": _Keys(_REQUEST), "2": _Keys({**_REQUEST, "body": _BODY})}, "1"),
    "response_transform": _By("version", {"1": _Keys(_RESPONSE), "2": _Keys({**_RESPONSE, "body": _BODY})}, "1"),
}
_EVENT_TRIGGER: Final = _Keys(  # (PostgresEventTriggerConfEventTriggerConf)
    {
        "name": _TEXT,
        "definition": _Keys(  # (PostgresTriggerOpsDef)
            {"insert": _OP_SPEC, "update": _OP_SPEC, "delete": _OP_SPEC, "enable_manual": _FLAG}
        ),
        "retry_conf": _Keys(  # (RetryConf)
            {"num_retries": _WHOLE, "interval_sec": _WHOLE, "timeout_sec": _WHOLE}, ("num_retries", "interval_sec")
        ),
        "webhook": _TEXT,
        "webhook_from_env": _TEXT,
        "headers": _HEADERS,
        **_TRANSFORMS,
        "cleanup_config": _Keys(  # (AutoTriggerLogCleanupConfig)
            {
                "schedule": _TEXT,
                "batch_size": _WHOLE,
                "clear_older_than": _WHOLE,
                "timeout": _WHOLE,
                "clean_invocation_logs": _FLAG,
                "paused": _FLAG,
            },
            ("schedule", "clear_older_than"),
        ),
        "trigger_on_replication": _FLAG,
    },
    ("name", "definition", "retry_conf"),
)
# Of a table (PostgresTableMetadata).
_TABLE_KEYS: Final = (
    "apollo_federation_config",
    "array_relationships",
    "computed_fields",
    "configuration",
    "delete_permissions",
    "event_triggers",
    "insert_permissions",
    "is_enum",
    "logical_model",
    "object_relationships",
    "remote_relationships",
    "select_permissions",
    "table",
    "update_permissions",
)
_CRON_TRIGGER: Final = _Keys(  # (CronTriggerMetadata)
    {
        "name": _TEXT,
        "webhook": _TEXT,
        "schedule": _TEXT,
        "include_in_metadata": _FLAG,
        "payload": None,
        "retry_conf": _Keys(  # (STRetryConf)
            {
                "num_retries": _WHOLE,
                "retry_interval_seconds": _NUMBER,
                "timeout_seconds": _NUMBER,
                "tolerance_seconds": _NUMBER,
            }
        ),
        "headers": _HEADERS,
        "comment": _TEXT,
        **_TRANSFORMS,
    },
    ("name", "webhook", "schedule", "include_in_metadata"),
)
# What to write where something required is missing.
_WRITE: Final = {
    "retry_conf": ": Hasura refuses a trigger without it; write {num_retries: 60, interval_sec: 60, timeout_sec: 60}",
    "num_retries": ": write how often to try again while this function cannot be reached, such as 60",
    "interval_sec": ": write the seconds between two attempts, such as 60",
    "columns": ": write '*' or a list of columns",
}
_NO_SUCH_KEY: Final = "there is no such key, Hasura drops it"
_TRIGGER_NAME: Final = re.compile(r"[A-Za-z]+[A-Za-z0-9_\-]*", re.ASCII)
# The functions that it names in the database must keep to PostgreSQL's 63.
TRIGGER_NAME_CHARACTERS_MAX: Final = 42
# Of an event trigger and of a cron trigger alike, unless they say otherwise.
TIMEOUT_SECONDS: Final = 60
HASURAS_OWN: Final = "HASURA_GRAPHQL_"
SECRET_HEADER: Final = "x-webhook-secret"  # noqa: S105  # its name
HOUSEKEEPING: Final = "cron/servicenow_housekeeping"


@dataclass(slots=True)
class Findings:
    """What is wrong with a project's metadata, and what is allowed and seldom meant: sentences with file and line."""

    event_triggers: int = 0
    cron_triggers: int = 0
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(metadata: Metadata, rules: Rules | None, *, deadline_seconds: float | None) -> Findings:
    """Check the triggers of *metadata*, by themselves and against *rules* and the settings, where those are known."""
    checking = _Checking(deadline_seconds)
    triggers = list(checking.triggers(metadata))
    ours = _ours(triggers, rules)
    for trigger in ours:
        checking.ours(trigger)
    if not any(trigger.source == HOUSEKEEPING for trigger in ours):
        checking.findings.warnings.append(
            f"{metadata.cron_triggers_file}: has no {HOUSEKEEPING.removeprefix('cron/')} that sends X-Webhook-Secret: "
            "until the next event nothing looks at tickets in doubt, or sends mails that wait"
        )
    if rules is not None:
        checking.against(rules, ours, triggers)
    return checking.findings


@dataclass(frozen=True, slots=True)
class _Trigger:
    """An event trigger or a cron trigger. *source* is spelled as rules do; *ops* are those that it sends; *webhook* is
    spelled one way, for this function's two routes are one."""

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

    A rule's table, and X-Webhook-Secret, which others use too, say so together; then any with the same webhook is.
    Where one of a table's goes where the housekeeping goes, another one of that table is for somebody else.
    """
    sending = [trigger for trigger in triggers if trigger.sends_secret]
    sources = {rule.source for rule in rules.rules} | {HOUSEKEEPING} if rules is not None else set()
    sure = [trigger for trigger in sending if trigger.source in sources] or sending
    home = {trigger.webhook for trigger in sure if trigger.source == HOUSEKEEPING} - {""}
    at_home = {trigger.source for trigger in sure if trigger.webhook in home}
    sure = [trigger for trigger in sure if trigger.webhook in home or trigger.source not in at_home]
    webhooks = {trigger.webhook for trigger in sure} - {""}
    return [trigger for trigger in triggers if trigger in sure or trigger.webhook in webhooks]


class _Checking:
    """Goes on after a fault, so that all are told at once."""

    def __init__(self, deadline_seconds: float | None) -> None:
        self.deadline_seconds = deadline_seconds
        self.findings = Findings()

    def fault(self, node: yaml.Node, path: str, what: str) -> None:
        self.findings.faults.append(f"{place(node)}: {path}: {what}")

    def warn(self, node: yaml.Node, path: str, what: str) -> None:
        self.findings.warnings.append(f"{place(node)}: {path}: {what}")

    def triggers(self, metadata: Metadata) -> Iterator[_Trigger]:
        """Every trigger, as far as it can be read; what Hasura would refuse or drop is a fault."""
        for source in items(metadata.sources):
            names: dict[str, str] = {}
            for table in items(_fields(source).get("tables")):
                for name, key, _ in entries(table):
                    if name not in _TABLE_KEYS:
                        self.fault(key, name, f"{_NO_SUCH_KEY}{meant(name, _TABLE_KEYS)}")
                for number, node in enumerate(items(_fields(table).get("event_triggers"))):
                    self.findings.event_triggers += 1
                    path = f"event_triggers[{number}]"
                    self.shape(node, _EVENT_TRIGGER, path)
                    self.named(node, path, names)
                    self.webhook(node, path)
                    self.headers(node, path)
                    database = _text(_fields(source).get("name"))
                    yield _trigger(node, path, f"hasura/{_table(table)}", database)
        for number, node in enumerate(items(metadata.cron_triggers)):
            self.findings.cron_triggers += 1
            path = f"cron_triggers[{number}]"
            self.shape(node, _CRON_TRIGGER, path)
            self.headers(node, path)
            yield _trigger(node, path, f"cron/{_text(_fields(node).get('name'))}", "")

    def shape(self, node: yaml.Node, shape: _Shape, path: str) -> None:
        match shape:
            case _Scalar(words, tags, values):
                if node.tag not in tags or (values and node.value not in values) or not _is_hasuras(node):
                    self.fault(node, path, f"must be {words}")
            case _Either(scalar, other):
                self.shape(node, scalar if isinstance(node, yaml.ScalarNode) else other, path)
            case _ListOf(of):
                if not isinstance(node, yaml.SequenceNode):
                    self.fault(node, path, "must be a list")
                for number, element in enumerate(items(node)):
                    self.shape(element, of, f"{path}[{number}]")
            case _AnyKeys(of):
                if not isinstance(node, yaml.MappingNode):
                    self.fault(node, path, "must be a mapping of names to values")
                for name, value in _fields(node).items():
                    self.shape(value, of, f"{path}.{name}")
            case _By(key, of, usual):
                given = _fields(node).get(key)
                which = str(given.value) if given is not None else usual
                if not isinstance(node, yaml.MappingNode):
                    self.shape(node, next(iter(of.values())), path)
                elif which not in of:
                    self.fault(given or node, f"{path}.{key}", f"must be {' or '.join(of)}{meant(which, of)}")
                else:
                    self.shape(node, of[which], path)
            case _Keys():
                self.keys(node, shape, path)

    def keys(self, node: yaml.Node, shape: _Keys, path: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, "must be a mapping of names to values")
            return
        fields = _fields(node)
        for name, key, _ in entries(node):
            if name not in shape.of:
                self.fault(key, f"{path}.{name}", f"{_NO_SUCH_KEY}{meant(name, shape.of)}")
        for name in shape.required:
            if name not in fields:
                self.fault(node, f"{path}.{name}", f"is missing{_WRITE.get(name, '')}")
        for name, value in fields.items():
            if name in shape.of:
                self.shape(value, shape.of[name], f"{path}.{name}")

    def named(self, node: yaml.Node, path: str, names: dict[str, str]) -> None:
        """*names* are those of the same source, each with its place."""
        given = _fields(node).get("name")
        name = _text(given)
        if given is None or not name:
            return
        if not _TRIGGER_NAME.fullmatch(name) or len(name) > TRIGGER_NAME_CHARACTERS_MAX:
            what = f"must be a letter, then letters, digits, _ and -, {TRIGGER_NAME_CHARACTERS_MAX} characters at most"
            self.fault(given, f"{path}.name", what)
        if name in names:
            self.fault(given, f"{path}.name", f"`{name}` is the name of the trigger at {names[name]} already")
        names.setdefault(name, place(given))

    def webhook(self, node: yaml.Node, path: str) -> None:
        fields = _fields(node)
        if "webhook" in fields and "webhook_from_env" in fields:
            self.fault(fields["webhook_from_env"], f"{path}.webhook_from_env", "stands beside `webhook`; take one out")
        elif "webhook_from_env" in fields:
            variable = _text(fields["webhook_from_env"]) or "VARIABLE"
            what = f"is deprecated by Hasura; write webhook: '{{{{{variable}}}}}'"
            self.warn(fields["webhook_from_env"], f"{path}.webhook_from_env", what)
        elif not _text(fields.get("webhook")):
            self.fault(
                fields.get("webhook", node),
                f"{path}.webhook",
                "is missing; write webhook: '{{SERVICENOW_FUNCTION_URL}}'",
            )

    def ours(self, trigger: _Trigger) -> None:
        """What this function asks of a trigger that goes to it."""
        fields = _fields(trigger.node)
        if not trigger.sends_secret:
            what = (
                "sends no X-Webhook-Secret, so every event would be answered 401; add "
                "{name: X-Webhook-Secret, value_from_env: SERVICENOW_FUNCTION_SECRET}"
            )
            self.fault(trigger.node, f"{trigger.path}.headers", what)
        if "request_transform" in fields:
            what = "changes the body, which the function wants as Hasura makes it; take it out"
            self.warn(fields["request_transform"], f"{trigger.path}.request_transform", what)
        is_cron = trigger.source.startswith("cron/")
        if "retry_conf" not in fields and not is_cron:
            return  # said already
        retry_conf = fields.get("retry_conf", trigger.node)
        retry = _fields(retry_conf) if "retry_conf" in fields else {}
        if "num_retries" in retry and not is_cron and (_number(retry["num_retries"]) or 0) <= 0:
            what = (
                "0 survives an outage of ServiceNow all the same, by Retry-After; an outage of this function itself "
                "loses the event to `error`: write a number above 0, such as 60"
            )
            self.warn(retry["num_retries"], f"{trigger.path}.retry_conf.num_retries", what)
        timeout = retry.get("timeout_seconds" if is_cron else "timeout_sec")
        seconds = TIMEOUT_SECONDS if timeout is None else _number(timeout)
        if self.deadline_seconds is not None and seconds is not None and seconds <= self.deadline_seconds:
            key = "timeout_seconds" if is_cron else "timeout_sec"
            what = (
                f"({seconds:g}) must be above DEADLINE_SECONDS ({self.deadline_seconds:g}), or what is still being "
                "done is sent again"
            )
            self.fault(timeout or retry_conf, f"{trigger.path}.retry_conf.{key}", what)

    def headers(self, node: yaml.Node, path: str) -> None:
        for number, header in enumerate(items(_fields(node).get("headers"))):
            where = f"{path}.headers[{number}]"
            fields = _fields(header)
            variable = fields.get("value_from_env")
            if "value" in fields and variable is not None:
                self.fault(header, where, "has both value and value_from_env; take one out")
            elif "value" not in fields and variable is None:
                self.fault(header, where, "has no value; write value_from_env: SERVICENOW_FUNCTION_SECRET")
            if variable is not None and _text(variable).startswith(HASURAS_OWN):
                what = f"Hasura gives out none of its own variables ({HASURAS_OWN}…); set one of another name"
                self.fault(variable, f"{where}.value_from_env", what)
            if _text(fields.get("name")).lower() == SECRET_HEADER and "value" in fields:
                what = (
                    "Hasura writes it in clear into its log of every delivery; write value_from_env and the name of a "
                    "variable, and change the secret"
                )
                self.fault(fields["value"], f"{where}.value", what)

    def against(self, rules: Rules, ours: Collection[_Trigger], others: Collection[_Trigger]) -> None:
        for rule in rules.rules:
            self.rule(rule, ours, others)
        sources = {rule.source for rule in rules.rules} | {HOUSEKEEPING}
        for trigger in ours:
            if trigger.source not in sources:
                what = f"no rule is for {trigger.source}, so every event would be answered 422; add one, or take it out"
                self.fault(trigger.node, trigger.path, what)

    def rule(self, rule: Rule, ours: Iterable[_Trigger], others: Iterable[_Trigger]) -> None:
        if rule.source == SCHEDULED:
            return  # no metadata names who schedules them
        of_source = [trigger for trigger in ours if trigger.source == rule.source]
        heard = [trigger for trigger in of_source if rule.trigger in ("", trigger.name)]
        if not of_source:
            known = "".join(
                f"; `{trigger.name}` ({place(trigger.node)}) sends no X-Webhook-Secret"
                for trigger in others
                if trigger.source == rule.source
            )
            self.findings.faults.append(f"{rule.where}.from: no trigger sends {rule.source} here; add one{known}")
            return
        if not heard:
            names = {trigger.name: None for trigger in of_source}
            what = f"{rule.source} has no trigger `{rule.trigger}`{meant(rule.trigger, names)}"
            self.findings.faults.append(f"{rule.where}.trigger: {what}")
            return
        if rule.source.startswith("cron/"):
            return
        if databases := sorted({trigger.database for trigger in heard} - {heard[0].database}):
            what = (
                f"{rule.source} of {' and '.join([heard[0].database, *databases])} come here, and Hasura does not say "
                "which: rows with equal keys would share a ticket; name one trigger in `trigger:` of a rule each, or "
                "send one to a function with a SOURCE_NAME of its own"
            )
            self.fault(heard[0].node, heard[0].path, what)
        sent = frozenset[Op]().union(*(trigger.ops for trigger in heard))
        unsent = [op.value for op in Op if op in rule.ops - sent]
        definition = _fields(heard[0].node).get("definition", heard[0].node)
        if not rule.ops & sent:
            what = f"sends none of {', '.join(unsent)}, which is all that {rule.id} hears"
            self.fault(definition, f"{heard[0].path}.definition", what)
        elif unsent:
            what = f"does not send {', '.join(unsent)}, which {rule.id} hears; add it, or name the others in its `ops`"
            self.warn(definition, f"{heard[0].path}.definition", what)
        for trigger in heard:
            self.columns(trigger, rule)

    def columns(self, trigger: _Trigger, rule: Rule) -> None:
        """That the trigger's lists of columns have those that the rule names; of a deleted row, those of its key."""
        identity = [saying for saying in (*rule.sayings.key, rule.sayings.each) if saying is not None]
        definition = _fields(_fields(trigger.node).get("definition"))
        for op, sayings in (("insert", rule.sayings.all()), ("update", rule.sayings.all()), ("delete", iter(identity))):
            if Op(op.upper()) not in rule.ops or op not in definition:
                continue
            named = _columns(sayings)
            spec = _fields(definition[op])
            unlisted = named - set(map(_text, items(spec.get("payload"))))
            if isinstance(spec.get("payload"), yaml.SequenceNode) and unlisted:
                what = f"lacks {', '.join(sorted(unlisted))}, which {rule.id} reads: its events would be dead letters"
                self.fault(spec["payload"], f"{trigger.path}.definition.{op}.payload", what)
            unheard = named - set(map(_text, items(spec.get("columns"))))
            if op == "update" and isinstance(spec.get("columns"), yaml.SequenceNode) and unheard:
                what = f"lacks {', '.join(sorted(unheard))}, which {rule.id} reads: it does not hear when they change"
                self.warn(spec["columns"], f"{trigger.path}.definition.{op}.columns", what)


def _trigger(node: yaml.Node, path: str, source: str, database: str) -> _Trigger:
    fields = _fields(node)
    definition = _fields(fields.get("definition"))
    ops = {op for op in Op if op.value.lower() in definition}
    if _text(definition.get("enable_manual")).lower() == "true":
        ops.add(Op.MANUAL)
    from_env = _text(fields.get("webhook_from_env"))
    webhook = _text(fields.get("webhook")) or (f"{{{{{from_env}}}}}" if from_env else "")
    return _Trigger(
        node=node,
        path=path,
        source=source,
        database=database,
        name=_text(fields.get("name")),
        webhook=webhook.rstrip("/").removesuffix("/hasura").rstrip("/"),
        sends_secret=any(
            _text(_fields(header).get("name")).lower() == SECRET_HEADER for header in items(fields.get("headers"))
        ),
        ops=frozenset(ops),
    )


def _table(entry: yaml.Node) -> str:
    """``public.outages``: a table's name may stand alone."""
    table = _fields(entry).get("table")
    fields = _fields(table)
    return f"{_text(fields.get('schema')) or 'public'}.{_text(fields.get('name') if fields else table)}"


def _columns(sayings: Iterable[Saying]) -> set[str]:
    return {
        column for saying in sayings for image in ("row", "old", "new") for column in saying.template.parts_of(image)
    }


def _fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """The values of a mapping that are not null; none of any other node."""
    return {name: value for name, _, value in (entries(node) if node else ()) if value.tag != "tag:yaml.org,2002:null"}


def _text(node: yaml.Node | None) -> str:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _is_hasuras(node: yaml.Node) -> bool:
    """Whether Hasura reads the value as YAML 1.1 does: `yes` is no truth there, and a tag makes no number of a text."""
    if node.tag == "tag:yaml.org,2002:bool":
        return _text(node).lower() in {"true", "false"}
    try:
        plain(node)
    except (ValueError, yaml.YAMLError):
        return False
    return True


def _number(node: yaml.Node) -> float | None:
    value = plain(node) if _is_hasuras(node) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
