// The live page: one stream of server-sent events, read with fetch so that it can carry a token, drawn as it comes.
// Everything that comes from a VM is set as text, never as markup.

const MAX_ENTRIES = 300;   // what the list begins with and keeps; older decisions can be fetched
const OLDER = 100;         // decisions that are fetched at once
const SILENCE = 40_000;    // ms without even a keep-alive (one comes every 15 s) after which the line counts as lost
const DELAYS = [300, 1000, 2000, 5000];

const $ = (id) => document.getElementById(id);
const vms = new Map();     // name -> {data, card, parts}
let place = "0";           // the id of the last entry seen: where the stream is resumed
let live = false;          // the past has been told: from now on things are new
let room = MAX_ENTRIES;    // what the list keeps, with what was fetched
let heard = null;          // when something has come last: what is shown was so then

// drawing

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

const number = new Intl.NumberFormat();

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let n = count, unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit ? n.toFixed(n < 10 ? 2 : 1) : n} ${units[unit]}`;
}

// A moment with its zone: whoever reads it beside a server's log must not have to guess.
const whole = (when) => when.toLocaleString([], { year: "numeric", month: "short", day: "numeric", hour: "2-digit",
  minute: "2-digit", second: "2-digit", hour12: false, timeZoneName: "short" });
const zone = (when) => new Intl.DateTimeFormat([], { timeZoneName: "short" }).formatToParts(when)
  .find((part) => part.type === "timeZoneName").value;
const hours = (when) => when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

function clock(seconds) {
  const when = new Date(seconds * 1000);
  const today = when.toDateString() === new Date().toDateString();
  return el("time", { datetime: when.toISOString(), title: whole(when) },
    today ? hours(when) : `${when.toLocaleDateString()} ${hours(when)}`);
}

function ago(seconds) {
  const node = el("time", { datetime: new Date(seconds * 1000).toISOString(), "data-ago": seconds,
    title: whole(new Date(seconds * 1000)) });
  age(node);
  return node;
}

function age(node) {
  const passed = Math.max(0, Date.now() / 1000 - Number(node.dataset.ago));
  const [n, unit] = passed < 90 ? [passed, "s"] : passed < 5400 ? [passed / 60, "min"]
    : passed < 172800 ? [passed / 3600, "h"] : [passed / 86400, "days"];
  node.textContent = passed < 2 ? "just now" : `${Math.round(n)} ${unit} ago`;
}

setInterval(() => document.querySelectorAll("[data-ago]").forEach(age), 1000);

// What stands in backticks in the guard's texts is code.
const prose = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
const pill = (text, tone) => el("span", { class: `pill ${tone}` }, text);
const titled = (title, ...content) => [el("h4", {}, title), ...content];

// one VM

const STATES = {
  ready: ["ready", "good"],
  busy: ["QEMU is busy", "warn"],
  silent: ["QEMU does not answer", "bad"],
  down: ["no QEMU", "bad"],
};
const ANSWERS = {
  yes: ["✓ yes", "good"],
  warned: ["! yes, with a warning", "warn"],
  no: ["✕ no", "bad"],
  unknown: ["? not known", "none"],
};
const NATIVE = { yes: "QEMU itself would refuse it too.", no: "QEMU itself would let it happen." };
const HEARTBEATS = { ok: "answers", busy: "answers, but is busy", silent: "silent", unknown: "not known" };
const DANGEROUS = ["postcopy-ram", "background-snapshot"];
const MODES = { enforce: "good", warn: "warn", off: "" };
const ENDINGS = { completed: "good", failed: "bad", cancelled: "warn" };

// Each part of a card with the facts that it shows; it is drawn anew only when they change, so focus stays.
const PARTS = {
  head: [(vm) => [vm.name, vm.state, vm.qemu, vm.link], drawHead],
  notices: [(vm) => [vm.faults, vm.notes, vm.overrides], drawNotices],
  ways: [(vm) => vm.may_migrate, drawWays],
  course: [(vm) => vm.migration, drawCourse],
  devices: [(vm) => vm.devices, drawDevices],
  facts: [(vm) => [vm.run_state, vm.capabilities, vm.heartbeat, vm.seen, vm.drift, vm.counts], drawFacts],
  clients: [(vm) => vm.clients, drawClients],
  rules: [(vm) => [vm.rules, vm.profile, vm.mode], drawRules],
};

function drawHead(vm) {
  const qemu = vm.qemu ? `QEMU ${vm.qemu.version}` : "QEMU is not there";
  return [
    el("h3", { id: `vm-${vm.name}-name` }, vm.name),
    pill(...STATES[vm.state]),
    el("p", { title: vm.qemu?.package || null }, qemu),
    el("p", {}, vm.link.up ? "linked " : "gone ", ago(vm.link.since)),
  ];
}

function drawNotices(vm) {
  return [
    ...vm.faults.map((text) => el("p", { class: "notice bad" }, text)),
    ...vm.overrides.map((override) => el("p", { class: "notice warn" }, ...drawOverride(override))),
    ...vm.notes.filter((text) => !text.startsWith("override=")).map((text) => el("p", { class: "notice warn" }, ...prose(text))),
  ];
}

function drawOverride(override) {
  const { pid, uid } = override.client;
  const by = pid === null ? "" : ` by process ${pid} of user ${uid}`;
  const what = override.rule === null ? "Every rule" : ["Rule ", el("code", {}, override.rule)];
  return [what, " only warns until ", clock(override.until), ` ${zone(new Date(override.until * 1000))}. Overridden${by}: ${override.reason}`].flat();
}

function drawWays(vm) {
  return titled("May it migrate?", el("dl", { class: "tiles" }, vm.may_migrate.map((way) => {
    const [text, tone] = ANSWERS[way.answer];
    const once = way.once.length > 0 && el("p", {}, `once ${way.once.join(" and ")}`);
    const why = way.reason && el("p", {}, way.reason, way.rule && el("span", { class: "soft" }, ` (${way.rule})`));
    const fix = way.fix && el("p", {}, `→ ${way.fix}`);
    const native = way.answer === "no" && NATIVE[way.native] && el("p", {}, NATIVE[way.native]);
    return el("div", { class: `way ${tone}`, "data-way": way.way, "data-answer": way.answer },
      el("dt", {}, way.way), el("dd", {}, el("strong", {}, text), once, why, fix, native));
  })));
}

function drawCourse(vm) {
  const course = vm.migration;
  const blockers = course.blockers.length > 0 && el("p", { class: "notice warn" }, `QEMU says: ${course.blockers[0]}`);
  if (!course.steps.length) return titled("Migration", blockers, el("p", { class: "soft" }, "none so far"));
  const last = course.steps.length - 1;
  const steps = el("ol", { class: "steps" }, course.steps.map((step, i) => el("li",
    { "aria-current": i === last ? "step" : null },
    pill(step.status, i < last ? "" : course.under_way ? "move" : ENDINGS[step.status] || ""), clock(step.time))));
  return titled("Migration", blockers, steps, drawMoved(course));
}

function drawMoved(course) {
  const total = course.ram_total;
  const vfio = course.vfio_transferred;
  const bar = total > 0 && el("progress", { max: total, value: total - course.ram_remaining, "aria-label": "memory that is through" });
  const words = [
    total > 0 && `${bytes(course.ram_sent)} sent, ${bytes(course.ram_remaining)} of ${bytes(total)} memory to go`,
    vfio != null && el("span", { "data-vfio": vfio }, `VFIO devices: ${bytes(vfio)}`),
  ].filter(Boolean);
  return words.length > 0 && el("div", { class: "moved" }, bar, el("p", {}, words.flatMap((w, i) => (i ? [" · ", w] : [w]))));
}

function drawDevices(vm) {
  if (vm.devices === null) return titled("VFIO devices", el("p", { class: "soft" }, "not looked at yet"));
  if (!vm.devices.length) return titled("VFIO devices", el("p", { class: "soft" }, "none"));
  const rows = vm.devices.map((device) => el("tr", {},
    el("td", { class: "mono" }, device.name), el("td", {}, device.id ?? "", device.hidden && " (hidden)"),
    el("td", {}, device.driver), el("td", { class: "soft mono" }, device.path)));
  return titled("VFIO devices", el("div", { class: "scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, ["host address or name", "id", "type", "in QOM"].map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, rows))));
}

function drawFacts(vm) {
  const on = vm.capabilities === null ? "not looked at yet" : !vm.capabilities.length ? "none"
    : vm.capabilities.flatMap((name, i) => [i ? " " : "", pill(name, DANGEROUS.includes(name) ? "warn" : "")]);
  const counts = vm.counts;
  const drift = vm.drift.last;
  const facts = [
    ["run state", vm.run_state ?? "not known"],
    ["capabilities on", on],
    ["heartbeat", HEARTBEATS[vm.heartbeat]],
    ["looked at", vm.seen === null ? "not yet" : ago(vm.seen)],
    ["commands passed", number.format(counts.passed)],
    ["judged", `${number.format(counts.allowed)} allowed, ${number.format(counts.warned)} warned, ${number.format(counts.refused)} refused`],
    ["drift", drift ? [`${number.format(vm.drift.count)}, last: ${change(drift)} `, ago(drift.time)] : "none"],
  ];
  return el("dl", { class: "grid" }, facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function drawClients(vm) {
  const rows = vm.clients.map((client) => el("tr", {}, el("td", {}, who(client)), el("td", {}, client.state),
    el("td", {}, ago(client.since)), el("td", {}, client.outstanding ? `${client.outstanding} under way` : "")));
  return folded(`Clients: ${vm.clients.length}`, el("div", { class: "scroll" }, el("table", {},
    el("thead", { class: "unseen" }, el("tr", {}, ["who", "state", "since", "requests"].map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, rows))));
}

function drawRules(vm) {
  const rows = vm.rules.map((rule) => el("tr", {}, el("td", { class: "mono" }, rule.id),
    el("td", {}, pill(rule.mode, MODES[rule.mode])), el("td", { class: "wide soft" }, ...prose(summaries.get(rule.id) ?? ""))));
  const held = vm.mode === "enforce" ? "" : `, all held back to ${vm.mode}`;
  return folded(`Rules: profile ${vm.profile}${held}`, el("div", { class: "scroll" }, el("table", {},
    el("thead", { class: "unseen" }, el("tr", {}, ["rule", "mode", "what it does"].map((t) => el("th", { scope: "col" }, t)))),
    el("tbody", {}, rows))));
}

const folded = (title, content) => [el("summary", {}, title), content];

function who(client) {
  const pid = client.pid === null ? "" : `, pid ${client.pid}, uid ${client.uid}`;
  return `client ${client.number}${pid}`;
}

function show(data) {
  let vm = vms.get(data.name);
  if (!vm) {
    vm = { parts: {}, shown: {}, card: el("article", { class: "vm", id: `vm-${data.name}`, "aria-labelledby": `vm-${data.name}-name` }) };
    for (const part of Object.keys(PARTS)) {
      const tag = part === "head" ? "header" : part === "clients" || part === "rules" ? "details" : "section";
      vm.parts[part] = el(tag, { class: part === "head" ? "vm-head" : part });
    }
    const { clients, rules, ...open } = vm.parts;
    vm.card.append(...Object.values(open), el("div", {}, clients, rules));
    vms.set(data.name, vm);
    $("vms").append(vm.card);
  }
  vm.data = data;
  for (const [part, [facts, draw]] of Object.entries(PARTS)) {
    const now = JSON.stringify(facts(data));
    if (vm.shown[part] === now) continue;
    vm.shown[part] = now;
    const drawn = [draw(data)].flat().filter(Boolean);
    vm.parts[part].replaceChildren(...drawn);
    if (part === "notices") vm.parts[part].hidden = !drawn.length;
  }
  vm.card.className = `vm ${data.state}`;
  summarise();
}

function summarise() {
  const all = [...vms.values()].map((vm) => vm.data);
  const wrong = all.filter((vm) => !vm.ready);
  const noun = all.length === 1 ? "1 VM" : `${all.length} VMs`;
  $("summary").textContent = !all.length ? "no VM is guarded" : wrong.length
    ? `${noun}, not ready: ${wrong.map((vm) => vm.name).join(", ")}` : `${noun}, ${all.length === 1 ? "ready" : "all ready"}`;
  document.title = wrong.length ? `(${wrong.length}) qmpguard` : "qmpguard";
  $("overview").hidden = all.length < 2;
  $("overview").replaceChildren(...all.map(drawLink));
  listed();
}

function drawLink(vm) {
  const link = el("a", { href: `#vm-${vm.name}`, class: STATES[vm.state][1] }, vm.name);
  link.addEventListener("click", (event) => {
    event.preventDefault();  // the fragment keeps the token
    const { card } = vms.get(vm.name);
    card.tabIndex = -1;
    card.focus();
    card.scrollIntoView();
  });
  return link;
}

