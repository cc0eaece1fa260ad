/**
 * A client of trio_rooms, for browsers, Node, Deno and Bun: one module without dependencies.
 *
 *     import { connectRoom } from "/trio-rooms.js";
 *     const room = connectRoom("/ledger/main");
 *     room.on("balance", (data) => show(data.balance));
 *     const { balance } = await room.ask("add", { amount: 3 });
 *
 * It connects again by itself, resumes its session, and sends again what was not answered; the server knows what
 * it has handled already. The types are in trio-rooms.d.ts.
 *
 * `Room` is the session, which outlives its links. A `Link` is one WebSocket, from its opening to its end.
 */

const SUBPROTOCOL = "trio-rooms.v1.json";
/** Offered beside it: a page sees no HTTP status, so it asks the server to refuse it with a close code. */
const REFUSAL = "trio-rooms.refusal";

const WINDOW = 1000; // Ids from the oldest unanswered to the newest; the server takes no more.
const ACK_AFTER = 250; // Milliseconds after which what came is acknowledged,
const ACK_MOST = 64; // and messages.
const SENT_AHEAD = 256 * 1024; // Bytes given to the WebSocket and not sent yet, before the rest waits here.
const STEADY = 5000; // A link that held for so long was a good one: the next wait begins short again.
const BEAT = 5000; // How often a link is looked at,
const QUICK_BEAT = 1000; // and while its answer to a probe is awaited.
const LATE = 3000; // A timer that is later than this stood still: the machine slept, or the page was throttled.
const WHILE_ASKING = 10_000; // Quiet for so long, with something unanswered, a link is probed.
const MOST_PATIENCE = 120_000;

/** Close codes that end a room; those from 4000 to 4999 do, too. 1000 is sent when the room is destroyed. */
const FINAL = new Set([1000, 1002, 1003, 1007, 1008, 1009]);
const TAKEN_OVER = 4001;
const TOKEN_EXPIRED = 4003;
const ENDS = { 1009: "too_big", [TAKEN_OVER]: "taken_over", [TOKEN_EXPIRED]: "token_expired" };

/** The server goes on in a session when the same id comes again, whether or not somebody still awaits it. */
const AGAIN = new Set(["unavailable", "too_many_in_flight"]);

/** What is known of a message that got one of these errors; of a handler's own code nothing is. */
const VERDICTS = {
  not_saved: { retry: true, applied: false },
  room_failed: { retry: true, applied: false },
  handler_timeout: { retry: true },
  invalid_message: { applied: false },
  unknown_event: { applied: false },
  invalid_data: { applied: false },
};

/** Why something could not be done: see trio-rooms.d.ts. */
export class RoomError extends Error {
  constructor(code, message, { retry = false, applied, status, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "RoomError";
    this.code = code;
    this.retry = retry;
    this.applied = applied;
    this.status = status;
  }
}

/** Connect to a room: a path of the page's own host, or a URL. */
export function connectRoom(address, options = {}) {
  return new Room(address, options);
}

class Room extends EventTarget {
  #url;
  #options;
  #state = "connecting";
  #error = null;
  #handlers = new Map(); // Sets of { call }, by the name of the event.
  #users = new Map(); // The entries of who is here, by user.

  // The session.
  #session = null; // Its id,
  #resume = null; // and the token that resumes it.
  #greeted = false; // Whether there ever was one.
  #seq = 0; // The newest that was handed over.
  #lastId = 0;
  #queue = []; // What is to be sent, in order; that with an id was sent before, over a link that broke.
  #sent = new Map(); // What was sent and is unanswered, by id, the oldest first.
  #waiting = 0; // Requests without an outcome.
  #postponed = 0; // Answers in a row that could not be given yet.
  #size = 0; // Characters of all in #queue and #sent.
  #stored = null; // What of it this page has put into the storage and not taken out again.
  #owed = 0; // What came since the last acknowledgement,
  #owedSince = 0; // the first of it then.

  // The way to the server.
  #link = null;
  #attempt = 0; // Counts; whoever awaits something for an older one gives up.
  #tried = 0; // When the last one began.
  #failures = 0; // Attempts in a row that came to nothing.
  #silences = 0; // Links in a row that were given up because nothing was heard.
  #timers = {};
  #unlisten = [];

