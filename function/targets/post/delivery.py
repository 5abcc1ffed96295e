"""One event, told to one target: rendered anew at each attempt, and kept nowhere."""

import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Final, Protocol

from function.core.outcome import Failure, NotDone, Reason, Retryability, Status
from function.core.step import Step
from function.core.values import Json, digest
from function.failpoints import failpoint
from function.http.addresses import refuse_target, target_url
from function.rule_variables import SecretRefresh
from function.rules.budget import RenderBudget, RenderError
from function.rules.evaluate import StepNames
from function.rules.model import Rule
from function.rules.post import DATA, DataQuery, PostRule, post_of
from function.rules.signature import WEBHOOK_ID, find_secret_fault, sign_call
from function.targets.base import Result, Task
from function.targets.post.client import PostError
from function.targets.post.guarded import GuardedTarget
from function.targets.post.secrets import list_secrets

_CONTENT_TYPE: Final = "content-type"


class EnvVariables(Protocol):
    """The variables of `env`, whose secrets may be replaced while the process runs."""

    def count_replacements(self, names: Collection[str]) -> int:
        """How often the values of the variables *names* were replaced."""

    def refresh(
        self, names: Collection[str], used: int, *, refused_before: bool = False
    ) -> SecretRefresh:
        """Read the secrets among the variables *names* again, which were refused as they were after
        *used* replacements. *refused_before*: so was the attempt before this one."""


class PostDelivery:
    """One event under a rule with a post, at *step*; *names* has what templates see there.

    *fetch* makes a query of Hasura's for it, *find_target* gives the target at a URL. *variables*
    are asked for other secrets where the target does not let one in; None where none can be
    replaced.
    """

    def __init__(
        self,
        task: Task,
        step: Step,
        names: StepNames,
        *,
        fetch: Callable[[DataQuery, dict[str, Json]], dict[str, Json]],
        find_target: Callable[[str, PostRule], GuardedTarget],
        variables: EnvVariables | None,
    ) -> None:
        self._task = task
        self._rule: Rule = task.rule
        self._post = post_of(task.rule)
        self._event = names.event
        self._step = step
        self._names = names
        self._fetch = fetch
        self._find_target = find_target
        self._variables = variables

    def send(self) -> Result:
        """Raises NotDone and LedgerUnavailable."""
        try:
            names, budget = self._names.find(self._step)
            used = self._count_replacements()
            # Before anything is asked for what cannot be sent.
            url = self._find_url(names, budget)
            if self._post.needs_data and self._post.data is not None:
                variables = self._post.data.render(names, budget)
                names[DATA] = self._fetch(self._post.data, variables)
            if not self._post.is_wanted(names, budget):
                return Result(Status.SKIPPED, Reason.WHEN_FALSE)
            try:
                self._call(url, names, budget)
            except PostError as error:
                if not self._refresh_secrets(error, used):
                    raise
                self._call(self._find_url(names, budget), names, budget)
        except RenderError as unsaid:
            raise NotDone(unsaid.failure) from None
        return Result(Status.SENT, None)

    def _count_replacements(self) -> int:
        """How often what the call is made with was replaced."""
        if self._variables is None:
            return 0
        return self._variables.count_replacements(self._post.list_variables(self._rule.env))

    def _refresh_secrets(self, error: PostError, used: int) -> bool:
        """Whether a call that gave *error*, made with the secrets after *used* replacements, is to
        be made with others. Raises PostError where that is to be seen later."""
        failure = error.failure
        if self._variables is None or failure.reason is not Reason.TARGET_UNAUTHORIZED:
            return False
        refresh = self._variables.refresh(
            self._post.list_variables(self._rule.env),
            used,
            refused_before=self._task.last_reason == failure.reason,
        )
        if refresh.wait_seconds:
            raise PostError(_wait_for_secrets(failure, refresh.wait_seconds)) from None
        return refresh.replaced

    def _find_url(self, names: dict[str, Any], budget: RenderBudget) -> str:
        """Raises NotDone for one that must not be called."""
        shown = " and ".join(self._post.url_variables) or "The URL"
        try:
            url = target_url(self._post.render_url(names, budget))
            refused = refuse_target(url, allow_private=self._post.allow_private)
            refused = refused or self._post.refuse_user(url)
        except ValueError as error:
            refused = str(error)
        if refused:
            hint = f"{self._post.templates.url.where}: {shown} {refused}"
            raise NotDone(Failure(Retryability.PERMANENT, Reason.TARGET_ADDRESS, hint))
        return url

    def _call(self, url: str, names: dict[str, Any], budget: RenderBudget) -> None:
        target = self._find_target(url, self._post)
        own = self._post.render_headers(names, budget)
        body = self._post.render_body(names, budget)
        headers = {WEBHOOK_ID: self._webhook_id(), **own, **self._sign(body)}
        if not any(name.lower() == _CONTENT_TYPE for name in own):
            headers[_CONTENT_TYPE] = "application/json"
        failpoint("before_call")
        try:
            target.send(
                body,
                headers,
                hidden=list_secrets(url, own, self._rule.env),
                timeout_seconds=self._post.timeout_seconds,
                deadline=self._task.deadline,
            )
        finally:
            failpoint("after_call")

    def _sign(self, body: bytes) -> dict[str, str]:
        if not self._post.sign:
            return {}
        secret = self._rule.env[self._post.secret]
        if fault := find_secret_fault(self._post.sign, secret):
            hint = f"{self._post.locations['secret']}: {self._post.secret} {fault}"
            raise NotDone(Failure(Retryability.PERMANENT, Reason.BAD_MAPPING, hint))
        return sign_call(
            self._post.sign, secret, webhook_id=self._webhook_id(), body=body, at=time.time()
        )

    def _webhook_id(self) -> str:
        """The same for every attempt and every replay, and another one for each key."""
        return digest(self._event.id, self._event.content, self._rule.id, self._step.key)


def _wait_for_secrets(failure: Failure, seconds: float) -> Failure:
    """The *failure* of a call whose secrets were read so shortly before that they may have been
    replaced since."""
    return replace(
        failure,
        retryability=Retryability.TRANSIENT,
        hint=f"{failure.hint}; its secrets are read again before the next attempt",
        retry_after_seconds=seconds,
    )
