/**
 * The REST API as people read it, drawn from openapi.json. It needs no token: there is no data in it.
 */

import { byId, h } from "./dom.js";

/** @typedef {Record<string, any>} Schema */

const ANCHOR = "#/components/schemas/";

/** @param {string} name */
const schemaLink = (name) => h("a", { href: `#schema-${name}` }, name);

/**
 * A type in a few words, with links to those that have a name.
 * @param {Schema} schema
 * @returns {import("./dom.js").Child[]}
 */
function typeOf(schema) {
  if (schema.$ref) return [schemaLink(schema.$ref.slice(ANCHOR.length))];
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) {
    const types = choices.map(typeOf);
    return types.flatMap((/** @type {any} */ one, /** @type {number} */ i) => (i ? [" or ", ...one] : one));
  }
  if (schema.enum) return [schema.enum.map((/** @type {unknown} */ one) => JSON.stringify(one)).join(" or ")];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.type === "array") return ["list of ", ...(schema.items ? typeOf(schema.items) : ["anything"])];
  if (schema.type === "object" && schema.additionalProperties instanceof Object) {
    return ["map to ", ...typeOf(schema.additionalProperties)];
  }
  return [schema.type ?? "anything"];
}

/**
 * @param {Schema} schema
 * @returns {string} bounds and the default
 */
function limitsOf(schema) {
  const one = (schema.anyOf ?? [schema]).find((/** @type {Schema} */ part) => part.type !== "null") ?? schema;
  const bounds = [
    ["at least", one.minimum],
    ["above", one.exclusiveMinimum],
    ["at most", one.maximum],
    ["below", one.exclusiveMaximum],
  ].filter(([, value]) => value !== undefined);
  const parts = bounds.map(([word, value]) => `${word} ${value}`);
  if ("default" in schema) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

/**
 * @param {string | undefined} description
 * @param {Schema} schema
 */
function said(description, schema) {
  const limits = limitsOf(schema);
  return [description, limits && `(${limits})`].filter(Boolean).join(" ");
}

/**
 * @param {string[]} names of the columns
 * @param {import("./dom.js").Child[][][]} rows cells, each a list of children
 */
function table(names, rows) {
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, ...cell))))),
    ),
  );
}

/**
 * @param {string} path
 * @param {string} method
 * @param {Record<string, any>} operation
 */
function operationOf(path, method, operation) {
  const parameters = (operation.parameters ?? []).map((/** @type {any} */ one) => [
    [h("code", {}, one.name)],
    [one.in],
    typeOf(one.schema),
    [said(one.description, one.schema)],
  ]);
  const body = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses).map(([status, answer]) => [
    [h("code", {}, status)],
    [answer.description],
    Object.entries(answer.content ?? {}).flatMap(([kind, { schema }], i) => [
      i ? ", " : "",
      ...(schema ? typeOf(schema) : []),
      ` (${kind})`,
    ]),
  ]);
  return h(
    "section",
    { id: operation.operationId },
    h("h3", {}, h("code", {}, `${method.toUpperCase()} ${path}`), ` ${operation.summary ?? ""}`),
    operation.description && h("p", {}, operation.description),
    parameters.length > 0 && table(["Parameter", "In", "Type", ""], parameters),
    body.length > 0 &&
      h("p", {}, "Body: ", ...typeOf(body[0][1].schema), ` as ${body.map(([kind]) => kind).join(" or ")}`),
    table(["Status", "", "Content"], answers),
  );
}

/**
 * @param {string} name
 * @param {Schema} schema
 */
function schemaOf(name, schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([key, field]) => [
    [h("code", {}, key), required.has(key) ? "" : " (optional)"],
    typeOf(field),
    [said(field.description, field)],
  ]);
  return h(
    "section",
    { id: `schema-${name}` },
    h("h3", {}, h("code", {}, name)),
    schema.description && h("p", {}, schema.description),
    rows.length > 0 ? table(["Field", "Type", ""], rows) : h("p", {}, ...typeOf(schema)),
  );
}

/** @param {Record<string, any>} api */
function draw(api) {
  /** @type {Map<string, HTMLElement[]>} */
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.at(-1) ?? "other";
      groups.set(tag, [...(groups.get(tag) ?? []), operationOf(path, method, operation)]);
    }
  }
  byId("main", HTMLElement).replaceChildren(
    h("h1", {}, `${api.info.title}: REST API`),
    h("p", {}, `${api.info.summary}. The same for programs: `, h("a", { href: "openapi.json" }, "openapi.json")),
    ...[...groups].flatMap(([tag, operations]) => [h("h2", {}, tag), ...operations]),
    h("h2", {}, "types"),
    ...Object.entries(api.components.schemas).map(([name, schema]) => schemaOf(name, schema)),
  );
}

async function show() {
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    draw(await response.json());
    if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
  } catch (error) {
    byId("main", HTMLElement).replaceChildren(h("p", { class: "bad" }, `openapi.json could not be read: ${error}`));
  }
}

void show();
