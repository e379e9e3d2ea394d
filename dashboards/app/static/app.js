// The shell: the address is the state. A view is asked for, its blocks are drawn; an answer that is not the newest is
// dropped.
import { ask, dialog, h, local, notice, say, store } from "./dom.js";
import * as blocks from "./blocks.js";
import { first } from "./first.js";

const $ = (id) => document.getElementById(id);
const slug = document.body.dataset.page;
const charts = window.Plotly || document.querySelector("script[src^='/plotly/']") ? await import("./chart.js") : null;
let asked = 0;
let early = first; // the answer to the address that the page was opened with
let drawn = [];  // {block, node}
let view = null;
let timer = null;

const parameters = () => new URLSearchParams(location.search);

function write(changes, push) {
  const now = parameters();
  for (const [name, value] of Object.entries(changes)) (value === "" || value === null) ? now.delete(name) : now.set(name, value);
  const to = `${location.pathname}${now.size ? `?${now}` : ""}`;
  history[push ? "pushState" : "replaceState"](null, "", to);
}

function change(changes, push) {
  write(changes, push);
  load();
}

async function load() {
  const mine = ++asked;
  clearTimeout(timer);
  try {
    const answer = early ?? ask(`/api/page/${slug}${location.search}`);
    early = null;
    const found = await answer;
    if (mine !== asked) return;
    notice("");
    await show(found);
  } catch (error) {
    if (mine !== asked) return;
    if (error.status === 401) return signIn(error.message);
    notice(error.status ? error.message : "The server does not answer; trying again.");
    $("blocks").setAttribute("aria-busy", "false");
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
    if (!error.status) timer = setTimeout(load, 2000);
  }
}

