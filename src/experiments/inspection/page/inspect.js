"use strict";
// It draws the tables that are in the page as JSON. Texts are strangers': they become text nodes,
// never markup.

const data = JSON.parse(document.getElementById("_data").textContent);
const $ = (id) => document.getElementById(id);
const ready = []; // what is drawn again for another layer
let layer = data.layers[0];

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const whole = (n) => n.toLocaleString("en");
const percent = (share) => `${Number((100 * share).toPrecision(3))} %`;
const digits = (x) => (x === null ? "–" : x !== 0 && (Math.abs(x) < 0.01 || Math.abs(x) >= 1e4)
  ? x.toExponential(1) : String(Number(x.toPrecision(3))));
const line = (text) => text.replace(/[\n\r]+/g, "⏎"); // of a text that has several
const quoted = (token) => JSON.stringify(token);

function table(heads, rows) {
  const head = el("tr", {}, ...heads.map(([name, kind]) =>
    el("th", { scope: "col", class: kind ?? "" }, name)));
  const lines = rows.map((row) => el("tr", {}, ...row.map((cell, i) =>
    el("td", { class: heads[i][1] ?? "" }, cell))));
  return [el("thead", {}, head), el("tbody", {}, ...lines)];
}

function placeOf(expert) {
  const map = layer.map;
  if (!map.sub_keys) return "";
  return `sub-keys ${Math.floor(expert / map.across)} and ${expert % map.across}`;
}

// --- the map ---

const canvas = $("map_canvas");
let shown = null; // text, its levels, and the cell of the cursor

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function shareAt(text, level) {
  return level === 0 ? 0 : text.least * (text.most / text.least) ** ((level - 1) / 254);
}

function range(from, n, end, name) {
  const last = Math.min(from + n, end) - 1;
  return last > from ? `${name}s ${whole(from)} to ${whole(last)}` : `${name} ${whole(from)}`;
}

function cellName(row, column) {
  const { tall, wide, across, sub_keys } = layer.map;
  if (!sub_keys) return range(column * wide, wide, layer.n, "expert");
  const rows = range(row * tall, tall, layer.n / across, "row");
  const columns = range(column * wide, wide, across, "column");
  const own = tall * wide === 1 ? `, expert ${whole(row * across + column)}` : "";
  return `${rows}, ${columns}${own}`;
}

