"""The store in Valkey as several nodes share it: who may write, and whose connections have gone."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import trio

from tests.valkey import Valkey as Server
from trio_rooms.engines.valkey import Valkey
from trio_rooms.errors import StaleWrite, StoreInUse
from trio_rooms.stores import ValkeyStore
from trio_rooms.stores.base import Commit, LinkHalf, Opening, Post, RoomHalf, Store

SESSION = RoomHalf(0, None, b"", Opening(b"token", None, 4, 60.0))
CONNECTED = LinkHalf(7, None)


@attrs.define(eq=False)
class Node:
    """A node's claims, and its store."""

    name: str
    engine: Valkey
    epochs: dict[str, int] = attrs.field(factory=dict)
    store: Store = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = self.engine.store(self, durable=True)

    def epoch_of(self, key: str) -> int:
        """See `Fence`."""
        return self.epochs.get(key, 0)

    async def claim(self, key: str) -> int:
        """Have a room from now on."""
        claim = await self.engine.claim(key, self.name)
        assert claim.owner == self.name
        self.epochs[key] = claim.epoch
        return claim.epoch

    async def commit(self, key: str, **rest: object) -> Commit:
        """Write the next commit of a room."""
        number = (await self.store.head(key)).number + 1
        commit = Commit(key, number, self.store.epoch_of(key), **rest)  # type: ignore[arg-type]
        await self.store.commit(commit)
        return commit


@pytest.fixture
async def nodes(valkey: Server) -> AsyncIterator[tuple[Node, Node]]:
    """Two that live."""
    engine = Valkey(valkey.url)
    ana, ben = Node("ana#1", engine), Node("ben#1", engine)
    async with engine, ana.store, ben.store:
        for node in (ana, ben):
            await engine.join(node.name, b"", 600)
        yield ana, ben


async def die(node: Node, ago: float) -> None:
    """A node is no more, since so many seconds."""
    await node.engine.leave(node.name)
    await node.engine._server.call("ZINCRBY", "{rooms}:dead", -ago, node.name)


def at(server: Server, name: str) -> set[bytes]:
    """Of which rooms it is noted that a node has connections there."""
    found = server.ask("SMEMBERS", f"{{rooms}}:at:{name}")
    return set(found)


async def test_only_who_has_claimed_a_room_writes_it(nodes: tuple[Node, Node]) -> None:
    """Not before, nor after it was released or taken, nor the same commit again; reading does everybody."""
    ana, ben = nodes
    with pytest.raises(StaleWrite, match="another node has taken it"):
        await ana.store.commit(Commit("chat/1", 1, 0, b"one"))
    with pytest.raises(StaleWrite):
        await ana.store.commit(Commit("chat/1", 1, 5, b"one"))
    assert ana.store.statistics().failures == 2
    epoch = await ana.claim("chat/1")
    commit = await ana.commit("chat/1", document=b"one")
    await ana.store.commit(commit)
    for other in (epoch - 1, epoch + 1, 1):
        with pytest.raises(StaleWrite):
            await ben.store.commit(Commit("chat/1", 2, other, b"two"))
    assert (await ben.store.load("chat/1")).snapshots[0].document == b"one"
    assert (await ben.store.head("chat/1")).epoch == epoch
    await ana.engine.release("chat/1", ana.name, epoch)
    for number in (1, 2):
        with pytest.raises(StaleWrite):
            await ana.store.commit(attrs.evolve(commit, number=number))
    later = await ben.claim("chat/1")
    assert later > epoch
    with pytest.raises(StaleWrite):
        await ana.store.commit(attrs.evolve(commit, number=2))
    await ben.commit("chat/1", document=b"two")
    assert (await ana.store.head("chat/1")).epoch == later


