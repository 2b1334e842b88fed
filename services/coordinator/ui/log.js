/**
 * The event log of a run, newest first. Steps have a table of their own.
 */

import { Table, h } from "./dom.js";
import { clock, plural, sentence } from "./words.js";

const SHOWN = 15;
const KINDS = ["state", "message", "period", "sync", "checkpoint", "fleet", "evaluation", "best", "warning"];

export class EventLog {
  constructor() {
    /** @type {import("./api.js").ServerEvent[]} */
    this.events = [];
    this.last = "";
    this.dirty = true;
    this.kinds = h(
      "select",
      {},
      h("option", { value: "" }, "all"),
      ...KINDS.map((kind) => h("option", { value: kind }, kind)),
    );
    this.all = h("button", { type: "button", hidden: true });
    this.whole = false;
    this.table = new Table("Events, newest first", [{ name: "Time" }, { name: "Kind" }, { name: "What happened" }], {
      hideCaption: true,
    });
    this.empty = h("p", { class: "note" }, "No events have arrived.");
    this.element = h(
      "section",
      { "aria-labelledby": "events-title" },
      h("h2", { id: "events-title" }, "Events"),
      h("div", { class: "controls" }, h("label", {}, "Kind ", this.kinds)),
      this.table.element,
      this.empty,
      h("p", {}, this.all),
    );
    this.kinds.addEventListener("change", () => this.redraw());
    this.all.addEventListener("click", () => {
      this.whole = true;
      this.redraw();
    });
  }

  /** @param {import("./api.js").ServerEvent} event */
  add(event) {
    if (event.id) this.last = event.id;
    if (event.type === "step" || event.type === "snapshot") return;
    this.events.push(event);
    this.dirty = true;
  }

  /** Draw what was added. */
  update() {
    if (this.dirty) this.redraw();
  }

  redraw() {
    this.dirty = false;
    const found = this.events.filter((event) => !this.kinds.value || event.type === this.kinds.value).reverse();
    const shown = this.whole ? found : found.slice(0, SHOWN);
    this.all.hidden = shown.length === found.length;
    this.all.textContent = `Show all ${plural(found.length, "event")}`;
    this.empty.hidden = found.length > 0;
    this.table.element.hidden = found.length === 0;
    this.table.update(
      shown.map((event) => ({
        key: event.id,
        cells: [clock(event.data.at), event.type, { text: sentence(event.type, event.data), class: classOf(event) }],
      })),
    );
  }
}

/** @param {import("./api.js").ServerEvent} event */
function classOf({ type, data }) {
  const wrong =
    type === "warning" || (type === "fleet" && data.event !== "loaded") || ["failed", "stalled"].includes(data.state);
  return wrong ? "bad" : undefined;
}
