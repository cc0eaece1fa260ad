"""Game: players take matches in turn, and whoever takes too long has one taken for them.

    examples/serve game

serves it, and a page at http://127.0.0.1:8000/ on which to play; http://127.0.0.1:8000/#kitchen is another
table. Open it twice, with two names. There are 21 matches. Each player takes one, two or three in turn, and
whoever takes the last has lost.

Each turn has a time limit, and the room schedules its end. Wait, and five seconds later the room is asleep;
stop the server, and start it again when the limit is over: the room is woken in whichever process is there
then, and the game goes on. Nothing in here knows of any of that.

On the wire, in JSON or CBOR, at ``ws://127.0.0.1:8000/game/table?player=Ada``::

    < {"event": "game", "data": {"players": ["Ada", "Bob"], "matches": 0, ...}, "seq": 1}
    > {"event": "start", "data": {"seconds": 20}, "id": 1}
    < {"event": "game", "data": {"matches": 21, "turn": "Ada", "ends": 1893456020.0, ...}, "seq": 2}
    > {"event": "take", "data": {"count": 3}, "id": 2}
    < {"event": "game", "data": {"matches": 18, "turn": "Bob", ...}, "seq": 3}
"""

from __future__ import annotations

from pathlib import Path

import attrs

from trio_rooms import ConnectRequest, Context, EventError, Refused, Room

MATCHES = 21
MOST_PLAYERS = 8
LONGEST_NAME = 40
LONGEST_TURN = 24 * 60 * 60


@attrs.define
class Game:
    """What a table remembers, and what its players are told: all of it."""

    players: list[str] = attrs.field(factory=list)
    matches: int = 0
    turn: str | None = None
    """Whose turn it is, while a game is played."""
    ends: float | None = None
    """When that is over, in seconds since 1970."""
    seconds: float = 20
    loser: str | None = None
    said: str = "waiting for players"


@attrs.define
class Start:
    """What a client sends to begin a game."""

    seconds: float = 20


@attrs.define
class Take:
    """What a client sends to take some matches."""

    count: int


# What a turn changes, the schedule of its end and what the players are told of it are one commit: after a
# crash there is all of it, or nothing that anybody has seen.
room = Room(
    "game",
    state=Game,
    durability="commit",
    idle_timeout=5,  # Short, so that it sleeps while somebody thinks.
    page=Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
)


@room.authenticate
async def authenticate(request: ConnectRequest) -> str:
    player = " ".join(request.query.get("player", "").split())
    if not 0 < len(player) <= LONGEST_NAME:
        raise Refused(401, "say who plays: add ?player=NAME to the address")
    return player


@room.on_connect
async def connect(ctx: Context[Game]) -> None:
    game, player = ctx.state, ctx.connection.attachment
    if player not in game.players and game.turn is None and len(game.players) < MOST_PLAYERS:
        game.players.append(player)
        game.said = f"{player} sits down"
    tell(ctx)


@room.on("start")
async def start(ctx: Context[Game], data: Start) -> None:
    game = ctx.state
    if game.turn is not None:
        raise EventError("playing", "a game is being played")
    if len(game.players) < 2:
        raise EventError("alone", "it takes two to play")
    if not 1 <= data.seconds <= LONGEST_TURN:
        raise EventError("seconds", f"a turn has 1 to {LONGEST_TURN} seconds")
    game.matches, game.loser, game.seconds = MATCHES, None, data.seconds
    game.said = f"{ctx.connection.attachment} has begun a game"
    begin_turn(ctx, game.players[0])


@room.on("take")
async def take(ctx: Context[Game], data: Take) -> int:
    game = ctx.state
    if game.turn is None or ctx.connection.attachment != game.turn:
        raise EventError("not_your_turn", "it is not your turn")
    if not 1 <= data.count <= min(3, game.matches):
        raise EventError("count", f"you can take 1 to {min(3, game.matches)}")
    taken(ctx, data.count, f"{game.turn} has taken {data.count}")
    return game.matches


# Called when a turn was not over in time, also if the room slept and the server was restarted meanwhile.
@room.on_schedule("turn_over")
async def turn_over(ctx: Context[Game]) -> None:
    taken(ctx, 1, f"{ctx.state.turn} took too long, and so one match is taken")


def begin_turn(ctx: Context[Game], player: str) -> None:
    """It is a player's turn. The end of the last one, scheduled under the same name, is replaced."""
    ctx.state.turn = player
    ctx.state.ends = ctx.room.schedule("turn_over", after=ctx.state.seconds)
    tell(ctx)


def taken(ctx: Context[Game], count: int, said: str) -> None:
    """The player whose turn it is has taken some matches."""
    game = ctx.state
    game.matches -= count
    game.said = said
    if game.matches:
        place = game.players.index(game.turn or "") + 1
        begin_turn(ctx, game.players[place % len(game.players)])
        return
    game.said += f": {game.turn} has lost"
    game.loser, game.turn, game.ends = game.turn, None, None
    ctx.room.cancel("turn_over")
    tell(ctx)


def tell(ctx: Context[Game]) -> None:
    """Tell all players how the game stands; whoever is away for a moment is told when they are back."""
    ctx.room.emit("game", ctx.state, reliable=True)
