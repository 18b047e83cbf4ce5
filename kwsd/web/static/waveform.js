// The picture of a recording: its sound, where its word is, and how its score rose, if it has one.

import { minus, score } from "./wording.js";

const HEADER = 44;

/** Draws clips on a canvas, and where the sound is that plays. */
export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.samples = null;
    this.clip = null;
    this.at = null;
    this.restyle = () => this.draw();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", this.restyle);
    this.sizes = new ResizeObserver(this.restyle);
    this.sizes.observe(canvas);
  }

  close() {
    this.dark.removeEventListener("change", this.restyle);
    this.sizes.disconnect();
  }

  /** Show a clip; `file` is a WAV of 16 kHz, mono. */
  show(clip, file) {
    this.clip = clip;
    this.samples = file ? new Int16Array(file, HEADER) : null;
    this.at = null;
    const seconds = this.samples ? (this.samples.length / 16000).toFixed(1) : "0";
    const text = clip
      ? `${seconds} s of sound; the score rises to ${score(clip.peak ?? clip.score)}, the threshold is ${score(clip.threshold)}`
      : "No clip is chosen";
    this.canvas.setAttribute("aria-label", text);
    this.draw();
  }

  /** Show a take whose word is said from `start` to `end`, in seconds; `file` as above. */
  showTake(start, end, file) {
    this.clip = { start: 16000 * start, end: 16000 * end };
    if (file) this.samples = new Int16Array(file, HEADER);
    const seconds = this.samples ? (this.samples.length / 16000).toFixed(1) : "0";
    const text = `${seconds} s of sound; the word is at ${start.toFixed(2)} to ${end.toFixed(2)} s`;
    this.canvas.setAttribute("aria-label", text);
    this.draw();
  }

  play(seconds) {
    this.at = seconds === null ? null : seconds * 16000;
    this.draw();
  }

  draw() {
    const ratio = devicePixelRatio;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (!width) return;
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    const ctx = this.canvas.getContext("2d");
    ctx.clearRect(0, 0, width, height);
    if (!this.samples || !this.clip) return;
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const { clip, samples } = this;
    const x = (sample) => (sample / samples.length) * width;
    const y = (value) => height - 2 * ratio - value * (height - 8 * ratio);
    ctx.fillStyle = color("wash");
    ctx.fillRect(x(clip.start), 0, x(clip.end) - x(clip.start), height);
    ctx.fillStyle = color("second");
    const most = samples.reduce((before, one) => Math.max(before, Math.abs(one)), 1000);
    const step = samples.length / width;
    for (let column = 0; column < width; column++) {
      let low = 0;
      let high = 0;
      for (let n = Math.floor(column * step); n < (column + 1) * step; n++) {
        if (samples[n] < low) low = samples[n];
        else if (samples[n] > high) high = samples[n];
      }
      const top = (height / 2) * (1 - (0.9 * high) / most);
      const bottom = (height / 2) * (1 - (0.9 * low) / most);
      ctx.fillRect(column, top, 1, Math.max(bottom - top, 1));
    }
    ctx.lineWidth = ratio;
    if (clip.threshold !== undefined) {
      ctx.strokeStyle = color("ink");
      ctx.setLineDash([5 * ratio, 4 * ratio]);
      line(ctx, [[0, y(clip.threshold)], [width, y(clip.threshold)]]);
      ctx.setLineDash([]);
    }
    ctx.lineWidth = 2 * ratio;
    ctx.strokeStyle = color("accent");
    line(ctx, (clip.scores ?? []).map(([at, value]) => [x(at), y(value)]));
    if (this.at !== null) {
      ctx.strokeStyle = color("warn");
      line(ctx, [[x(this.at), 0], [x(this.at), height]]);
    }
  }
}

function line(ctx, points) {
  ctx.beginPath();
  for (const [x, y] of points) ctx.lineTo(x, y);
  ctx.stroke();
}

/** Return how loud a sound is, "−23 dBFS". */
export function level(samples) {
  const power = samples.reduce((sum, one) => sum + one * one, 0) / Math.max(samples.length, 1);
  return `${minus(Math.max(10 * Math.log10(power / 32768 ** 2 + 1e-12), -96))} dBFS`;
}
