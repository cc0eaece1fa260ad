/** A WebSocket that a test is the other side of, and a page that it is around. */

import { mock } from "node:test";
import { connectRoom } from "../../src/trio_rooms/js/trio-rooms.js";

/** Each `new FakeSocket` is the last of `FakeSocket.all`. */
export class FakeSocket {
  static all = [];
  static get last() { return FakeSocket.all.at(-1); }

  sent = []; // Since it was looked at last.
  closed = null; // The code that it was closed with from here; 1005 for none.
  bufferedAmount = 0;
  protocol = "trio-rooms.v1.json";
  onmessage = null;
  onclose = null;
  onerror = null;

  constructor(url, protocols) {
    this.url = new URL(url);
    this.offered = protocols;
    FakeSocket.all.push(this);
  }

  get query() { return Object.fromEntries(this.url.searchParams); }

  send(text) {
    if (this.closed !== null) throw new Error("it is closed");
    this.sent.push(JSON.parse(text));
  }

  close(code = 1005) { this.closed ??= code; }

  /** What was sent until now. */
  take() { return this.sent.splice(0); }

  say(...messages) {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify(message) });
  }

  welcome(more) {
    const data = { connection: "a1", session: "a1", resume: "TOKEN", resumed: false, seq: 0, durable: true, ...more };
    this.say({ event: "rooms.welcome", data });
  }

  end(code = 1006, reason = "") { this.onclose?.({ code, reason, wasClean: code !== 1006 }); }
}

/** Timers and the time of day stand still from here on; returns a function that lets them go on. */
export function stopTime() {
  mock.timers.enable({ apis: ["setTimeout", "Date"], now: 1_900_000_000_000 });
  FakeSocket.all.length = 0;
}

export async function settled() {
  for (let turn = 0; turn < 3; turn += 1) await new Promise(setImmediate);
}

/** Let time pass, as it does where the page runs: no timer is late. */
export async function pass(milliseconds) {
  for (let left = milliseconds; left > 0; left -= 100) {
    mock.timers.tick(Math.min(left, 100));
    await settled();
  }
}

/** Milliseconds until there is another socket. */
export async function until(step = 100) {
  const before = FakeSocket.all.length;
  for (let waited = 0; waited < 300_000; waited += step) {
    if (FakeSocket.all.length > before) return waited;
    await pass(step);
  }
  throw new Error("it does not connect any more");
}

/** A room whose WebSocket waits for its welcome. */
export async function connecting(options = {}, address = "ws://example.org/hall/x") {
  const room = connectRoom(address, { WebSocket: FakeSocket, ...options });
  await settled();
  return { room, socket: FakeSocket.last };
}

/** A room that is open. */
export async function open(options = {}) {
  const { room, socket } = await connecting(options);
  socket.welcome();
  return { room, socket };
}

/** The outcome of a promise as it is now: its value, its error, or "waiting". */
export async function now(promise) {
  return Promise.race([promise.catch((error) => error), settled().then(() => "waiting")]);
}

class FakeStorage {
  content = new Map();
  getItem(key) { return this.content.get(key) ?? null; }
  setItem(key, value) { this.content.set(key, value); }
  removeItem(key) { this.content.delete(key); }
}

/** A page at https://example.org/; `leave` takes it away again. */
export class FakePage extends EventTarget {
  storage = new FakeStorage();
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });

  constructor() {
    super();
    this.before = Object.getOwnPropertyDescriptors(globalThis);
    const values = {
      document: this.document,
      location: new URL("https://example.org/app/page"),
      addEventListener: this.addEventListener.bind(this),
      removeEventListener: this.removeEventListener.bind(this),
    };
    for (const [name, value] of Object.entries(values)) {
      Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
    }
    this.show(this.storage);
  }

  /** The storage that it has: another tab has another. */
  show(storage) {
    Object.defineProperty(globalThis, "sessionStorage", { value: storage, configurable: true, writable: true });
  }

  leave() {
    for (const name of ["document", "location", "addEventListener", "removeEventListener", "sessionStorage"]) {
      delete globalThis[name];
      if (this.before[name]) Object.defineProperty(globalThis, name, this.before[name]);
    }
  }

  fire(name, details = {}) { this.dispatchEvent(Object.assign(new Event(name), details)); }

  turn(visibilityState) {
    this.document.visibilityState = visibilityState;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }
}

/** Ask a room; that it is rejected before somebody awaits it is no failure of the test. */
export function ask(room, ...request) {
  const outcome = room.ask(...request);
  outcome.catch(() => 0);
  return outcome;
}
