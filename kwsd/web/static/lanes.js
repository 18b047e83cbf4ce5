// The scrolling plots: a lane for each word, and one for the level. The time of all is the stream's.

import { el, say } from "./dom.js";
import { describe, minus, score, spoken } from "./wording.js";

const RATE = 16000;
const WINDOW_S = 30;
const KEPT = 600;
const FRAME_MS = 40;
const JUMP_S = 1.5;
const WORD_HEIGHT = 104;
const LEVEL_HEIGHT = 92;
const LOWEST_DBFS = -80;

export class Lanes {
  constructor(box) {
    this.box = box;
    this.held = false;
    this.names = [];
    this.lanes = new Map();
    this.marks = [];
    this.columns = null;
    this.now = 0;
    this.drawn = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.restyle = () => {
      this.colors = colors();
      this.redraw();
    };
    this.dark.addEventListener("change", this.restyle);
    this.colors = colors();
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(box);
    this.clear();
    this.setWords({});
    this.frame = requestAnimationFrame((at) => this.tick(at));
  }

  close() {
    cancelAnimationFrame(this.frame);
    this.sizes.disconnect();
    this.dark.removeEventListener("change", this.restyle);
    for (const lane of this.lanes.values()) lane.plot?.destroy();
  }

  /** Forget what was heard: another stream begins. */
  clear() {
    this.columns = { time: [], level: [], noise: [], gate: [], words: new Map() };
    this.marks = [];
    this.now = 0;
    this.changed = true;
  }

  setWords(words) {
    const names = Object.keys(words).sort();
    if (names.join("\n") === this.names.join("\n") && this.lanes.size) {
      for (const name of names) this.lanes.get(name).threshold = words[name].threshold;
      return;
    }
    for (const lane of this.lanes.values()) lane.plot?.destroy();
    this.lanes.clear();
    this.box.replaceChildren();
    this.names = names;
    for (const name of names) this.add(name, spoken(name), words[name].threshold);
    this.add(null, "Level", null);
    this.changed = true;
  }

  add(name, title, threshold) {
    const now = el("span", { class: "now" }, "–");
    const canvas = el("div", { class: "plot", role: "img" });
    const head = el("h3", {}, title);
    this.box.append(el("div", { class: "lane" }, el("div", { class: "lane-head" }, head, now), canvas));
    const lane = { name, title, threshold, now, canvas, plot: null };
    this.lanes.set(name, lane);
    this.plot(lane);
  }

  plot(lane) {
    const width = this.box.clientWidth;
    if (!width || !window.uPlot) return;
    lane.plot?.destroy();
    const isLevel = lane.name === null;
    lane.plot = new window.uPlot(
      {
        width,
        height: isLevel ? LEVEL_HEIGHT : WORD_HEIGHT,
        padding: [6, 18, 7, 0],
        cursor: { show: false },
        legend: { show: false },
        scales: {
          x: { time: false, range: () => [this.now - WINDOW_S, this.now] },
          y: { range: isLevel ? [LOWEST_DBFS, 0] : [0, 1.02] },
        },
        axes: [
          {
            show: isLevel,
            size: 26,
            stroke: () => this.colors.faint,
            grid: { stroke: () => this.colors.line, width: 1 },
            ticks: { show: false },
            splits: () => [30, 20, 10, 0].map((ago) => this.now - ago),
            values: () => ["30 s ago", "20 s", "10 s", "now"],
          },
          {
            size: 38,
            stroke: () => this.colors.faint,
            grid: { stroke: () => this.colors.line, width: 1 },
            ticks: { show: false },
            splits: () => (isLevel ? [-60, -30, 0] : [0, 0.5, 1]),
            values: (_, all) => all.map((one) => (isLevel ? minus(one) : one.toFixed(1))),
          },
        ],
        series: isLevel ? this.levelSeries() : this.wordSeries(),
        hooks: {
          drawClear: [(plot) => this.drawGate(plot)],
          draw: [(plot) => this.drawOver(plot, lane)],
        },
      },
      this.data(lane),
      lane.canvas,
    );
  }

