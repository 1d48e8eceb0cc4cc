"use strict";
// The page's data, and what several of the other scripts use.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);

for (const cell of data.cells) {
  const row = data.rows[cell.row];
  const target = data.targets[cell.target];
  cell.id = `${row.id}@${target.name}`;
  cell.short = cell.word.slice(cell.word.indexOf("→") + 1); // what was observed, of `expected→observed`
  cell.red = cell.tone === "bad" || cell.tone === "infra";
  cell.text = [row.kind, row.group, row.name, target.name, cell.word, cell.why, cell.find].join(" ").toLowerCase();
}
const cellsById = new Map(data.cells.map((cell) => [cell.id, cell]));
const cellAt = new Map(data.cells.map((cell) => [`${cell.row} ${cell.target}`, cell]));
const arches = [...new Set(data.targets.map((target) => target.arch))];

const link = (cell) => `#cell=${encodeURIComponent(cell.id)}`;
const rowLink = (row) => `#row=${encodeURIComponent(row.id)}`;

// An element with properties and children. A child that is null or false is left out; text is never taken for HTML.
function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [event, does] of Object.entries(value)) made.addEventListener(event, does);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

// The sign of a tone: what tells it where its colour does not.
function sign(tone) {
  const SVG = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("class", "sign");
  made.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#sign-${tone}`);
  made.append(use);
  return made;
}

const CAN_UNPACK = typeof DecompressionStream === "function";
const unpacked = new Map();

// The text at a place of `data.stories` or `data.logs`. Blocks are unpacked when something of them is wanted first.
async function textAt(which, [block, place]) {
  const key = `${which} ${block}`;
  if (!unpacked.has(key)) unpacked.set(key, unpack(data[which][block]));
  return (await unpacked.get(key))[place];
}

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

// What is known of a cell: `steps` to read, `facts` to compare.
async function storyOf(cell) {
  return JSON.parse(await textAt("stories", cell.story));
}

const matches = (() => {
  const state = { words: [], tones: new Set(), arches: new Set() };
  const matching = (cell) =>
    (!state.tones.size || state.tones.has(cell.tone)) &&
    (!state.arches.size || state.arches.has(data.targets[cell.target].arch)) &&
    state.words.every((word) => cell.text.includes(word));
  return Object.assign(matching, { state });
})();
