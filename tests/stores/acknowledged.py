"""What a store has to have of what `store_process.py` has committed."""

from __future__ import annotations

from collections.abc import Mapping

from trio_rooms.stores.base import InboxSize, LinkHalf, Store, Timer

__all__ = ["check_acknowledged"]


async def check_acknowledged(store: Store, acknowledged: Mapping[str, int]) -> None:
    """Check that each commit that was acknowledged is there, and each one whole or not at all.

    Args:
        store: where.
        acknowledged: by room, the number of the last one.
    """
    for key, last in acknowledged.items():
        stored = (await store.load(key)).snapshots
        size = int(key.removeprefix("saved/")) if key.startswith("saved/") else 1000
        # The next one may have become durable without its acknowledgement.
        assert stored[0].generation in {last, last + 1}
        assert [each.generation for each in stored[1:]] == [stored[0].generation - 1][
            : stored[0].generation - 1
        ]
        assert all(each.document == b"%d " % each.generation * size for each in stored)
        if key.startswith("saved/"):
            assert (await store.head(key)).number == stored[0].generation
            continue
        assert await store.list(key) == [("a", stored[0].document), ("b", stored[0].document)]
        number, document = stored[0].generation, stored[0].document
        head = await store.head(key)
        kept = [*range(max(number - 2, 1), number + 1)]
        assert (head.number, head.seq, head.entries) == (number, number, len(kept))
        journal = await store.journal(key, 0, 2**62, 2**62)
        assert [(one.seq, one.body) for one in journal] == [(seq, b"%d " % seq * 1000) for seq in kept]
        session = await store.session(key, 1)
        assert session is not None
        assert (session.room.last, session.room.attachment) == (number, document)
        assert session.link == LinkHalf(0, float(number), number)
        assert [*await store.verdicts(key, 1)] == kept
        assert await store.timers(key) == [("t", Timer(float(number), document))]
        # What it has sent is there exactly once, but for what was settled after a later commit.
        posts = [one.post for one in await store.inbox(key)]
        assert [post.id for post in posts] == [*range(number + 1 - len(posts), number + 1)]
        assert 1 <= len(posts) <= 3
        assert posts[-1].body == document
        assert await store.inbox_size(key) == InboxSize(
            len(posts), sum(len(post.body) + 50 for post in posts)
        )
