// Figures as plotly draws them, in the theme's colours; beside each its rows as a table, its SQL, and a copy.
import { h } from "./dom.js";
import { table } from "./table.js";

let palette = null;
const probe = document.createElement("span");

export function forgetColors() { palette = null; }

function color(name) {
  palette ??= new Map();
  if (!palette.has(name)) {
    document.body.append(probe);
    probe.style.color = `var(${name})`;
    const found = getComputedStyle(probe).color.match(/[\d.]+/g) || ["128", "128", "128"];
    probe.remove();
    palette.set(name, found.slice(0, 3).join(","));
  }
  return palette.get(name);
}

function painted(value) {
  if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(painted);
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, painted(one)]));
  if (typeof value === "string" && value.startsWith("--")) {
    const [name, opacity] = value.split("/");
    return `rgba(${color(name)},${opacity || 1})`;
  }
  return value;
}

function themed(layout) {
  const ink = painted("--ink");
  const muted = painted("--muted");
  const grid = painted("--grid");
  const axis = (given = {}) => ({ gridcolor: grid, zerolinecolor: grid, linecolor: muted, tickcolor: muted, color: muted, zeroline: false, ...painted(given) });
  const font = { color: ink, family: getComputedStyle(document.body).fontFamily, size: 12 };
  const hoverlabel = { bgcolor: painted("--card"), bordercolor: muted, font: { color: ink } };
  return { ...painted(layout), xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), font, hoverlabel, autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", annotations: (layout.annotations || []).map((one) => ({ ...painted(one), font: { color: muted, size: 11 } })) };
}

const CONFIG = { displayModeBar: false, responsive: true, doubleClick: "reset", showTips: false, locale: "en" };

// The texts of figures are names that people and runs gave: plotly must take none of them for markup.
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
function inert(trace) {
  const made = { ...trace };
  for (const name of ["name", "text", "y", "x"]) {
    if (typeof made[name] === "string") made[name] = escaped(made[name]);
    else if (Array.isArray(made[name]) && made[name].some((one) => typeof one === "string")) made[name] = made[name].map((one) => (typeof one === "string" ? escaped(one) : one));
  }
  return made;
}

export async function draw(node, block, onclick) {
  const { data, layout } = block.figure;
  await window.Plotly.react(node, data.map((trace) => painted(inert(trace))), { ...themed(layout), height: block.height || 360 }, CONFIG);
  if (!node.dataset.heard) {
    node.dataset.heard = "1";
    node.on("plotly_click", (event) => {
      const to = event.points[0]?.customdata;
      if (typeof to === "string") onclick(to);
    });
  }
}

export function extend(node, columns) {
  const traces = node.data || [];
  const [x, y, places] = [[], [], []];
  traces.forEach((trace, place) => {
    if (!trace.meta) return;
    const mine = columns.step.map((_, i) => i).filter((i) => columns.name[i] === trace.meta.name && columns.value[i] !== null);
    if (!mine.length) return;
    places.push(place);
    x.push(mine.map((i) => columns.step[i]));
    y.push(mine.map((i) => columns.value[i]));
  });
  if (places.length) window.Plotly.extendTraces(node, { x, y }, places, 20000);
}

// The rows of a figure: what its traces hold, as one table.
export function rowsOf(block) {
  const rows = { series: [], x: [], y: [] };
  for (const trace of block.figure.data) {
    if (trace.hoverinfo === "skip") continue;
    if (trace.z) {
      trace.y.forEach((y, i) => trace.x.forEach((x, j) => { rows.series.push(y); rows.x.push(x); rows.y.push(trace.z[i][j]); }));
      continue;
    }
    (trace.x || []).forEach((x, i) => { rows.series.push(trace.name ?? ""); rows.x.push(x); rows.y.push(trace.y[i]); });
  }
  return rows;
}

export function asTable(block) {
  const rows = rowsOf(block);
  const { xaxis, yaxis } = block.figure.layout;
  const columns = [{ name: "series", label: "series" }, { name: "x", label: xaxis?.title?.text || "x", format: typeof rows.x[0] === "number" ? "number" : "text" },
    { name: "y", label: yaxis?.title?.text || "y", format: typeof rows.y[0] === "number" ? "number" : "text" }];
  return table({ title: block.title, columns, rows, filter: false }, {}, () => {});
}

export function sentence(block) {
  const names = block.figure.data.filter((trace) => trace.hoverinfo !== "skip" && trace.name).map((trace) => trace.name);
  return `${block.title}: ${names.slice(0, 8).join(", ") || "one series"}${names.length > 8 ? " and more" : ""}. The same rows are there as a table.`;
}

export const holder = (block) => {
  const node = h("div", { class: "plot", role: "img", "aria-label": sentence(block) });
  node.style.minHeight = `${block.height || 360}px`;
  return node;
};
