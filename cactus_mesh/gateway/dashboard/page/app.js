// Puts the page together: what came last, who shows it, the key, the theme and the state of the connection.

import { byId, count, make, millis, name, plural, say, short, span } from "./dom.js";
import { follow } from "./feed.js";
import { showKey, showMesh } from "./mesh.js";
import { figure, showMoney } from "./money.js";
import { loadModels, startPlayground } from "./playground.js";
import { Plot } from "./plot.js";
import { showTasks } from "./tasks.js";

const KEY = "cactus-key";
const THEME = "cactus-theme";
const HUES = 6;
const CURVES = 8;
const MODELS_MS = 10_000;
const HOUR = 3600;
const RATE_SECONDS = 5;

const told = {};
const texts = new Map();
let reach = "fine";
let asked = 0;

// From a round share below the lowest to all: [bottom, top, step].
function percents(values) {
  const bottom = Math.max(0, Math.floor((Math.min(0.9, ...values) - 0.05) * 10) / 10);
  return [bottom, 1, (1 - bottom) / 4];
}

const key = () => sessionStorage.getItem(KEY);

const plots = {
  tokens: new Plot(byId("plot-tokens"), { title: "Throughput", unit: "tokens per second", format: (value) => (value < 10 && value % 1 ? value.toFixed(1) : count(value)), floor: 4, empty: "no tokens yet" }),
  first: new Plot(byId("plot-first"), { title: "Time to the first token", unit: "median", format: (value) => millis(value), floor: 20, spots: true, empty: "no task has had its first token in this time" }),
  rtt: new Plot(byId("plot-rtt"), { title: "Round trip to peers", unit: "median", format: (value) => millis(value), floor: 4, empty: "no peer has answered a ping yet" }),
  standing: new Plot(byId("plot-standing"), { title: "Over the last hour", unit: "", format: (value) => `${Math.round(value * 100)} %`, range: percents, height: 150, quiet: true, empty: "no orchestrator is known yet" }),
};

// --- showing ------------------------------------------------------------------------------------------------------

function show() {
  if (!told.self) return;
  byId("board").hidden = false;
  const { self, peers, peers_total, running, now } = told;
  say(byId("whoami"), `${self.roles.join(", ")} ${short(self.peer_id)} on ${name(self.network, 40)}, for ${span(now - self.started_at)}`);
  showFigures();
  showMesh(self, peers, peers_total, running, now);
  showTasks(told, texts);
  showMoney(told);
  showSeries();
  showStandings();
  const where = self.addresses.slice(0, 3).map((address) => name(address, 160)).join("  ");
  say(byId("foot"), `cactus-mesh ${name(self.version, 24)} · ${name(self.peer_id, 80)}${where ? ` · ${where}` : ""}`);
  if (Date.now() - asked > MODELS_MS) {
    asked = Date.now();
    loadModels(key, self.default_model);
  }
}

function newest(kind) {
  return told.series.fine.values[kind].findLast((value) => value !== null) ?? null;
}

const PARTS = ["client", "router", "orchestrator"];

// The part that does most: a task that passes through several roles of one process is not counted twice.
const most = (of) => Math.max(...PARTS.map(of));

function rateOf(part) {
  const recent = told.series.fine.values[`tokens_${part}`].slice(-RATE_SECONDS);
  return recent.length ? recent.reduce((sum, value) => sum + value, 0) / recent.length : 0;
}

function showFigures() {
  const { peers, peers_total, running_total, totals, money, self } = told;
  const relayed = peers.filter((peer) => peer.relayed).length;
  const rate = most(rateOf);
  const failed = PARTS.reduce((sum, part) => sum + totals[part].failed, 0);
  const staked = self.roles.includes("orchestrator");
  const rtt = newest("rtt_ms");
  const rows = [
    ["Peers", [count(peers_total)], relayed ? `${plural(relayed, "relayed path")}` : peers_total ? "all direct" : "nobody connected"],
    ["Tasks under way", [count(running_total)], `${count(PARTS.reduce((sum, part) => sum + totals[part].done, 0))} done${failed ? `, ${count(failed)} failed` : ""}`],
    ["Tokens per second", [rate < 10 && rate > 0 ? rate.toFixed(1) : count(rate)], `${count(most((part) => totals[part].tokens))} since the start`],
    ["Round trip", rtt === null ? ["–"] : millis(rtt).split(" ").map((word, at) => (at ? make("span", { class: "unit" }, word) : word)), "median over peers"],
    [staked ? "Stake" : "Deposit", figure(staked ? money.stake_octas : money.deposit_octas), staked ? "answers for the work" : "pays for tasks"],
  ];
  const list = byId("figures");
  if (list.childElementCount !== rows.length) {
    list.replaceChildren(...rows.map(() => make("div", {}, make("dt"), make("dd"), make("dd", { class: "note" }))));
  }
  rows.forEach(([word, value, note], at) => {
    const [title, number, words] = list.children[at].children;
    say(title, word);
    say(words, note);
    const text = value.map((part_) => part_?.textContent ?? part_ ?? "").join("");
    if (number.textContent !== text) number.replaceChildren(...value.filter(Boolean));
  });
}

