"""What must hold in any life of a committed room and of the sessions in it, told as it happens.

`Model` is told what reaches the disk and what clients hear, and compares the two; it knows nothing of how
rooms work. What a room has on the disk is the truth: its state says what was applied, in which order, and
who is in it. Each rule is a `_must`; what is broken is kept, since half of it is told from inside of
handlers, and their errors are the room's to deal with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

__all__ = ["IDLE", "SAFE", "WINDOW", "Durable", "Letter", "Model", "Place", "Said", "State", "Visit"]

IDLE: Final = 2.0
"""Seconds of silence after which the room sleeps."""
WINDOW: Final = 20.0
"""Seconds that a session outlives its connection."""
LONGER: Final = 60.0
"""Seconds longer than that an entry of the journal is kept for whoever does not acknowledge it."""
SAFE: Final = "safe/a"
"""The room."""
PASSING: Final = ("unavailable", "too_many_in_flight")
"""Answers that are no verdict: the same id is sent again."""
NEVER: Final = ("not_saved", "handler_timeout", "room_failed")
"""Verdicts that say that a message has changed nothing, now and later."""
REPEATED: Final = ("~", "^")
"""What is noted in a state of drops and resumes, which may come again."""


Place = tuple[int, int]
"""How much was applied when something was said, and the number of what was said then; (0, 0) for none."""


@attrs.define
class State:
    """The state of the room: what was done to it, and what must be true of those who are in it."""

    applied: list[str] = attrs.field(factory=list)
    """Names of messages, and of what happened to connections, in the order in which they were handled."""
    total: int = 0
    last: dict[str, int] = attrs.field(factory=dict)
    """By visit, the id that was handled last."""
    here: list[str] = attrs.field(factory=list)
    """Visits that were greeted, and not parted from."""
    red: list[str] = attrs.field(factory=list)
    """Those of them that are in the channel "red"."""
    attached: dict[str, list[str]] = attrs.field(factory=dict)
    """By visit, its attachment."""
    later: list[str] = attrs.field(factory=list)
    """Messages that have scheduled something which has not been done."""


@attrs.define(eq=False)
class Letter:
    """A message of a client, or an ask of the program."""

    name: str
    event: str
    """do (changes the state), keep (the storage only), look and list (nothing)."""
    acts: tuple[str, ...]
    amount: int
    visit: Visit | None = None
    id: int = 0
    life: int = 0
    """In which of the room's lives it was handled last."""
    never: str = ""
    """What its sender was told, if that says that it is never applied."""
    done: bool = False
    """Whether its sender was told that it is applied."""

    @property
    def wire(self) -> list[Any]:
        """What is sent."""
        return [self.name]


@attrs.define(eq=False)
class Visit:
    """What a client is to the room from a welcome that begins it to the end: a session, or one connection."""

    name: str
    session: bool = True
    token: str = ""
    sid: str = ""
    start: int = 0
    """From where it counts."""
    seq: int = 0
    """The highest that its client has received."""
    asked: int = 0
    """The id that was given out last."""
    unanswered: dict[int, Letter] = attrs.field(factory=dict)
    told: dict[int, tuple[str, Any]] = attrs.field(factory=dict)
    """By id, the verdict and what came with it."""
    heard: set[str] = attrs.field(factory=set)
    """Names of what it got reliably."""
    life: int = 0
    """Which of the room's lives it is in, from one destruction to the next."""
    lost_at: float | None = None
    """When its connection ended; None while it has one."""
    lost_before: float | None = None
    """When its connection had ended the last time, of those that it has come back from."""
    over: str = ""
    """Why it is over, as far as its client knows."""
    waits: bool = False
    """Whether its client was told to send something again later."""
    deaf: bool = False
    """Whether its client does not read now what comes."""
    doubtful: bool = False
    """Whether the room has ended it, or may have, and its client may not know."""

    @property
    def resumable(self) -> bool:
        """Whether its client may come back to it."""
        return self.session and bool(self.token) and not self.over


@attrs.frozen
class Said:
    """An entry of the journal, as the store was given it."""

    seq: int
    name: str
    at: int
    """How much was applied when it was said, what said it included; 0 if nobody knows."""
    to: tuple[str, ...] | None
    """The visits that it is for; None if only the model knows who must get it."""
    time: float


@attrs.define(eq=False)
class Durable:
    """What was ever committed of the room in its present life."""

    state: State = attrs.field(factory=State)
    kept: list[str] = attrs.field(factory=list)
    """Names in its storage."""
    said: list[Said] = attrs.field(factory=list)
    names: set[str] = attrs.field(factory=set)
    """Those of what was said."""
    life: int = 0