function drawMap() {
  const { rows, columns } = layer.map;
  const [least, most, even, less] = ["--least", "--most", "--even", "--less"].map(colour);
  const mix = (from, to, part) => from.map((value, c) => value + (to[c] - value) * part);
  const shade = shown.view === "change"
    ? (level) => mix(even, level < 128 ? less : most, Math.abs(level - 128) / 127)
    : (level) => mix(least, most, (level - 1) / 254);
  canvas.width = columns;
  canvas.height = rows;
  canvas.classList.toggle("strip", !layer.map.sub_keys);
  const picture = new ImageData(columns, rows);
  shown.levels.forEach((level, i) => {
    if (level !== 0) picture.data.set([...shade(level), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(picture, 0, 0);
}

const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));

function shareOf(side, i) {
  const level = side.bytes[i];
  return level === 0 ? "no mass" : `${percent(shareAt(side, level))} of the mass`;
}

function showCell(row, column) {
  const { rows, columns } = layer.map;
  shown.row = Math.max(0, Math.min(rows - 1, row));
  shown.column = Math.max(0, Math.min(columns - 1, column));
  const cursor = $("map_cursor");
  cursor.hidden = false;
  cursor.style.left = `${100 * shown.column / columns}%`;
  cursor.style.top = `${100 * shown.row / rows}%`;
  cursor.style.width = `${100 / columns}%`;
  cursor.style.height = `${100 / rows}%`;
  const at = shown.row * columns + shown.column;
  const then = shown.before ? `, before ${isNew(at) ? "not there" : shareOf(shown.before, at)}` : "";
  $("map_cell").textContent = `${cellName(shown.row, shown.column)}: ${shareOf(shown.now, at)}${then}`;
}

function isNew(at) {
  const { tall, wide, across, columns, sub_keys, before } = layer.map;
  const first = sub_keys ? Math.floor(at / columns) * tall * across : at * wide;
  return first >= before.n_experts;
}

function drawNew() {
  const { rows, columns, tall, wide, across, sub_keys, before } = layer.map;
  const mark = $("map_new");
  mark.hidden = !before || before.n_experts >= layer.n;
  if (mark.hidden) return;
  mark.style[sub_keys ? "top" : "left"] = sub_keys
    ? `${100 * before.n_experts / across / tall / rows}%` : `${100 * before.n_experts / wide / columns}%`;
  mark.style[sub_keys ? "left" : "top"] = 0;
  mark.style.borderWidth = sub_keys ? "2px 0 0" : "0 0 0 2px";
}

function noteOfBefore() {
  const { before, sub_keys, across } = layer.map;
  $("map_before").hidden = !before;
  if (!before) return;
  const grown = before.n_experts < layer.n
    ? ` It had ${whole(before.n_experts)} experts. Those after the dashed line are new`
      + `${sub_keys ? `, from row ${whole(before.n_experts / across)} on` : ""}: ${percent(before.used_new)} `
      + `of them are used, and have ${percent(before.share_new)} of the mass.` : "";
  $("map_before").textContent = `Before is ${before.run_id}, over the same tokens.${grown} Of all mass, `
    + `${percent(before.moved)} is at other experts than before; of that of the old ones, ${percent(before.moved_old)}.`;
}

function chooseMap() {
  const { map } = layer;
  const text = map.texts[$("map_text").selectedIndex];
  const view = map.before ? $("map_view").value : "now";
  $("map_views").hidden = !map.before;
  const side = (own) => own && { ...own, bytes: bytes(own.levels) };
  const [now, before] = [side(text), side(text.before)];
  const levels = view === "change" ? bytes(text.change) : { now, before }[view].bytes;
  shown = { text, view, now, before, levels, row: 0, column: 0 };
  const cells = map.tall * map.wide > 1
    ? ` A cell is the sum of ${map.sub_keys ? `${map.tall} × ${map.wide}` : map.wide} experts.` : "";
  const scale = view === "change"
    ? " Blue has a larger share of the mass than before, brown a smaller one: the scale is "
      + "logarithmic, and blank cells have no mass in either."
    : " The darker a cell (the lighter, on a dark page), the more mass: the scale is logarithmic, "
      + "and blank cells have none.";
  $("map_note").textContent = (map.sub_keys
    ? "Rows are sub-keys of the first half of the product keys, columns those of the second, 0 at "
      + "the top left."
    : "A strip of all experts in the order of their numbers: this layer has no product keys.")
    + `${scale}${cells} Arrow keys choose a cell.`;
  const ends = { now, before }[view];
  $("map_least").textContent = ends ? percent(ends.least) : "1/16";
  $("map_most").textContent = ends ? percent(ends.most) : "16 times";
  $("map_caption").classList.toggle("change", view === "change");
  canvas.setAttribute("aria-label", `Mass of ${layer.name}, ${text.name}, ${view}`);
  $("map_cursor").hidden = true;
  $("map_cell").textContent = "";
  drawMap();
  drawNew();
  noteOfBefore();
  const order = [...now.bytes.keys()].sort((a, b) => now.bytes[b] - now.bytes[a]).slice(0, 10);
  const heads = [["cells of the most mass"], ["share of the mass", "number"]];
  if (before) heads.push(["before", "number"]);
  const shareIn = (own, i) => percent(shareAt(own, own.bytes[i]));
  $("map_top").replaceChildren(...table(heads, order.filter((i) => now.bytes[i]).map((i) => [
    cellName(Math.floor(i / map.columns), i % map.columns), shareIn(now, i),
    ...(before ? [isNew(i) ? "not there" : shareIn(before, i)] : [])])));
}

ready.push(() => {
  const before = $("map_text").value;
  $("map_text").replaceChildren(...layer.map.texts.map(({ name }) =>
    el("option", { value: name }, name)));
  if (layer.map.texts.some(({ name }) => name === before)) $("map_text").value = before;
  chooseMap();
});
for (const id of ["map_text", "map_view"]) $(id).addEventListener("change", chooseMap);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
canvas.addEventListener("click", (event) => {
  const box = canvas.getBoundingClientRect();
  showCell(Math.floor((event.clientY - box.top) / box.height * layer.map.rows),
    Math.floor((event.clientX - box.left) / box.width * layer.map.columns));
});
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (!(event.key in step)) return;
  event.preventDefault();
  const [down, right] = step[event.key];
  if ($("map_cursor").hidden) showCell(0, 0);
  else showCell(shown.row + down, shown.column + right);
});

