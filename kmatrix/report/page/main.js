"use strict";
// The address says what is open (#cell=openat@5.4-arm64, #row=openat, #q=words, #show=bad,infra); the rest is wired here.

function route() {
  const hash = location.hash.slice(1);
  const asked = new URLSearchParams(hash);
  const named = hash.includes("=") ? asked.get("cell") : decodeURIComponent(hash); // pages of kmatrix 0.1 had #openat@5.4-arm64
  theme.fromAddress();
  nameTheme();
  if (asked.has("q") || asked.has("show")) fill(asked.get("q") ?? "", (asked.get("show") ?? "").split(","));
  const row = data.rows.find(({ id }) => id === asked.get("row"));
  const cell = cellsById.get(named);
  if (row || !cell || (openRow && data.rows[cell.row] !== openRow)) hideRow();
  if (row || !cell) hideStory();
  if (row) showRow(row);
  else if (cell) showStory(cell);
  else draw();
  if (named && named.includes("@") && !cell) announce(`There is no cell ${named} in this report`);
}

function close() {
  history.pushState(null, "", openRow ? rowLink(openRow) : "#");
  hideStory();
}

function draw() {
  const shown = drawMatrix();
  drawFindings();
  drawUnread();
  if (openRow) byId("findings").hidden = true;
  markOpen();
  const { words, tones, arches: some } = matches.state;
  const filtered = words.length || tones.size || some.size;
  byId("everything").hidden = !filtered;
  announce(filtered ? `${shown.length} of ${data.cells.length} cells` : "");
}

// The story lies over the page where there is no room beside it: then nothing under it is to be reached.
const NARROW = matchMedia("(max-width: 68rem)");
function fit() {
  byId("main").inert = NARROW.matches && openCell !== null;
  if (!byId("matrix").hidden) { drawMatrix(); markOpen(); }
}

// The filter.

function choice(name, value, label, tone, count) {
  const box = el("input", { type: "checkbox", name, value, on: { change: filter } });
  return el("label", { class: `choice ${tone ?? ""}` }, box, tone ? sign(tone) : null, label, count !== undefined && el("b", {}, String(count)));
}

function filter() {
  const chosen = (name) => new Set([...byId("tools").querySelectorAll(`input[name=${name}]:checked`)].map((box) => box.value));
  matches.state.words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  matches.state.tones = chosen("tone");
  matches.state.arches = chosen("arch");
  const address = new URLSearchParams();
  if (openCell) address.set("cell", openCell.id);
  if (byId("find").value) address.set("q", byId("find").value);
  if (matches.state.tones.size) address.set("show", [...matches.state.tones].join());
  history.replaceState(null, "", `#${address}`);
  draw();
}

function fill(words, tones) {
  byId("find").value = words;
  for (const box of byId("tools").querySelectorAll("input[name=tone]")) box.checked = tones.includes(box.value);
  matches.state.words = words.toLowerCase().split(/\s+/).filter(Boolean);
  matches.state.tones = new Set(tones.filter(Boolean));
}

function showAll() {
  byId("tools").reset();
  filter();
}

function nameTheme() {
  byId("theme").textContent = { auto: "Colours: as the system", light: "Colours: light", dark: "Colours: dark" }[theme.chosen];
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && openCell) return close();
  if (event.target.matches("input, textarea")) return undefined;
  if (event.key === "n" || event.key === "p") return nextRed(event.key === "n" ? 1 : -1);
  if (event.key === "/") { event.preventDefault(); byId("find").focus(); }
  return undefined;
}

function start() {
  const count = (tone) => data.cells.filter((cell) => cell.tone === tone).length;
  byId("tools").hidden = false;
  byId("tones").append(...data.tones.map(([tone, label]) => choice("tone", tone, label, tone, count(tone))));
  if (arches.length > 1) byId("arches").append(...arches.map((arch) => choice("arch", arch, arch)));
  byId("share").append(...data.tones.map(([tone]) => {
    const part = el("i", { class: tone });
    part.style.setProperty("--part", String(count(tone)));
    return part;
  }));
  byId("foot").append(
    el("details", {}, el("summary", {}, "How this was run"), pairs({ pairs: data.run })),
    el("p", {}, data.targets.some((target) => target.simulated) && "~ is a simulated kernel: a newer one with features hidden. ",
      data.targets.some((target) => target.real) && "@ is a real machine, and no VM. ",
      "Keys: arrows move between cells, Enter opens, Esc closes, n and p go to the next and the previous red cell, / searches."));
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("tools").addEventListener("reset", () => setTimeout(filter));
  byId("find").addEventListener("input", filter);
  byId("matrix").addEventListener("keydown", moveInMatrix);
  byId("theme").addEventListener("click", () => { theme.next(); nameTheme(); });
  document.addEventListener("keydown", keys);
  addEventListener("hashchange", route);
  addEventListener("popstate", route);
  for (const [event, paper] of [["beforeprint", true], ["afterprint", false]]) addEventListener(event, () => { document.body.classList.toggle("on-paper", paper); fit(); });
  let width = 0; // a change of height alone, as a phone's bars make it, draws nothing anew
  new ResizeObserver(() => { if (byId("main").clientWidth !== width) { width = byId("main").clientWidth; fit(); } }).observe(byId("main"));
  draw();
  route();
}

start();
