"""The keys of the rules file, and its JSON Schema, by which editors complete it. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from function.core.event import SCHEDULED, Op
from function.core.lifecycle import (
    CHANGE_REQUEST,
    COLUMN_REFERENCES,
    INCIDENT,
)
from function.rules.ticket import CLOSE_NOTES_RESOLVED, TEMPLATE

DEFAULT_TABLE: Final = "incident"
CHANGE_TABLE: Final = "change_request"
CREATING_OPS: Final = (Op.INSERT, Op.UPDATE, Op.MANUAL)
AFTER_CLOSE: Final = ("reopen", "new", "leave")
ON_DELETE: Final = ("resolve", "cancel", "leave")
# What calls are signed by, see rules/signature.py.
STANDARD: Final = "standard"
AWS: Final = "aws"
SIGNATURES: Final = (STANDARD, AWS)
ON_MISSING: Final = ("fail", "recreate", "ignore")
ON_UNKNOWN: Final = ("fail", "leave_empty")
KEY_PARTS_MAX: Final = 16
TOP_KEYS: Final = {
    "version": "The version of this language: 1.",
    "env": "The environment variables that templates may name, as env.NAME.",
    "types": (
        "By source, an expression that gives the type of each of its events, such as "
        "row.event_type. A rule's `type` names those that it hears; a type that no rule of the "
        "source names is an error."
    ),
    "rules": "Which rows become which tickets.",
}
RULE_KEYS: Final = {
    "name": (
        "The rule's name, unique in the file. It is in every ticket's address: to rename the "
        "rule, keep `id`."
    ),
    "id": "What stands in every ticket's address; the name unless given.",
    "from": (
        "Where events come from: hasura/SCHEMA.TABLE, cron/NAME, scheduled for one-off scheduled "
        "events, servicenow/TABLE for the changes of tickets, servicenow/TABLE.comments or "
        ".work_notes for what people write there, slack/COMMAND for a slash command."
    ),
    "trigger": "Only events of the event trigger with this name; of any unless given.",
    "type": (
        "The type of event that the rule hears, or a list of types, in capitals or not; any type "
        "that some rule names unless given. `types` has an entry for the rule's source."
    ),
    "ops": "The kinds of event that the rule hears; all unless given, of a rule from "
    "servicenow/TABLE UPDATE.",
    "when": (
        "An expression: whether the row is to have a ticket. A ticket that exists follows "
        "its row all the same."
    ),
    "each": (
        "An expression that gives a list: one ticket for each element, which templates call `item`."
    ),
    "filter": (
        "Of a rule from servicenow/TABLE, the encoded query of the tickets that it is for; unless "
        "given, those whose correlation_id begins with SOURCE_NAME and a colon."
    ),
    "ticket": "The ticket that the row becomes.",
    "mutate": "The mutation that tells the app of a ticket, of a rule from servicenow/TABLE.",
    "answer": "A template: what ServiceNow is answered, such as the app's id of the row.",
    "note": "The comment or work note that the row becomes, on the ticket of another row.",
    "data": "Beside a post: a query of Hasura's GraphQL, whose answer templates call `data`.",
    "post": "The call of another system that is told of the row.",
    "allow": "Of a rule from slack/COMMAND, who may give the command, and where.",
    "reply": "A template: what the person who gave the command is told when it is done.",
}
DATA_KEYS: Final = {
    "query": "One GraphQL query, made as HASURA_ROLE when the post is sent.",
    "variables": "For each variable of the query, a template, or an object or a list of them.",
}
POST_KEYS: Final = {
    "url": "A template that names variables of `env` only: where to call.",
    "key": (
        "A template, or a list of templates: what is kept in step. The target ends with the last "
        "state of the row; unless given, each event is sent."
    ),
    "headers": "For each header, a template.",
    "body": (
        "What is sent: any structure with templates for its values, as JSON, or one template that "
        "gives the whole body."
    ),
    "sign": "How the call is signed: standard (Standard Webhooks) or aws (AWS DevOps Agent).",
    "secret": "The variable of `env` that the call is signed with.",
    "allow_private": "Whether the URL may be of a private network, and http://.",
    "timeout_seconds": "How long the call may take, from 0.1 to 30; 10 unless given.",
    "order_by": "An expression: what orders the row's images, such as row.updated_at.",
}
COMMAND_TICKET_KEYS: Final = {
    "table": "The table of the ticket; incident unless given.",
    "number": "A template: the number of the ticket, and what is written behind it, `notes`.",
    "resolve_when": "An expression: whether the ticket is to be resolved.",
    "close_code": f"A template: the resolution code; {INCIDENT.close_code} unless given.",
    "close_notes": "A template: the resolution notes; who resolved it in Slack unless given.",
}
ALLOW_KEYS: Final = {
    "users": "The ids of those who may give the command; everybody unless given.",
    "channels": "The ids of the channels where it may be given; all unless given.",
}
REPLY_KEYS: Final = {
    "text": "A template: what is told.",
    "in_channel": "Whether all who are in the channel see it; only the person unless given.",
}
MUTATE_KEYS: Final = {
    "query": "One GraphQL mutation, which Hasura is sent.",
    "variables": "For each variable of the mutation, a template, or an object or a list of them.",
}
TICKET_KEYS: Final = {
    "table": "The table of the ticket; incident unless given.",
    "key": "A template, or a list of templates: the row's identity. One ticket per key.",
    "fields": "For each column of the ticket, a template: what it should say.",
    "template": (
        "A template: the name or sys_id of the standard change that a change_request is made from."
    ),
    "states": "The states of the table; needed unless they are those that ServiceNow ships for "
    "an incident or a"
    " change_request.",
    "choices": (
        "For a column, the values that this instance has in place of those that ServiceNow ships."
    ),
    "resolve_when": "An expression: whether the ticket of the row is to be resolved.",
    "close_code": f"A template: the resolution code; {INCIDENT.close_code} unless given, "
    f"{CHANGE_REQUEST.close_code} of"
    " a change_request. Of another table, only what is given is sent.",
    "close_notes": f"A template: the resolution notes; {CLOSE_NOTES_RESOLVED} unless given. Of "
    "another table, only what"
    " is given is sent.",
    "after_close": "What follows when a resolved row is open again: reopen (the default; of a "
    "change_request new), new"
    " or leave.",
    "creates": "Which kinds of event may open a ticket: INSERT, UPDATE and MANUAL unless given.",
    "on_delete": "What follows when the row is deleted: resolve (the default; of a "
    "change_request cancel), cancel or"
    " leave.",
    "on_missing": (
        "What follows when people deleted the ticket: fail (the default), recreate or ignore."
    ),
    "on_unknown": "For a column that refers to a record, what follows where none goes by the "
    "name: fail (the default),"
    " or leave_empty, until the record is there and the row changes.",
    "shared": "Whether many rows share one ticket: the first opens it, none closes it.",
    "sys_id": (
        "An expression: the sys_id of a ticket that is there already, which the row adopts instead "
        "of opening one; null or empty for none."
    ),
    "order_by": "An expression: what orders the row's images, such as row.updated_at.",
}
JOURNALS: Final = ("comments", "work_notes")
NOTE_KEYS: Final = {
    "ticket": "The name of the rule that makes the ticket.",
    "for": "A template, or a list of templates: the key of that ticket.",
    "key": "A template, or a list of templates: the identity of the row that is the note.",
    "field": (
        "The journal: comments, which the caller sees and is mailed, or work_notes, which only "
        "agents see."
    ),
    "text": "A template: what the journal should say.",
    "order_by": "An expression: what orders the row's images, such as row.updated_at.",
}
STATES_KEYS: Final = {
    "resolved": "The state of a ticket that is resolved, or whose row is gone.",
    "reopened": (
        "The state that a resolved ticket goes back to; without it, it is followed by a new one."
    ),
    "canceled": "The state for `on_delete: cancel`.",
    "final": "The states that a ticket never leaves; none unless given.",
    "path": "The states that a ticket passes through on its way to resolved, in order, from the "
    "one in which it begins;"
    " one PATCH each. None unless given.",
}
FIELDS_REFUSED: Final = {
    "sys_id": (
        "is computed from the rule and the key; for a ticket that is there already, it stands "
        "beside `fields`"
    ),
    "number": "is given by ServiceNow",
    "correlation_id": "holds the ticket's address; use `key`",
    "correlation_display": "is written by this function",
    "state": "is written by `resolve_when`",
    "incident_state": "is written by `resolve_when`",
    "close_code": "stands beside `fields`, and is sent when the ticket is resolved",
    "close_notes": "stands beside `fields`, and is sent when the ticket is resolved",
    "comments": "is a journal, which only grows; write it by a rule with a `note`",
    "work_notes": "is a journal, which only grows; write it by a rule with a `note`",
    "parent_incident": "is written by `after_close: new`",
}
# What stands elsewhere.
CHOICES_REFUSED: Final = {
    "state": "stands under `states`",
    "incident_state": "stands under `states`",
}
NAME = re.compile(r"[A-Za-z0-9_-]{1,60}", re.ASCII)
STATE = re.compile(r"-?[A-Za-z0-9_][A-Za-z0-9_ -]{0,39}", re.ASCII)
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,79}", re.ASCII)
# A column of a ticket, or of what it refers to.
COLUMN_PATH = re.compile(rf"{COLUMN.pattern}(?:\.{COLUMN.pattern}){{0,3}}", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Hasura takes names with blanks and dots in them.
SOURCE = re.compile(
    rf"hasura/[^/.]+\..+|cron/.+|{SCHEDULED}"
    r"|servicenow/[a-z][a-z0-9_]{0,79}(\.(comments|work_notes))?"
    r"|slack/[a-z0-9_-]{1,32}"
)
# Those whose events may have types: what others send is of one kind already.
TYPED_SOURCE = re.compile(rf"hasura/[^/.]+\..+|cron/.+|{SCHEDULED}")
# No order, which is ours, and one line.
ENCODED_QUERY = re.compile(r"(?!.*\bORDERBY)[ -~]{1,2000}", re.ASCII)


def schema() -> dict[str, Any]:
    """The JSON Schema of the file, by which editors complete it. The checks of load()
    go further."""
    expression_schema = {"type": ["string", "boolean"]}
    template_schema = {"type": ["string", "number", "boolean", "null"]}
    key_schema = {"type": ["string", "number"]}
    whole_key_schema = {
        "anyOf": [
            key_schema,
            {"type": "array", "items": key_schema, "minItems": 1, "maxItems": KEY_PARTS_MAX},
        ]
    }
    type_schema = {"type": ["string", "number", "boolean"], "pattern": r"\S"}
    state_schema = {"type": ["string", "integer"], "pattern": f"^{STATE.pattern}$"}
    column = f"^(?!(?:{'|'.join(FIELDS_REFUSED)})$){COLUMN.pattern}$"

    def ops(known: Collection[Op]) -> dict[str, Any]:
        return {
            "type": "array",
            "items": {"enum": [op.value for op in known]},
            "minItems": 1,
            "uniqueItems": True,
        }

    def mapping(
        keys: Mapping[str, str], required: list[str], shapes: Mapping[str, Any]
    ) -> dict[str, Any]:
        properties = {
            key: {"description": what, **shapes.get(key, {"type": "string"})}
            for key, what in keys.items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    name_schema = {"type": "string", "pattern": f"^{NAME.pattern}$"}
    ticket = mapping(
        TICKET_KEYS,
        ["key", "fields"],
        {
            "table": {"type": "string", "pattern": f"^{COLUMN.pattern}$", "default": DEFAULT_TABLE},
            "key": whole_key_schema,
            "fields": {
                "type": "object",
                "patternProperties": {column: template_schema},
                "additionalProperties": False,
                "minProperties": 1,
            },
            "states": mapping(
                STATES_KEYS,
                ["resolved"],
                {
                    **dict.fromkeys(STATES_KEYS, state_schema),
                    **{key: {"type": "array", "items": state_schema} for key in ("final", "path")},
                },
            ),
            "choices": {
                "type": "object",
                "patternProperties": {
                    f"^(?!(?:{'|'.join(CHOICES_REFUSED)})$){COLUMN.pattern}$": {
                        "type": "array",
                        "items": {"type": ["string", "number", "boolean"]},
                        "minItems": 1,
                    }
                },
                "additionalProperties": False,
            },
            "resolve_when": expression_schema,
            "after_close": {"enum": list(AFTER_CLOSE)},
            "creates": ops(CREATING_OPS),
            "on_delete": {"enum": list(ON_DELETE)},
            "on_missing": {"enum": list(ON_MISSING), "default": "fail"},
            "on_unknown": {
                "type": "object",
                "propertyNames": {
                    "enum": sorted(COLUMN_REFERENCES.keys() - FIELDS_REFUSED.keys() - {TEMPLATE})
                },
                "additionalProperties": {"enum": list(ON_UNKNOWN)},
            },
            "shared": {"type": "boolean", "default": False},
        },
    )
    variables_schema = {
        "type": "object",
        "propertyNames": {"pattern": "^[_A-Za-z][_0-9A-Za-z]*$"},
    }
    mutate = mapping(
        MUTATE_KEYS,
        ["query"],
        {
            "query": {"type": "string", "minLength": 1},
            "variables": variables_schema,
        },
    )
    note = mapping(
        NOTE_KEYS,
        ["ticket", "for", "key", "field", "text"],
        {
            "for": whole_key_schema,
            "key": whole_key_schema,
            "field": {"enum": list(JOURNALS)},
            "text": template_schema,
            "order_by": expression_schema,
        },
    )
    data = mapping(
        DATA_KEYS,
        ["query"],
        {"query": {"type": "string", "minLength": 1}, "variables": variables_schema},
    )
    post = mapping(
        POST_KEYS,
        ["url", "body"],
        {
            "key": whole_key_schema,
            "headers": {"type": "object", "additionalProperties": template_schema},
            "body": {},
            "sign": {"enum": list(SIGNATURES)},
            "allow_private": {"type": "boolean", "default": False},
            "timeout_seconds": {"type": "number", "minimum": 0.1, "maximum": 30},
            "order_by": expression_schema,
        },
    )
    command_ticket = mapping(
        COMMAND_TICKET_KEYS,
        ["number"],
        {
            "table": {"type": "string", "pattern": f"^{COLUMN.pattern}$", "default": DEFAULT_TABLE},
            "number": template_schema,
            "resolve_when": expression_schema,
            "close_code": template_schema,
            "close_notes": template_schema,
        },
    )
    ids = {"type": "array", "items": {"type": "string", "pattern": "^[CDGUW][A-Z0-9]+$"}}
    allow = mapping(ALLOW_KEYS, [], {key: {**ids, "minItems": 1} for key in ALLOW_KEYS})
    reply = mapping(
        REPLY_KEYS, ["text"], {"text": template_schema, "in_channel": {"type": "boolean"}}
    )
    targets = [{"required": [target]} for target in ("ticket", "note", "mutate", "post")]
    reply_alone = {"required": ["reply"], "not": {"required": ["ticket"]}}
    rule = mapping(
        RULE_KEYS,
        ["name", "from"],
        {
            "name": name_schema,
            "id": name_schema,
            "from": {"type": "string", "pattern": f"^(?:{SOURCE.pattern})$"},
            "trigger": {"type": "string", "minLength": 1},
            "type": {
                "anyOf": [
                    type_schema,
                    {"type": "array", "items": type_schema, "minItems": 1, "uniqueItems": True},
                ]
            },
            "ops": ops(tuple(Op)),
            "when": expression_schema,
            "ticket": {"anyOf": [ticket, command_ticket]},
            "filter": {"type": "string", "pattern": f"^{ENCODED_QUERY.pattern}$"},
            "mutate": mutate,
            "answer": template_schema,
            "note": note,
            "data": data,
            "post": post,
            "allow": allow,
            "reply": {"anyOf": [{"type": "string", "minLength": 1}, reply]},
        },
    ) | {"oneOf": [*targets, reply_alone]}
    variables = {"type": "array", "items": {"type": "string", "pattern": f"^{VARIABLE.pattern}$"}}
    top = mapping(
        TOP_KEYS,
        ["version", "rules"],
        {
            "version": {"const": 1},
            "env": variables,
            "types": {
                "type": "object",
                "propertyNames": {"pattern": f"^(?:{TYPED_SOURCE.pattern})$"},
                "additionalProperties": {"type": "string", "minLength": 1},
                "minProperties": 1,
            },
            "rules": {"type": "array", "items": rule, "minItems": 1},
        },
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Which rows become which tickets",
        **top,
    }
