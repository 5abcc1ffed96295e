"""Who may give a command: the workspace and the person by the settings, the person and the channel
by the rule."""

from collections.abc import Collection

from function.rules.command import find_command
from function.rules.model import Rule
from function.settings import Settings
from function.sources.slack import SlackCommand


def refuse_command(
    command: SlackCommand, settings: Settings, rules: Collection[Rule]
) -> tuple[str, str] | None:
    """Why *command* is not taken: in words for its person, and for the log. None where it is."""
    if command.team_id not in settings.slack_allowed_teams:
        return _NOT_HERE, "its workspace is not among SLACK_ALLOWED_TEAMS"
    users = settings.slack_allowed_users
    if users and command.user_id not in users:
        return _NOT_YOU, "its user is not among SLACK_ALLOWED_USERS"
    rule = find_command(rules, command.name)
    if rule is None:
        return f"/{command.name} is not set up: no rule is for it.", "no rule is for it"
    if not rule.allow.permits(command.user_id, command.channel_id):
        return (
            f"You may not use /{command.name} here: its rule names who may, and where.",
            "its rule does not allow it",
        )
    return None


_NOT_HERE = "This workspace may not use this app: nothing was done."
_NOT_YOU = "You may not use this app: nothing was done."