function keepOnly(names) {
  for (const [name, vm] of vms) {
    if (names.includes(name)) continue;
    vm.card.remove();
    vms.delete(name);
  }
  summarise();
}

// what happened

function change(drift) {
  const names = (list) => list.join(", ") || "none";
  return `${drift.fact}: ${names(drift.before)} → ${names(drift.after)}`;
}

function drawEntry(entry) {
  const of = el("span", { class: "of" }, `${entry.vm}: `);  // hidden while there is one VM only
  const head = (badge, ...text) => el("header", {}, badge, el("strong", {}, of, ...text), clock(entry.time));
  if (entry.kind === "drift") {
    return [head(pill("drift", "warn"), entry.fact),
      el("p", {}, change(entry)), el("p", { class: "from" }, "not changed through the guard")];
  }
  if (entry.kind === "link") {
    return [head(entry.up ? pill("linked", "good") : pill("gone", "bad"),
      entry.up ? `QEMU ${entry.what}` : "QEMU is gone"), entry.up ? null : el("p", { class: "from" }, entry.what)];
  }
  if (entry.kind === "override") {
    return [head(pill(entry.begun ? "override" : "override over", "warn"), entry.rule ?? "every rule"),
      entry.begun && el("p", {}, "only warns until ", clock(entry.until)),
      el("p", { class: "from" }, `${who(entry.client)}: ${entry.reason}`)].filter(Boolean);
  }
  const tone = { refused: "bad", warned: "warn", allowed: "good" }[entry.outcome];
  const findings = entry.findings.map((finding) => [
    el("p", {}, ...prose(finding.reason), el("span", { class: "soft" }, ` (${finding.rule})`)),
    el("p", { class: "fix" }, ...prose(finding.fix))]);
  const native = entry.outcome === "refused" && NATIVE[entry.native] && el("p", {}, NATIVE[entry.native]);
  return [head(pill(entry.outcome, tone), el("code", {}, entry.hmp === null ? entry.command : `hmp: ${entry.hmp}`)), ...findings.flat(), native,
    el("p", { class: "from" }, `${who(entry.client)} · ref `, drawRef(entry.ref))];
}

