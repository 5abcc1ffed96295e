"""What the answer of a post's target means. Pure."""

from collections.abc import Collection
from typing import Final

from function.core.outcome import Failure, Reason, Retryability
from function.http.reply import Reply, bound_wait, read_retry_after, shorten_words
from function.targets.post.secrets import hide_secrets

# Of an answer so much is kept, for the ledger and the mail.
WORDS_MAX: Final = 200


def interpret_answer(
    reply: Reply, *, target: str, hidden: Collection[str], now: float
) -> Failure | None:
    """Say why what *reply* answers is not done; None where it is. *now* is UNIX seconds.

    *target* is how the target is called in a sentence. What *hidden* holds is left out of the
    target's own words: some answer with what they were sent.
    """
    if 200 <= reply.status < 300:
        return None
    retryability, reason, hint = _classify(reply.status)
    wait = read_retry_after(reply, now)
    permanent = retryability is Retryability.PERMANENT
    if reason is Reason.TARGET_RATE_LIMITED and (wait is None or wait <= 0):
        # One that gives no time, or one that is over, may be overloaded as with a 503.
        reason = Reason.TARGET_UNAVAILABLE
    return Failure(
        retryability,
        reason,
        f"{target} answers HTTP {reply.status}: {hint}",
        remote_message=read_words(reply.body, hidden),
        retry_after_seconds=None if wait is None or permanent else bound_wait(wait),
        status=reply.status,
    )


def read_words(body: bytes, hidden: Collection[str]) -> str:
    """The beginning of what *body* says, without what *hidden* holds."""
    words = hide_secrets(body.decode("utf-8", "replace"), hidden)
    return shorten_words(words)[:WORDS_MAX]


def _classify(status: int) -> tuple[Retryability, Reason, str]:
    match status:
        case 401 | 403:
            what = "it does not let the function in; check what the rule's headers or signature say"
            return Retryability.PERMANENT, Reason.TARGET_UNAUTHORIZED, what
        case 408:
            return Retryability.TRANSIENT, Reason.TARGET_TIMEOUT, "it gave up waiting"
        case 409 | 425:
            what = "it asks for this event to be sent again later"
            return Retryability.TRANSIENT, Reason.TARGET_NOT_READY, what
        case 410:
            what = "what stood there is gone for good; remove this rule, or give it another URL"
            return Retryability.PERMANENT, Reason.TARGET_GONE, what
        case 429:
            what = "it takes no more calls for now"
            return Retryability.TRANSIENT, Reason.TARGET_RATE_LIMITED, what
        case _ if 300 <= status < 400:
            what = "a redirect is not followed; give the rule the URL that it leads to"
            return Retryability.PERMANENT, Reason.TARGET_REDIRECTS, what
        case _ if 400 <= status < 500:
            what = "it does not take what it is sent; its own words may say why"
            return Retryability.PERMANENT, Reason.TARGET_REFUSED, what
    what = "it, or what is before it, does not work"
    return Retryability.TRANSIENT, Reason.TARGET_UNAVAILABLE, what
