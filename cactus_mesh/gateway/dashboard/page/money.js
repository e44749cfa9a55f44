// What the account has, every amount that is locked and why, what tasks have brought and cost.

import { amount, byId, make, money, name, prose, say, when } from "./dom.js";

const KINDS = {
  coins: "Coins", deposit: "Deposit", escrow: "Escrow", withdrawal: "Withdrawal", stake: "Stake", unbonding: "Unbonding",
  bond: "Bond", dispute: "Dispute", budget: "Held for clients",
};

let drawn = "";

export function figure(octas) {
  const [number, unit] = money(octas);
  return [number, unit ? make("span", { class: "unit" }, unit) : null];
}

export function showMoney({ money: told, totals, now, self }) {
  const failed = told.error ? `${prose(told.error.message).slice(0, 160)} [${name(told.error.code)}]` : "";
  say(byId("money-words"), failed || (told.as_of === null ? "asking the ledger" : `from the ledger, ${when(Math.min(told.as_of, now), now)}`));
  const key = JSON.stringify([told.holdings, told.spent_today_octas, totals, Math.floor(now / 30), told.as_of === null]);
  if (key === drawn) return;
  drawn = key;
  const sums = [["Coins", told.coins_octas], ["Deposit", told.deposit_octas], ["Locked", told.locked_octas]];
  if (self.roles.includes("orchestrator")) sums.push(["Signed for", totals.orchestrator.octas, "asked for by receipts since the start; the ledger pays at most that"]);
  if (told.spent_today_octas !== null) sums.push(["Spent today", told.spent_today_octas, "since midnight UTC; tasks under way count with their most"]);
  byId("money-sums").replaceChildren(...sums.map(([word, octas, why]) =>
    make("div", { title: why ?? null }, make("dt", {}, word), make("dd", {}, ...figure(octas)))));
  const lines = told.holdings.filter((line) => line.amount || line.do || line.kind === "dispute");
  byId("money-lines").replaceChildren(...(lines.length ? lines.map((line) => row(line, now)) : [make("li", {}, make("p", { class: "empty" }, ...nothing(told)))]));
}

function nothing(told) {
  if (told.as_of === null) return ["Amounts come as soon as the ledger has answered."];
  return ["This account holds nothing yet. Once it has coins, make a deposit to pay for tasks: ", make("code", {}, "cactus-mesh deposit AMOUNT")];
}

function row(line, now) {
  const until = line.until && line.kind !== "budget" ? make("span", { class: `chip ${line.due ? "warn" : ""}` }, line.due ? "due now" : when(line.until, now)) : null;
  return make("li", {},
    make("div", { class: "line" }, make("span", { class: "name" }, KINDS[line.kind] ?? name(line.kind)), until, make("span", { class: "amount" }, amount(line.amount))),
    make("p", { class: "why" }, prose(line.why)),
    line.do ? make("p", { class: "do" }, make("code", {}, prose(line.do))) : null);
}
