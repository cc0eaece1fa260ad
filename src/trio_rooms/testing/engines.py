"""The suite that every engine passes: what `Engine` promises, one test for each promise.

pytest is not imported here, so that this can be imported without it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from trio_rooms.engines.base import Claim, Engine
from trio_rooms.errors import StaleWrite
from trio_rooms.stores.base import Commit, LinkHalf, Opening, RoomHalf, Store

from .conformance.support import raises

__all__ = ["EngineConformance"]

_LEASE: Final = 8.0
_BEAT: Final = 1.0
_KEYS: Final = ("chat/1", "chat/", "chat/\u00e9\U0001f600", "chat/{a}:b c", "x/" + "y" * 256)
"""Rooms that an engine may trip over."""
_SESSION: Final = RoomHalf(0, None, b"", Opening(b"", None, 4, 60.0))


@attrs.define(eq=False)
class _Claims:
    """By which claims somebody writes."""

    epochs: dict[str, int] = attrs.field(factory=dict)

    def epoch_of(self, key: str) -> int:
        """See `Fence`."""
        return self.epochs.get(key, 0)


@attrs.define(eq=False)
class _Ear:
    """What somebody has been sent."""

    heard: list[bytes] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(init=False, factory=trio.Event)

    def hear(self, message: bytes) -> None:
        self.heard.append(message)
        more, self._more = self._more, trio.Event()
        more.set()

    async def until(self, count: int) -> None:
        """Wait until there is so much."""
        with trio.fail_after(10):
            while len(self.heard) < count:
                await self._more.wait()


class Suite(abc.ABC):
    """What a test has at hand."""

    @abc.abstractmethod
    async def later(self, engine: Engine, seconds: float) -> None:
        """Have time pass for the engine, while nobody says anything to it."""

    async def _with(self, engine: Engine, seconds: float, *renewing: str) -> None:
        """Have time pass while some renew their leases."""
        for _ in range(math.ceil(seconds / _BEAT)):
            await self.later(engine, _BEAT)
            for incarnation in renewing:
                assert (await engine.renew(incarnation, b"", _LEASE)).alive


class Members(Suite):
    """Leases."""

    async def test_members_see_each_other(self, engine: Engine) -> None:
        """Whoever has joined is a member, with what it says about itself, until it leaves."""
        async with engine:
            first = await engine.join("ana#1", b"\0one", _LEASE)
            assert (first.alive, first.members) == (True, {"ana#1": b"\0one"})
            second = await engine.join("bob#1", b"", _LEASE)
            assert second.members == {"ana#1": b"\0one", "bob#1": b""}
            renewed = await engine.renew("ana#1", b"other", _LEASE)
            assert (renewed.alive, renewed.members) == (True, {"ana#1": b"other", "bob#1": b""})
            await engine.leave("bob#1")
            await engine.leave("bob#1")
            assert (await engine.renew("ana#1", b"other", _LEASE)).members == {"ana#1": b"other"}

    async def test_who_does_not_renew_is_over_for_good(self, engine: Engine) -> None:
        """A lease that was not renewed ends, and is not renewed any more, by whoever it was."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            await self._with(engine, _LEASE - 2 * _BEAT, "ana#1")
            assert "bob#1" in (await engine.renew("ana#1", b"", _LEASE)).members
            await self._with(engine, 3 * _BEAT, "ana#1")
            for _ in range(2):
                renewal = await engine.renew("bob#1", b"", _LEASE)
                assert (renewal.alive, set(renewal.members)) == (False, {"ana#1"})
            await engine.join("bob#2", b"", _LEASE)
            assert set((await engine.renew("ana#1", b"", _LEASE)).members) == {"ana#1", "bob#2"}

    async def test_who_was_alone_and_late_is_still_a_member(self, engine: Engine) -> None:
        """While nobody renews, as when the engine is away, no lease ends; all begin anew then."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            await engine.claim("chat/1", "bob#1")
            await self.later(engine, 10 * _LEASE)
            assert (await engine.claim("chat/1", "ana#1")).owner == "bob#1"
            assert set((await engine.renew("ana#1", b"", _LEASE)).members) == {"ana#1", "bob#1"}
            await self._with(engine, _LEASE - 2 * _BEAT, "ana#1")
            assert (await engine.claim("chat/1", "ana#1")).owner == "bob#1"
            await self._with(engine, 4 * _BEAT, "ana#1")
            assert (await engine.claim("chat/1", "ana#1")).owner == "ana#1"

    async def test_leases_of_different_lengths_outlive_the_same_silence(self, engine: Engine) -> None:
        """Where nobody could renew, short ones begin anew as well; and where others could, they end."""
        async with engine:
            await engine.join("ana#1", b"", 10 * _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            await engine.claim("chat/1", "bob#1")
            await self.later(engine, 2 * _LEASE)
            assert (await engine.claim("chat/1", "ana#1")).owner == "bob#1"
            assert "bob#1" in (await engine.renew("ana#1", b"", 10 * _LEASE)).members
            for _ in range(math.ceil(_LEASE / _BEAT) + 1):
                await self.later(engine, _BEAT)
                await engine.renew("ana#1", b"", 10 * _LEASE)
            assert set((await engine.renew("ana#1", b"", 10 * _LEASE)).members) == {"ana#1"}

    async def test_who_joins_ends_its_former_incarnation(self, engine: Engine) -> None:
        """A node that starts again need not wait until its former lease has ended."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("ana 2#1", b"", _LEASE)
            await engine.claim("chat/1", "ana#1")
            assert set((await engine.join("ana#2", b"", _LEASE)).members) == {"ana#2", "ana 2#1"}
            assert not (await engine.renew("ana#1", b"", _LEASE)).alive
            assert (await engine.claim("chat/1", "ana#2")).owner == "ana#2"


