/** What a room sends and hands over, with a WebSocket whose other side is the test. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, mock, test } from "node:test";
import { connectRoom, RoomError } from "../../src/trio_rooms/js/trio-rooms.js";
import { ask, connecting, FakeSocket, now, open, pass, settled, stopTime, until } from "./fake.mjs";

beforeEach(stopTime);
afterEach(() => mock.timers.reset());

/** The socket after the one before broke, with its welcome. */
async function again(more) {
  await until();
  FakeSocket.last.welcome(more);
  return FakeSocket.last;
}

const rejected = (outcome, code, applied) => {
  assert.ok(outcome instanceof RoomError, `${outcome}`);
  assert.deepEqual([outcome.code, outcome.applied], [code, applied]);
  return outcome;
};

describe("asking", () => {
  test("an answer comes to who asked, and an error says what is known", async () => {
    const { room, socket } = await open();
    const outcomes = ["a", "b", "c", "d"].map((name) => ask(room, name, { n: 1 }));
    assert.equal(room.waiting, 4);
    assert.deepEqual(socket.take()[1], { event: "b", data: { n: 1 }, id: 2 });
    socket.say(
      { ack: 2, data: { is: "b" } },
      { ack: 1, error: { code: "not_saved", message: "the disk is full" } },
      { ack: 3, error: { code: "invalid_data", message: "n: expected str" } },
      { ack: 4, error: { code: "too_late", message: "it is over" } },
    );
    assert.deepEqual(await outcomes[1], { is: "b" });
    assert.equal(rejected(await now(outcomes[0]), "not_saved", false).retry, true);
    assert.equal(rejected(await now(outcomes[2]), "invalid_data", false).retry, false);
    assert.equal(rejected(await now(outcomes[3]), "too_late", undefined).message, "it is over");
    assert.equal(room.waiting, 0);
  });

  test("nothing is sent before the welcome, and then all in order", async () => {
    const { room, socket } = await connecting();
    ask(room, "one");
    room.emit("two", [2]);
    ask(room, "three");
    assert.equal(room.state, "connecting");
    assert.deepEqual(socket.take(), []);
    socket.welcome();
    assert.equal(room.state, "open");
    assert.deepEqual(socket.take(), [
      { event: "one", data: null, id: 1 }, { event: "two", data: [2] }, { event: "three", data: null, id: 2 },
    ]);
  });

  test("what is asked is what it was then", async () => {
    const { room, socket } = await connecting();
    const data = { list: [1] };
    ask(room, "keep", data);
    data.list.push(2);
    socket.welcome();
    assert.deepEqual(socket.take()[0].data, { list: [1] });
    const circle = {};
    circle.self = circle;
    assert.ok(await now(ask(room, "circle", circle)) instanceof TypeError);
    assert.throws(() => room.emit("circle", circle), TypeError);
    assert.equal(room.waiting, 1);
  });

  test("an outcome that is not known yet is asked for again, with the same id", async () => {
    const { room, socket } = await open();
    const outcome = ask(room, "pay");
    for (const code of ["unavailable", "too_many_in_flight", "unavailable", "unavailable", "unavailable"]) {
      assert.deepEqual(socket.take().filter((one) => one.event), [{ event: "pay", data: null, id: 1 }]);
      socket.say({ ack: 1, error: { code, message: "later" } });
      await pass(90);
      assert.deepEqual(socket.take().filter((one) => one.event), []);
      await pass(5100);
    }
    socket.take();
    // Nothing is sent before it, and of two the first comes first.
    const outcomes = [ask(room, "b"), ask(room, "c")];
    socket.take();
    for (const ack of [3, 1, 1, 2]) socket.say({ ack, error: { code: "unavailable", message: "later" } });
    outcomes.push(ask(room, "d"));
    assert.deepEqual(socket.take(), []);
    await pass(5100);
    assert.deepEqual(socket.take().filter((one) => one.event).map((one) => one.id), [1, 2, 3, 4]);
    for (const ack of [1, 2, 3, 4]) socket.say({ ack, data: "paid" });
    assert.equal(await outcome, "paid");
    await Promise.all(outcomes);
    assert.deepEqual((await again1(room, socket)).take(), []);
  });

  /** Break the link, and resume. */
  async function again1(room, socket) {
    socket.end();
    return again({ resumed: true });
  }

  test("given up before it was sent, it is not sent", async () => {
    const { room, socket } = await connecting();
    const controller = new AbortController();
    const aborted = ask(room, "one", 1, { signal: controller.signal });
    const late = ask(room, "two", 2, { timeout: 500 });
    ask(room, "three", 3);
    controller.abort(new Error("enough"));
    assert.equal(rejected(await now(aborted), "aborted", false).cause.message, "enough");
    await pass(600);
    assert.equal(rejected(await now(late), "timeout", false).retry, true);
    rejected(await now(ask(room, "four", 4, { signal: controller.signal })), "aborted", false);
    assert.equal(room.waiting, 1);
    socket.welcome();
    assert.deepEqual(socket.take(), [{ event: "three", data: 3, id: 1 }]);
  });

  test("given up after it was sent, it may have been applied; its answer is nobody's", async () => {
    const { room, socket } = await open();
    const controller = new AbortController();
    const aborted = ask(room, "one", 1, { signal: controller.signal });
    const late = ask(room, "two", 2, { timeout: 500 });
    const kept = ask(room, "three", 3);
    controller.abort();
    rejected(await now(aborted), "aborted", undefined);
    await pass(600);
    rejected(await now(late), "timeout", undefined);
    socket.take();
    socket.say({ ack: 1, data: 1 });
    const next = await again1(room, socket);
    // Two, too: the server may wait for it, also where nobody else does.
    assert.deepEqual(next.take().map((one) => one.id), [2, 3]);
    next.say({ ack: 2, error: { code: "unavailable", message: "later" } });
    await pass(6000);
    assert.deepEqual(next.take().filter((one) => one.event).map((one) => one.id), [2]);
    next.say({ ack: 2, data: 7 }, { ack: 3, data: 9 });
    assert.equal(await kept, 9);
    assert.equal(room.waiting, 0);
  });

  test("a signal and a timer are let go with the answer", async () => {
    const { room, socket } = await open();
    const controller = new AbortController();
    const outcome = ask(room, "one", 1, { signal: controller.signal, timeout: 500 });
    socket.say({ ack: 1, data: "yes" });
    assert.equal(await outcome, "yes");
    controller.abort();
    await pass(1000);
    assert.equal(room.waiting, 0);
  });
});

