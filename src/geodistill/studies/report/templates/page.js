"use strict";

// Tables. A click on a heading sorts the rows up, then down, and then puts them back as they were.
const UNITS = { k: 1e3, M: 1e6, B: 1e9, min: 60, h: 3600 };

function number(text) {
  const plain = text.trim().replaceAll(",", "").replaceAll("\u2212", "-").replace(/^[<>+]/, "");
  const found = /^(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?::(\d+))?\s*(k|M|B|min|h)?(?![A-Za-z])/.exec(plain);
  return found && (Number(found[1]) + Number(found[2] ?? 0) / 60) * (UNITS[found[3]] ?? 1);
}

function sort(table, place, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  rows.forEach((row, index) => { row.dataset.place ??= index; });
  const text = (row) => row.cells[place].textContent.trim();
  const missing = (row) => ["", "\u2013", "not finite"].includes(text(row));
  const numeric = rows.every((row) => missing(row) || number(text(row)) !== null);
  const compare = numeric
    ? (a, b) => number(text(a)) - number(text(b))
    : (a, b) => text(a).localeCompare(text(b), undefined, { numeric: true });
  rows.sort((a, b) => a.dataset.place - b.dataset.place);
  if (direction) rows.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : direction * compare(a, b)));
  body.append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  if (table.tBodies[0].rows.length < 2) continue;
  const headings = [...table.querySelectorAll("thead th[scope=col]")];
  const columns = table.tBodies[0].rows[0].cells.length;
  headings.forEach((heading, index) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[heading.ariaSort ?? "none"];
      for (const other of headings) other.removeAttribute("aria-sort");
      if (next !== "none") heading.setAttribute("aria-sort", next);
      sort(table, columns - headings.length + index, { ascending: 1, descending: -1, none: 0 }[next]);
    });
  });
}

// Paper cannot be clicked: what is folded is unfolded for the print, and folded again afterwards.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const each of unfolded) each.open = true;
});
addEventListener("afterprint", () => {
  for (const each of unfolded) each.open = false;
  unfolded = [];
});

// Plots. The script that draws them is unpacked first; the policy of the page lets no other one run.
const read = (name) => document.getElementById(name)?.textContent;
const settings = { responsive: true, displaylogo: false, displayModeBar: false };

async function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function draw() {
  const figures = Object.entries(JSON.parse(read("figures") ?? "{}"));
  if (!figures.length) return;
  const script = document.createElement("script");
  script.textContent = await unpack(read("plotly"));
  document.head.append(script);
  for (const [name, figure] of figures) await Plotly.newPlot(name, figure.data, figure.layout, settings);
  const fit = (within) => within.querySelectorAll(".plot").forEach((plot) => Plotly.Plots.resize(plot));
  document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", () => each.open && fit(each)));
  matchMedia("print").addEventListener("change", () => fit(document));
  document.documentElement.dataset.drawn = "yes";
}

draw().catch((error) => {
  console.error(error);
  for (const plot of document.querySelectorAll(".plot")) {
    plot.textContent = "This browser cannot draw the plot. The tables hold its numbers.";
  }
});
