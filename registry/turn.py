"""The right to change champions, and what becomes of whoever loses it half-way.

PostgreSQL gives the ledger's lock away with the connection: when it is restarted, say. Whoever hung in MLflow meanwhile would then
point the alias back to an older entry, over somebody else's newer one. So:

1. Before the alias is moved it is seen that the lock is ours and the entry the newest. What has come too late moves nothing.
2. The same is seen after it, since MLflow may have kept us waiting in between.
3. If the lock was lost, it is taken anew: where a newer entry has been carried out and the alias is where we put it, it goes to where the
   newer entry says. Then the call fails as :class:`~registry.errors.LockLost`, and may be repeated.

What is not repaired: whoever cannot have the lock anew in 3, or is killed before it is done, leaves the alias on the older version. Nothing
tells that from a move by hand, and so the next to change champions enters it as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from registry.chain import Entry
from registry.earlier import named
from registry.errors import LockLost, RegistryError
from registry.ledger import Ledger
from registry.versions import Alias, VersionStore


class Turn:
    """The right to change the champion of one registered model; for one caller at a time.

    Args:
        store: the model's versions.
        ledger: whose lock it is.
    """

    def __init__(self, store: VersionStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._held: Callable[[], bool] = lambda: False
        self._late: Entry | None = None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold it.

        Raises:
            LockLost: :meth:`carry_out` found that it was lost. Where the alias could not be seen to either, the message says so.
            LedgerBusy: somebody else has held it for too long.
        """
        try:
            with self._ledger.exclusive() as self._held:
                yield
        except LockLost as lost:
            try:
                with self._ledger.exclusive():
                    self._put_back()
            except RegistryError as error:
                msg = (
                    f"{lost} Nor could it be seen to afterwards that no older champion stands over a newer one ({error}). If 'sensorloop "
                    "registry history' says that alias and ledger differ, or ends with a move by hand that nobody has made, 'sensorloop "
                    "registry rollback --to VERSION' puts the newer one back."
                )
                raise LockLost(msg) from error
            raise

    def carry_out(self, entry: Entry) -> None:
        """Point the alias to where an entry says.

        Raises:
            LockLost: the right was lost before or meanwhile.
        """
        self._require(entry)
        self._point(entry)
        self._late = entry
        self._require(entry)

    def _put_back(self) -> None:
        newest = self._ledger.champion(self._store.name)
        if newest is None or self._late in {None, newest} or not self._ledger.is_settled(newest):
            return  # what is not settled is finished by whoever comes next
        if self._late is not None and self._store.alias(Alias.CHAMPION) == self._late.version != newest.version:
            self._point(newest)

    def _point(self, entry: Entry) -> None:
        if entry.version is None:
            self._store.unpoint(Alias.CHAMPION)
        else:
            self._store.point(Alias.CHAMPION, entry.version)

    def _require(self, entry: Entry) -> None:
        if self._held() and self._ledger.champion(self._store.name) == entry:
            return
        msg = (
            f"{self._store.name}: the lock of the ledger was lost while entry {entry.sequence} (champion: {named(entry.version)}) "
            "was being carried out. What has been entered stands; try again to see what it came to."
        )
        raise LockLost(msg)
