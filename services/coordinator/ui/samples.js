/**
 * Completions to read: the chosen beside the rejected one, and why.
 * New ones never push away what is being read; they are announced.
 */

import { h, setText } from "./dom.js";
import { decimal, plural } from "./words.js";

const PAGE = 3;

/** @typedef {Record<string, any>} Sample */

/**
 * Samples of one prompt belong together; newest step first.
 * @param {Sample[]} samples
 * @returns {Sample[][]}
 */
export function groupsOf(samples) {
  /** @type {Map<string, Sample[]>} */
  const groups = new Map();
  for (const sample of samples) {
    const key = `${sample.step}/${sample.task}/${sample.prompt_index}`;
    groups.set(key, [...(groups.get(key) ?? []), sample]);
  }
  return [...groups.values()].reverse();
}

export class Samples {
  constructor() {
    /** @type {Sample[][]} all that there are, newest first */
    this.groups = [];
    /** @type {Sample[][]} what is paged through */
    this.held = [];
    this.page = 0;
    this.task = "";
    this.verdict = "";
    this.tasks = h("select", { id: "samples-task" }, h("option", { value: "" }, "all"));
    this.verdicts = h(
      "select",
      { id: "samples-verdict" },
      h("option", { value: "" }, "all"),
      ...["scored", "unparsable", "timeout"].map((name) => h("option", { value: name }, name)),
    );
    this.step = h("input", {
      id: "samples-step",
      type: "number",
      min: 0,
      step: 1,
      inputmode: "numeric",
      placeholder: "newest",
    });
    this.newer = h("button", { type: "button" }, "Newer");
    this.older = h("button", { type: "button" }, "Older");
    this.news = h("button", { type: "button", hidden: true });
    this.place = h("span", { class: "note", role: "status" });
    this.list = h("div", {});
    this.element = h(
      "section",
      { "aria-labelledby": "samples-title" },
      h("h2", { id: "samples-title" }, "Samples"),
      h(
        "div",
        { class: "controls" },
        h("label", {}, "Up to step ", this.step),
        h("label", {}, "Task ", this.tasks),
        h("label", {}, "Verdict ", this.verdicts),
        this.newer,
        this.older,
        this.place,
        this.news,
      ),
      this.list,
    );
    this.newer.addEventListener("click", () => this.turn(this.page - 1));
    this.older.addEventListener("click", () => this.turn(this.page + 1));
    this.news.addEventListener("click", () => this.renew());
    for (const control of [this.step, this.tasks, this.verdicts])
      control.addEventListener("change", () => this.renew());
    this.turn(0);
  }

  /** @param {Sample[]} samples oldest first */
  update(samples) {
    this.groups = groupsOf(samples);
    const known = new Set([...this.tasks.options].map((option) => option.value));
    for (const task of new Set(samples.map((sample) => sample.task))) {
      if (!known.has(task)) this.tasks.append(h("option", { value: task }, task));
    }
    const found = this.matching();
    const more = found.length - this.held.length;
    // An unfilled page takes in what comes, and what a later attempt makes anew is gone.
    if (more < 0 || (more > 0 && this.held.length < PAGE)) return this.renew();
    this.news.hidden = more <= 0;
    setText(this.news, `Show ${plural(more, "newer one")}`);
  }

  matching() {
    const upTo = this.step.value === "" ? Infinity : Number(this.step.value);
    return this.groups.filter(
      ([first, ...rest]) =>
        first.step <= upTo &&
        (!this.tasks.value || first.task === this.tasks.value) &&
        (!this.verdicts.value || [first, ...rest].some((sample) => sample.verdict === this.verdicts.value)),
    );
  }

  /** Take in what has come, from the newest on. */
  renew() {
    this.held = this.matching();
    this.news.hidden = true;
    this.turn(0);
  }

  /** @param {number} page */
  turn(page) {
    const pages = Math.max(1, Math.ceil(this.held.length / PAGE));
    this.page = Math.min(Math.max(page, 0), pages - 1);
    const first = this.page * PAGE;
    const shown = this.held.slice(first, first + PAGE);
    this.newer.disabled = this.page === 0;
    this.older.disabled = this.page >= pages - 1;
    setText(
      this.place,
      shown.length ? `${first + 1} to ${first + shown.length} of ${plural(this.held.length, "prompt")}` : "",
    );
    this.list.replaceChildren(...shown.map(card));
    if (!shown.length) {
      const why = this.groups.length ? "No sample matches." : "No samples yet: each step adds a prompt or two to read.";
      this.list.append(h("p", { class: "note" }, why));
    }
  }
}

/** @param {Sample[]} group */
function card(group) {
  const [{ step, version, task, prompt_index: index, prompt, answer }] = group;
  const paired = group.some((sample) => sample.role);
  const sides = paired ? group : [...group].sort((a, b) => b.reward - a.reward);
  return h(
    "article",
    { class: "sample", "aria-label": `Step ${step}, ${task}, prompt ${index}` },
    h(
      "p",
      { class: "facts" },
      h("b", {}, `Step ${step}`),
      ` ${task}, prompt ${index}, version ${version}, staleness ${step - version}`,
      answer ? ", answer " : "",
      answer ? h("code", {}, answer) : "",
    ),
    h("pre", { class: "prompt" }, prompt),
    h(
      "div",
      { class: "sides" },
      ...sides.map((sample, i) => side(sample, sample.role || (i === 0 ? "best" : "worst"))),
    ),
    paired ? null : h("p", { class: "note" }, "The algorithm made no pair here: best and worst of the group."),
  );
}

/**
 * @param {Sample} sample
 * @param {string} role
 */
function side(sample, role) {
  return h(
    "div",
    { class: `side ${role}` },
    h(
      "p",
      { class: "facts" },
      h("b", {}, role),
      ` reward ${decimal(sample.reward)}, `,
      h("span", { class: sample.verdict === "scored" ? null : "warn" }, sample.verdict),
      `, by ${sample.generator}`,
    ),
    sample.completion === "" ? h("p", { class: "note" }, "(empty)") : completion(sample, role),
  );
}

/**
 * A long one scrolls by itself, by keyboard too.
 * @param {Sample} sample
 * @param {string} role
 */
function completion(sample, role) {
  return h("pre", { tabindex: 0, role: "group", "aria-label": `${role} completion` }, sample.completion);
}