  constructor(address, options) {
    super();
    const {
      token, resume = false, WebSocket = globalThis.WebSocket, backoff = { first: 500, longest: 30_000 },
      quiet = 30_000, patience = 10_000, maxWaiting = 1000, maxSize = 16 * 1024 * 1024, ...unknown
    } = options;
    for (const name of Object.keys(unknown)) throw new TypeError(`connectRoom has no option ${name}`);
    if (typeof WebSocket !== "function") {
      throw new TypeError("there is no WebSocket here: give one as options.WebSocket (Node has its own from version 22 on)");
    }
    this.#url = absolute(address);
    this.#options = { token, resume, WebSocket, backoff, quiet, patience, maxWaiting, maxSize };
    this.#listen();
    this.#takeStored();
    this.#connect();
  }

  get state() { return this.#state; }
  get error() { return this.#error; }
  get session() { return this.#session; }
  get waiting() { return this.#waiting; }
  get users() { return this.#users; }

  on(name, call) {
    if (typeof call !== "function") throw new TypeError("room.on takes the name of an event, and a function");
    const handler = { call };
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
    return () => { this.#handlers.get(name).delete(handler); };
  }

  ask(event, data = null, { signal, timeout } = {}) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) {
        throw new RoomError("aborted", `${event} was aborted`, { applied: false, cause: signal.reason });
      }
      const request = this.#message(event, data);
      const giveUp = (code, text, cause) => this.#abandon(request, new RoomError(code, text, {
        retry: code === "timeout", applied: request.id === undefined ? false : undefined, cause,
      }));
      const aborted = () => giveUp("aborted", `${event} was aborted`, signal.reason);
      const late = () => giveUp("timeout", `${event} had no answer within ${timeout} ms`);
      const timer = timeout < 2 ** 31 ? setTimeout(late, timeout) : undefined;
      signal?.addEventListener("abort", aborted);
      const settle = (call) => (outcome) => {
        request.settle = null;
        this.#waiting -= 1;
        clearTimeout(timer);
        signal?.removeEventListener("abort", aborted);
        call(outcome);
      };
      request.settle = { resolve: settle(resolve), reject: settle(reject) };
      this.#waiting += 1;
      this.#pump();
    });
  }

  emit(event, data = null) {
    this.#message(event, data);
    this.#pump();
  }

  close() {
    if (this.#state === "closed") return;
    this.#acknowledge();
    this.#link?.leave(1000); // This code ends the session, too; with any other end of a link it waits.
    this.#finish(null);
  }

  // Up.

  /** Put a message into the queue. It is encoded now: what the caller does to the data later changes nothing. */
  #message(event, data) {
    if (this.#state === "closed") throw this.#whyClosed({ applied: false });
    if (typeof event !== "string" || !event) throw new TypeError("an event has a name");
    const text = JSON.stringify({ event, data });
    const { maxWaiting, maxSize } = this.#options;
    const size = text.length;
    if (this.#queue.length >= maxWaiting || this.#waiting >= maxWaiting || this.#size + size > maxSize) {
      const why = `${event}: so much waits for the server already that no more is taken`;
      throw new RoomError("too_many_waiting", why, { retry: size <= maxSize, applied: false });
    }
    const message = { text, size, id: undefined, settle: undefined };
    this.#size += size;
    this.#queue.push(message);
    return message;
  }

  /** Send what can be sent now. */
  #pump() {
    const queue = this.#queue;
    while (queue.length && this.#state === "open" && this.#timers.hold === undefined) {
      const message = queue[0];
      if (message.id !== undefined && !this.#sent.has(message.id)) { // It was answered meanwhile.
        queue.shift();
        continue;
      }
      if (this.#link.buffered > SENT_AHEAD) {
        this.#timer("pump", 50, () => this.#pump()); // Nothing tells when it is sent.
        return;
      }
      if (message.settle && message.id === undefined) {
        if (this.#lastId + 1 - this.#oldest >= WINDOW) return; // The answer to the oldest goes on here.
        message.id = this.#lastId += 1;
        message.text = `${message.text.slice(0, -1)},"id":${message.id}}`;
        this.#sent.set(message.id, message);
      }
      queue.shift();
      if (message.id === undefined) this.#size -= message.size;
      this.#link.send(message.text);
    }
  }

  /** Somebody waits no more for an answer. What was not sent yet is not sent. */
  #abandon(message, error) {
    message.settle.reject(error);
    if (message.id === undefined) {
      this.#queue.splice(this.#queue.indexOf(message), 1);
      this.#size -= message.size;
    }
  }

