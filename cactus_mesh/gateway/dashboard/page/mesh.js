// The mesh, drawn: this process in the middle, peers around it, the nearer the quicker.  A place stays a peer's own.

import { byId, draw, make, millis, name, plural, say, short, span } from "./dom.js";

export const ROLES = ["orchestrator", "router", "relay", "bootstrap", "client"];
const SHAPES = {
  orchestrator: "M0 -10 L8.700 -5 L8.700 5 L0 10 L-8.700 5 L-8.700 -5 Z",
  router: "M0 -10.500 L10.500 0 L0 10.500 L-10.500 0 Z",
  relay: "M-8 -8 H8 V8 H-8 Z",
  bootstrap: "M0 -9.500 L9.800 7.500 L-9.800 7.500 Z",
  client: "M-8 0 A8 8 0 1 1 8 0 A8 8 0 1 1 -8 0 Z",
};
const SCALES_MS = [2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500];
const NAMED = 24;
const NARROW = 520;
const DRAWN = 72;
const EASE = 0.18;

const places = new Map();
let frame = 0;
let last = null;

export const mainRole = (roles) => ROLES.find((role) => roles.includes(role)) ?? "client";
const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

export function showKey() {
  const shapes = ROLES.map((role) =>
    make("li", {}, draw("svg", { viewBox: "-12 -12 24 24", "aria-hidden": "true" }, draw("path", { d: SHAPES[role], class: `role-${role}` })), role));
  const line = (kind, word) =>
    make("li", {}, draw("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, draw("line", { x1: 0, y1: 12, x2: 24, y2: 12, class: kind })), word);
  byId("mesh-key").replaceChildren(...shapes, line("direct", "direct"), line("relayed", "through a relay"));
  new ResizeObserver(() => last && paint(...last)).observe(byId("mesh-drawing"));
}

export function showMesh(self, peers, total, running, now) {
  last = [self, peers, total, running, now];
  const relayed = peers.filter((peer) => peer.relayed).length;
  say(byId("mesh-words"), peers.length ? `${plural(total, "peer")}, ${total - relayed} direct${relayed ? `, ${relayed} relayed` : ""}` : "");
  rows(peers, now);
  paint(self, peers, total, running, now);
}

function rows(peers, now) {
  if (!byId("mesh-details").open && byId("mesh-rows").childElementCount) {
    byId("mesh-rows").replaceChildren();
    return;
  }
  if (!byId("mesh-details").open) return;
  byId("mesh-rows").replaceChildren(...peers.map((peer) => {
    const path = peer.relayed ? `through ${peer.relay ? short(peer.relay) : "a relay"}` : "direct";
    return make("tr", {},
      make("td", { class: "id", title: name(peer.peer_id, 80) }, short(peer.peer_id)),
      make("td", {}, peer.roles.map((role) => name(role, 16)).join(", ")),
      make("td", { title: peer.why_relayed ? name(peer.why_relayed, 200) : null }, path),
      make("td", { class: "number" }, millis(peer.rtt_ms)),
      make("td", {}, span(now - peer.since)),
      make("td", {}, name(peer.agent, 40)));
  }));
}

// Peers in a stable order, each followed by those that are reached through it.
function ordered(peers) {
  const rank = (peer) => ROLES.indexOf(mainRole(peer.roles));
  const sorted = [...peers].sort((a, b) => rank(a) - rank(b) || (a.peer_id < b.peer_id ? -1 : 1));
  const known = new Set(peers.map((peer) => peer.peer_id));
  const behind = (relay) => sorted.filter((peer) => peer.relayed && peer.relay === relay);
  const front = sorted.filter((peer) => !peer.relayed || !known.has(peer.relay));
  const found = front.flatMap((peer) => {
    const others = behind(peer.peer_id).filter((other) => other !== peer && !front.includes(other));
    const half = Math.ceil(others.length / 2);
    return [...others.slice(0, half), peer, ...others.slice(half)];
  });
  return [...new Set(found)];
}

const distance = (share) => 0.48 + 0.44 * share;
const radii = (width, height) => [width / 2 - (width < NARROW ? 34 : 70), height / 2 - 36];

function goals(peers, width, height, scale) {
  const found = new Map();
  const [wide, high] = radii(width, height);
  const order = ordered(peers);
  order.forEach((peer, at) => {
    const angle = -Math.PI / 2 + (2 * Math.PI * (at + 0.5)) / order.length;
    const share = peer.rtt_ms === null ? 0.8 : Math.sqrt(Math.min(peer.rtt_ms, scale) / scale);
    const far = peer.relayed ? 1 : distance(share);
    found.set(peer.peer_id, [width / 2 + Math.cos(angle) * wide * far, height / 2 + Math.sin(angle) * high * far]);
  });
  return found;
}

function paint(self, peers, total, running, now) {
  const box = byId("mesh-drawing");
  const width = Math.max(280, box.clientWidth || 640);
  const height = width < NARROW ? 360 : 470;
  const shown = peers.slice(0, DRAWN);
  const slowest = Math.max(1, ...shown.filter((peer) => !peer.relayed).map((peer) => peer.rtt_ms ?? 0));
  const scale = SCALES_MS.find((each) => each >= slowest) ?? slowest;
  const goal = goals(shown, width, height, scale);
  for (const peer of [...places.keys()]) if (!goal.has(peer)) places.delete(peer);
  for (const [peer, [x, y]] of goal) {
    if (!places.has(peer) || calm()) places.set(peer, [x, y]);
  }
  cancelAnimationFrame(frame);
  const step = () => {
    let moving = false;
    for (const [peer, [x, y]] of goal) {
      const [px, py] = places.get(peer);
      const near = Math.abs(x - px) + Math.abs(y - py) < 0.5;
      places.set(peer, near ? [x, y] : [px + (x - px) * EASE, py + (y - py) * EASE]);
      moving ||= !near;
    }
    render(box, self, shown, total, running, width, height, scale, now);
    if (moving) frame = requestAnimationFrame(step);
  };
  step();
}

function render(box, self, peers, total, running, width, height, scale, now) {
  const middle = [width / 2, height / 2];
  const busy = new Set(running.flatMap((task) => [task.peer, task.orchestrator]));
  const named = peers.length > NAMED ? "" : width < NARROW || peers.length > NAMED / 2 ? "short" : "long";
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words(peers, total) });
  if (peers.length) svg.append(...rings(middle, width, height, scale));
  for (const peer of peers) svg.append(way(peer, middle, busy));
  for (const peer of peers) svg.append(dot(peer, named, busy, now));
  svg.append(own(self, middle));
  if (!peers.length) svg.append(draw("text", { x: middle[0], y: middle[1] + 66, class: "second" }, "no peers yet; others join through this node’s addresses, below"));
  box.replaceChildren(svg);
}

