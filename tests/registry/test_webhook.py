"""Announcements over real HTTP: signed, at least once, kept with what came of them, and never in a promotion's way."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from registry.errors import ChampionMoved, RegistrySettingsError
from registry.ledger import Ledger
from registry.notices import Notices
from registry.promotion import Promotions
from registry.versions import Alias
from registry.webhook import TRIES, Webhook
from tests.fakes.versions import Fuse, Fused, Killed
from tests.registry.houses import PASSED, House, prepared
from tests.registry.receivers import Receiver, dripping, receiver
from tests.registry.servers import free_port

SECRET = "whsec_" + base64.b64encode(b"between the two of us").decode()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def listener() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@dataclass
class Announcing:
    """Promotions of a house that are announced."""

    house: House
    url: str
    secret: str = SECRET

    def promotions(self, writes: int | None = None) -> Promotions:
        fuse = Fuse(writes)
        ledger = Ledger(self.house.url)
        sender = Webhook(self.url, self.secret, timeout=timedelta(seconds=2), clock=lambda: NOW) if self.url else None
        notices = Notices(self.house.url, ledger, self.house.store.name, sender=sender, clock=lambda: NOW)
        store: object = Fused(self.house.store, fuse, ("point", "unpoint", "tag"))
        fused: object = Fused(ledger, fuse, ("append", "settle"))
        return Promotions(store, fused, clock=self.house.clock, who="ana", notices=notices)  # type: ignore[arg-type]

    def promote(self, version: str, writes: int | None = None) -> None:
        now = self.promotions(writes)
        now.promote(version, PASSED, judged_against=now.champion())


@pytest.fixture
def announcing(house: House, listener: Receiver) -> Announcing:
    prepared(house, 0)
    return Announcing(house, listener.url)


def test_a_promotion_is_told_with_its_reasons_and_signed(announcing: Announcing, listener: Receiver) -> None:
    announcing.promote("1")
    ((headers, body),) = listener.heard
    (message,) = listener.messages
    entry = announcing.house.ledger.head()
    assert entry is not None
    assert (message["type"], message["timestamp"]) == ("champion.changed", entry.at)
    told = message["data"]
    assert (told["version"], told["previous_version"], told["action"], told["who"]) == ("1", None, "promote", "ana")
    assert (told["lake_version"], told["run_key"], told["hash"]) == ("17", "key1", entry.hash)
    assert {rule["name"] for rule in told["verdict"]["rules"]} >= {"recovery_ratio", "champion_accuracy"}
    # As standardwebhooks.com says, computed here from what arrived.
    moment = headers["webhook-timestamp"]
    assert int(moment) == int(NOW.timestamp())
    signed = f"{headers['webhook-id']}.{moment}.".encode() + body
    expected = hmac.new(b"between the two of us", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"
    assert "  Webhook: delivered at 2026-03-01 12:00:00 UTC (204 No Content)." in announcing.promotions().explain("1")


def test_rollbacks_and_moves_by_hand_are_told_and_refusals_and_repetitions_are_not(
    announcing: Announcing, listener: Receiver
) -> None:
    announcing.promote("1")
    announcing.promote("2")
    announcing.promotions().rollback(why="Buses.")
    announcing.promote("2")  # judged before: nothing new
    announcing.house.store.point(Alias.CHAMPION, "3")
    with pytest.raises(ChampionMoved):
        announcing.promotions().promote(announcing.house.register(), PASSED, judged_against="1")
    told = [(message["data"]["action"], message["data"]["version"]) for message in listener.messages]
    assert told == [("promote", "1"), ("promote", "2"), ("rollback", "1"), ("manual", "3")]


@pytest.mark.parametrize("how", ["it answers 500", "nobody listens"])
def test_a_failure_fails_no_promotion_and_is_in_log_and_account(
    announcing: Announcing, listener: Receiver, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener.status = 500
    if how == "nobody listens":
        announcing.url = f"http://127.0.0.1:{free_port()}/?token=t0p"
    with caplog.at_level(logging.WARNING):
        announcing.promote("1")
    assert announcing.house.store.alias(Alias.CHAMPION) == "1"
    assert "was not announced at try 1 of 5" in caplog.text
    account = announcing.promotions().explain("1")
    assert "Webhook: not delivered after 1 try: " in account
    assert "t0p" not in account + caplog.text
    listener.status, announcing.url = 200, listener.url
    listener.heard.clear()
    announcing.promote("2")
    assert [message["data"]["version"] for message in listener.messages] == ["1", "2"], "what was missed comes first"
    assert "Webhook: delivered" in announcing.promotions().explain("1")
    assert announcing.promotions().verify() == ()


def test_after_so_many_tries_an_entry_is_given_up(announcing: Announcing, listener: Receiver) -> None:
    listener.status = 400
    announcing.promote("1")
    for _ in range(TRIES + 2):
        announcing.promotions().reconcile()
    assert len(listener.heard) == TRIES
    assert "not delivered after 5 tries, given up: 400 Bad Request" in announcing.promotions().explain("1")
    assert len({headers["webhook-id"] for headers, _ in listener.heard}) == 1, "a receiver can tell that it is the same"
    listener.status = 200
    announcing.promote("2")
    assert listener.messages[-1]["data"]["version"] == "2"


@pytest.mark.parametrize("writes", range(2, 5))
def test_killed_after_the_entry_it_is_told_by_whatever_comes_next(
    announcing: Announcing, listener: Receiver, writes: int
) -> None:
    with pytest.raises(Killed):
        announcing.promote("1", writes)
    assert listener.heard == [], "nothing is told before it is so"
    announcing.promotions().reconcile()
    assert [message["data"]["version"] for message in listener.messages] == ["1"]
    assert announcing.house.store.alias(Alias.CHAMPION) == "1"


def test_a_webhook_that_is_set_up_later_does_not_tell_of_the_years_before(house: House, listener: Receiver) -> None:
    prepared(house, 3)
    assert Announcing(house, "").promotions().explain("3")
    Announcing(house, listener.url).promotions().rollback()
    assert [message["data"]["action"] for message in listener.messages] == ["rollback"]


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("ftp://x", SECRET, "webhook_url = 'ftp://x'"),
        ("https://x", "", "webhook_secret is not"),
        ("https://x", "whsec_not base64", "no base64"),
    ],
)
def test_settings_that_cannot_work(url: str, secret: str, says: str) -> None:
    with pytest.raises(RegistrySettingsError, match=says):
        Webhook(url, secret, timeout=timedelta(seconds=2), clock=lambda: NOW)


def test_a_secret_may_be_any_text(announcing: Announcing, listener: Receiver) -> None:
    announcing.secret = "any text"
    announcing.promote("1")
    ((headers, body),) = listener.heard
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = hmac.new(b"any text", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(expected).decode()}"


@pytest.mark.parametrize(
    ("head", "seconds", "delivered", "text"),
    [
        (b"HTTP/1.1 200 OK\r\nserver: ", 0.3, False, "no answer within 0.3 s"),
        (b"HTTP/1.1 200 OK\r\n\r\n", 60, True, "200 OK"),
    ],
    ids=["head", "body"],
)
def test_a_receiver_that_never_ends_holds_nobody_up(
    house: House, head: bytes, seconds: float, *, delivered: bool, text: str
) -> None:
    """A byte now and then, for ever: no single wait is long. Whose body never ends has answered, however busy the machine."""
    entry = house.promote(house.register()).entry
    with dripping(head) as (url, ended):
        attempt = Webhook(url, SECRET, timeout=timedelta(seconds=seconds), clock=lambda: NOW).send(entry)
        assert not ended.is_set()
        assert attempt.delivered is delivered
        assert attempt.text.startswith(text)