function showSeries() {
  const { ends_at, every_seconds, points, values } = told.series[reach];
  const many = values.rtt_ms.length;
  const times = Array.from({ length: many }, (_, at) => ends_at - (many - 1 - at) * every_seconds);
  const width = points * every_seconds;
  const now = Math.max(told.now, ends_at ?? 0);
  const line = (label, kind, hue, dash = 0) => ({ label, values: values[kind], hue, dash });
  const works = PARTS.filter((part) => told.totals[part].tokens > 0);
  const words = { client: "asked here", router: "routed", orchestrator: "worked on" };
  plots.tokens.show(times, (works.length ? works : ["client"]).map((part, at) => line(words[part], `tokens_${part}`, at, at)), width, now);
  plots.first.show(times, [line("first token", "first_token_ms", 1)], width, now);
  plots.rtt.show(times, [line("round trip", "rtt_ms", 4)], width, now);
}

// All standings on one row of times: those of the one that is known longest.
function showStandings() {
  const rows = told.reputation.slice(0, CURVES);
  const longest = rows.reduce((most, each) => (each.history.length > most.length ? each.history : most), []);
  const times = longest.map(([time]) => time);
  const lines = rows.map((each, at) => {
    const found = new Map(each.history.map(([time, success]) => [time, success]));
    return { label: short(each.peer_id), values: times.map((time) => found.get(time) ?? null), hue: at % HUES, dash: at % 3 };
  });
  plots.standing.show(times, lines, HOUR, told.now);
  const list = rows.map((each, at) => make("li", {},
    make("div", { class: "line" },
      make("span", {}, make("span", { class: `swatch f${at % HUES}`, "aria-hidden": "true" }), make("span", { class: "id", title: name(each.peer_id, 80) }, short(each.peer_id))),
      each.frozen ? make("span", { class: "chip warn" }, "disputed") : null,
      make("span", { class: "note" }, each.models.map((model) => name(model, 32)).join(", ")),
      make("span", { class: "amount" }, `${(each.success * 100).toFixed(1)} %`)),
    make("p", { class: "why" }, about(each))));
  if (!list.length) list.push(make("li", {}, make("p", { class: "empty" }, "Orchestrators appear here with the first task, and on a router as soon as they have a stake.")));
  const words = list.map((each) => each.textContent).join("\n");
  if (byId("standing-rows").dataset.words !== words) {
    byId("standing-rows").dataset.words = words;
    byId("standing-rows").replaceChildren(...list);
  }
}

function about(each) {
  const parts = [];
  if (each.stake_octas !== null) parts.push(`stake ${figure(each.stake_octas).map((part) => part?.textContent ?? part).join(" ")}`);
  if (each.slots !== undefined) parts.push(`${count(each.busy)} of ${plural(each.slots, "slot")} busy`);
  parts.push(`${count(each.completed)} paid${each.failed ? `, ${count(each.failed)} failed` : ""}`);
  if (each.first_token_ms) parts.push(`first token ${millis(each.first_token_ms)}`);
  return parts.join(" · ");
}

// --- the connection -----------------------------------------------------------------------------------------------

const WORDS = { live: "live", lost: "not connected", locked: "needs a key", waiting: "connecting" };

function state(now, more = {}) {
  byId("link").dataset.state = now;
  say(byId("link-word"), WORDS[now]);
  byId("board").classList.toggle("stale", now === "lost");
  const lost = now === "lost";
  if (byId("banner").hidden === lost) byId("banner").hidden = !lost;
  if (lost) {
    const why = more.crowded ? "Too many pages watch this gateway." : told.self ? "The connection to the gateway is lost; what you see is from before." : "The gateway does not answer.";
    say(byId("banner-text"), `${why} Trying again by itself.`);
  }
  if (now === "locked") lock();
  if (now === "live") byId("locked").hidden = true;
}

function lock() {
  say(byId("door-error"), key() ? "This key is wrong, or was removed." : "");
  sessionStorage.removeItem(KEY);
  byId("locked").hidden = false;
  byId("board").hidden = true;
  byId("door-key").value = "";
  byId("door-key").focus();
}

const feed = follow({
  key,
  state,
  took(part, whole) {
    if (whole) texts.clear();
    Object.assign(told, part);
    for (const id of [...texts.keys()].slice(0, -64)) texts.delete(id);
    show();
  },
  text({ id, from, more }) {
    texts.set(id, [...(texts.get(id) ?? "")].slice(0, from).join("") + more);
    if (told.self) showTasks(told, texts);
  },
});

byId("banner-retry").addEventListener("click", () => feed.retry());
byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("door-key").value.trim());
  feed.retry();
});

// --- the rest -----------------------------------------------------------------------------------------------------

function announce(text) {
  say(byId("said"), text);
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function paintTheme(chosen) {
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  byId("theme").setAttribute("aria-label", dark() ? "Switch to light" : "Switch to dark");
}

byId("theme").addEventListener("click", () => {
  const chosen = dark() ? "light" : "dark";
  localStorage.setItem(THEME, chosen);
  paintTheme(chosen);
});
for (const [button, kind] of [["span-fine", "fine"], ["span-coarse", "coarse"]]) {
  byId(button).addEventListener("click", () => {
    reach = kind;
    byId("span-fine").setAttribute("aria-pressed", String(kind === "fine"));
    byId("span-coarse").setAttribute("aria-pressed", String(kind === "coarse"));
    if (told.series) showSeries();
  });
}
byId("mesh-details").addEventListener("toggle", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => paintTheme());
paintTheme(localStorage.getItem(THEME));
showKey();
startPlayground({ key, announce });
