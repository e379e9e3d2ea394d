// The editor of SQL: completion from the schema, history in this browser, rows as table or chart, files to keep.
import { ask, h, notice, say, save, store } from "./dom.js";
import { table } from "./table.js";

const WORDS = "SELECT FROM WHERE GROUP BY ORDER LIMIT JOIN LEFT USING WITH AS AND OR NOT IN IS NULL DISTINCT CASE WHEN THEN ELSE END count sum avg min max arg_max QUALIFY UNION ALL HAVING DESC".split(" ");

export function mount(place, data, { write }) {
  const area = h("textarea", { "aria-label": "SQL", spellcheck: "false", autocomplete: "off" });
  area.value = data.sql;
  const list = h("ul", { class: "suggest", role: "listbox", hidden: true });
  const fields = h("div", { class: "row" });
  const out = h("div");
  const told = h("span", { class: "muted", role: "status" });
  const names = [...Object.keys(data.schema), ...new Set(Object.values(data.schema).flatMap((one) => one.columns)), ...WORDS];
  let params = {};
  let answer = null;

  function parameters() {
    const wanted = [...new Set([...area.value.matchAll(/\$([A-Za-z_]\w*)/g)].map((found) => found[1]))];
    const named = data.named.find((one) => one.sql.trim() === area.value.trim());
    params = Object.fromEntries(wanted.map((name) => {
      const declared = named?.parameters.find((one) => one.name === name);
      return [name, params[name] ?? new URLSearchParams(location.search).get(`p_${name}`) ?? (declared?.default === "null" ? "" : declared?.default) ?? ""];
    }));
    fields.replaceChildren(...wanted.map((name) => h("label", {}, `$${name} `, h("input", { value: params[name], oninput: (event) => { params[name] = event.target.value; } }))));
  }

  async function run() {
    const given = Object.fromEntries(Object.entries(params).map(([name, value]) => [`p_${name}`, value]));
    write({ q: area.value, named: "", ...given }, false);
    told.textContent = "asking…";
    try {
      answer = await ask("/api/sql", { sql: area.value, params });
    } catch (error) {
      told.textContent = "";
      notice(error.message);
      finish();
      return;
    }
    notice("");
    const past = [area.value, ...(store.get("sql-history") || []).filter((one) => one !== area.value)].slice(0, 30);
    store.set("sql-history", past);
    history();
    told.textContent = `${answer.count.toLocaleString("en")} rows in ${answer.ms} ms` + (answer.count > answer.rows[answer.names[0]]?.length ? ", the first are shown" : "");
    rows();
    finish();
  }

  const finish = () => { document.body.dataset.ran = String(Number(document.body.dataset.ran || 0) + 1); };
  const numeric = (type) => /int|float|double|decimal/.test(type);

  function rows() {
    const columns = answer.names.map((name, i) => ({ name, label: name, format: answer.types[i].startsWith("timestamp") ? "time" : numeric(answer.types[i]) ? "number" : "text" }));
    if (!columns.length) return out.replaceChildren();
    const made = table({ title: "result", columns, rows: answer.rows, filter: true }, {}, () => {});
    const [x, y] = [answer.names.find((name) => !numeric(answer.types[answer.names.indexOf(name)])) || answer.names[0], answer.names.filter((_, i) => numeric(answer.types[i]))];
    const here = new URLSearchParams(location.search);
    const drawn = h("div", { class: "plot" });
    const choose = (name, options, value) => h("select", { "aria-label": name, onchange: (event) => { write({ [name]: event.target.value }, false); plot(); } }, options.map((one) => h("option", { value: one, selected: one === value }, one)));
    const kind = choose("chart", ["", "line", "bar", "points"], here.get("chart") || "");
    const xs = choose("x", answer.names, here.get("x") || (y.length > 1 ? y[0] : x));
    const ys = choose("y", y, here.get("y") || y[y.length - 1]);
    const by = choose("by", ["", ...answer.names], here.get("by") || "");
    async function plot() {
      drawn.hidden = !kind.value;
      if (!kind.value || !y.length) return;
      const charts = await import("./chart.js");
      const groups = new Map();
      answer.rows[xs.value].forEach((value, i) => {
        const name = by.value ? String(answer.rows[by.value][i]) : ys.value;
        if (!groups.has(name)) groups.set(name, { x: [], y: [] });
        groups.get(name).x.push(value);
        groups.get(name).y.push(answer.rows[ys.value][i]);
      });
      const traces = [...groups].slice(0, 40).map(([name, one], i) => ({ name, ...one, type: kind.value === "bar" ? "bar" : "scatter", mode: kind.value === "points" ? "markers" : "lines", marker: { color: `--run${i % 10}` }, line: { color: `--run${i % 10}` } }));
      const layout = { margin: { l: 64, r: 16, t: 8, b: 48 }, xaxis: { title: { text: xs.value } }, yaxis: { title: { text: ys.value } }, showlegend: groups.size > 1 };
      await charts.draw(drawn, { figure: { data: traces, layout }, height: 360 }, () => {});
    }
    const keep = async (kind) => {
      try {
        const file = await ask("/api/export", { sql: area.value, params, format: kind }, true);
        save(await file.blob(), `result.${kind}`);
        say(`result.${kind}`);
      } catch (error) { notice(error.message); }
    };
    out.replaceChildren(h("div", { class: "row" }, "chart ", kind, " x ", xs, " y ", ys, " by ", by, made.tools,
      h("button", { type: "button", onclick: () => keep("csv") }, "CSV"), h("button", { type: "button", onclick: () => keep("parquet") }, "Parquet")), drawn, made.node);
    plot();
  }

  // --- completion
  let matches = [];
  let at = 0;
  function suggest() {
    const word = area.value.slice(0, area.selectionStart).match(/[A-Za-z_]\w*$/)?.[0] || "";
    matches = word.length > 1 ? names.filter((one) => one.toLowerCase().startsWith(word.toLowerCase()) && one !== word).slice(0, 8) : [];
    at = 0;
    list.hidden = !matches.length;
    list.replaceChildren(...matches.map((one, i) => h("li", { role: "option", "aria-selected": String(i === at), onmousedown: (event) => { event.preventDefault(); take(i); } }, one)));
  }
  function take(i) {
    const before = area.value.slice(0, area.selectionStart).replace(/[A-Za-z_]\w*$/, matches[i]);
    area.value = before + area.value.slice(area.selectionStart);
    area.setSelectionRange(before.length, before.length);
    list.hidden = true;
  }
  area.addEventListener("input", () => { suggest(); parameters(); });
  area.addEventListener("blur", () => { list.hidden = true; });
  area.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") { event.preventDefault(); run(); return; }
    if (list.hidden) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      at = (at + (event.key === "ArrowDown" ? 1 : matches.length - 1)) % matches.length;
      [...list.children].forEach((one, i) => one.setAttribute("aria-selected", String(i === at)));
    } else if (event.key === "Tab") take(at);
    else if (event.key === "Escape") list.hidden = true;
    else return;
    event.preventDefault();
  });

  const fill = (sql, given = {}) => { area.value = sql; params = given; parameters(); run(); };
  const past = h("div");
  function history() {
    past.replaceChildren(...(store.get("sql-history") || []).slice(0, 12).map((sql) => h("button", { type: "button", class: "plain", title: sql, onclick: () => fill(sql) }, sql.replace(/\s+/g, " ").slice(0, 60))));
  }
  const schema = Object.entries(data.schema).map(([name, one]) => h("details", {}, h("summary", { title: one.about || null }, name),
    h("ul", {}, one.columns.map((column) => h("li", { title: one.meanings[column] || null }, column)))));
  const named = data.named.map((one) => h("details", { open: one.name === data.name }, h("summary", {}, one.name), h("p", { class: "muted" }, one.answers),
    h("button", { type: "button", onclick: () => fill(one.sql) }, "ask")));
  place.replaceChildren(
    h("aside", { "aria-label": "schema and named queries" }, h("h2", {}, "Tables and views"), schema, h("h2", {}, "Named queries"), named, h("h2", {}, "Asked before"), past),
    h("div", {}, h("div", { class: "editor" }, area, list), fields,
      h("div", { class: "row" }, h("button", { type: "button", class: "main", onclick: run }, "Run"), h("span", { class: "muted" }, "Ctrl-Enter; Tab completes"), told)), out);
  history();
  parameters();
  run();
}
