// Elements are made here alone. Whatever a run, a model or a person wrote becomes text, never markup.
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const store = {
  get: (key) => { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } },
  set: (key, value) => { try { localStorage.setItem(key, JSON.stringify(value)); } catch { /* private window */ } },
};

// Only addresses of this server become links: a value of a table must not lead elsewhere.
export function local(address) {
  return typeof address === "string" && address.startsWith("/") && !address.startsWith("//") ? address : null;
}

export function say(text) { document.getElementById("told").textContent = text; }

export function notice(text) {
  const box = document.getElementById("notice");
  box.textContent = text || "";
  box.hidden = !text;
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("copied");
  } catch {
    const area = h("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    say("copied");
  }
}

export function dialog(title, ...content) {
  const box = document.getElementById("dialog");
  const close = h("button", { type: "button", onclick: () => box.close() }, "Close");
  box.replaceChildren(h("div", { class: "head" }, h("h2", { id: "dialog-title" }, title), close), ...content);
  if (!box.open) box.showModal();
}

export async function ask(path, body, raw = false) {
  const headers = {};
  const token = store.get("dashboard-token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const options = { headers, cache: "no-store" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const error = new Error(said.error || `the server answered ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return raw ? answer : answer.json();
}

export function save(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The first view is asked for at once: the chart library, which is read meanwhile, takes longer than the answer.
export const first = ask(`/api/page/${document.documentElement.dataset.page}${location.search}`);
first.catch(() => {}); // whoever awaits it is told
