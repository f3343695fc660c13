"use strict";
// It draws the runs that are in the page as JSON, and loads the page again while the sweep runs.
// Texts are strangers': they become text nodes, never markup.

const data = JSON.parse(document.getElementById("_data").textContent);
const $ = (id) => document.getElementById(id);
const GONE = ["diverged", "hopeless", "damaged"]; // their losses set no scale

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// --- what a reader has chosen, kept when the page is loaded again ---

const KEY = `choices of ${document.title}`;
const chosen = { hidden: [], budget: "", x: "flops", ...stored() };

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {}; // not allowed here
  }
}

function choose(name, value) {
  chosen[name] = value;
  try {
    sessionStorage.setItem(KEY, JSON.stringify(chosen));
  } catch {
    // it then lasts until the page is loaded again
  }
  draw();
}

const isShown = (model) => !chosen.hidden.includes(data.models[model].name);

// --- numbers ---

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

function power(x) { // 2.4e11 as 2.4×10¹¹
  let [digits, exponent] = x.toExponential(2).split("e");
  digits = String(Number(digits));
  const raised = [...exponent.replace("+", "")].map((c) => c === "-" ? "⁻" : SUPERSCRIPTS[c]).join("");
  return digits === "1" ? `10${raised}` : `${digits}×10${raised}`;
}

function count(x) { // 12345 as 12.3k
  for (const [suffix, unit] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (x >= 0.9995 * unit) return `${Number((x / unit).toPrecision(3))}${suffix}`;
  }
  return String(Number(x.toPrecision(3)));
}

const nats = (x) => String(Number(x.toPrecision(4)));

// --- axes ---

