// A table that draws the rows in sight alone: a thousand rows cost as much as forty.
import { copy, h, local, say, svg } from "./dom.js";

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
  if (value < 0) return `−${dollars(-value)}`;
  if (value >= 10000) return `$${count(value)}`;
  if (value >= 1) return `$${value.toFixed(2)}`;
  return `$${value.toFixed(Math.min(10, 1 - Math.floor(Math.log10(value))))}`;
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

const ROW = 29;
const SHOWN = 18; // rows before a table scrolls by itself

const TONES = { completed: "good", ran: "good", seen: "good", held: "good", right: "good", chosen: "good", failed: "bad",
  wrong: "bad", alarm: "bad", interrupted: "warn", killed: "warn", waiting: "warn", cached: "cool", front: "cool", running: "cool",
  "not identified": "warn", yes: "good" };

function cell(column, rows, place) {
  const value = rows[column.name][place];
  const form = column.format || "text";
  if (form === "spark") return h("td", { class: "spark" }, Array.isArray(value) ? spark(value) : "");
  let shown = column.low ? interval(value, rows[column.low][place], rows[column.high][place], form) : format(value, form);
  if (form === "text" && shown.length > 160) shown = `${shown.slice(0, 160)}…`;
  let content = shown;
  if ((form === "status" || form === "verdict") && value) {
    content = h("span", { class: `chip ${TONES[value] || (String(value).startsWith("not") ? "warn" : "")}` }, shown);
  }
  const address = column.href && value !== null && value !== "" &&
    local(column.href.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(rows[name]?.[place] ?? "")));
  return h("td", { class: RIGHT.has(form) ? "r" : "", title: form === "text" && shown !== String(value) ? String(value).slice(0, 2000) : null },
    address ? h("a", { href: address, tabindex: -1 }, content) : content);
}

export function spark(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const step = 96 / Math.max(values.length - 1, 1);
  const line = values.map((v, i) => `${(2 + i * step).toFixed(1)},${(20 - 18 * ((v - low) / (high - low || 1))).toFixed(1)}`).join(" ");
  const drawn = svg("svg", { viewBox: "0 0 100 22", width: 100, height: 22, "aria-hidden": "true" });
  drawn.append(svg("polyline", { points: line, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }));
  return drawn;
}

export function asText(columns, rows, order) {
  const lines = order.map((place) => columns.map((one) => String(rows[one.name][place] ?? "").replace(/[\t\n]/g, " ")).join("\t"));
  return [columns.map((one) => one.label || one.name).join("\t"), ...lines].join("\n");
}

