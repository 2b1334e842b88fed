/**
 * The numbers behind the curves as tables, drawn only while they are open.
 */

import { Table, h, setText } from "./dom.js";
import { clock, counted, decimal, duration, estimate, measureOf, passAt, plural, whole } from "./words.js";

const NEWEST = 200;

const STEP_COLUMNS = [
  { name: "Step" },
  { name: "Version", number: true },
  { name: "Staleness", number: true },
  { name: "Reward", number: true },
  { name: "Loss", number: true },
  { name: "Groups", number: true },
  { name: "Trained", number: true },
  { name: "Pairs", number: true },
  { name: "Dropped" },
  { name: "Refused" },
  { name: "Tokens", number: true },
  { name: "Length", number: true, hint: "mean tokens of a completion" },
  { name: "Waited", number: true },
  { name: "Updated", number: true },
  { name: "Finished", number: true },
];
const EVALUATION_COLUMNS = [
  { name: "Version" },
  { name: "Set" },
  { name: "Measure", hint: "what the mean score is" },
  { name: "Mean score", number: true, hint: "with its 95 % interval" },
  { name: "pass@k", number: true },
  { name: "At equal length", number: true, hint: "share of comparisons won against the seed, length taken out" },
  { name: "Per length", number: true, hint: "mean score as if answers were as long as the seed's" },
  { name: "Prompts", number: true },
  { name: "Samples", number: true },
  { name: "Length", number: true, hint: "mean tokens of a completion" },
  { name: "Verdicts" },
  { name: "Took", number: true },
];

/** A table behind a summary line. */
class Fold {
  /**
   * @param {string} id
   * @param {string} name
   * @param {import("./dom.js").Column[]} columns
   * @param {(row: Record<string, any>) => {key: string, cells: import("./dom.js").Cell[]}} cells
   * @param {string} source where all rows are
   */
  constructor(id, name, columns, cells, source) {
    this.name = name;
    this.cells = cells;
    this.source = source;
    /** @type {Record<string, any>[]} */
    this.rows = [];
    this.summary = h("summary", {}, name);
    this.note = h("p", { class: "note" });
    this.table = new Table(name, columns, { hideCaption: true });
    this.element = h("details", { id }, this.summary, this.table.element, this.note);
    this.element.addEventListener("toggle", () => this.draw());
  }

  /** @param {Record<string, any>[]} rows oldest first */
  update(rows) {
    this.rows = rows;
    setText(this.summary, `${this.name} (${whole(rows.length)})`);
    this.draw();
  }

  draw() {
    if (!this.element.open) return;
    const newest = this.rows.slice(-NEWEST).reverse();
    this.table.update(newest.map(this.cells));
    const left = this.rows.length - newest.length;
    const missing = left > 0 ? `${plural(left, "older row")} left out. ` : "";
    setText(this.note, `${missing}All rows: GET ${this.source}`);
  }
}

/** @param {string} source */
export const stepTable = (source) => new Fold("steps", "Steps as a table", STEP_COLUMNS, stepCells, source);

/** @param {string} source */
export const evaluationTable = (source) =>
  new Fold("evaluations", "Evaluations as a table", EVALUATION_COLUMNS, evaluationCells, source);

/** @param {Record<string, any>} row */
const stepCells = (row) => ({
  key: String(row.step),
  cells: [
    whole(row.step),
    whole(row.version),
    whole(row.staleness),
    decimal(row.reward_mean),
    decimal(row.metrics.loss),
    whole(row.groups),
    whole(row.trained.length),
    whole(row.pairs),
    counted(row.dropped),
    counted(row.refused),
    whole(row.tokens),
    decimal(row.length_mean),
    duration(row.wait_seconds),
    duration(row.update_seconds),
    clock(row.finished_at),
  ],
});

/** @param {Record<string, any>} row */
const evaluationCells = (row) => ({
  key: `${row.version}/${row.name}`,
  cells: [
    row.best ? { text: whole(row.version), note: "best" } : whole(row.version),
    String(row.name),
    measureOf(row),
    estimate(row.score),
    passAt(row.pass_at),
    estimate(row.win_rate_length_controlled),
    decimal(row.length_normalized),
    whole(row.prompts),
    whole(row.samples),
    decimal(row.length_mean),
    counted(row.verdicts),
    duration(row.seconds),
  ],
});