describe("bounds", () => {
  test("an id is at most 1,000 above the oldest that is unanswered", async () => {
    const { room, socket } = await open({ maxWaiting: 3000 });
    const outcomes = Array.from({ length: 1200 }, (_, n) => ask(room, "n", n));
    assert.equal(socket.take().at(-1).id, 1000);
    socket.say({ ack: 2, data: 0 }, { ack: 3, data: 0 });
    assert.deepEqual(socket.take(), []); // 1 is not answered.
    socket.say({ ack: 1, data: 0 });
    assert.equal(socket.take().filter((one) => one.event).at(-1).id, 1003);
    assert.equal(room.waiting, 1197);
    room.close();
    await Promise.allSettled(outcomes);
  });

  test("what waits is bounded by number and by size, and who asks for more is told", async () => {
    const { room, socket } = await connecting({ maxWaiting: 3, maxSize: 200 });
    const outcomes = [ask(room, "a"), ask(room, "b")];
    room.emit("c");
    assert.equal(rejected(await now(ask(room, "d")), "too_many_waiting", false).retry, true);
    assert.throws(() => room.emit("d"), { code: "too_many_waiting" });
    socket.welcome();
    socket.say({ ack: 1, data: 1 });
    room.emit("d"); // It goes out at once.
    rejected(await now(ask(room, "long", "x".repeat(200))), "too_many_waiting", false);
    socket.say({ ack: 2, data: 1 });
    outcomes.push(ask(room, "long", "x".repeat(150)));
    assert.equal(room.waiting, 1);
    socket.say({ ack: 3, data: 1 });
    // What is answered is not counted any more, however often.
    for (let id = 4; id < 100; id += 1) {
      outcomes.push(ask(room, "long", "x".repeat(150)));
      rejected(await now(ask(room, "long", "x".repeat(50))), "too_many_waiting", false);
      socket.say({ ack: id, data: 1 });
    }
    await Promise.all(outcomes);
    assert.equal((await now(ask(room, "longer", "x".repeat(200)))).retry, false);
    room.close();
  });

  test("no more is given to the WebSocket than it can send soon", async () => {
    const { room, socket } = await open();
    socket.bufferedAmount = 300_000;
    const outcome = ask(room, "a");
    await pass(500);
    assert.deepEqual(socket.take(), []);
    socket.bufferedAmount = 10;
    await pass(100);
    assert.equal(socket.take().length, 1);
    socket.say({ ack: 1, data: "done" });
    assert.equal(await outcome, "done");
  });
});

