// Elements and words.  Everything that comes from outside becomes text, never markup, and is cleaned and clipped first.

const SVG = "http://www.w3.org/2000/svg";
// controls, and what reorders or hides text: bidi marks and overrides, zero-width characters, line separators
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u115f\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\uffff]|[\u{e0000}-\u{e0fff}]/gu;
const STACKED = /(\p{M}{3})\p{M}+/gu;

export const byId = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Sets only what differs, so that a screen reader or a selection is not disturbed.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function prose(value) {
  return String(value ?? "").replace(UNSEEN, "").replace(STACKED, "$1");
}

export function name(value, most = 48) {
  const clean = prose(String(value ?? "").slice(0, 1000)).replace(/\s+/g, " ").trim();
  const letters = [...clean];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : clean;
}

export const short = (peer) => (peer ? `…${name(peer, 80).slice(-8)}` : "–");

const OCTAS_PER_APT = 100_000_000;

// [number, unit]: APT once that means something, as in the command line
export function money(octas) {
  if (octas === null || octas === undefined) return ["–", ""];
  if (octas < OCTAS_PER_APT / 1000) return [octas.toLocaleString("en"), "octas"];
  const apt = octas / OCTAS_PER_APT;
  return [apt.toLocaleString("en", { maximumFractionDigits: apt < 100 ? 4 : 2 }), "APT"];
}

export const amount = (octas) => money(octas).join(" ").trim();

export function count(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en");
}

export function millis(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 10) return `${value.toFixed(1)} ms`;
  return value < 10_000 ? `${count(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function when(unix, now) {
  if (unix - now > 20 * 365 * 86_400) return "for good";
  return unix > now ? `in ${span(unix - now)}` : `${span(now - unix)} ago`;
}

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