function drawRef(ref) {
  const button = el("button", { class: "ref", title: "copy", "aria-label": `copy ref ${ref}` }, ref);
  button.addEventListener("click", async () => {
    button.dataset.copied = (await copy(button, ref)) ? "copied" : "marked";
    setTimeout(() => delete button.dataset.copied, 1500);
  });
  return button;
}

// The clipboard is for pages of this machine and of https only; elsewhere the text is marked, and copied the old way.
async function copy(node, text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(node);
    return document.execCommand("copy");
  }
}

function fits(entry) {
  const chosen = $("filter").value;
  return chosen === "all" || chosen === entry.dataset.kind || (chosen === "minded" && entry.dataset.minded);
}

function drawItem(entry, fresh) {
  const outcome = entry.outcome ?? entry.kind;
  const item = el("li", { class: `entry ${outcome}${fresh ? " new" : ""}`, "data-kind": entry.kind, "data-id": entry.id,
    "data-vm": entry.vm, "data-minded": ["refused", "warned"].includes(outcome) ? "yes" : null, "data-outcome": outcome },
    drawEntry(entry));
  item.hidden = !fits(item);
  return item;
}

function happened(entry) {
  const log = $("log");
  log.prepend(drawItem(entry, live));
  while (log.childElementCount > room) log.lastElementChild.remove();
  listed();
  if (live) say(entry);
}

