/** The client and the real server, over real sockets: links that are cut anywhere, and a server that is killed. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, test } from "node:test";
import { connectRoom } from "../../src/trio_rooms/js/trio-rooms.js";

const PYTHON = process.env.PYTHON ?? ".venv/bin/python";
const ROOMS = new URL("rooms.py", import.meta.url).pathname;
const SOON = { backoff: { first: 20, longest: 100 } };
const folder = mkdtempSync(join(tmpdir(), "rooms-"));

/** A server, as a process. */
class Server {
  port = 0;

  async start() {
    const options = ["--data", join(folder, "data"), "--port", String(this.port), "--idle-timeout", "1"];
    this.process = spawn(PYTHON, ["-m", "trio_rooms", "serve", `${ROOMS}:rooms`, ...options], {
      stdio: ["ignore", "pipe", process.env.VERBOSE ? "inherit" : "ignore"],
    });
    const ended = once(this.process, "exit").then(([status]) => { throw new Error(`the server ended with ${status}`); });
    const [line] = await Promise.race([once(createInterface({ input: this.process.stdout }), "line"), ended]);
    ended.catch(() => 0);
    this.port = Number(line.split(":").at(-1));
  }

  async kill(signal) {
    this.process.kill(signal);
    await once(this.process, "exit");
  }
}

/** A way to the server that is cut when the test says so. */
class Way {
  sockets = new Set();
  after = Infinity; // Bytes that still pass, in both directions together.
  stalled = false;

  async open() {
    this.server = createServer((down) => {
      const up = connect(server.port, "127.0.0.1");
      for (const [one, other] of [[down, up], [up, down]]) {
        this.sockets.add(one);
        one.on("error", () => 0);
        one.on("close", () => { this.sockets.delete(one); other.destroy(); });
        one.on("data", (data) => {
          if (this.stalled) return;
          other.write(data.subarray(0, Math.max(0, this.after)));
          this.after -= data.length;
          if (this.after < 0) this.cut();
        });
      }
    });
    this.server.listen(0, "127.0.0.1");
    await once(this.server, "listening");
    return `ws://127.0.0.1:${this.server.address().port}`;
  }

  cut() {
    for (const socket of this.sockets) socket.destroy();
    this.after = Infinity;
  }

  close() {
    this.cut();
    this.server.close();
  }
}

const server = new Server();
const address = (id, name = "tally") => `ws://127.0.0.1:${server.port}/${name}/${id}`;
const become = (room, state) => new Promise((resolve) => {
  room.addEventListener("state", (event) => { if (event.detail === state) resolve(); });
  if (room.state === state) resolve();
});

before(() => server.start());
after(async () => {
  await server.kill("SIGTERM");
  rmSync(folder, { recursive: true });
});

test("asks, is told, and leaves", async () => {
  const room = connectRoom(address("a"), SOON);
  const sums = [];
  room.on("sum", (data, { seq }) => sums.push([data, seq > 0]));
  assert.deepEqual(await Promise.all([room.ask("add", 2), room.ask("add", 3)]), [2, 5]);
  assert.deepEqual(sums, [[[1, 2], true], [[2, 5], true]]);
  await assert.rejects(room.ask("nothing"), { code: "unknown_event", retry: false, applied: false });
  await assert.rejects(room.ask("add", "2"), { code: "invalid_data", applied: false });
  room.close();
  const other = connectRoom(address("a"), SOON);
  let log = [];
  while (!log.includes("disconnect")) log = await other.ask("log"); // Close has ended the session.
  assert.equal(log.length, 3);
  other.close();
});

test("is refused, and says why", async () => {
  for (const [url, options, status, why] of [
    [address("a"), { token: async () => "bad" }, 401, /who are you/],
    [address("a", "nobody"), {}, 404, /no room named 'nobody'/],
    [address("a", "plain"), {}, 400, /no subprotocol/],
  ]) {
    const room = connectRoom(url, options);
    await assert.rejects(room.ask("get"), (error) => error.code === "refused" && error.status === status && why.test(error.message));
    assert.equal(room.state, "closed");
  }
});

