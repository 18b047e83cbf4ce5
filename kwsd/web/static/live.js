// What is heard, as it is heard: each word's score, the level, and why it did or did not fire.

import { el, say } from "./dom.js";
import { Lanes } from "./lanes.js";
import { describe, fileName, minus, score, spoken } from "./wording.js";

const ROWS = 100;
const MARKS = { wake: "▲", refused: "◇", ok: "●", trouble: "!" };
const clock = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

export function open(view) {
  const cells = {};
  const cell = (key, title, help) => {
    cells[key] = el("dd", {}, "–");
    return el("div", { title: help }, el("dt", {}, title), cells[key]);
  };
  const lanesBox = el("div", { class: "lanes" });
  const rows = el("ol");
  const log = el("div", { class: "happened", role: "log", "aria-label": "What happened", tabindex: "0" }, rows);
  const none = el(
    "p",
    { class: "none" },
    "Nothing yet. Say a word that it listens for: a wake, or what kept it from waking, stands here.",
  );
  const hold = el(
    "button",
    { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => setHeld(!lanes.held) },
    "Hold the picture",
  );
  // Shown once it is known how many words there are, so that nothing moves then.
  const columns = el(
    "div",
    { class: "columns", hidden: true },
    el(
      "section",
      { class: "card plots", "aria-labelledby": "scores-title" },
      el(
        "div",
        { class: "card-head" },
        el("h2", { id: "scores-title" }, "Scores"),
        hold,
      ),
      lanesBox,
      legend(),
    ),
    el(
      "section",
      { class: "card", "aria-labelledby": "happened-title" },
      el("div", { class: "card-head" }, el("h2", { id: "happened-title" }, "What happened")),
      none,
      log,
    ),
  );
  view.append(
    el("h1", { class: "sr" }, "Live"),
    el(
      "dl",
      { class: "strip" },
      cell("microphone", "Microphone", "Where the sound comes from"),
      cell("level", "Level", "RMS level of the last 0.16 s, in dB of full scale"),
      cell("gate", "Voice gate", "While it is closed the models sleep, and all scores are 0"),
      cell("lag", "Lag", "Seconds for which the sound that was heard last had been there"),
      cell("cpu", "Processor", "CPU time per second of sound, since the daemon's start"),
    ),
    columns,
  );
  const lanes = new Lanes(lanesBox);
  let pending = [];
  let frame = 0;

  function setHeld(held) {
    lanes.held = held;
    hold.setAttribute("aria-pressed", String(held));
    say(hold, held ? "Let it run" : "Hold the picture");
  }

  function flush() {
    frame = 0;
    const added = pending;
    pending = [];
    rows.prepend(...added.reverse());
    while (rows.children.length > ROWS) rows.lastElementChild.remove();
    none.hidden = rows.children.length > 0;
  }

  function add(item) {
    pending.push(item);
    if (pending.length > ROWS) pending.shift();
    frame ||= requestAnimationFrame(flush);
  }

  function showStatus(status) {
    columns.hidden = false;
    lanes.setWords(status.words);
    const { microphone } = status;
    say(cells.microphone, fileName(microphone.name) || microphone.state);
    cells.microphone.title = microphone.name;
    say(cells.lag, status.lag_s === null ? "none" : `${status.lag_s.toFixed(2)} s`);
    say(cells.cpu, status.cpu === null ? "–" : `${(100 * status.cpu).toFixed(1)} % of a core`);
    if (status.pauses.length || microphone.state !== "ok") {
      say(cells.level, "–");
      say(cells.gate, "–");
    }
  }

  function heard(kind, data) {
    if (kind === "scores") {
      lanes.push(data);
      if (!lanes.held) {
        say(cells.level, `${minus(data.level_dbfs)} dBFS`);
        say(cells.gate, data.gate ? "open" : "closed");
      }
    } else if (kind === "status") showStatus(data);
    else if (kind === "event") {
      lanes.mark(data);
      add(row(data));
    } else if (kind === "past") {
      pending = data.slice(-ROWS).map(row);
      rows.replaceChildren();
      flush();
    } else if (kind === "missed") {
      add(el("li", { class: "gap" }, `${data.events} events are left out: too many at once`));
    } else if (kind === "daemon" && !data.there) {
      for (const one of Object.values(cells)) say(one, "–");
      lanes.clear();
      columns.hidden = false;
    }
  }

  return {
    heard,
    close() {
      cancelAnimationFrame(frame);
      lanes.close();
    },
  };
}

function row(event) {
  const { kind, title, detail } = describe(event);
  const time = new Date(1000 * (event.time ?? event.at));
  const extra = [];
  if (event.snr_db !== undefined) extra.push(`${event.snr_db.toFixed(0)} dB over the noise`);
  if (event.latency_ms !== undefined) extra.push(`${event.latency_ms.toFixed(0)} ms`);
  if (event.stages)
    extra.push(`first stage ${score(event.stages.streaming)}, checker ${score(event.stages.checker)}`);
  return el(
    "li",
    { class: kind },
    el("span", { class: "mark", "aria-hidden": "true" }, MARKS[kind]),
    el(
      "div",
      {},
      el(
        "p",
        {},
        event.word ? el("b", {}, spoken(event.word)) : null,
        event.word ? " " : null,
        title,
      ),
      detail || extra.length
        ? el("p", { class: "small" }, [detail, ...extra].filter(Boolean).join(" · "))
        : null,
    ),
    el("time", { datetime: time.toISOString() }, clock.format(time)),
  );
}

function legend() {
  const key = (name, text) => el("li", {}, el("i", { class: `key ${name}`, "aria-hidden": "true" }), text);
  return el(
    "ul",
    { class: "legend", "aria-label": "Key" },
    key("score", "score"),
    key("streaming", "first stage"),
    key("checker", "checker"),
    key("threshold", "threshold"),
    key("wake", "wake"),
    key("refused", "refusal"),
    key("gate", "voice gate open"),
    key("noise", "noise"),
  );
}
