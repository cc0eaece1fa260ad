/** How a room connects, how it notices that nobody is there, and what it does in a page that comes and goes. */

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, mock, test } from "node:test";
import { connectRoom } from "../../src/trio_rooms/js/trio-rooms.js";
import { ask, connecting, FakePage, FakeSocket, now, open, pass, settled, stopTime, until } from "./fake.mjs";

beforeEach(stopTime);
afterEach(() => mock.timers.reset());

const WELCOMED = { resumed: true };
const PING = { ack: 0, ping: true };
const PONG = { event: "rooms.pong", data: null };

/** The machine, or the page, stands still for a while: every timer that came due meanwhile is late. */
async function standStill(milliseconds) {
  mock.timers.tick(milliseconds);
  await settled();
}

describe("connecting", () => {
  test("addresses are those of a WebSocket", async () => {
    for (const [address, url] of [
      ["ws://h/r/x", "ws://h/r/x"], ["wss://h:1/r/x?user=A#b", "wss://h:1/r/x?user=A"],
      ["http://h/r/%2F", "ws://h/r/%2F"], ["https://h/r/x", "wss://h/r/x"], [new URL("https://h/r"), "wss://h/r"],
    ]) {
      assert.equal((await connecting({}, address)).socket.url.href, url);
    }
    for (const address of ["/r/x", "ftp://h/r/x", "", undefined]) {
      assert.throws(() => connectRoom(address, { WebSocket: FakeSocket }), TypeError);
    }
    assert.throws(() => connectRoom("/r/x", { WebSocket: FakeSocket }), /not at \/r\/x; there is no page here/);
    assert.throws(() => connectRoom("ws://h/r/x", { WebSocket: null }), /options\.WebSocket/);
    assert.throws(() => connectRoom("ws://h/r/x", { WebSocket: FakeSocket, tokn: "t" }), /no option tokn/);
  });

  test("the wait is random, and longer each time, up to a bound", async () => {
    const { room, socket } = await open();
    const random = mock.method(Math, "random", () => 0.999);
    const waits = [];
    socket.end();
    for (let round = 0; round < 9; round += 1) {
      waits.push(await until());
      FakeSocket.last.end();
    }
    assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    random.mock.mockImplementation(() => 0);
    await until();
    FakeSocket.last.end();
    assert.ok(await until() <= 100); // Full jitter: as soon as at once.
    room.close();
    random.mock.restore();
  });

  test("it begins short again after a link that held, and not after one that was lost at once", async () => {
    const random = mock.method(Math, "random", () => 0.999);
    const { socket } = await open();
    socket.end();
    for (const [held, wait] of [[1000, 500], [1000, 1000], [6000, 2000], [0, 500]]) {
      assert.equal(await until(), wait);
      FakeSocket.last.welcome(WELCOMED);
      await pass(held);
      FakeSocket.last.end();
    }
    random.mock.restore();
  });

  test("one that does not open is given up", async () => {
    const { room, socket } = await connecting({ backoff: { first: 0, longest: 0 } });
    assert.equal(room.state, "connecting");
    assert.equal(await until(1000), 20_000);
    assert.notEqual(socket.closed, null);
    assert.equal(await until(1000), 40_000); // It has more time: perhaps it is slow.
    FakeSocket.last.welcome();
    FakeSocket.last.end();
    await until();
    assert.equal(await until(1000), 20_000);
    room.close();
  });

  test("one whose WebSocket has an error and no close is over", async () => {
    const { room, socket } = await connecting({ backoff: { first: 0, longest: 0 } });
    socket.onerror({});
    await until();
    assert.equal(room.state, "connecting");
    const { onerror, onclose } = FakeSocket.last;
    onerror({});
    onclose({ code: 1006, reason: "" });
    await until();
    await pass(1000);
    assert.equal(FakeSocket.all.length, 3); // One for both.
    room.close();
  });

  test("a token is asked for each time", async () => {
    let number = 0;
    const { room, socket } = await connecting({ token: async () => `t${number += 1}` }, "ws://h/r/x?user=A");
    assert.deepEqual(socket.query, { user: "A", token: "t1" });
    socket.welcome();
    socket.end(4003); // It expired: another is at hand.
    await until();
    assert.deepEqual(FakeSocket.last.query, { user: "A", token: "t2", resume: "TOKEN", seq: "0" });
    assert.deepEqual((await connecting({ token: "a b&c" })).socket.query, { token: "a b&c" });
    assert.deepEqual((await connecting({ token: () => null })).socket.query, {});
    room.close();
  });

  test("a token that cannot be had now is asked for later, one that never can be ends it", async () => {
    const answers = [
      () => { throw new Error("down"); }, () => Promise.reject(new Error("down")), () => new Promise(() => 0), () => "t",
    ];
    const room = connectRoom("ws://h/r/x", { WebSocket: FakeSocket, token: () => answers.shift()() });
    await until();
    assert.deepEqual(FakeSocket.last.query, { token: "t" });
    room.close();
    const never = Object.assign(new Error("logged out"), { retry: false });
    const other = connectRoom("ws://h/r/x", { WebSocket: FakeSocket, token: () => Promise.reject(never) });
    const outcome = ask(other, "a");
    await settled();
    assert.deepEqual([other.state, other.error.code, other.error.cause], ["closed", "cannot_connect", never]);
    assert.equal((await now(outcome)).applied, false);
  });

  test("a WebSocket that never can be made ends it", async () => {
    const Refused = class { constructor() { throw new DOMException("from https: only wss:", "SecurityError"); } };
    const room = connectRoom("ws://h/r/x", { WebSocket: Refused });
    await settled();
    assert.deepEqual([room.state, room.error.code], ["closed", "cannot_connect"]);
  });
});

