"""How the page looks: one column on a phone, two charts a row where there is room, black on white on paper."""

STYLE = """
:root { color-scheme: light; --ink: #1b1b1b; --soft: #595959; --line: #d9d9d9; --paper: #fff; --accent: #0b5fa5; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-bottom: .25rem; border-bottom: 2px solid var(--line); }
p { margin: .4rem 0; }
small, .soft { color: var(--soft); font-size: .85rem; font-weight: normal; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.6rem, 1fr)); gap: .5rem; margin: 1rem 0; }
.facts div { border: 1px solid var(--line); border-radius: .4rem; padding: .4rem .7rem; }
.facts dt { color: var(--soft); font-size: .8rem; }
.facts dd { margin: 0; font-size: 1.02rem; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; }
figcaption small::before { content: "("; } figcaption small::after { content: ")"; }
figure > svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--soft); }
svg .grid { stroke: var(--line); }
svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .2rem 0 0; padding: 0;
  font-size: .85rem; }
svg.key { width: 26px; height: 10px; margin-right: .4rem; } svg.key line { stroke-width: 2; }
.strips { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .7rem 1.2rem; }
.strips img { width: 100%; height: auto; display: block; }
.strips img.small { image-rendering: pixelated; }
.strips figcaption { font-weight: normal; font-size: .85rem; color: var(--soft); }
.picture img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
.columns td:first-child { overflow-wrap: normal; }
footer { margin-top: 2rem; color: var(--soft); font-size: .85rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, .facts div { break-inside: avoid; } h2 { break-after: avoid; }
  .charts, .columns, .strips { grid-template-columns: 1fr 1fr; }
  * { print-color-adjust: exact; }
}
"""