describe("events", () => {
  test("each is handed over once and in order, to all who want it", async () => {
    const { room, socket } = await open();
    const seen = [];
    const off = room.on("n", (data, { seq }) => seen.push(["first", data, seq]));
    room.on("n", (data, event) => seen.push(["second", data, event.name]));
    socket.say({ event: "n", data: 1, seq: 4 }, { event: "n", data: 1, seq: 4 }, { event: "other", data: 0, seq: 5 });
    off();
    socket.say({ event: "n", data: 0, seq: 5 }, { event: "n", data: 2, seq: 9 }, { event: "n", data: 3 });
    assert.deepEqual(seen, [["first", 1, 4], ["second", 1, "n"], ["second", 2, "n"], ["second", 3, "n"]]);
  });

  test("a handler that fails keeps nobody from anything", async () => {
    const reported = [];
    globalThis.reportError = (error) => reported.push(error.message);
    const { room, socket } = await open();
    const seen = [];
    room.on("n", () => { throw new Error("mine"); });
    room.on("n", (data) => seen.push(data));
    socket.say({ event: "n", data: 1, seq: 1 }, { event: "n", data: 2, seq: 2 });
    delete globalThis.reportError;
    assert.deepEqual([seen, reported], [[1, 2], ["mine", "mine"]]);
  });

  test("a handler may close the room, and take handlers off", async () => {
    const { room, socket } = await open();
    const seen = [];
    const off = room.on("n", (data) => { off(); seen.push(data); room.close(); });
    socket.say({ event: "n", data: 1, seq: 1 }, { event: "n", data: 2, seq: 2 });
    assert.deepEqual([seen, room.state], [[1], "closed"]);
  });

  test("what was emitted and refused is told as an error", async () => {
    const { room, socket } = await open();
    const told = [];
    room.addEventListener("error", (event) => { event.preventDefault(); told.push(event.detail.code); });
    room.emit("nothing");
    socket.say({ error: { code: "unknown_event", message: "no" } });
    assert.deepEqual(told, ["unknown_event"]);
  });
});