describe("a link that is quiet", () => {
  test("is asked whether it is there, and is", async () => {
    const { room, socket } = await open();
    await pass(29_000);
    assert.deepEqual(socket.take(), []);
    for (let round = 0; round < 3; round += 1) {
      await pass(6000);
      assert.deepEqual(socket.take(), [PING]);
      socket.say(PONG);
      await pass(29_000);
      assert.deepEqual(socket.take(), []);
    }
    assert.equal(FakeSocket.all.length, 1);
    room.close();
  });

  test("is given up where it does not answer, with more patience each time", async () => {
    const { room, socket } = await open({ backoff: { first: 0, longest: 0 } });
    const times = [];
    for (let round = 0; round < 3; round += 1) {
      times.push(Math.round(await until() / 5000) * 5);
      FakeSocket.last.welcome(WELCOMED);
    }
    assert.deepEqual(times, [40, 50, 70]);
    assert.notEqual(socket.closed, null);
    FakeSocket.last.end();
    await until();
    FakeSocket.last.welcome(WELCOMED);
    assert.equal(Math.round(await until() / 5000) * 5, 40);
    room.close();
  });

  test("is asked sooner where an answer is awaited; and never, if so it is wanted", async () => {
    const { room, socket } = await open();
    ask(room, "a");
    await pass(16_000);
    assert.deepEqual(socket.take().at(-1), PING);
    room.close();
    const { room: other, socket: quiet } = await open({ quiet: Infinity });
    await pass(600_000);
    assert.deepEqual([quiet.take(), FakeSocket.all.length], [[], 2]);
    other.close();
  });

  test("and heard of in any way, is there", async () => {
    const { room, socket } = await open();
    await pass(36_000);
    assert.deepEqual(socket.take(), [PING]);
    socket.say({ event: "n", data: 1 });
    await pass(20_000);
    assert.equal(FakeSocket.all.length, 1);
    room.close();
  });
});

describe("time that jumps", () => {
  test("after a sleep the link is asked at once, and given up soon", async () => {
    const { room, socket } = await open({ backoff: { first: 0, longest: 0 } });
    await pass(2000);
    await standStill(3_600_000);
    assert.deepEqual(socket.take(), [PING]);
    const waited = await until();
    assert.ok(waited >= 5000 && waited < 7000, `${waited}`);
    room.close();
  });

  test("what came in the meantime counts, though it is read after the timers", async () => {
    const { room, socket } = await open({ backoff: { first: 0, longest: 0 } });
    await pass(36_000);
    assert.deepEqual(socket.take(), [PING]);
    await standStill(3_600_000); // Its answer came, and is not read yet.
    socket.say(PONG);
    await pass(20_000);
    assert.equal(FakeSocket.all.length, 1);
    // And where there was none, it is found out all the same.
    await pass(15_000);
    assert.deepEqual(socket.take(), [PING]);
    await standStill(3_600_000);
    assert.ok(await until() < 12_000);
    room.close();
  });

  test("in the background, where timers run once in a minute, a dead link is noticed and a live one kept", async () => {
    const { room, socket } = await open({ backoff: { first: 0, longest: 0 } });
    for (let minute = 0; minute < 5; minute += 1) {
      await standStill(60_000);
      if (socket.take().length) socket.say(PONG);
    }
    assert.equal(FakeSocket.all.length, 1);
    for (let minute = 0; minute < 5; minute += 1) await standStill(60_000);
    assert.ok(FakeSocket.all.length > 1);
    room.close();
  });

  test("a clock that is set back keeps nothing from being noticed", async () => {
    const { room } = await open({ backoff: { first: 0, longest: 0 } });
    const { now: clock } = Date;
    await pass(1000);
    mock.method(Date, "now", () => clock() - 3_600_000);
    assert.ok(await until() < 20_000);
    mock.restoreAll();
    room.close();
  });
});

