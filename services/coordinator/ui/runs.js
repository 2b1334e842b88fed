/**
 * The list of runs, and how to start one where there is none.
 */

import { get, hasToken } from "./api.js";
import { Table, h } from "./dom.js";
import { FleetView } from "./fleet.js";
import { algorithmOf, clock, syncOf, whole } from "./words.js";

const PAGE = 50;

const COLUMNS = [
  { name: "Run" },
  { name: "State" },
  { name: "Step", number: true },
  { name: "Progress" },
  { name: "Version", number: true, hint: "version that the generators were last told to serve" },
  { name: "Staleness", number: true, hint: "of the newest step" },
  { name: "Algorithm" },
  { name: "Sync" },
  { name: "Created", number: true },
];

export class RunList {
  constructor() {
    this.shown = PAGE;
    this.title = "Runs";
    this.heading = h("h1", { tabindex: -1 }, "Runs");
    this.table = new Table("Runs, newest first", COLUMNS, { hideCaption: true });
    this.empty = howToStart();
    this.older = h("button", { type: "button", hidden: true }, "Show older runs");
    this.older.addEventListener("click", () => {
      this.shown += PAGE;
      this.changed();
    });
    this.table.element.hidden = this.empty.hidden = true;
    this.fleet = new FleetView();
    this.element = h(
      "div",
      {},
      this.heading,
      this.table.element,
      h("p", {}, this.older),
      this.empty,
      this.fleet.element,
    );
    this.changed = () => {};
  }

  /**
   * Keep the list current until the signal.
   * @param {import("./page.js").Page} page
   */
  start(page) {
    this.changed = page.every(2000, async (signal) => {
      /** @type {import("./words.js").Run[]} */
      const runs = [];
      let token = "";
      do {
        const answer = await get(`v1/runs?page_size=${PAGE}&page_token=${encodeURIComponent(token)}`, signal);
        runs.push(...answer.runs);
        token = answer.next_page_token;
      } while (token && runs.length < this.shown);
      this.show(runs, token !== "");
    });
    page.every(2000, async (signal) => this.fleet.update(await get("v1/fleet", signal)));
  }

  /**
   * @param {import("./words.js").Run[]} runs
   * @param {boolean} more
   */
  show(runs, more) {
    this.empty.hidden = runs.length > 0;
    this.table.element.hidden = runs.length === 0;
    this.older.hidden = !more;
    this.table.update(
      runs.map((run) => ({
        key: run.id,
        cells: [
          { text: run.id, href: `#/runs/${encodeURIComponent(run.id)}` },
          stateCell(run),
          `${whole(run.progress.step)} / ${whole(run.progress.steps)}`,
          { text: "", bar: run.progress.step / run.progress.steps },
          whole(run.version),
          whole(run.staleness),
          algorithmOf(run),
          syncOf(run),
          clock(run.created_at),
        ],
      })),
    );
  }

  close() {}
}

/**
 * The state with its mark; the reason only where something is wrong.
 * @param {import("./words.js").Run} run
 */
function stateCell(run) {
  const wrong = run.state === "failed" || run.state === "stalled";
  return { text: run.state, class: `state ${run.state}`, note: wrong && run.reason ? run.reason : undefined };
}

function howToStart() {
  const server = new URL(".", location.href).href.replace(/\/$/, "");
  const token = hasToken() ? ' \\\n  -H "Authorization: Bearer $SYNCLINE_TOKEN"' : "";
  return h(
    "section",
    { class: "empty", "aria-label": "No runs yet" },
    h("p", {}, "No runs yet. Start one with a run spec, and follow it here:"),
    h("pre", {}, `syncline run spec.yaml --server ${server}`),
    h("p", {}, "The same over REST; the spec is JSON then:"),
    h(
      "pre",
      {},
      "syncline validate spec.yaml -o json > spec.json\n" +
        `curl ${server}/v1/runs${token} \\\n  -H "Content-Type: application/json" --data @spec.json`,
    ),
  );
}