class Owners(Suite):
    """Claims."""

    async def test_a_room_has_one_owner(self, engine: Engine) -> None:
        """Whoever claims first has it, and its epoch, until it lets go; who is no member gets none."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            assert (await engine.claim("chat/1", "eve#1")).owner == ""
            for key in _KEYS:
                claim = await engine.claim(key, "ana#1")
                assert claim.owner == "ana#1"
                assert 0 < claim.epoch < 2**53
                assert await engine.claim(key, "ana#1") == await engine.claim(key, "bob#1") == claim
                assert not await engine.release(key, "bob#1", claim.epoch)
                assert not await engine.release(key, "ana#1", claim.epoch + 1)
                assert await engine.find([key]) == {key: "ana#1"}
                assert await engine.release(key, "ana#1", claim.epoch)
                assert not await engine.release(key, "ana#1", claim.epoch)
                assert await engine.find([key]) == {}
                again = await engine.claim(key, "bob#1")
                assert again.owner == "bob#1"
                assert again.epoch > claim.epoch
            assert await engine.find([*_KEYS, "chat/none"]) == dict.fromkeys(_KEYS, "bob#1")
            assert await engine.find([]) == {}

    async def test_two_who_claim_at_once(self, engine: Engine) -> None:
        """One of them gets it, and both know which."""
        found: list[Claim] = []

        async def claim(incarnation: str) -> None:
            found.append(await engine.claim("chat/1", incarnation))

        async with engine:
            async with trio.open_nursery() as nursery:
                for number in range(9):
                    await engine.join(f"{number}#1", b"", _LEASE)
                    nursery.start_soon(claim, f"{number}#1")
            assert len(found) == 9
            assert len(set(found)) == 1

    async def test_what_the_dead_had_can_be_claimed(self, engine: Engine) -> None:
        """Whose lease is over, or who has left, owns nothing any more."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            await engine.join("eve#1", b"", _LEASE)
            dead = await engine.claim("chat/1", "bob#1")
            left = await engine.claim("chat/2", "eve#1")
            await engine.leave("eve#1")
            await self._with(engine, _LEASE + 2 * _BEAT, "ana#1")
            assert await engine.find(["chat/1", "chat/2"]) == {}
            assert (await engine.claim("chat/1", "bob#1")).owner == ""
            for key, before in (("chat/1", dead), ("chat/2", left)):
                claim = await engine.claim(key, "ana#1")
                assert claim.owner == "ana#1"
                assert claim.epoch > before.epoch
                assert not await engine.release(key, before.owner, before.epoch)

    async def test_who_comes_back_owns_what_nobody_wanted(self, engine: Engine) -> None:
        """The next incarnation of a node has those of its rooms that nobody has claimed, by their epochs."""
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            epochs = {key: (await engine.claim(key, "ana#1")).epoch for key in _KEYS}
            assert await engine.release(_KEYS[1], "ana#1", epochs[_KEYS[1]])
            await engine.leave("ana#1")
            taken = await engine.claim(_KEYS[0], "bob#1")
            assert await engine.reclaim("ana#2", epochs) == set()
            await engine.join("ana#2", b"", _LEASE)
            assert await engine.reclaim("ana#2", {}) == set()
            for _ in range(2):
                assert await engine.reclaim("ana#2", {**epochs, "chat/none": 5}) == set(_KEYS[2:])
            assert await engine.find(_KEYS) == {_KEYS[0]: "bob#1", **dict.fromkeys(_KEYS[2:], "ana#2")}
            assert await engine.claim(_KEYS[2], "ana#2") == Claim("ana#2", epochs[_KEYS[2]])
            assert await engine.claim(_KEYS[0], "ana#2") == taken