// The names of VMs stand before entries as soon as there is more than one, also one that is gone.
function listed() {
  const log = $("log");
  const names = new Set(vms.keys());
  for (const item of log.children) names.add(item.dataset.vm);
  log.classList.toggle("several", names.size > 1);
  $("nothing").hidden = log.childElementCount > 0;
  $("older").hidden = log.childElementCount < MAX_ENTRIES && $("older").dataset.more !== "yes";
}

async function fetchOlder() {
  const log = $("log");
  $("older").disabled = true;
  try {
    const before = log.lastElementChild.dataset.id;
    const { decisions } = await (await get(`/api/v1/decisions?before=${before}&limit=${OLDER}`)).json();
    room += decisions.length;
    log.append(...decisions.reverse().map((entry) => drawItem(entry, false)));
    $("older").dataset.more = decisions.length === OLDER ? "yes" : "no";
    $("older").textContent = decisions.length === OLDER ? "Older decisions" : "No older decisions are kept; the audit may have them";
    listed();
    $("older").disabled = $("older").dataset.more === "no";
  } catch {
    $("older").disabled = false;  // the line says why
  }
}

$("older").addEventListener("click", fetchOlder);

function say(entry) {
  const words = entry.kind === "drift" ? `Drift on ${entry.vm}: ${change(entry)}`
    : entry.kind === "link" ? `${entry.vm}: QEMU is ${entry.up ? "back" : "gone"}`
    : entry.kind === "override" ? `${entry.vm}: override of ${entry.rule ?? "every rule"} ${entry.begun ? "begins" : "is over"}`
    : entry.outcome === "allowed" ? null
    : `${entry.outcome} on ${entry.vm}: ${entry.command}. ${entry.findings[0].reason}. ${entry.findings[0].fix}`;
  if (!words) return;
  $("said").append(el("p", {}, words));
  while ($("said").childElementCount > 5) $("said").firstElementChild.remove();
}

