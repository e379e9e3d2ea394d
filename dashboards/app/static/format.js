// How values read: the same as in the report.
const NONE = "–";
const SIZES = [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

export function number(value) {
  if (value === null || value === undefined || value === "") return NONE;
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toPrecision(3).replace("-", "−");
  return String(Number(value.toPrecision(4))).replace("-", "−");
}

export function count(value) {
  if (typeof value !== "number") return value ?? NONE;
  if (Math.abs(value) < 10000 && Number.isInteger(value)) return value.toLocaleString("en");
  for (const [size, letter] of SIZES) if (Math.abs(value) >= size * 0.9995) return `${Number((value / size).toPrecision(3))}${letter}`;
  return String(Number(value.toPrecision(3)));
}

const percent = (value) => (typeof value === "number" ? `${(100 * value).toFixed(1)}%` : NONE);

export function dollars(value) {
  if (typeof value !== "number") return NONE;
  if (value === 0) return "$0";
  if (Math.abs(value) >= 10000) return `$${count(value)}`;
  if (Math.abs(value) >= 1) return `$${value.toFixed(2)}`;
  return `$${value.toFixed(Math.min(10, 1 - Math.floor(Math.log10(Math.abs(value)))))}`;
}

export function duration(value) {
  if (typeof value !== "number") return NONE;
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  const two = (n) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor((whole % 3600) / 60))} min`;
}

const time = (value) => (typeof value === "number" ? new Date(value).toISOString().slice(0, 16).replace("T", " ") : NONE);
const MODELS = { base: "base model", sft: "fine-tuned model", grpo: "model after GRPO", puzzles: "puzzle model" };
const text = (value) => (value === null || value === undefined ? NONE : typeof value === "object" ? JSON.stringify(value) : String(value));

const FORMATS = { number, count, percent, dollars, duration, time, text, model: (value) => MODELS[value] || text(value) };
export const format = (value, name) => (FORMATS[name] || text)(value);
export const RIGHT = new Set(["number", "count", "percent", "dollars", "duration"]);

export function interval(value, low, high, name) {
  const shown = format(value, name);
  if (typeof low !== "number" || typeof high !== "number" || shown === NONE) return shown;
  const ends = [low, high].map((end) => (name === "percent" ? (100 * end).toFixed(1) : format(end, name)));
  return `${shown} [${ends[0]}, ${ends[1]}]`;
}