function ticks(low, high, most, isLog) {
  const within = (values) => values.filter((v) => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
  let found = [];
  if (isLog) {
    const decades = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++) decades.push(10 ** k);
    for (const stride of [5, 4, 3, 2, 1]) {
      const some = within(decades.filter((v) => Math.round(Math.log10(v)) % stride === 0));
      if (some.length <= most && some.length > found.length) found = some;
    }
    for (const parts of [[1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
      const some = within(decades.flatMap((v) => parts.map((part) => part * v)));
      if (some.length <= most && some.length > found.length) found = some;
    }
    if (found.length > 2 || high / low > 4) return found;
  }
  const rough = (high - low) / most;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((part) => part * unit).find((value) => value >= rough);
  const even = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i++) even.push(Number((i * step).toPrecision(12)));
  return even.length > found.length ? even : found;
}

function padded(values, isLog, share = 0.07) { // as the axis's ends
  let low = Math.min(...values), high = Math.max(...values);
  if (isLog) {
    if (low === high) [low, high] = [low / 1.5, high * 1.5];
    const more = (high / low) ** share;
    return [low / more, high * more];
  }
  const more = low === high ? Math.max(0.1, 0.02 * Math.abs(low)) : share * (high - low);
  return [low - more, high + more];
}

const MARGIN = { left: 52, right: 12, top: 28, bottom: 44 };

// A frame with its axes. x, y: ends, isLog, label, format. Has X and Y, from values to pixels.
function frame(width, height, x, y, title) {
  const chart = svg("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
  const place = ({ ends: [low, high], isLog }, from, to) => {
    const f = isLog ? Math.log : Number;
    return (value) => from + (to - from) * (f(value) - f(low)) / (f(high) - f(low));
  };
  const X = place(x, left, right), Y = place(y, bottom, top);
  for (const at of ticks(...x.ends, Math.max(3, Math.floor(width / (x.format === power ? 110 : 75))), x.isLog)) {
    chart.append(svg("line", { class: "grid", x1: X(at), x2: X(at), y1: top, y2: bottom }),
      svg("text", { x: X(at), y: bottom + 16, "text-anchor": "middle" }, x.format(at)));
  }
  for (const at of ticks(...y.ends, Math.max(3, Math.floor(height / 45)), y.isLog)) {
    chart.append(svg("line", { class: "grid", x1: left, x2: right, y1: Y(at), y2: Y(at) }),
      svg("text", { x: left - 6, y: Y(at) + 4, "text-anchor": "end" }, y.format(at)));
  }
  chart.append(
    svg("path", { class: "axis", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, x.label),
    svg("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)` }, y.label),
    svg("text", { class: "name", x: left, y: 15 }, title));
  const clip = `clip_${frame.n = (frame.n ?? 0) + 1}`;
  chart.append(svg("clipPath", { id: clip }, svg("rect", { x: left - 7, y: top - 7, width: right - left + 14, height: bottom - top + 14 })));
  const inside = svg("g", { "clip-path": `url(#${clip})` });
  chart.append(inside);
  return { chart, inside, X, Y, top };
}

// --- markers, as matplotlib names them ---

const CROSS = [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4],
  [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]];
const TRIANGLE = [[0, -1.25], [1.2, 0.95], [-1.2, 0.95]];
const SHAPES = {
  s: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  D: [[0, -1.35], [1.35, 0], [0, 1.35], [-1.35, 0]],
  P: CROSS,
  X: CROSS.map(([x, y]) => [0.75 * (x - y), 0.75 * (x + y)]),
  "^": TRIANGLE,
  v: TRIANGLE.map(([x, y]) => [x, -y]),
  "<": TRIANGLE.map(([x, y]) => [y, x]),
  ">": TRIANGLE.map(([x, y]) => [-y, x]),
  p: [0, 1, 2, 3, 4].map((i) => [1.2 * Math.sin(0.4 * Math.PI * i), -1.2 * Math.cos(0.4 * Math.PI * i)]),
};

function marker(model, x, y, isFull, r = 4.5) {
  const look = isFull ? { fill: model.colour } : { class: "hollow", stroke: model.colour };
  const shape = SHAPES[model.marker];
  if (!shape) return svg("circle", { cx: x, cy: y, r, ...look });
  const points = shape.map(([dx, dy]) => `${(x + 0.95 * r * dx).toFixed(1)},${(y + 0.95 * r * dy).toFixed(1)}`);
  return svg("polygon", { points: points.join(" "), "stroke-linejoin": "round", ...look });
}

// --- a word on what is under the pointer ---

const tip = el("div", { class: "tip", role: "status", hidden: "" });
document.body.append(tip);

// targets: places x, y in pixels, the text, and the element to stress.
function follow(chart, targets) {
  let on = null;
  const leave = () => {
    tip.hidden = true;
    on?.classList.remove("on");
    on = null;
  };
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = 24 ** 2;
    for (const target of targets) {
      const distance = (target.x - x) ** 2 + (target.y - y) ** 2;
      if (distance < least) [best, least] = [target, distance];
    }
    leave();
    if (best === null) return;
    on = best.element ?? null;
    on?.classList.add("on");
    tip.textContent = best.text();
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const above = event.clientY - height - 12;
    tip.style.left = `${Math.max(4, Math.min(innerWidth - width - 4, event.clientX - width / 2))}px`;
    tip.style.top = `${above > 4 ? above : event.clientY + 16}px`;
  });
}

// --- loss against size ---

function drawPanels() {
  const host = $("isoflop_panels");
  host.replaceChildren();
  const placed = data.points.map((point, i) => ({ ...point, i, y: point.loss ?? point.now }))
    .filter((p) => p.budget !== null && p.n_params && p.y > 0 && !GONE.includes(p.state));
  const budgets = [...new Set(placed.map((p) => p.budget))].sort((a, b) => a - b);
  const anyShown = placed.some((p) => isShown(p.model));
  $("isoflop_note").textContent = budgets.length === 0
    ? "Each run gets its place here once it has logged a loss."
    : "Full: finished runs, at their held-out loss. Hollow: runs without an end yet, at their "
      + "training loss of now; those above the frame are at its edge. Lines join the lowest "
      + "finished run of each size. Nothing is fitted here: python -m analysis isoflop does that.";
  if (!anyShown) return;
  host.classList.toggle("one", budgets.length === 1);
  // a first one is there to be measured
  const probe = el("div", {});
  host.append(probe);
  const width = probe.clientWidth, height = Math.round(Math.min(300, 0.8 * width));
  host.replaceChildren();
  for (const budget of budgets) {
    const own = placed.filter((p) => p.budget === budget && isShown(p.model));
    if (own.length) host.append(el("div", {}, panel(own, budget, width, height)));
  }
}

function panel(own, budget, width, height) {
  const done = own.filter((p) => p.loss !== null).map((p) => p.y);
  let seen = own.map((p) => p.y);
  if (done.length > 1) { // runs that have just begun are far above
    const [low, high] = [Math.min(...done), Math.max(...done)];
    seen = seen.filter((y) => y <= high + Math.max(0.5 * (high - low), 0.05));
  }
  const x = { ends: padded(own.map((p) => p.n_params), true), isLog: true, label: "total parameters (log scale)", format: count };
  const y = { ends: padded(seen, false), isLog: false, label: "loss (nats/token)", format: nats };
  const { chart, inside, X, Y, top } = frame(width, height, x, y, `${power(data.budgets[budget])} FLOPs`);
  for (const line of data.lines) {
    if (line.budget !== budget || !isShown(line.model)) continue;
    const places = line.points.map((i) => `${X(data.points[i].n_params).toFixed(1)},${Y(data.points[i].loss).toFixed(1)}`);
    inside.append(svg("polyline", { class: "line", points: places.join(" "), stroke: data.models[line.model].colour }));
  }
  const targets = [];
  for (const p of own) {
    const at = { x: X(p.n_params), y: Math.max(top - 3, Y(p.y)) };
    const shape = marker(data.models[p.model], at.x, at.y, p.loss !== null);
    inside.append(shape);
    const what = p.loss !== null ? "held out" : `training, ${p.state}`;
    targets.push({ ...at, text: () => `${p.label}\n${count(p.n_params)} parameters, loss ${nats(p.y)} (${what})` });
  }
  follow(chart, targets);
  return chart;
}

// --- loss curves ---

const AGAINST = {
  flops: { label: "training compute (FLOPs, log scale)", of: (curve) => curve.flops, format: power },
  tokens: { label: "training tokens (log scale)", of: (curve) => curve.tokens, format: count },
  steps: { label: "training steps (log scale)", of: () => 1, format: count },
};

function drawCurves() {
  const host = $("curves_chart");
  const all = data.points.filter((p) => p.curve !== null && p.curve.flops > 0 && p.curve.tokens > 0);
  const budget = chosen.budget === "" ? null : data.budgets.indexOf(Number(chosen.budget));
  const own = all.filter((p) => isShown(p.model) && (budget === null || budget < 0 || p.budget === budget))
    .sort((a, b) => (a.state === "running") - (b.state === "running"));
  $("curves_note").textContent = all.length === 0
    ? `No run has a row in a history.csv here${data.every === null ? "" : " yet"}.`
    : "Training loss. Strong lines with a mark at their end: runs that go on. A branch begins where it leaves its trunk.";
  host.replaceChildren();
  $("curves_budget").closest(".tools").hidden = all.length === 0;
  if (own.length === 0) return;
  const against = AGAINST[chosen.x] ?? AGAINST.flops;
  const lines = own.map((p) => ({ p, points: p.curve.steps.map((step, i) => [step * against.of(p.curve), p.curve.losses[i] / 1000]).filter(([x, y]) => x > 0 && y > 0) }))
    .filter(({ points }) => points.length);
  const scaled = lines.filter(({ p }) => !GONE.includes(p.state));
  const [xs, ys] = [0, 1].map((k) => (scaled.length ? scaled : lines).flatMap(({ points }) => points.map((at) => at[k])));
  const span = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const width = host.clientWidth, height = Math.round(Math.max(280, Math.min(460, 0.5 * width)));
  const x = { ends: padded(span(xs), true, 0.03), isLog: true, ...against };
  const y = { ends: padded(span(ys), true, 0.04), isLog: true, label: "training loss (nats/token, log scale)", format: nats };
  const { chart, inside, X, Y } = frame(width, height, x, y, budget === null || budget < 0 ? "All budgets" : `${power(data.budgets[budget])} FLOPs`);
  const targets = [];
  for (const { p, points } of lines) {
    const model = data.models[p.model];
    const places = points.map(([at, loss]) => ({ x: X(at), y: Y(loss), at, loss }));
    const element = svg("polyline", { class: p.state === "running" ? "line" : "line old", stroke: model.colour, points: places.map((at) => `${at.x.toFixed(1)},${at.y.toFixed(1)}`).join(" ") });
    inside.append(element);
    const last = places.at(-1);
    if (p.state === "running" || places.length === 1) inside.append(marker(model, last.x, last.y, p.state !== "running"));
    for (const at of places) {
      targets.push({ ...at, element, text: () => `${p.label}\n${p.state}; loss ${nats(at.loss)} at ${against.format(at.at)} ${chosen.x in AGAINST && chosen.x !== "flops" ? chosen.x : "FLOPs"}` });
    }
  }
  follow(chart, targets);
  host.append(chart);
}

// --- legends and choices ---

function drawLegends() {
  for (const legend of document.querySelectorAll(".legend")) {
    legend.replaceChildren(...data.models.map((model, i) => {
      const swatch = svg("svg", { width: 26, height: 12, "aria-hidden": "true" },
        svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: model.colour, "stroke-width": 1.5 }), marker(model, 13, 6, true, 4));
      const button = el("button", { type: "button", "aria-pressed": String(isShown(i)) }, swatch, model.name);
      button.addEventListener("click", () => choose("hidden", isShown(i)
        ? [...chosen.hidden, model.name] : chosen.hidden.filter((name) => name !== model.name)));
      return button;
    }));
  }
}

