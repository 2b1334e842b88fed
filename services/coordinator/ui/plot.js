/**
 * What every figure of the page shares: scales, axes, a cursor for pointer and keyboard, and its readout.
 */

import { h, s, setText } from "./dom.js";

export const MARGIN = { left: 46, right: 10, top: 8, bottom: 26 };
const PAGE_OF_POINTS = 10;

/** @typedef {[number, number]} Extent */
/** @typedef {(value: number) => number} Scale */

/**
 * @param {Extent} domain
 * @param {Extent} range
 * @returns {Scale}
 */
export function linear([low, high], [from, to]) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

/**
 * Round values within a domain, at steps of 1, 2 or 5 times a power of ten.
 * @param {Extent} domain
 * @param {number} count about how many
 * @param {{integers?: boolean}} [options]
 */
export function ticks([low, high], count, { integers = false } = {}) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = ([1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999) ?? 10) * power;
  if (integers) step = Math.max(1, Math.round(step));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return { values: found, text: (/** @type {number} */ value) => tickText(value, step) };
}

/**
 * @param {number} value
 * @param {number} step
 */
function tickText(value, step) {
  if (step >= 1) return String(Math.round(value));
  return step < 1e-4 ? value.toExponential(0) : value.toFixed(Math.ceil(-Math.log10(step) - 1e-9));
}

/**
 * The smallest domain with round ends that holds the values; 0 to 1 for what stays within.
 * @param {number[]} values
 * @returns {Extent}
 */
export function roundDomain(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  if (low === high)
    [low, high] = [low - Math.max(Math.abs(low) * 0.1, 0.05), high + Math.max(Math.abs(high) * 0.1, 0.05)];
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
}

/**
 * Horizontal grid lines with their values, on the left.
 * @param {Element} layer
 * @param {Extent} domain
 * @param {Scale} y
 * @param {{width: number, count?: number, integers?: boolean}} options
 */
export function yAxis(layer, domain, y, { width, count = 5, integers = false }) {
  const { values, text } = ticks(domain, count, { integers });
  yTicks(layer, y, { width, values, text });
}

/**
 * @param {Element} layer
 * @param {Scale} y
 * @param {{width: number, values: number[], text: (value: number) => string}} options
 */
