"""The page's style sheet. Colours are variables, so that figures follow the reader's light or dark scheme."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --raised: #f4f4f1; --ink: #1b1c1e; --soft: #63666b; --rule: #dedfdb; --grid: #e9eae6;
  --run: #1f5fbf; --random: #8d9197; --pixels: #c98a1b; --good: #14804a; --bad: #c0392b;
  --s0: #1f5fbf; --s1: #c2571a; --s2: #14804a; --s3: #8a4fb0;
  --s4: #a8861a; --s5: #b03a6b; --s6: #3b8f9e; --s7: #63666b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16171a; --raised: #1f2125; --ink: #e8e8e5; --soft: #a0a4ab; --rule: #34373d; --grid: #292c31;
    --run: #7db0ff; --random: #8b9099; --pixels: #e0aa4a; --good: #4fc98a; --bad: #ff7a6b;
    --s0: #7db0ff; --s1: #f0955c; --s2: #4fc98a; --s3: #c79af0;
    --s4: #d9bd5a; --s5: #ef8ab5; --s6: #6fc7d6; --s7: #a0a4ab;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
}
main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1.25rem; }
header { margin: 3rem 0 0; }
h1 {
  font-size: 1.75rem; line-height: 1.2; font-weight: 650;
  letter-spacing: -.01em; margin: 0; overflow-wrap: anywhere;
}
h2 { font-size: 1.2rem; line-height: 1.3; font-weight: 650; margin: 0 0 .35rem; }
h3 { font-size: .9rem; font-weight: 600; margin: 0 0 .35rem; }
p { margin: 0 0 .75rem; }
section { margin: 3rem 0 0; padding-top: 1.25rem; border-top: 1px solid var(--rule); }
.subtitle { color: var(--soft); margin: .35rem 0 0; overflow-wrap: anywhere; }
.verdict { margin: 1.75rem 0 0; padding: 1.1rem 1.25rem; background: var(--raised); border-left: 3px solid var(--run); }
.verdict p { margin: 0; font-size: 1.1rem; line-height: 1.5; max-width: 46rem; }
.verdict ul { margin: .6rem 0 0; padding-left: 1.1rem; }
.verdict li { margin: .2rem 0; max-width: 46rem; }
.verdict.warn { border-left-color: var(--bad); }
.caption, figcaption { color: var(--soft); font-size: .925rem; max-width: 44rem; margin: 0 0 1rem; }
.missing { color: var(--soft); font-style: italic; }

dl.facts { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .3rem 1.5rem; margin: 0 0 1rem; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin: .5rem 0 0; }
summary { cursor: pointer; color: var(--soft); }
summary:hover { color: var(--ink); }
pre {
  margin: .5rem 0 0; padding: .8rem 1rem; background: var(--raised); overflow: auto; max-height: 26rem;
  font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
}

.scroll { overflow-x: auto; }
table {
  border-collapse: collapse; font-variant-numeric: tabular-nums;
  margin: 0 0 1.25rem; min-width: min(100%, 34rem);
}
th, td {
  padding: .32rem 0 .32rem 1.75rem; text-align: right;
  white-space: nowrap; border-bottom: 1px solid var(--grid);
}
th:first-child, td:first-child { padding-left: 0; text-align: left; white-space: normal; }
thead th {
  color: var(--soft); font-weight: 500; font-size: .875rem; border-bottom-color: var(--rule); vertical-align: bottom;
}
tbody th { font-weight: 400; }
td.best { font-weight: 650; }
tr.task th { font-weight: 600; padding-top: .9rem; }
.hidden { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }

.charts {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17.5rem), 1fr)); gap: 1.25rem 1.5rem;
}
.chart { min-width: 0; }
.chart svg { display: block; width: 100%; height: auto; max-width: 26rem; overflow: visible; }
.bars { grid-template-columns: repeat(auto-fill, minmax(min(100%, 12rem), 1fr)); margin: .75rem 0 1.75rem; }
.chart.bar svg { max-width: 19rem; }
.bars small { display: block; font-weight: 400; color: var(--soft); font-size: .8rem; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .85rem; color: var(--soft); margin: .25rem 0 0; }
.legend span { white-space: nowrap; }
.legend i { display: inline-block; width: .85rem; height: .2rem; margin-right: .4rem; vertical-align: middle; }

img { display: block; width: 100%; height: auto; background: var(--raised); }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem 1.75rem; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 3px; margin: 0; }
.retrieval {
  display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 1.75rem;
}
.query { display: grid; grid-template-columns: 1fr 4fr; gap: .75rem; margin: 0; align-items: start; }
.query .name { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; line-height: 1.3; margin: .3rem 0 0; }
.rows { display: grid; gap: .5rem; }
.five { grid-template-columns: repeat(5, minmax(0, 1fr)); grid-auto-flow: row; }
.same { outline: 2px solid var(--good); outline-offset: -2px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1.5rem; }
.pairs figure { margin: 0; }
.pairs svg { display: block; width: 100%; height: auto; }
.pairs figcaption {
  font-size: .85rem; margin: .35rem 0 0;
  overflow-wrap: anywhere; font-variant-numeric: tabular-nums;
}
.pairs figcaption b { color: var(--ink); font-weight: 600; }
.hit { stroke: #22c36b; } .miss { stroke: #ff4b3e; stroke-dasharray: 5 4; }
.pairs line { stroke-width: 1.6; stroke-linecap: round; } .pairs circle { stroke-width: 1.2; fill: #fff; }
footer { color: var(--soft); font-size: .85rem; margin-top: 3rem; padding-bottom: 3rem; }
@media (max-width: 40rem) {
  main, footer { padding: 0 1rem; }
  header { margin-top: 1.75rem; }
  h1 { font-size: 1.4rem; }
  section { margin-top: 2.25rem; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin: 0 0 .5rem; }
  th, td { padding-left: .75rem; font-size: .9rem; }
  thead th { white-space: normal; font-size: .75rem; line-height: 1.25; }
  table { width: 100%; }
}
@media print { section { break-inside: avoid-page; } details { display: none; } }
"""