// --- the experts ---

const SPAN = Math.log(32); // lifts from 1/32 to 32 are drawn

function interval(low, high, lift) {
  const x = (value) => 60 + 60 * Math.max(-1, Math.min(1, Math.log(value) / SPAN));
  const drawn = svg("svg", { class: "interval", width: 120, height: 12, "aria-hidden": "true" },
    svg("line", { class: "one", x1: 60, x2: 60, y1: 0, y2: 12 }));
  if (low !== null) drawn.append(svg("line", { x1: x(low), x2: x(high ?? 1e9), y1: 6, y2: 6 }));
  if (lift !== null) drawn.append(svg("circle", { cx: x(lift), cy: 6, r: 3 }));
  return drawn;
}

function contextsOf(expert) {
  return el("ol", { class: "contexts" }, ...expert.contexts.map(
    ([gate, text, position, before, token, after]) => el("li", {},
      el("span", { class: "from" }, `${digits(gate)}, ${text} at ${whole(position)}: `),
      line(before), el("mark", {}, line(token)), line(after))));
}

function tokensOf(expert) {
  const most = Math.max(...expert.tokens.map(([, n]) => n));
  const bar = (n) => {
    const made = el("span", { class: "bar" });
    made.style.width = `${100 * n / most}%`;
    return made;
  };
  return el("table", {}, ...table(
    [["token", "token"], ["times", "number"], ["of its tokens", "number"], ["", "bars"]],
    expert.tokens.map(([token, n]) =>
      [quoted(token), whole(n), percent(n / expert.n_tokens), bar(n)])));
}

function liftsOf(lifts, kind, tests) {
  return el("table", {}, ...table(
    [[kind], ["lift", "number"], [`${percent(tests.level)} interval`], ["q", "number"], [""]],
    lifts.map(([text, lift, low, high, q]) => [
      text, digits(lift),
      low === null ? "too few documents" : `${digits(low)} to ${high === null ? "∞" : digits(high)}`,
      digits(q), interval(low, high, lift)])));
}

function promotedOf(expert) {
  const side = (rows) => rows.map(([token, far]) => `${quoted(token)} ${digits(far)}`).join("  ");
  const [median, least, most] = layer.peak ?? [];
  const beside = layer.peak
    ? ` The first of random experts: ${digits(median)} in the median, ${digits(least)} to ${digits(most)}.`
    : "";
  return el("div", {},
    el("p", { class: "line" }, `up: ${side(expert.promoted)}`),
    el("p", { class: "line" }, `down: ${side(expert.suppressed)}`),
    el("p", {}, `In standard deviations over the vocabulary${layer.written === "contexts"
      ? ", of what it wrote at its largest gates, on average" : ""}.${beside}`));
}

function nearestOf(expert) {
  const line = (name, rows) => rows.length
    ? el("p", {}, `by ${name}: ${rows.map(([other, cosine]) =>
      `${whole(other)} (${digits(cosine)})`).join(", ")}`) : null;
  return el("div", {}, line("value", expert.nearest.value), line("key", expert.nearest.key));
}

function cardOf(expert) {
  const id = `expert_${expert.expert}`;
  const part = (title, content) => el("div", {}, el("h4", {}, title), content);
  const place = placeOf(expert.expert);
  return el("article", { "aria-labelledby": id },
    el("h3", { id }, `Expert ${whole(expert.expert)}`),
    el("p", {}, `${place ? `${place}; ` : ""}read by ${whole(expert.n_tokens)} tokens of `
      + `${whole(expert.n_documents)} documents; ${percent(expert.share)} of the layer's mass`),
    part("Largest gates", contextsOf(expert)),
    el("div", { class: "columns" },
      part("Tokens that read it most often", tokensOf(expert)),
      data.texts.length > 1 ? part("Lift by text, from 1/32 to 32", liftsOf(expert.lifts, "text", layer.tests))
        : null,
      part("Lift by class of token, from 1/32 to 32",
        liftsOf(expert.classes, "class", layer.class_tests))),
    expert.promoted.length ? part("Tokens that it promotes and suppresses", promotedOf(expert)) : null,
    part("Nearest experts, with cosines", nearestOf(expert)));
}

