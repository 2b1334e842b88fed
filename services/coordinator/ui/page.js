/**
 * What a view may use while it is shown: repeated questions to the API, the banner, the link state, a confirmation.
 */

import { ApiError, pause } from "./api.js";
import { byId, setText } from "./dom.js";

const SHORTEST_GAP_MS = 400;

/**
 * @typedef {object} View
 * @property {string} title
 * @property {HTMLElement} heading takes the focus when the view is entered
 * @property {HTMLElement} element
 * @property {(page: Page) => void} start
 * @property {() => void} close
 */

/** The time that one view is shown; its signal ends everything that the view began. */
export class Page {
  constructor() {
    this.ending = new AbortController();
    this.signal = this.ending.signal;
    /** @type {Map<number, string>} what is wrong, by task */
    this.troubles = new Map();
    this.tasks = 0;
  }

  close() {
    this.ending.abort();
    this.troubles.clear();
    this.showTroubles();
    this.tellLink("");
  }

  /**
   * Run a task now, whenever the returned bell rings, and after a time that may change. Not while the tab is hidden.
   * @param {number | (() => number)} ms
   * @param {(signal: AbortSignal) => Promise<void>} task
   * @returns {() => void} the bell
   */
  every(ms, task) {
    const id = (this.tasks += 1);
    let rung = false;
    let wake = () => {};
    const bell = () => {
      rung = true;
      wake();
    };
    const repeat = async () => {
      while (!this.signal.aborted) {
        rung = false;
        await this.attempt(id, task);
        await pause(SHORTEST_GAP_MS, this.signal);
        await visible(this.signal);
        /** @type {Promise<void>} */
        const awake = new Promise((resolve) => {
          wake = resolve;
        });
        if (!rung) await Promise.race([awake, pause(typeof ms === "number" ? ms : ms(), this.signal)]);
      }
    };
    void repeat();
    return bell;
  }

  /**
   * @param {number} id
   * @param {(signal: AbortSignal) => Promise<void>} task
   */
  async attempt(id, task) {
    try {
      await task(this.signal);
      this.troubles.delete(id);
    } catch (error) {
      if (this.signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.troubles.set(id, error.status === 0 ? `${sentenceCase(error.message)}. Trying again.` : error.message);
    }
    if (!this.signal.aborted) this.showTroubles();
  }

  showTroubles() {
    const [first] = this.troubles.values();
    showBanner(first ?? "");
  }

  /** @param {string} text whether what is shown is live */
  tellLink(text) {
    setText(byId("link", HTMLElement), text);
  }
}

/** @param {string} text "" hides it */
export function showBanner(text) {
  const banner = byId("banner", HTMLElement);
  setText(banner, text);
  banner.hidden = text === "";
}

/**
 * Ask before something that cannot be undone. The safe answer has the focus.
 * @param {{title: string, text: string, yes: string, no: string}} question
 * @returns {Promise<boolean>}
 */
export function confirm({ title, text, yes, no }) {
  const dialog = byId("confirm-dialog", HTMLDialogElement);
  setText(byId("confirm-title", HTMLElement), title);
  setText(byId("confirm-text", HTMLElement), text);
  setText(byId("confirm-yes", HTMLElement), yes);
  setText(byId("confirm-no", HTMLElement), no);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.open) return; // the end of an earlier question, told late
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue === "yes");
    };
    dialog.addEventListener("close", closed);
  });
}

/** @param {string} text */
const sentenceCase = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/**
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function visible(signal) {
  if (!document.hidden || signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    document.addEventListener("visibilitychange", () => resolve(), { once: true, signal });
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
