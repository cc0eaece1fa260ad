"""Faults that are put into the code on purpose, to see that random lives find each of them.

``python -m tests.gate_faults`` prints which story or which random life finds which, and by which rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.gate_life import Step, live, lives
from tests.gate_stories import STORIES
from trio_rooms import MemoryStore, StaleWrite, StoreError, StoreFull
from trio_rooms._room.dispatcher import Dispatcher
from trio_rooms._room.held import Held
from trio_rooms._room.saver import Saver
from trio_rooms._runtime import registrar
from trio_rooms._runtime import replay as replaying
from trio_rooms._state.delta import Delta
from trio_rooms._state.gate import Gate
from trio_rooms._state.journal import Journal
from trio_rooms._state.record import Record
from trio_rooms._state.sessions import Sessions
from trio_rooms.testing import FaultyStore

__all__ = ["FAULTS", "Found", "search", "stories_that_find"]

Patch = Callable[[pytest.MonkeyPatch], None]
FAULTS: Final[dict[str, Patch]] = {}


def _fault(name: str) -> Callable[[Patch], Patch]:
    def register(patch: Patch) -> Patch:
        FAULTS[name] = patch
        return patch

    return register


@_fault("ids are not looked at: each copy is handled")
def _no_dedupe(patch: pytest.MonkeyPatch) -> None:
    async def is_new(self: Any, link: Any, number: int) -> bool:
        session = await self._shared.record.session(link.sid)
        session.last = max(session.last, number)
        return True

    patch.setattr(Dispatcher, "_is_new", is_new)


@_fault("answers do not wait at the gate")
def _no_gate(patch: pytest.MonkeyPatch) -> None:
    def send(self: Any, link: Any, message: Any) -> None:
        self._hub.send(link, message)

    patch.setattr(Held, "send", send)


@_fault("what changed nothing slips by what is in flight")
def _reads_slip_by(patch: pytest.MonkeyPatch) -> None:
    add, send = Gate.add, Gate._send
    cut: dict[int, int] = {}

    def applied(self: Any) -> int:
        source = self._commits.source
        return 0 if source is None else len(source.state.applied)

    def note(self: Any, *about: Any) -> None:
        cut[id(self)] = applied(self)
        send(self, *about)

    def slip_by(self: Any, job: Any, size: int = 0) -> None:
        if self.flight is not None and not self._commits.substantial and cut.get(id(self)) == applied(self):
            job()
        else:
            add(self, job, size)

    patch.setattr(Gate, "_send", note)
    patch.setattr(Gate, "add", slip_by)


@_fault("who waits for the open batch is not told that it failed")
def _open_batch_not_refused(patch: pytest.MonkeyPatch) -> None:
    roll_back = Gate.roll_back

    def keep(self: Any) -> Any:
        self.open.messages.clear()
        return roll_back(self)

    patch.setattr(Gate, "roll_back", keep)


@_fault("the state stays as it was when a commit failed")
def _state_kept(patch: pytest.MonkeyPatch) -> None:
    load, forget = Saver.load, Saver._forget_state
    kept: dict[int, Any] = {}

    def keep(self: Any) -> None:
        if self.has_state:
            kept[id(self)] = self.state
        forget(self)

    async def load_kept(self: Any) -> Any:
        loaded = await load(self)
        if id(self) in kept:
            self.state = kept.pop(id(self))
        return loaded

    patch.setattr(Saver, "_forget_state", keep)
    patch.setattr(Saver, "load", load_kept)


@_fault("what is not known to be written is sent as another commit")
def _blind(patch: pytest.MonkeyPatch) -> None:
    commit = FaultyStore.commit

    async def blind(self: Any, one: Any) -> None:
        try:
            await commit(self, one)
        except StoreError as error:
            if isinstance(error, StaleWrite | StoreFull):
                raise
            head = await self.store.head(one.key)
            again = attrs.evolve(one, number=head.number + 1, nonce=one.nonce + 1, entries=())
            await commit(self, again if head.seq >= one.seq else attrs.evolve(again, entries=one.entries))

    patch.setattr(FaultyStore, "commit", blind)


@_fault("what is durable and not released is replayed")
def _unreleased_replayed(patch: pytest.MonkeyPatch) -> None:
    replay, feed = replaying.replay, replaying._feed

    async def at_once(hub: Any, record: Any, link: Any, output: Any, at: int) -> None:
        page = await record.entries(at, record.journal.seq, 1 << 30)
        feed(record, link, output, page)
        await replay(hub, record, link, output, record.journal.released)

    patch.setattr(registrar, "replay", at_once)


@_fault("attachments and channels stay as they were edited when a commit failed")
def _no_undo(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delta, "undo", lambda self: self.before_edits.clear())


@_fault("a copy of what is in the gate is forgotten")
def _copy_forgotten(patch: pytest.MonkeyPatch) -> None:
    is_new = Dispatcher._is_new

    async def forget(self: Any, link: Any, number: int) -> bool:
        gate, session = self._shared.gate, self._shared.record.sessions.get(link.sid)
        known = session is not None and number <= session.last
        if known and gate.holds(link.sid, number) is not None:
            return False
        return await is_new(self, link, number)

    patch.setattr(Dispatcher, "_is_new", forget)


@_fault("refusals are not kept")
def _refusal_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Sessions, "refuse", lambda *_: None)


@_fault("a connection that takes a session over begins behind all that there is")
def _takeover_skips(patch: pytest.MonkeyPatch) -> None:
    since = Journal.since
    patch.setattr(Journal, "since", lambda self, *about: max(since(self, *about), self.released))


@_fault("what a session that is away has not seen is trimmed")
def _trimmed_under(patch: pytest.MonkeyPatch) -> None:
    trim = Journal.trim
    patch.setattr(Journal, "trim", lambda self: self.released if trim(self) or self.count else 0)


@_fault("what nobody knows to be sent is sent as if all had it")
def _released_early(patch: pytest.MonkeyPatch) -> None:
    append = Journal.append

    def released(self: Any, *about: Any) -> Any:
        seq = append(self, *about)
        self.released = seq
        return seq

    patch.setattr(Journal, "append", released)


@_fault("after a crash a seq is given out again")
def _seq_again(patch: pytest.MonkeyPatch) -> None:
    apply = MemoryStore._apply

    def low(self: Any, commit: Any) -> None:
        apply(self, commit)
        stored = self._rooms.get(commit.key)
        if stored is not None:
            stored.seq = 0

    patch.setattr(MemoryStore, "_apply", low)


@_fault("a session does not outlive its connection in a commit that failed")
def _end_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Record, "outside_again", lambda *_: None)


@attrs.frozen
class Found:
    """How a fault was found."""

    stories: tuple[str, ...]
    """Those of the stories that find it."""
    lives: int
    """Which of the random lives does; 0 for none of those that were tried."""
    rule: str
    """What was broken."""


@contextmanager
def _with(fault: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        FAULTS[fault](patch)
        yield


def _rule(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0].partition(":")[0] or type(error).__name__


def stories_that_find(fault: str) -> Iterator[tuple[str, str]]:
    """The stories that find a fault, with the rules by which they do."""
    with _with(fault):
        for name, story in STORIES.items():
            try:
                live(story)
            except Exception as error:
                yield name, _rule(error)


def search(fault: str, most: int, start: int = 0) -> Found:
    """Look for a fault with all stories, and with at most so many random lives."""
    stories = list(stories_that_find(fault))
    names, rule, count = tuple(name for name, _ in stories), stories[0][1] if stories else "", 0
    with _with(fault):

        @seed(start)
        @settings(
            max_examples=most,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(lives)
        def random_lives(life: list[Step]) -> None:
            nonlocal count
            count += 1
            live(life)

        try:
            random_lives()
        except Exception as error:
            # Hypothesis lives the one that fails once more.
            return Found(names, max(count - 1, 1), _rule(error))
    return Found(names, 0, rule)


def main(arguments: list[str]) -> None:
    """Print the table."""
    most = int(arguments[0]) if arguments else 500
    print(f"{'fault':44} {'life':>5}  {'stories':8} rule")
    for fault in FAULTS:
        found = search(fault, most)
        stories = ",".join(name.split(maxsplit=1)[0] for name in found.stories) or "-"
        print(f"{fault:44} {found.lives or '-':>5}  {stories:8} {found.rule}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
