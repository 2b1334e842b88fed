/**
 * One run: what it does, its schedule as it happened, its curves, what it writes, who works for it.
 *
 * Every number comes by plain GET. The event stream rings the bell for them, and fills the event log;
 * without it the page asks every two seconds.
 */

import { Answers } from "./answers.js";
import { ApiError, Series, follow, get, post } from "./api.js";
import { CurveSet } from "./curveset.js";
import { h, setAttribute, setText } from "./dom.js";
import { Facts } from "./facts.js";
import { FleetView } from "./fleet.js";
import { Knob } from "./knob.js";
import { EventLog } from "./log.js";
import { confirm } from "./page.js";
import { Samples } from "./samples.js";
import { evaluationTable, stepTable } from "./tables.js";
import { Timeline } from "./timeline.js";
import { TERMINAL, curveNote, doing, duration, warning, whole } from "./words.js";

/** @typedef {import("./words.js").Run} Run */

const RESUMABLE = new Set(["paused", "failed", "cancelled"]);

export class RunView {
  /** @param {string} id */
  constructor(id) {
    this.id = this.title = id;
    this.path = `v1/runs/${encodeURIComponent(id)}`;
    this.steps = new Series(`${this.path}/steps`, "steps");
    this.evaluations = new Series(`${this.path}/evaluations`, "evaluations");
    this.samples = new Series(`${this.path}/samples`, "samples");
    /** @type {Run | null} */
    this.run = null;
    this.live = false;
    /** Events that came, and how many had come when the rows were last read. */
    this.heard = 0;
    this.read = -1;
    this.listening = false;
    this.drawn = "";
    this.warned = "";
    this.ring = () => {};

    this.heading = h("h1", { tabindex: -1 }, id);
    this.state = h("span", {});
    this.reason = h("span", {});
    this.cancel = h("button", { type: "button", class: "danger", hidden: true }, "Cancel run");
    this.pause = h("button", { type: "button", hidden: true }, "Pause");
    this.resume = h("button", { type: "button", hidden: true }, "Resume");
    this.actions = h("div", { class: "actions" }, this.pause, this.resume, this.cancel);
    this.warnings = h("ul", { class: "warn", hidden: true });
    this.refusal = h("p", { class: "bad", role: "alert" });
    this.progress = h("progress", { max: 1, value: 0, "aria-label": "Steps made" });
    this.count = h("span", { class: "count" });
    this.eta = h("span", { class: "note" });
    this.facts = new Facts();
    this.timeline = new Timeline({ id: "timeline", table: "steps" });
    this.knob = new Knob(this.path, () => this.ring());
    this.curves = new CurveSet();
    this.curveNote = h("p", { class: "note" });
    this.stepTable = stepTable(this.steps.path);
    this.evaluationTable = evaluationTable(this.evaluations.path);
    this.answers = new Answers(this.evaluations.path);
    this.reader = new Samples();
    this.fleet = new FleetView();
    this.log = new EventLog();
    this.spec = h("pre", {});
    this.body = this.layOut();
    this.body.hidden = true;
    this.missing = h("p", { hidden: true }, "There is no such run. ", h("a", { href: "#/" }, "All runs"));
    this.cancel.addEventListener("click", () => void this.askToCancel());
    this.pause.addEventListener("click", () => void this.act("pause", "paused"));
    this.resume.addEventListener("click", () => void this.act("resume", "resumed"));
    this.element = h(
      "div",
      {},
      h("nav", { "aria-label": "Where this is" }, h("a", { href: "#/" }, "Runs")),
      h("div", { class: "title" }, this.heading, this.actions),
      this.missing,
      this.body,
    );
  }

  layOut() {
    return h(
      "div",
      {},
      h("p", { class: "doing", role: "status" }, this.state, " ", this.reason),
      this.warnings,
      this.refusal,
      h("p", { class: "progress" }, this.progress, this.count, this.eta),
      this.facts.element,
      h(
        "section",
        { "aria-labelledby": "schedule-title" },
        h("h2", { id: "schedule-title" }, "Sync schedule"),
        this.knob.element,
        this.timeline.element,
      ),
      h(
        "section",
        { "aria-labelledby": "curves-title" },
        h("h2", { id: "curves-title" }, "Curves"),
        this.curves.element,
        this.curveNote,
        this.stepTable.element,
        this.evaluationTable.element,
        this.answers.element,
      ),
      this.reader.element,
      this.fleet.element,
      this.log.element,
      h("section", {}, h("details", {}, h("summary", {}, "Run spec, with every default filled in"), this.spec)),
    );
  }

  get over() {
    return this.run !== null && TERMINAL.has(this.run.state);
  }

  /** @param {import("./page.js").Page} page */
  start(page) {
    this.ring = page.every(
      () => (this.over ? 60_000 : this.live ? 3000 : 2000),
      (signal) => this.refresh(page, signal),
    );
    page.every(2000, async (signal) => this.fleet.update(await get("v1/fleet", signal)));
    this.listen(page);
  }

