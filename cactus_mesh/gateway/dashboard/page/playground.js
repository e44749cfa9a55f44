// Ask the mesh something: the answer as it streams, then its receipt, or the error and what to do about it.

import { amount, byId, count, make, name, prose, say } from "./dom.js";

const ADVICE = {
  "ledger.no_funds": ["Make a deposit, then ask again: ", "cactus-mesh deposit AMOUNT"],
  "budget.exceeded": ["Allow fewer octas above, or raise the caps under [client] in config.toml."],
  "task.unknown_model": ["Choose another model; the list shows what is offered now."],
  "task.price_too_low": ["Nobody works for so little: allow more octas, or fewer tokens."],
  "task.deadline_passed": ["It took too long; allow fewer tokens, or ask again."],
  "task.busy": ["Everybody is busy; ask again in a moment."],
  "unreachable.no_orchestrator": ["Nobody can take this now. Look at the mesh: is an orchestrator with a stake connected?"],
  "unreachable.no_router": ["See what stands in the way: ", "cactus-mesh doctor"],
  "unreachable.peer": ["See what stands in the way: ", "cactus-mesh doctor"],
  "ledger.down": ["The ledger does not answer; it may come back by itself. See: ", "cactus-mesh doctor"],
  "gateway.key_rejected": ["Load this page again and give a key that holds."],
  "gateway.too_many_requests": ["Wait a moment, then ask again."],
  "receipt.rejected": ["Do not rely on this text. Asking again goes to another router."],
  connection_lost: ["Is the gateway still running? This page comes back with it."],
};
const CHECKS = [
  "signed by the orchestrator, for this prompt, this model and these settings",
  "tokens and text are those that came, and fit the model and the most allowed",
  "the router’s verdict agrees, and its lot for audits was drawn fairly",
  "the price follows from the work and stays below the most",
];

let stop = null;
let known = "";

export function startPlayground({ key, announce }) {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    ask({ key, announce });
  });
  byId("ask-stop").addEventListener("click", () => stop?.abort());
  byId("ask-prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
  });
}

const headers = (key) => (key() ? { authorization: `Bearer ${key()}` } : {});

export async function loadModels(key, preferred) {
  let models = [];
  try {
    const response = await fetch("/v1/models", { headers: headers(key), cache: "no-store" });
    if (response.ok) models = (await response.json()).data.filter((model) => model.cactus.kinds.includes("chat"));
  } catch {
    return;
  }
  const list = byId("ask-model");
  const now = JSON.stringify(models.map((model) => model.id));
  if (now === known && list.childElementCount) return;
  known = now;
  const chosen = list.value || preferred;
  list.replaceChildren(...models.map((model) => make("option", { value: model.id, selected: model.id === chosen }, name(model.id, 60))));
  if (!models.length) list.append(make("option", { value: "" }, "none offered now"));
  byId("ask-send").disabled = !models.length;
  if (!stop) say(byId("ask-state"), models.length ? "" : "No model is offered yet; an orchestrator with a stake must join.");
}

async function ask({ key, announce }) {
  if (stop) return;
  const answer = begin();
  const body = {
    model: byId("ask-model").value, stream: true, stream_options: { include_usage: true }, temperature: 0,
    messages: [{ role: "user", content: byId("ask-prompt").value }],
    max_tokens: Number(byId("ask-tokens").value), max_price: Number(byId("ask-price").value),
  };
  stop = new AbortController();
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json", ...headers(key) }, body: JSON.stringify(body), signal: stop.signal,
    });
    if (!response.ok) throw await fault(response);
    answer.task = response.headers.get("x-cactus-task-id");
    await read(response.body, answer);
    if (!answer.receipt) throw { code: "stream_cut", message: "The stream ended before its receipt came." };
    receipt(answer);
    announce(`Answer complete, ${count(answer.receipt.completion)} tokens, receipt verified.`);
  } catch (error) {
    if (stop.signal.aborted) say(byId("ask-state"), "Stopped. What had come by then is paid.");
    else complain(error);
  } finally {
    stop = null;
    byId("answer-text").classList.remove("streaming");
    byId("ask-stop").hidden = true;
    byId("ask-send").disabled = false;
  }
}