test("goes on in its session after a close that is no end, and not after one that is", async () => {
  const room = connectRoom(address("b"), SOON);
  await become(room, "open");
  const { session } = room;
  room.ask("end", 1012).catch(() => 0);
  await become(room, "reconnecting");
  assert.equal(await room.ask("add", 1), 1);
  assert.deepEqual(await room.ask("log"), ["connect"]);
  assert.equal(room.session, session);
  room.ask("end", 4321).catch(() => 0);
  await become(room, "closed");
  assert.equal(room.error.status, 4321);
});

test("a session that another connection resumes is taken over", async () => {
  const way = new Way();
  const room = connectRoom(`${await way.open()}/tally/c`, { ...SOON, quiet: 200, patience: 200 });
  await room.ask("add", 1);
  way.stalled = true; // Nobody notices at first; then the client is impatient, and comes once more.
  await become(room, "reconnecting");
  way.stalled = false;
  assert.equal(await room.ask("add", 1), 2);
  assert.deepEqual(await room.ask("log"), ["connect"]);
  room.close();
  way.close();
});

test("a link without traffic is kept", async () => {
  let pongs = 0;
  let enough;
  const many = new Promise((resolve) => { enough = resolve; });
  class Counting extends WebSocket {
    constructor(...given) {
      super(...given);
      this.addEventListener("message", ({ data }) => {
        if (data.includes("rooms.pong") && (pongs += 1) === 10) enough();
      });
    }
  }
  const room = connectRoom(address("d"), { ...SOON, quiet: 20, WebSocket: Counting });
  const states = [];
  room.addEventListener("state", (event) => states.push(event.detail));
  await room.ask("add", 1);
  await many;
  assert.deepEqual(states, ["open"]);
  room.close();
});

test("wherever the link is cut, each request is handled once and each event comes once", async () => {
  const way = new Way();
  const room = connectRoom(`${await way.open()}/tally/e`, SOON);
  const counts = [];
  room.on("sum", ([count]) => counts.push(count));
  room.on("rooms.reset", () => counts.push("reset"));
  await become(room, "open");
  let asked = 0;
  const answers = [];
  for (let at = 0; at < 1500; at += 31) {
    way.after = at;
    const some = [room.ask("add", 1), room.ask("add", 1)];
    asked += 2;
    answers.push(...await Promise.all(some));
  }
  assert.deepEqual(await room.ask("get"), [asked, asked]);
  assert.deepEqual(answers, Array.from({ length: asked }, (_, n) => n + 1));
  await become(room, "open");
  assert.deepEqual(counts, answers);
  room.close();
  way.close();
});

test("the server is killed and starts again, and nothing is lost", async () => {
  const COUNT = 100;
  const rooms = ["f", "g", "h"].map((id) => connectRoom(address(id), SOON));
  const counts = rooms.map((room) => {
    const seen = [];
    room.on("sum", ([count]) => seen.push(count));
    room.on("rooms.reset", ({ reason }) => seen.push(reason));
    return seen;
  });
  const adding = rooms.map(async (room) => {
    for (let number = 1; number <= COUNT; number += 1) {
      assert.equal(await room.ask("add", 1), number);
    }
  });
  // Somewhere in the middle, with something under way in each.
  while (counts.some((seen) => seen.length < COUNT / 3)) await new Promise(setImmediate);
  await server.kill("SIGKILL");
  await server.start();
  await Promise.all(adding);
  for (const [room, seen] of rooms.map((room, number) => [room, counts[number]])) {
    assert.deepEqual(await room.ask("get"), [COUNT, COUNT]);
    assert.deepEqual(seen, Array.from({ length: COUNT }, (_, n) => n + 1));
    assert.deepEqual(await room.ask("log"), ["connect"]);
    room.close();
  }
});
