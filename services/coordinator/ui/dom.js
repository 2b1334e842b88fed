/**
 * Elements. Text gets into the page as text nodes only: what a model wrote is never markup.
 */

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, string | number | boolean | null | undefined>} Attributes */

/**
 * An HTML element: h("p", {class: "note"}, "text", h("b", {}, "bold")).
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Attributes} [attributes]
 * @param {...Child} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Attributes} attributes
 * @param {Child[]} children
 * @returns {E}
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  for (const child of children) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
  return element;
}

/**
 * Writes only what is new, so that a reader's selection and a screen reader's place survive a refresh.
 * @param {Element} element
 * @param {string} name
 * @param {string | number | boolean | null | undefined} value
 */
export function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/**
 * @param {Node} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * The element with this id, which index.html is known to have.
 * @template {HTMLElement} E
 * @param {string} id
 * @param {{new(): E}} type
 * @returns {E}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`index.html has no ${type.name} with id ${id}`);
  return found;
}

/**
 * @typedef {object} Column
 * @property {string} name
 * @property {boolean} [number] aligned to the right
 * @property {string} [hint] shown on hover
 */

/**
 * A cell: its text, or more.
 * @typedef {string | {text: string, href?: string, class?: string, bar?: number, note?: string}} Cell
 */

/**
 * A table that is updated in place: rows are known by their key and cells are written only where they changed.
 * The first column heads its row.
 */
export class Table {
  /**
   * @param {string} caption
   * @param {Column[]} columns
   * @param {{hideCaption?: boolean}} [options]
   */
  constructor(caption, columns, { hideCaption = false } = {}) {
    this.columns = columns;
    this.body = h("tbody");
    /** @type {Map<string, HTMLTableRowElement>} */
    this.rows = new Map();
    const head = h(
      "tr",
      {},
      ...columns.map((column) =>
        h("th", { scope: "col", class: column.number ? "number" : null, title: column.hint }, column.name),
      ),
    );
    const table = h("table", {}, h("caption", { class: hideCaption ? "unseen" : null }, caption));
    table.append(h("thead", {}, head), this.body);
    // A wide table scrolls by itself, by keyboard too.
    this.element = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table);
  }

  /**
   * Show these rows, in this order.
   * @param {{key: string, cells: Cell[]}[]} rows
   */
  update(rows) {
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, element] of this.rows) {
      if (!keys.has(key)) {
        element.remove();
        this.rows.delete(key);
      }
    }
    /** @type {Element | null} */
    let before = null;
    for (const { key, cells } of rows) {
      let row = this.rows.get(key);
      if (!row) {
        row = h(
          "tr",
          {},
          ...this.columns.map((column, i) =>
            i === 0 ? h("th", { scope: "row" }) : h("td", { class: column.number ? "number" : null }),
          ),
        );
        this.rows.set(key, row);
      }
      cells.forEach((cell, i) => writeCell(/** @type {HTMLElement} */ (row?.children[i]), cell));
      /** @type {Element | null} */
      const place = before ? before.nextElementSibling : this.body.firstElementChild;
      if (place !== row) this.body.insertBefore(row, place);
      before = row;
    }
  }
}

/**
 * @param {HTMLElement} element
 * @param {Cell} cell
 */
function writeCell(element, cell) {
  const seen = JSON.stringify(cell);
  if (element.dataset.seen === seen) return;
  element.dataset.seen = seen;
  if (typeof cell === "string") {
    setText(element, cell);
    return;
  }
  // The link stays the same element: it may have the keyboard's focus.
  const link = element.querySelector("a");
  if (link && cell.href) {
    setText(link, cell.text);
    setAttribute(link, "href", cell.href);
    return;
  }
  const main = cell.href ? h("a", { href: cell.href }, cell.text) : h("span", { class: cell.class }, cell.text);
  element.replaceChildren(main);
  if (cell.bar !== undefined) element.append(h("progress", { max: 1, value: cell.bar, "aria-hidden": "true" }));
  if (cell.note) element.append(h("span", { class: "note" }, cell.note));
}