function drawExperts() {
  const group = $("experts_group").value;
  const chosen = layer.groups[group] ?? [];
  const { n_tested, n_significant } = layer.tests;
  const notes = {
    used: `The ${chosen.length} experts of the largest mass.`,
    random: `${chosen.length} experts at random, of those with any mass.`,
    specific: `Of ${whole(n_tested)} lifts that could be tested, ${whole(n_significant)} differ `
      + `significantly from 1. ${chosen.length ? `The ${chosen.length} experts of the highest `
      + "lower end follow." : "No expert is used significantly more in one text."}`,
  };
  $("experts_note").textContent = notes[group];
  const byNumber = new Map(layer.experts.map((expert) => [expert.expert, expert]));
  $("experts_list").replaceChildren(...chosen.map((number) => cardOf(byNumber.get(number))));
}
ready.push(drawExperts);
$("experts_group").addEventListener("change", drawExperts);

// --- token by token ---

const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(4);
const words = $("excerpt_tokens");

function showToken(at) {
  const text = layer.texts[$("excerpt_text").selectedIndex];
  const [token, next, logit, part, beside, others, parts] = text.rows[at];
  [...words.children].forEach((word, i) => {
    word.setAttribute("aria-pressed", String(i === at));
    word.tabIndex = i === at ? 0 : -1; // one stop of the tab key; arrow keys go on
  });
  $("excerpt_note").textContent = `After ${quoted(token)}, the next token ${quoted(next)} has the `
    + `logit ${logit.toFixed(4)}; ${layer.name} adds ${signed(part)} of it.`;
  const rows = parts.map(([expert, gate, value]) =>
    [`expert ${whole(expert)}`, digits(gate), signed(value)]);
  if (others !== 0) rows.push(["its other experts", "", signed(others)]);
  if (beside !== 0) rows.push(["beside its experts", "", signed(beside)]);
  $("excerpt_parts").replaceChildren(...table(
    [["written by"], ["gate", "number"], ["part of the logit", "number"]],
    [...rows, ["the layer", "", signed(part)]]));
  $("excerpt_parts").tBodies[0].lastChild.className = "total";
}

function drawExcerpt() {
  const text = layer.texts[$("excerpt_text").selectedIndex];
  words.replaceChildren(...text.rows.map(([token], i) => {
    const word = el("button", { type: "button" }, line(token) || "∅");
    word.addEventListener("click", () => showToken(i));
    return word;
  }));
  showToken(Math.min(1, text.rows.length - 1));
}
words.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const at = [...words.children].indexOf(document.activeElement) + (step ?? 0);
  if (!step || at < 0 || at >= words.children.length) return;
  event.preventDefault();
  showToken(at);
  words.children[at].focus();
});
ready.push(() => {
  const before = $("excerpt_text").value;
  $("excerpt_text").replaceChildren(...layer.texts.map(({ name, typed }) =>
    el("option", { value: name }, typed ? `${name}: ${line(typed).slice(0, 40)}` : name)));
  if (layer.texts.some(({ name }) => name === before)) $("excerpt_text").value = before;
  drawExcerpt();
});
$("excerpt_text").addEventListener("change", drawExcerpt);

// --- the search ---

function found(note, heads, rows) {
  $("search_found").textContent = note;
  $("search_table").replaceChildren(...(rows.length ? table(heads, rows) : []));
}

function pairsOf({ strings, experts }, wanted) {
  const hits = new Set([...strings.keys()].filter((i) => strings[i].toLowerCase().includes(wanted)));
  const rows = experts.flatMap(([expert, n, own]) => own.filter(([i]) => hits.has(i))
    .map(([i, times]) => [strings[i], expert, times, times / n]));
  return [hits.size, rows];
}

