// Somebody who is being enrolled: phrase by phrase, or from recordings.

import { post } from "./api.js";
import { el, refocus, say } from "./dom.js";
import { Meter, ask, files, sentence } from "./studio.js";
import { minus, spoken } from "./wording.js";

const LEAST = 2;
const ENOUGH = 3;

/** Show an enrollment in `view`; `ended(kind, message, again)` is called when it is over, and
 * `again` says what to begin instead, if anything. */
export function openEnrollment(view, first, ended) {
  let state = first;
  let work = "";
  let isClosed = false;
  const meter = new Meter();
  const { name } = first;
  const called = first.reference ? `${name} (${first.reference})` : name;

  const title = el("h1", { id: "enroll-title", tabindex: "-1" }, `Enroll ${called}`);
  const prompt = el("p", { class: "prompt" });
  const dots = el("ol", { class: "dots", "aria-hidden": "true" });
  const status = el("p", { class: "told", role: "status" });
  const record = el("button", { type: "button", class: "record", onclick: recordPhrase }, "Record");
  const [choose, input] = files("/api/enrollment/upload", { working, taken: show, told });
  const takes = el("ol", { class: "heard", "aria-label": "Takes" });
  const none = el("p", { class: "none" }, "None yet. Speak as you will later: as far away, as loud.");
  const commit = el("button", { type: "button", onclick: store }, `Enroll ${name}`);
  const cancel = el("button", { type: "button", class: "quiet", onclick: leave }, "Cancel");
  const advice = el("p", { class: "small" });
  const word = el(
    "select",
    { id: "enroll-word", onchange: () => other({ name, reference: first.reference, word: word.value }) },
    first.words.map((one) => el("option", { value: one }, spoken(one))),
  );
  word.value = first.word ?? first.words[0] ?? "";
  const label = el("input", { id: "enroll-reference", maxlength: "63", autocomplete: "off", value: first.reference, placeholder: "far" });
  const settings = el(
    "form",
    { class: "enroll", onsubmit: (event) => beside(event) },
    el("div", {}, el("label", { for: "enroll-word" }, "The word to say"), word),
    el(
      "div",
      {},
      el("label", { for: "enroll-reference" }, "Keep it beside others, as"),
      el("div", { class: "buttons" }, label, el("button", { class: "quiet" }, "Begin with this")),
    ),
  );
  const loss = el("p", { class: "warning", hidden: !first.replaces });
  say(loss, lossText());
  view.replaceChildren(
    el(
      "div",
      { class: "columns draft" },
      el(
        "section",
        { class: "card recorder", "aria-labelledby": "enroll-title" },
        el("div", { class: "card-head" }, title, cancel),
        loss,
        prompt,
        meter.element,
        dots,
        el("div", { class: "buttons" }, record, choose, input),
        status,
        el("p", { class: "small" }, "The microphone is that of the machine where kwsd runs."),
      ),
      el(
        "section",
        { class: "card", "aria-labelledby": "takes-title" },
        el("div", { class: "card-head" }, el("h2", { id: "takes-title" }, "Takes")),
        none,
        takes,
        el("div", { class: "make" }, advice, commit),
        settings,
      ),
    ),
  );

  const count = () => state.takes.length;

  function lossText() {
    if (first.reference) return `${name} has a reference “${first.reference}” already. It is replaced at the end.`;
    const others = first.references.filter(Boolean);
    return others.length
      ? `${name} is enrolled already. The reference without a label is replaced at the end; ${others.join(", ")} stay.`
      : `${name} is enrolled already, and is replaced at the end. A label below keeps this beside it.`;
  }

  function show(next) {
    state = next;
    none.hidden = count() > 0;
    takes.replaceChildren(
      ...state.takes.map((take) =>
        el("li", {}, el("span", {}, take.name), el("span", { class: "small" }, `${take.speech_s.toFixed(1)} s at ${minus(take.speech_dbfs)} dBFS`)),
      ),
    );
    const { ask: phrase } = state;
    const of = phrase?.of ?? dots.children.length;
    const done = phrase ? phrase.number - 1 : of;
    dots.replaceChildren(...Array.from({ length: of }, (_, n) => el("li", { class: n < done ? "done" : "" })));
    say(
      advice,
      count() < LEAST
        ? "At least two takes are needed, and three are better."
        : count() < ENOUGH
          ? "Of two takes alone, the voice is known less surely."
          : phrase
            ? "It is enough; all phrases are better."
            : "All is there.",
    );
    showWork();
  }

  function showWork() {
    const phrase = state.ask;
    const isFree = work === "";
    say(prompt, phrase ? sentence(work === "recording" ? `now ${phrase.text}` : phrase.text) : "All phrases are said");
    say(record, work === "recording" ? "Listening …" : phrase ? `Record ${phrase.number} of ${phrase.of}` : "Nothing more to say");
    record.disabled = !phrase || !(isFree || work === "recording");
    record.setAttribute("aria-disabled", String(work === "recording")); // it keeps the focus
    record.classList.toggle("on", work === "recording");
    meter.element.classList.toggle("on", work === "recording");
    commit.disabled = !isFree || count() < LEAST;
    choose.disabled = !isFree;
    for (const one of settings.elements) one.disabled = !isFree || count() > 0;
    settings.hidden = count() > 0;
  }

  async function doing(what, text, path) {
    work = what;
    told("", text);
    showWork();
    try {
      const next = await post(path, {});
      work = "";
      return isClosed ? null : next;
    } catch (error) {
      work = "";
      if (!isClosed) {
        failed(error);
        showWork();
      }
      return null;
    }
  }

  function failed(error) {
    if (error.code === "no_session") return ended("bad", `Enrolling ${called} has ended: nobody went on for a while, or another browser has begun. Begin again.`);
    told("bad", `Not taken: ${error.message}`);
  }

  async function recordPhrase() {
    if (work) return;
    const { number, of } = state.ask;
    const next = await doing("recording", "Listening.", "/api/enrollment/record");
    if (next) {
      show(next);
      const take = next.takes[next.takes.length - 1];
      told("good", `${number} of ${of} heard: ${take.speech_s.toFixed(1)} s at ${minus(take.speech_dbfs)} dBFS.`);
    }
    if (!isClosed) refocus(state.ask ? record : commit);
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

  async function store() {
    if (first.replaces && !(await ask(view, `${lossText().replace(/ at the end.*/, "")}. Go on?`, "Replace", "Not yet"))) return;
    const next = await doing("keeping", `Enrolling ${called}.`, "/api/enrollment/commit");
    if (!next) return;
    const { done } = next;
    const warnings = [
      ...done.refused.map((why) => `Left out: ${why}.`),
      ...(done.warning ? [`${sentence(done.warning)}.`] : []),
      ...done.known_as.map((other) => `This voice is already enrolled as ${other}: a wake may name either.`),
      ...(done.unlike ? [`This voice does not resemble the other references of ${name}: whoever it is passes for ${name} now.`] : []),
    ];
    ended(warnings.length ? "warn" : "good", [`${called} is enrolled, from ${done.takes} takes.`, ...warnings].join(" "));
  }

  async function end() {
    try {
      await post("/api/guided/leave", {});
      return true;
    } catch (error) {
      failed(error);
      return false;
    }
  }

  async function leave() {
    if (count() && !(await ask(view, `Stop enrolling ${called}? ${count()} ${count() === 1 ? "take" : "takes"} would be lost.`, "Stop", "Go on"))) return;
    if (await end()) ended("", "Nothing has changed.");
  }

  async function other(body) {
    if (await end()) ended("", "", body);
  }

  function beside(event) {
    event.preventDefault();
    other({ name, reference: label.value.trim(), word: word.value || null });
  }

  meter.show(null);
  show(first);
  title.focus();
  return {
    heard: (kind, data) => meter.heard(kind, data),
    close() {
      isClosed = true;
    },
  };
}
