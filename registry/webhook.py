"""Tell another service that the champion has changed: a signed POST, in the form of Standard Webhooks (standardwebhooks.com).

MLflow has webhooks of its own. They are sent by its server when an alias is set, whoever set it; they know neither the ledger's
entry nor the verdict, refuse private addresses, and what could not be delivered is in that server's log only. What is announced
here is an entry of the ledger, which makes it a fact with a reason; and whether it arrived is kept beside it
(:mod:`registry.notices`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue
from typing import Any

import httpx

from registry.chain import Entry
from registry.errors import RegistrySettingsError

_PREFIX = "whsec_"
_EVENT = "champion.changed"
TRIES = 5
"""After so many an entry is given up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """What came of one try to deliver."""

    delivered: bool
    text: str
    """The answer's status, or why there was none; never the address's query, which may hold a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What came of announcing an entry."""

    attempts: int
    delivered: bool
    text: str
    """Of the last try."""
    at: str
    """When that was, ISO 8601 in UTC."""

    def __str__(self) -> str:
        if self.delivered:
            return f"delivered at {self.at[:19].replace('T', ' ')} UTC ({self.text})"
        tries = "1 try" if self.attempts == 1 else f"{self.attempts} tries"
        given_up = ", given up" if self.attempts >= TRIES else ""
        return f"not delivered after {tries}{given_up}: {self.text}"


class Webhook:
    """Where entries are announced.

    Args:
        url: that is POSTed to.
        secret: both sides know; ``whsec_`` and base64, or any text.
        timeout: for all of one delivery. Whoever promotes waits for it, so it is short.
        clock: the time now, with time zone; it is signed, so that a receiver can refuse what is old.
        transport: of the HTTP client; None for the real one.

    Raises:
        RegistrySettingsError: no address, or no secret.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        timeout: timedelta,
        clock: Callable[[], datetime],
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            msg = f"[registry] webhook_url = {url!r}: must begin with https:// or http://"
            raise RegistrySettingsError(msg)
        self._url = url
        self._key = _key(secret)
        self._timeout_s = timeout.total_seconds()
        self._clock = clock
        self._transport = transport

    def send(self, entry: Entry) -> Attempt:
        """POST an entry. Says what came of it rather than raise. The same entry has the same ``webhook-id`` each time."""
        body = json.dumps(payload(entry), ensure_ascii=False).encode("utf-8")
        message, moment = f"msg_{entry.hash}", int(self._clock().timestamp())
        headers = {
            "content-type": "application/json",
            "webhook-id": message,
            "webhook-timestamp": str(moment),
            "webhook-signature": signature(self._key, message, moment, body),
        }
        # HTTP clients count each wait of a request by itself: a receiver that sends a byte now and then is never late for them.
        answer: SimpleQueue[Attempt] = SimpleQueue()
        threading.Thread(target=lambda: answer.put(self._post(body, headers)), name="webhook", daemon=True).start()
        try:
            return answer.get(timeout=self._timeout_s)
        except Empty:
            return Attempt(delivered=False, text=f"no answer within {self._timeout_s:g} s ([registry] webhook_timeout)")

    def _post(self, body: bytes, headers: Mapping[str, str]) -> Attempt:
        try:
            with (
                httpx.Client(transport=self._transport, timeout=self._timeout_s, trust_env=False) as client,
                client.stream("POST", self._url, content=body, headers=headers) as answer,  # whose body nobody needs
            ):
                return Attempt(delivered=answer.is_success, text=f"{answer.status_code} {answer.reason_phrase}".strip())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Attempt(delivered=False, text=str(error) or type(error).__name__)


def payload(entry: Entry) -> dict[str, Any]:
    """What is sent: the entry as it is in the ledger, its verdict as an object rather than text."""
    content = asdict(entry)
    content["verdict"] = json.loads(entry.verdict) if entry.verdict else None
    return {"type": _EVENT, "timestamp": entry.at, "data": content}


def signature(key: bytes, message: str, moment: int, body: bytes) -> str:
    """``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``."""
    signed = f"{message}.{moment}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode('ascii')}"


def _key(secret: str) -> bytes:
    if not secret:
        msg = (
            "[registry] webhook_url is set and webhook_secret is not: nobody could tell our messages from another's. Set it to "
            "where the secret is, env:NAME or file:PATH."
        )
        raise RegistrySettingsError(msg)
    if not secret.startswith(_PREFIX):
        return secret.encode("utf-8")
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        msg = f"[registry] webhook_secret: what follows {_PREFIX} is no base64"
        raise RegistrySettingsError(msg) from None
