/** Types of the JavaScript client of trio_rooms. All times are in milliseconds. */

/**
 * Connect to a room.
 *
 * It connects in the background, and again whenever the connection is lost; what is asked meanwhile waits. Add the
 * handlers of events at once: what comes for an event without one is passed over.
 *
 * @param address a path of the page's own host, such as "/chat/lobby", or a ws:, wss:, http: or https: URL, which may
 *     have a query. Outside of a page it is a URL.
 * @throws TypeError if it is no such address, there is no such option, or no WebSocket.
 */
export function connectRoom(address: string | URL, options?: RoomOptions): Room;

export interface RoomOptions {
  /**
   * Sent as `?token=`. A function is asked each time a connection is made; it may be async. Where it throws, the
   * attempt has failed and is made again, unless the error's `retry` is false: that ends the room.
   */
  token?: string | (() => string | null | undefined | Promise<string | null | undefined>);
  /**
   * Keep the session over a reload of the page: it is stored in `sessionStorage` when the page goes away. A page that
   * is in the same room twice gives each a name of its own instead of `true`. Ignored where there is no page.
   */
  resume?: boolean | string;
  /** The wait between two attempts to connect is random, from 0 to `first` doubled with each, and at most `longest`. 500 and 30,000. */
  backoff?: { first: number; longest: number };
  /** A connection on which nothing came for so long is looked after; `Infinity`: never. 30,000. */
  quiet?: number;
  /**
   * How long its answer may take before it is given up for another; a connection may take twice as long to open. Each
   * one that is given up doubles it, up to two minutes, until one is not. 10,000.
   */
  patience?: number;
  /** Requests that may be without an answer, and messages that may wait to be sent. 1,000. */
  maxWaiting?: number;
  /** The characters that all of these may have, as JSON. 16 Mi. */
  maxSize?: number;
  /** Used in the place of the global one. */
  WebSocket?: new (url: string, protocols: string[]) => WebSocketLike;
}

/** What is needed of a WebSocket. */
export interface WebSocketLike {
  readonly bufferedAmount: number;
  readonly protocol: string;
  onmessage: ((event: any) => void) | null;
  onclose: ((event: any) => void) | null;
  onerror: ((event: any) => void) | null;
  send(data: string): void;
  close(code?: number): void;
}

/**
 * - `"connecting"`: for the first time;
 * - `"open"`: what is sent goes out at once;
 * - `"reconnecting"`: the connection is lost, the session is kept;
 * - `"closed"`: by `close`, or for the reason in `room.error`; nothing happens any more.
 */
export type RoomState = "connecting" | "open" | "reconnecting" | "closed";

export interface RoomEvent<T = any> {
  readonly name: string;
  readonly data: T;
  /** Its place in the room's journal, if it was sent reliably. */
  readonly seq: number | undefined;
}

/** One connection of a user, in a room with presence. */
export interface PresenceEntry {
  /** `"online"` or what the connection has set; `"away"` while it is lost and may still come back. */
  readonly status: string;
  /** What else it has set. */
  readonly [name: string]: any;
}

export interface AskOptions {
  /** Waits no more when it is aborted. */
  signal?: AbortSignal;
  /** Waits no longer than this. */
  timeout?: number;
}

/** One session in a room. */
export interface Room extends EventTarget {
  readonly state: RoomState;
  /** Why it is closed; null while it is not, and where `close` did it. */
  readonly error: RoomError | null;
  /** The session's id, which is the same after each resume; null before the first connection. */
  readonly session: string | null;
  /** How many requests have no answer yet, those included that are not sent. */
  readonly waiting: number;
  /**
   * Who is here, by name, with an entry for each of their connections: what the events `"rooms.presence"` say that have
   * come so far. It is the same map all the time. Empty in a room without presence, and after `"rooms.reset"` until the
   * whole has come again; while there is no connection it is what it was last.
   */
  readonly users: ReadonlyMap<string, readonly PresenceEntry[]>;

  /**
   * Call a function with each event of a name, in order. What it throws is reported as an error that nobody caught; a
   * promise that it returns is not awaited.
   *
   * `"rooms.reset"`, with `{ reason }`, comes when the session was lost and a new one began: what was sent before may
   * be missing. `"rooms.presence"` comes when `users` has changed, with `{ users }`, the whole, or `{ changes }`.
   *
   * @returns a function that takes it off.
   */
  on<T = any>(name: string, call: (data: T, event: RoomEvent<T>) => void): () => void;

  /**
   * Send an event, and wait for what its handler returns. It is sent again until it is answered, and handled once.
   *
   * @param data what JSON can hold. It is encoded at once.
   * @returns what the handler returned; undefined where the answer came only after an interruption, and the server
   *     does not have its data any more.
   * @throws RoomError see there. A request that is given up is not sent, or if it was, may be handled.
   */
  ask<T = any>(event: string, data?: unknown, options?: AskOptions): Promise<T>;

  /**
   * Send an event, and forget it. While there is no connection it waits; if one breaks as it is sent, it is lost.
   *
   * @throws RoomError `too_many_waiting`, or the room is closed.
   */
  emit(event: string, data?: unknown): void;

  /** End the session, at once. What has no answer yet is rejected. */
  close(): void;

  /** The new state. */
  addEventListener(type: "state", listener: (event: CustomEvent<RoomState>) => void, options?: boolean | AddEventListenerOptions): void;
  /** Something that was emitted was refused. It is logged, unless `preventDefault` is called. */
  addEventListener(type: "error", listener: (event: CustomEvent<RoomError>) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}

/**
 * Why something could not be done.
 *
 * | `code` | |
 * |---|---|
 * | the handler's own, and those of the protocol | the server's answer |
 * | `not_saved` | its changes could not be saved |
 * | `session_lost` | the session ended before the answer came |
 * | `timeout`, `aborted` | it was given up here |
 * | `too_many_waiting` | it was not taken |
 * | `refused` | the server let nobody in; `status` is that of HTTP |
 * | `taken_over` | another connection resumed the session |
 * | `token_expired`, `too_big`, `closed` | the server closed for good; `status` is the close code. Or `close` did |
 * | `cannot_connect` | it never will be possible, such as ws: from a page that came by https: |
 */
export class RoomError extends Error {
  constructor(code: string, message: string, details?: { retry?: boolean; applied?: boolean; status?: number; cause?: unknown });
  readonly code: string;
  /** Whether to ask again may help. */
  readonly retry: boolean;
  /** Whether the server has applied the request: not, or, where it is undefined, perhaps. */
  readonly applied: boolean | undefined;
  readonly status: number | undefined;
}
