"""What must hold of messages for users, in any life of rooms, clients, store and process.

`Model` is told what is sent, what its senders are told, what the store has and removes, and what clients
hear and acknowledge. Each message is at the end exactly one of delivered, waiting, expired or reported as
dropped. Each rule is a `_must`; what is broken is kept, since half of it is told from inside of others' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from trio_rooms import Sent

__all__ = ["WINDOW", "Letter", "Model", "Visit"]

WINDOW: Final = 20.0
"""Seconds that a session outlives its connection."""


@attrs.define(eq=False)
class Letter:
    """A message for a user."""

    sender: str
    number: int
    """Its place among those of its sender."""
    user: str
    key: str
    """The only room in which she gets it; empty for any."""
    priority: str
    ttl: float
    volatile: bool
    sent_at: float = 0.0
    expires: float = 0.0
    """The time of day."""
    outcome: str = ""
    """What its sender was told: sent, refused, or nothing yet."""
    sent: Sent | None = None
    answered_at: float = 0.0
    posted: bool = False
    """Whether the store has had it."""
    removed: str = ""
    """Why it is there no more."""
    heard: dict[Visit, int] = attrs.field(factory=dict)
    acknowledged: bool = False

    @property
    def name(self) -> str:
        """What is in it."""
        return f"{self.sender}:{self.number}"

    def suits(self, visit: Visit) -> bool:
        """Whether it may come to somebody."""
        return self.user == visit.user and self.key in ("", visit.key)


@attrs.define(eq=False)
class Visit:
    """A session from its first connection to its end, or one connection without a session."""

    name: str
    user: str
    key: str
    session: bool
    began: float
    over: bool = False
    """Whether it has ended, or may have."""
    cut_at: float = -1.0
    """When it lost a connection last; what was on its way there may have been lost."""
    away_since: float | None = None
    heard: dict[str, int] = attrs.field(factory=dict)
    """By sender, the number of its last message."""
    unacknowledged: list[tuple[int, Letter]] = attrs.field(factory=list)
    """With their seq."""

    def ended(self, now: float) -> bool:
        """Whether it is over, or may be."""
        late = self.away_since is not None and now >= self.away_since + WINDOW - 1
        return self.over or late or (not self.session and self.away_since is not None)


@attrs.define(eq=False)
class Model:
    """What is known of one life."""

    clock: Callable[[], float]
    day: Callable[[], float]
    """The time of day."""
    bound: int
    """How many messages an inbox holds."""
    letters: dict[str, Letter] = attrs.field(factory=dict)
    visits: list[Visit] = attrs.field(factory=list)
    rows: dict[str, dict[int, Letter]] = attrs.field(factory=dict)
    """By user, what waits in the store, in order, by its id."""
    full: dict[str, float] = attrs.field(factory=dict)
    """By user, when there was more than her inbox holds the last time."""
    died: float = -1.0
    """When a process died last."""
    bumped: int = 0
    """How many were removed since an inbox was full, in this process."""
    destroyed: set[str] = attrs.field(factory=set)
    """Rooms that were to be destroyed: nobody knows when that ends the sessions there."""
    broken: list[str] = attrs.field(factory=list)

    def must(self, holds: object, rule: str, *about: object) -> None:
        """Note a rule that is broken."""
        if not holds:
            self.broken.append(": ".join((rule, *map(str, about))))

    # The store.

    def posted(self, rows: Iterable[tuple[str, int, str]]) -> None:
        """The store has these: user, id, and what is in them."""
        for user, id_, name in rows:
            letter = self.letters[name]
            self.must(letter.user == user, "a message is for who it was sent to", name, user)
            self.must(not letter.volatile, "what is volatile is not stored", name)
            self.must(letter.outcome != "refused", "what was refused is not stored", name)
            again = letter.removed in ("", "expired")  # What was in doubt may have expired meanwhile.
            self.must(again, "what was removed does not come again", name, letter.removed)
            letter.posted, letter.removed = True, ""
            inbox = self.rows.setdefault(user, {})
            inbox.setdefault(id_, letter)
            if len(inbox) > self.bound:
                self.full[user] = self.clock()

    def settled(self, user: str, ids: Iterable[int]) -> None:
        """The store has removed these."""
        rows = self.rows.get(user, {})
        for id_ in ids:
            letter = rows.get(id_)
            if letter is not None:
                letter.removed = self._reason(letter)
                self.bumped += letter.removed == "dropped"
                del rows[id_]

    def _reason(self, letter: Letter) -> str:
        if letter.acknowledged:
            return "acknowledged"
        if self.day() >= letter.expires:
            return "expired"
        if any(
            letter.suits(visit)
            and not visit.session
            and (visit.away_since is None or visit.away_since >= letter.sent_at)
            for visit in self.visits
        ):
            return "written"
        full = self.full.get(letter.user, -1.0) >= letter.sent_at
        self.must(full, "what waits is removed for a reason", letter.name)
        return "dropped"

    # Senders.

    def answered(self, letter: Letter, outcome: str, sent: Sent | None = None) -> None:
        """A sender is told what has become of something."""
        letter.outcome, letter.sent, letter.answered_at = outcome, sent, self.clock()
        if outcome == "refused":
            self.must(not letter.posted, "what was refused is not stored", letter.name)
            self.must(not letter.heard, "what was refused is not heard", letter.name)
        if sent is None or sent.outbox:
            return
        counts = (sent.reached, sent.stored, sent.dropped)
        if letter.volatile:
            self.must(not sent.stored and sum(counts), "what is volatile is counted", letter.name, sent)
        else:
            some = sum(count > 0 for count in counts)
            self.must(some == 1, "what is sent is reached, stored or dropped", letter.name, sent)
            self.must(letter.posted or not sent.stored, "what is stored is in the store", letter.name)

    # Clients.

    def heard(self, visit: Visit, name: str, seq: int | None) -> None:
        """A client got something."""
        letter, now = self.letters[name], self.clock()
        self.must(letter.suits(visit), "nobody gets what is for others", visit.name, name)
        self.must(letter.outcome != "refused", "what was refused is not heard", visit.name, name)
        if letter.sent is not None and not letter.sent.outbox:
            gone = letter.sent.dropped and not letter.sent.reached
            self.must(not gone, "what was dropped is not heard", visit.name, name)
        numbered = visit.session and not letter.volatile
        self.must((seq is not None) == numbered, "a session's have numbers, and no others", visit.name, name)
        self._is_at_one_session(visit, letter)
        letter.heard[visit] = letter.heard.get(visit, 0) + 1
        returned = any(
            other is not visit
            and letter.suits(other)
            and (other.ended(now) or other.key in self.destroyed)
            and (other.away_since is None or other.away_since + WINDOW >= letter.sent_at)
            for other in self.visits
        )
        may_return = returned and not letter.volatile
        self.must(letter.heard[visit] == 1 or may_return, "everything is heard once", visit.name, name)
        before = visit.heard.get(letter.sender, -1)
        self.must(letter.number > before or may_return, "a sender's come in order", visit.name, name, before)
        visit.heard[letter.sender] = max(before, letter.number)
        if seq is not None:
            visit.unacknowledged.append((seq, letter))

    def _is_at_one_session(self, visit: Visit, letter: Letter) -> None:
        """Who came later gets only what no session has that goes on, as far as its process knew of it."""
        if letter.sent is None or letter.sent.reached != 1 or visit.began < letter.answered_at:
            return
        for other in letter.heard:
            goes_on = not other.ended(self.clock()) and other.key not in self.destroyed
            if other is not visit and other.session and goes_on:
                known = self.died < letter.sent_at or other.key.startswith("safe")
                self.must(not known, "it is at one session at a time", visit.name, letter.name, other.name)

    def acknowledges(self, visit: Visit, seq: int) -> None:
        """A client is about to acknowledge everything up to there."""
        for number, letter in visit.unacknowledged:
            if number <= seq:
                letter.acknowledged = True
        visit.unacknowledged = [one for one in visit.unacknowledged if one[0] > seq]

    # The end.

    def rested(self, inboxes: Mapping[str, list[int]], dropped: int) -> None:
        """All who ever come are here, have acknowledged all, and nothing more is going to happen.

        Args:
            inboxes: the ids that the store has, by user.
            dropped: how many this process says that it has dropped.
        """
        users = {visit.user for visit in self.visits}
        for user, rows in self.rows.items():
            left = [letter.name for letter in rows.values()]
            self.must(list(rows) == inboxes.get(user, []), "the store has what it has", user, left)
            if user in users:
                self.must(not left, "nothing waits for who is here and has acknowledged all", user, left)
            now = self.day()
            over = [letter.name for letter in rows.values() if letter.expires < now - 10]
            self.must(not over, "what has expired is removed", user, over)
        self.must(dropped >= self.bumped, "what is dropped is told", dropped, self.bumped)
        for letter in self.letters.values():
            if letter.outcome == "sent":
                self._conserved(letter)

    def _conserved(self, letter: Letter) -> None:
        """A message whose sender was answered is delivered, waiting, expired or reported as dropped."""
        sent, cut = letter.sent, self._cut_since(letter)
        assert sent is not None
        fates = {
            "heard": bool(letter.heard),
            "waiting": letter.posted and not letter.removed,
            "expired": letter.removed == "expired",
            "dropped": letter.removed == "dropped" or (sent.dropped > 0 and not sent.reached),
            "written": letter.removed == "written" or (cut and (letter.volatile or not letter.posted)),
        }
        if letter.volatile and sent.outbox:
            return
        self.must(any(fates.values()), "nothing is lost", letter.name, sent, letter.removed)
        if fates["dropped"]:
            # What was given back, since its session ended without an acknowledgement, may find no room then.
            back = letter.removed == "dropped" and all(map(self._is_over, letter.heard))
            self.must(back or not letter.heard, "what was dropped is not heard", letter.name, sent)
        if sent.reached and not cut:
            self.must(
                len(letter.heard) >= sent.reached,
                "as many get it as was told",
                letter.name,
                sent,
                [visit.name for visit in letter.heard],
            )

    def _is_over(self, visit: Visit) -> bool:
        """Whether what a visit has heard may have been given back."""
        return visit.ended(self.clock()) or visit.key in self.destroyed

    def _cut_since(self, letter: Letter) -> bool:
        """Whether something may have been lost on its way, where it is not kept."""
        return self.died >= letter.sent_at or any(
            letter.suits(visit) and visit.cut_at >= letter.sent_at for visit in self.visits
        )