function begin() {
  byId("answer").hidden = false;
  byId("answer-text").replaceChildren();
  byId("answer-text").classList.add("streaming");
  for (const part of ["answer-error", "answer-receipt"]) byId(part).hidden = true;
  byId("ask-stop").hidden = false;
  byId("ask-send").disabled = true;
  say(byId("ask-state"), "asking");
  return { began: performance.now(), first: null, receipt: null, usage: null };
}

async function fault(response) {
  try {
    const { error } = await response.json();
    return { code: error.code, message: error.message };
  } catch {
    return { code: `http_${response.status}`, message: "The gateway gave an answer that is none of its own." };
  }
}

async function read(body, answer) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (waiting + value).split("\n\n");
    waiting = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (data && data !== "[DONE]") take(JSON.parse(data), answer);
    }
  }
}

function take(chunk, answer) {
  if (chunk.error) throw { code: chunk.error.code, message: chunk.error.message };
  const piece = chunk.choices?.[0]?.delta?.content;
  if (piece) {
    const box = byId("answer-text");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    if (answer.first === null) {
      answer.first = performance.now() - answer.began;
      say(byId("ask-state"), "streaming");
    }
    box.append(prose(piece));
    if (atEnd) box.scrollTop = box.scrollHeight;
  }
  if (chunk.cactus) answer.receipt = { ...chunk.cactus, finish: chunk.choices[0].finish_reason };
  if (chunk.usage && answer.receipt) Object.assign(answer.receipt, { prompt: chunk.usage.prompt_tokens, completion: chunk.usage.completion_tokens });
}

function receipt(answer) {
  const told = answer.receipt;
  const seconds = (performance.now() - answer.began) / 1000;
  say(byId("ask-state"), "");
  const rows = [
    ["Price", `${amount(told.price_octas)}, of at most ${amount(told.max_price_octas)}`],
    ["Tokens", `${count(told.prompt)} in, ${count(told.completion)} out${told.finish === "length" ? " (the most allowed)" : ""}`],
    ["Time", `${seconds.toFixed(2)} s${answer.first === null ? "" : `, ${(answer.first / 1000).toFixed(2)} s to the first token`}`],
    ["Orchestrator", id(told.orchestrator)],
    told.delegate ? ["Work done by", id(told.delegate)] : null,
    ["Router", id(told.router)],
    told.continued_at === null || told.continued_at === undefined ? null : ["Taken over", `at token ${count(told.continued_at)}, from an orchestrator that was lost`],
    ["Audit", told.audited ? "the lot fell on this answer: it is replayed now" : "the lot did not fall on this answer"],
    ["Task", id(told.task_id)],
  ].filter(Boolean);
  const box = byId("answer-receipt");
  box.replaceChildren(
    make("p", { class: "verified" }, "Receipt verified"),
    make("ul", { "aria-label": "What was checked" }, ...CHECKS.map((check) => make("li", {}, make("span", {}, check)))),
    make("dl", {}, ...rows.flatMap(([word, value]) => [make("dt", {}, word), make("dd", {}, value)])));
  box.hidden = false;
}

const id = (value) => make("span", { class: "id" }, name(value, 80));

function complain(error) {
  const lost = error instanceof TypeError;
  const code = lost ? "connection_lost" : name(error.code ?? "internal");
  const message = lost ? "The gateway could not be reached, or the connection broke." : prose(error.message ?? String(error)).slice(0, 600);
  const advice = ADVICE[code];
  say(byId("ask-state"), "");
  byId("answer-error").replaceChildren(
    make("p", {}, message, " ", make("code", {}, code)),
    advice ? make("p", { class: "advice" }, advice[0], advice[1] ? make("code", {}, advice[1]) : "") : "");
  byId("answer-error").hidden = false;
}
