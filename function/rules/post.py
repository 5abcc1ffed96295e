"""The `post` of a rule: a call of another system, and the `data` that is fetched for it. Pure."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from function.core.event import Op
from function.core.finding import FileLocation
from function.core.step import DesiredState
from function.core.values import Json, text
from function.rules.budget import RenderBudget, RenderError
from function.rules.model import Rule, Rules, RuleTemplate, evaluate_condition
from function.rules.structure import StructuredValue, list_templates, render_structure

DATA: Final = "data"
# A target that works answers within a second. What hangs longer uses up Hasura's patience, which
# is for all rules of the event together.
TIMEOUT_SECONDS_DEFAULT: Final = 10.0
TIMEOUT_SECONDS_MAX: Final = 30.0
# In less, no connection is made.
TIMEOUT_SECONDS_MIN: Final = 0.1
# Most servers take 8 KiB of headers in all.
HEADER_CHARACTERS_MAX: Final = 4096

_WITH_USER: Final = re.compile(r"[^/?#]*//[^/?#]*@")
_TWO_CREDENTIALS: Final = (
    "has a user, which is sent in the place of the rule's own header Authorization: leave one out"
)


@dataclass(frozen=True, slots=True)
class DataQuery:
    """What Hasura is asked before the call."""

    query: str
    operation_name: str
    variables: Mapping[str, StructuredValue] = field(repr=False)

    def render(self, names: Mapping[str, Any], budget: RenderBudget) -> dict[str, Json]:
        """The values of the variables. Raises RenderError."""
        return {
            name: render_structure(value, lambda template: template.render(names, budget))
            for name, value in self.variables.items()
        }


@dataclass(frozen=True, slots=True)
class PostTemplates:
    """What a call is made of. *when* is the rule's, where it names `data`; None where it does
    not. A *body* of one template may give the whole text."""

    url: RuleTemplate
    headers: Mapping[str, RuleTemplate]
    body: StructuredValue
    when: RuleTemplate | None


@dataclass(frozen=True, slots=True)
class PostRule:
    """Which system a rule calls, and what it sends.

    *url_variables* are the variables that the URL is made of. *sign* is standard, aws or "" for
    unsigned; *secret* is the variable that is signed with. *follows*: the target is kept in step
    with a row; otherwise each event is told. *locations* is the place of each of its keys in the
    rules file; of one that is left out, and of "", the post's own.
    """

    url_variables: tuple[str, ...]
    follows: bool
    sign: str
    secret: str
    allow_private: bool
    timeout_seconds: float
    templates: PostTemplates = field(repr=False)
    data: DataQuery | None
    locations: Mapping[str, FileLocation] = field(repr=False)

    @property
    def kind(self) -> str:
        return "post"

    @property
    def table(self) -> str:
        """What a call makes stands in no table that we know."""
        return ""

    @property
    def needs_data(self) -> bool:
        """Whether anything that is sent, or the question whether it is, names `data`."""
        return any(DATA in one.syntax.names for one in self._own_templates())

    def all_templates(self) -> Iterator[RuleTemplate]:
        yield from self._own_templates()
        if self.data is not None:
            for value in self.data.variables.values():
                yield from (one.rule_template for one in list_templates(value))

    def list_variables(self, env: Collection[str]) -> frozenset[str]:
        """Those of the variables *env* that a call is made with."""
        names = {self.secret} if self.secret else set()
        for one in self._own_templates():
            if "env" in one.syntax.names:
                # One that names none by its name may read any.
                names |= one.syntax.find_parts("env") or set(env)
        return frozenset(names)

    def is_resolved(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:  # noqa: ARG002  # the protocol's
        """Nothing about a call is ever over."""
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
        """Whether it is called. What it is sent is rendered at each attempt, and kept nowhere."""
        return DesiredState(when=when, resolved=False, gone=gone, fields={}, close={})

    def desired_before(
        self,
        names: Mapping[str, Any],  # noqa: ARG002  # the protocol's
        budget: RenderBudget,  # noqa: ARG002  # the protocol's
    ) -> Mapping[str, str]:
        """A call is not changed from the other side."""
        return {}

    def render_url(self, names: Mapping[str, Any], budget: RenderBudget) -> str:
        """As the environment has it now. Raises RenderError."""
        return self.templates.url.text(names, budget).strip()

    def refuse_user(self, url: str) -> str:
        """Why *url*, which can be read as one, does not go with the headers; "" where it does."""
        has_header = any(name.lower() == "authorization" for name in self.templates.headers)
        return _TWO_CREDENTIALS if has_header and _WITH_USER.match(url) else ""

    def is_wanted(self, names: Mapping[str, Any], budget: RenderBudget) -> bool:
        """Whether `when` holds, where it names `data`. Of a row that is gone it does not, even
        where it asks what the row holds. Raises RenderError."""
        when = self.templates.when
        try:
            return evaluate_condition(when, names, budget, without=True, unsaid=None)
        except RenderError:
            data = names.get(DATA) or {}
            if when is not None and any(
                data.get(root, "") is None for root in when.syntax.find_parts(DATA)
            ):
                return False
            raise

    def render_headers(self, names: Mapping[str, Any], budget: RenderBudget) -> dict[str, str]:
        """Raises RenderError, also for a value that would be another header."""
        return {
            name: _read_header(template, template.text(names, budget))
            for name, template in self.templates.headers.items()
        }

    def render_body(self, names: Mapping[str, Any], budget: RenderBudget) -> bytes:
        """JSON in UTF-8; of one template that gives a text, that text. Raises RenderError."""
        value = render_structure(
            self.templates.body, lambda template: template.render(names, budget)
        )
        written = "null" if value is None else text(value)
        return written.encode(errors="replace")

    def _own_templates(self) -> Iterator[RuleTemplate]:
        templates = self.templates
        yield templates.url
        yield from templates.headers.values()
        yield from (one.rule_template for one in list_templates(templates.body))
        if templates.when is not None:
            yield templates.when


def _read_header(template: RuleTemplate, written: str) -> str:
    value = written.strip(" ")
    if any(unicodedata.category(character) == "Cc" for character in value):
        what = "gives a control character, such as a line end, which no header may hold"
        raise RenderError(what, where=template.where)
    if len(value) > HEADER_CHARACTERS_MAX:
        what = f"gives more than {HEADER_CHARACTERS_MAX} characters, too many for a header"
        raise RenderError(what, where=template.where)
    return value


def post_of(rule: Rule) -> PostRule:
    """The post of a *rule* that has one. Raises TypeError for any other."""
    if not isinstance(rule.target, PostRule):
        raise TypeError(f"{rule.id} has no post")
    return rule.target


def rules_with_posts(rules: Rules) -> tuple[Rule, ...]:
    return tuple(rule for rule in rules.rules if isinstance(rule.target, PostRule))


def fetches_data(rules: Rules) -> bool:
    """Whether any rule asks Hasura for `data`."""
    return any(post_of(rule).data is not None for rule in rules_with_posts(rules))
