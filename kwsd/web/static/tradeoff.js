// The plots of a trade-off: false wakes a day, and misses, along the threshold.

import { el } from "./dom.js";
import { colors } from "./lanes.js";
import { limit } from "./wording.js";

const TICKS = [0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995];
const TICK_WIDTH = 36;
const LEAST = -2; // 0.01 a day
const HEIGHTS = [168, 128];
const AXIS = 46;
const PADDING = [8, 12, 0, 0];

/** Return whether a log of so many hours tells anything of a rate. */
export const tells = (hours) => hours >= 1;

/** Return the false wakes an hour to expect by the log, or null where none was heard. */
export function estimate(row, hours) {
  if (!tells(hours)) return null;
  if (row.tail !== null) return row.tail;
  return row.seen ? row.seen / hours : null;
}

/** Return where a rate an hour lies on the axis of rates a day. */
const power = (rate) => Math.max(Math.log10(24 * rate), LEAST);
/** Return the same, or nothing for a rate that lies below it. */
const seen = (rate) => (rate && power(rate) > LEAST ? power(rate) : null);

/** Return the key of the plots. */
export function legend() {
  const key = (name, text) => el("li", {}, el("i", { class: `key ${name}`, "aria-hidden": "true" }), text);
  return el(
    "ul",
    { class: "legend", "aria-label": "Key" },
    key("score", "by the log here; as recorded"),
    key("gate", "95 % bounds"),
    key("streaming", "in noise"),
    key("talk", "by its model, if somebody spoke all day"),
    key("clips", "your labeled clips"),
    key("threshold", "threshold in force"),
  );
}

export class TradeOff {
  /** `moved(index)` is called where somebody points at another threshold. */
  constructor(box, moved) {
    this.moved = moved;
    this.data = null;
    this.rows = [];
    this.at = 0;
    this.plots = [null, null];
    this.colors = colors();
    this.places = ["False wakes a day", "Missed"].map((name) => el("div", { class: "plot", role: "img", "aria-label": name }));
    box.append(el("h3", {}, "False wakes a day"), this.places[0], el("h3", {}, "Missed"), this.places[1]);
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.restyle = () => {
      this.colors = colors();
      this.redraw();
    };
    this.dark.addEventListener("change", this.restyle);
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(box);
    this.box = box;
  }

  close() {
    this.dark.removeEventListener("change", this.restyle);
    this.sizes.disconnect();
    for (const plot of this.plots) plot?.destroy();
  }

  /** Return the index of the threshold that is nearest to one. */
  nearest(threshold) {
    const far = (row) => Math.abs(row.threshold - threshold);
    return this.rows.reduce((best, row, n) => (far(row) < far(this.rows[best]) ? n : best), 0);
  }

  show(data) {
    this.data = data;
    this.rows = data.trade_off;
    this.now = this.nearest(data.in_force.threshold);
    const rates = this.rows.flatMap((row) => [tells(data.hours) ? row.bounds[1] : 0, row.rate?.held ?? 0]);
    this.top = Math.min(Math.max(Math.ceil(power(Math.max(...rates))), 1), 3);
    for (const n of [0, 1]) {
      this.plots[n]?.destroy();
      this.plots[n] = null;
    }
    this.resize();
  }

  move(index) {
    this.at = index;
    this.redraw();
    const row = this.rows[index];
    const rate = estimate(row, this.data.hours);
    const wakes = rate === null ? "none was heard" : `${(24 * rate).toPrecision(2)} a day`;
    const missed = row.missed ? `${(100 * row.missed[0]).toFixed(0)} percent` : "not measured";
    this.places[0].setAttribute("aria-label", `False wakes a day fall as the threshold rises; at ${limit(row.threshold)}: ${wakes}`);
    this.places[1].setAttribute("aria-label", `Misses rise with the threshold; at ${limit(row.threshold)}: ${missed}`);
  }

  redraw() {
    for (const plot of this.plots) plot?.redraw(false, true);
  }

  resize() {
    const width = this.box.clientWidth;
    if (!width || !this.data || !window.uPlot) return;
    for (const n of [0, 1])
      if (!this.plots[n]) this.plots[n] = this.plot(n, width);
      else if (this.plots[n].width !== width) this.plots[n].setSize({ width, height: HEIGHTS[n] });
  }

  /** Return where a threshold lies between the indexes of the rows. */
  place(threshold) {
    const n = this.rows.findIndex((row) => row.threshold >= threshold);
    if (n <= 0) return Math.max(n, 0);
    const [low, high] = [this.rows[n - 1].threshold, this.rows[n].threshold];
    return n - 1 + (threshold - low) / (high - low);
  }