class Messages(Suite):
    """What nodes send to each other, and who is connected where."""

    async def test_messages_arrive_in_order(self, engine: Engine) -> None:
        """What is sent to who listens arrives there, once, as it was sent; what nobody hears is gone."""
        ana, bob = _Ear(), _Ear()
        sent = [b"%d" % number for number in range(100)]
        large = bytes(range(256)) * 2048
        async with engine:
            await engine.send("ana#1", b"too early")
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.listen, "ana#1", ana.hear)
                await nursery.start(engine.listen, "bob#1", bob.hear)
                for message in (*sent, b"", large):
                    await engine.send("ana#1", message)
                await engine.send("bob#1", b"\r\n\0")
                await engine.send("eve#1", b"for nobody")
                await ana.until(102)
                await bob.until(1)
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.listen, "bob#1", bob.hear)
                await engine.send("ana#1", b"too late")
                await engine.send("bob#1", b"last")
                await bob.until(2)
                nursery.cancel_scope.cancel()
        assert ana.heard == [*sent, b"", large]
        assert bob.heard == [b"\r\n\0", b"last"]

    async def test_a_message_that_is_too_large(self, engine: Engine) -> None:
        """It is refused, and the next one is not."""
        ana = _Ear()
        async with engine, trio.open_nursery() as nursery:
            await nursery.start(engine.listen, "ana#1", ana.hear)
            with raises(ValueError):
                await engine.send("ana#1", bytes(512 * 1024 + 1))
            await engine.send("ana#1", b"next")
            await ana.until(1)
            assert ana.heard == [b"next"]
            nursery.cancel_scope.cancel()

    async def test_where_a_user_is(self, engine: Engine) -> None:
        """The nodes that have said so and live; a node may say it twice."""
        async with engine:
            for node in ("ana", "bob", "eve"):
                await engine.join(f"{node}#1", b"", _LEASE)
                for user in ("u", "\u00e9 {x}:"):
                    await engine.note_user(user, f"{node}#1", here=True)
            await engine.note_user("u", "ana#1", here=True)
            assert await engine.nodes_of("u") == ("ana#1", "bob#1", "eve#1")
            await engine.note_user("u", "ana#1", here=False)
            await engine.note_user("u", "ana#1", here=False)
            await engine.leave("eve#1")
            assert await engine.nodes_of("u") == ("bob#1",)
            assert await engine.nodes_of("\u00e9 {x}:") == ("ana#1", "bob#1")
            assert await engine.nodes_of("nobody") == ()


