"""Calls to the Hub: when they are made again, and what their errors say."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from kpi_bench._secrets import redact
from kpi_bench.errors import HubError

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Asked to wait for longer than this, a command gives up and says so: nobody sits in front of it for ten minutes.
LONGEST_ASKED = 300.0


@dataclass(frozen=True)
class Patience:
    """How long to insist: ``attempts`` in all, waits that double from ``first`` to ``longest`` seconds, and ``timeout``, the
    seconds that a connection may stay silent. A random part of up to half is taken off each wait, so that many clients do not
    come back at once.
    """

    attempts: int = 5
    first: float = 1.0
    longest: float = 30.0
    timeout: float = 120.0

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds to wait after failed attempt 0, 1, ...; ``asked`` is the Hub's Retry-After and is never undercut."""
        full = min(self.longest, self.first * 2.0**attempt)
        # Not the seeded generators: two processes with one seed must still wait differently.
        jitter = random.SystemRandom().random()
        return full * (1 - jitter / 2) if asked is None else asked + self.first * jitter


def insist(what: str, action: Callable[[], T], patience: Patience) -> T:
    """Call ``action`` until it succeeds, fails for good, or patience runs out.

    Only for calls that may be made twice: reading, and writing what a second call finds written.

    Raises:
        HubError: the call failed; the message starts with ``what`` and never holds a token.
    """
    for attempt in range(patience.attempts):
        try:
            with patient_session(patience.timeout):
                return action()
        except client_errors() as error:
            pause(what, error, attempt, patience)
    raise HubError(f"{what}: no attempt was allowed; Patience.attempts must be 1 or more")


def pause(what: str, error: BaseException, attempt: int, patience: Patience) -> None:
    """Wait before another attempt.

    Raises:
        HubError: another attempt would be of no use, or was the last.
    """
    asked = _retry_after(error)
    if not transient(error) or attempt + 1 >= patience.attempts or (asked or 0.0) > LONGEST_ASKED:
        # From None: the client's errors hold the request with its headers, which a traceback printer might show.
        raise HubError(f"{what}: {reason(error)}") from None
    seconds = patience.wait(attempt, asked)
    logger.warning("%s: %s Next attempt in %.0f s.", what, _briefly(error), seconds)
    time.sleep(seconds)


@contextmanager
def patient_session(seconds: float) -> Iterator[None]:
    """Give the client's requests a time limit, which most of them lack, while the block runs."""
    from huggingface_hub import get_session

    def limit(request: Any) -> None:
        given = request.extensions.get("timeout", {})
        parts = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {part: given.get(part) or seconds for part in parts}

    # Any: httpx clients have hooks; older versions of the client hand out sessions of another library, without them.
    session: Any = get_session()
    hooks = getattr(session, "event_hooks", {})
    # A limit of the session would not do: several of the client's calls override it with none.
    session.event_hooks = {**hooks, "request": [*hooks.get("request", []), limit]}
    try:
        yield
    finally:
        session.event_hooks = hooks


@cache
def client_errors() -> tuple[type[Exception], ...]:
    """What the client raises: its own errors, those of its HTTP library and of the system, and for answers that it cannot read."""
    return (_transport_error(), OSError, RuntimeError, ValueError)


@cache
def _transport_error() -> type[Exception]:
    from huggingface_hub.errors import HfHubHTTPError

    # The client has changed its HTTP library twice; this is the base of all errors of the one it uses.
    foreign = [
        c
        for c in HfHubHTTPError.__mro__
        if c.__module__.partition(".")[0] not in {"builtins", "huggingface_hub"}
    ]
    found: type[Exception] = foreign[-1]
    return found


def transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: 408, 429, 5xx, a timeout, a dropped connection, an unreadable answer."""
    found = status(error)
    if found is not None:
        return found in {408, 429} or found >= 500
    # A web page from a gateway in place of an answer is as good as a 502.
    return any(isinstance(link, (_transport_error(), json.JSONDecodeError)) for link in _chain(error))


def status(error: BaseException) -> int | None:
    """HTTP status behind an error of the client, which may wrap the answer in errors of its own."""
    response = _response(error)
    return None if response is None else int(response.status_code)


def reason(error: BaseException) -> str:
    """What went wrong and what to do, in one sentence or two, without tokens."""
    found = status(error)
    advice = {
        400: "the Hub refuses the content",
        401: "no such repository, a private one, or no valid token. Check the name; log in with `hf auth login`, or set HF_TOKEN",
        403: "your account has no access. Ask for it on the repository's page, or use a token that may read or write it",
        404: "the repository or the revision does not exist. Check both; a new repository is made with `hf repos create`",
        409: "it conflicts with what is there",
        412: "the repository changed in between; run the command again",
        413: "the Hub refuses files of this size",
        429: "too many requests; try again later",
    }
    if found is not None:
        text = f"the Hub answered {found}: {advice.get(found, 'try again later' if found >= 500 else 'the request is not accepted')}."
        message = getattr(error, "server_message", None)
        return f"{text} It says: {redact(str(message), _tokens())[:300]}" if message and found < 500 else text
    if transient(error):
        return f"the Hub could not be reached ({_name(error)}). Check the connection, HF_ENDPOINT and proxies, then run the command again."
    return f"{type(error).__name__}: {redact(str(error), _tokens())[:300].rstrip('. ')}."


def network_off() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def _briefly(error: BaseException) -> str:
    found = status(error)
    return f"the Hub answered {found}." if found is not None else f"no answer ({_name(error)})."


def _name(error: BaseException) -> str:
    """Name of the error at the bottom, which says more than its wrappers do."""
    return type(list(_chain(error))[-1]).__name__


def _retry_after(error: BaseException) -> float | None:
    response = _response(error)
    value = "" if response is None else str(response.headers.get("Retry-After", "")).strip()
    return float(value) if value.isdecimal() else None


def _response(error: BaseException) -> Any:
    responses = (getattr(link, "response", None) for link in _chain(error))
    return next((r for r in responses if isinstance(getattr(r, "status_code", None), int)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _tokens() -> tuple[str, ...]:
    from huggingface_hub import get_token

    token = get_token()
    return (token,) if token else ()
