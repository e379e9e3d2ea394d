"use strict";
// The page holds three things in the storage of its origin: the token, the draft of the item before the annotator, and
// an outbox with the form that is on its way. A form leaves the outbox only when the server said that it is stored, so
// neither a reload nor a server that is away loses it; sent twice, it is stored once.

const $ = (id) => document.getElementById(id);
const store = {
  get: (key) => { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } },
  set: (key, value) => localStorage.setItem(key, JSON.stringify(value)),
  drop: (key) => localStorage.removeItem(key),
};
const ORDINALS = ["1st", "2nd", "3rd"];
const ordinal = (n) => ORDINALS[n - 1] || `${n}th`;

let page = null;      // what /api/next said last
let item = null;      // what is being judged
let form = null;      // {form, groups, steps, confidence, comment, seconds}; groups: shown positions by place, steps:
                      // the groups before each change, for undo
let tieNext = false;
let since = null;     // when the clock began to run, null while the page is hidden
let busy = false;
let dragged = null;

// -- asking the server ---------------------------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function ask(path, body) {
  const options = { headers: { Authorization: `Bearer ${store.get("token") || ""}` }, cache: "no-store" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const said = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Refused(answer.status, said.error || `the server answered ${answer.status}`);
  return said;
}

function notice(text, bad) {
  $("notice").textContent = text || "";
  $("notice").hidden = !text;
  $("notice").classList.toggle("bad", Boolean(bad));
}

function say(text) { $("told").textContent = text; }

function failed(error, retry) {
  if (error instanceof Refused && error.status === 401) return signIn(store.get("token") ? error.message : "");
  const away = !(error instanceof Refused) || error.status >= 500;
  const what = error instanceof Refused ? error.message : "the server does not answer";
  notice(away ? `${busy ? "Not stored yet: " : ""}${what}. Nothing is lost; trying again…` : what, true);
  if (away && retry) setTimeout(retry, 2000);
}

function only(id) {
  for (const part of ["login", "done", "work"]) $(part).hidden = part !== id;
}

// -- from one item to the next -------------------------------------------------------------------------------------

async function start() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    store.set("token", token);
    history.replaceState(null, "", location.pathname);
  }
  if (!store.get("token")) return signIn("");
  return deliver();
}

function signIn(message) {
  notice(message, true);
  $("me").hidden = $("progress").hidden = true;
  only("login");
  $("token").value = "";
  $("token").focus();
}

// Drafts and forms on their way belong to an annotator: another one who signs in here must not send them.
const mine = (what) => `${what}:${store.get("who")}`;

// Send what is in the outbox, then go on. Tried again until the server takes or refuses it.
async function deliver() {
  const waiting = store.get("who") && store.get(mine("outbox"));
  busy = Boolean(waiting);
  show();
  if (waiting) {
    try {
      await ask("api/judgements", waiting.body);
    } catch (error) {
      if (!(error instanceof Refused) || error.status >= 500) return failed(error, deliver);
      busy = false;
      failed(error);
      if (error.status === 401) return undefined;
      store.drop(mine("outbox"));  // it was refused: the draft is still there to be put right
      const draft = store.get(mine("draft"));
      if (draft) store.set(mine("draft"), { ...draft, form: fresh() });
      return next(true);
    }
    store.drop(mine("outbox"));
    store.drop(mine("draft"));
    say(waiting.body.places ? "Stored." : "Skipped.");
  }
  busy = false;
  return next();
}

async function next(keepNotice) {
  const draft = store.get("who") && store.get(mine("draft"));
  const wish = draft ? `?batch=${encodeURIComponent(draft.batch)}&item=${encodeURIComponent(draft.item_id)}` : "";
  try {
    page = await ask(`api/next${wish}`);
  } catch (error) {
    return failed(error, () => next());
  }
  if (!keepNotice) notice("");
  if (store.get("who") !== page.annotator) {  // somebody else than before, who may have left something here too
    store.set("who", page.annotator);
    return deliver();
  }
  header();
  if (!page.item) return finished();
  open(page.item, draft && draft.item_id === page.item.item_id ? draft : null);
}

function header() {
  $("me").hidden = $("progress").hidden = false;
  $("name").textContent = page.annotator;
  $("counts").textContent = `${page.mine} by you · ${page.done} of ${page.wanted} in all`;
  $("bar").style.width = `${page.wanted ? (100 * page.done) / page.wanted : 0}%`;
  for (const [name, value] of [["valuenow", page.done], ["valuemin", 0], ["valuemax", page.wanted]])
    $("track").setAttribute(`aria-${name}`, value);
}

function finished() {
  item = form = null;
  const others = page.wanted - page.done;
  $("thanks").textContent = !page.wanted
    ? "There is nothing to judge here yet. A run with preferences.source = \"people\" brings it."
    : `You judged ${page.mine}. ` + (others ? `${others} judgements are still with others.` : "All judgements are in. Thank you.");
  $("back").hidden = !page.previous;
  only("done");
}

const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

