/**
 * The curves of a run: reward, held-out scores, loss, and one to choose.
 */

import { Curves } from "./curves.js";
import { h } from "./dom.js";

/** Steps after which the fourth figure is smoothed as well. */
const LONG = 300;

const REWARD_OF = "reward of ";

/**
 * @typedef {(row: any, mixed: boolean) => Record<string, number | null | undefined>} LinesOf the values of a step, of a
 *   run with one task or several, by name of the line; null where a step has none: a gap
 */

/**
 * What the fourth figure can show beside the learner's metrics.
 * @type {Record<string, LinesOf>}
 */
const CHOICES = {
  seconds: (row) => ({ waiting: row.wait_seconds, updating: row.update_seconds }),
  staleness: (row) => ({ staleness: row.staleness }),
  "sync period": (row) => ({ period: row.sync_period === "never" ? null : row.sync_period }),
  pairs: (row, mixed) => withTasks(row, mixed, "pairs", (one) => one.pairs),
  tokens: (row, mixed) => withTasks(row, mixed, "tokens", (one) => one.tokens),
  "completion length": (row, mixed) => withTasks(row, mixed, "tokens", (one) => one.length_mean),
};

export class CurveSet {
  constructor() {
    /** @type {any[]} */
    this.rows = [];
    /** @type {import("./plot.js").Extent} */
    this.domain = [0, 1];
    this.empty = "";
    const steps = { xName: "step", table: "steps" };
    this.reward = new Curves({ id: "reward", title: "Reward", smoothed: true, fraction: true, ...steps });
    this.scores = new Curves({
      id: "scores",
      title: "Held-out score",
      xName: "version",
      table: "evaluations",
      fraction: true,
      dotted: true,
    });
    this.loss = new Curves({ id: "loss", title: "Loss", smoothed: true, ...steps });
    this.chosen = new Curves({ id: "chosen", title: "Per step", ...steps });
    this.select = h("select", { "aria-label": "What the fourth figure shows" });
    for (const name of Object.keys(CHOICES)) this.select.append(h("option", { value: name }, name));
    this.select.addEventListener("change", () => this.drawChosen());
    this.chosen.figure.tools.append(this.select);
    this.figures = [this.reward, this.scores, this.loss, this.chosen];
    this.element = h("div", { class: "grid-of-figures" }, ...this.figures.map((curves) => curves.element));
  }

  close() {
    for (const curves of this.figures) curves.figure.close();
  }

  /**
   * @param {any[]} rows of steps
   * @param {any[]} evaluations
   * @param {{steps: number, over: boolean, evaluated: boolean}} plan
   */
  update(rows, evaluations, { steps, over, evaluated }) {
    this.rows = rows;
    this.domain = [0, over ? Math.max(rows.length, 1) : Math.min(steps, roomFor(rows.length))];
    const tasks = rows.at(-1)?.tasks ?? [];
    if (tasks.length > 1) for (const one of tasks) this.offer(REWARD_OF + one.task);
    for (const name of Object.keys(rows.at(-1)?.metrics ?? {}).sort()) this.offer(name);
    this.empty = over ? "No step was made." : "No step is made yet.";
    const due = over ? "No evaluation came in." : "The first evaluation is not in yet.";
    const none = evaluated ? due : "The run spec asks for no evaluation.";
    this.scores.update(scoreLines(evaluations), this.domain, none);
    this.loss.update(
      linesOf(rows, (row) => ({ loss: row.metrics.loss })),
      this.domain,
      this.empty,
    );
    this.reward.update(
      linesOf(rows, (row, mixed) => withTasks(row, mixed, "reward", (one) => one.reward_mean)),
      this.domain,
      this.empty,
    );
    this.drawChosen();
  }

  /** @param {string} name of something that the fourth figure can show */
  offer(name) {
    if ([...this.select.options].some((option) => option.value === name)) return;
    this.select.append(h("option", { value: name }, name.replaceAll("_", " ")));
  }

  drawChosen() {
    const name = this.select.value;
    const of = name.startsWith(REWARD_OF) ? rewardOf(name.slice(REWARD_OF.length)) : (CHOICES[name] ?? metric(name));
    this.chosen.smoothed = this.rows.length > LONG;
    this.chosen.update(linesOf(this.rows, of), this.domain, this.empty);
  }
}

/**
 * The end of an axis that need not move with every step.
 * @param {number} count
 */
function roomFor(count) {
  const least = Math.max(count * 1.1, 10);
  const power = 10 ** Math.floor(Math.log10(least));
  return ([1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= least) ?? 10) * power;
}

/**
 * @param {any[]} rows
 * @param {LinesOf} of
 * @returns {import("./curves.js").Line[]}
 */
function linesOf(rows, of) {
  /** @type {Map<string, {points: [number, number][], starts: number[]}>} */
  const lines = new Map();
  const mixed = rows.some((row) => row.tasks.length > 1);
  for (const row of rows) {
    for (const [name, value] of Object.entries(of(row, mixed))) {
      const line = lines.get(name) ?? { points: [], starts: [] };
      const count = line.points.length;
      if (value === null && count > 0 && line.starts.at(-1) !== count) line.starts.push(count);
      if (typeof value !== "number" || !Number.isFinite(value)) continue;
      lines.set(name, line);
      line.points.push([row.step, value]);
    }
  }
  return [...lines].map(([name, line]) => ({ name, ...line }));
}

/**
 * @param {string} task whose rewards may be of another size than those of the others
 * @returns {LinesOf}
 */
function rewardOf(task) {
  return (row) => ({ [task]: row.tasks.find((/** @type {any} */ one) => one.task === task)?.reward_mean });
}

/**
 * @param {string} name
 * @returns {LinesOf}
 */
function metric(name) {
  return (row, mixed) => withTasks(row, mixed, name, (one) => one.metrics?.[name]);
}

/**
 * A value of a step; with several tasks one more for each that has it.
 * @param {any} row
 * @param {boolean} mixed
 * @param {string} name of the line, where it is the only one
 * @param {(one: any) => number | null | undefined} of the step, or a task
 * @returns {Record<string, number | null | undefined>}
 */
function withTasks(row, mixed, name, of) {
  if (!mixed) return { [name]: of(row) };
  return { "all tasks": of(row), ...Object.fromEntries(row.tasks.map((/** @type {any} */ one) => [one.task, of(one)])) };
}

/**
 * A line for each set, with the 95 % interval of each of its means.
 * @param {any[]} evaluations in the order in which they came in
 * @returns {import("./curves.js").Line[]}
 */
function scoreLines(evaluations) {
  const scored = evaluations.filter((row) => row.score).sort((a, b) => a.version - b.version);
  return [...new Set(scored.map((row) => row.name))].map((name) => {
    const rows = scored.filter((row) => row.name === name);
    const bounded = rows.filter((row) => row.score.low !== null);
    return {
      name,
      points: rows.map((row) => [row.version, row.score.mean]),
      band: bounded.map((row) => [row.version, row.score.low, row.score.high]),
    };
  });
}