  /**
   * Follow the events to the end of the run; one that is resumed later goes on where this left off.
   * @param {import("./page.js").Page} page
   */
  listen(page) {
    this.listening = true;
    const stream = follow(`${this.path}/events`, {
      signal: page.signal,
      after: this.log.last,
      over: async () => TERMINAL.has((await get(this.path, page.signal)).state),
      onEvent: (event) => {
        this.log.add(event);
        this.heard += 1;
        this.ring();
      },
      onLive: (live) => {
        this.live = live;
        this.tellLink(page);
      },
    });
    void stream.finally(() => {
      this.listening = false;
    });
  }

  close() {
    this.timeline.figure.close();
    this.curves.close();
  }

  /** @param {import("./page.js").Page} page */
  tellLink(page) {
    if (page.signal.aborted) return;
    page.tellLink(this.live ? "live" : this.over ? "run is over" : "asking every 2 s");
  }

  /**
   * @param {import("./page.js").Page} page
   * @param {AbortSignal} signal
   */
  async refresh(page, signal) {
    let run;
    try {
      run = await get(this.path, signal);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 404)) throw error;
      this.missing.hidden = false;
      page.close();
      return;
    }
    const all = [this.steps, this.evaluations, this.samples];
    const [heard, again] = [this.heard, this.run !== null && wentBack(this.run, run)];
    if (again) for (const series of all) series.reset();
    if (again || !this.live || this.read !== heard) {
      await Promise.all(all.map((series) => series.refresh(signal)));
      this.read = heard;
    }
    this.run = run;
    this.show(run);
    this.log.update();
    this.tellLink(page);
    if (!this.over && !this.listening) this.listen(page);
  }

  /** @param {Run} run */
  show(run) {
    this.body.hidden = false;
    const { step, steps, eta_seconds: eta } = run.progress;
    document.title = `${step}/${steps} ${run.state} - ${run.id} - Syncline`;
    setText(this.state, run.state);
    setAttribute(this.state, "class", `state ${run.state}`);
    setText(this.reason, doing(run));
    this.warnings.hidden = run.warnings.length === 0;
    const warnings = run.warnings.map(warning);
    if (warnings.join() !== this.warned) {
      this.warned = warnings.join();
      this.warnings.replaceChildren(...warnings.map((/** @type {string} */ text) => h("li", {}, text)));
    }
    this.cancel.hidden = this.over;
    this.pause.hidden = run.state !== "running" && run.state !== "stalled";
    this.resume.hidden = !RESUMABLE.has(run.state);
    this.progress.value = step / steps;
    setText(this.count, `step ${whole(step)} / ${whole(steps)}`);
    this.eta.hidden = eta === null;
    setText(this.eta, eta === null ? "" : `${duration(eta)} to go`);
    this.knob.element.hidden = this.over || run.rollouts.from !== null;
    this.knob.update(run);
    this.facts.update(run, this.steps.rows);
    setText(this.curveNote, curveNote(run));
    setText(this.spec, JSON.stringify(run.spec, null, 2));
    const rows = this.steps.rows;
    const seen = JSON.stringify([
      run.state,
      run.spec.sync,
      step,
      rows.at(-1)?.finished_at,
      this.evaluations.rows.length,
      run.best,
    ]);
    if (seen === this.drawn) return;
    this.drawn = seen;
    this.timeline.update(rows, { steps, sync: run.spec.sync, over: this.over });
    this.curves.update(rows, this.evaluations.rows, {
      steps,
      over: this.over,
      evaluated: run.spec.evaluation.length > 0,
    });
    this.stepTable.update(rows);
    const best = (/** @type {any} */ row) => row.name === run.best?.evaluation && row.version === run.best.version;
    this.evaluationTable.update(this.evaluations.rows.map((row) => ({ ...row, best: best(row) })));
    this.answers.update(this.evaluations.rows);
    this.reader.update(this.samples.rows);
  }

  async askToCancel() {
    const sure = await confirm({
      title: `Cancel ${this.id}?`,
      text: "It stops at once. Published versions stay on storage, and it can be resumed from its last saved state.",
      yes: "Cancel the run",
      no: "Let it run",
    });
    if (sure) await this.act("cancel", "cancelled");
  }

  /**
   * @param {"cancel" | "pause" | "resume"} verb
   * @param {string} done
   */
  async act(verb, done) {
    setText(this.refusal, "");
    const buttons = [this.pause, this.resume, this.cancel];
    for (const button of buttons) button.disabled = true;
    try {
      await post(`${this.path}:${verb}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      setText(this.refusal, `It was not ${done}: ${error.message}`);
    } finally {
      for (const button of buttons) button.disabled = false;
      this.ring();
    }
  }
}

/**
 * Whether rows that are known may have been made anew: a later attempt goes on from a saved state.
 * @param {Run} before
 * @param {Run} now
 */
function wentBack(before, now) {
  return before.attempts !== now.attempts || before.state !== now.state || before.progress.step > now.progress.step;
}