$("filter").addEventListener("change", () => {
  for (const item of $("log").children) item.hidden = !fits(item);
});

// the line

const summaries = new Map();
let token = null;

function readToken() {
  token = new URLSearchParams(location.hash.slice(1)).get("token") ?? token;
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

class Locked extends Error {}

async function get(path, options = {}) {
  const response = await fetch(path, { headers: headers(), cache: "no-store", credentials: "omit", ...options });
  if (response.status === 401) throw new Locked();
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response;
}

async function learnRules() {
  for (const rule of (await (await get("/api/v1/rules")).json()).rules) summaries.set(rule.id, rule.summary);
}

function take(message) {
  const fields = {};
  for (const line of message.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
  }
  if (!fields.event) return;
  const data = JSON.parse(fields.data);
  if (fields.event === "vm") show(data);
  else if (fields.event === "vms") { live = true; keepOnly(data.names); } else happened(data);
  if (fields.id) place = fields.id;
}

async function listen() {
  const stop = new AbortController();
  let alarm = setTimeout(() => stop.abort(), SILENCE);
  try {
    const response = await get(`/api/v1/stream?since=${place}&latest=${MAX_ENTRIES}&kinds=decision,drift,link,override`,
      { signal: stop.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    line("live", "live");
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      heard = new Date();
      clearTimeout(alarm);
      alarm = setTimeout(() => stop.abort(), SILENCE);
      const messages = (rest + value).split("\n\n");
      rest = messages.pop();
      messages.forEach(take);
    }
  } finally {
    clearTimeout(alarm);
  }
}

function line(state, text) {
  if ($("line").dataset.state === state) return;
  $("line").dataset.state = state;
  $("line").textContent = text;
  $("main").classList.toggle("stale", state === "lost");
  if (state === "live") { $("main").hidden = false; $("door").hidden = $("wrong").hidden = true; }
}

async function stay() {
  for (let failures = 0; ; ) {
    const began = Date.now();
    try {
      if (!summaries.size) await learnRules();
      await listen();
    } catch (error) {
      if (error instanceof Locked) {
        line("waiting", "locked");
        $("main").hidden = true;
        $("door").hidden = false;
        $("wrong").hidden = token === null;
        $("token").select();
        await new Promise((resolve) => { opened = resolve; });
        continue;
      }
    }
    failures = Date.now() - began > 10_000 ? 0 : failures + 1;
    line("lost", `the guard does not answer${heard ? `; this is how it was at ${hours(heard)} ${zone(heard)}` : ""}`);
    await new Promise((resolve) => setTimeout(resolve, DELAYS[Math.min(failures, DELAYS.length - 1)]));
  }
}

let opened = () => {};  // called when there is another token to try

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = encodeURIComponent($("token").value.trim());
  if (location.hash === `#token=${given}`) opened();  // the same one again changes no address
  location.hash = `token=${given}`;
});

addEventListener("hashchange", () => {
  readToken();
  opened();
});

$("zone").textContent = `times in ${Intl.DateTimeFormat().resolvedOptions().timeZone} (${zone(new Date())})`;

readToken();
stay();
