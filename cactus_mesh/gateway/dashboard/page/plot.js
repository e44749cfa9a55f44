// A line plot with axes, units and values on hover, touch or arrow keys.

import { draw, make, say } from "./dom.js";

const LEFT = 54;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 20;

// A scale that ends on a round number: [top, step].
function scaleTo(most, least) {
  const top = Math.max(most, least);
  const power = 10 ** Math.floor(Math.log10(top / 2));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => top / each <= 3.001) ?? top;
  return [Math.ceil(top / step - 1e-9) * step, step];
}

// *format* makes a value's words, *floor* is the least that the axis shows, or *range* gives [bottom, top, step];
// *spots* draws dots too, *quiet* says values only where somebody points.
export class Plot {
  constructor(box, { title, unit, format, floor = 1, range = null, height = 118, spots = false, quiet = false, empty }) {
    this.settings = { title, unit, format, floor, range, height, spots, quiet, empty };
    this.lines = [];
    this.times = [];
    this.at = null;
    this.readout = make("span", { class: "readout" });
    this.figure = make("div", { tabindex: "0", role: "group", "aria-label": title });
    box.replaceChildren(make("p", { class: "title" }, make("span", {}, `${title}${unit ? `, ${unit}` : ""}`), this.readout), this.figure);
    this.box = box;
    this.figure.addEventListener("pointermove", (event) => this.point(event));
    this.figure.addEventListener("pointerleave", () => this.move(null));
    this.figure.addEventListener("blur", () => this.move(null));
    this.figure.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.paint()).observe(this.figure);
  }

  // *lines*: {label, values, hue, dash}; *times*: Unix seconds of the values, oldest first; *width*: seconds shown
  show(times, lines, width, now) {
    Object.assign(this, { times, lines, width, now });
    if (this.at !== null && this.at >= times.length) this.at = null;
    this.paint();
  }

  get inner() {
    return Math.max(60, (this.figure.clientWidth || 400) - LEFT - RIGHT);
  }

  x(time) {
    return LEFT + this.inner * (1 - (this.now - time) / this.width);
  }

  point(event) {
    const x = event.clientX - this.figure.getBoundingClientRect().left;
    let best = null;
    this.times.forEach((time, at) => {
      if (best === null || Math.abs(this.x(time) - x) < Math.abs(this.x(this.times[best]) - x)) best = at;
    });
    this.move(best);
  }

  press(event) {
    const last = this.times.length - 1;
    const moves = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || last < 0) return;
    event.preventDefault();
    this.move(Math.min(last, Math.max(0, (this.at ?? last) + moves[event.key])));
  }

  move(at) {
    this.at = at;
    this.paint();
    if (at !== null && document.activeElement === this.figure) this.readout.setAttribute("aria-live", "polite");
    else this.readout.removeAttribute("aria-live");
  }

  paint() {
    if (!this.now) return;
    const { height, format, floor, range, spots, empty } = this.settings;
    const values = this.lines.flatMap((line) => line.values).filter((value) => value !== null);
    const [bottom, top, step] = range?.(values) ?? [0, ...scaleTo(Math.max(floor, ...values), floor)];
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - bottom) / (top - bottom));
    const svg = draw("svg", { viewBox: `0 0 ${this.inner + LEFT + RIGHT} ${height}`, "aria-hidden": "true" });
    for (let value = bottom; value <= top + step / 100; value += step) {
      svg.append(
        draw("line", { x1: LEFT, x2: LEFT + this.inner, y1: y(value), y2: y(value), class: "grid" }),
        draw("text", { x: LEFT - 8, y: y(value) + 4, class: "axis y" }, format(value, true)));
    }
    const ago = this.width >= 7200 ? [`${this.width / 3600} h ago`, `${this.width / 7200} h`] : [`${this.width / 60} min ago`, `${this.width / 120} min`];
    svg.append(
      draw("text", { x: LEFT, y: height - 4, class: "axis" }, ago[0]),
      draw("text", { x: LEFT + this.inner / 2, y: height - 4, class: "axis x-mid" }, ago[1]),
      draw("text", { x: LEFT + this.inner, y: height - 4, class: "axis x-end" }, "now"));
    for (const line of this.lines) this.drawLine(svg, line, y, spots);
    if (!values.length) svg.append(draw("text", { x: LEFT + this.inner / 2, y: height / 2, class: "axis x-mid" }, empty));
    if (this.at !== null) this.drawCross(svg, y, height);
    this.figure.replaceChildren(svg);
    this.tell(values.length > 0);
  }

  drawLine(svg, line, y, spots) {
    let path = "";
    let begun = false;
    line.values.forEach((value, at) => {
      const time = this.times[at];
      if (value === null || this.now - time > this.width) {
        begun = begun && spots && value === null; // sparse measurements are joined, gaps of others are not
        return;
      }
      path += `${begun ? "L" : "M"}${this.x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      begun = true;
      if (spots) svg.append(draw("circle", { cx: this.x(time).toFixed(1), cy: y(value).toFixed(1), r: 2.6, class: `f${line.hue}` }));
    });
    svg.append(draw("path", { d: path || "M0 0", class: `curve c${line.hue} d${line.dash ?? 0}` }));
  }

  drawCross(svg, y, height) {
    const x = this.x(this.times[this.at]);
    svg.append(draw("line", { x1: x, x2: x, y1: TOP, y2: height - BOTTOM, class: "cross" }));
    for (const line of this.lines) {
      const value = line.values[this.at];
      if (value !== null) svg.append(draw("circle", { cx: x, cy: y(value), r: 4, class: `spot f${line.hue}` }));
    }
  }

  tell(any) {
    const at = this.at ?? this.times.length - 1;
    if (!any || at < 0 || (this.settings.quiet && this.at === null)) return say(this.readout, "");
    const latest = (line) => line.values[at] ?? (this.at === null ? line.values.findLast((value) => value !== null) : null);
    const found = this.lines.map((line) => [line, latest(line)]).filter(([, value]) => value !== null && value !== undefined);
    const words = found.map(([line, value]) => `${this.lines.length > 1 ? `${line.label} ` : ""}${this.settings.format(value, false)}`);
    const clock = this.at === null ? "" : `${new Date(this.times[at] * 1000).toLocaleTimeString("en-GB")}: `;
    const text = found.length > 4 ? "" : words.join(" · ") || "nothing measured";
    say(this.readout, clock + text);
    this.figure.setAttribute("aria-label", `${this.settings.title}: ${words.join(", ")}. Arrow keys read earlier values.`);
  }
}