function searchString() {
  const wanted = $("search_string").value.toLowerCase();
  if (wanted === "") return found("", [], []);
  const [nTokens, tokens] = pairsOf(layer.search, wanted);
  const [nLonger, longer] = pairsOf(layer.search.bigrams, wanted);
  const all = [...tokens, ...longer];
  all.sort((a, b) => b[2] - a[2]);
  return found(`${whole(nTokens)} tokens and ${whole(nLonger)} strings of two, ${whole(all.length)} `
    + `pairs with an expert${all.length > 50 ? "; the 50 most frequent follow" : ""}.`,
  [["string", "token"], ["expert", "number"], ["times", "number"], ["of the expert's tokens", "number"]],
  all.slice(0, 50).map(([string, expert, times, share]) =>
    [quoted(string), whole(expert), whole(times), percent(share)]));
}

function searchExpert() {
  const wanted = $("search_expert").value;
  if (wanted === "") return found("", [], []);
  const rowsOf = ({ strings, experts }) => {
    const [, n, own] = experts.find(([expert]) => expert === Number(wanted)) ?? [0, 0, []];
    return own.map(([i, times]) => [quoted(strings[i]), whole(times), percent(times / n)]);
  };
  const rows = rowsOf(layer.search);
  if (!rows.length) return found(`Expert ${wanted} is none of those that are kept.`, [], []);
  const [, n] = layer.search.experts.find(([expert]) => expert === Number(wanted));
  return found(`Expert ${wanted}, read by ${whole(n)} tokens: the most frequent, and the most `
    + "frequent strings of two, whose second token reads it.",
  [["string", "token"], ["times", "number"], ["of its tokens", "number"]],
  [...rows, ...rowsOf(layer.search.bigrams)]);
}
ready.push(() => {
  $("search_note").textContent = "Which experts fire on a string, and which strings fire an expert: "
    + `of ${whole(layer.search.experts.length)} experts of the largest mass the 10 tokens that most `
    + "often read each, and the 10 strings of two tokens. Rarer pairs are not kept, and are not "
    + "found here; longer strings are looked for in the texts by find=.";
  if ($("search_expert").value) searchExpert(); else searchString();
});
$("search_string").addEventListener("input", () => { $("search_expert").value = ""; searchString(); });
$("search_expert").addEventListener("input", () => { $("search_string").value = ""; searchExpert(); });

function drawStrings() {
  const string = layer.strings[$("strings_string").selectedIndex];
  const spread = ([, share, low, high]) => percent(share)
    + (low === null ? "" : ` (${percent(low)} to ${percent(high)})`);
  $("strings_note").textContent = `${quoted(string.string)} is there ${whole(string.n_read)} times `
    + `in what was read of it, in ${whole(string.n_documents)} documents.`;
  $("strings_table").replaceChildren(...table(
    [["token", "token"], ["expert", "number"], ["fires on", "number"],
      ["on the token elsewhere", "number"], ["on all tokens", "number"]],
    string.tokens.flatMap(([token, rows]) => rows.map((row) => [
      quoted(token), whole(row[0]), spread(row),
      row[4] === null ? "–" : percent(row[4]), percent(row[5])]))));
}
ready.push(() => {
  const before = $("strings_string").value;
  $("strings").hidden = layer.strings.length === 0;
  $("strings_string").replaceChildren(...layer.strings.map(({ string }) =>
    el("option", { value: string }, quoted(string))));
  if (layer.strings.some(({ string }) => string === before)) $("strings_string").value = before;
  if (layer.strings.length) drawStrings();
});
$("strings_string").addEventListener("change", drawStrings);

// --- the layer, which all parts have in common ---

const choosers = [...document.querySelectorAll("select.layer")];
function chooseLayer(number) {
  layer = data.layers[number];
  for (const chooser of choosers) chooser.value = number;
  ready.forEach((draw) => draw());
}
for (const chooser of choosers) {
  chooser.addEventListener("change", () => chooseLayer(Number(chooser.value)));
}
chooseLayer(Math.max(0, data.layers.findIndex((one) => one.routed)));  // the first with a router