  #forget(message) {
    if (this.#sent.delete(message.id)) this.#size -= message.size;
  }

  /** Tell the server what came, at once. */
  #acknowledge() {
    this.#timer("ack");
    if (!this.#owed || this.#state !== "open") return;
    this.#owed = 0;
    this.#link.send(this.#receipt());
  }

  #receipt(more) {
    return JSON.stringify({ ack: this.#seq, id: this.#oldest > 1 ? this.#oldest - 1 : undefined, ...more });
  }

  /** The oldest id without an answer, or else the next. */
  get #oldest() {
    const [oldest = this.#lastId + 1] = this.#sent.keys();
    return oldest;
  }

  /** Something came that is to be acknowledged soon. A page in the background has no timers to rely on. */
  #owe() {
    if (this.#resume === null) return;
    const now = Date.now();
    if (this.#owed === 0) {
      this.#owedSince = now;
      this.#timer("ack", ACK_AFTER, () => this.#acknowledge());
    }
    this.#owed += 1;
    if (this.#owed >= ACK_MOST || now - this.#owedSince >= ACK_AFTER) this.#acknowledge();
  }

  // Down.

  #received(message) {
    const { event, seq, ack, error } = message;
    if (event === "rooms.welcome") this.#welcomed(message.data);
    else if (event === "rooms.pong") return;
    else if (ack !== undefined) this.#answered(message);
    else if (error !== undefined) this.#complain(problem(error));
    else if (seq === undefined) this.#hand(message);
    else if (seq > this.#seq) {
      this.#seq = seq;
      this.#owe();
      this.#hand(message);
    }
  }

  #welcomed({ session, resume, resumed, seq, reason }) {
    const lost = this.#greeted && !resumed;
    this.#greeted = true;
    this.#session = session;
    this.#resume = resume ?? null;
    const sent = [...this.#sent.values()];
    this.#queue = this.#queue.filter((message) => message.id === undefined);
    if (resumed) {
      this.#queue.unshift(...sent);
    } else {
      for (const message of sent) this.#forget(message);
      this.#seq = seq ?? 0;
      this.#lastId = 0;
    }
    this.#become("open");
    if (lost) {
      const text = "the session ended before an answer came";
      for (const message of sent) message.settle?.reject(new RoomError("session_lost", text, { retry: true }));
      const why = reason ?? (this.#resume === null ? "none" : "unknown");
      if (this.#state === "open") this.#hand({ event: "rooms.reset", data: { reason: why } });
    }
    this.#pump();
  }

  #hand({ event: name, data, seq }) {
    const event = { name, data, seq };
    if (name === "rooms.presence") this.#attend(data);
    else if (name === "rooms.reset") this.#users.clear();
    for (const handler of [...this.#handlers.get(name) ?? []]) {
      try {
        handler.call(data, event);
      } catch (error) {
        this.#report(error);
      }
    }
  }

  /** Who is here: the whole, or the new entries of some. */
  #attend(data) {
    if (data?.users) this.#users.clear();
    for (const [user, entries] of Object.entries(data?.users ?? data?.changes ?? {})) {
      if (entries.length) this.#users.set(user, entries);
      else this.#users.delete(user);
    }
  }

  #answered({ ack, data, error }) {
    const message = this.#sent.get(ack);
    if (message === undefined) return;
    if (AGAIN.has(error?.code)) {
      this.#postpone(message);
      return;
    }
    this.#forget(message);
    this.#postponed = 0;
    this.#owe();
    if (error) message.settle?.reject(problem(error));
    else message.settle?.resolve(data);
    this.#pump();
  }

  /** What became of it the server cannot say yet: the same again later, and nothing else before it. */
  #postpone(message) {
    const queue = this.#queue;
    if (!queue.includes(message)) {
      const place = queue.findIndex((one) => one.id === undefined || one.id > message.id);
      queue.splice(place < 0 ? queue.length : place, 0, message);
    }
    if (this.#timers.hold !== undefined) return;
    const wait = 100 + Math.random() * Math.min(5000, 250 * 2 ** this.#postponed);
    this.#postponed += 1;
    this.#timer("hold", wait, () => this.#pump());
  }

  /** What was emitted, and so nobody awaits, was refused. */
  #complain(error) {
    const told = new CustomEvent("error", { detail: error, cancelable: true });
    if (this.dispatchEvent(told)) console.error(error);
  }

  /** An error of a handler here is told as one that nobody caught. */
  #report(error) {
    if (globalThis.reportError) globalThis.reportError(error);
    else queueMicrotask(() => { throw error; });
  }

