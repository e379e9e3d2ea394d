// Blocks of a view as elements. What was there before is kept where it can be: a chart keeps its zoom, an input its focus.
import { copy, h, local } from "./dom.js";
import { asText, format, table } from "./table.js";

function head(title, ...tools) {
  return title || tools.length ? h("div", { class: "blockhead" }, h("h2", {}, title || ""), h("div", { class: "tools" }, ...tools)) : null;
}

const sqlLink = (sql) => (sql ? h("a", { class: "tool", href: `/sql?q=${encodeURIComponent(sql)}`, title: "opens the editor with the query behind this" }, "SQL") : null);

export function controls(block, change) {
  const made = block.items.map((item) => control(item, change));
  return h("form", { class: "controls", onsubmit: (event) => event.preventDefault() }, made);
}

function control(item, change) {
  const id = `control-${item.name}`;
  const label = h("span", {}, item.label);
  if (item.type === "select") {
    const options = (item.options || []).map(([value, text]) => h("option", { value, selected: value === item.value }, text));
    return h("label", {}, label, h("select", { id, name: item.name, onchange: (event) => change({ [item.name]: event.target.value }, true) }, options));
  }
  if (item.type === "check") {
    return h("label", { class: "check" }, h("input", { id, type: "checkbox", name: item.name, checked: Boolean(item.value), onchange: (event) => change({ [item.name]: event.target.checked ? "1" : "0" }, true) }), label);
  }
  if (item.type === "multi") {
    const on = new Set(String(item.value).split(","));
    const boxes = (item.options || []).map(([value, text]) => h("label", { class: "check" }, h("input", { type: "checkbox", checked: on.has(value),
      onchange: (event) => { on[event.target.checked ? "add" : "delete"](value); change({ [item.name]: [...on].filter(Boolean).join(",") }, true); } }), text));
    return h("details", { class: "multi", id }, h("summary", {}, `${item.label}: ${on.size}`), h("div", { class: "menu" }, boxes));
  }
  if (item.type === "range") {
    const [low, high] = [item.low ?? 0, item.high ?? 1];
    const to = (value) => (item.log ? Math.log10(value) : value);
    const from = (value) => (item.log ? 10 ** value : value);
    const shown = h("output", {}, format(item.value, item.format || "number"));
    const input = h("input", { id, type: "range", name: item.name, min: to(low), max: to(high), step: item.log ? (to(high) - to(low)) / 400 : item.step ?? 0.01, value: to(item.value),
      oninput: (event) => {
        const value = from(Number(event.target.value));
        shown.textContent = format(value, item.format || "number");
        event.target.setAttribute("aria-valuetext", shown.textContent);
        change({ [item.name]: String(Number(value.toPrecision(6))) }, false);
      } });
    input.value = to(item.value);
    return h("label", { class: "range" }, label, shown, input);
  }
  return h("label", {}, label, h("input", { id, name: item.name, type: item.type === "number" ? "number" : "text", value: item.value, onchange: (event) => change({ [item.name]: event.target.value }, true) }));
}

export function facts(block) {
  const items = block.items.map((one) => {
    const value = one.href && local(one.href) ? h("a", { href: one.href }, one.value) : one.value;
    const sql = one.sql ? h("a", { class: "why", href: `/sql?q=${encodeURIComponent(one.sql)}`, title: "where this number comes from" }, "?") : null;
    return h("div", { class: one.tone || "" }, h("dt", {}, one.label, sql), h("dd", {}, value));
  });
  return h("section", { class: "facts" }, head(block.title), h("dl", {}, items));
}

export function note(block) {
  const links = (block.links || []).map(([label, address]) => (local(address) ? h("a", { href: address }, label) : label));
  return h("p", { class: `note ${block.tone || ""}` }, block.text, links.length ? " " : "", ...links);
}

export function texts(block) {
  const items = block.items.map((one) => h("article", { class: `text ${one.tone || ""}` }, h("h3", {}, one.heading),
    one.meta ? h("p", { class: "muted" }, one.meta) : null,
    h("pre", { tabindex: 0 }, one.prompt ? h("span", { class: "prompt" }, `${one.prompt}\n`) : "", one.text || "(nothing was written)"),
    h("button", { type: "button", class: "plain", onclick: () => copy(one.text) }, "copy")));
  return h("section", {}, head(block.title), block.note ? h("p", { class: "muted" }, block.note) : null, h("div", { class: block.wide ? "texts wide" : "texts" }, items));
}

export function tree(block) {
  const below = new Map();
  block.nodes.forEach((node, place) => {
    const at = node.parent ?? -1;
    if (!below.has(at)) below.set(at, []);
    below.get(at).push(place);
  });
  const list = (parent) => h("ul", {}, (below.get(parent) || []).map((place) => {
    const node = block.nodes[place];
    return h("li", {}, h("span", { class: `thought ${node.status || ""}` }, node.text, node.value === null || node.value === undefined ? "" : ` · ${format(node.value, "number")}`), below.has(place) ? list(place) : "");
  }));
  return h("section", { class: "tree" }, head(block.title), block.note ? h("p", { class: "muted" }, block.note) : null, list(-1));
}

export function bars(block, stop) {
  const items = block.items.map((one) => h("li", {}, local(one.href) ? h("a", { href: one.href }, one.label) : one.label,
    h("progress", { max: 1, value: one.share ?? undefined, "aria-label": one.label }), h("span", { class: "muted" }, one.text),
    one.stop ? h("button", { type: "button", onclick: () => stop(one.stop) }, "stop") : null));
  return h("section", { class: "running" }, head(block.title), h("ul", {}, items));
}

export function grid(block, state, change, onrows) {
  const made = table(block, state, change, onrows);
  return h("section", { class: "grid", id: block.id }, head(block.title, made.tools, sqlLink(block.sql)), block.note ? h("p", { class: "muted" }, block.note) : null, made.node);
}

export function chart(block, { holder, asTable, rowsOf }) {
  const node = holder(block);
  const rows = h("div", { hidden: true });
  const button = h("button", { type: "button", class: "plain", "aria-expanded": "false", onclick: () => {
    rows.hidden = !rows.hidden;
    button.setAttribute("aria-expanded", String(!rows.hidden));
    button.textContent = rows.hidden ? "as table" : "hide table";
    if (!rows.hidden) rows.replaceChildren(asTable(section.block).node);
  } }, "as table");
  const copied = h("button", { type: "button", class: "plain", onclick: () => {
    const found = rowsOf(section.block);
    copy(asText(["series", "x", "y"].map((name) => ({ name })), found, found.x.map((_, i) => i)));
  } }, "copy");
  const link = sqlLink(block.sql);
  const caption = h("p", { class: "muted" }, block.note || "");
  const section = h("section", { class: "chart", id: block.id }, head(block.title, button, copied, link), node, rows, caption);
  Object.assign(section, { block, plot: node, retitle: (next) => {
    section.block = next;
    section.querySelector("h2").textContent = next.title;
    caption.textContent = next.note || "";
    if (link && next.sql) link.href = `/sql?q=${encodeURIComponent(next.sql)}`;
    if (!rows.hidden) rows.replaceChildren(asTable(next).node);
  } });
  return section;
}
