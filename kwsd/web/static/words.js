// The words: those that come with kwsd, and those that are added here.

import { bytes, get, post } from "./api.js";
import { el, refocus, say } from "./dom.js";
import { openDraft } from "./draft.js";
import { Player } from "./player.js";
import { ask, begin, day, resumed } from "./studio.js";
import { spoken } from "./wording.js";
import { Waveform } from "./waveform.js";

const LONG = 63;
const few = (value) => String(Number(value.toPrecision(2)));

export function open(view) {
  let draft = null;
  let isClosed = false;
  let isFailing = false;
  let chosen = null;
  let waves = [];
  let showing = new AbortController();
  const player = new Player();
  const message = el("p", { class: "told", role: "status" });
  const list = el("ul", { class: "entries", "aria-label": "Words" });
  const rest = el("p", { class: "small" });
  const input = el("input", { id: "new-word", maxlength: String(LONG), autocomplete: "off", required: true, placeholder: "hey banana" });
  const add = el("button", {}, "Add it");
  const form = el(
    "form",
    { class: "new", onsubmit: (event) => addWord(event) },
    el("label", { for: "new-word" }, "A word of your own"),
    el("div", { class: "buttons" }, input, add),
    el("p", { class: "small" }, "Two syllables or more. You say it a few times; it is made here, from your takes."),
  );
  const detail = el("section", { class: "card detail", "aria-labelledby": "word-title" });
  const frame = el(
    "div",
    { class: "columns words" },
    el(
      "section",
      { class: "card", "aria-labelledby": "words-title" },
      el("div", { class: "card-head" }, el("h1", { id: "words-title", tabindex: "-1" }, "Words"), message),
      list,
      rest,
    ),
    el("div", { class: "side" }, el("section", { class: "card", "aria-label": "Add a word" }, form), detail),
  );

  /** Show the words once they are known, so that nothing moves then. */
  async function showList() {
    await load();
    if (!isClosed && !draft) view.replaceChildren(frame);
  }

  /** Do something, and tell what it fails with, unless `signal` has aborted it. */
  async function tried(work, signal) {
    try {
      await work();
    } catch (error) {
      if (signal?.aborted) return;
      message.dataset.state = "bad";
      say(message, error.message);
    }
  }

  /** Show the words; what it fails with is told until it does not. */
  async function load() {
    try {
      const found = await get("/api/words");
      const added = found.words.map((word) => entry(word.name, found.in_force[word.name], word));
      const others = found.bundled.filter((name) => found.in_force[name]).map((name) => entry(name, found.in_force[name], null));
      list.replaceChildren(...added, ...others, ...found.unusable.map((why) => el("li", { class: "problem" }, why)));
      const idle = found.bundled.filter((name) => !found.in_force[name]).map(spoken);
      const together = found.false_accepts_per_hour;
      const sum = together === null ? "" : `All together: ${few(together)} wakes by mistake an hour of speech. `;
      say(rest, `${sum}${idle.length ? `Also there, and not listened for: ${idle.join(", ")}; “words” in the configuration adds them.` : ""}`);
      const again = found.words.find((word) => word.name === chosen) ?? found.words[0];
      await choose(again ?? null);
      if (isFailing) say(message, "");
      isFailing = false;
    } catch (error) {
      isFailing = true;
      message.dataset.state = "bad";
      say(message, error.message);
    }
  }

  function entry(name, force, word) {
    const from = word ? `${word.made.takes || "?"} takes of ${word.length_s.toFixed(1)} s` : "comes with kwsd";
    const rate = force?.rate ? `${few(force.rate.held)} wakes by mistake an hour${bounds(force.rate)}` : null;
    const facts = force ? [from, `threshold ${force.threshold.toFixed(2)}`, rate] : [from, "not listened for"];
    const title = spoken(name);
    const open = word
      ? el("button", { type: "button", class: "plain", "data-word": name, onclick: () => choose(word) }, title)
      : el("b", {}, title);
    return el(
      "li",
      { "data-word": name },
      el("div", {}, open, el("p", { class: "small" }, facts.filter(Boolean).join(" · "))),
      el("span", { class: `badge ${word ? "good" : ""}` }, word ? "added" : "built in"),
    );
  }

  const bounds = ({ low, high }) => (low === null || high === null ? "" : ` (${few(low)} to ${few(high)})`);

  async function choose(word) {
    chosen = word?.name ?? null;
    for (const one of list.children) {
      const isChosen = one.dataset.word === chosen;
      one.classList.toggle("current", isChosen);
      one.querySelector("button")?.setAttribute("aria-current", String(isChosen));
    }
    const path = word && `/api/words/${encodeURIComponent(word.name)}/takes`;
    let found = null;
    if (word)
      await tried(async () => {
        found = await get(path);
      });
    if (chosen !== (word?.name ?? null) || isClosed) return;
    player.stop();
    showing.abort();
    showing = new AbortController();
    for (const wave of waves) wave.close();
    waves = [];
    if (!word) {
      detail.replaceChildren(
        el("h2", { id: "word-title" }, "No word is added yet"),
        el("p", { class: "none" }, "Type a word above. Its takes, and what is used of each, are shown here."),
      );
      return;
    }
    const made = [word.made.time ? `made ${day.format(1000 * word.made.time)}` : null, word.made.of === "text" ? "of synthetic voices" : null];
    const kept = found?.takes.length ? `${found.takes.length} takes are kept` : "no takes are kept";
    detail.replaceChildren(
      el("div", { class: "card-head" }, el("h2", { id: "word-title" }, spoken(word.name))),
      el("p", { class: "small" }, [...made, found ? kept : null].filter(Boolean).join(" · ")),
      el(
        "ol",
        { class: "takes", "aria-label": `Takes of ${spoken(word.name)}` },
        (found?.takes ?? []).map((take, n) => keptTake(path, take, n + 1)),
      ),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", class: "quiet", onclick: () => enter({ word: word.name, is_new: false }) }, "Change the takes"),
        el("button", { type: "button", class: "quiet", onclick: () => remove(word) }, "Remove…"),
      ),
    );
  }

  function keptTake(path, take, number) {
    const canvas = el("canvas", { class: "wave small-wave", role: "img" });
    const wave = new Waveform(canvas);
    waves.push(wave);
    const [start, end, all] = [take.start, take.end, take.samples].map((at) => at / 16000);
    const source = `${path}/${encodeURIComponent(take.id)}/audio.wav`;
    wave.showTake(start, end, null);
    const { signal } = showing;
    tried(async () => wave.showTake(start, end, await bytes(source, signal)), signal);
    const follow = (seconds) => {
      say(play, seconds === null ? "Play" : "Stop");
      wave.play(seconds);
    };
    const play = el(
      "button",
      { type: "button", class: "quiet", "aria-label": `Play take ${number}`, onclick: () => tried(() => player.toggle(`${source}#t=${start},${end}`, follow)) },
      "Play",
    );
    return el(
      "li",
      { class: "take" },
      canvas,
      el(
        "div",
        { class: "take-facts" },
        el("b", {}, `${number}`),
        el("span", {}, take.origin === `take ${number}` ? "recorded" : take.origin),
        el("span", { class: "small" }, `${start.toFixed(2)}–${end.toFixed(2)} of ${all.toFixed(2)} s`),
        play,
      ),
    );
  }

  function addWord(event) {
    event.preventDefault();
    const word = input.value.trim();
    if (word) enter({ word, is_new: true });
  }

  /** Get ready to make a word: its process loads the models, which takes a moment. */
  async function enter(body) {
    add.disabled = true;
    message.dataset.state = "";
    say(message, `Getting ready for ${spoken(body.word)} …`);
    await tried(async () => {
      const state = await begin(view, "/api/draft", body);
      if (isClosed) return;
      say(message, "");
      if (state) enterDraft(state);
    });
    add.disabled = false;
    refocus(add);
  }

  function enterDraft(state) {
    player.stop();
    draft = openDraft(view, state, async (text, kind = "good") => {
      draft.close();
      draft = null;
      chosen = state.word;
      input.value = "";
      await showList();
      if (isClosed) return;
      message.dataset.state = kind;
      say(message, text);
      document.getElementById("words-title").focus();
    });
  }

  async function remove(word) {
    const name = spoken(word.name);
    const yes = await ask(view, `Remove ${name}? Its takes are deleted too. This cannot be undone.`, "Remove", "Keep it");
    if (!yes) return;
    showing.abort();
    await tried(async () => {
      await post(`/api/words/${encodeURIComponent(word.name)}/remove`, {});
      message.dataset.state = "good";
      say(message, `${name} is removed.`);
      await load();
      document.getElementById("words-title").focus();
    });
  }

  view.append(el("p", { class: "none" }, "Asking the daemon …"));
  showList();
  tried(async () => {
    const waits = () => {
      say(message, "A word is being made here; a moment …");
      return !isClosed;
    };
    const state = await resumed("word", waits);
    if (state && !isClosed) enterDraft(state);
  });

  return {
    heard(kind, data) {
      draft?.heard(kind, data);
      if (kind === "daemon" && data.there && !draft) load();
    },
    close() {
      isClosed = true;
      draft?.close();
      showing.abort();
      player.stop();
      for (const wave of waves) wave.close();
    },
  };
}