async function show(found) {
  view = found;
  $("title").textContent = found.title;
  document.title = `${found.title} · Lifespan`;
  $("links").replaceChildren(...found.links.map(([label, address]) => h("a", { href: local(address) }, label)));
  $("services").replaceChildren(...(found.services || []).map(([name, address]) => (/^https?:\/\//.test(address) ? h("a", { href: address, target: "_blank", rel: "noopener" }, name) : h("span", { class: "muted" }, `${name}: ${address}`))));
  const next = [];
  const dragging = document.activeElement?.type === "range" ? document.activeElement : null;
  for (const [place, block] of found.blocks.entries()) {
    const before = drawn.find((one) => one.block.kind === block.kind && one.block.id === block.id && one.place === (block.id ? one.place : place));
    next.push({ block, place, node: before && keep(before, block, dragging) || make(block) });
  }
  drawn = next;
  const nodes = next.map((one) => one.node);
  const holder = $("blocks");
  if (nodes.length !== holder.children.length || nodes.some((node, i) => holder.children[i] !== node)) holder.replaceChildren(...nodes);
  if (dragging && dragging.isConnected) dragging.focus();
  if (charts) await Promise.all(next.filter((one) => one.block.kind === "chart").map((one) => charts.draw(one.node.plot, one.block, clicked)));
  holder.setAttribute("aria-busy", "false");
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  if (found.refresh) timer = setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", load, { once: true }) : load()), 1000 * found.refresh);
  if (found.blocks.some((block) => block.live)) follow();
}

function keep(before, block, dragging) {
  if (block.kind === "chart") {
    before.node.retitle(block);
    return before.node;
  }
  const same = JSON.stringify(before.block) === JSON.stringify(block);
  if (same || (block.kind === "controls" && dragging) || block.kind === "tool") return before.node;
  return null;
}

function make(block) {
  if (block.kind === "controls") return blocks.controls(block, change);
  if (block.kind === "chart") return blocks.chart(block, charts);
  if (block.kind === "table") return grid(block);
  if (block.kind === "bars") return blocks.bars(block, stop);
  if (block.kind === "tool") return tool(block);
  return { facts: blocks.facts, note: blocks.note, texts: blocks.texts, tree: blocks.tree }[block.kind](block);
}

function grid(block) {
  const prefix = block.id === "runs" ? "" : `${block.id}_`;
  const state = { sort: parameters().get(`${prefix}sort`) || "", filter: parameters().get(`${prefix}filter`) || "",
    chosen: (parameters().get("chosen") || "").split(",").filter(Boolean) };
  const bar = block.select ? h("div", { class: "chosen", role: "status" }) : null;
  const tell = () => bar?.replaceChildren(...chosenTools(state.chosen));
  const noted = (changes) => {
    Object.assign(state, changes);
    const written = {};
    for (const name of ["sort", "filter"]) if (name in changes) written[prefix + name] = changes[name];
    if ("chosen" in changes) written.chosen = changes.chosen.join(",");
    write(written, false);
    tell();
  };
  const made = blocks.grid(block, state, noted, block.id === "runs" ? sparks(block) : null);
  tell();
  if (bar) made.prepend(bar);
  return made;
}

function chosenTools(runs) {
  if (!runs.length) return [h("span", { class: "muted" }, "Choose runs with x or the boxes to compare them.")];
  const list = runs.map(encodeURIComponent).join(",");
  return [h("a", { class: "button", href: `/compare?runs=${list}` }, `Compare ${runs.length}`), " ",
    h("a", { class: "button", href: `/compare?runs=${list}&seeds=1` }, "Group seeds"), " ",
    runs.length === 2 ? h("a", { class: "button", href: `/paired?run_a=${encodeURIComponent(runs[0])}&run_b=${encodeURIComponent(runs[1])}` }, "Paired items") : ""];
}

// Sparklines come for the rows in sight, after the rows.
function sparks(block) {
  const wanted = new Set();
  const had = new Set();
  let waiting = null;
  return (places, redraw) => {
    for (const place of places) if (!had.has(place)) wanted.add(place);
    if (!wanted.size || waiting) return;
    waiting = setTimeout(async () => {
      const now = [...wanted].slice(0, 60);
      now.forEach((place) => { wanted.delete(place); had.add(place); });
      waiting = null;
      const runs = now.map((place) => block.rows.run_id[place]);
      const found = await ask(`/api/sparks?runs=${runs.map(encodeURIComponent).join(",")}`).catch(() => ({ run_id: [] }));
      const at = new Map(found.run_id.map((run, i) => [run, found.values[i]]));
      now.forEach((place) => { block.rows.spark[place] = at.get(block.rows.run_id[place]) || null; });
      if (at.size) redraw();
    }, 60);
  };
}

function clicked(to) {
  const changes = Object.fromEntries(new URLSearchParams(to));
  change(changes, true);
  say(`shown: ${Object.values(changes).join(", ")}`);
}

async function stop(run) {
  try {
    say((await ask("/api/stop", { run })).said);
    load();
  } catch (error) { notice(error.message); }
}

function tool(block) {
  const place = h("section", { class: `tool-${block.name}` });
  const data = block.data || {};
  import(`./${block.name}.js`).then((module) => module.mount(place, data, { write, change, load }));
  return place;
}


// --- what runs now: new points are read from where the last look ended ---------------------------------------------

let cursors = null;
let following = false;
async function follow() {
  if (following) return;
  following = true;
  const run = view.address.run;
  cursors = null;
  while (view.address.run === run && view.blocks.some((block) => block.live)) {
    if (!document.hidden) {
      const known = cursors ? [...cursors].map(([key, cursor]) => `&cursor=${encodeURIComponent(`${key}=${cursor}`)}`).join("") : "";
      const found = await ask(`/api/live?run=${encodeURIComponent(run)}${known}`).catch(() => null);
      if (found) {
        const label = view.address.stage;
        const mine = Object.values(found.stages).find((one) => one.label === label);
        if (Object.values(found.stages).some((one) => one.afresh)) { following = false; return load(); }
        if (mine?.step.length) for (const one of drawn) if (one.block.live) charts.extend(one.node.plot, mine);
        const still = Object.keys(found.stages);
        if (cursors && [...cursors.keys()].some((key) => !still.includes(key))) { following = false; return load(); }
        cursors = new Map(Object.entries(found.stages).map(([key, one]) => [key, one.cursor]));
        document.body.dataset.live = String(Number(document.body.dataset.live || 0) + 1);
      }
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
  following = false;
}

// --- theme, keys, token --------------------------------------------------------------------------------------------

const THEMES = ["", "light", "dark"];
function theme(next) {
  const now = store.get("theme") || "";
  const chosen = next ?? now;
  document.documentElement.dataset.theme = chosen;
  if (next !== undefined) store.set("theme", chosen);
  $("theme").textContent = chosen || "system";
  charts?.forgetColors();
  if (next !== undefined) for (const one of drawn) if (one.block.kind === "chart") charts.draw(one.node.plot, one.block, clicked);
}
const turn = () => theme(THEMES[(THEMES.indexOf(store.get("theme") || "") + 1) % THEMES.length]);
$("theme").addEventListener("click", turn);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(store.get("theme") || ""));

const KEYS = [["/", "filter"], ["t", "light or dark"], ["?", "this list"], ["↑ ↓", "rows of a table"], ["Enter", "open the row"], ["x", "choose the row"], ["g then a letter", "go to a page: its letter is in its title"]];
function help() {
  const pages = [...document.querySelectorAll("nav a")].map((one) => [one.title, one.textContent]);
  dialog("Keys", h("dl", { class: "keys" }, [...KEYS, ...pages].map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))));
}
$("help").addEventListener("click", help);

let going = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=checkbox]):not([type=range]), textarea, select")) return;
  if (going) {
    going = false;
    const to = [...document.querySelectorAll("nav a")].find((one) => one.title === `g ${event.key}`);
    if (to) to.click();
    return;
  }
  if (event.key === "g") going = true;
  else if (event.key === "/") document.querySelector("input[type=search]")?.focus();
  else if (event.key === "t") turn();
  else if (event.key === "?") help();
  else return;
  event.preventDefault();
});
addEventListener("popstate", load);

function signIn(message) {
  const field = h("input", { type: "password", autocomplete: "off", "aria-label": "token" });
  const form = h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); store.set("dashboard-token", field.value); load(); } }, field, h("button", {}, "Go on"));
  notice(message);
  $("blocks").replaceChildren(h("p", {}, "The token is that of LIFESPAN_TOKEN; it stays in this browser."), form);
  $("blocks").setAttribute("aria-busy", "false");
  field.focus();
}

theme();
load();
