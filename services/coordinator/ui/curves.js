/**
 * Curves over steps or versions: each a few lines with a light smoothing where they are noisy.
 */

import { s } from "./dom.js";
import { Figure, MARGIN, linear, path, roundDomain, xAxis, yAxis } from "./plot.js";
import { decimal } from "./words.js";

const HEIGHT = 190;

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {[number, number][]} points ascending in x
 * @property {number[]} [starts] points, by their place, that a gap lies before
 * @property {[number, number, number][]} [band] x, and the interval around its point
 */

/**
 * Exponential mean, started without bias. It halves its memory every few points, or every eightieth of a long series.
 * @param {number[]} values
 */
export function smooth(values) {
  const halfLife = Math.max(4, values.length / 80);
  const keep = 0.5 ** (1 / halfLife);
  let [sum, weight] = [0, 0];
  return values.map((value) => {
    sum = keep * sum + value;
    weight = keep * weight + 1;
    return sum / weight;
  });
}

/**
 * The d of a path with gaps.
 * @param {[number, number][]} points
 * @param {number[]} starts of the pieces after the first
 */
const pieces = (points, starts = []) =>
  [0, ...starts].map((from, i) => path(points.slice(from, starts[i] ?? points.length))).join("");

/** One figure of lines over a common x. */
export class Curves {
  /**
   * @param {{id: string, title: string, xName: string, table: string, smoothed?: boolean,
   *   fraction?: boolean, dotted?: boolean}} options fraction: the y axis is 0 to 1 where the values are
   */
  constructor({ id, title, xName, table, smoothed = false, fraction = false, dotted = false }) {
    this.title = title;
    this.fraction = fraction;
    this.dotted = dotted;
    this.xName = xName;
    this.smoothed = smoothed;
    this.empty = "";
    /** @type {(Line & {smooth: number[]})[]} */
    this.lines = [];
    /** @type {import("./plot.js").Extent} */
    this.domain = [0, 1];
    /** @type {number[]} */
    this.xs = [];
    /** @type {import("./plot.js").Scale} */
    this.y = (value) => value;
    this.figure = new Figure({
      id,
      title,
      table,
      height: HEIGHT,
      domain: () => this.domain,
      xs: () => this.xs,
      draw: (layer, x, width) => this.draw(layer, x, width),
      read: (index, x) => this.read(index, x),
      summary: () => this.summary(),
      empty: () => this.empty,
    });
    this.element = this.figure.element;
  }

  /**
   * @param {Line[]} lines
   * @param {import("./plot.js").Extent} domain of x
   * @param {string} empty what to say where there is nothing
   */
  update(lines, domain, empty) {
    this.empty = empty;
    this.domain = domain;
    this.lines = lines.map((line) => ({ ...line, smooth: this.smoothed ? smooth(line.points.map(([, y]) => y)) : [] }));
    this.xs = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
    const entries = lines.length > 1 ? lines.map((line, i) => ({ class: `line-${i}`, text: line.name })) : [];
    this.figure.setLegend(entries);
    this.figure.refresh();
  }

  /**
   * @param {SVGGElement} layer
   * @param {import("./plot.js").Scale} x
   * @param {number} width
   */
  draw(layer, x, width) {
    const bottom = HEIGHT - MARGIN.bottom;
    const values = this.lines.flatMap((line) => [
      ...line.points.map(([, y]) => y),
      ...(line.band ?? []).flatMap(([, low, high]) => [low, high]),
    ]);
    const unit = this.fraction && values.every((value) => value >= 0 && value <= 1);
    const domain = roundDomain(unit ? [0, 1] : values);
    this.y = linear(domain, [bottom, MARGIN.top]);
    yAxis(layer, domain, this.y, { width });
    xAxis(layer, this.domain, x, { bottom, width, name: this.xName });
    this.lines.forEach((line, i) => {
      if (line.band?.length) {
        const above = line.band.map(([px, , high]) => [x(px), this.y(high)]);
        const below = line.band.map(([px, low]) => [x(px), this.y(low)]).reverse();
        const around = /** @type {[number, number][]} */ ([...above, ...below]);
        layer.append(s("path", { class: `interval line-${i}`, d: `${path(around)}Z` }));
      }
      const raw = /** @type {[number, number][]} */ (line.points.map(([px, py]) => [x(px), this.y(py)]));
      const alone = this.lines.length === 1; // the noise of several lines hides them all
      if (alone || !this.smoothed) {
        layer.append(s("path", { class: `line-${i}${this.smoothed ? " raw" : ""}`, d: pieces(raw, line.starts) }));
      }
      if (this.smoothed) {
        const even = /** @type {[number, number][]} */ (line.points.map(([px], k) => [x(px), this.y(line.smooth[k])]));
        layer.append(s("path", { class: `line-${i}`, d: pieces(even, line.starts) }));
      } else if (this.dotted) {
        for (const [cx, cy] of raw) layer.append(s("circle", { class: `line-${i}`, cx, cy, r: 2.5 }));
      }
    });
  }

  /**
   * @param {number} index
   * @param {import("./plot.js").Scale} x
   * @returns {import("./plot.js").Reading}
   */
  read(index, x) {
    const at = this.xs[index];
    /** @type {[number, number][]} */
    const dots = [];
    const parts = [`${this.xName} ${at}`];
    for (const line of this.lines) {
      const k = line.points.findIndex(([px]) => px === at);
      if (k < 0) continue;
      const value = line.points[k][1];
      dots.push([x(at), this.y(this.smoothed ? line.smooth[k] : value)]);
      const alone = this.lines.length === 1;
      const even = this.smoothed ? ` (${alone ? "smoothed " : ""}${decimal(line.smooth[k])})` : "";
      const interval = line.band?.find(([px]) => px === at);
      const bounds = interval ? ` [${decimal(interval[1])}, ${decimal(interval[2])}]` : "";
      parts.push(`${alone ? "" : `${line.name} `}${decimal(value)}${even}${bounds}`);
    }
    return { x: at, text: parts.join("  "), dots };
  }

  summary() {
    if (this.xs.length === 0) return `${this.title}: nothing yet.`;
    const shown = this.lines.filter((line) => line.points.length);
    const ends = shown.map((line) => {
      const [first, last] = [line.points[0], line.points[line.points.length - 1]];
      return `${line.name} from ${decimal(first[1])} at ${this.xName} ${first[0]} to ${decimal(last[1])} at ${last[0]}`;
    });
    return `${this.title}: ${ends.join("; ")}. Arrow keys read the values.`;
  }
}
