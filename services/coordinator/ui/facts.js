/**
 * The facts of a run, each with its name.
 */

import { h, setText } from "./dom.js";
import { algorithmOf, clock, counted, decimal, duration, rolloutsOf, syncOf, whole } from "./words.js";

/** @typedef {import("./words.js").Run} Run */

export class Facts {
  constructor() {
    this.element = h("dl", { class: "facts-grid" });
  }

  /**
   * @param {Run} run
   * @param {any[]} rows of its steps
   */
  update(run, rows) {
    const facts = Object.entries(factsOf(run, rows));
    if (this.element.children.length !== facts.length) {
      this.element.replaceChildren(...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd"))));
    }
    facts.forEach(([, value], i) => setText(/** @type {Node} */ (this.element.children[i].lastChild), value));
  }
}

/**
 * @param {Run} run
 * @param {any[]} rows
 * @returns {Record<string, string>}
 */
function factsOf(run, rows) {
  const sum = (/** @type {(row: any) => number} */ of) => rows.reduce((total, row) => total + of(row), 0);
  return {
    Version: whole(run.version),
    Staleness: whole(run.staleness),
    "Best version": run.best ? `${run.best.version} (${decimal(run.best.value)} on ${run.best.evaluation})` : "-",
    "Last reward": decimal(rows.at(-1)?.reward_mean),
    "Groups trained": whole(sum((row) => row.trained.length)),
    "Groups dropped": counted(total(rows.map((row) => row.dropped))),
    "Groups refused": counted(total(rows.map((row) => row.refused))),
    Tokens: whole(sum((row) => row.tokens)),
    "Engine mismatch": mismatchOf(run),
    "Padding waste": decimal(rows.at(-1)?.metrics.padding_waste),
    Attempts: whole(run.attempts),
    Algorithm: algorithmOf(run),
    Sync: syncOf(run),
    Rollouts: rolloutsOf(run),
    Started: clock(run.started_at),
    Elapsed: elapsedOf(run),
    "Prompts skipped": counted(run.skipped_prompts),
    Folder: run.folder,
  };
}

/**
 * Since it started, until it ended or now.
 * @param {Run} run
 */
function elapsedOf(run) {
  if (!run.started_at) return "-";
  const ended = run.finished_at ? Date.parse(run.finished_at) : Date.now();
  return duration((ended - Date.parse(run.started_at)) / 1000);
}

/**
 * How far learner and generator are apart on the samples of the newest version that was trained on.
 * @param {Run} run
 */
function mismatchOf(run) {
  const [version, value] = Object.entries(run.mismatch_kl).at(-1) ?? ["", null];
  return value === null ? "-" : `${decimal(value)} nats (version ${version})`;
}

/**
 * @param {Record<string, number>[]} counts
 * @returns {Record<string, number>}
 */
function total(counts) {
  /** @type {Record<string, number>} */
  const sums = {};
  for (const one of counts) for (const [name, count] of Object.entries(one)) sums[name] = (sums[name] ?? 0) + count;
  return sums;
}