  splits(width) {
    const found = [];
    const scale = (width - AXIS - PADDING[1]) / (this.rows.length - 1);
    for (const tick of TICKS) {
      const at = this.place(tick);
      if (!found.length || (at - found[found.length - 1][0]) * scale >= TICK_WIDTH) found.push([at, tick]);
    }
    return found;
  }

  plot(n, width) {
    const isRate = n === 0;
    const last = this.rows.length - 1;
    const axis = (more) => ({
      stroke: () => this.colors.faint,
      grid: { stroke: () => this.colors.line, width: 1 },
      ticks: { show: false },
      ...more,
    });
    const plot = new window.uPlot(
      {
        width,
        height: HEIGHTS[n],
        padding: PADDING,
        cursor: { show: false },
        legend: { show: false },
        scales: { x: { time: false, range: () => [0, last] }, y: { range: isRate ? [LEAST, this.top] : [0, 100] } },
        axes: [
          axis({
            size: isRate ? 8 : 26,
            splits: (self) => this.splits(self.width).map(([at]) => at),
            values: (self) => (isRate ? [] : this.splits(self.width).map(([, tick]) => tick.toString())),
          }),
          axis({
            size: AXIS,
            splits: () => (isRate ? powers(this.top) : [0, 25, 50, 75, 100]),
            values: (_, all) => all.map((one) => (isRate ? Number((10 ** one).toPrecision(1)).toString() : `${one} %`)),
          }),
        ],
        series: isRate ? this.rateSeries() : this.missSeries(),
        bands: isRate ? [{ series: [2, 1], fill: () => this.colors.wash }] : [],
        hooks: { draw: [(self) => this.drawOver(self, n)] },
      },
      isRate ? this.rates() : this.misses(),
      this.places[n],
    );
    const point = (event) => {
      if (event.buttons !== 1 && event.type !== "pointerdown") return;
      this.moved(Math.round(plot.posToVal(event.clientX - plot.over.getBoundingClientRect().left, "x")));
    };
    plot.over.addEventListener("pointerdown", point);
    plot.over.addEventListener("pointermove", point);
    return plot;
  }

  rateSeries() {
    const points = { show: false };
    const edge = { stroke: () => "transparent", width: 0, points };
    const model = { stroke: () => this.colors.second, width: 1.25, dash: [6, 3], points };
    return [{}, edge, edge, { stroke: () => this.colors.accent, width: 2, points }, model];
  }

  rates() {
    const { hours } = this.data;
    const has = (value) => (tells(hours) ? value : null);
    const column = (value) => this.rows.map(value);
    return [
      column((_, n) => n),
      column((row) => has(power(row.bounds[0]))),
      column((row) => has(power(row.bounds[1]))),
      column((row) => seen(estimate(row, hours))),
      column((row) => seen(row.rate?.held)),
    ];
  }

  missSeries() {
    const steps = { points: { show: false }, paths: window.uPlot.paths.stepped({ align: 1 }) };
    return [
      {},
      { stroke: () => this.colors.second, width: 1.5, ...steps },
      { stroke: () => this.colors.accent, width: 2, ...steps },
      { stroke: () => this.colors.checker, width: 1.5, dash: [2, 3], ...steps },
    ];
  }

  misses() {
    const { right } = this.data;
    const column = (value) => this.rows.map(value);
    return [
      column((_, n) => n),
      column((row) => (row.missed ? 100 * row.missed[1] : null)),
      column((row) => (row.missed ? 100 * row.missed[0] : null)),
      column((row) => (right.length ? (100 * right.filter((peak) => peak < row.threshold).length) / right.length : null)),
    ];
  }

  /** Draw the threshold in force, and the one that is looked at. */
  drawOver(plot, n) {
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    const line = (at) => {
      const x = Math.round(plot.valToPos(at, "x", true)) + (ctx.lineWidth % 2) / 2; // crisp
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      return x;
    };
    ctx.save();
    ctx.lineWidth = ratio;
    ctx.strokeStyle = this.colors.ink;
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    line(this.now);
    ctx.setLineDash([]);
    ctx.lineWidth = 2 * ratio;
    ctx.strokeStyle = this.colors.accent;
    const x = line(this.at);
    const main = plot.data[n === 0 ? 3 : 2][this.at];
    if (main !== null && main !== undefined) {
      ctx.beginPath();
      ctx.arc(x, plot.valToPos(main, "y", true), 4.5 * ratio, 0, 2 * Math.PI);
      ctx.fillStyle = this.colors.paper;
      ctx.fill();
      ctx.stroke();
    }
    ctx.restore();
  }
}

const powers = (top) => Array.from({ length: top - LEAST + 1 }, (_, n) => LEAST + n);