function open(found, draft) {
  item = found;
  tieNext = false;
  const before = found.before;
  form = draft || { form: fresh(), groups: [], steps: [], confidence: null, comment: "", seconds: 0 };
  if (before) {
    form.confidence = before.confidence;
    form.comment = before.comment;
    for (const [position, place] of (before.places || []).entries()) (form.groups[place - 1] ||= []).push(position);
  }
  only("work");
  const told = page.instructions;
  $("version").textContent = `version ${told.version} · ${told.sha256.slice(0, 12)}`;
  $("text").textContent = told.text;
  if (store.get("read") !== told.sha256) $("instructions").open = true;
  $("context").replaceChildren(...found.context.map((turn) => {
    const box = document.createElement("div"), who = document.createElement("b");
    box.className = "turn";
    who.textContent = turn.role;
    box.append(who, turn.content);
    return box;
  }));
  $("prompt").textContent = found.prompt;
  $("answers").replaceChildren(...found.answers.map(card));
  $("confidence").replaceChildren(...page.confidences.map((one) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "confidence";
    radio.value = one.value;
    radio.addEventListener("change", () => { form.confidence = one.value; changed(); });
    label.append(radio, one.name);
    return label;
  }));
  $("comment").value = form.comment;
  since = document.visibilityState === "visible" ? Date.now() : null;
  changed();
  scrollTo(0, 0);
}

function card(text, position) {
  const box = document.createElement("article"), pick = document.createElement("button"), said = document.createElement("p");
  box.className = "answer";
  box.draggable = true;
  box.dataset.position = position;
  pick.type = "button";
  pick.className = "pick";
  pick.append(String(position + 1), document.createElement("small"));
  said.textContent = text;
  box.append(pick, said);
  box.addEventListener("click", () => { if (!String(getSelection())) place(position); });
  drags(box, position);
  return box;
}

// -- ranking -------------------------------------------------------------------------------------------------------

const placeOf = (position) => form.groups.findIndex((group) => group.includes(position)) + 1;
const placed = () => form.groups.flat().length;

function change(groups) {
  form.steps.push(form.groups);
  form.groups = groups.filter((group) => group.length);
  changed();
}

function without(position) { return form.groups.map((group) => group.filter((one) => one !== position)); }

// The next place to an answer; an answer that has one gives it back.
function place(position) {
  if (!form || busy || position >= item.answers.length) return;
  if (placeOf(position)) {
    change(without(position));
    return say(`Answer ${position + 1} is no longer placed.`);
  }
  const groups = form.groups.map((group) => [...group]);
  if (tieNext && groups.length) groups[groups.length - 1].push(position);
  else groups.push([position]);
  tieNext = false;
  change(groups);
  say(`Answer ${position + 1} is ${ordinal(placeOf(position))}.`);
}

function moveTo(position, place, tie) {
  if (busy) return;
  const groups = without(position);
  if (tie) groups[place].push(position);
  else groups.splice(place, 0, [position]);
  change(groups);
  say(`Answer ${position + 1} is ${ordinal(placeOf(position))}.`);
}

function tie() {
  if (!form || busy || !placed() || placed() === item.answers.length) return;
  tieNext = !tieNext;
  show();
  say(tieNext ? "The next answer ties with the last one." : "No tie.");
}

function undo() {
  if (busy) return;
  if (form && form.steps.length) {
    form.groups = form.steps.pop();
    tieNext = false;
    changed();
    return say("Taken back.");
  }
  goBack();
}

async function goBack() {
  const last = page && page.previous;
  if (!last || (item && item.item_id === last.item_id)) return say("There is nothing to take back.");
  try {
    const found = await ask(`api/item?batch=${encodeURIComponent(last.batch)}&item=${encodeURIComponent(last.item_id)}`);
    store.drop(mine("draft"));
    open(found, null);
    notice("This is the one before. What you submit now takes the place of what you said.");
  } catch (error) {
    failed(error);
  }
}

// The last answer that is left needs no key: it comes last.
function complete() {
  const left = item.answers.map((_, position) => position).filter((position) => !placeOf(position));
  if (left.length > 1) return null;
  const groups = form.groups.map((group) => [...group]);
  if (left.length) {
    if (tieNext) groups[groups.length - 1].push(left[0]);
    else groups.push(left);
  }
  return groups;
}

function submit(skip) {
  if (!form || busy) return;
  const groups = skip ? null : complete();
  if (!skip && !groups) return say(hint());
  const places = groups && item.answers.map((_, position) => groups.findIndex((group) => group.includes(position)) + 1);
  stopClock();
  store.set("read", page.instructions.sha256);
  $("instructions").open = false;
  store.set(mine("outbox"), {
    body: {
      form: form.form,
      batch: item.batch,
      item_id: item.item_id,
      places,
      confidence: form.confidence,
      comment: form.comment,
      seconds: form.seconds,
      instructions_sha256: page.instructions.sha256,
    },
  });
  deliver();
}

function hint() {
  const left = item.answers.length - placed();
  if (left > 1) return placed() ? `${left} answers have no place yet` : `press 1 to ${item.answers.length}, best first`;
  return left ? "the one that is left comes last" : "";
}

