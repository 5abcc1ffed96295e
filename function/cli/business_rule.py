"""What ServiceNow has to be told, so that it tells us that a ticket changed: business rules, their
script and two properties, to paste. Pure.

- An update and an insert are told by *async* rules: nobody waits for them, and by the time that
  they run the transaction has ended, with its entries of journals. They have no `previous`, so that
  what changed stands in the filter condition, which is looked at in the transaction; `current` is
  read anew then (KB0687840). An insert has a rule of its own, because pages contradict each other
  about whether a column of a new record *changes*.
- A deletion is told by an *after* rule: an async one would find no record.
- The script says which ticket, and not what is in it: numbers, digits and a table's name, so that
  it is ASCII. How `generateMac` reads other text is not documented.
- It calls executeAsync, so that neither a person nor a worker of the instance waits for us. Nothing
  is sent again; `sync` finds what was lost.

    UnfitName   a name that a condition cannot hold
"""

import base64
import hashlib
import hmac
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

from function.core.event import Op
from function.core.values import digest
from function.rules.model import Rule
from function.targets.ticket.address import query_of_source

ROUTE: Final = "/servicenow"
# What the script may wait for the answer; we answer within 8 s.
HTTP_TIMEOUT_MILLISECONDS: Final = 10_000
# sys_script.name is a String(40).
RULE_NAME_CHARACTERS_MAX: Final = 40
SCOPE: Final = re.compile(r"[a-z][a-z0-9_]{1,17}", re.ASCII)
# After most rules of the instance's own, which stand at 100, have changed the record too.
_ORDER: Final = 900
_COLUMN: Final = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_PATH: Final = re.compile(rf"{_COLUMN.pattern}(\.{_COLUMN.pattern})*", re.ASCII)
# What the instance is to sign, so that one sees whether it can.
_TRIAL_TEXT: Final = "trial"


class UnfitName(Exception):  # noqa: N818  # a state, not a mistake
    """A name that cannot stand in a condition; the text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class WatchedTable:
    """What rules hear of a table: updates that change one of *columns* or add to one of *journals*,
    and, where said, inserts and deletes.

    A column may lead through references (``assigned_to.email``): its first part is watched. Without
    *filters*, encoded queries of which one must hold, the tickets of our own rows are meant. One
    table may be given several times: each with its own columns and filters.
    """

    table: str
    columns: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    journals: tuple[str, ...] = ()
    insert: bool = False
    delete: bool = False


@dataclass(frozen=True, slots=True)
class NotificationSetup:
    """Who is told, and by whom not: *url* is the function's own; *user_name* signs in for it.
    *scope* is the application that the rules are part of; "" is global."""

    source_name: str
    user_name: str
    url: str
    scope: str = ""

    @property
    def default_filter(self) -> str:
        """The tickets of our own rows."""
        return query_of_source(self.source_name)

    @property
    def url_property(self) -> str:
        return f"{self._prefix}.url"

    @property
    def key_property(self) -> str:
        return f"{self._prefix}.key"

    @property
    def encryption_class(self) -> str:
        """What has generateMac there."""
        return "CertificateEncryption" if self.scope else "GlideCertificateEncryption"

    @property
    def _prefix(self) -> str:
        # Of several apps on one instance each has its own. A scope's properties begin with it.
        return ".".join(filter(None, (self.scope, "hasura", self.source_name)))


@dataclass(frozen=True, slots=True)
class BusinessRule:
    """A record of sys_script, as its form has it. *action* is update, insert or delete."""

    name: str
    table: str
    when: str
    action: str
    filter_condition: str
    condition: str = ""


def watched_tables(rules: Iterable[Rule]) -> list[WatchedTable]:
    """What *rules* hear of ServiceNow, one for each that hears something."""
    return [_watched_table(rule) for rule in rules if rule.ticket_source is not None]


def business_rules(tables: Iterable[WatchedTable], setup: NotificationSetup) -> list[BusinessRule]:
    """The records that the instance needs, by table. Raises UnfitName."""
    _check_user_name(setup.user_name)
    by_table: dict[str, list[WatchedTable]] = {}
    for watched in tables:
        _check_columns(watched)
        by_table.setdefault(watched.table, []).append(watched)
    return [rule for table, same in sorted(by_table.items()) for rule in _rules(table, same, setup)]


def rule_script(table: str, setup: NotificationSetup) -> str:
    """What each business rule of *table* runs: JavaScript of ES5, which every instance has."""
    error = json.dumps(f"{setup.source_name} was not told of a change: ")
    return f"""\
