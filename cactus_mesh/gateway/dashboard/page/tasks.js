// Tasks under way, with tokens as they come, and the last that ended.

import { amount, byId, count, make, millis, name, plural, prose, say, short, when } from "./dom.js";

const SHOWN_RUNNING = 6;
const SHOWN_DONE = 10;
const TAIL = 260;
const SPARE = new Set(["Part", "Model", "Orchestrator", "When"]);
const STATES = { waiting: "finding an orchestrator", working: "reading the prompt", streaming: "streaming" };
const PARTS = { client: "asked here", router: "routed here", orchestrator: "worked on here" };

let items = new Map();
let drawn = "";

export function showTasks({ running, running_total, done, totals, now, self }, texts) {
  const all = Object.values(totals).reduce((sum, part) => sum + part.done, 0);
  say(byId("tasks-words"), `${running_total ? `${count(running_total)} under way, ` : ""}${count(all)} done since the start`);
  showRunning(running, running_total, texts, done.length);
  showDone(done, now, self);
}

function showRunning(running, total, texts, ended) {
  const list = byId("running");
  const next = new Map();
  for (const task of running.slice(0, SHOWN_RUNNING)) {
    const key = `${task.role} ${task.id}`;
    const item = items.get(key) ?? blank();
    update(item, task, texts.get(task.id));
    next.set(key, item);
  }
  const wanted = [...next.values()].map((item) => item.root);
  if (total > wanted.length && wanted.length) wanted.push(make("li", { class: "note" }, `and ${count(total - wanted.length)} more`));
  if (!wanted.length && !ended) wanted.push(make("p", { class: "empty" }, "Nothing has been asked yet. Try the playground, or point any OpenAI client at this address with /v1 behind it."));
  if (wanted.length !== list.childElementCount || wanted.some((root, at) => list.children[at] !== root)) list.replaceChildren(...wanted);
  items = next;
}

function blank() {
  const parts = {
    model: make("span", { class: "name" }), state: make("span", { class: "chip" }), part: make("span", { class: "note" }),
    numbers: make("span", { class: "push" }), bar: make("progress", { "aria-label": "tokens of the most" }), tail: make("p", { class: "tail", dir: "auto", hidden: true }),
  };
  parts.root = make("li", {}, make("div", { class: "line" }, parts.model, parts.state, parts.part, parts.numbers), parts.bar, parts.tail);
  return parts;
}

function update(item, task, text) {
  say(item.model, name(task.model));
  say(item.state, STATES[task.state] ?? name(task.state));
  item.state.className = task.state === "streaming" ? "chip good" : "chip";
  say(item.part, PARTS[task.role] + (task.role === "client" ? "" : `, for ${short(task.peer)}`));
  const rate = task.tokens_per_second === null ? "" : ` · ${count(task.tokens_per_second)}/s`;
  say(item.numbers, `${count(task.tokens)} of ${plural(task.max_tokens, "token")}${rate}`);
  item.bar.max = Math.max(1, task.max_tokens);
  item.bar.value = task.tokens;
  item.tail.hidden = !text;
  if (text) say(item.tail, prose(text.slice(-TAIL)).trimStart());
}

function showDone(done, now, self) {
  const rows = done.slice(0, SHOWN_DONE);
  const key = JSON.stringify(rows.map((task) => [task.role, task.id, Math.floor((now - task.asked_at) / 60)]));
  if (key === drawn) return;
  drawn = key;
  const box = byId("done");
  if (!rows.length) {
    box.replaceChildren();
    return;
  }
  const several = self.roles.length > 1 || new Set(done.map((task) => task.role)).size > 1;
  const head = ["Ended", several ? "Part" : null, "Model", ["Tokens"], ["First token"], ["Price"], "Orchestrator", "When"].filter(Boolean);
  const cells = head.map((word) => make("th", { scope: "col", class: SPARE.has(word) ? "spare" : Array.isArray(word) ? "number" : null }, String(word)));
  box.setAttribute("tabindex", "0");
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", "Tasks that ended");
  box.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...cells)), make("tbody", {}, ...rows.map((task) => row(task, now, several)))));
}

function row(task, now, several) {
  const good = task.state === "ok";
  const word = good ? (task.verified ? "verified" : "done") : task.state === "gone" ? "left" : name(task.state, 28);
  return make("tr", {},
    make("td", {}, make("span", { class: `chip ${good ? "good" : task.state === "gone" ? "" : "bad"}` }, word)),
    several ? make("td", { class: "spare" }, PARTS[task.role].split(" ")[0]) : null,
    make("td", { class: "spare", title: name(task.model, 200) }, name(task.model, 28)),
    make("td", { class: "number" }, count(task.tokens)),
    make("td", { class: "number" }, millis(task.first_token_ms)),
    make("td", { class: "number" }, good ? amount(task.price_octas) : "–"),
    make("td", { class: "id spare" }, task.orchestrator ? short(task.orchestrator) : task.role === "orchestrator" ? "this one" : "–"),
    make("td", { class: "spare" }, when(task.asked_at, now)));
}
