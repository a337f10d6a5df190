// The console: follows /v1/stream, which tells what this instance does, and reads the state now and then, where what
// other instances do is too. Everything shown is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const pipelines = new Map();
const runs = new Map();
const mostRuns = 25;
let asking = null;
let declined = false;

class Problem extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

function headers() {
  const key = sessionStorage.getItem("ferry-key");
  return key ? { "X-API-Key": key } : {};
}

async function request(path, options = {}) {
  for (;;) {
    const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers }, cache: "no-store" });
    if (answer.status === 401 && !declined && await askKey()) continue;
    if (answer.ok) return answer;
    const p = await answer.json().catch(() => ({}));
    throw new Problem(answer.status, p.detail || p.title || `${answer.status} ${answer.statusText}`);
  }
}

const get = (path) => request(path).then((a) => a.json());

$("ask-cancel").addEventListener("click", () => $("ask").close(""));

// askKey shows the dialog once, however many requests want a key. Resolves to whether there is a new one.
function askKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("ask");
    $("key").hidden = false;
    $("ask-key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      asking = null;
      const key = $("ask-key").value.trim();
      const given = dialog.returnValue === "ok" && key !== "";
      if (given) sessionStorage.setItem("ferry-key", key);
      declined = !given; // ask again only when the person wants to
      resolve(given);
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function link(state, text) {
  $("link").className = "link " + state;
  $("link").textContent = text;
}

// el makes an element: el("p.why", {title}, "text", child).
function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const e = document.createElement(tag);
  if (classes.length) e.className = classes.join(" ");
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v); else if (v !== undefined && v !== false) e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined));
  return e;
}

const count = (n) => (n ?? 0).toLocaleString("en");
const short = (n) => (n ?? 0) < 1e6 ? count(n) : new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(n);
const when = (t) => t ? new Date(t).toLocaleString() : "";

function relative(t) {
  if (!t) return "";
  const s = Math.round((new Date(t) - Date.now()) / 1000);
  const steps = [["second", 60], ["minute", 60], ["hour", 24], ["day", Infinity]];
  let value = s;
  for (const [unit, size] of steps) {
    if (Math.abs(value) < size) return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(Math.round(value), unit);
    value /= size;
  }
}

function seconds(s) {
  if (s < 60) return s.toFixed(1) + "\u00a0s";
  const m = Math.floor(s / 60);
  return m < 60 ? `${m} min ${Math.round(s % 60)} s` : `${Math.floor(m / 60)} h ${m % 60} min`;
}

function card(p) {
  const running = p.state === "running";
  const run = p.last_run;
  const counts = [["read", "Read"], ["published", "Published"], ["filtered", "Filtered"], ["seen", "Seen"], ["dead", "Dead"]];
  const schedule = [p.schedule, p.next_run && !running ? (new Date(p.next_run) > Date.now() ? "next " + relative(p.next_run) : "due now") : null].filter(Boolean).join(" · ");
  let last = null;
  if (run) {
    last = running || !run.ended
      ? `Running since ${relative(run.started)}: ${count(run.read)} read` + (run.total_hint ? ` of ${count(run.total_hint)}` : "")
      : `Last run ${relative(run.ended)}: ${count(run.published)} published in ${seconds(run.seconds)}`;
  }
  const bar = running && run?.total_hint ? el("div.bar", {}, el("progress", { max: run.total_hint, value: Math.min(run.read, run.total_hint), "aria-label": "progress" })) : null;
  return el("article.card", {},
    el("div.top", {},
      el("h3", {}, p.name), el("span.pill." + p.state, {}, p.state),
      p.push ? null : el("button", { type: "button", disabled: running, onclick: () => start(p.name), "aria-label": "Run " + p.name }, running ? "Running" : "Run")),
    el("p", {}, "→ " + p.topic + (schedule ? " · " + schedule : "")),
    el("dl.counts", {}, ...counts.map(([k, name]) =>
      el("div" + (k === "dead" && p.counters[k] > 0 ? ".alarm" : ""), {}, el("dt", {}, name), el("dd", { title: count(p.counters[k]) }, short(p.counters[k]))))),
    bar,
    last ? el("p", { title: when(run.ended || run.started) }, last) : el("p", {}, p.push ? "Takes the records that are pushed" : "No run yet"),
    p.reason ? el(p.state === "failing" ? "p.why" : "p.calm", {}, p.reason) : null);
}

