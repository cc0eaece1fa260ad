from __future__ import annotations

from typing import Any

import attrs
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from trio_rooms._room.mail import Mail, SaveFailed
from trio_rooms._room.mailbox import Mailbox


def letter(name: object) -> Mail:
    """A piece of mail that can be told from all others."""
    return SaveFailed(ValueError(name))


def name_of(mail: Mail) -> Any:
    """What it was called."""
    assert isinstance(mail, SaveFailed)
    return mail.error.args[0]


@attrs.define(eq=False)
class Reader:
    """A task that takes mail as an actor does: until there is none, then it waits."""

    box: Mailbox = attrs.field(factory=Mailbox)
    taken: list[Any] = attrs.field(factory=list)
    rounds: int = 0
    """How often it looked because it was woken."""
    over: bool = False
    pause: int = 0
    """Turns of the event loop that it takes over each piece."""
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> None:
        """Read until told that it is over; a reader whose wait is cancelled comes back and waits again."""
        task = trio.lowlevel.current_task()
        while True:
            while self.box.mail:
                self.taken.append(name_of(self.box.mail.popleft()))
                for _ in range(self.pause):
                    await trio.lowlevel.checkpoint()
            if self.over:
                return
            with trio.CancelScope() as self.scope:
                await self.box.wait(task)
            self.rounds += 1

    async def finish(self) -> None:
        """Let it read all that there is, and end."""
        self.over = True
        self.box.poke()
        with trio.fail_after(10):
            await wait_all_tasks_blocked()


async def test_mail_is_read_in_the_order_in_which_it_was_posted(nursery: trio.Nursery) -> None:
    """Whether the reader waits, works or has not begun."""
    reader = Reader(pause=1)
    for number in range(3):
        reader.box.post(letter(number))
    nursery.start_soon(reader.run)
    await trio.lowlevel.checkpoint()
    reader.box.post(letter(3))
    await wait_all_tasks_blocked()
    reader.box.post(letter(4))
    await reader.finish()
    assert reader.taken == [0, 1, 2, 3, 4]


async def test_what_is_put_back_comes_before_all_other_and_in_its_order(nursery: trio.Nursery) -> None:
    """Several that are put back together keep their order, and a reader that waits is woken for them."""
    box = Mailbox()
    box.post(letter("later"))
    box.put_back([letter("b"), letter("c")])
    box.put_back(iter([letter("a")]))
    box.put_back([])
    assert [name_of(mail) for mail in box.mail] == ["a", "b", "c", "later"]
    reader = Reader(box)
    nursery.start_soon(reader.run)
    await wait_all_tasks_blocked()
    box.put_back([letter("again")])
    await wait_all_tasks_blocked()
    assert reader.taken == ["a", "b", "c", "later", "again"]
    await reader.finish()


def test_drain_takes_all_of_it_out() -> None:
    """In its order; the box is empty and takes mail again."""
    box = Mailbox()
    for number in range(3):
        box.post(letter(number))
    assert [name_of(mail) for mail in box.drain()] == [0, 1, 2]
    assert box.drain() == []
    box.post(letter(3))
    assert [name_of(mail) for mail in box.drain()] == [3]


async def test_a_poke_wakes_a_reader_that_waits_and_nobody_else(nursery: trio.Nursery) -> None:
    """Without mail the reader looks once; a poke that finds it at work or gone is no debt."""
    reader = Reader()
    reader.box.poke()
    nursery.start_soon(reader.run)
    await wait_all_tasks_blocked()
    assert reader.rounds == 0
    reader.box.poke()
    reader.box.poke()
    await wait_all_tasks_blocked()
    assert reader.rounds == 1
    await reader.finish()


async def test_a_reader_whose_wait_is_cancelled_is_not_woken_elsewhere(nursery: trio.Nursery) -> None:
    """Mail that comes after the cancel is kept, and does not disturb what the task then waits for."""
    box = Mailbox()
    steps: list[str] = []

    async def read() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await box.wait(trio.lowlevel.current_task())
        steps.append("cancelled")
        await trio.Event().wait()
        steps.append("disturbed")

    nursery.start_soon(read)
    await wait_all_tasks_blocked()
    box.post(letter("kept"))
    box.poke()
    await wait_all_tasks_blocked()
    assert steps == ["cancelled"]
    assert len(box.mail) == 1
    nursery.cancel_scope.cancel()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.integers(1, 3)),
        st.tuples(st.just("put back"), st.integers(0, 3)),
        st.just(("poke",)),
        st.just(("cancel",)),
        st.tuples(st.just("turns"), st.integers(1, 3)),
        st.just(("settle",)),
    ),
    max_size=30,
)


@attrs.define(eq=False)
class Model:
    """What a mailbox and its reader must have come to."""

    reader: Reader
    posted: int = 0
    returned: int = 0
    waiting: list[Any] = attrs.field(factory=list)

    def apply(self, step: Any) -> None:
        """Take one step that awaits nothing."""
        box = self.reader.box
        match step:
            case ("post", count):
                for _ in range(count):
                    box.post(letter(("posted", self.posted)))
                    self.posted += 1
            case ("put back", count):
                mail = [letter(("returned", self.returned + number)) for number in range(count)]
                self.returned += count
                before = [*box.mail]
                box.put_back(mail)
                assert [*box.mail] == [*mail, *before]
            case ("poke",):
                box.poke()
            case ("cancel",):
                self.reader.scope.cancel()

    async def go(self, steps: list[Any]) -> None:
        """Take all steps beside the reader; when all is quiet nothing is left in the box."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reader.run)
            for step in steps:
                self.apply(step)
                if step[0] == "turns":
                    for _ in range(step[1]):
                        await trio.lowlevel.checkpoint()
                elif step[0] == "settle":
                    await wait_all_tasks_blocked()
                    assert not self.reader.box.mail
            await wait_all_tasks_blocked()
            assert not self.reader.box.mail
            await self.reader.finish()
        taken = self.reader.taken
        assert len(taken) == self.posted + self.returned
        assert [number for kind, number in taken if kind == "posted"] == list(range(self.posted))
        assert {number for kind, number in taken if kind == "returned"} == set(range(self.returned))


@settings(max_examples=150, deadline=None)
@given(steps, st.integers(0, 2))
def test_no_wakeup_is_lost_in_any_interleaving(steps: list[Any], pause: int) -> None:
    """Posts, returns, pokes and cancelled waits in any order: all mail is read, once, in its order."""
    trio.run(Model(Reader(pause=pause)).go, steps)