// Tells {setup.source_name} that a record changed, and not what: it looks by itself.
(function executeRule(current, previous /*null when async*/) {{
    var id = current.getUniqueValue();
    var url = gs.getProperty({json.dumps(setup.url_property)});
    if (!id || !url) {{
        return;
    }}
    var body = JSON.stringify({{
        version: 1,
        table: {json.dumps(table)},
        sys_id: id,
        mod_count: parseInt(current.getValue("sys_mod_count"), 10) || 0
    }});
    var stamp = String(Math.floor(new GlideDateTime().getNumericValue() / 1000));
    try {{
        var key = gs.getProperty({json.dumps(setup.key_property)});
        var signer = new {setup.encryption_class}();
        var mac = signer.generateMac(key, "HmacSHA256", stamp + "." + body);
        var request = new sn_ws.RESTMessageV2();
        request.setEndpoint(url);
        request.setHttpMethod("POST");
        request.setRequestHeader("Content-Type", "application/json");
        request.setRequestHeader("X-ServiceNow-Timestamp", stamp);
        request.setRequestHeader("X-ServiceNow-Signature", "v1=" + mac);
        request.setHttpTimeout({HTTP_TIMEOUT_MILLISECONDS});
        request.setRequestBody(body);
        request.executeAsync();
    }} catch (error) {{
        gs.error({error} + id + ": " + error);
    }}
}})(current, previous);
"""


def conditions_script(rules: Iterable[BusinessRule]) -> str:
    """What gives the records of *rules* their conditions, which no form lets one paste."""
    rows = ",\n".join(
        f"    {json.dumps([rule.table, rule.name, rule.filter_condition])}" for rule in rules
    )
    return f"""\
var conditions = [
{rows}
];
for (var i = 0; i < conditions.length; i++) {{
    var rule = new GlideRecord("sys_script");
    rule.addQuery("collection", conditions[i][0]);
    rule.addQuery("name", conditions[i][1]);
    rule.query();
    if (rule.next()) {{
        rule.setValue("filter_condition", conditions[i][2]);
        rule.update();
    }}
    var kept = new GlideRecord("sys_script");
    var found = rule.isValidRecord() && kept.get(rule.getUniqueValue());
    var same = found && kept.getValue("filter_condition") == conditions[i][2];
    gs.info(conditions[i][0] + ", " + conditions[i][1] + ": " + (same ? "kept" : "NOT KEPT"));
}}
"""


def printed(tables: Iterable[WatchedTable], setup: NotificationSetup, secret: str) -> str:
    """All that is to be pasted, in steps. Of *secret* only a MAC is shown. Raises UnfitName."""
    rules = business_rules(tables, setup)
    scripts = [
        f"== What the rules of {table} run\n\n{rule_script(table, setup)}"
        for table in dict.fromkeys(rule.table for rule in rules)
    ]
    return "\n".join([_steps(rules, setup, secret), *scripts, _NOT_TRIED])


def _watched_table(rule: Rule) -> WatchedTable:
    source = rule.ticket_source
    assert source is not None  # noqa: S101  # for the type checker: see watched_tables
    is_update = Op.UPDATE in rule.ops and not source.journal
    return WatchedTable(
        source.table,
        columns=tuple(sorted(source.columns)) if is_update else (),
        filters=(source.query,) if source.query else (),
        journals=(source.journal,) if source.journal else (),
        insert=Op.INSERT in rule.ops,
        delete=Op.DELETE in rule.ops,
    )


def _rules(
    table: str, same: list[WatchedTable], setup: NotificationSetup
) -> Iterator[BusinessRule]:
    changing: dict[str, dict[str, None]] = {}
    inserts: dict[str, None] = {}
    deletes: dict[str, None] = {}
    for watched in same:
        columns = _first_parts((*watched.columns, *watched.journals))
        for query in watched.filters or (setup.default_filter,):
            # A ticket that comes to meet a filter is new to its rule then.
            if columns or (watched.insert and watched.filters):
                changing.setdefault(query, {}).update(columns)
            inserts |= dict.fromkeys([query] if watched.insert else ())
            deletes |= dict.fromkeys([query] if watched.delete else ())
    others = f"sys_updated_by!={setup.user_name}"
    updates = [(query, f"{others}^{_changes(query, names)}") for query, names in changing.items()]
    for action, when, groups in (
        ("update", "async", updates),
        ("insert", "async", [(query, others) for query in inserts]),
        # Who deletes stands in no column.
        ("delete", "after", [(query, "") for query in deletes]),
    ):
        if groups:
            name = _rule_name(setup.source_name, action)
            condition = (
                "" if when == "async" else f"gs.getUserName() != {json.dumps(setup.user_name)}"
            )
            yield BusinessRule(name, table, when, action, _condition(groups), condition)


def _condition(groups: Iterable[tuple[str, str]]) -> str:
    """An encoded query: one of the *groups*, each a filter and what must hold beside it. ``^NQ``
    stands between whole groups, also within a filter."""
    parts = [
        "^".join(filter(None, (part.removesuffix("^EQ").strip("^"), beside)))
        for query, beside in groups
        for part in query.split("^NQ")
    ]
    return f"{'^NQ'.join(parts)}^EQ"


def _changes(query: str, names: Iterable[str]) -> str:
    """One of *names* changes, or one of the columns of the filter: a ticket may come to meet it."""
    watched = dict.fromkeys((*names, *_filter_columns(query)))
    return "^OR".join(f"{name}VALCHANGES" for name in watched)


def _filter_columns(query: str) -> dict[str, None]:
    """The columns that the terms of an encoded query begin with; operators are in capitals."""
    terms = chain.from_iterable(part.split("^") for part in query.split("^NQ"))
    found = (_COLUMN.match(term.removeprefix("OR")) for term in terms)
    return dict.fromkeys(match[0] for match in found if match)


def _first_parts(names: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(name.partition(".")[0] for name in names)


def _rule_name(source_name: str, action: str) -> str:
    name = f"Tell {source_name} of {action}"
    if len(name) <= RULE_NAME_CHARACTERS_MAX:
        return name
    return f"Tell {source_name[:12]} {digest(source_name)[:8]} of {action}"


def _check_user_name(name: str) -> None:
    if "^" in name or name.lower().startswith("javascript:") or not name.isprintable():
        raise UnfitName(
            "the user's name cannot stand in a condition of ServiceNow, where a ^ ends a term and "
            "javascript: begins a script: give the user another User ID"
        )


def _check_columns(watched: WatchedTable) -> None:
    for name in (*watched.columns, *watched.journals):
        if not _PATH.fullmatch(name):
            raise UnfitName(
                f"{name!r} is no column of {watched.table}: ServiceNow's are lower-case letters, "
                "digits and _, with a dot where a reference is followed"
            )


def _trial_mac(secret: str) -> str:
    mac = hmac.digest(secret.encode("utf-8", "surrogatepass"), _TRIAL_TEXT.encode(), hashlib.sha256)
    return base64.b64encode(mac).decode()


def _steps(rules: list[BusinessRule], setup: NotificationSetup, secret: str) -> str:
    where = f"the application {setup.scope}" if setup.scope else "the application Global"
    trial = (
        f"gs.info(new {setup.encryption_class}().generateMac("
        f'gs.getProperty({json.dumps(setup.key_property)}), "HmacSHA256", "{_TRIAL_TEXT}"));'
    )
    return f"""\
