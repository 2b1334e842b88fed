/**
 * What a version answered to an evaluation set, prompt by prompt. Asked for only when it is opened.
 */

import { ApiError, get } from "./api.js";
import { h, setText } from "./dom.js";
import { decimal, estimate, plural, whole } from "./words.js";

const PAGE = 3;
const SAMPLES = 4;

/** @typedef {Record<string, any>} Row */

export class Answers {
  /** @param {string} path of the evaluations */
  constructor(path) {
    this.path = path;
    /** @type {Row[]} */
    this.rows = [];
    /** The page tokens that led here; the last is that of the page shown. */
    this.tokens = [""];
    this.next = "";
    this.asked = 0;
    this.which = h("select", { id: "answers-which" });
    this.back = h("button", { type: "button" }, "Back");
    this.more = h("button", { type: "button" }, "More");
    this.place = h("span", { class: "note", role: "status" });
    this.list = h("div", {});
    this.summary = h("summary", {}, "Evaluation answers to read");
    this.element = h(
      "details",
      { id: "answers" },
      this.summary,
      h("div", { class: "controls" }, h("label", {}, "Set and version ", this.which), this.back, this.more, this.place),
      this.list,
    );
    this.element.addEventListener("toggle", () => void this.turn([""]));
    this.which.addEventListener("change", () => void this.turn([""]));
    this.more.addEventListener("click", () => void this.turn([...this.tokens, this.next]));
    this.back.addEventListener("click", () => void this.turn(this.tokens.slice(0, -1)));
  }

  /** @param {Row[]} rows of evaluations, in the order in which they came in */
  update(rows) {
    this.rows = rows;
    const known = new Set([...this.which.options].map((option) => option.value));
    for (const { name, version } of rows) {
      const value = `${name}/${version}`;
      if (!known.has(value)) this.which.prepend(h("option", { value }, `${name}, version ${version}`));
    }
    const first = known.size === 0 && rows.length > 0;
    if (first) this.which.selectedIndex = 0;
    if (first && this.element.open) void this.turn([""]);
    this.element.hidden = rows.length === 0;
  }

  /** @param {string[]} tokens */
  async turn(tokens) {
    if (!this.element.open || !this.which.value) return;
    const asked = ++this.asked;
    const token = encodeURIComponent(tokens[tokens.length - 1]);
    let page;
    try {
      page = await get(`${this.path}/${this.which.value}?page_size=${PAGE}&page_token=${token}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      page = { evaluation: null, answers: [], next_page_token: "", trouble: error.message };
    }
    if (asked !== this.asked) return; // another page was asked for meanwhile
    this.tokens = tokens;
    this.next = page.next_page_token;
    this.back.disabled = tokens.length < 2;
    this.more.disabled = !this.next;
    const row = page.evaluation;
    setText(this.place, row ? `${estimate(row.score)} over ${plural(row.prompts, "prompt")}` : page.trouble);
    this.list.replaceChildren(...page.answers.map(card));
  }
}

/** @param {Row} prompt */
function card({ prompt_index: index, prompt, answer, samples }) {
  const shown = samples.slice(0, SAMPLES);
  const left = samples.length - shown.length;
  return h(
    "article",
    { class: "sample", "aria-label": `Evaluation prompt ${index}` },
    h(
      "p",
      { class: "facts" },
      h("b", {}, `Prompt ${whole(index)}`),
      answer ? ", answer " : "",
      answer ? h("code", {}, answer) : "",
    ),
    h("pre", { class: "prompt" }, prompt),
    h("div", { class: "sides" }, ...shown.map(side)),
    left > 0 ? h("p", { class: "note" }, `${plural(left, "sample")} left out.`) : null,
  );
}

/**
 * @param {Row} sample
 * @param {number} i
 */
function side({ completion, tokens, score, verdict, cause, finish }, i) {
  const cut = finish === "length" ? ", cut off" : "";
  return h(
    "div",
    { class: "side" },
    h(
      "p",
      { class: "facts" },
      h("b", {}, `sample ${i + 1}`),
      ` score ${decimal(score)}, `,
      h("span", { class: verdict === "scored" ? null : "warn" }, verdict + (cause ? ` (${cause})` : "")),
      `, ${plural(tokens, "token")}${cut}`,
    ),
    completion === ""
      ? h("p", { class: "note" }, "(empty)")
      : h("pre", { tabindex: 0, role: "group", "aria-label": `sample ${i + 1}` }, completion),
  );
}