// state: {sort, filter, chosen} of the address. change: writes them there. onrows: told which rows are in sight.
export function table(block, state, change, onrows) {
  const { rows } = block;
  const columns = block.columns.filter((one) => !one.hidden);
  const total = rows[columns[0].name].length;
  const chosen = new Set(state.chosen || []);
  let order = [];
  let focus = 0;
  let anchor = null;
  const lowered = block.filter ? Array.from({ length: total }, (_, place) =>
    columns.map((one) => rows[one.name][place] ?? "").join(" ").toLowerCase()) : [];

  const body = h("tbody");
  const above = h("tr", { "aria-hidden": "true" }, h("td", { colspan: columns.length + 1 }));
  const below = above.cloneNode(true);
  const scroll = h("div", { class: "rows", tabindex: 0, role: "group", "aria-label": block.title });
  const heads = columns.map((one) => {
    const button = h("button", { type: "button", title: one.help || null, onclick: () => sortBy(one.name) }, one.label || one.name || "·");
    return h("th", { scope: "col", class: RIGHT.has(one.format) ? "r" : "" }, button);
  });
  const all = block.select ? h("th", { class: "pick" }, h("span", { class: "hidden" }, "chosen")) : null;
  const grid = h("table", { "aria-rowcount": total }, h("thead", {}, h("tr", {}, all, heads)), body);
  scroll.append(grid);
  const counted = h("span", { class: "muted" });

  function arrange() {
    const words = (state.filter || "").toLowerCase().split(/\s+/).filter(Boolean);
    order = [];
    for (let place = 0; place < total; place += 1) if (words.every((word) => lowered[place]?.includes(word))) order.push(place);
    if (!lowered.length) order = Array.from({ length: total }, (_, place) => place);
    const [name, way] = (state.sort || "").split(":");
    if (name && rows[name]) {
      const sign = way === "down" ? -1 : 1;
      const values = rows[name];
      order.sort((a, b) => {
        const [x, y] = [values[a], values[b]];
        if (x === y) return a - b;
        if (x === null || x === undefined) return 1; // what is not there comes last, whatever the order
        if (y === null || y === undefined) return -1;
        return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), "en"));
      });
    }
    heads.forEach((head, i) => {
      const mine = columns[i].name === name;
      head.setAttribute("aria-sort", mine ? (way === "down" ? "descending" : "ascending") : "none");
    });
    counted.textContent = order.length === total ? "" : `${order.length} of ${total}`;
    grid.setAttribute("aria-rowcount", order.length);
    scroll.classList.toggle("long", order.length > SHOWN);
    focus = Math.min(focus, Math.max(order.length - 1, 0));
    draw(true);
  }

  let drawn = [-1, -1];
  function draw(force) {
    const height = scroll.classList.contains("long") ? scroll.clientHeight || ROW * SHOWN : ROW * SHOWN;
    const first = Math.max(0, Math.floor(scroll.scrollTop / ROW) - 6);
    const last = Math.min(order.length, first + Math.ceil(height / ROW) + 14);
    if (!force && drawn[0] === first && drawn[1] === last) return;
    drawn = [first, last];
    above.firstChild.style.height = `${first * ROW}px`;
    below.firstChild.style.height = `${(order.length - last) * ROW}px`;
    const made = order.slice(first, last).map((place, i) => row(place, first + i));
    body.replaceChildren(...(first ? [above] : []), ...made, ...(last < order.length ? [below] : []));
    if (!order.length) body.replaceChildren(h("tr", {}, h("td", { colspan: columns.length + 1, class: "muted" }, total ? "nothing fits the filter" : block.empty || "no rows")));
    onrows?.(order.slice(first, last), () => draw(true));
  }

  function row(place, at) {
    const id = block.select && rows[block.select][place];
    const box = block.select ? h("td", { class: "pick" }, h("input", { type: "checkbox", tabindex: -1, checked: chosen.has(id), "aria-label": `choose ${id}`,
      onclick: (event) => { pick(at, event.shiftKey); } })) : null;
    return h("tr", { class: [at === focus ? "focus" : "", chosen.has(id) ? "chosen" : ""].join(" ").trim(), "aria-rowindex": at + 1,
      onclick: (event) => { if (!event.target.closest("a, input")) { focus = at; draw(true); } } }, box, columns.map((one) => cell(one, rows, place)));
  }

  function pick(at, range) {
    const [from, to] = range && anchor !== null ? [Math.min(anchor, at), Math.max(anchor, at)] : [at, at];
    const on = !chosen.has(rows[block.select][order[at]]);
    for (let i = from; i <= to; i += 1) chosen[on ? "add" : "delete"](rows[block.select][order[i]]);
    anchor = at;
    change({ chosen: [...chosen] });
    draw(true);
  }

  function sortBy(name) {
    const down = ["number", "count", "percent", "dollars", "duration", "time"].includes(columns.find((one) => one.name === name).format);
    const [was, way] = (state.sort || "").split(":");
    const ways = down ? ["down", "up"] : ["up", "down"];
    state.sort = was === name ? (way === ways[0] ? `${name}:${ways[1]}` : "") : `${name}:${ways[0]}`;
    change({ sort: state.sort });
    arrange();
  }

  scroll.addEventListener("scroll", () => draw(false), { passive: true });
  scroll.addEventListener("keydown", (event) => {
    if (event.target !== scroll || !order.length) return;
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: SHOWN, PageUp: -SHOWN, Home: -order.length, End: order.length };
    if (event.key in steps) {
      focus = Math.max(0, Math.min(order.length - 1, focus + steps[event.key]));
      const top = focus * ROW;
      if (top < scroll.scrollTop) scroll.scrollTop = top;
      if (top + 3 * ROW > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top + 3 * ROW - scroll.clientHeight;
      draw(true);
      say(columns.slice(0, 3).map((one) => format(rows[one.name][order[focus]], one.format)).join(", "));
    } else if (event.key === "Enter") {
      body.querySelector("tr.focus a")?.click();
    } else if ((event.key === "x" || event.key === " ") && block.select) pick(focus, event.shiftKey);
    else return;
    event.preventDefault();
  });

  const tools = h("div", { class: "tools" },
    block.filter && total > 5 ? h("input", { type: "search", placeholder: "filter", "aria-label": `filter ${block.title}`, value: state.filter || "",
      oninput: (event) => { state.filter = event.target.value; change({ filter: state.filter }); scroll.scrollTop = 0; arrange(); } }) : null,
    counted,
    h("button", { type: "button", class: "plain", onclick: () => copy(asText(columns, rows, order)) }, "copy"));
  arrange();
  return { node: h("div", { class: "table" }, scroll), tools, redraw: () => draw(true) };
}