function offerChoices() {
  const choice = $("curves_budget");
  choice.append(el("option", { value: "" }, "all"), ...data.budgets.map((b) => el("option", { value: b }, `${power(b)} FLOPs`)));
  for (const [id, name] of [["curves_budget", "budget"], ["curves_x", "x"]]) {
    $(id).value = chosen[name];
    if ($(id).selectedIndex < 0) $(id).selectedIndex = 0;
    $(id).addEventListener("change", () => choose(name, $(id).value));
  }
}

function draw() {
  const focused = document.activeElement?.closest?.(".legend button");
  const place = focused ? [...document.querySelectorAll(".legend button")].indexOf(focused) : -1;
  drawLegends();
  if (place >= 0) document.querySelectorAll(".legend button")[place].focus();
  drawPanels();
  drawCurves();
}

// --- its age, and the next one ---

const written = document.querySelector(".generated");
const said = written.textContent;

function sayAge() {
  const age = Math.max(0, Math.round(Date.now() / 1000 - data.written));
  const isStale = age > 60 + 3 * data.every;
  written.classList.toggle("stale", isStale);
  written.textContent = isStale
    ? `${said}. That was ${age < 7200 ? `${Math.round(age / 60)} minutes` : `${Math.round(age / 3600)} hours`} ago: the command that writes it may have been stopped.` : said;
}

if ($("isoflop_panels") !== null) { // a page of another app's runs has no figures
  offerChoices();
  draw();
  let redraw = 0;
  addEventListener("resize", () => {
    clearTimeout(redraw);
    redraw = setTimeout(draw, 100);
  });
}
if (data.every !== null) {
  sayAge();
  setInterval(sayAge, 5000);
  setTimeout(() => location.reload(), 1000 * data.every);
}