class Stores(Suite):
    """The store that the nodes share."""

    @asynccontextmanager
    async def _two(self, engine: Engine) -> AsyncIterator[tuple[Store, _Claims, Store, _Claims]]:
        async with engine:
            await engine.join("ana#1", b"", _LEASE)
            await engine.join("bob#1", b"", _LEASE)
            ana, bob = _Claims(), _Claims()
            async with engine.store(ana, durable=True) as one, engine.store(bob, durable=True) as other:
                yield one, ana, other, bob

    async def _claim(self, engine: Engine, claims: _Claims, incarnation: str, key: str = "chat/1") -> None:
        claim = await engine.claim(key, incarnation)
        assert claim.owner == incarnation
        claims.epochs[key] = claim.epoch

    async def test_only_the_owner_writes(self, engine: Engine) -> None:
        """A commit of another epoch than the room's is refused; everybody reads, and the numbers go on."""
        async with self._two(engine) as (one, ana, other, bob):
            await self._claim(engine, ana, "ana#1")
            first = Commit("chat/1", 1, one.epoch_of("chat/1"), b"first")
            assert first.epoch == ana.epochs["chat/1"]
            for _ in range(2):
                await one.commit(first)
            assert (await other.load("chat/1")).snapshots == (await one.load("chat/1")).snapshots
            for epoch in (other.epoch_of("chat/1"), first.epoch + 1):
                with raises(StaleWrite):
                    await other.commit(Commit("chat/1", 2, epoch, b"not mine"))
            with raises(StaleWrite):
                await other.commit(Commit("chat/2", 1, 5, b"nobody's"))
            assert await engine.release("chat/1", "ana#1", first.epoch)
            with raises(StaleWrite):
                await one.commit(Commit("chat/1", 2, first.epoch, b"too late"))
            await self._claim(engine, bob, "bob#1")
            with raises(StaleWrite):
                await one.commit(Commit("chat/1", 2, first.epoch, b"too late"))
            await other.commit(Commit("chat/1", 2, bob.epochs["chat/1"], b"second"))
            head = await one.head("chat/1")
            assert (head.number, head.epoch) == (2, bob.epochs["chat/1"])
            assert await one.keys() == ["chat/1"]

    async def test_who_is_over_may_write_until_somebody_claims(self, engine: Engine) -> None:
        """The claim is what counts: whoever has it back has lost nothing."""
        async with self._two(engine) as (one, ana, other, bob):
            await self._claim(engine, ana, "ana#1")
            await engine.leave("ana#1")
            await one.commit(Commit("chat/1", 1, ana.epochs["chat/1"], b"first"))
            await engine.join("ana#2", b"", _LEASE)
            assert await engine.reclaim("ana#2", ana.epochs) == {"chat/1"}
            await one.commit(Commit("chat/1", 2, ana.epochs["chat/1"], b"second"))
            await engine.leave("ana#2")
            await self._claim(engine, bob, "bob#1")
            with raises(StaleWrite):
                await one.commit(Commit("chat/1", 3, ana.epochs["chat/1"], b"too late"))
            await other.commit(Commit("chat/1", 3, bob.epochs["chat/1"], b"third"))

    async def test_connections_go_with_their_node(self, engine: Engine) -> None:
        """Sessions that were connected to who is over have no connection once somebody else has the room."""
        async with self._two(engine) as (one, ana, other, bob):
            await self._claim(engine, ana, "ana#1")
            epoch = ana.epochs["chat/1"]
            await one.commit(
                Commit("chat/1", 1, epoch, sessions=dict.fromkeys((1, 2, 3), _SESSION), links={
                    2: LinkHalf(22, None, 0, b"", presence=b"here"), 3: LinkHalf(0, 77.0, 6, b"gone"),
                })
            )  # fmt: skip
            before = await one.sessions("chat/1")
            async with engine.store(_Claims(), durable=True) as third:
                assert await third.sessions("chat/1") == before
            await engine.leave("ana#1")
            await engine.join("ana#2", b"", _LEASE)
            assert await engine.reclaim("ana#2", ana.epochs) == {"chat/1"}
            assert await other.sessions("chat/1") == before
            await engine.leave("ana#2")
            await self._claim(engine, bob, "bob#1")
            found = [one.link for one in await other.sessions("chat/1")]
            assert found[2] == before[2].link
            for link, was in zip(found[:2], before[:2], strict=True):
                assert link.until is not None
                assert link.until > 60
                assert attrs.evolve(link, until=None) == attrs.evolve(was.link, link=0, pos=5)
            assert next(iter(await other.due(math.inf, 9))).sid == 3
            assert {due.sid for due in await one.due(math.inf, 9)} == {1, 2, 3}

    async def test_connections_of_the_dead_expire(self, engine: Engine) -> None:
        """Though nobody claims the room; who comes back too late for that has lost it."""
        async with self._two(engine) as (one, ana, other, _bob):
            await self._claim(engine, ana, "ana#1")
            await one.commit(Commit("chat/1", 1, ana.epochs["chat/1"], sessions={1: _SESSION}))
            await self._with(engine, _LEASE + 2 * _BEAT, "bob#1")
            assert await other.due(math.inf, 9) == []
            await self._with(engine, 12.0, "bob#1")
            assert [due.sid for due in await other.due(math.inf, 9)] == [1]
            await engine.join("ana#2", b"", _LEASE)
            assert await engine.reclaim("ana#2", ana.epochs) == set()
            with raises(StaleWrite):
                await one.commit(Commit("chat/1", 2, ana.epochs["chat/1"], b"too late"))


class EngineConformance(Members, Owners, Messages, Stores):
    """The suite that every engine passes; subclass it with a fixture ``engine`` and with `later`.

    The fixture returns an engine that nobody else uses, and that is not open. With pytest and pytest-trio
    (``trio_mode = true``)::

        import pytest
        from trio_rooms.testing import EngineConformance

        class TestMyEngine(EngineConformance):
            @pytest.fixture
            def engine(self):
                return MyEngine("...")

            async def later(self, engine, seconds):
                ...  # have so much time pass for its leases

    What a loss of the connection does is for the engine's own tests.
    """