async def test_who_claims_a_room_gives_up_its_connections(nodes: tuple[Node, Node], valkey: Server) -> None:
    """All that were there, in pages, before anything of it is read or written; those made since then stay."""
    ana, ben = nodes
    await ana.claim("chat/1")
    sids = range(1, 1201)
    links = dict.fromkeys(sids, CONNECTED) | {2: LinkHalf(0, 5e9, 9), 3: LinkHalf(0, None, ended=True)}
    del links[4]  # As if it had one.
    await ana.commit("chat/1", sessions=dict.fromkeys(sids, SESSION), links=links)
    assert at(valkey, ana.name) == {b"chat/1"}
    assert len(await ben.store.due(math.inf, 2000)) == 1
    await die(ana, 0)
    await ben.claim("chat/1")
    positions = await ana.store.positions("chat/1")
    assert positions == {5: 1198, 9: 1}
    due = await ben.store.due(math.inf, 2000)
    assert len(due) == 1199
    session = await ben.store.session("chat/1", 4)
    assert session is not None
    assert session.link.until is not None
    assert session.link.until == due[0].time
    await ben.commit("chat/1", links={1: LinkHalf(8, None)})
    assert at(valkey, ben.name) == {b"chat/1"}
    await ana.engine._server.call("ZINCRBY", "{rooms}:dead", -100, ana.name)
    assert len(await ben.store.due(math.inf, 2000)) == 1198
    assert await ben.store.positions("chat/1") == {5: 1197, 9: 1}
    assert at(valkey, ana.name) == set()
    assert valkey.ask("ZCARD", "{rooms}:dead") == 0


async def test_a_commit_repairs_what_nobody_has_read(nodes: tuple[Node, Node]) -> None:
    """Who writes before it reads finds the same as who reads first, also where there are many."""
    ana, ben = nodes
    for key, count in (("chat/1", 3), ("chat/2", 700)):
        await ana.claim(key)
        sids = range(1, count + 1)
        await ana.commit(key, sessions=dict.fromkeys(sids, SESSION))
    await die(ana, 0)
    for key, count in (("chat/1", 3), ("chat/2", 700)):
        commit = Commit(key, 2, await ben.claim(key), links={1: LinkHalf(9, None)})
        await ben.store.commit(commit)
        links = [one.link for one in await ben.store.sessions(key)]
        assert links[0] == LinkHalf(9, None)
        assert len(links) == count
        assert all(link.until is not None and link.pos == 5 for link in links[1:])


async def test_connections_of_a_dead_node_are_given_up_though_nobody_comes(
    nodes: tuple[Node, Node], valkey: Server
) -> None:
    """Not before it can have come back; then its claim goes, too, and it cannot come back to that room."""
    ana, ben = nodes
    for key in ("chat/1", "chat/2", "chat/3"):
        await ana.claim(key)
        await ana.commit(key, sessions={1: SESSION, 2: SESSION}, links={1: CONNECTED})
    await ana.claim("chat/4")
    await ana.commit("chat/4", document=b"four")
    await ana.claim("chat/5")  # Of which nothing is stored.
    await die(ana, 0)
    await ben.claim("chat/2")
    assert await ben.store.due(math.inf, 10) == []
    await ben.store.head("chat/2")
    await ana.engine.join("ana#2", b"", 600)
    kept = await ana.engine.reclaim("ana#2", {"chat/3": ana.epochs["chat/3"]})
    assert kept == {"chat/3"}
    died = trio.current_time()
    await ana.engine._server.call("ZINCRBY", "{rooms}:dead", -11, ana.name)
    due = await ben.store.due(math.inf, 10)
    assert {one.key for one in due} == {"chat/1", "chat/2"}
    assert len(due) == 4
    # Of what nobody has claimed they count from the death.
    earlier = [one.time for one in due if one.key == "chat/1"]
    later = [one.time for one in due if one.key == "chat/2"]
    assert 10 < min(later) - max(earlier) < 13 + trio.current_time() - died
    assert await ana.engine.reclaim("ana#2", {key: ana.epochs[key] for key in ("chat/1", "chat/4")}) == {
        "chat/4"
    }
    assert valkey.ask("EXISTS", "{rooms}:r:chat/5") == 0
    assert [one.link for one in await ben.store.sessions("chat/3")] == [CONNECTED, LinkHalf(0, None)]
    assert at(valkey, "ana#2") == {b"chat/3"}