  wordSeries() {
    const points = { show: false };
    return [
      {},
      { stroke: () => this.colors.second, width: 1.25, points, spanGaps: false },
      {
        stroke: () => this.colors.accent,
        fill: () => this.colors.wash,
        width: 2,
        points,
        spanGaps: false,
      },
      {
        paths: () => null,
        points: { show: true, size: 5, stroke: () => this.colors.checker, fill: () => this.colors.checker },
      },
    ];
  }

  levelSeries() {
    const points = { show: false };
    return [
      {},
      { stroke: () => this.colors.second, width: 1.25, dash: [2, 3], points },
      {
        stroke: () => this.colors.accent,
        fill: () => this.colors.wash,
        fillTo: LOWEST_DBFS,
        width: 1.5,
        points,
      },
    ];
  }

  data(lane) {
    const { time, level, noise, words } = this.columns;
    if (lane.name === null) return [time, noise, level];
    const own = words.get(lane.name) ?? { score: [], streaming: [], checker: [] };
    const whole = own.score.length === time.length;
    return whole ? [time, own.streaming, own.score, own.checker] : [[], [], [], []];
  }

  push(message) {
    const end = message.end / RATE;
    const { time, level, noise, gate, words } = this.columns;
    if (time.length && end <= time[time.length - 1]) this.clear();
    if (this.held) return;
    const columns = this.columns;
    columns.time.push(end);
    columns.level.push(Math.max(message.level_dbfs, LOWEST_DBFS));
    columns.noise.push(message.noise_dbfs);
    columns.gate.push(message.gate);
    for (const [name, one] of Object.entries(message.words)) {
      let own = columns.words.get(name);
      if (!own) {
        const blank = () => new Array(columns.time.length - 1).fill(null);
        own = { score: blank(), streaming: blank(), checker: blank() };
        columns.words.set(name, own);
      }
      own.score.push(one.score);
      own.streaming.push(one.streaming);
      own.checker.push(one.checker);
      const lane = this.lanes.get(name);
      if (lane) lane.threshold = one.threshold;
    }
    for (const [name, own] of columns.words)
      if (own.score.length < columns.time.length) columns.words.delete(name);
    if (columns.time.length > KEPT) this.trim(columns.time.length - KEPT / 2);
    this.changed = true;
  }

  trim(count) {
    const { time, level, noise, gate, words } = this.columns;
    for (const one of [time, level, noise, gate]) one.splice(0, count);
    for (const own of words.values())
      for (const one of [own.score, own.streaming, own.checker]) one.splice(0, count);
    this.marks = this.marks.filter((mark) => mark.at >= time[0]);
  }

  mark(event) {
    if (event.end === undefined || this.held) return;
    const { kind, title } = describe(event);
    this.marks.push({ at: event.end / RATE, word: event.word, kind, title, score: event.score });
    if (this.marks.length > 64) this.marks.shift();
    this.changed = true;
  }

  tick(at) {
    this.frame = requestAnimationFrame((next) => this.tick(next));
    const passed = at - this.drawn;
    if (passed < FRAME_MS) return;
    this.drawn = at;
    const { time } = this.columns;
    if (!time.length || this.held) {
      if (this.changed) this.redraw();
      return;
    }
    const last = time[time.length - 1];
    const before = this.now;
    if (this.calm.matches || Math.abs(last - this.now) > JUMP_S) this.now = last;
    else this.now = Math.min(this.now + Math.min(passed, 200) / 1000, last);
    if (this.now !== before || this.changed) this.redraw();
  }

  redraw() {
    const isNew = this.changed;
    this.changed = false;
    for (const lane of this.lanes.values()) {
      if (!lane.plot) this.plot(lane);
      lane.plot?.setData(this.data(lane), true);
      if (isNew) this.describe(lane);
    }
  }

  describe(lane) {
    const { level, words } = this.columns;
    const last = (values) => values[values.length - 1];
    if (lane.name === null) {
      const value = level.length ? `${minus(last(level))} dBFS` : "–";
      say(lane.now, value);
      this.label(lane, `Level of the microphone: ${value}`);
      return;
    }
    const own = words.get(lane.name);
    const threshold = score(lane.threshold);
    say(lane.now, own?.score.length ? `${score(last(own.score))} of ${threshold}` : `– of ${threshold}`);
    const highest = own?.score.length ? Math.max(...own.score.slice(-WINDOW_S * 6)) : 0;
    this.label(lane, `Score of ${lane.title}: highest of the last 30 s ${score(highest)}, threshold ${threshold}`);
  }

