"""Posts, as the engine knows them: a target."""

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from function.connection.guarded_hasura import GuardedGraphql
from function.core.event import Event
from function.core.outcome import Reason, Status
from function.core.values import Json
from function.deadline import Deadline
from function.http.addresses import show_target, target_url
from function.http.network import NetworkSettings
from function.http.session import ANY_NETWORK, PUBLIC_ONLY, ConnectPolicy, Resolver
from function.ledger.holds import HoldRepository
from function.rules.budget import RenderBudget, RenderError
from function.rules.evaluate import StepNames
from function.rules.model import Rule
from function.rules.post import DataQuery, PostRule, post_of
from function.targets.base import Result, Task
from function.targets.post.client import PostClient
from function.targets.post.delivery import EnvVariables, PostDelivery
from function.targets.post.guarded import GuardedTarget, TargetLimits

# There is one for each URL that rules name. More come only where secrets in URLs are replaced; then
# the one that was not called for longest goes.
TARGETS_MAX: Final = 1000
_UNNAMED: Final = "the target of a post"
_OF_HASURA: Final = frozenset(
    {
        Reason.HASURA_UNREACHABLE,
        Reason.HASURA_TIMEOUT,
        Reason.HASURA_UNAVAILABLE,
        Reason.HASURA_OVERLOADED,
        Reason.HASURA_UNAUTHORIZED,
        Reason.HASURA_BAD_ANSWER,
        Reason.DATA_FAILED,
        Reason.DATA_INVALID,
        Reason.DATA_FORBIDDEN,
    }
)


class PostTarget:
    """Tells other systems of rows. Threads share it.

    *graphql* gives Hasura's GraphQL, for the `data` of rules; *settings_digest* stands for the
    settings that decide what becomes of an event. *resolve* looks names up. *variables*
    are those of `env`, whose secrets may be replaced; None where none can be.
    """

    kind = "post"

    def __init__(
        self,
        holds: HoldRepository,
        *,
        graphql: Callable[[], GuardedGraphql],
        network: NetworkSettings,
        settings_digest: str,
        resolve: Resolver = socket.getaddrinfo,
        variables: EnvVariables | None = None,
    ) -> None:
        self.settings_digest = settings_digest
        self.graphql = graphql
        self.variables = variables
        self._holds = holds
        self._network = network
        # By `allow_private`.
        self._policies = {
            False: replace(PUBLIC_ONLY, resolve=resolve),
            True: replace(ANY_NETWORK, resolve=resolve),
        }
        self._opening = threading.Lock()
        # The last called stands last.
        self._targets: dict[tuple[str, bool, str], GuardedTarget] = {}
        # By address: one target may stand in several variables.
        self._limits = WeakValueDictionary[str, TargetLimits]()

    def close(self) -> None:
        with self._opening:
            for target in self._targets.values():
                target.close()

    def connect(self, *, at_once: bool = False) -> "PostSession":  # noqa: ARG002  # there is nothing that another could replace
        return PostSession(self, None)

    def find_target(self, url: str, post: PostRule) -> GuardedTarget:
        """The one at *url*, which all of its rules share."""
        setting = " and ".join(post.url_variables) or "the rule's URL"
        known_by = (url, post.allow_private, setting)
        with self._opening:
            target = self._targets.pop(known_by, None)
            if target is None:
                target = self._open_target(url, setting, self._policies[post.allow_private])
            self._targets[known_by] = target
            if len(self._targets) > TARGETS_MAX:
                self._targets.pop(next(iter(self._targets))).close()
            return target

    def _open_target(self, url: str, setting: str, policy: ConnectPolicy) -> GuardedTarget:
        client = PostClient(url, setting=setting, policy=policy, network=self._network)
        _, address = show_target(url)
        limits = self._limits.get(address) or TargetLimits(self._holds, address)
        self._limits[address] = limits
        return GuardedTarget(client, limits)


class PostSession:
    """Posts of one *rule*; of none in particular where it is None."""

    # What the ledger knows of a row is the same wherever the target is.
    instance = "post"
    version = None
    unverified = None

    def __init__(self, target: PostTarget, rule: Rule | None) -> None:
        self._target = target
        self._rule = rule
        self._names: StepNames | None = None

    @property
    def settings_digest(self) -> str:
        return self._target.settings_digest

    @property
    def system(self) -> str:
        return self._locate()[0]

    def for_rule(self, rule: Rule) -> "PostSession":
        return PostSession(self._target, rule)

    def find_system(self, reason: Reason) -> tuple[str, str]:
        if reason in _OF_HASURA:
            return "Hasura", self._target.graphql().address
        return self._locate()

    def apply(self, task: Task) -> Result:
        if not task.moved or task.overtaken:
            # The row is elsewhere by now, or was; its last event tells the target so.
            return Result(Status.SUPERSEDED, None)
        assert task.desired is not None  # noqa: S101  # for the type checker: the engine has said what is desired
        assert task.event is not None  # noqa: S101  # likewise: a post leaves nothing to be looked at
        assert task.step is not None  # noqa: S101  # likewise
        if not task.desired.when:
            return Result(Status.SKIPPED, Reason.WHEN_FALSE)

        def fetch(data: DataQuery, variables: Mapping[str, Json]) -> dict[str, Json]:
            return self._fetch(data, variables, task.deadline)

        return PostDelivery(
            task,
            task.step,
            self._names_of(task.rule, task.event),
            fetch=fetch,
            find_target=self._target.find_target,
            variables=self._target.variables,
        ).send()

    def _names_of(self, rule: Rule, event: Event) -> StepNames:
        """Those of the event that the session is for, worked out once for all of its keys."""
        if self._names is None or self._names.event is not event:
            self._names = StepNames(rule, event)
        return self._names

    def settle(self, task: Task) -> None:
        """A call whose answer was lost is made again by its event, which the receiver knows by its
        id."""
        task.record = task.record.without_suspicion()

    def _fetch(
        self, data: DataQuery, variables: Mapping[str, Json], deadline: Deadline
    ) -> dict[str, Json]:
        return self._target.graphql().execute(
            data.query,
            variables,
            operation_name=data.operation_name,
            deadline=deadline,
            is_query=True,
        )

    def _locate(self) -> tuple[str, str]:
        """What people call the target, and where it is, without what may be secret of its URL."""
        if self._rule is None:
            return _UNNAMED, ""
        post = post_of(self._rule)
        try:
            return show_target(target_url(post.render_url({"env": self._rule.env}, RenderBudget())))
        except (RenderError, ValueError):
            return _UNNAMED, ""