What ServiceNow has to be told, so that it tells {setup.source_name} that a ticket changed.
Do all of it as an administrator, in {where}.

1. Two system properties: type sys_properties.list into the navigator, then New.

   Name   {setup.url_property}
   Type   string
   Value  {setup.url}{ROUTE}

   Name   {setup.key_property}
   Type   password2
   Value  the first of SERVICENOW_WEBHOOK_SECRETS in base64, as this prints it:
          printf %s 'THE SECRET' | base64 | tr -d '\\n'

2. See that the instance signs as the function does. System Definition > Scripts - Background:

   {trial}

   It must print {_trial_mac(secret)}
   If it prints something else, give {setup.key_property} the type string, and read roles.

3. Business rules: System Definition > Business Rules > New, each Active and Advanced, with Order
   {_ORDER} and the script of its table that stands below.

{"".join(map(_form, rules))}
4. Their filter conditions. A form does not let one paste them. Build them there by hand, or run
   this in System Definition > Scripts - Background; it says of each whether it was kept:

{_indented(conditions_script(rules))}
5. Change a ticket as a person. The request is in the table ecc_queue (Queue: output). The function
   answers 401 where the secret is another one, or a clock is more than five minutes off.

To stop it, empty {setup.url_property}, or untick Active.
"""


def _form(rule: BusinessRule) -> str:
    condition = f"   Condition   {rule.condition}\n" if rule.condition else ""
    return f"""\
   Name        {rule.name}
   Table       {rule.table}
   When        {rule.when}
   Tick        {rule.action.capitalize()}
{condition}
"""


def _indented(text: str) -> str:
    return textwrap.indent(text, "   ")


_NOT_TRIED: Final = """\
== Not tried

No instance was reached while this was written. The script was run in Node.js with stand-ins for
what ServiceNow has, and the conditions in a sandbox. What only an instance can show:
- that a property of type password2 can be read by a business rule, and that generateMac takes its
  key in base64 (step 2 shows both);
- that a filter condition may say that comments or work_notes change (exported rules have it), and
  that it holds when an entry is added;
- that current is a whole record in an after rule for a deletion;
- that a condition of this length is kept (step 4 shows it).
"""