function rings([x, y], width, height, scale) {
  return [0.25, 1].flatMap((part) => {
    const [wide, high] = radii(width, height).map((each) => each * distance(Math.sqrt(part)));
    return [
      draw("ellipse", { cx: x, cy: y, rx: wide, ry: high, class: "ring" }),
      draw("text", { x, y: y - high + 4, class: "ring-word" }, `${Number((scale * part).toPrecision(2))} ms`),
    ];
  });
}

function way(peer, [x, y], busy) {
  const [px, py] = places.get(peer.peer_id);
  const through = peer.relayed ? places.get(peer.relay) : null;
  const points = through ? `${through[0]},${through[1]} ${px},${py}` : `${x},${y} ${px},${py}`;
  const kind = `way${peer.relayed ? " relayed" : ""}${busy.has(peer.peer_id) ? " busy" : ""}`;
  return draw("polyline", { points, class: kind });
}

function dot(peer, named, busy, now) {
  const [x, y] = places.get(peer.peer_id);
  const role = mainRole(peer.roles);
  const path = peer.relayed ? `through ${peer.relay ? short(peer.relay) : "a relay"}` : "direct";
  const group = draw("g", { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, class: `peer${busy.has(peer.peer_id) ? " busy" : ""}` },
    draw("title", {}, `${peer.roles.join(", ")} ${name(peer.peer_id, 80)}, ${path}, ${millis(peer.rtt_ms)}, for ${span(now - peer.since)}, ${name(peer.agent, 60)}`),
    draw("path", { d: SHAPES[role], class: `shape role-${role}` }));
  if (named) {
    const end = short(peer.peer_id).slice(-4);
    group.append(
      draw("text", { y: 25 }, named === "long" ? `${role} ${end}` : end),
      draw("text", { y: 39, class: "second" }, peer.rtt_ms === null ? path : millis(peer.rtt_ms)));
  }
  return group;
}

function own(self, [x, y]) {
  const role = mainRole(self.roles);
  return draw("g", { transform: `translate(${x} ${y})`, class: "peer" },
    draw("circle", { r: 20, class: "halo" }),
    draw("path", { d: SHAPES[role], class: `shape role-${role}`, transform: "scale(1.25)" }),
    draw("text", { y: 36, class: "own" }, "this process"));
}

function words(peers, total) {
  if (!peers.length) return "This process is connected to nobody.";
  const of = ROLES.map((role) => [role, peers.filter((peer) => mainRole(peer.roles) === role).length]).filter(([, many]) => many);
  return `This process and ${plural(total, "peer")}: ${of.map(([role, many]) => plural(many, role)).join(", ")}. The table below says the same in words.`;
}