describe("who is here", () => {
  const here = { device: "d1", status: "online" };
  const busy = { device: "d2", status: "busy" };
  const presence = (data) => ({ event: "rooms.presence", data });
  const seen = (room) => Object.fromEntries(room.users);

  test("is the whole, and then what changed, before the event is handed over", async () => {
    const { room, socket } = await open();
    const told = [];
    const { users } = room;
    room.on("rooms.presence", (data) => told.push([Object.keys(data ?? {})[0], [...users.keys()].join()]));
    socket.say(presence({ users: { ana: [here], bob: [here], ["__proto__"]: [here] } }));
    assert.deepEqual([...users], [["ana", [here]], ["bob", [here]], ["__proto__", [here]]]);
    socket.say(presence({ changes: { ana: [here, busy], bob: [], ["__proto__"]: [] } }));
    socket.say(presence({ changes: { cat: [busy], bob: [], dan: [] } }));
    assert.deepEqual(seen(room), { ana: [here, busy], cat: [busy] });
    socket.say(presence({ users: { eve: [busy] } }), presence(null), presence({}));
    assert.deepEqual(seen(room), { eve: [busy] });
    assert.equal(room.users, users);
    assert.deepEqual(told.map(([kind]) => kind).slice(0, 4), ["users", "changes", "changes", "users"]);
    assert.deepEqual(told.map(([, names]) => names), ["ana,bob,__proto__", "ana", "ana,cat", "eve", "eve", "eve"]);
    room.close();
  });

  test("stays while the connection is lost, and begins anew with a new session", async () => {
    const { room, socket } = await open();
    const left = [];
    room.on("rooms.reset", () => left.push(room.users.size));
    socket.say(presence({ users: { ana: [here] } }));
    socket.end();
    const next = await again({ resumed: true });
    assert.deepEqual(seen(room), { ana: [here] });
    next.end();
    await again({ resumed: false, session: "b2" });
    assert.deepEqual([seen(room), left], [{}, [0]]);
    room.close();
  });
});

describe("acknowledgements", () => {
  test("they are sent after a quarter of a second, in one", async () => {
    const { room, socket } = await open();
    const outcomes = [ask(room, "a"), ask(room, "b"), ask(room, "c")];
    socket.take();
    socket.say({ event: "n", data: 1, seq: 3 }, { ack: 1, data: 0 }, { ack: 3, data: 0 });
    await pass(200);
    assert.deepEqual(socket.take(), []);
    await pass(100);
    assert.deepEqual(socket.take(), [{ ack: 3, id: 1 }]); // All answers up to its own message 1.
    socket.say({ ack: 2, data: 0 });
    await pass(300);
    assert.deepEqual(socket.take(), [{ ack: 3, id: 3 }]);
    await pass(5000);
    assert.deepEqual(socket.take(), []);
    await Promise.all(outcomes);
  });

  test("they are sent with every 64th event, and where no timer runs with what comes later", async () => {
    const { socket } = await open();
    for (let seq = 1; seq <= 130; seq += 1) socket.say({ event: "n", seq });
    assert.deepEqual(socket.take(), [{ ack: 64 }, { ack: 128 }]);
    mock.timers.reset(); // The two that are not acknowledged have no timer any more.
    mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_900_000_001_000 });
    socket.say({ event: "n", seq: 131 });
    assert.deepEqual(socket.take(), [{ ack: 131 }]);
  });

  test("what has no place in the journal is not acknowledged, and nothing where there is no session", async () => {
    const { socket } = await open();
    socket.say({ event: "n", data: 1 });
    await pass(1000);
    assert.deepEqual(socket.take(), []);
    const { room, socket: other } = await connecting();
    other.welcome({ session: null, resume: null, seq: undefined });
    const outcome = ask(room, "a");
    other.take();
    other.say({ ack: 1, data: 5 });
    assert.equal(await outcome, 5);
    await pass(1000);
    assert.deepEqual(other.take(), []);
  });
});

