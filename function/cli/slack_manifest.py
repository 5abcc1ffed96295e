"""The manifest of the Slack app that has the commands of the rules. Pure.

Source: https://docs.slack.dev/reference/app-manifest (names, and how long they may be).
"""

from typing import Any, Final

import yaml

from function.rules.command import CommandRule, command_of, rules_with_commands, write_usage
from function.rules.model import Rules

NAME_CHARACTERS_MAX: Final = 35
COMMANDS_MAX: Final = 50
_STEPS: Final = """\
# At https://api.slack.com/apps: Create New App, From a manifest, the workspace, YAML; paste this,
# and install the app.
# Then set SLACK_SIGNING_SECRET to the app's Signing Secret (Basic Information, App Credentials),
# and SLACK_ALLOWED_TEAMS to the workspace's id.
"""


def printed(rules: Rules, source_name: str, public_url: str) -> str:
    """The steps, and the manifest as YAML."""
    manifest = build_manifest(rules, source_name, public_url)
    left_out = [command_of(rule).command for rule in rules_with_commands(rules)[COMMANDS_MAX:]]
    steps = _STEPS
    if left_out:
        names = ", ".join(f"/{name}" for name in left_out)
        steps += f"# An app has {COMMANDS_MAX} commands at most. Left out: {names}\n"
    return steps + yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=1000)


def build_manifest(rules: Rules, source_name: str, public_url: str) -> dict[str, Any]:
    """An app with the commands of *rules*, which go to *public_url*. It asks for no right but to
    have commands."""
    commands = [
        describe_command(command_of(rule), public_url)
        for rule in rules_with_commands(rules)[:COMMANDS_MAX]
    ]
    name = f"ServiceNow {source_name}"[:NAME_CHARACTERS_MAX]
    return {
        "display_information": {
            "name": name,
            "description": "Looks up and resolves ServiceNow tickets.",
        },
        "features": {"slash_commands": commands},
        "oauth_config": {"scopes": {"bot": ["commands"]}},
        "settings": {
            "org_deploy_enabled": False,
            "socket_mode_enabled": False,
            "token_rotation_enabled": False,
        },
    }


def describe_command(rule: CommandRule, public_url: str) -> dict[str, Any]:
    """One command. People, channels and links in it are sent as they were typed."""
    usage = write_usage(rule).partition(" ")[2]
    hint = {"usage_hint": usage} if usage else {}
    verb = "Resolve" if rule.resolves else "Look up"
    what = f"{verb} {_with_article(rule.table.replace('_', ' '))} in ServiceNow"
    return {
        "command": f"/{rule.command}",
        "url": f"{public_url}/slack",
        "description": what if rule.table else "Ask the function",
        **hint,
        "should_escape": False,
    }


def _with_article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"
