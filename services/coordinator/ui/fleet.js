/**
 * Who is alive: generators, rewards and learners, and what each of them does or waits for.
 */

import { Table, h, setText } from "./dom.js";
import { clock, counted, whole } from "./words.js";

const GENERATORS = [
  { name: "Generator" },
  { name: "Phase" },
  { name: "Version", number: true, hint: "version that it holds, proven by digest and probe" },
  { name: "Wanted", number: true, hint: "version that it should hold" },
  { name: "Running", number: true, hint: "groups in work" },
  { name: "Groups", number: true, hint: "since its start" },
  { name: "Tokens", number: true, hint: "since its start" },
  { name: "Engine" },
  { name: "Since", number: true },
];
const REWARDS = [
  { name: "Reward" },
  { name: "Phase" },
  { name: "Scores" },
  { name: "Groups" },
  { name: "Verdicts" },
  { name: "Since", number: true },
];
const LEARNERS = [
  { name: "Learner" },
  { name: "Phase" },
  { name: "Run" },
  { name: "Step", number: true },
  { name: "Doing" },
];
const PODS = [
  { name: "Pod that is not ready" },
  { name: "Phase" },
  { name: "Why", hint: "in Kubernetes' own words" },
  { name: "Restarts", number: true },
  { name: "Node" },
];

export class FleetView {
  constructor() {
    this.note = h("p", { class: "note" });
    this.generators = new Table("Generators", GENERATORS);
    this.rewards = new Table("Rewards", REWARDS);
    this.learners = new Table("Learners", LEARNERS);
    this.pods = new Table("Pods", PODS);
    this.element = h(
      "section",
      { "aria-labelledby": "fleet-title" },
      h("h2", { id: "fleet-title" }, "Fleet"),
      this.note,
      this.generators.element,
      this.rewards.element,
      this.learners.element,
      this.pods.element,
    );
  }

  /** @param {Record<string, any>} fleet what GET v1/fleet answers */
  update(fleet) {
    const wanted = fleet.wanted;
    /** @type {[string, any[]][]} */
    const roles = [
      ["generator", fleet.inference],
      ["reward service", fleet.reward],
      ["learner", fleet.learner],
    ];
    const missing = roles.filter(([, members]) => members.length === 0).map(([name]) => name);
    const work = wanted ? `It works for ${wanted.run_id}.` : "It has nothing to do.";
    setText(
      this.note,
      missing.length ? `Nothing can be trained: there is no ${missing.join(" and no ")} alive.` : work,
    );
    this.generators.element.hidden = !fleet.inference.length;
    this.rewards.element.hidden = !fleet.reward.length;
    this.learners.element.hidden = !fleet.learner.length;
    this.generators.update(fleet.inference.map((/** @type {any} */ one) => generatorRow(one, wanted)));
    this.rewards.update(fleet.reward.map(rewardRow));
    this.learners.update(fleet.learner.map(learnerRow));
    const unready = fleet.pods.filter((/** @type {any} */ pod) => !pod.ready);
    this.pods.element.hidden = !unready.length;
    this.pods.update(unready.map(podRow));
  }
}

/**
 * @param {Record<string, any>} one
 * @param {{run_id: string, version: number} | null} wanted
 */
function generatorRow(one, wanted) {
  const trouble = one.trouble || one.error;
  const other = wanted && one.run_id && one.run_id !== wanted.run_id ? `of ${one.run_id}` : undefined;
  return {
    key: one.id,
    cells: [
      one.id,
      { text: one.phase, class: trouble ? "bad" : undefined, note: trouble || undefined },
      { text: whole(one.version), note: other },
      wanted ? whole(wanted.version) : "-",
      whole(one.running),
      whole(one.groups_total),
      whole(one.tokens_total),
      String(one.engine ?? "-"),
      clock(one.started_at),
    ],
  };
}

/** @param {Record<string, any>} one */
function rewardRow(one) {
  const waiting = Object.values(one.waiting ?? {}).join("; ") || one.error;
  return {
    key: one.id,
    cells: [
      one.id,
      { text: one.phase, class: waiting ? "bad" : undefined, note: waiting || undefined },
      (one.rewards ?? []).join(", ") || "-",
      counted(one.groups),
      counted(one.verdicts),
      clock(one.started_at),
    ],
  };
}

/** @param {Record<string, any>} one */
function learnerRow(one) {
  return {
    key: one.id,
    cells: [one.id, one.phase, one.run || "-", one.run ? whole(one.step) : "-", one.detail || "-"],
  };
}

/** @param {Record<string, any>} pod */
function podRow(pod) {
  return {
    key: pod.name,
    cells: [
      pod.name,
      pod.phase,
      { text: pod.reason || "-", class: pod.trouble ? "bad" : undefined, note: pod.message || undefined },
      whole(pod.restarts),
      pod.node || "-",
    ],
  };
}