  label(lane, text) {
    if (lane.canvas.getAttribute("aria-label") !== text) lane.canvas.setAttribute("aria-label", text);
  }

  /** Shade where the voice gate was open. */
  drawGate(plot) {
    const { time, gate } = this.columns;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = this.colors.gate;
    const x = (at) => Math.min(Math.max(plot.valToPos(at, "x", true), bbox.left), bbox.left + bbox.width);
    for (let n = 0; n < time.length; n++) {
      if (!gate[n]) continue;
      let last = n;
      while (last + 1 < time.length && gate[last + 1]) last++;
      const begin = x(n ? time[n - 1] : time[n]);
      const width = x(time[last]) - begin;
      if (width > 0) ctx.fillRect(begin, bbox.top, width, bbox.height);
      n = last;
    }
    ctx.restore();
  }

  /** Draw the threshold, and what happened with its reason. */
  drawOver(plot, lane) {
    if (lane.name === null) return;
    const { ctx, bbox } = plot;
    const ratio = devicePixelRatio;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, 0, bbox.width, bbox.top + bbox.height);
    ctx.clip();
    ctx.strokeStyle = this.colors.ink;
    ctx.lineWidth = ratio;
    ctx.setLineDash([5 * ratio, 4 * ratio]);
    const y = plot.valToPos(lane.threshold, "y", true);
    ctx.beginPath();
    ctx.moveTo(bbox.left, y);
    ctx.lineTo(bbox.left + bbox.width, y);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.font = `${12 * ratio}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    let row = 0;
    let free = -Infinity;
    for (const mark of this.marks) {
      if (mark.word !== lane.name || mark.at < this.now - WINDOW_S - 8) continue;
      const x = plot.valToPos(mark.at, "x", true);
      const color = mark.kind === "wake" ? this.colors.good : this.colors.warn;
      const width = ctx.measureText(mark.title).width + 12 * ratio;
      row = x < free ? (row + 1) % 3 : 0;
      free = x + width;
      ctx.strokeStyle = color;
      ctx.lineWidth = 1.5 * ratio;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      this.drawMark(ctx, x, plot.valToPos(Math.min(mark.score, 1), "y", true), mark.kind, color, ratio);
      const top = bbox.top + (2 + 16 * row) * ratio;
      const inside = x + width > bbox.left + bbox.width ? x - width + 4 * ratio : x + 6 * ratio;
      ctx.fillStyle = this.colors.paper;
      ctx.fillRect(inside - 3 * ratio, top - ratio, width - 5 * ratio, 15 * ratio);
      ctx.fillStyle = color;
      ctx.fillText(mark.title, inside, top);
    }
    ctx.restore();
  }

  /** A wake is a filled triangle, a refusal an open diamond: shapes tell them apart. */
  drawMark(ctx, x, y, kind, color, ratio) {
    const size = 5 * ratio;
    ctx.beginPath();
    if (kind === "wake") {
      ctx.moveTo(x, y - size);
      ctx.lineTo(x + size, y + size);
      ctx.lineTo(x - size, y + size);
      ctx.closePath();
      ctx.fillStyle = color;
      ctx.fill();
    } else {
      for (const [dx, dy] of [[0, -size], [size, 0], [0, size], [-size, 0], [0, -size]])
        ctx.lineTo(x + dx, y + dy);
      ctx.fillStyle = this.colors.paper;
      ctx.fill();
      ctx.stroke();
    }
  }

  resize() {
    const width = this.box.clientWidth;
    if (!width) return;
    for (const lane of this.lanes.values())
      if (!lane.plot) this.plot(lane);
      else if (lane.plot.width !== width) lane.plot.setSize({ width, height: lane.plot.height });
    this.changed = true;
  }
}

/** Return the colors of the style, which change with the scheme. */
export function colors() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "faint", "line", "accent", "wash", "second", "checker", "good", "warn", "paper", "gate"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
