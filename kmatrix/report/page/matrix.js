"use strict";
// The heat map: rows over targets, each cell a link to its story.

// How much of the cells' words is shown: `expected→observed`, what is observed alone, or the sign alone; then also one table for each arch.
const WAYS = [{ text: "word" }, { text: "short" }, {}, { apart: true }];

// All that matches the filter, in the first of these ways that the width has room for.
function drawMatrix() {
  const box = byId("matrix");
  const focused = document.activeElement?.closest("#matrix a.tile")?.dataset.cell;
  const shown = data.cells.filter(matches);
  const columns = data.targets.map((_, number) => number).filter((number) => shown.some((cell) => cell.target === number));
  const rows = data.rows.map((_, number) => number).filter((number) => shown.some((cell) => cell.row === number));
  const groups = arches.map((arch) => columns.filter((number) => data.targets[number].arch === arch)).filter((group) => group.length);
  box.replaceChildren(heat(rows, groups));
  for (const { text, apart } of WAYS) {
    box.className = { word: "", short: "snug" }[text] ?? "tight";
    box.style.setProperty("--letters", String(Math.max(...shown.map((cell) => cell[text]?.length ?? 0), 4)));
    if (apart) box.replaceChildren(...groups.map((group) => heat(rows, [group])));
    if ([...box.children].every((table) => table.scrollWidth <= table.clientWidth)) {
      box.classList.add("fits"); // then nothing scrolls sideways, and the heads can stay in sight
      break;
    }
  }
  if (!shown.length) box.replaceChildren(el("p", { class: "none" }, "No cell is like that. ", el("button", { type: "button", class: "quiet", on: { click: showAll } }, "Show all")));
  const again = focused && tileOf(cellsById.get(focused));
  const first = again || box.querySelector("a.tile:not(.out)");
  if (first) first.tabIndex = 0; // one stop for the tab key; arrow keys go on from there
  if (again) again.focus({ preventScroll: true });
  return shown;
}

function heat(rows, groups) {
  const columns = groups.flat();
  const there = rows.filter((row) => columns.some((column) => cellAt.has(`${row} ${column}`)));
  const body = el("tbody");
  let under = null;
  const headed = new Set(data.rows.map((row) => `${row.kind} ${row.group}`)).size > 1; // of one kind alone, the heading says nothing
  for (const number of there) {
    const row = data.rows[number];
    const head = `${row.kind} ${row.group}`;
    if (head !== under && headed) body.append(el("tr", { class: "kind" }, el("th", { scope: "rowgroup", colspan: String(columns.length + 1) }, el("span", {}, row.kind, row.group && el("code", {}, row.group)))));
    under = head;
    body.append(el("tr", {},
      el("th", { scope: "row" }, el("a", { href: rowLink(row), title: `${row.name}, side by side` }, row.name)),
      columns.map((column, place) => el("td", { class: begins(groups, place) && "begins" }, tile(cellAt.get(`${number} ${column}`))))));
  }
  const heads = groups.map((group, place) => el("th", { scope: "colgroup", colspan: String(group.length), class: place > 0 && "begins" }, data.targets[group[0]].arch));
  return el("div", { class: "scroll", role: "region", tabindex: "-1", "aria-label": `Cells on ${groups.map((group) => data.targets[group[0]].arch).join(" and ")}` },
    el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("td", { rowspan: "2" }), heads),
        el("tr", {}, columns.map((column, place) => el("th", { scope: "col", class: begins(groups, place) && "begins" }, kernelOf(data.targets[column]))))),
      body));
}

// Whether a column is the first of an arch, and not the first of all.
const begins = (groups, place) => place > 0 && groups.some((_, number) => groups.slice(0, number).flat().length === place);

const kernelOf = (target) => `${target.simulated ? "~" : target.real ? "@" : ""}${target.kernel}`;

function tile(cell) {
  if (!cell) return el("span", { class: "empty", title: "no record" }, el("span", { class: "hidden" }, "no record"));
  const name = `${data.rows[cell.row].name} on ${data.targets[cell.target].name}`;
  return el("a", {
    class: `tile ${cell.tone} ${matches(cell) ? "" : "out"}`, href: link(cell), tabindex: "-1", "data-cell": cell.id,
    title: `${name}\n${cell.word}: ${cell.why}`, "aria-label": `${name}: ${cell.red ? "not as promised, " : cell.tone === "warn" ? "warning, " : ""}${cell.word}`,
  }, sign(cell.tone), el("span", { class: "word" }, el("span", { class: "before" }, cell.word.slice(0, cell.word.length - cell.short.length)), cell.short));
}

// Arrow keys, Home and End move between cells.
function moveInMatrix(event) {
  const from = event.target.closest("a.tile");
  const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -Infinity], End: [0, Infinity] }[event.key];
  if (!from || !by || event.ctrlKey || event.metaKey || event.altKey) return;
  const lines = [...byId("matrix").querySelectorAll("tbody tr:not(.kind)")].map((line) => [...line.querySelectorAll("td")]);
  const cellsOf = (line) => line.map((place) => place.querySelector("a.tile"));
  let y = lines.findIndex((line) => line.includes(from.parentElement));
  let x = lines[y].indexOf(from.parentElement);
  event.preventDefault();
  if (Math.abs(by[1]) === Infinity) {
    const there = cellsOf(lines[y]).filter(Boolean);
    return focusTile(by[1] < 0 ? there[0] : there.at(-1));
  }
  for (;;) { // over places without a record
    y += by[0];
    x += by[1];
    const next = lines[y]?.[x];
    if (!next) return undefined;
    const found = next.querySelector("a.tile");
    if (found) return focusTile(found);
  }
}

function focusTile(found) {
  for (const other of byId("matrix").querySelectorAll('a.tile[tabindex="0"]')) other.tabIndex = -1;
  found.tabIndex = 0;
  found.focus();
}

const tileOf = (cell) => byId("matrix").querySelector(`a.tile[data-cell="${CSS.escape(cell.id)}"]`);

// What is red, each cause once, with the cells that have it and match the filter.
function drawFindings() {
  const items = data.findings.map(({ tone, text, cells }) => ({ tone, text, cells: cells.map((id) => cellsById.get(id)).filter(matches) })).filter(({ cells }) => cells.length);
  byId("findings").hidden = !items.length;
  byId("findings").replaceChildren(
    el("h2", { id: "findings-title" }, items.every(({ tone }) => tone === "warn") ? "Warnings, by cause" : "Not as promised, by cause"),
    el("ol", {}, items.map(({ tone, text, cells }) => el("li", {},
      el("p", { class: "cause" }, badge(tone, String(cells.length)), " ", el("strong", {}, text)),
      el("div", { class: "where" }, byRow(cells).map(([row, found]) => el("p", {}, el("a", { class: "row", href: rowLink(row) }, row.name), " ",
        found.map((cell) => [el("a", { class: "to", href: link(cell) }, data.targets[cell.target].name), " "]))))))));
}

function byRow(cells) {
  const found = new Map();
  for (const cell of cells) found.set(cell.row, [...(found.get(cell.row) ?? []), cell]);
  return [...found].map(([number, those]) => [data.rows[number], those]);
}

function drawUnread() {
  byId("unread").hidden = !data.bad.length;
  byId("unread").replaceChildren(el("h2", { id: "unread-title" }, "Not read"), ...data.bad.map(([file, why]) => el("p", {}, el("code", {}, file), `: ${why}`)));
}
