/**
 * The sync schedule as it happened: each step against the version that generated its rollouts.
 *
 * Above, the learner's weights climb by one version a step while the generators stay on theirs until the next sync.
 * The gap between the two is the staleness; below it stands by itself, one band for each version.
 */

import { h, s } from "./dom.js";
import { Figure, MARGIN, linear, path, xAxis, yAxis, yTicks } from "./plot.js";
import { bandsOf, merged, plannedBands } from "./schedule.js";
import { plural } from "./words.js";

const UPPER = 230;
const LOWER = 64;
const BETWEEN = 20;
const HEIGHT = MARGIN.top + UPPER + BETWEEN + LOWER + MARGIN.bottom;
const LATEST = 12;
const KEYS = [
  { class: "stairs", text: "version that generated" },
  { class: "learner", text: "learner's weights" },
  { class: "gap", text: "staleness" },
  { class: "sync", text: "sync" },
];

/** @typedef {import("./schedule.js").Band} Band */

export class Timeline {
  /** @param {{id: string, table: string}} options */
  constructor({ id, table }) {
    /** @type {{step: number, version: number, staleness: number}[]} */
    this.rows = [];
    /** @type {Band[]} */
    this.bands = [];
    /** @type {Band[]} */
    this.planned = [];
    this.steps = 1;
    this.over = false;
    this.y = { upper: linear([0, 1], [0, 1]), lower: linear([0, 1], [0, 1]) };
    this.figure = new Figure({
      id,
      table,
      title: "Steps and the version that generated their rollouts",
      height: HEIGHT,
      domain: () => this.view(),
      xs: () => this.seen().map((row) => row.step),
      draw: (layer, x, width) => this.draw(layer, x, width),
      read: (index, x) => this.read(index, x),
      summary: () => this.summary(),
      empty: () => (this.over ? "No step was made." : ""),
    });
    this.range = h(
      "select",
      { "aria-label": "Steps shown" },
      h("option", { value: "all" }, "whole run"),
      h("option", { value: "latest" }, `latest ${LATEST} windows`),
    );
    this.chosen = false;
    this.range.addEventListener("change", () => {
      this.chosen = true;
      this.figure.refresh();
    });
    this.figure.tools.append(this.range);
    this.element = this.figure.element;
  }

  /**
   * @param {{step: number, version: number, staleness: number}[]} rows
   * @param {{steps: number, sync: import("./schedule.js").Sync, over: boolean}} plan
   */
  update(rows, { steps, sync, over }) {
    this.rows = rows;
    this.steps = steps;
    this.over = over;
    this.bands = bandsOf(rows);
    this.planned = over ? [] : plannedBands(sync, { from: rows.length, steps });
    const windows = this.bands.length + this.planned.length;
    this.figure.setLegend(over ? KEYS : [...KEYS, { class: "stairs planned", text: "planned" }]);
    this.range.hidden = windows <= LATEST;
    // Bands of a few pixels say nothing: a long run starts with its latest windows.
    if (!this.chosen) this.range.value = windows > 250 ? "latest" : "all";
    this.figure.refresh();
  }

  /** @returns {import("./plot.js").Extent} */
  view() {
    if (this.range.hidden || this.range.value === "all") return [0, this.steps];
    const [first] = this.bands.slice(-LATEST);
    const next = this.planned[1] ?? this.planned[0];
    return [first?.start ?? 0, next?.stop ?? this.rows.length];
  }

  seen() {
    const [from, to] = this.view();
    return this.rows.slice(from, to);
  }

  /**
   * @param {SVGGElement} layer
   * @param {import("./plot.js").Scale} x
   * @param {number} width
   */
  draw(layer, x, width) {
    const [from, to] = this.view();
    const shown = (/** @type {Band} */ band) => band.stop > from && band.start < to;
    const bands = this.bands.filter(shown);
    const planned = this.planned.filter(shown);
    const lowest = Math.min(from, ...bands.slice(0, 1).map((band) => band.version));
    const stalest = Math.max(1, ...[...bands, ...planned].map((band) => band.stop - 1 - band.version));
    const bottom = HEIGHT - MARGIN.bottom;
    this.y.upper = linear([lowest, to], [MARGIN.top + UPPER, MARGIN.top]);
    this.y.lower = linear([0, stalest], [bottom, bottom - LOWER]);

    merged([...bands, ...planned]).forEach((band, i) => {
      if (i % 2 && x(band.stop) - x(band.start) >= 4) layer.append(this.backdrop(band, x, bottom));
    });
    yAxis(layer, [lowest, to], this.y.upper, { width, integers: true });
    yTicks(layer, this.y.lower, { width, values: [0, stalest], text: String });
    xAxis(layer, [from, to], x, { bottom, width, name: "step" });
    this.drawGaps(layer, bands, x);
    const now = this.rows.length;
    layer.append(
      this.line(
        "learner",
        [
          [from, from],
          [now, now],
        ],
        x,
      ),
      this.line("stairs", corners(bands), x),
    );
    if (!this.over) {
      layer.append(
        this.line(
          "learner planned",
          [
            [now, now],
            [to, to],
          ],
          x,
        ),
        this.line("stairs planned", corners(planned), x),
        s("line", { class: "now", x1: x(now), x2: x(now), y1: MARGIN.top, y2: bottom }),
      );
    }
    this.drawSyncs(layer, bands, x);
    const names = { class: "tick", x: MARGIN.left + 6 };
    layer.append(s("text", { ...names, y: MARGIN.top + 12 }, "version"));
    layer.append(s("text", { ...names, y: bottom - LOWER + 12 }, "staleness"));
  }

