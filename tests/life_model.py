"""What must hold in any life of a few rooms, told as it happens; a specification.

`Model` is told everything that is seen from outside: what is sent, what handlers and hooks are called
with, what reaches the store, what clients hear. It knows nothing of how rooms work. Each rule is a
`_must`; what is broken is kept, since half of it is told from inside of handlers, and their errors are
the room's to deal with.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs

IDLE, INTERVAL = 2.0, 0.6
"""What the rooms under test have as their idle timeout and snapshot interval."""
CRASHES, WINDOW, COOL_DOWN, LOADS = 5, 60.0, 30.0, 5
"""A room is given up for so long after more crashes than this in so many seconds; tries of a load."""


@attrs.define
class State:
    """The state of every room under test: what was done to it, and what its storage must hold."""

    log: list[str] = attrs.field(factory=list)
    kept: dict[str, str] = attrs.field(factory=dict)
    flag: bool = False

    def copy(self) -> State:
        """As it is now."""
        return State(list(self.log), dict(self.kept), self.flag)


@attrs.define(eq=False)
class Letter:
    """A message of a client (of one connection), or an ask of the program."""

    name: str
    key: str
    number: int
    """Its place among what its sender sent to this room."""
    script: tuple[str, ...]
    sent: float
    guest: Guest | None = None
    has_id: bool = True
    begun: bool = False
    ended: str = ""
    """How its handler ended: ok, refused, raised, cut by a crash or a stop, or too late to start a task."""
    answers: list[str] = attrs.field(factory=list)


@attrs.define(eq=False)
class Guest:
    """A connection."""

    name: str
    key: str
    attachment: list[str]
    draft: list[str] | None = None
    """The attachment as a handler has edited it, until that handler has ended."""
    channels: set[str] = attrs.field(factory=set)
    entered: bool = False
    greeted: int = 0
    parted: int = 0
    left: bool = False
    """Its client has gone, or begun to go."""
    closed: int = 0
    """The code with which its room has closed it, or may have."""
    forgotten: bool = False
    """Its room was destroyed, and the next one is not told of its end."""
    doubtful: bool = False
    """Its room may have been given up, which closes it with 1011, and nobody is told of its end."""
    either: bool = False
    """It may be closed with 1000, because it came to a room that destroyed itself as it woke."""
    said: list[int] = attrs.field(factory=list)
    """What was sent to it as one of the room or of a channel."""
    heard: list[int] = attrs.field(factory=list)
    bare_errors: int = 0

    @property
    def present(self) -> bool:
        """Whether it must be open."""
        return self.entered and not (self.left or self.closed or self.doubtful)


@attrs.define(eq=False)
class Seen:
    """What is known of one room."""

    key: str
    hooks: bool
    """Whether it has all hooks, or only those of its state."""
    eager: bool
    """Whether it is woken for each who leaves."""
    now: State = attrs.field(factory=State)
    """As its handlers left it; all of it must be in the store when it sleeps."""
    durable: State | None = None
    """As the last commit that was applied has it."""
    durable_epoch: int = 0
    handed: dict[bytes, tuple[State, int, int]] = attrs.field(factory=dict)
    """By the document of a commit: the state at that moment, changes in it, and by which process."""
    changes: list[float] = attrs.field(factory=list)
    """When it was changed since it woke, and below how many of these are durable."""
    saved: int = 0
    lost: str = ""
    """Why `now` need not be what comes back: crash, kill, or a stop that could not save."""
    busy: str = ""
    """What is being handled."""
    failing: bool = False
    """Whether the last commit failed, as far as its caller was told."""
    loads_failed: int = 0
    crashes: list[float] = attrs.field(factory=list)
    refused_until: float = -1.0
    """Until when its mail may be refused, because it was given up or could not be loaded."""
    last: dict[str, int] = attrs.field(factory=dict)
    """By sender, the number of what was handled last."""
    active: float = 0.0
    flying: int = 0
    """Commits under way."""
    again: tuple[State, int, int] | None = None
    """What was handed over with a commit that was turned away because of its number."""
    asking: bool = False
    """Whether the store is being asked, after that, if a commit in doubt had happened."""
    destroy_again: bool = False
    """Whether that was a destroy."""
    muddled: bool = False
    """Whether a destroy happened that was said to have failed: the storage is gone, and the room goes on."""
    destroyed: int = 0
    """How often."""
    destroy_asked: bool = False
    destroys: dict[int, list[Letter]] = attrs.field(factory=dict)
    """By its number, for each destroy() of the program under way: what it had asked before."""
    destroys_perhaps: set[int] = attrs.field(factory=set)
    """Those that may have been done together with another, or not yet."""
    doomed: bool = False
    """Whether a handler that destroys the room has ended, and on_destroy has not come yet."""
    barren: bool = False
    """Whether a hook of waking destroys it, so that it handles nothing."""
    raised: list[str] = attrs.field(factory=list)
    """Errors of handlers of which on_error has not heard."""


@attrs.define(eq=False)
class Model:
    """The rules. ``clock`` is the time of the life."""

    clock: Callable[[], float]
    rooms: dict[str, Seen] = attrs.field(factory=dict)
    guests: dict[str, Guest] = attrs.field(factory=dict)
    letters: dict[str, Letter] = attrs.field(factory=dict)
    broken: list[str] = attrs.field(factory=list)
    epoch: int = 0
    stopping: bool = False
    may_press: bool = False
    faults: int = 0
    """Commits that are still to fail on purpose."""
    stood: bool = False
    """Whether everything stood still once, so that clients have heard of something late."""
    troubled: float = 0.0
    """When the store or the hooks were last slow or failing on purpose."""

    def _must(self, holds: object, rule: str, *about: object) -> None:
        if not holds:
            self.broken.append(f"{rule}: {', '.join(map(str, about))}")

    # The store.

    def handed_over(self, key: str, document: bytes | None) -> None:
        """A commit begins; it has all that was done before, since the state is encoded in the same step."""
        seen = self.rooms[key]
        seen.flying += 1
        if document is not None:
            # Behind one that was turned away because of its number the same state is sent under the next.
            seen.handed[document] = seen.again or (seen.now.copy(), len(seen.changes), self.epoch)
        seen.asking, seen.again = False, None

    def applied(self, key: str, document: bytes | None, *, destroy: bool) -> None:
        """A commit is in the store, whatever its caller will be told."""
        seen = self.rooms[key]
        if destroy:
            seen.durable, seen.saved = None, len(seen.changes)
        elif document is not None:
            self._in_time(seen)
            seen.durable, seen.saved, seen.durable_epoch = seen.handed[document]

    def committed(self, key: str, *, failed: bool, destroy: bool) -> None:
        """Its caller was told."""
        seen = self.rooms[key]
        seen.flying -= 1
        if failed:
            self.faults -= 1
            self._failed(seen, destroy=destroy)
        else:
            seen.failing = False
            if destroy:
                self._destroyed(seen)

    def _failed(self, seen: Seen, *, destroy: bool | None = None) -> None:
        """What was to be written is not, as far as the room knows."""
        seen.failing, seen.asking, seen.again = True, False, None
        self.troubled = max(self.troubled, self.clock() + 10)
        if seen.destroy_again if destroy is None else destroy:
            if not seen.destroy_asked and seen.destroys:
                del seen.destroys[min(seen.destroys)]
            seen.destroy_asked = seen.doomed = False
            # It may have happened: then the storage is gone, and the room goes on.
            seen.muddled |= seen.durable is None

    def load_failed(self, key: str) -> None:
        """A load failed."""
        seen = self.rooms[key]
        if seen.asking:
            self._failed(seen)  # It is not found out now whether a commit had happened.
            return
        seen.loads_failed += 1
        if seen.loads_failed >= LOADS:
            self._refuses(seen, 0)

    def stale(self, key: str, document: bytes | None, *, destroy: bool) -> None:
        """A commit had a number that was used for another one; nobody else writes here."""
        seen = self.rooms[key]
        seen.flying -= 1
        seen.asking, seen.destroy_again = True, destroy
        seen.again = None if document is None else seen.handed[document]
        self._must(seen.failing, "a number is used again only where a commit is in doubt", key)

    def asked_again(self, key: str, *, failed: bool) -> None:
        """A commit in doubt was sent once more, to find out whether it had happened; the caller was told."""
        if failed:
            self.faults -= 1
            self._failed(self.rooms[key])

    # A room's own life.

    def created(self, key: str, state: State, storage: dict[str, str]) -> None:
        """on_create."""
        seen = self.rooms[key]
        self._must(seen.durable is None, "a room with a snapshot is not made anew", key)
        letters = [
            one for one in self.letters.values() if one.key == key and not one.begun and not one.answers
        ]
        mail = any(one.guest is None or not one.guest.closed for one in letters)
        moves = seen.hooks and any(
            not ((one.greeted and one.parted) or one.forgotten) for one in self._of(key)
        )
        why = mail or moves or seen.destroys or seen.destroys_perhaps or seen.lost == "crash"
        self._must(why or self.stopping, "nothing makes a room but mail", key)
        self._must(state == State() and not storage, "a new room is empty", key, state, storage)
        self._begins(seen, State())

    def woken(self, key: str, state: State, storage: dict[str, str], cause: str, *, restarted: bool) -> None:
        """on_wake."""
        seen = self.rooms[key]
        self._must(seen.durable is not None, "only what was saved can wake", key)
        saved = seen.durable or State()
        self._must(state == saved, "a room wakes with what was saved last", key, state, saved)
        self._must(storage == state.kept or seen.muddled, "storage and state agree", key, storage, state.kept)
        self._must(cause != "crash" or seen.lost == "crash", "a crash has a reason", key)
        self._must(restarted == (seen.durable_epoch != self.epoch), "it knows of a restart", key, restarted)
        self._begins(seen, saved)

    def _begins(self, seen: Seen, state: State) -> None:
        unsaved = (
            self.stopping and seen.failing
        )  # An exit in a handler: its room was saved once more, in vain.
        self._must(
            seen.now == state or seen.lost or unsaved,
            "sleep keeps all that was done",
            seen.key,
            seen.now,
            state,
        )
        self._must(not seen.busy, "a room does one thing at a time", seen.key, seen.busy)
        seen.now, seen.changes, seen.saved, seen.lost, seen.loads_failed = state.copy(), [], 0, "", 0
        seen.active, seen.failing = self.clock(), False
        seen.destroy_asked = seen.doomed = seen.barren = False
        seen.raised.clear()

    def destroys_itself(self, key: str, *, waking: bool = False) -> None:
        """A handler, hook or task wants the end of its room."""
        seen = self.rooms[key]
        seen.destroy_asked, seen.barren = True, seen.barren or waking
        seen.doomed = not seen.busy

    def hibernating(self, key: str, *, asked: bool) -> None:
        """on_hibernate."""
        quiet = self.clock() - self.rooms[key].active
        early = asked or self.stopping or self.may_press
        self._must(early or quiet >= IDLE - 1e-6, "nobody sleeps before its time", key, quiet)

    def changed(self, key: str, what: str, kept: dict[str, str | None], *, noticed: bool = True) -> None:
        """A handler, hook or task changed the state, and with it the storage.

        What somebody else does through a context that he has kept is noticed as the room falls asleep.
        """
        seen = self.rooms[key]
        if what == "flip":
            seen.now.flag = not seen.now.flag
        else:
            seen.now.log.append(what)
        for name, value in kept.items():
            if value is None:
                seen.now.kept.pop(name, None)
            else:
                seen.now.kept[name] = value
        if noticed:
            seen.changes.append(self.clock())
        if seen.now == seen.durable:
            seen.saved = len(seen.changes)  # It is again what it was.

    def looks(self, key: str, state: State) -> None:
        """A handler looks at the state."""
        now = self.rooms[key].now
        self._must(state == now, "a handler finds what was done before", key, state, now)

    def crashed(self, key: str) -> None:
        """Something raised that crashes the room."""
        seen, now = self.rooms[key], self.clock()
        seen.lost, seen.doomed = "crash", False
        seen.crashes = [*(then for then in seen.crashes if then > now - WINDOW), now]
        if len(seen.crashes) > CRASHES:
            self._refuses(seen, COOL_DOWN)

    def _refuses(self, seen: Seen, seconds: float) -> None:
        seen.refused_until = max(seen.refused_until, self.clock() + seconds + 1)
        for guest in self._of(seen.key):
            if seconds or not guest.greeted:
                guest.doubtful = True

    def cut(self, key: str, *, held: bool, destroyed: int) -> None:
        """A background task was cancelled; ``destroyed`` is as it was when the task began."""
        seen = self.rooms[key]
        ending = self.stopping or seen.lost or seen.destroyed > destroyed
        self._must(not held or ending, "who is kept awake does not sleep", key)

    def destroying(self, key: str) -> None:
        """on_destroy."""
        seen = self.rooms[key]
        asked = seen.destroy_asked or seen.destroys or seen.destroys_perhaps
        self._must(asked, "nobody is destroyed unasked", key)
        if not seen.destroy_asked and len(seen.destroys) == 1:
            (before,) = seen.destroys.values()
            # Whoever stopped waiting is not told that the room could not be loaded, and was refused.
            late = [
                one.name for one in before if not one.begun and not one.answers and not self._refused(one)
            ]
            self._must(not late, "what was asked before a destroy is handled before it", key, late)

    def _destroyed(self, seen: Seen) -> None:
        if not seen.destroy_asked and seen.destroys:
            del seen.destroys[min(seen.destroys)]
        coming = seen.barren and any(not one.greeted for one in self._of(seen.key))
        for number in sorted(seen.destroys):
            before = seen.destroys[number]
            if any(self._waits(one) for one in before):
                break  # What was asked before it begins a new room, and it is to destroy that.
            del seen.destroys[number]
            if coming or any(not one.begun and not one.answers for one in before):
                seen.destroys_perhaps.add(
                    number
                )  # It is behind what begins a new room, or nothing begins one.
        seen.now, seen.changes, seen.destroy_asked, seen.lost = State(), [], False, ""
        seen.raised.clear()
        seen.destroyed += 1
        seen.doomed = seen.muddled = False
        for guest in self._of(seen.key):
            if seen.barren and not guest.greeted:
                guest.doubtful = guest.either = True  # In the new room, unless that ends in the same way.
            else:
                guest.closed, guest.forgotten = guest.closed or 1000, True
        if seen.barren:
            seen.refused_until = max(seen.refused_until, self.clock())

    def _waits(self, letter: Letter) -> bool:
        return not (letter.begun or letter.answers or self._refused(letter))

    def _of(self, key: str) -> list[Guest]:
        return [one for one in self.guests.values() if one.key == key and one.entered]

    # Mail.

    def begins(self, letter: Letter, attachment: list[str] | None, channels: set[str], red: int) -> None:
        """A handler begins with a message or an ask; so many connections are in the channel "red"."""
        seen, guest = self.rooms[letter.key], letter.guest
        sender = guest.name if guest else "program"
        seen.active = self.clock()
        self._must(not seen.busy, "a room does one thing at a time", letter.name, seen.busy)
        self._must(not letter.begun, "everything is handled once", letter.name)
        late = (
            guest is None and seen.destroys and all(letter not in before for before in seen.destroys.values())
        )
        self._must(not late or seen.lost, "what comes after a destroy is for the next room", letter.name)
        self._must(not seen.doomed, "what comes after a destroy is for the next room", letter.name)
        there = sum("red" in one.channels and not one.parted for one in self._of(letter.key))
        self._must(red <= there or not seen.hooks, "who has left is in no channel", letter.key, red, there)
        last = seen.last.get(sender, 0)
        self._must(letter.number > last, "what one sender sends is handled in order", letter.name, last)
        self._must(not letter.answers, "nothing is handled that was refused", letter.name, letter.answers)
        self._must(not (guest and guest.closed), "who was closed is not heard any more", letter.name)
        letter.begun, seen.last[sender], seen.busy = True, letter.number, letter.name
        if guest is not None:
            self._must(channels == guest.channels, "channels survive", letter.name, channels, guest.channels)
            self._must(
                attachment in (guest.attachment, guest.draft), "attachments survive", letter.name, attachment
            )
            guest.attachment, guest.draft = list(attachment or ()), None

    def ends(self, letter: Letter, how: str) -> None:
        """Its handler has ended."""
        letter.ended, guest, self.rooms[letter.key].busy = how, letter.guest, ""
        self.rooms[letter.key].active = self.clock()
        if guest is not None and guest.draft is not None and how != "cut":
            guest.attachment, guest.draft = guest.draft, None
        self.rooms[letter.key].doomed = self.rooms[letter.key].destroy_asked and how != "cut"
        if how == "raised" and self.rooms[letter.key].hooks:
            self.rooms[letter.key].raised.append(letter.name)

    def answered(self, letter: Letter, answer: str) -> None:
        """Its sender was answered: ok, refused, raised, failed (the room has), or closed (all are)."""
        letter.answers.append(answer)
        seen = self.rooms[letter.key]
        self._must(len(letter.answers) == 1, "one answer to one message", letter.name, letter.answers)
        right = {
            "ok": letter.ended == "ok",
            "refused": letter.ended == "refused",
            "raised": letter.ended in ("raised", "too late")
            or (letter.begun and (seen.lost or self.stopping))
            or (letter.ended == "cut" and self.stood),  # It hears of it late.
            "failed": letter.guest is None and letter.ended in ("", "cut")
            if letter.begun
            else self.stopping or self._refused(letter),
            "closed": self.stopping,
        }
        self._must(right[answer], "the answer is true", letter.name, answer, letter.ended or letter.begun)

    def _refused(self, letter: Letter) -> bool:
        return self.rooms[letter.key].refused_until >= letter.sent

    def heard_error(self, key: str, about: str) -> None:
        """on_error of something that a handler raised."""
        raised = self.rooms[key].raised
        self._must(about in raised, "on_error hears of each error once", key, about)
        if about in raised:
            raised.remove(about)

    # Connections.

    def enters(self, guest: Guest) -> None:
        """A connection comes into its room."""
        guest.entered = not self.stopping
        guest.doubtful = self.rooms[guest.key].refused_until >= self.clock()

    def connected(self, guest: Guest) -> None:
        """on_connect."""
        guest.greeted += 1
        self.rooms[guest.key].active = self.clock()
        self._must(guest.greeted == 1, "on_connect once for each connection", guest.name)

    def disconnected(self, guest: Guest, attachment: list[str], *, clean: bool, again: bool) -> None:
        """on_disconnect; ``again`` if the room crashed when it was told before."""
        guest.parted += not again
        self.rooms[guest.key].active = self.clock()
        self._must(guest.greeted, "who leaves had come", guest.name)
        self._must(guest.parted == 1, "on_disconnect once for each connection", guest.name, guest.parted)
        self._must(
            guest.left or guest.closed or not guest.entered, "only who left is said to have left", guest.name
        )
        self._must(not guest.forgotten, "nobody is told of who was in a destroyed room", guest.name)
        known = attachment in (guest.attachment, guest.draft)
        self._must(known, "attachments survive", guest.name, attachment, guest.attachment)

    def said(self, key: str, number: int, channel: str | None) -> None:
        """Something was sent to a room, or to a channel."""
        for guest in self._of(key):
            if (
                (guest.greeted or not self.rooms[key].hooks)
                and not guest.closed
                and (channel is None or channel in guest.channels)
            ):
                guest.said.append(number)

    def heard(self, guest: Guest, number: int) -> None:
        """A client got it."""
        place = len(guest.heard)
        guest.heard.append(number)
        self._must(
            guest.heard == guest.said[: place + 1], "all is heard in order", guest.name, number, guest.said
        )

    def ended(self, guest: Guest, code: int | None) -> None:
        """A client came to the end of its connection."""
        if not guest.left and guest.entered:
            wanted = {guest.closed} if guest.closed else {1001} if self.stopping else set()
            if guest.doubtful or (self.stopping and not guest.greeted):
                wanted.add(1011)
            if guest.either:
                wanted.add(1000)
            self._must(code in wanted, "a connection stays open", guest.name, code, wanted)

    # Looking at all of it.

    def looked(self) -> None:
        """At any time."""
        for seen in self.rooms.values():
            self._in_time(seen)

    def _in_time(self, seen: Seen) -> None:
        since = seen.changes[seen.saved] if seen.saved < len(seen.changes) else math.inf
        late = self.clock() - since > INTERVAL + 1e-6 and since > self.troubled and not self.faults
        self._must(not late or seen.lost, "a change is saved within the interval", seen.key, since)

    def rested(self, stages: dict[str, str], open_now: dict[str, int], channels: dict[str, set[str]]) -> None:
        """After a long silence without faults."""
        for key, stage in stages.items():
            self._must(stage == "asleep", "a quiet room falls asleep", key, stage)
            self._must(
                not self.rooms[key].raised, "on_error hears of each error once", self.rooms[key].raised
            )
            present = [one.name for one in self._of(key) if one.present]
            most = len(present) + sum(one.doubtful for one in self._of(key))
            joined = set().union(*(one.channels for one in self._of(key) if one.present))
            wrong = joined != channels[key] and not any(one.doubtful for one in self._of(key))
            self._must(not wrong, "channels have those who are in them", key, joined, channels[key])
            absent = [one.name for one in self._of(key) if self._gone(one) and one.parted != 1]
            eager = self.rooms[key].eager and self.rooms[key].refused_until < 0
            self._must(not (eager and absent), "a departure is told at once", key, absent)
            kept = len(present) <= open_now[key] <= most
            self._must(kept, "who is connected stays so", key, open_now[key], present, most)
        for letter in self.letters.values():
            guest, refused = letter.guest, self._refused(letter)
            if guest is None or not (guest.closed or guest.doubtful):
                self._must(letter.begun or letter.answers or refused, "nothing is lost", letter.name)
            if letter.has_id and (guest is None or guest.present):
                self._must(letter.answers, "everything is answered", letter.name, letter.ended)
        for guest in self.guests.values():
            if guest.present:
                self._must(
                    guest.heard == guest.said, "who is there hears all", guest.name, guest.heard, guest.said
                )

    def told(self, guest: Guest) -> None:
        """After that, and after its room, which has hooks for it, woke once more."""
        if guest.entered and not (guest.forgotten or guest.doubtful):
            self._must(guest.greeted == 1, "on_connect once for each connection", guest.name, guest.greeted)
            gone = self._gone(guest)
            self._must(
                guest.parted == gone, "on_disconnect once for each connection", guest.name, guest.parted
            )

    def _gone(self, guest: Guest) -> bool:
        return bool(guest.left or guest.closed) and not (guest.forgotten or guest.doubtful)

    def process_ended(self, *, killed: bool) -> None:
        """The runtime is gone; a regular stop has saved everything that could be saved."""
        for key, seen in self.rooms.items():
            if killed or (seen.failing and not seen.lost):
                seen.lost = "kill" if killed else "stop"
            same = seen.now == (seen.durable or State())
            self._must(
                same or seen.lost,
                "a stop keeps all that was done",
                key,
                seen.now,
                seen.durable,
            )
            seen.busy, seen.crashes, seen.refused_until, seen.failing = "", [], -1.0, False
            seen.destroy_asked, seen.destroys, seen.loads_failed, seen.flying = False, {}, 0, 0
            seen.destroys_perhaps = set()
            seen.asking, seen.again, seen.destroy_again = False, None, False
            seen.last, seen.handed = {}, {}
        self.guests.clear()
        self.letters.clear()
