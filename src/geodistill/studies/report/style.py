"""How a report looks, in light and dark, on paper and on a phone; and the lines of script that draw its plots."""

CSS = """
:root {
  --page: #f6f7f9; --card: #ffffff; --ink: #1c2127; --soft: #566069;
  --line: #e0e4e8; --accent: #1f5fbf; --tint: #eef4fd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0e1115; --card: #161b21; --ink: #e8ecf0; --soft: #a3adb8;
    --line: #2b323a; --accent: #7db0ff; --tint: #1b2736;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: clamp(16px, 4vw, 48px) clamp(12px, 3vw, 32px); }
h1 { font-size: clamp(1.5rem, 4vw, 2.2rem); line-height: 1.2; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
.kind { color: var(--accent); font-weight: 600; font-size: .85rem; letter-spacing: .04em; margin: 0 0 .3rem; }
.lead { font-size: clamp(1.05rem, 2.4vw, 1.25rem); max-width: 60rem; margin: 0 0 1.6rem; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: clamp(14px, 2.5vw, 26px); margin: 0 0 1.2rem; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1.4rem; }
table { min-width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; }
thead th[scope=colgroup] { text-align: left; border-bottom: 0; padding-bottom: 0; font-size: .8rem; }
.first, thead th[scope=colgroup] { border-left: 1px solid var(--line); }
th[scope=row], thead tr:first-child > :first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); }
th[scope=row] { font-weight: 500; white-space: normal; min-width: 8.5rem; max-width: 20rem;
  overflow-wrap: anywhere; }
tr.teacher > * { color: var(--soft); }
tr.baseline > * { background: var(--tint); }
.legend { color: var(--soft); font-size: .86rem; padding-left: 1.1rem; margin: 1rem 0 0; max-width: 62rem; }
.legend li { margin: .2rem 0; overflow-wrap: anywhere; }
.key { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; margin: 0 0 .8rem;
  font-size: .9rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { color: var(--soft); font-size: .86rem; max-width: 62rem; overflow-wrap: anywhere; }
.grid figure { display: flex; flex-direction: column-reverse; }
.grid figcaption { color: var(--ink); font-weight: 600; }
details { border-top: 1px solid var(--line); padding: .7rem 0; }
details[open] summary { margin-bottom: .7rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow: auto; max-height: 30rem; font-size: .82rem; line-height: 1.45; background: var(--page); padding: 1rem;
  border-radius: 10px; margin: 0; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.plot text { fill: var(--soft) !important; }
.plot .gridlayer path { stroke: var(--line) !important; }
.plot .hoverlayer .hovertext path { fill: var(--card) !important; stroke: var(--soft) !important; }
.plot .hoverlayer text { fill: var(--ink) !important; }
.plot .modebar { background: none !important; }
.plot .modebar-btn path { fill: var(--soft) !important; }
noscript svg { max-width: 100%; height: auto; }
@media print { body { background: none; } section { break-inside: avoid; border: 0; padding: 0; } }
"""

SCRIPT = """
const settings = { responsive: true, displaylogo: false, displayModeBar: false };
for (const [name, figure] of Object.entries(JSON.parse(document.getElementById("figures").textContent))) {
  Plotly.newPlot(name, figure.data, figure.layout, settings);
}
"""