  /**
   * @param {Band} band
   * @param {import("./plot.js").Scale} x
   * @param {number} bottom
   */
  backdrop(band, x, bottom) {
    const [left, right] = [x(band.start), x(band.stop)];
    return s("rect", { class: "band", x: left, y: MARGIN.top, width: right - left, height: bottom - MARGIN.top });
  }

  /**
   * The area between the learner and its generators, and the same by itself below.
   * @param {SVGGElement} layer
   * @param {Band[]} bands
   * @param {import("./plot.js").Scale} x
   */
  drawGaps(layer, bands, x) {
    const { upper, lower } = this.y;
    for (const { start, stop, version } of bands) {
      const [left, right] = [x(start), x(stop)];
      layer.append(
        s("path", {
          class: "gap",
          d: `M${left} ${upper(start)}L${right} ${upper(stop)}L${right} ${upper(version)}L${left} ${upper(version)}Z`,
        }),
      );
      /** @type {[number, number][]} */
      const teeth = [];
      for (let step = start; step < stop; step += 1) {
        teeth.push([x(step), lower(step - version)], [x(step + 1), lower(step - version)]);
      }
      const edge = right - left >= 4 ? "tooth" : ""; // edges alone would fill the picture
      layer.append(s("path", { class: `gap ${edge}`, d: `${path(teeth)}L${right} ${lower(0)}L${left} ${lower(0)}Z` }));
      if (right - left > 44) {
        const place = { class: "tick", x: right - 4, y: upper(version) + 14, "text-anchor": "end" };
        layer.append(s("text", place, `v${version}`));
      }
    }
  }

  /**
   * A dot where the learner made a version that generators were synced to; a thin line leads to its first step.
   * @param {SVGGElement} layer
   * @param {Band[]} bands
   * @param {import("./plot.js").Scale} x
   */
  drawSyncs(layer, bands, x) {
    const spacing = bands.length > 1 ? Math.abs(x(bands[1].stop) - x(bands[0].stop)) : 100;
    if (spacing < 2) return;
    for (const { start, version } of bands) {
      if (version === 0) continue;
      if (start > version)
        layer.append(
          this.line(
            "wait",
            [
              [version, version],
              [start, version],
            ],
            x,
          ),
        );
      layer.append(
        s("circle", { class: "sync", cx: x(version), cy: this.y.upper(version), r: spacing < 8 ? 1.5 : 3.5 }),
      );
    }
  }

  /**
   * @param {string} name
   * @param {[number, number][]} points (step, version)
   * @param {import("./plot.js").Scale} x
   */
  line(name, points, x) {
    return s("path", { class: name, d: path(points.map(([step, version]) => [x(step), this.y.upper(version)])) });
  }

  /**
   * @param {number} index
   * @param {import("./plot.js").Scale} x
   * @returns {import("./plot.js").Reading}
   */
  read(index, x) {
    const row = this.seen()[index];
    const band = this.bands.find((one) => one.start <= row.step && row.step < one.stop);
    const steps = band ? `steps ${band.start} to ${band.stop - 1}` : "";
    return {
      x: row.step,
      text: `step ${row.step}  rollouts of version ${row.version} (${steps})  staleness ${row.staleness}`,
      dots: [
        [x(row.step), this.y.upper(row.version)],
        [x(row.step), this.y.lower(row.staleness)],
      ],
    };
  }

  summary() {
    if (this.rows.length === 0) return "Sync timeline: no step is made yet.";
    const staleness = this.rows.map((row) => row.staleness);
    const [low, high] = [staleness.reduce((a, b) => Math.min(a, b)), staleness.reduce((a, b) => Math.max(a, b))];
    return (
      `Sync timeline: ${plural(this.rows.length, "step")} of ${this.steps} on rollouts of ` +
      `${plural(new Set(this.rows.map((row) => row.version)).size, "version")}, staleness ${low} to ${high}. ` +
      "Arrow keys read the steps."
    );
  }
}

/**
 * The staircase of bands as a line.
 * @param {Band[]} bands
 * @returns {[number, number][]}
 */
function corners(bands) {
  return bands.flatMap(
    ({ start, stop, version }) =>
      /** @type {[number, number][]} */ ([
        [start, version],
        [stop, version],
      ]),
  );
}
