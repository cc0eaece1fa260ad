/** Many random histories against a model of the server: links break anywhere, sessions end, verdicts differ. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { connectRoom } from "../../src/trio_rooms/js/trio-rooms.js";
import { FakeSocket, settled, stopTime } from "./fake.mjs";

beforeEach(stopTime);
afterEach(() => mock.timers.reset());

const SEEDS = Number(process.env.CHAOS_SEEDS ?? 150);

/** Numbers from 0 to 1, the same each time for a seed (mulberry32). */
function randomOf(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A server with one room and one client. What is on its way is lost where a link breaks. */
class Server {
  socket = null;
  up = []; // On its way from the client,
  down = []; // and to it.
  session = null;
  sessions = 0;
  seq = 0;
  applied = []; // The requests that were applied.

  constructor(random) { this.random = random; }

  connect(socket) {
    this.socket = socket;
    socket.send = (text) => this.up.push(JSON.parse(text));
    const { resume, seq } = socket.query;
    let reason = undefined;
    if (this.session && resume === this.session.token && this.random() < 0.9) {
      assert.ok(Number(seq) >= this.session.acked, "it resumes from before what it has acknowledged");
      this.welcome({ resumed: true, seq: Number(seq) });
      for (const event of this.session.journal) if (event.seq > Number(seq)) this.down.push(event);
      return;
    }
    if (resume !== undefined) reason = "expired";
    this.sessions += 1;
    this.session = { token: `T${this.sessions}`, journal: [], answers: new Map(), last: 0, acked: this.seq };
    this.welcome({ resumed: false, seq: this.seq, reason });
  }

  welcome(more) {
    const { token } = this.session;
    this.down.push({ event: "rooms.welcome", data: { session: token, resume: token, ...more } });
  }

  /** Something was sent that all get reliably. */
  publish(data) {
    this.seq += 1 + Math.floor(this.random() * 3);
    const event = { event: "n", data, seq: this.seq };
    this.session?.journal.push(event);
    if (this.socket) this.down.push(event);
  }

  /** One step of what is on its way. */
  step() {
    if (this.random() < 0.5 && this.down.length) this.socket.say(this.down.shift());
    else if (this.up.length) this.take(this.up.shift());
  }

  take({ ack, id, data, ping }) {
    if (ack !== undefined) {
      assert.ok(ack <= this.seq);
      this.session.acked = Math.max(this.session.acked, ack);
      assert.ok(id === undefined || id <= this.session.last, "it has answers that nobody gave");
      if (ping) this.down.push({ event: "rooms.pong", data: null });
      return;
    }
    const { answers } = this.session;
    if (id <= this.session.last) {
      assert.ok(answers.has(id), `${id} comes after ${this.session.last}, and never came before`);
    } else {
      this.session.last = id;
      const luck = this.random();
      if (luck < 0.1) answers.set(id, { ack: id, error: { code: "not_saved", message: "" } });
      else if (luck < 0.2) answers.set(id, { ack: id, error: { code: "own", message: "" } });
      else {
        this.applied.push(data);
        answers.set(id, { ack: id, data });
        this.publish(data);
      }
    }
    const unavailable = this.random() < 0.1;
    this.down.push(unavailable ? { ack: id, error: { code: "unavailable", message: "" } } : answers.get(id));
  }

  cut() {
    const { socket } = this;
    this.socket = null;
    this.up = [];
    this.down = [];
    socket.end([1001, 1006, 1012, 1013][Math.floor(this.random() * 4)]);
  }
}

async function history(seed) {
  const random = randomOf(seed);
  const server = new Server(random);
  FakeSocket.all.length = 0;
  const room = connectRoom("ws://example.org/hall/x", {
    WebSocket: FakeSocket, backoff: { first: 20, longest: 100 }, maxWaiting: 30,
  });
  const seen = []; // Of each session what came, in order.
  room.on("n", (data, { seq }) => seen.at(-1).push(seq));
  room.on("rooms.reset", () => seen.push([]));
  seen.push([]);
  const outcomes = new Map();
  let asked = 0;
  let quiet = false;

  const step = async () => {
    const socket = FakeSocket.last;
    if (socket && socket !== server.socket && socket.closed === null && socket.onclose) server.connect(socket);
    const luck = random();
    if (!quiet && luck < 0.1) {
      const data = asked += 1;
      room.ask("add", data).then((value) => outcomes.set(data, value), (error) => outcomes.set(data, error));
    } else if (!quiet && luck < 0.13 && server.session) {
      server.publish("other");
    } else if (!quiet && luck < 0.17 && server.socket) {
      server.cut();
    } else if (luck < 0.3) {
      mock.timers.tick(Math.floor(random() * 300));
    } else if (server.socket) {
      server.step();
    }
    await settled();
  };
  for (let number = 0; number < 250; number += 1) await step();
  quiet = true;
  const busy = () => room.waiting || room.state !== "open" || server.up.length || server.down.length;
  for (let number = 0; number < 5000 && busy(); number += 1) await step();

  assert.equal(room.waiting, 0);
  assert.equal(outcomes.size, asked);
  const times = new Map();
  for (const data of server.applied) times.set(data, (times.get(data) ?? 0) + 1);
  for (const [data, outcome] of outcomes) {
    const count = times.get(data) ?? 0;
    assert.ok(count <= 1, `${data} was applied ${count} times`);
    if (outcome === data) assert.equal(count, 1);
    else if (outcome.applied === false) assert.equal(count, 0, `${data}: ${outcome.code}`);
    else assert.ok(["own", "session_lost"].includes(outcome.code), outcome.code);
  }
  for (const seqs of seen) assert.deepEqual(seqs, [...new Set(seqs)].sort((a, b) => a - b));
  // Of the last session nothing is missing.
  assert.deepEqual(seen.at(-1), server.session.journal.map((event) => event.seq));
  room.close();
}

test(`${SEEDS} random histories`, async () => {
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    try {
      await history(seed);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});