function row(r) {
  const ns = [r.read, r.published, r.filtered, r.seen, r.dead];
  return el("tr", {},
    el("td", { title: when(r.started) }, relative(r.started)), el("td", {}, r.pipeline), el("td", {}, el("span.pill." + r.status, {}, r.status.replace("_", " "))),
    ...ns.map((n) => el("td.n", {}, count(n))), el("td.n", {}, seconds(r.seconds)), el("td", {}, r.reason || ""));
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const focus = document.activeElement?.getAttribute("aria-label");
    const ps = [...pipelines.values()].sort((a, b) => a.name.localeCompare(b.name));
    $("pipelines").replaceChildren(...(ps.length ? ps.map(card) : [el("p", {}, "No pipelines are configured.")]));
    const rs = [...runs.values()].sort((a, b) => new Date(b.started) - new Date(a.started)).slice(0, mostRuns);
    $("runs").replaceChildren(...(rs.length ? rs.map(row) : [el("tr", {}, el("td.empty", { colspan: 10 }, "No runs yet."))]));
    for (const id of [...runs.keys()]) if (!rs.some((r) => r.run === id)) runs.delete(id);
    if (focus) document.querySelector(`[aria-label="${CSS.escape(focus)}"]`)?.focus();
  });
}

async function load() {
  const [p, r] = await Promise.all([get("/v1/pipelines"), get("/v1/runs?limit=" + mostRuns)]);
  pipelines.clear();
  for (const x of p.pipelines) pipelines.set(x.name, x);
  for (const x of r.runs) runs.set(x.run, x);
  draw();
}

async function start(name) {
  try {
    const run = await request(`/v1/pipelines/${encodeURIComponent(name)}/runs`, { method: "POST" }).then((a) => a.json());
    update({ type: "run", run });
  } catch (e) {
    notice(`${name} could not be started: ${e.message}`);
  }
}

function update(u) {
  if (u.pipeline) pipelines.set(u.pipeline.name, u.pipeline);
  if (u.run) {
    runs.set(u.run.run, u.run);
    const p = pipelines.get(u.run.pipeline);
    if (p && !u.pipeline) {
      p.last_run = u.run;
      if (!u.run.ended) p.state = "running";
      else get("/v1/pipelines/" + encodeURIComponent(p.name)).then((now) => { pipelines.set(now.name, now); draw(); }).catch(() => {});
    }
  }
  draw();
}

// follow reads the stream until it ends. fetch and not EventSource, because only fetch can send a key.
async function follow() {
  const answer = await request("/v1/stream", { headers: { Accept: "text/event-stream" } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    await load(); // what has changed before the stream began is not in it
    link("live", "live");
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const data = text.slice(0, end).split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
        if (data) update(JSON.parse(data));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

async function live() {
  for (let quiet = 1; ; quiet = Math.min(quiet * 2, 15)) {
    try {
      await load();
      notice("");
      link("", "polling");
      await follow();
      quiet = 1;
    } catch (e) {
      link("lost", e instanceof Problem ? "refused" : "not reachable");
      notice(e instanceof Problem ? e.message : "ferry does not answer. Trying again.");
    }
    await sleep(quiet * 1000);
  }
}

$("key").hidden = !sessionStorage.getItem("ferry-key");
$("key").addEventListener("click", askKey);
fetch("/livez").then((a) => a.json()).then((a) => { $("version").textContent = a.version; }).catch(() => {});
setInterval(() => load().catch(draw), 15000); // what the stream did not tell; and "5 minutes ago" moves on
live();
