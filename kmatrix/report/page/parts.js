"use strict";
// One function for each form that a part of a story has (model.py). Another kind of row needs nothing here: its stories are made of these.

const say = ({ text, word, tone }) => el("p", { class: "say" }, word ? badge(tone, word) : null, word && text ? " " : null, text);

const badge = (tone, word) => el("span", { class: `badge ${tone ?? ""}` }, tone ? sign(tone) : null, word);

const pairs = ({ pairs: known }) => el("dl", {}, known.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));

function table({ title, heads, rows = [], bad = [] }) {
  const line = (cells, number) => el("tr", { class: bad.includes(number) && "marked" }, cells.map((text) => el("td", {}, text)));
  // A column in which nothing stands is not shown.
  const used = heads.map((_, column) => rows.some((cells) => cells[column]));
  const kept = (cells) => cells.filter((_, column) => used[column]);
  return el("div", { class: "facts" },
    el("h4", {}, title),
    rows.length > 0 && el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, el("table", {},
      el("thead", {}, el("tr", {}, kept(heads).map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, rows.map((cells, number) => line(kept(cells), number))))));
}

function finding({ kind, headline, of, places = [], said, fix, see, promised }) {
  return el("div", { class: `finding ${promised ? "promised" : ""}` },
    el("p", { class: "cause" }, el("span", { class: "kind" }, kind), " ", el("strong", {}, headline)),
    of && el("p", { class: "of" }, of),
    places.map(source),
    said && el("p", { class: "said" }, el("span", { class: "label" }, "said "), el("code", {}, said)),
    fix && el("p", { class: "fix" }, el("span", { class: "label" }, "What to do "), fix),
    see && el("p", { class: "of" }, `See ${see}`));
}

// A line of source, `text @ file:line`.
function source(place) {
  const at = place.lastIndexOf(" @ ");
  if (at < 0) return el("p", { class: "of" }, place);
  return el("figure", { class: "source" }, el("figcaption", {}, place.slice(at + 3)), el("code", {}, place.slice(0, at)));
}

// A log is unpacked when it is opened, and shown from its end: that is where it says what went wrong.
function log({ title, note, lines, text, mark }) {
  const pre = el("pre", { tabindex: "0", role: "group", "aria-label": title }, "…");
  const box = el("details", { class: "log" },
    el("summary", {}, el("span", {}, title), el("small", {}, [note, `${lines} line${lines === 1 ? "" : "s"}`].filter(Boolean).join(", "))),
    el("div", { class: "paper" }, copier(() => textAt("logs", text), "Copy the log"), pre));
  box.addEventListener("toggle", async () => {
    if (!box.open || pre.dataset.filled) return;
    pre.dataset.filled = "yes";
    pre.replaceChildren(...coloured(await textAt("logs", text), mark));
    pre.scrollTop = pre.scrollHeight;
  });
  return box;
}

const COLOURED = 20000; // lines: one element for each is slow beyond that

// Lines of source, which begin with a semicolon in a verifier's log, and the line with the words `mark`. The rest is as it was said.
function coloured(text, mark) {
  const lines = text.replace(/\n$/, "").split("\n");
  if (lines.length > COLOURED) return [text];
  const kind = (line) => (/^\s*; /.test(line) ? "of-source" : mark && line.includes(mark) ? "last-word" : null);
  return lines.map((line) => (kind(line) ? el("span", { class: kind(line) }, `${line}\n`) : `${line}\n`));
}

function bars({ stages, total }) {
  const shown = stages.filter(([, seconds]) => seconds >= 0.0005);
  const rest = total - stages.reduce((sum, [, seconds]) => sum + seconds, 0);
  if (rest >= 0.0005) shown.push(["the rest", rest]);
  const longest = Math.max(...shown.map(([, seconds]) => seconds), 0.001);
  return el("table", { class: "bars" },
    el("caption", {}, `${total.toFixed(2)} s in all`),
    el("tbody", {}, shown.map(([stage, seconds]) => {
      const bar = el("i", {});
      bar.style.setProperty("--part", `${(100 * seconds) / longest}%`);
      return el("tr", {}, el("th", { scope: "row" }, stage), el("td", { class: "bar", "aria-hidden": "true" }, bar), el("td", {}, `${seconds.toFixed(3)} s`));
    })));
}

const commands = ({ commands: all }) => el("div", { class: "commands" }, all.map(([what, text]) => command(what, text)));

const command = (what, text) => el("div", { class: "command" },
  el("p", { class: "label" }, what), el("div", { class: "paper" }, el("code", {}, text), copier(() => text, `Copy the command to ${what}`)));

// A button that copies a text, and says so.
function copier(text, label, shown = "Copy") {
  const button = el("button", { type: "button", class: "copy", "aria-label": label }, shown);
  button.addEventListener("click", async () => {
    const done = await copy(await text());
    button.textContent = done ? "Copied" : "Select it by hand";
    announce(done ? "Copied" : "This browser does not let the page copy");
    setTimeout(() => { button.textContent = shown; }, 1600);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // pages that are files may not use the clipboard in every browser
    const area = el("textarea", { class: "hidden", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

const FORMS = { say, pairs, table, finding, log, bars, commands };

const step = ({ title, parts }) => el("li", {}, el("h3", {}, title), parts.map((part) => FORMS[part.form](part)));

// For screen readers: what just happened, where nothing else tells it.
function announce(text) {
  byId("status").textContent = text;
}
