/**
 * Talks to the coordinator: bearer token, deadlines, problem documents, pages and the event stream.
 * Addresses are relative, so the page works behind any path that a proxy puts in front.
 */

const DEADLINE_MS = 15_000;
const PAGE_ROWS = 250;
/** The stream beats every 15 s; three missed beats are a dead connection. */
const SILENCE_MS = 45_000;
const FIRST_EVENT_MS = 10_000;
const LONGEST_BACKOFF_MS = 15_000;
const TOKEN = "syncline-token";

/** What the coordinator refused, or that it does not answer (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** @type {(refused: boolean) => Promise<string>} */
let askForToken = () => Promise.reject(new ApiError(401, "this coordinator asks for a token"));
/** @type {Promise<void> | null} */
let asking = null;

/**
 * Set who asks the user for a token when the coordinator wants one.
 * @param {(refused: boolean) => Promise<string>} ask
 */
export function onTokenWanted(ask) {
  askForToken = ask;
}

/** Whether this tab was given a token. */
export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/**
 * A request with the token. A 401 asks the user, once for all requests under way, and sends it again.
 * @param {string} path
 * @param {RequestInit} init
 * @param {() => AbortSignal} deadline
 * @returns {Promise<Response>}
 */
async function send(path, init, deadline) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = new Headers(init.headers);
    if (token !== null) headers.set("Authorization", `Bearer ${token}`);
    const response = await fetch(path, { ...init, headers, signal: deadline(), cache: "no-store" });
    if (response.status !== 401) return response;
    if (sessionStorage.getItem(TOKEN) !== token) continue; // another request has a newer one already
    asking ??= askForToken(token !== null)
      .then((given) => sessionStorage.setItem(TOKEN, given))
      .finally(() => {
        asking = null;
      });
    await asking;
  }
}

/**
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
async function request(path, { method = "GET", body, signal } = {}) {
  const deadline = () => {
    const clock = AbortSignal.timeout(DEADLINE_MS);
    return signal ? AbortSignal.any([signal, clock]) : clock;
  };
  try {
    const headers = new Headers({ Accept: "application/json" });
    if (body !== undefined) headers.set("Content-Type", "application/json");
    const response = await send(
      path,
      { method, headers, body: body === undefined ? null : JSON.stringify(body) },
      deadline,
    );
    if (!response.ok) throw await problem(response);
    return await response.json();
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    const slow = error instanceof DOMException && error.name === "TimeoutError";
    throw new ApiError(0, slow ? `no answer within ${DEADLINE_MS / 1000} s` : "the coordinator does not answer");
  }
}

/**
 * @param {Response} response
 * @returns {Promise<ApiError>}
 */
async function problem(response) {
  const document = await response.json().catch(() => ({}));
  return new ApiError(response.status, document.detail ?? `HTTP ${response.status}`);
}

/**
 * @param {string} path
 * @param {AbortSignal} [signal]
 */
export const get = (path, signal) => request(path, { signal });

/** @param {string} path */
export const post = (path) => request(path, { method: "POST" });

/**
 * @param {string} path
 * @param {unknown} body
 */
export const patch = (path, body) => request(path, { method: "PATCH", body });

/** The rows of a paged resource. A refresh asks again for the last page only: earlier ones do not change. */
export class Series {
  /**
   * @param {string} path
   * @param {string} name the key that the rows are under
   */
  constructor(path, name) {
    this.path = path;
    this.name = name;
    /** @type {any[]} */
    this.rows = [];
    this.tail = { start: 0, token: "" };
  }

  /** Forget everything: the run went back to a saved state. */
  reset() {
    this.rows = [];
    this.tail = { start: 0, token: "" };
  }

  /** @param {AbortSignal} signal */
  async refresh(signal) {
    let { start, token } = this.tail;
    for (;;) {
      const page = await get(`${this.path}?page_size=${PAGE_ROWS}&page_token=${encodeURIComponent(token)}`, signal);
      const rows = page[this.name];
      if (rows.length === 0 && start > 0) {
        start = 0;
        token = "";
        continue;
      }
      this.rows.splice(start, Infinity, ...rows);
      this.tail = { start, token };
      if (!page.next_page_token) return;
      start += rows.length;
      token = page.next_page_token;
    }
  }
}

/** @typedef {{id: string, type: string, data: any}} ServerEvent */

/**
 * Follow a stream of server-sent events until it is over, coming back after every break.
 * By fetch: EventSource cannot send a token.
 * @param {string} path
 * @param {object} options
 * @param {AbortSignal} options.signal
 * @param {string} options.after id of the last event that is known, "" for none
 * @param {(event: ServerEvent) => void} options.onEvent
 * @param {(live: boolean) => void} options.onLive
 * @param {() => Promise<boolean>} options.over whether an end of the stream is the end
 */
export async function follow(path, { signal, after, onEvent, onLive, over }) {
  let last = after;
  let backoff = 500;
  while (!signal.aborted) {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), FIRST_EVENT_MS);
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      /** @type {HeadersInit} */
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const response = await send(path, { headers }, () => AbortSignal.any([signal, silence.signal]));
      if (!response.ok || !response.body) throw await problem(response);
      for await (const event of read(response.body, heard)) {
        backoff = 500;
        onLive(true);
        if (event.id) last = event.id;
        onEvent(event);
      }
      if (await over()) return;
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return;
      if (!(error instanceof ApiError || error instanceof DOMException || error instanceof TypeError)) throw error;
    } finally {
      clearTimeout(timer);
      onLive(false);
    }
    await pause(backoff, signal);
    backoff = Math.min(backoff * 2, LONGEST_BACKOFF_MS);
  }
}

/**
 * The events of a body in the event-stream format.
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} heard called for every piece that arrives, beats included
 * @returns {AsyncGenerator<ServerEvent>}
 */
async function* read(body, heard) {
  const reader = body.pipeThrough(/** @type {any} */ (new TextDecoderStream())).getReader();
  let rest = "";
  let event = { id: "", type: "message", text: "" };
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      // A \r at the end may be the first half of \r\n: it waits for what follows.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (event.text) yield { id: event.id, type: event.type, data: JSON.parse(event.text) };
          event = { id: "", type: "message", text: "" };
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const content = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "id") event.id = content;
        else if (field === "event") event.type = content;
        else if (field === "data") event.text += (event.text && "\n") + content;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function pause(ms, signal) {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
