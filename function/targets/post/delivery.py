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
            # Before anything is asked for what cannot be sent.
            self._find_url(names, budget)
            if self._post.needs_data and self._post.data is not None:
                variables = self._post.data.render(names, budget)
                names[DATA] = self._fetch(self._post.data, variables)
            if not self._post.is_wanted(names, budget):
                return Result(Status.SKIPPED, Reason.WHEN_FALSE)
            self._call_with_new_secrets(names, budget)
        except RenderError as unsaid:
            raise NotDone(unsaid.failure) from None
        return Result(Status.SENT, None)

    def _call_with_new_secrets(self, names: dict[str, Any], budget: RenderBudget) -> None:
        """Make the call, and once more where its secret turns out to have been replaced."""
        variables = self._variables
        if variables is None:
            self._call(names, budget)
            return
        sent = self._post.list_variables(self._rule.env)
        used = variables.count_replacements(sent)
        try:
            self._call(names, budget)
        except PostError as error:
            failure = error.failure
            if failure.reason is not Reason.TARGET_UNAUTHORIZED:
                raise
            before = self._task.last_reason == failure.reason
            refresh = variables.refresh(sent, used, refused_before=before)
            if refresh.wait_seconds:
                raise PostError(_wait_for_secrets(failure, refresh.wait_seconds)) from None
            if not refresh.replaced:
                raise
            self._call(names, budget)

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

    def _call(self, names: dict[str, Any], budget: RenderBudget) -> None:
        url = self._find_url(names, budget)
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
