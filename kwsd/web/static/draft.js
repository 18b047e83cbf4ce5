// A word that is being made: its takes are recorded, heard, redone, and then the word is made.

import { bytes, post } from "./api.js";
import { el, say } from "./dom.js";
import { Player } from "./player.js";
import { Meter, ask, files } from "./studio.js";
import { minus, spoken } from "./wording.js";
import { Waveform } from "./waveform.js";

const WANTED = 5;
const LEAST = 2;
const RATES = [
  ["", "0.1 an hour, the usual"],
  ["1/day", "1 a day"],
  ["1/week", "1 a week"],
  ["0.5/hour", "0.5 an hour"],
];

/** Show a word that is being made in `view`; `ended(message, kind)` is called when it is kept or
 * dropped. */
export function openDraft(view, first, ended) {
  let state = first;
  let work = "";
  let instead = null;
  let isClosed = false;
  const player = new Player();
  const meter = new Meter();
  const sounds = new Map();
  const waves = new Map();
  let showing = new AbortController();
  const name = spoken(first.word);

  const title = el("h1", { id: "draft-title", tabindex: "-1" }, first.is_new ? `New word: ${name}` : `Takes of ${name}`);
  const prompt = el("p", { class: "prompt" });
  const dots = el("ol", { class: "dots", "aria-hidden": "true" });
  const status = el("p", { class: "told", role: "status" });
  const record = el("button", { type: "button", class: "record", onclick: recordOrStop }, "Record");
  const [choose, input] = files("/api/draft/upload", { working, taken: show, told });
  const takes = el("ol", { class: "takes", "aria-label": "Takes" });
  const none = el("p", { class: "none" }, "No takes yet. Each is shown here, with what is used of it.");
  const rate = el(
    "select",
    { id: "draft-rate" },
    RATES.map(([value, text]) => el("option", { value }, value || first.is_new ? text : "as before")),
  );
  const make = el("button", { type: "button", onclick: makeWord }, first.is_new ? "Make the word" : "Make it again");
  const discard = el("button", { type: "button", class: "quiet", onclick: leave }, "Discard");
  const advice = el("p", { class: "small" });
  const report = el("section", { class: "card report", "aria-labelledby": "report-title", hidden: true });
  view.replaceChildren(
    el(
      "div",
      { class: "columns draft" },
      el(
        "section",
        { class: "card recorder", "aria-labelledby": "draft-title" },
        el("div", { class: "card-head" }, title, discard),
        prompt,
        meter.element,
        dots,
        el("div", { class: "buttons" }, record, choose, input),
        status,
        el("p", { class: "small" }, "The microphone is that of the machine where kwsd runs. Speak as you will later, near and far."),
      ),
      el(
        "section",
        { class: "card", "aria-labelledby": "takes-title" },
        el("div", { class: "card-head" }, el("h2", { id: "takes-title" }, "Takes")),
        none,
        takes,
        el(
          "div",
          { class: "make" },
          el("div", {}, el("label", { for: "draft-rate" }, "Wakes by mistake, in continuous speech, at most"), rate),
          make,
        ),
        advice,
      ),
    ),
    report,
  );

  const count = () => state.takes.length;

  function showWork() {
    if (isClosed) return; // what is shown is another page
    const isFree = work === "";
    record.disabled = work !== "" && work !== "recording";
    say(record, work === "recording" ? "Stop" : `Record take ${instead ?? count() + 1}`);
    record.classList.toggle("on", work === "recording");
    meter.element.classList.toggle("on", work === "recording");
    const again = instead ? ` again, for take ${instead}` : "";
    say(prompt, work === "recording" ? `Now say “${name}”${again}` : `Say “${name}”`);
    for (const one of view.querySelectorAll(".takes button, .report button, .make select")) one.disabled = !isFree;
    for (const one of [discard, choose]) one.disabled = !isFree;
    make.disabled = !isFree || count() < LEAST;
  }

  function show(next) {
    if (isClosed) return;
    state = next;
    none.hidden = count() > 0;
    dots.replaceChildren(...Array.from({ length: Math.max(WANTED, count()) }, (_, n) => el("li", { class: n < count() ? "done" : "" })));
    const had = document.activeElement?.dataset?.of;
    for (const wave of waves.values()) wave.close();
    waves.clear();
    takes.replaceChildren(...state.takes.map((take, n) => row(take, n + 1)));
    if (had) takes.querySelector(`[data-of="${CSS.escape(had)}"]`)?.focus();
    say(
      advice,
      count() < 3 ? "Three takes are needed, five are good, ten are better." : count() < 10 ? "More takes make it better: it is missed less often." : "",
    );
    showReport();
    showWork();
  }

  /** Do something that takes a while; what it is called is what may not be done meanwhile. */
  async function doing(what, text, path, body) {
    work = what;
    told("", text);
    showWork();
    try {
      const next = await post(path, body);
      if (isClosed) return null;
      work = "";
      return next;
    } catch (error) {
      if (isClosed) return null;
      work = "";
      failed(error);
      showWork();
      return null;
    }
  }

  function failed(error) {
    if (error.code === "stopped") {
      instead = null;
      return told("", "Stopped; nothing was kept.");
    }
    if (error.code === "no_session") return ended(`${name} has ended: nobody went on for a while, or another browser has begun. Begin again.`, "bad");
    told("bad", `Not taken: ${error.message}`);
  }

  const heard = (number, take) =>
    `Take ${number}${number <= WANTED ? ` of ${WANTED}` : ""} heard: ${(take.end_s - take.start_s).toFixed(1)} s at ${minus(take.level_dbfs)} dBFS.${take.problem ? ` ${take.problem}.` : ""}`;

  async function recordOrStop() {
    if (work === "recording") return post("/api/guided/stop", {}).catch(failed);
    player.stop();
    const number = instead ?? count() + 1;
    const next = await doing("recording", `Listening for take ${number}: say “${name}” now.`, "/api/draft/record", { instead_of: instead });
    const wasFocused = document.activeElement === document.body;
    if (next) {
      instead = null;
      show(next);
      const take = next.takes[number - 1];
      told(take.problem ? "warn" : "good", heard(number, take));
    }
    if (wasFocused) record.focus();
  }

  function working(text) {
    work = text ? "uploading" : "";
    if (text) told("", text);
    showWork();
  }

  function told(kind, text) {
    status.dataset.state = kind;
    say(status, text);
  }

  function row(take, number) {
    const canvas = el("canvas", { class: "wave small-wave", role: "img" });
    const wave = new Waveform(canvas);
    waves.set(number, wave);
    const path = `/api/draft/takes/${encodeURIComponent(take.id)}/audio.wav`;
    const draw = (file) => wave.showTake(take.start_s, take.end_s, file);
    draw(null);
    const known = sounds.get(take.id) ?? bytes(path, showing.signal);
    sounds.set(take.id, known);
    known.then(draw, () => sounds.delete(take.id));
    const play = button("Play", "play", number, () =>
      player
        .toggle(`${path}#t=${take.start_s},${take.end_s}`, (seconds) => {
          say(play, seconds === null ? "Play" : "Stop");
          wave.play(seconds);
        })
        .catch(failed),
    );
    const trimming = el("form", { class: "trim", hidden: true, onsubmit: (event) => apply(event) });
    const second = (text, value) => {
      const input = el("input", { type: "number", step: "0.01", min: "0", max: String(take.length_s), value: value.toFixed(2), required: true });
      return [el("label", {}, text, input), input];
    };
    const [beginLabel, from] = second("Begins at (s)", take.start_s);
    const [endLabel, to] = second("Ends at (s)", take.end_s);
    const preview = () => wave.showTake(from.valueAsNumber || 0, to.valueAsNumber || 0, null);
    from.addEventListener("input", preview);
    to.addEventListener("input", preview);
    trimming.append(
      beginLabel,
      endLabel,
      el("button", {}, "Use this part"),
      el("button", { type: "button", class: "quiet", onclick: () => trimmed(null) }, "Find it by voice"),
    );
    const trimmed = async (span) => {
      const next = await doing("checking", `Trimming take ${number}.`, "/api/draft/trim", { number, span });
      if (!next) return;
      show(next);
      const now = next.takes[number - 1];
      told("", `Take ${number}: the word is at ${now.start_s.toFixed(2)} to ${now.end_s.toFixed(2)} s.`);
      takes.querySelector(`[data-of="trim ${number}"]`)?.focus();
    };
    const apply = (event) => {
      event.preventDefault();
      trimmed([from.valueAsNumber, to.valueAsNumber]);
    };
    const trim = button("Trim", "trim", number, () => {
      trimming.hidden = !trimming.hidden;
      trim.setAttribute("aria-expanded", String(!trimming.hidden));
      if (!trimming.hidden) from.focus();
    });
    trim.setAttribute("aria-expanded", "false");
    const odd = state.report?.quality.outliers.includes(number - 1);
    const problem = take.problem ?? (odd ? "hardly resembles the others: is it the same word?" : null);
    return el(
      "li",
      { class: problem ? "take odd" : "take" },
      canvas,
      el(
        "div",
        { class: "take-facts" },
        el("b", {}, `${number}`),
        el("span", {}, take.name === `take ${number}` ? "recorded" : take.name),
        el("span", { class: "small" }, `${take.start_s.toFixed(2)}–${take.end_s.toFixed(2)} of ${take.length_s.toFixed(2)} s · ${minus(take.level_dbfs)} dBFS${take.span === "trimmed" ? " · trimmed" : ""}`),
      ),
      problem ? el("p", { class: "small problem" }, problem) : null,
      el(
        "div",
        { class: "buttons" },
        play,
        button("Redo", "redo", number, () => {
          instead = number;
          record.focus();
          recordOrStop();
        }),
        trim,
        button("Delete", "drop", number, () => drop(number)),
      ),
      trimming,
    );
  }

  function button(text, what, number, onclick) {
    return el("button", { type: "button", class: "quiet", "data-of": `${what} ${number}`, "aria-label": `${text} take ${number}`, onclick }, text);
  }

  async function drop(number) {
    instead = null;
    const next = await doing("checking", `Deleting take ${number}.`, "/api/draft/drop", { number });
    if (!next) return;
    show(next);
    told("", `Take ${number} is deleted; ${count()} are left.`);
    (takes.querySelector(`[data-of="drop ${Math.min(number, count())}"]`) ?? record).focus();
  }

  async function makeWord() {
    instead = null;
    player.stop();
    const next = await doing("making", `Making ${name} from ${count()} takes, which takes some seconds.`, "/api/draft/make", { rate: rate.value || null });
    if (!next) return;
    show(next);
    told("", `${name} is made, and not kept yet.`);
    report.querySelector("h2").focus();
    report.scrollIntoView({ block: "nearest" });
  }

  function showReport() {
    const found = state.report;
    report.hidden = !found;
    if (!found) return report.replaceChildren();
    const { quality, warnings } = found;
    const few = (value) => String(Number(value.toPrecision(2)));
    const [low, high] = quality.interval;
    const figure = (value, unit, text) => el("div", {}, el("dt", {}, text), el("dd", {}, el("b", {}, value), ` ${unit}`));
    const also = found.made_again.map(spoken).join(", ");
    report.replaceChildren(
      el("h2", { id: "report-title", tabindex: "-1" }, `${name} is made. Keep it?`),
      el(
        "dl",
        { class: "figures" },
        figure(`${quality.missed}`, `of ${quality.takes} missed`, `takes, each by a detector made from the others; ${quality.missed_in_noise} in noise at 10 dB`),
        figure(few(quality.false_accepts_per_hour), "an hour", `wakes by mistake to expect in continuous speech (${few(low)} to ${few(high)})`),
        figure(quality.length_s.toFixed(1), "s", "long"),
      ),
      warnings.length
        ? el("ul", { class: "warnings", "aria-label": "Warnings" }, warnings.map((text) => el("li", {}, text)))
        : el("p", { class: "fine" }, "✓ Nothing speaks against it."),
      el("p", { class: "small", hidden: !also }, `It sounds like ${also}, made again with it so that they are told apart.`),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", onclick: keep }, "Keep it"),
        el("button", { type: "button", class: "quiet", onclick: () => record.focus() }, "Change the takes"),
        el("button", { type: "button", class: "quiet", onclick: leave }, "Discard"),
      ),
    );
  }

  async function keep() {
    const next = await doing("keeping", `Keeping ${name}.`, "/api/draft/keep", {});
    if (next) ended(`${name} is kept, and listened for from now on. Say it: Live shows its score.`);
  }

  async function leave() {
    const lost = state.is_new ? `${count()} ${count() === 1 ? "take" : "takes"} would be lost.` : "What you have changed would be lost; the word stays as it was.";
    if (count() && !(await ask(view, `Discard ${name}? ${lost}`, "Discard", "Go on"))) return;
    showing.abort(); // what it asks for is refused once it has ended
    try {
      await post("/api/guided/leave", {});
    } catch (error) {
      showing = new AbortController();
      show(state);
      return failed(error);
    }
    ended(state.is_new ? `${name} is discarded.` : `${name} is as it was.`);
  }

  meter.show(null);
  show(first);
  title.focus();
  return {
    heard: (kind, data) => meter.heard(kind, data),
    close() {
      isClosed = true;
      showing.abort();
      player.stop();
      for (const wave of waves.values()) wave.close();
    },
  };
}
