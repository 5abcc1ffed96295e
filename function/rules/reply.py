"""The `reply` of a rule: what the person who gave a command is told when it is done. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Op
from function.core.finding import FileLocation
from function.core.step import DesiredState
from function.rules.budget import RenderBudget
from function.rules.command import CommandRule
from function.rules.model import Rule, RuleTemplate

REPLY: Final = "reply"
# The command is given up 25 minutes after it was taken, and where it is answered lives for 30.
REPLY_GRACE_SECONDS: Final = 4 * 60.0


@dataclass(frozen=True, slots=True)
class ReplyRule:
    """What is answered to a *command* that was done. *in_channel*: to all who are in the channel;
    anything else is told to the person alone."""

    command: CommandRule
    text: RuleTemplate = field(repr=False)
    in_channel: bool
    locations: Mapping[str, FileLocation] = field(repr=False)

    @property
    def kind(self) -> str:
        return REPLY

    @property
    def table(self) -> str:
        """None: what it makes stands in Slack."""
        return ""

    @property
    def follows(self) -> bool:
        return False

    def all_templates(self) -> Iterator[RuleTemplate]:
        yield self.text

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:  # noqa: ARG002  # the protocol's
        return False

    def desired(
        self,
        names: Mapping[str, Any],  # noqa: ARG002  # the protocol's
        budget: RenderBudget,  # noqa: ARG002  # the protocol's
        *,
        op: Op,  # noqa: ARG002  # the protocol's
        when: bool,
        gone: bool,
    ) -> DesiredState:
        """Nothing: what is said depends on what became of the command."""
        return DesiredState(when=when, resolved=False, gone=gone, fields={}, close={})

    def desired_before(
        self,
        names: Mapping[str, Any],  # noqa: ARG002  # the protocol's
        budget: RenderBudget,  # noqa: ARG002  # the protocol's
    ) -> Mapping[str, str]:
        return {}


def reply_of(rule: Rule) -> ReplyRule:
    """The reply of a *rule* that has one. Raises TypeError for any other."""
    if not isinstance(rule.target, ReplyRule):
        raise TypeError(f"{rule.id} has no reply")
    return rule.target