// -- showing -------------------------------------------------------------------------------------------------------

function changed() {
  keep();
  show();
}

function show() {
  if (!form || !item) return;
  for (const box of $("answers").children) {
    const position = Number(box.dataset.position), place = placeOf(position), pick = box.firstChild;
    box.classList.toggle("placed", Boolean(place));
    pick.setAttribute("aria-pressed", Boolean(place));
    pick.setAttribute("aria-label", `Answer ${position + 1}, ${place ? `placed ${ordinal(place)}` : "not placed"}`);
    pick.lastChild.textContent = place ? ordinal(place) : "";
  }
  const parts = [];
  form.groups.forEach((group, index) => {
    parts.push(gap(index, index ? "›" : ""));
    const box = document.createElement("li"), name = document.createElement("small");
    box.className = "place";
    name.textContent = ordinal(index + 1);
    box.append(name, ...group.map((position) => chip(position, index + 1)));
    drops(box, (position) => moveTo(position, index, true));
    parts.push(box);
  });
  parts.push(gap(form.groups.length, placed() === item.answers.length ? "" : tieNext ? "= the next one ties" : "next place", true));
  $("places").replaceChildren(...parts);
  for (const radio of $("confidence").querySelectorAll("input")) radio.checked = Number(radio.value) === form.confidence;
  $("tie").setAttribute("aria-pressed", tieNext);
  $("tie").disabled = busy || !placed() || placed() === item.answers.length;
  $("submit").disabled = busy || item.answers.length - placed() > 1;
  $("undo").disabled = busy || !(form.steps.length || page.previous);
  $("skip").disabled = busy;
  $("hint").textContent = busy ? "storing…" : hint();
}

function gap(index, text, last) {
  const box = document.createElement("li");
  box.className = last ? "gap last" : "gap";
  box.setAttribute("role", "presentation");
  box.textContent = text;
  drops(box, (position) => moveTo(position, index, false));
  return box;
}

function chip(position, place) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.draggable = true;
  button.textContent = position + 1;
  button.setAttribute("aria-label", `Answer ${position + 1}, ${ordinal(place)}: take it out`);
  button.addEventListener("click", () => placeOf(position) && !busy && (change(without(position)), say(`Answer ${position + 1} is no longer placed.`)));
  drags(button, position);
  return button;
}

function drags(box, position) {
  box.addEventListener("dragstart", (event) => {
    dragged = position;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", String(position + 1));
    box.classList.add("dragged");
  });
  box.addEventListener("dragend", () => { dragged = null; box.classList.remove("dragged"); });
}

function drops(box, then) {
  box.addEventListener("dragover", (event) => {
    if (dragged === null) return;
    event.preventDefault();
    box.classList.add("over");
  });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    const position = dragged;
    dragged = null;
    if (position !== null) then(position);
  });
}

// -- drafts and the clock ------------------------------------------------------------------------------------------

function stopClock() {
  if (since !== null) form.seconds += (Date.now() - since) / 1000;
  since = null;
}

function keep() {
  if (!form || !item || busy) return;
  if (since !== null) {
    stopClock();
    since = Date.now();
  }
  store.set(mine("draft"), { ...form, batch: item.batch, item_id: item.item_id });
}

document.addEventListener("visibilitychange", () => {
  if (!form) return;
  if (document.visibilityState === "visible") since = Date.now();
  else { keep(); stopClock(); keep(); }
});
addEventListener("pagehide", keep);
setInterval(keep, 5000);

// -- keys and buttons ----------------------------------------------------------------------------------------------

document.addEventListener("keydown", (event) => {
  if (!form || $("work").hidden || event.altKey || event.metaKey) return;
  const writing = event.target.matches("textarea, input[type=password]");
  if (writing) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.ctrlKey) { event.preventDefault(); submit(false); }
    return;
  }
  if (event.ctrlKey) return;
  const elsewhere = event.target.matches("summary, #undo, #skip, #tie, #leave");
  const actions = {
    "=": tie,
    s: () => submit(true),
    u: undo,
    n: () => $("comment").focus(),
    c: () => {
      const values = page.confidences.map((one) => one.value);
      form.confidence = values[(values.indexOf(form.confidence) + 1) % values.length];
      changed();
      say(page.confidences.find((one) => one.value === form.confidence).name);
    },
    Enter: elsewhere ? null : () => submit(false),
  };
  const action = /^[1-9]$/.test(event.key) ? () => place(Number(event.key) - 1) : actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});

$("comment").addEventListener("input", () => { form.comment = $("comment").value; changed(); });
$("submit").addEventListener("click", () => submit(false));
$("skip").addEventListener("click", () => submit(true));
$("tie").addEventListener("click", tie);
$("undo").addEventListener("click", undo);
$("again").addEventListener("click", () => next());
$("back").addEventListener("click", goBack);
$("leave").addEventListener("click", () => { keep(); store.drop("token"); item = form = null; signIn(""); });
$("instructions").addEventListener("toggle", () => { if (!$("instructions").open && page) store.set("read", page.instructions.sha256); });
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  store.set("token", $("token").value.trim());
  deliver();
});
start();