@attrs.define(eq=False)
class Model:
    """The rules. ``clock`` is the time of the life."""

    clock: Callable[[], float]
    durable: Durable = attrs.field(factory=Durable)
    former: list[Durable] = attrs.field(factory=list)
    """What there was in the room's former lives."""
    letters: dict[str, Letter] = attrs.field(factory=dict)
    visits: dict[str, Visit] = attrs.field(factory=dict)
    must: dict[str, set[str]] = attrs.field(factory=dict)
    """By the name of what was said, visits that must get it, where ``Said.to`` does not say."""
    plain: dict[str, list[tuple[int, tuple[str, ...]]]] = attrs.field(factory=dict)
    """By the name of a message, what it said that is not kept: number, and the visits that it is for."""
    outside: dict[str, str] = attrs.field(factory=dict)
    """By its name, what became of each thing said reliably from outside: "", lost, refused, or durable."""
    most_entries: int = 10_000
    """The bound of the journal."""
    broken: list[str] = attrs.field(factory=list)

    def _must(self, holds: object, rule: str, *about: object) -> None:
        if not holds:
            self.broken.append(f"{rule}: {', '.join(map(str, about))}")

    # The store.

    def committed(self, state: State | None, kept: Iterable[str], said: Iterable[Said]) -> None:
        """A commit is in the store, whatever anybody is told of it; None for a state that did not change."""
        durable = self.durable
        if state is not None:
            before = durable.state.applied
            self._must(state.applied[: len(before)] == before, "what is durable stays", before, state.applied)
            for name in state.applied[len(before) :]:
                self._applied(name, again=name in before and not name.startswith(REPEATED))
            amounts = self._sum(state.applied)
            self._must(state.total == amounts, "the sum is right", state.total, amounts)
            durable.state = state
        for name in kept:
            self._applied(name, again=name in durable.kept)
            durable.kept.append(name)
        for one in said:
            last = durable.said[-1].seq if durable.said else 0
            self._must(one.seq > last, "seqs grow", one, last)
            self._must(one.name not in durable.names, "nothing is journaled twice", one)
            self._must(self.outside.get(one.name) != "refused", "what was refused is not said", one)
            durable.said.append(one)
            durable.names.add(one.name)

    def _applied(self, name: str, *, again: bool) -> None:
        self._must(not again, "everything is applied once", name)
        letter = self.letters.get(name)
        if letter is not None:
            self._must(not letter.never, "what was refused is never applied", name, letter.never)

    def destroyed(self) -> None:
        """The room was destroyed."""
        self.former.append(self.durable)
        self.durable = Durable(life=self.durable.life + 1)
        for visit in self.visits.values():
            visit.doubtful = True

    def _has(self, letter: Letter) -> bool:
        """Whether the changes of a message are in the store, or were in that life of the room."""
        durable = self._in(letter.life)
        if letter.event == "keep":
            return letter.name in durable.kept
        return letter.event != "do" or letter.name in durable.state.applied

    def _in(self, life: int) -> Durable:
        return [*self.former, self.durable][life]

    # The room.

    def wakes(self, state: State, attached: dict[str, list[str]], red: set[str]) -> None:
        """A room has loaded its state; what its connections have is what it had when that was committed."""
        self._must(
            state == self.durable.state, "a room wakes with what is durable", state, self.durable.state
        )
        for name, attachment in attached.items():
            self._member(state, name, attachment, red=name in red)

    def handles(
        self, letter: Letter, state: State | None, attachment: list[str] | None, *, red: bool
    ) -> None:
        """A handler begins; without a state for one that does not touch it."""
        self._must(not letter.never, "what was refused is never handled", letter.name, letter.never)
        letter.life = self.durable.life
        if letter.event == "keep":
            self._must(letter.name not in self.durable.kept, "changes are made once", letter.name)
        if state is None:
            return
        self._must(letter.name not in state.applied, "changes are made once", letter.name)
        if letter.visit is not None:
            last = state.last.get(letter.visit.name, 0)
            inorder = letter.id > last or not letter.id
            self._must(inorder, "what a client sends is handled in order", letter.name, last)
            self._member(state, letter.visit.name, attachment, red=red)

    def _member(self, state: State, name: str, attachment: list[str] | None, *, red: bool) -> None:
        wanted = state.attached.get(name, [name])
        self._must(attachment == wanted, "an attachment is what the state says", name, attachment, wanted)
        self._must(red == (name in state.red), "channels are what the state says", name, red, state.red)

    def greets(self, state: State, name: str) -> None:
        """on_connect begins."""
        self._must(f"+{name}" not in state.applied, "on_connect once for each session", name)

    def parts(self, state: State, name: str, attachment: list[str] | None) -> None:
        """on_disconnect begins."""
        self._must(name in state.here, "on_disconnect once for each session that was greeted", name)
        wanted = state.attached.get(name, [name])
        self._must(attachment == wanted, "an attachment is what the state says", name, attachment, wanted)
        visit = self.visits[name]
        ended = visit.over or visit.doubtful or visit.deaf or visit.lost_at is not None
        self._must(ended, "only who left is said to have left", name)
        if visit.session and not visit.over and not visit.doubtful and visit.lost_at is not None:
            since = self.clock() - visit.lost_at
            self._must(since >= WINDOW - 1e-6, "a session outlives its connection", name, since)

    def sleeps(self, state: State) -> None:
        """Seen asleep: what it had in memory is in the store."""
        self._must(
            state == self.durable.state, "a room sleeps with all that it has saved", state, self.durable.state
        )

    # What clients hear.

    def answered(self, visit: Visit, number: int, verdict: str, data: Any) -> None:
        """A client was told what became of its message: "ok" and what was returned, or the error's code."""
        if verdict in PASSING:
            visit.waits = True
            return
        letter = self._letter(visit, number)
        before = visit.told.setdefault(number, (verdict, data))
        self._must(
            before == (verdict, data), "one verdict, now and later", letter.name, before, verdict, data
        )
        visit.unanswered.pop(number, None)
        self._verdict(letter, verdict, data)

    def _letter(self, visit: Visit, number: int) -> Letter:
        return self.letters[f"{visit.name}-{number}"]

    def _verdict(self, letter: Letter, verdict: str, data: Any) -> None:
        crashed = verdict == "internal_error" and "crash" in letter.acts and not self._has(letter)
        if verdict in NEVER or crashed:
            letter.never = letter.never or verdict
            changes = letter.event in ("do", "keep")
            self._must(not (changes and self._has(letter)), "what was refused is never applied", letter.name)
            return
        letter.done = True
        self._must(not letter.never, "one verdict, now and later", letter.name, letter.never, verdict)
        self._must(self._has(letter), "what is acknowledged is durable", letter.name, verdict)
        if verdict != "ok":
            wanted = {"refuse": "refused", "raise": "internal_error"}
            right = {wanted.get(act) for act in letter.acts} | (
                {"internal_error"} if "crash" in letter.acts else set()
            )
            self._must(verdict in right, "the verdict is true", letter.name, verdict)
        elif data is None:
            self._must(holds=False, rule="an answer comes with its data")
        elif letter.event == "do":
            name, at = data
            applied = self._in(letter.life).state.applied
            same = name == letter.name and applied[at - 1 : at] == [name]
            self._must(same, "the answer is true", letter.name, data)
        elif letter.event == "look":
            count, total = data
            applied = self._in(letter.life).state.applied
            self._must(count <= len(applied), "what is read is durable", letter.name, data)
            self._must(total == self._sum(applied[:count]), "what is read is true", letter.name, data)
        elif letter.event == "list":
            kept = self._in(letter.life).kept
            self._must(set(data) <= set(kept), "what is read is durable", letter.name, data)

    def _sum(self, names: list[str]) -> int:
        return sum(self.letters[one].amount for one in names if one in self.letters)

    def asked(self, letter: Letter, verdict: str, data: Any) -> None:
        """The program was told what became of what it asked."""
        if verdict not in ("closed", "late"):
            self._verdict(letter, verdict, data)

    def welcomed(self, visit: Visit, data: dict[str, Any]) -> None:
        """A client got a welcome that begins a visit."""
        if data["session"] is None:
            visit.session = False  # None begins as the program stops.
            return
        visit.token, visit.sid = data["resume"], data["session"]
        visit.start = visit.seq = data["seq"]
        visit.life = self.durable.life
        self._must(data["durable"], "a welcome tells of what is durable", data)
        self._must(data["seq"] <= self._seq, "a session counts from what is durable", data, self._seq)

    def resumed(self, visit: Visit, data: dict[str, Any]) -> None:
        """A client got a welcome to the session that it had."""
        same = (data["resume"], data["session"], data["seq"]) == (visit.token, visit.sid, visit.seq)
        self._must(same, "a session is the same across resumes", visit.name, data)
        ended = visit.life != self.durable.life and not visit.doubtful
        self._must(not ended, "no session outlives a destruction", visit.name)

    def reset(self, visit: Visit, reason: str) -> None:
        """A client learned that its session is lost."""
        gone = self.clock() - (visit.lost_at if visit.lost_at is not None else self.clock())
        right = {
            "expired": gone >= WINDOW - 1e-6,
            "unknown": gone >= WINDOW - 1e-6 or visit.doubtful or visit.over,
            "too_far_behind": self._is_behind(visit),
        }
        self._must(right.get(reason), "a session is lost for a reason", visit.name, reason, gone)
        visit.over = visit.over or reason

    def _is_behind(self, visit: Visit) -> bool:
        later = [one for one in self.durable.said if one.seq > visit.seq]
        return len(later) > self.most_entries * 0.9 - 1 or (
            bool(later) and self.clock() - later[0].time > WINDOW + LONGER - 1e-6
        )

    @property
    def _seq(self) -> int:
        return max((one.seq for durable in (*self.former, self.durable) for one in durable.said), default=0)

    def heard(self, visit: Visit, seq: int, body: dict[str, Any]) -> None:
        """A client in a session got something that is kept until it acknowledges it."""
        if visit.doubtful:
            visit.seq = max(visit.seq, seq)
            return  # What it hears may be of the room's former life.
        self._must(seq > visit.seq, "seqs grow", visit.name, seq, visit.seq)
        entry = next((one for one in self.durable.said if one.seq == seq), None)
        if entry is None or entry.name != body["n"]:
            self._must(False, "what is heard is durable", visit.name, seq, body, entry)
            return
        mine = entry.to is None or visit.name in entry.to
        self._must(mine, "what is heard is for who hears it", visit.name, entry)
        missed = [one for one in self._unheard(visit) if one.seq < seq]
        self._must(not missed, "nothing is left out", visit.name, seq, missed)
        self._must(body["n"] not in visit.heard, "nothing comes twice", visit.name, seq, body)
        visit.seq = max(visit.seq, seq)
        visit.heard.add(body["n"])

    def _unheard(self, visit: Visit) -> list[Said]:
        """What is durable and must come to a visit, and has not."""
        return [
            one
            for one in self.durable.said
            if one.seq > visit.seq
            and visit.name in (self.must.get(one.name, ()) if one.to is None else one.to)
        ]

    def heard_plain(self, visit: Visit, body: dict[str, Any], before: Place, last: Place) -> None:
        """A client got something that is not kept.

        Args:
            visit: who.
            body: what.
            before: the place of what it got before on this connection.
            last: that of the last of it that was not kept either.
        """
        if visit.doubtful:
            return
        name, _, number = body["n"].partition("/")
        place = (body["at"], int(number))
        applied = self.durable.state.applied
        durable = applied[place[0] - 1 : place[0]] == [name]
        self._must(durable, "what is heard is durable", visit.name, body)
        self._must(place > before, "what is said is heard in order", visit.name, place, before)
        if not durable or not last[0]:
            return
        missed = [
            (at, other)
            for at in range(last[0], place[0] + 1)
            for other, to in self.plain.get(applied[at - 1], ())
            if last < (at, other) < place and visit.name in to
        ]
        self._must(not missed, "nothing is left out", visit.name, place, missed)

    def closed_by(self, name: str) -> None:
        """A client was closed by a message with this name."""
        there = any(name in one.state.applied for one in (self.durable, *self.former))
        self._must(there, "a close tells of what is durable", name)

    # From outside.

    def emits(self, name: str) -> None:
        """The program says something reliably."""
        self.outside[name] = ""
        here = set(self.durable.state.here)
        self.must[name] = {one for one in here if not self.visits[one].over}

    def emitted(self, name: str, outcome: str) -> None:
        """It was told what became of it: durable, refused, or lost where nobody knows."""
        self.outside[name] = outcome
        there = any(name in one.names for one in (self.durable, *self.former)) or (
            outcome == "durable" and not self.must[name]
        )
        self._must(there or outcome != "durable", "what was reported durable is", name)
        self._must(not there or outcome != "refused", "what was refused is not said", name)

    # The end.

    def doubt_outside(self) -> None:
        """The process or the room ends, and what is not durable yet may be lost."""
        for name, outcome in self.outside.items():
            if not outcome and name not in self.durable.names:
                self.outside[name] = "lost"

    def rested(self, present: dict[str, bool], entries: int) -> None:
        """After a long silence without faults, with all acknowledged.

        Args:
            present: visits whose clients are there, and whether they have been welcomed.
            entries: how many the journal has.
        """
        state = self.durable.state
        for name, welcomed in present.items():
            visit = self.visits[name]
            self._must(welcomed, "everybody is welcomed", name)
            self._must(not visit.unanswered, "everything is answered", name, list(visit.unanswered))
            if visit.session and not visit.doubtful:
                missing = self._unheard(visit)
                self._must(not missing, "nothing is left out", name, missing)
        self._must(not state.later, "what is scheduled is done", state.later)
        here = {name for name in state.here if not self.visits[name].doubtful}
        there = {name for name in present if not self.visits[name].doubtful}
        self._must(here == there, "who is here is there", here, there)
        # Where nobody was to hear it, it need not be kept.
        known = set().union(*(one.names for one in (self.durable, *self.former)))
        lost = [one for one, how in self.outside.items() if not how and one not in known and self.must[one]]
        self._must(not lost, "what is said from outside is kept", lost)
        self._must(not entries, "what all have acknowledged is not kept", entries)
