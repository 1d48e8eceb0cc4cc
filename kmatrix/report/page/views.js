"use strict";
// A cell's story, beside the table or over it; and a row's cells side by side.

let openCell = null;
let openRow = null;

async function showStory(cell) {
  if (openCell === cell) return undefined;
  openCell = cell;
  const row = data.rows[cell.row];
  const target = data.targets[cell.target];
  const title = el("h2", { id: "story-title", tabindex: "-1" }, row.name, el("small", {}, ` on ${target.name}`));
  const steps = el("ol", { class: "steps" });
  byId("story").replaceChildren(
    el("div", { class: "buttons" },
      el("a", { class: "quiet", href: rowLink(row) }, "Side by side"),
      copier(() => `${location.href.split("#")[0]}${link(cell)}`, "Copy a link to this cell", "Copy link"),
      el("button", { type: "button", class: "quiet print", on: { click: () => print() } }, "Print"),
      cell.red && data.cells.filter((other) => other.red).length > 1 && el("button", { type: "button", class: "quiet", on: { click: () => nextRed(1) } }, "Next red"),
      el("button", { type: "button", class: "quiet close", "aria-label": "Close the story", on: { click: close } }, "Close")),
    title,
    el("p", { class: "verdict" }, badge(cell.tone, cell.word), target.simulated && el("small", {}, " simulated kernel"), target.real && el("small", {}, " real machine")),
    strip(row, cell),
    steps);
  byId("story").hidden = false;
  document.body.classList.add("reading");
  document.title = `${cell.id}: ${cell.word} (kmatrix)`;
  markOpen();
  fit();
  byId("story").scrollTop = 0;
  title.focus();
  if (!CAN_UNPACK) return steps.replaceChildren(...without(cell));
  const { steps: found } = await storyOf(cell);
  if (openCell === cell) steps.replaceChildren(...found.map(step));
  return undefined;
}

// Where the browser cannot unpack: what stands in the table's own data.
const without = (cell) => [
  step({ title: "Reason", parts: [{ form: "say", text: cell.why }] }),
  step({ title: "Reproduce", parts: [{ form: "commands", commands: [["run this cell again", cell.reproduce]] }] }),
  el("li", {}, el("h3", {}, "Not shown"), el("p", { class: "say" }, "The story and the logs are in this page, and compressed. This browser cannot unpack them: it has no DecompressionStream (Chrome 80, Firefox 113, Safari 16.4). The cell's record has all of it.")),
];

function hideStory() {
  if (!openCell) return;
  const was = openCell;
  openCell = null;
  byId("story").hidden = true;
  document.body.classList.remove("reading");
  document.title = `kmatrix: ${document.querySelector("h1").textContent}`;
  markOpen();
  fit();
  if (tileOf(was)) focusTile(tileOf(was));
}

function markOpen() {
  for (const other of document.querySelectorAll("[aria-current]")) if (!byId("story").contains(other)) other.removeAttribute("aria-current");
  if (openCell) tileOf(openCell)?.setAttribute("aria-current", "true");
}

// The row on all targets, small, to go from one to the other.
function strip(row, current) {
  const cells = data.cells.filter((cell) => data.rows[cell.row] === row);
  const line = (arch) => el("tr", {}, el("th", { scope: "row" }, arch), cells.filter((cell) => data.targets[cell.target].arch === arch).map((cell) => {
    const kernel = kernelOf(data.targets[cell.target]);
    const at = el("a", { class: `chip ${cell.tone}`, href: link(cell), title: `${cell.word}: ${cell.why}`, "aria-label": `${data.targets[cell.target].name}: ${cell.word}`, "aria-current": cell === current && "true" }, sign(cell.tone), kernel);
    return el("td", {}, at);
  }));
  return el("table", { class: "strip", "aria-label": `${row.name} on all targets` }, el("tbody", {}, arches.filter((arch) => cells.some((cell) => data.targets[cell.target].arch === arch)).map(line)));
}

// One row, its cells beside each other: a line for each fact that differs, or for all.
async function showRow(row) {
  if (openRow === row) return undefined;
  openRow = row;
  const cells = data.cells.filter((cell) => data.rows[cell.row] === row);
  const box = byId("compare");
  const all = el("input", { type: "checkbox", id: "compare-all" });
  const place = el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${row.name} side by side` });
  box.hidden = false;
  byId("tools").hidden = byId("matrix").hidden = byId("findings").hidden = true;
  box.replaceChildren(
    el("div", { class: "buttons" }, el("a", { class: "quiet", href: "#" }, "← All cells"), el("label", {}, all, " also what is the same everywhere")),
    el("h2", { id: "compare-title", tabindex: "-1" }, row.name, el("small", {}, " side by side")), place);
  if (!CAN_UNPACK) return place.replaceChildren(...cells.map((cell) => el("p", {}, el("a", { href: link(cell) }, data.targets[cell.target].name), ` ${cell.word}: ${cell.why}`)));
  const facts = await Promise.all(cells.map(async (cell) => (await storyOf(cell)).facts ?? {}));
  const draw = () => place.replaceChildren(compared(row, cells, facts, all.checked));
  all.addEventListener("change", draw);
  draw();
  byId("compare-title").focus();
  return undefined;
}

function compared(row, cells, facts, all) {
  const names = [...new Set(facts.flatMap((known) => Object.keys(known)))];
  const lines = names.map((name) => ({ name, values: facts.map((known) => known[name] ?? "") })).filter(({ values }) => all || new Set(values).size > 1);
  const head = el("tr", {}, el("td", {}), cells.map((cell) => {
    const target = data.targets[cell.target];
    return el("th", { scope: "col" }, el("a", { class: `tile ${cell.tone}`, href: link(cell), "aria-label": `${row.name} on ${target.name}: ${cell.word}` }, sign(cell.tone), el("span", { class: "word" }, cell.word)), el("span", { class: "target" }, kernelOf(target), el("small", {}, target.arch)));
  }));
  const greens = cells.map((cell, number) => number).filter((number) => !cells[number].red);
  const mixed = greens.length > 0 && greens.length < cells.length;
  // Where some cells are red and some are not, what only red ones have is marked; else what is unlike most.
  const marks = ({ name, values }) => {
    if (RUNNING.test(name)) return () => false;
    if (mixed) return (number) => cells[number].red && !greens.some((green) => values[green] === values[number]);
    const usual = mostOften(values);
    return (number) => values[number] !== usual;
  };
  return el("table", { class: "compared" },
    el("caption", {}, el("span", { class: "other" }, "Marked"), mixed ? " is what only red cells have." : " is what is unlike most."),
    el("thead", {}, head),
    el("tbody", {}, lines.map((line) => {
      const marked = marks(line);
      return el("tr", {}, el("th", { scope: "row" }, line.name), line.values.map((value, number) => el("td", { class: marked(number) && "other" }, value)));
    })));
}

const RUNNING = /^(seconds|kernel release)$/; // these are different everywhere, which says nothing

function mostOften(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort((one, other) => other[1] - one[1])[0][0];
}

function hideRow() {
  openRow = null;
  byId("compare").hidden = true;
  byId("tools").hidden = byId("matrix").hidden = false;
}

// The next red cell after the open one, or before it.
function nextRed(by) {
  const reds = data.cells.filter((cell) => cell.red && matches(cell));
  if (!reds.length) return;
  const at = reds.indexOf(openCell);
  location.hash = link(reds[at < 0 ? (by > 0 ? 0 : reds.length - 1) : (at + by + reds.length) % reds.length]);
}
