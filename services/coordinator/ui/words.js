/**
 * Numbers and states as text. Pure.
 */

export const TERMINAL = new Set(["succeeded", "failed", "cancelled"]);

/** @typedef {Record<string, any>} Run what GET v1/runs/ID answers */

const GROUPED = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** @param {number | null | undefined} value */
export const whole = (value) => (value === null || value === undefined ? "-" : GROUPED.format(value));

/**
 * Three decimals; very small and very large ones as powers of ten.
 * @param {number | null | undefined} value
 */
export function decimal(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(2) : value.toFixed(3);
}

/**
 * A mean with its 95 % interval: 0.825 [0.789, 0.860].
 * @param {{mean: number, low: number | null, high: number | null} | null | undefined} found
 */
export function estimate(found) {
  if (!found) return "-";
  const mean = decimal(found.mean);
  return found.low === null ? mean : `${mean} [${decimal(found.low)}, ${decimal(found.high)}]`;
}

/**
 * @1 0.500, @4 0.750; a dash for graded scores.
 * @param {Record<string, number>} chances by k
 */
export const passAt = (chances) =>
  Object.entries(chances)
    .map(([k, chance]) => `@${k} ${decimal(chance)}`)
    .join(", ") || "-";

/**
 * accuracy (greedy), score (temperature 0.6).
 * @param {Record<string, any>} row of an evaluation
 */
export const measureOf = ({ measure, temperature }) => `${measure.replaceAll("_", " ")}${sampledAt(temperature)}`;

/** @param {number | undefined} temperature */
const sampledAt = (temperature) =>
  temperature === undefined ? "" : temperature === 0 ? " (greedy)" : ` (temperature ${temperature})`;

/**
 * How the curves are to be read.
 * @param {Run} run
 */
export function curveNote(run) {
  const sets = run.spec.evaluation.map((/** @type {any} */ one) => `${one.name}${sampledAt(one.temperature)}`);
  const rollouts = run.rollouts.from ? "those of the file" : `sampled at temperature ${run.spec.generation.temperature}`;
  const over = run.spec.algorithm.normalize === "pairs" ? "pairs" : "prompts, those that trained nothing included";
  return (
    `The reward is that of the rollouts in training, ${rollouts}` +
    `${sets.length ? `; held-out sets are answered apart: ${sets.join(", ")}` : ""}. ` +
    `The loss of a step is its sum divided by all its ${over}.`
  );
}

/** @param {{path: string, problem: string, allowed: string}} found */
export const warning = ({ path, problem, allowed }) => `${path}: ${problem}; wanted: ${allowed}`;

/**
 * 1h02m, 3m07s, 12s, 1.4s, 36ms.
 * @param {number | null | undefined} seconds
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  if (seconds < 1) return `${Math.round(seconds * 1000)}ms`;
  if (seconds < 10) return `${seconds.toFixed(1)}s`;
  const all = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  if (hours) return `${hours}h${two(minutes)}m`;
  return minutes ? `${minutes}m${two(rest)}s` : `${rest}s`;
}

/**
 * Local time in one width: 2026-08-22 14:03:05.
 * @param {number | string | null | undefined} time Unix seconds or ISO text
 */
