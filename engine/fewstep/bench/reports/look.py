"""How the HTML page looks, and the little that moves on it: columns sort at a click, and pictures open."""

STYLE = """
:root { color-scheme: light dark; --ink: #23272e; --soft: #646b76; --line: #dfe2e7; --back: #ffffff; --band: #f5f6f8;
  --good: #15703a; --bad: #b3261e; --link: #1d4f91; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa2ae; --line: #363b44; --back: #16181d;
  --band: #1f2229; --good: #6fcf97; --bad: #ff8a80; --link: #8ab4f8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 4rem; color: var(--ink);
  background: var(--back); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: var(--link); } nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .8rem 0; }
.soft { color: var(--soft); font-size: .9rem; } .advice { border-left: 4px solid var(--good); padding: .5rem .9rem;
  background: var(--band); } .wrong { color: var(--bad); }
.wide { overflow: auto; max-height: 34rem; border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  overflow-wrap: normal; }
tr:last-child td { border-bottom: 0; } th { background: var(--band); vertical-align: bottom;
  position: sticky; top: 0; }
th.word, td.word { text-align: left; } tbody tr:hover { background: var(--band); }
th button { all: unset; cursor: pointer; white-space: normal; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.fast { color: var(--good); } td[title] { cursor: help; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; background: #fff; border-radius: .5rem;
  border: 1px solid var(--line); display: block; }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
.pictures figure { margin: 0; } details { margin: .8rem 0; } summary { cursor: pointer; color: var(--link); }
pre { background: var(--band); padding: .6rem .9rem; border-radius: .5rem; overflow-x: auto; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th").forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[place].dataset.value ?? row.cells[place].textContent;
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [one, two] = [value(a), value(b)];
      if (one === "" || two === "") return (one === "") - (two === "");
      const order = one !== "" && !isNaN(one) && !isNaN(two) ? one - two : one.localeCompare(two);
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""