  // Connecting, and again.

  async #connect() {
    this.#timer("retry");
    const attempt = this.#attempt += 1;
    this.#tried = Date.now();
    const patience = Math.min(MOST_PATIENCE, this.#options.patience * 2 ** this.#silences);
    let link = null;
    try {
      const url = await this.#address(patience);
      if (attempt !== this.#attempt) return;
      link = new Link(url, this.#options, patience, {
        received: (message) => { if (link === this.#link) this.#received(message); },
        ended: (end) => { if (link === this.#link) this.#lost(end); },
        probe: () => this.#receipt({ ping: true }),
        asking: () => this.#sent.size > 0,
      });
      this.#link = link;
    } catch (error) {
      if (attempt !== this.#attempt) return;
      // A WebSocket is not refused by its constructor unless it never will be anything.
      const final = error?.retry === false || error instanceof SyntaxError || error?.name === "SecurityError";
      if (final) this.#finish(new RoomError("cannot_connect", `${this.#url}: ${error.message}`, { cause: error }));
      else this.#again();
    }
  }

  /** Where to connect to this time. */
  async #address(patience) {
    const url = new URL(this.#url);
    let { token } = this.#options;
    if (typeof token === "function") token = await within(patience, token());
    if (token !== undefined && token !== null) url.searchParams.set("token", token);
    if (this.#resume !== null) {
      url.searchParams.set("resume", this.#resume);
      url.searchParams.set("seq", this.#seq);
    }
    return url.href;
  }

  /** The link ended. */
  #lost({ code, reason, refused, silent, opened }) {
    this.#link = null;
    this.#silences = silent ? this.#silences + 1 : 0;
    if (opened && Date.now() - opened >= STEADY) this.#failures = 0;
    const renews = code === TOKEN_EXPIRED && typeof this.#options.token === "function";
    if (refused) {
      const status = code - 4000;
      this.#finish(new RoomError("refused", `refused with ${status}: ${reason}`, { status }));
    } else if (FINAL.has(code) || (code >= 4000 && !renews)) {
      const why = `the server closed with ${code}${reason && `: ${reason}`}`;
      this.#finish(new RoomError(ENDS[code] ?? "closed", why, { status: code }));
    } else {
      this.#again();
    }
  }

  /** Try again in a while; full jitter, so that not all clients of a server come back at the same moment. */
  #again() {
    this.#owed = 0;
    this.#timer("ack");
    this.#timer("pump");
    this.#timer("hold");
    const { first, longest } = this.#options.backoff;
    const wait = Math.random() * Math.min(longest, first * 2 ** this.#failures);
    this.#failures += 1;
    this.#timer("retry", wait, () => this.#connect());
    if (this.#state === "open") this.#become("reconnecting");
  }

  /** There is a reason to believe that the way to the server has changed. */
  #nudge() {
    if (this.#link) this.#link.doubt();
    else if (this.#timers.retry !== undefined && Date.now() - this.#tried > 1000) this.#connect();
  }

  #finish(error) {
    this.#error = error;
    this.#link = null;
    this.#attempt += 1;
    for (const name of Object.keys(this.#timers)) this.#timer(name);
    for (const call of this.#unlisten) call();
    const unsettled = [...this.#sent.values(), ...this.#queue];
    this.#sent.clear();
    this.#queue = [];
    this.#become("closed");
    for (const message of unsettled) {
      message.settle?.reject(this.#whyClosed({ applied: message.id === undefined ? false : undefined }));
    }
  }

  #whyClosed(known) {
    const { code = "closed", message = "the room is closed", status, retry } = this.#error ?? {};
    return new RoomError(code, message, { status, retry, ...known });
  }

  #become(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: state }));
  }

  /** Set one of the timers, or with its name alone put it out. */
  #timer(name, wait, call) {
    clearTimeout(this.#timers[name]);
    delete this.#timers[name];
    if (call) this.#timers[name] = setTimeout(() => { delete this.#timers[name]; call(); }, wait);
  }

  // The page around, where there is one.

  #listen() {
    const listen = (target, name, call) => {
      if (!target?.addEventListener) return;
      target.addEventListener(name, call);
      this.#unlisten.push(() => target.removeEventListener(name, call));
    };
    const { document } = globalThis;
    listen(globalThis, "online", () => this.#nudge());
    listen(globalThis, "offline", () => this.#nudge());
    listen(document, "visibilitychange", () => {
      if (document.visibilityState === "hidden") this.#acknowledge();
      else this.#nudge();
    });
    // Frozen, a page may be discarded without another word. Its WebSocket stays open as long as it is not.
    listen(document, "freeze", () => { this.#acknowledge(); this.#storeSession(); });
    listen(document, "resume", () => { this.#takeStored(); this.#nudge(); });
    if (document) {
      listen(globalThis, "pagehide", (event) => this.#hidePage(event.persisted));
      listen(globalThis, "pageshow", (event) => {
        if (!event.persisted) return;
        this.#takeStored();
        this.#connect();
      });
    }
  }

  /** The page goes: for good, or into the browser's cache, where pages with an open WebSocket are not kept. */
  #hidePage(cached) {
    this.#acknowledge();
    this.#storeSession();
    // Nobody can resume the session of a page that is gone and has not stored it.
    this.#link?.leave(cached || this.#storageKey !== null ? undefined : 1000);
    this.#link = null;
    this.#attempt += 1;
    this.#timer("retry");
    if (this.#state === "open") this.#become("reconnecting");
  }

  /** Its name in the storage of this tab, which outlives a reload; null where it is not to be there. */
  get #storageKey() {
    const { resume } = this.#options;
    return resume ? `trio-rooms:${resume === true ? this.#url.host + this.#url.pathname : resume}` : null;
  }

  #storeSession() {
    if (this.#storageKey === null || this.#resume === null) return;
    // What is unanswered is sent again by the next page, though nobody awaits it there: the server may wait for it.
    const sent = [...this.#sent.values()].map(({ id, text }) => [id, text]);
    const stored = JSON.stringify([this.#resume, this.#seq, this.#lastId, sent]);
    try {
      sessionStorage.setItem(this.#storageKey, stored);
      this.#stored = stored;
    } catch { /* It is full, or this page may have none: then the next begins anew. */ }
  }

  /**
   * Take the session out of the storage. It is never there while it is in use: a tab that is duplicated gets a copy of
   * the storage, and the two would take the session from each other.
   */
  #takeStored() {
    if (this.#storageKey === null) return;
    let stored = null;
    let session = null;
    try {
      stored = sessionStorage.getItem(this.#storageKey);
      sessionStorage.removeItem(this.#storageKey);
      session = JSON.parse(stored);
    } catch { /* As above; or it is something else. */ }
    if (this.#stored !== null) {
      // This page comes back. If another has used the session meanwhile, what came there will not come here.
      if (stored !== this.#stored) this.#resume = null;
      this.#stored = null;
    } else if (!this.#greeted && Array.isArray(session)) {
      let sent;
      [this.#resume, this.#seq, this.#lastId, sent = []] = session;
      for (const [id, text] of sent) {
        this.#sent.set(id, { id, text, size: text.length, settle: null });
        this.#size += text.length;
      }
      this.#greeted = true;
    }
  }
}

/** One WebSocket, from its opening to its end; notices when nobody is there any more. */
class Link {
  #socket;
  #room;
  #quiet;
  #patience;
  #timer; // For the welcome at first, then for beats,
  #due = 0; // of which the next is due then.
  #opened = 0; // When the welcome came; 0 before.
  #heard = 0; // When something came last.
  #probed = 0; // Since when the answer to a probe is awaited; 0 where none is,
  #deadline = 0; // and for how long.
  #spared = false; // Whether its time was over once already, while this page stood still.

  constructor(url, { WebSocket, quiet }, patience, room) {
    this.#room = room;
    this.#quiet = quiet;
    this.#patience = patience;
    const socket = this.#socket = new WebSocket(url, [SUBPROTOCOL, REFUSAL]);
    const failed = { code: 1006, reason: "" };
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#end({ code, reason, refused: socket.protocol === REFUSAL });
    socket.onerror = () => setTimeout(() => this.#end(failed)); // Some have no close event after it.
    this.#timer = setTimeout(() => this.#end({ ...failed, silent: true }), 2 * patience);
  }

  /** Bytes that were given to `send` and are not sent. */
  get buffered() { return this.#socket.bufferedAmount; }

  send(text) {
    this.#socket.send(text);
  }

  /** End it from this side, without another word to the room. */
  leave(code) {
    const socket = this.#socket;
    clearTimeout(this.#timer);
    socket.onmessage = socket.onclose = socket.onerror = null;
    if (code === undefined) socket.close();
    else socket.close(code);
  }

  /** See at once whether the other side is still there. */
  doubt() {
    if (this.#opened && !this.#probed) this.#probe(this.#patience / 2);
  }

  #received(data) {
    this.#heard = Date.now();
    if (this.#probed) {
      this.#probed = 0;
      this.#wait();
    }
    let message = null;
    try {
      message = JSON.parse(data);
    } catch { /* Told below. */ }
    if (message === null || typeof message !== "object") {
      this.#end({ code: 1007, reason: "what came is no message of trio_rooms" });
      return;
    }
    if (message.event === "rooms.welcome") {
      this.#opened = this.#heard;
      this.#wait();
    }
    this.#room.received(message);
  }

  #probe(deadline) {
    this.#probed = Date.now();
    this.#deadline = deadline;
    this.#spared = false;
    this.send(this.#room.probe());
    this.#wait();
  }

  /** Look at it again in a while. */
  #wait() {
    const wait = this.#probed ? Math.min(QUICK_BEAT, this.#deadline) : Math.min(BEAT, this.#quiet);
    clearTimeout(this.#timer);
    this.#due = Date.now() + wait;
    this.#timer = setTimeout(() => this.#beat(), wait);
  }

  #beat() {
    const now = Date.now();
    const late = Math.abs(now - this.#due) > LATE;
    if (!this.#probed) {
      const quiet = this.#room.asking() ? Math.min(this.#quiet, WHILE_ASKING) : this.#quiet;
      if (late) this.doubt();
      else if (now - this.#heard >= quiet) this.#probe(this.#patience);
      else this.#wait();
    } else if (late && !this.#spared) {
      // While this page stood still its answer may have come; it is read after this.
      this.#probed = now;
      this.#spared = true;
      this.#wait();
    } else if (now - this.#probed < this.#deadline) {
      this.#wait();
    } else {
      this.#end({ code: 1006, reason: "", silent: true });
    }
  }

  #end(end) {
    if (!this.#socket.onclose) return; // It has ended before.
    this.leave();
    this.#room.ended({ ...end, opened: this.#opened });
  }
}

/** The URL of a WebSocket. */
function absolute(address) {
  let url;
  try {
    url = new URL(address, globalThis.location?.href);
  } catch {
    const here = globalThis.location ? "" : "; there is no page here, whose host a path could be of";
    throw new TypeError(`a room is at a path, or at a ws: or wss: URL, not at ${address}${here}`);
  }
  if (url.protocol === "http:") url.protocol = "ws:";
  if (url.protocol === "https:") url.protocol = "wss:";
  if (!/^wss?:$/.test(url.protocol)) throw new TypeError(`a room is at a path, or at a ws: or wss: URL, not at ${url}`);
  url.hash = "";
  return url;
}

/** What the server said is wrong. */
function problem({ code, message }) {
  return new RoomError(code, message, VERDICTS[code]);
}

/** The value of a promise, if it has one in time. */
async function within(patience, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("it took too long")), patience);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
