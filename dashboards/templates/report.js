"use strict";
// Tables are sorted by a click on a heading, and copied as tab-separated text. Without this script nothing is missing.

const UNITS = { k: 1e3, M: 1e6, B: 1e9, T: 1e12, P: 1e15, E: 1e18, kB: 1e3, MB: 1e6, GB: 1e9, kWh: 1e3, h: 3600, min: 60 };

// "11 min 04 s" is 664; of "80.3% [75.4, 84.4]" the first number counts.
function number(text) {
  const [first, second] = text.replaceAll(",", "").replaceAll("−", "-").matchAll(/(-?[\d.]+(?:e-?\d+)?) ?([a-zA-Z]*)/g);
  if (!first) return null;
  const value = ([, digits, unit]) => parseFloat(digits) * (UNITS[unit] || 1);
  return value(first) + (second && ["h", "min"].includes(first[2]) ? value(second) : 0);
}

function sort(table, column, heading) {
  const numeric = heading.classList.contains("r");
  const order = heading.getAttribute("aria-sort") || (numeric ? "ascending" : "descending");
  const sign = order === "ascending" ? -1 : 1; // the other way than now; numbers first from the greatest
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.cells[column].textContent.trim()]);
  rows.sort(([, a], [, b]) => {
    if (!numeric) return sign * a.localeCompare(b);
    const [x, y] = [number(a), number(b)];
    if (x === null || y === null) return (x === null) - (y === null); // what was not measured stays last
    return sign * (x - y);
  });
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  table.tBodies[0].append(...rows.map(([row]) => row));
}

async function copy(button, text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement("textarea"); // a page from a file may have no clipboard of its own
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

function copyButton(text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", () => copy(button, text()));
  return button;
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.title = "sort by this column";
    button.addEventListener("click", () => sort(table, column, heading));
    heading.replaceChildren(button);
  });
  const text = () => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n");
  table.parentElement.after(copyButton(text));
}
for (const code of document.querySelectorAll(".commands code")) code.after(copyButton(() => code.textContent));
// A link to a part that is folded opens it.
function unfold() {
  const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
}
addEventListener("hashchange", unfold);
unfold();