describe("a link that breaks", () => {
  test("the session is resumed, and what is unanswered sent again before what is new", async () => {
    const { room, socket } = await open();
    const states = [];
    room.addEventListener("state", (event) => states.push(event.detail));
    const outcomes = [ask(room, "a"), ask(room, "b"), ask(room, "c")];
    socket.say({ event: "n", seq: 7 }, { ack: 2, data: "b" });
    socket.end(1012);
    assert.equal(room.state, "reconnecting");
    outcomes.push(ask(room, "d"));
    await until();
    const next = FakeSocket.last;
    assert.deepEqual(next.query, { resume: "TOKEN", seq: "7" });
    assert.deepEqual(next.take(), []);
    next.welcome({ resumed: true, seq: 7 });
    assert.deepEqual(next.take(), [
      { event: "a", data: null, id: 1 }, { event: "c", data: null, id: 3 }, { event: "d", data: null, id: 4 },
    ]);
    for (const ack of [1, 3, 4]) next.say({ ack, data: ack });
    assert.deepEqual(await Promise.all(outcomes), [1, "b", 3, 4]);
    assert.deepEqual(states, ["reconnecting", "open"]);
  });

  test("before its welcome it changes nothing", async () => {
    const { room, socket } = await open();
    const outcome = ask(room, "a");
    socket.end();
    for (let round = 0; round < 3; round += 1) {
      await until();
      FakeSocket.last.end();
    }
    const next = await again({ resumed: true });
    assert.deepEqual(next.take(), [{ event: "a", data: null, id: 1 }]);
    next.say({ ack: 1, data: "yes" });
    assert.equal(await outcome, "yes");
  });

  test("twice while things are sent again, each goes once over the last", async () => {
    const { room, socket } = await open();
    const outcomes = [ask(room, "a"), ask(room, "b")];
    socket.end();
    outcomes.push(ask(room, "c"));
    await until();
    FakeSocket.last.bufferedAmount = 1e6; // It takes nothing yet.
    FakeSocket.last.welcome({ resumed: true });
    FakeSocket.last.end();
    const next = await again({ resumed: true });
    assert.deepEqual(next.take().map((one) => one.id), [1, 2, 3]);
    room.close();
    await Promise.allSettled(outcomes);
  });

  test("what an old one still says is not heard", async () => {
    const { room, socket } = await open();
    const seen = [];
    room.on("n", (data) => seen.push(data));
    const late = socket.onmessage;
    socket.end();
    await again({ resumed: true });
    late({ data: '{"event":"n","data":"old","seq":1}' });
    assert.deepEqual(seen, []);
  });

  test("a session that is lost is told before anything of the new one", async () => {
    const { room, socket } = await open();
    const seen = [];
    room.on("rooms.reset", (data, { name }) => { seen.push([name, data]); ask(room, "get"); });
    room.on("n", (data, { seq }) => seen.push([data, seq]));
    const sent = ask(room, "a");
    const controller = new AbortController();
    ask(room, "aborted", 0, { signal: controller.signal });
    controller.abort();
    socket.say({ event: "n", data: "old", seq: 900 });
    socket.end();
    const unsent = ask(room, "b");
    room.emit("c");
    const next = await again({ resumed: false, reason: "expired", session: "b2", resume: "OTHER", seq: 5 });
    assert.equal(rejected(await now(sent), "session_lost", undefined).retry, true);
    assert.equal(room.session, "b2");
    assert.deepEqual(next.take(), [
      { event: "b", data: null, id: 1 }, { event: "c", data: null }, { event: "get", data: null, id: 2 },
    ]);
    next.say({ event: "n", data: "before", seq: 5 }, { event: "n", data: "new", seq: 6 }, { ack: 1, data: "yes" });
    assert.equal(await unsent, "yes");
    assert.deepEqual(seen, [["old", 900], ["rooms.reset", { reason: "expired" }], ["new", 6]]);
    next.end();
    await until();
    assert.deepEqual(FakeSocket.last.query, { resume: "OTHER", seq: "6" });
    room.close();
  });

  test("where there is no session each loss is a reset", async () => {
    const { room, socket } = await connecting();
    const seen = [];
    room.on("rooms.reset", (data) => seen.push(data.reason));
    socket.welcome({ session: null, resume: null, seq: undefined });
    assert.deepEqual(seen, []); // The first is no loss.
    socket.end();
    await until();
    assert.deepEqual(FakeSocket.last.query, {});
    FakeSocket.last.welcome({ session: null, resume: null, seq: undefined });
    assert.deepEqual(seen, ["none"]);
    room.close();
  });
});