export function clock(time) {
  if (time === null || time === undefined) return "-";
  const date = new Date(typeof time === "number" ? time * 1000 : time);
  const two = (/** @type {number} */ n) => String(n).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/**
 * {all_wrong: 2, b: 1, c: 0} as "all wrong 2, b 1".
 * @param {Record<string, number> | null | undefined} counts
 */
export function counted(counts) {
  const found = Object.entries(counts ?? {}).filter(([, count]) => count > 0);
  return found.map(([name, count]) => `${name.replaceAll("_", " ")} ${whole(count)}`).join(", ") || "none";
}

/** @param {number | "never"} period */
const every = (period) =>
  period === "never" ? "never (offline)" : period === 1 ? "every step (online)" : `every ${period} steps`;

/** @param {Run} run */
export function syncOf(run) {
  const { period, lag, changes = [] } = run.spec.sync;
  /** @type {Map<number, number | "never">} the last word on a step holds */
  const periods = new Map([[0, period], ...changes.map((/** @type {any} */ change) => [change.step, change.period])]);
  const parts = [...periods].map(([step, one]) => (step ? `${one} from step ${step}` : every(one)));
  return `${parts.join("; ")}${lag ? ", one window behind" : ""}`;
}

/** @param {Run} run */
export function rolloutsOf(run) {
  if (!run.rollouts.from) return "generated live";
  const groups = Object.values(run.rollouts.groups).reduce((total, count) => total + count, 0);
  return `${plural(groups, "group")} of ${run.rollouts.from}`;
}

const ALGORITHMS = { dpo: "DPO", group_dpo: "GroupDPO", grpo: "GRPO", group_dpo_grpo: "GroupDPO + GRPO" };

/** @param {Run} run */
export function algorithmOf(run) {
  const { name } = run.spec.algorithm;
  return name in ALGORITHMS ? ALGORITHMS[/** @type {keyof typeof ALGORITHMS} */ (name)] : name; // or somebody's own
}

/**
 * What a run is doing, in a sentence.
 * @param {Run} run
 */
export function doing(run) {
  const { step, steps } = run.progress;
  const took =
    run.finished_at && run.started_at ? (Date.parse(run.finished_at) - Date.parse(run.started_at)) / 1000 : 0;
  switch (run.state) {
    case "pending":
      return run.reason || "It waits for its turn: one run has the generators at a time.";
    case "starting":
      return run.reason || "The learner loads the seed model and publishes it as version 0.";
    case "running":
      if (step === 0 && run.rollouts.from) return run.reason || "The first groups of the file are on their way.";
      if (step === 0) return run.reason || "Generators load version 0, prove it, and work on the first rollouts.";
      if (step >= steps) return "All steps are made; the last evaluation is on its way.";
      return run.reason || "Training.";
    case "succeeded":
      return `All ${plural(steps, "step")} in ${duration(took)}. ${run.reason}`;
    case "failed":
      return run.reason || `It failed at step ${step}.`;
    default:
      return run.reason;
  }
}

/**
 * A line of the event log, in words.
 * @param {string} type
 * @param {Record<string, any>} data
 * @returns {string}
 */
export function sentence(type, data) {
  switch (type) {
    case "state":
      return `${data.before ? `${data.before} to ${data.state}` : data.state}${data.reason ? `: ${data.reason}` : ""}`;
    case "checkpoint":
      return `version ${data.version} is published, manifest ${String(data.digest).slice(0, 12)}`;
    case "period":
      return `sync period ${data.period} from step ${data.from_step} on`;
    case "sync":
      return `generators are told to serve version ${data.version}; the learner is at step ${data.step}`;
    case "fleet":
      return data.event === "loaded"
        ? `${data.generator} holds version ${data.version}: swapped in ${duration(data.swap_seconds)}, ` +
            `probe error ${decimal(data.probe_error)}`
        : `${data.generator}: ${data.error ?? data.event}`;
    case "evaluation":
      return (
        `${data.name} on version ${data.version}: ${measureOf(/** @type {any} */ (data))} ${estimate(data.score)}, ` +
        plural(data.prompts, "prompt")
      );
    case "queued":
      return `waits for ${data.behind}`;
    case "best":
      return (
        `version ${data.version} is the best so far: ` +
        `${data.metric.replaceAll("_", " ")} ${decimal(data.value)} on ${data.evaluation}`
      );
    case "warning":
      return warning(/** @type {any} */ (data));
    case "message":
      return String(data.text);
    default: {
      const { at, ...rest } = data;
      return JSON.stringify(rest);
    }
  }
}
