"""What clients of a ledger must see whatever happens to it, and whether they do.

Every amount that is added to a ledger is another one. So its balances, one after the other, tell what was
added and how often: `Account` knows each ledger by what all its clients together heard of it, and `Member` is
one client, which hears every balance from when it came, each once and in order.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from benchmarks.suite.failures import Failed

__all__ = ["Account", "Member", "Wrong"]


class Wrong(Failed):
    """A promise was broken."""


@attrs.define(eq=False)
class Account:
    """One ledger: what was asked for, and what it told."""

    id: str
    asked: set[int] = attrs.field(factory=set)
    """Amounts that a client was told to add, or to have added later."""
    answers: dict[int, int] = attrs.field(factory=dict)
    """The balance that was the answer to each amount that was added at once."""
    balances: dict[int, int] = attrs.field(factory=lambda: {0: 0})
    """Each balance that anybody heard of, by its count."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    """Set when somebody heard something, and replaced."""
    attended: trio.Event = attrs.field(factory=trio.Event)
    """Set when somebody has come who hears every balance from then on."""
    _amounts: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    def next(self) -> int:
        """An amount that was never added."""
        amount = next(self._amounts)
        self.asked.add(amount)
        return amount

    def forget(self, amount: int) -> None:
        """It was certainly not added, nor will be."""
        self.asked.discard(amount)

    def answer(self, amount: int, data: Any) -> None:
        """Take the answer to an amount that was added at once.

        Raises:
            Wrong: it has no balance in it.
        """
        if not isinstance(data, dict) or not isinstance(data.get("balance"), int):
            raise Wrong(f"ledger {self.id}: {amount} was answered {data!r}")
        self.answers[amount] = data["balance"]

    def hear(self, count: int, balance: int) -> None:
        """Take what one client heard: all must hear the same.

        Raises:
            Wrong: another one has heard something else.
        """
        before = self.balances.setdefault(count, balance)
        if before != balance:
            raise Wrong(
                f"ledger {self.id}: balance {count} is {balance} to one client and {before} to another"
            )
        self.changed.set()
        self.changed = trio.Event()

    def added(self) -> Counter[int]:
        """How often each amount was added, as far as balances next to each other are known."""
        return Counter(
            balance - self.balances[count - 1]
            for count, balance in self.balances.items()
            if count - 1 in self.balances
        )

    async def wait_complete(self) -> None:
        """Wait until all that was asked for was heard of."""
        while len(self.balances) <= len(self.asked):
            await self.changed.wait()

    def check(self, balance: int, count: int) -> None:
        """Compare what the ledger says at the end with all that was asked for, answered and heard.

        Raises:
            Wrong: something is missing, was added twice, or was never asked for.
        """
        added = self.added()
        if twice := {amount for amount, times in added.items() if times > 1}:
            raise Wrong(f"ledger {self.id}: added more than once: {_few(twice)}")
        if strange := added.keys() - self.asked:
            raise Wrong(f"ledger {self.id}: added, and nobody asked for it: {_few(strange)}")
        if missing := self.asked - added.keys():
            raise Wrong(f"ledger {self.id}: asked for, and not added: {_few(missing)}")
        if (balance, count) != (sum(self.asked), len(self.asked)):
            wanted = f"{sum(self.asked)} of {len(self.asked)}"
            raise Wrong(f"ledger {self.id}: it says {balance} of {count} in the end, and not {wanted}")
        by_amount = {
            self.balances[one] - self.balances[one - 1]: self.balances[one] for one in range(1, count + 1)
        }
        for amount, answer in self.answers.items():
            if by_amount[amount] != answer:
                raise Wrong(f"ledger {self.id}: {amount} was answered {answer}, and not {by_amount[amount]}")


@attrs.define(eq=False)
class Member:
    """One client of a ledger, from when it came to when it leaves."""

    account: Account
    name: str = "a client"
    count: int | None = None
    """Of the balance that it heard last."""
    first: int | None = None
    """Of the one that it heard first."""
    began: int | None = None
    """What the ledger told when it was asked."""
    heard: int = 0
    """Balances."""

    def hear(self, name: str, data: Any) -> None:
        """Take one event.

        Raises:
            Wrong: it is not the one that had to come.
        """
        if name == "rooms.reset":
            raise self._wrong(f"lost its session: {data}")
        if name != "balance":
            raise self._wrong(f"heard {name}")
        balance, count = int(data["balance"]), int(data["count"])
        if self.count is None:
            self.first = count
        elif count <= self.count:
            raise self._wrong(f"heard balance {count} after {self.count}")
        elif count > self.count + 1:
            raise self._wrong(f"heard balance {count}, and after {self.count} nothing before it")
        self.count = count
        self.heard += 1
        self.account.hear(count, balance)
        self._check_beginning()

    def came(self, answer: Mapping[str, int]) -> None:
        """Take an answer to ``get`` that was asked for when nothing had been heard.

        Events up to it may be heard before or after it, and what comes behind it must be.
        """
        self.began = answer["count"]
        self.account.hear(answer["count"], answer["balance"])
        self._check_beginning()

    def _check_beginning(self) -> None:
        if self.first is not None and self.began is not None and self.first > self.began + 1:
            raise self._wrong(f"heard balance {self.first} first, and had been told {self.began}")

    async def wait_for(self, count: int) -> None:
        """Wait until it has heard a balance, or knows it."""
        while max(self.count or 0, self.began or 0) < count:
            await self.account.changed.wait()

    def _wrong(self, what: str) -> Wrong:
        return Wrong(f"ledger {self.account.id}: {self.name} {what}")


_FEW: Final = 10


def _few(amounts: set[int]) -> str:
    told = ", ".join(map(str, sorted(amounts)[:_FEW]))
    return told if len(amounts) <= _FEW else f"{told} and {len(amounts) - _FEW} more"