test("the types have what there is", async () => {
  const { room } = await open();
  const text = readFileSync(new URL("../../src/trio_rooms/js/trio-rooms.d.ts", import.meta.url), "utf8");
  const [, body] = /export interface Room extends EventTarget \{(.*?)\n\}/s.exec(text);
  const typed = [...body.matchAll(/^  (?:readonly )?(\w+)[<(:]/gm)].map((found) => found[1]);
  const known = Object.getOwnPropertyNames(Object.getPrototypeOf(room)).filter((name) => name !== "constructor");
  assert.deepEqual(new Set(typed), new Set([...known, "addEventListener"]));
  room.close();
});

describe("the end", () => {
  test("close ends the session and rejects what waits", async () => {
    const { room, socket } = await open();
    const sent = ask(room, "a");
    socket.say({ event: "n", seq: 3 });
    socket.take();
    socket.bufferedAmount = 1e6;
    const unsent = ask(room, "b");
    room.close();
    assert.deepEqual(socket.take(), [{ ack: 3 }]);
    assert.deepEqual([socket.closed, room.state, room.error, room.waiting], [1000, "closed", null, 0]);
    rejected(await now(sent), "closed", undefined);
    rejected(await now(unsent), "closed", false);
    rejected(await now(ask(room, "c")), "closed", false);
    assert.throws(() => room.emit("d"), { code: "closed", applied: false });
    room.close();
    await pass(100_000);
    assert.equal(FakeSocket.all.length, 1);
  });

  test("close while it connects, and while it waits to", async () => {
    const { room, socket } = await connecting();
    room.close();
    assert.notEqual(socket.closed, null);
    const asked = Promise.withResolvers?.() ?? {};
    const slow = connectRoom("ws://example.org/hall/x", { WebSocket: FakeSocket, token: () => asked.promise ?? new Promise(() => 0) });
    slow.close();
    asked.resolve?.("late");
    const { room: lost, socket: last } = await open();
    last.end();
    lost.close();
    await pass(100_000);
    assert.equal(FakeSocket.all.length, 2);
  });

  for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4000, 4001, 4003, 4999]) {
    test(`${code} ends it for good`, async () => {
      const { room, socket } = await open({ token: "one" });
      const sent = ask(room, "a");
      socket.end(code, "so it is");
      assert.equal(room.state, "closed");
      assert.equal(room.error.status, code);
      assert.match(room.error.message, /so it is/);
      const codes = { 1009: "too_big", 4001: "taken_over", 4003: "token_expired" };
      rejected(await now(sent), codes[code] ?? "closed", undefined);
      await pass(100_000);
      assert.equal(FakeSocket.all.length, 1);
    });
  }

  for (const code of [1001, 1005, 1006, 1011, 1012, 1013, 3000, 3999]) {
    test(`${code} does not`, async () => {
      const { room, socket } = await open();
      socket.end(code);
      const next = await again({ resumed: true });
      assert.equal(room.state, "open");
      assert.deepEqual(next.query, { resume: "TOKEN", seq: "0" });
    });
  }

  test("a refusal ends it, with its status and reason", async () => {
    const { room, socket } = await connecting();
    const unsent = ask(room, "a");
    assert.deepEqual(socket.offered, ["trio-rooms.v1.json", "trio-rooms.refusal"]);
    socket.protocol = "trio-rooms.refusal";
    socket.end(4401, "who are you?");
    assert.equal(room.state, "closed");
    const error = rejected(await now(unsent), "refused", false);
    assert.deepEqual([error.status, error.retry], [401, false]);
    assert.match(error.message, /who are you/);
  });

  test("what is no message of a room ends it", async () => {
    for (const data of ["<html>", "7", "null", new ArrayBuffer(1)]) {
      const { room, socket } = await connecting();
      socket.onmessage({ data });
      assert.deepEqual([room.state, room.error.code], ["closed", "closed"]);
      assert.notEqual(socket.closed, null);
    }
  });

  test("the state is told as it changes, and a listener may close", async () => {
    const { room, socket } = await connecting();
    const states = [];
    room.addEventListener("state", (event) => {
      states.push([event.detail, room.state]);
      if (event.detail === "open") room.close();
    });
    ask(room, "a");
    socket.welcome();
    assert.deepEqual(states, [["open", "open"], ["closed", "closed"]]);
    assert.deepEqual(socket.take(), []);
    await settled();
  });
});