export function yTicks(layer, y, { width, values, text }) {
  for (const value of values) {
    const at = Math.round(y(value)) + 0.5;
    layer.append(
      s("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at }),
      s("text", { class: "tick", x: MARGIN.left - 6, y: at, "text-anchor": "end", dy: "0.32em" }, text(value)),
    );
  }
}

/**
 * @param {Element} layer
 * @param {Extent} domain
 * @param {Scale} x
 * @param {{bottom: number, width: number, name: string}} options
 */
export function xAxis(layer, domain, x, { bottom, width, name }) {
  const { values, text } = ticks(domain, Math.max(2, Math.floor(width / 110)), { integers: true });
  const nameFrom = width - MARGIN.right - name.length * 6.2 - 8;
  layer.append(
    s("line", { class: "axis", x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom + 0.5, y2: bottom + 0.5 }),
    s("text", { class: "tick", x: width - MARGIN.right, y: bottom + 18, "text-anchor": "end" }, name),
  );
  for (const value of values) {
    const at = Math.round(x(value)) + 0.5;
    layer.append(s("line", { class: "axis", x1: at, x2: at, y1: bottom, y2: bottom + 4 }));
    if (at + 12 < nameFrom) {
      layer.append(s("text", { class: "tick", x: at, y: bottom + 18, "text-anchor": "middle" }, text(value)));
    }
  }
}

/**
 * @typedef {object} Reading
 * @property {number} x in data
 * @property {string} text
 * @property {[number, number][]} dots in pixels
 */

/**
 * @typedef {object} FigureOptions
 * @property {string} id
 * @property {string} title
 * @property {string} table id of the table with the same numbers
 * @property {number} height
 * @property {() => Extent} domain of x
 * @property {() => number[]} xs where there is something to read, ascending
 * @property {(layer: SVGGElement, x: Scale, width: number) => void} draw
 * @property {(index: number, x: Scale) => Reading} read
 * @property {() => string} summary the picture in a sentence
 * @property {() => string} empty what to say where there is nothing to read, "" to draw nevertheless
 */

/** A figure that keeps its element while it is drawn anew. */
export class Figure {
  /** @param {FigureOptions} options */
  constructor(options) {
    this.options = options;
    /** @type {number | null} */
    this.index = null;
    this.width = 0;
    this.x = linear([0, 1], [0, 1]);
    this.drawing = s("g");
    this.cursor = s("g", { class: "cursor" });
    this.svg = s(
      "svg",
      {
        id: options.id,
        class: "plot",
        role: "img",
        tabindex: 0,
        height: options.height,
        "aria-details": options.table,
      },
      this.drawing,
      this.cursor,
    );
    this.readout = h("output", { class: "readout", for: options.id });
    this.legend = h("span", { class: "legend" });
    this.tools = h("span", { class: "tools" });
    const head = h("div", { class: "head" }, h("h3", {}, options.title), this.tools, this.legend);
    this.element = h("figure", {}, head, this.readout, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.move(null));
    this.svg.addEventListener("blur", () => this.move(null));
    this.svg.addEventListener("keydown", (event) => this.press(event));
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.element);
  }

  close() {
    this.observer.disconnect();
  }

  resize() {
    if (Math.round(this.element.clientWidth) !== this.width) this.refresh();
  }

  /** Draw from what the options tell now. */
  refresh() {
    this.width = Math.round(this.element.clientWidth);
    if (this.width < 100) return; // not in the page yet
    this.svg.setAttribute("width", String(this.width));
    this.x = linear(this.options.domain(), [MARGIN.left, this.width - MARGIN.right]);
    const layer = s("g");
    const empty = this.options.xs().length === 0 && this.options.empty();
    if (empty) layer.append(s("text", { x: MARGIN.left, y: this.options.height / 2 }, empty));
    else this.options.draw(layer, this.x, this.width);
    this.drawing.replaceWith(layer);
    this.drawing = layer;
    this.svg.setAttribute("aria-label", this.options.summary());
    this.move(this.index);
  }

  /** @param {number} pixel */
  point(pixel) {
    const xs = this.options.xs();
    let best = null;
    for (let i = 0; i < xs.length; i += 1) {
      if (best === null || Math.abs(this.x(xs[i]) - pixel) < Math.abs(this.x(xs[best]) - pixel)) best = i;
    }
    this.move(best);
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const last = this.options.xs().length - 1;
    if (last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.index ?? last + 1;
    /** @type {Record<string, number | null>} */
    const moves = {
      ArrowLeft: at - 1,
      ArrowRight: at + 1,
      PageDown: at - PAGE_OF_POINTS,
      PageUp: at + PAGE_OF_POINTS,
      Home: 0,
      End: last,
      Escape: null,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const to = moves[event.key];
    this.move(to === null ? null : Math.min(Math.max(to, 0), last));
  }

  /**
   * Put the cursor on a point; null takes it away, and the readout tells the newest.
   * @param {number | null} index
   */
  move(index) {
    const count = this.options.xs().length;
    this.index = index !== null && index < count ? index : null;
    this.cursor.replaceChildren();
    if (count === 0) {
      setText(this.readout, "");
      return;
    }
    const reading = this.options.read(this.index ?? count - 1, this.x);
    setText(this.readout, reading.text);
    if (this.index === null) return;
    const at = Math.round(this.x(reading.x)) + 0.5;
    const bottom = this.options.height - MARGIN.bottom;
    this.cursor.append(s("line", { x1: at, x2: at, y1: MARGIN.top, y2: bottom }));
    for (const [cx, cy] of reading.dots) this.cursor.append(s("circle", { cx, cy, r: 3 }));
  }

  /** @param {{class: string, text: string}[]} entries */
  setLegend(entries) {
    this.legend.replaceChildren(
      ...entries.map((entry) =>
        h("span", { class: `key ${entry.class}` }, keySwatch(entry.class), h("span", {}, entry.text)),
      ),
    );
  }
}

/** @param {string} name */
function keySwatch(name) {
  const swatch = s("svg", { width: 18, height: 8, "aria-hidden": "true" });
  const shape = name.startsWith("gap")
    ? s("rect", { class: name, x: 0, y: 0, width: 18, height: 8 })
    : name.startsWith("sync")
      ? s("circle", { class: name, cx: 9, cy: 4, r: 3 })
      : s("line", { class: name, x1: 0, x2: 18, y1: 4, y2: 4 });
  swatch.append(shape);
  return swatch;
}

/**
 * Pixel points as the d of a path. Where many share a pixel, its lowest and highest stand for all.
 * @param {[number, number][]} points ascending in x
 */
export function path(points) {
  /** @type {[number, number][]} */
  const kept = [];
  for (let i = 0; i < points.length;) {
    const column = Math.round(points[i][0]);
    let [low, high] = [points[i], points[i]];
    const first = i;
    for (; i < points.length && Math.round(points[i][0]) === column; i += 1) {
      if (points[i][1] < low[1]) low = points[i];
      if (points[i][1] > high[1]) high = points[i];
    }
    if (i - first < 3) kept.push(...points.slice(first, i));
    else kept.push(...(low[0] < high[0] ? [low, high] : [high, low]));
  }
  return kept.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}