async def test_where_connections_are_is_forgotten_with_them(nodes: tuple[Node, Node], valkey: Server) -> None:
    """However they go: away, over, their session gone, their room destroyed."""
    ana, _ = nodes
    ways: tuple[dict[str, Any], ...] = (
        {"links": {1: LinkHalf(0, 5.0)}},
        {"links": {1: LinkHalf(0, None, ended=True)}},
        {"sessions": {1: None}},
        {"destroy": True},
    )
    for number, way in enumerate(ways):
        key = f"chat/{number}"
        epoch = await ana.claim(key)
        await ana.commit(key, sessions={1: SESSION}, links={1: CONNECTED})
        assert at(valkey, ana.name) == {key.encode()}
        await ana.commit(key, **way)
        assert at(valkey, ana.name) == set()
        await ana.engine.release(key, ana.name, epoch)
    # Of those that are gone nothing is left.
    assert {one.rpartition(b":")[2] for one in valkey.ask("KEYS", "{rooms}:r:*")} == {b"chat/0", b"chat/1"}
    assert valkey.ask("ZCARD", "{rooms}:ended") == 0


async def test_nobody_is_alone_while_nodes_live(nodes: tuple[Node, Node], valkey: Server) -> None:
    """A store of one process is refused, but for looking. Once they are dead it takes all from them."""
    ana, ben = nodes
    await ana.claim("chat/1")
    commit = await ana.commit("chat/1", document=b"one", sessions={1: SESSION})
    with pytest.raises(StoreInUse, match="ana, ben"):
        await ValkeyStore(valkey.url).open()
    async with ValkeyStore(valkey.url, read_only=True) as looking:
        assert await looking.keys() == ["chat/1"]
    for node in nodes:
        # As if nobody had noticed.
        await ana.engine._server.call("ZADD", "{rooms}:nodes", 1, node.name)
    async with ValkeyStore(valkey.url) as store:
        (session,) = await store.sessions("chat/1")
        assert session.link.until is not None
        with pytest.raises(StaleWrite, match="opened for writing since"):
            await ana.store.commit(attrs.evolve(commit, number=2))
        with pytest.raises(StaleWrite):
            await ben.store.post([Post("ana", 1, b"", 9.0)])
        await store.commit(Commit("chat/1", 2, store.epoch, b"two", links={1: LinkHalf(5, None)}))
        assert not (await ana.engine.renew(ana.name, b"", 600)).alive
    # And back: what it left is given up by the nodes.
    new = Node("ana#2", ana.engine)
    await ana.engine.join(new.name, b"", 600)
    async with new.store:
        with pytest.raises(StoreInUse):
            await ValkeyStore(valkey.url).open()
        assert await new.store.due(math.inf, 9) == []
        await ana.engine._server.call("ZINCRBY", "{rooms}:dead", -11, "")
        assert [one.sid for one in await new.store.due(math.inf, 9)] == [1]


async def test_nodes_go_on_with_a_server_that_was_emptied(valkey: Server) -> None:
    """Also where somebody was alone there once; and whoever is alone later is, though that is forgotten."""
    async with ValkeyStore(valkey.url):
        pass
    engine = Valkey(valkey.url)
    ana = Node("ana#1", engine)
    async with engine, ana.store:
        valkey.ask("FLUSHALL")
        await engine.join(ana.name, b"", 600)
        await ana.claim("chat/1")
        await ana.commit("chat/1", document=b"one", sends=(Post("eve", 1, b"", 9.0),))
        assert await ana.store.post([Post("eve", 2, b"", 9.0)])
        await engine.leave(ana.name)
        valkey.ask("FLUSHALL")
        async with ValkeyStore(valkey.url):
            pass
        await engine.join(ana.name, b"", 600)
        await ana.claim("chat/1")
        with pytest.raises(StaleWrite, match="opened for writing since"):
            await ana.commit("chat/1", document=b"one")
