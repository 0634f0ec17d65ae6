"""Why a request had no answer that counts, and whether it may be repeated."""

from __future__ import annotations

import ssl

from agentguard.outbound.breakers import Cause

__all__ = ["Failure", "RepeatableFailure", "cause_of", "is_untrusted", "seconds_in"]


class Failure(Exception):
    """An attempt that got no answer, or an answer that the service failed. *after* is in seconds."""

    def __init__(self, reason: str, *, cause: Cause = Cause.REQUEST, after: float | None = None) -> None:
        super().__init__(reason)
        self.cause, self.after = cause, after


class RepeatableFailure(Failure):
    """A failure after which the request may be repeated."""


def is_untrusted(error: BaseException | None) -> bool:
    """Return whether the service's certificate is not trusted: a repetition would not change that."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def cause_of(error: BaseException) -> str:
    """Return what a message may say of an error."""
    return "its certificate is not trusted" if is_untrusted(error) else type(error).__name__


def seconds_in(text: str | None) -> float | None:
    """Read Retry-After (RFC 9110 section 10.2.3) in seconds. A date is ignored."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