describe("a page", () => {
  let page = null;
  beforeEach(() => { page = new FakePage(); });
  afterEach(() => page.leave());

  test("has rooms on its own host", async () => {
    const { room, socket } = await connecting({}, "/chat/lobby?user=A");
    assert.equal(socket.url.href, "wss://example.org/chat/lobby?user=A");
    room.close();
  });

  test("that is online again, or looked at again, connects at once", async () => {
    for (const wake of [() => page.fire("online"), () => page.turn("visible")]) {
      const { room, socket } = await open({ backoff: { first: 1e6, longest: 1e6 } });
      await pass(2000);
      socket.end();
      await pass(2000);
      const before = FakeSocket.all.length;
      wake();
      await settled();
      assert.equal(FakeSocket.all.length, before + 1);
      FakeSocket.last.end();
      wake(); // Again, within a second: it waits.
      await settled();
      assert.equal(FakeSocket.all.length, before + 1);
      room.close();
      wake();
      await settled();
      assert.equal(FakeSocket.all.length, before + 1);
    }
  });

  test("doubts its link when something has changed", async () => {
    const { room, socket } = await open();
    for (const change of [() => page.fire("online"), () => page.fire("offline"), () => page.turn("visible")]) {
      change();
      change();
      assert.deepEqual(socket.take(), [PING]);
      socket.say(PONG);
    }
    page.fire("offline");
    assert.ok(await until() < 7000);
    room.close();
  });

  test("that is hidden acknowledges at once, while its timers still run", async () => {
    const { room, socket } = await open();
    socket.say({ event: "n", seq: 1 });
    page.turn("hidden");
    assert.deepEqual(socket.take(), [{ ack: 1 }]);
    room.close();
  });

  test("that goes for good ends its session", async () => {
    const { room, socket } = await open();
    socket.say({ event: "n", seq: 1 });
    page.fire("pagehide", { persisted: false });
    assert.deepEqual([socket.take(), socket.closed, page.storage.content.size], [[{ ack: 1 }], 1000, 0]);
    await pass(100_000);
    assert.equal(FakeSocket.all.length, 1);
    room.close();
  });

  test("that is kept by the browser comes back to its session", async () => {
    const { room, socket } = await open();
    const outcome = ask(room, "a");
    socket.say({ event: "n", seq: 4 });
    page.fire("pagehide", { persisted: true });
    assert.deepEqual([socket.closed, room.state], [1005, "reconnecting"]); // No code: the session waits.
    await standStill(60_000);
    assert.equal(FakeSocket.all.length, 1);
    page.fire("pageshow", { persisted: true });
    await settled();
    assert.deepEqual(FakeSocket.last.query, { resume: "TOKEN", seq: "4" });
    FakeSocket.last.welcome(WELCOMED);
    assert.deepEqual(FakeSocket.last.take(), [{ event: "a", data: null, id: 1 }]);
    FakeSocket.last.say({ ack: 1, data: "yes" });
    assert.equal(await outcome, "yes");
    room.close();
  });

  /** The page is loaded once more: what it had in memory is gone. */
  async function reload(options, from = page) {
    from.fire("pagehide", { persisted: false });
    from.leave();
    const { storage } = from;
    page = new FakePage();
    page.storage = storage;
    page.show(storage);
    return connecting(options, "/hall/x?user=A");
  }

  test("that is loaded again resumes, if it asked for it, and its ids go on", async () => {
    for (const resume of [true, "mine"]) {
      const { room: gone, socket: first } = await connecting({ resume }, "/hall/x?user=A");
      first.welcome();
      ask(gone, "a");
      ask(gone, "b");
      first.say({ event: "n", seq: 6 }, { ack: 2, data: 1 });
      const { room, socket } = await reload({ resume });
      assert.equal(first.closed, 1005);
      assert.deepEqual(socket.query, { user: "A", resume: "TOKEN", seq: "6" });
      const seen = [];
      room.on("n", (data, { seq }) => seen.push(seq));
      room.on("rooms.reset", () => seen.push("reset"));
      const outcome = ask(room, "c");
      socket.welcome({ resumed: true, seq: 6 });
      // What was not answered is sent again; who awaited it is gone.
      assert.deepEqual(socket.take(), [{ event: "a", data: null, id: 1 }, { event: "c", data: null, id: 3 }]);
      assert.equal(room.waiting, 1);
      socket.say({ event: "n", seq: 6 }, { event: "n", seq: 7 }, { ack: 1, data: "a" }, { ack: 3, data: "c" });
      assert.equal(await outcome, "c");
      assert.deepEqual(seen, [7]);
      await pass(300);
      assert.deepEqual(socket.take(), [{ ack: 7, id: 3 }]);
      room.close();
    }
  });

  test("whose session is over by then begins anew and is told", async () => {
    (await connecting({ resume: true }, "/hall/x?user=A")).socket.welcome();
    const { room, socket } = await reload({ resume: true });
    const seen = [];
    room.on("rooms.reset", (data) => seen.push(data.reason));
    ask(room, "a");
    socket.welcome({ session: "b2", resume: "OTHER", reason: "expired", seq: 2 });
    assert.deepEqual([seen, socket.take()[0].id], [["expired"], 1]);
    room.close();
  });

  test("that is duplicated is another session", async () => {
    (await connecting({ resume: true }, "/hall/x?user=A")).socket.welcome();
    const { room } = await reload({ resume: true });
    FakeSocket.last.welcome(WELCOMED);
    const copy = new Map(page.storage.content);
    const original = page;
    page.leave();
    page = new FakePage();
    page.storage.content = copy;
    const { room: second, socket } = await connecting({ resume: true }, "/hall/x?user=A");
    assert.deepEqual(socket.query, { user: "A" });
    second.close();
    assert.equal(room.state, "open");
    original.leave();
  });

  test("that is frozen and discarded resumes; thawed, it goes on", async () => {
    const { room, socket } = await connecting({ resume: true }, "/hall/x?user=A");
    socket.welcome();
    socket.say({ event: "n", seq: 3 });
    page.document.dispatchEvent(new Event("freeze"));
    assert.deepEqual([socket.take(), socket.closed, page.storage.content.size], [[{ ack: 3 }], null, 1]);
    const kept = new Map(page.storage.content);
    page.document.dispatchEvent(new Event("resume"));
    assert.deepEqual([socket.take(), page.storage.content.size], [[{ ack: 3, ping: true }], 0]);
    page.storage.content = kept;
    page.leave();
    page = new FakePage();
    page.storage.content = kept;
    const { room: next, socket: second } = await connecting({ resume: true }, "/hall/x?user=A");
    assert.deepEqual(second.query, { user: "A", resume: "TOKEN", seq: "3" });
    next.close();
    room.close();
  });

  test("that comes back after another page used its session begins anew", async () => {
    const { room, socket } = await connecting({ resume: true }, "/hall/x?user=A");
    const seen = [];
    room.on("rooms.reset", (data) => seen.push(data.reason));
    socket.welcome();
    page.fire("pagehide", { persisted: true });
    page.storage.content.set("trio-rooms:example.org/hall/x", JSON.stringify(["TOKEN", 9, 4, []]));
    page.fire("pageshow", { persisted: true });
    await settled();
    assert.deepEqual(FakeSocket.last.query, { user: "A" });
    FakeSocket.last.welcome({ session: "b2" });
    assert.deepEqual(seen, ["unknown"]);
    room.close();
  });

  test("without a storage, or with something else in it, begins anew", async () => {
    for (const content of ["{", "7", "null"]) {
      page.storage.content.set("trio-rooms:example.org/hall/x", content);
      const { room, socket } = await connecting({ resume: true }, "/hall/x");
      assert.deepEqual(socket.query, {});
      room.close();
    }
    const forbidden = () => { throw new DOMException("no", "SecurityError"); };
    Object.defineProperty(globalThis, "sessionStorage", { get: forbidden, configurable: true });
    const { room, socket } = await connecting({ resume: true }, "/hall/x");
    socket.welcome();
    page.fire("pagehide", { persisted: false });
    assert.equal(room.state, "reconnecting");
    page.fire("pageshow", { persisted: true });
    await settled();
    assert.deepEqual(FakeSocket.last.query, { resume: "TOKEN", seq: "0" }); // It has it in memory.
    room.close();
  });

  test("that has left is left alone", async () => {
    const { room } = await open();
    room.close();
    for (const name of ["online", "pagehide", "pageshow"]) page.fire(name, { persisted: true });
    page.turn("visible");
    await pass(100_000);
    assert.equal(FakeSocket.all.length, 1);
  });
});
