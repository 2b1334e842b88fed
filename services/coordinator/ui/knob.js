/**
 * The sync period of a live run: one number from online to offline.
 */

import { ApiError, patch } from "./api.js";
import { h, setText } from "./dom.js";

export class Knob {
  /**
   * @param {string} path of the run
   * @param {() => void} changed called after a change
   */
  constructor(path, changed) {
    this.path = path;
    this.changed = changed;
    this.input = h("input", {
      id: "period",
      required: true,
      pattern: "never|[1-9][0-9]*",
      size: 6,
      autocomplete: "off",
    });
    this.button = h("button", { type: "submit" }, "Change");
    this.answer = h("span", { class: "note", role: "status" });
    this.element = h(
      "form",
      { class: "controls", "aria-label": "Sync period" },
      h("label", { title: "Steps between two syncs: 1 is online, never is offline" }, "Sync period ", this.input),
      this.button,
      this.answer,
    );
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.change();
    });
  }

  /** @param {import("./words.js").Run} run */
  update(run) {
    const { period, changes = [] } = run.spec.sync;
    const now = String(changes.at(-1)?.period ?? period);
    if (this.input.placeholder !== now) {
      this.input.placeholder = now;
      this.input.value = now;
    }
  }

  async change() {
    const period = this.input.value === "never" ? "never" : Number(this.input.value);
    this.button.disabled = true;
    setText(this.answer, "");
    try {
      await patch(this.path, { sync: { period } });
      setText(this.answer, "It holds from the next window of which nothing is generated yet.");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(this.answer, `Not changed: ${error.message}`);
    } finally {
      this.button.disabled = false;
      this.changed();
    }
  }
}
