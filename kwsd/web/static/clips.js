// Recordings of wakes and near misses: heard, and labeled by keyboard, one after the other.

import { bytes, get, post } from "./api.js";
import { el, refocus, say } from "./dom.js";
import { Player } from "./player.js";
import { score, speaker, spoken } from "./wording.js";
import { Waveform } from "./waveform.js";

const KINDS = {
  wake: "wake",
  near_miss: "near miss",
  wrong_speaker: "wrong speaker",
  refractory: "too soon",
  other_word: "other word",
};
const LABELS = { right: "right", wrong: "wrong", none: "not labeled" };
const KEYS = [
  ["↑ ↓", "choose"],
  ["Space", "play"],
  ["R", "right"],
  ["W", "wrong"],
  ["U", "take back"],
  ["X", "mark"],
];
const time = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
});
const mib = (count) => (count / 2 ** 20).toFixed(1);

export function open(view) {
  let clips = [];
  let shown = [];
  let current = null;
  const marked = new Set();
  const player = new Player();

  const message = el("p", { class: "small", role: "status" });
  const amount = el("span", { class: "small" }, "–");
  const keep = el(
    "button",
    { type: "button", class: "switch", role: "switch", "aria-checked": "false", onclick: switchKeep },
    "Keep new clips",
  );
  const filters = {
    word: filter("Word", (clip) => clip.word, spoken),
    kind: filter("Kind", (clip) => clip.kind, (kind) => KINDS[kind] ?? kind),
    speaker: filter("Speaker", (clip) => clip.speaker?.name ?? (clip.speaker ? "a stranger" : "unknown")),
    label: filter("Label", (clip) => clip.label ?? "none", (label) => LABELS[label]),
  };
  const all = el("input", { type: "checkbox", "aria-label": "Mark all that are shown", onchange: markAll });
  const rows = el("tbody");
  const list = el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "List of clips" },
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, el("th", {}, all), ["Word", "What", "Label", "Score", "Speaker", "When"].map((text) => el("th", { scope: "col" }, text)))),
      rows,
    ),
  );
  const none = el("p", { class: "none" });
  const bulk = el("div", { class: "bulk", role: "group", "aria-label": "The marked clips" });
  const count = el("span", { class: "small" }, "none marked");
  const bulkButtons = [
    ["Right", () => label([...marked], "right")],
    ["Wrong", () => label([...marked], "wrong")],
    ["Take label back", () => label([...marked], null)],
    ["Delete…", () => confirmDelete([...marked])],
  ].map(([text, onclick]) => el("button", { type: "button", class: "quiet", disabled: true, onclick }, text));
  bulk.append(count, ...bulkButtons);

  const lessons = el("div", { class: "lessons" });
  const canvas = el("canvas", { class: "wave", role: "img", "aria-label": "No clip is chosen" });
  const wave = new Waveform(canvas);
  const title = el("h2", { id: "clip-title" }, "No clip is chosen");
  const facts = el("p", { class: "small" }, "–");
  const play = el("button", { type: "button", onclick: playCurrent }, "Play");
  const right = el("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => labelCurrent("right") }, "Right");
  const wrong = el("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => labelCurrent("wrong") }, "Wrong");
  const question = el("p");
  const dialog = el(
    "dialog",
    { "aria-label": "Delete clips", onclose: () => dialog.returnValue === "delete" && remove([...dialog.clips]) },
    el(
      "form",
      { method: "dialog" },
      question,
      el("div", { class: "buttons" }, el("button", { class: "quiet", value: "" }, "Keep them"), el("button", { class: "bad", value: "delete" }, "Delete")),
    ),
  );
  const detail = el(
    "section",
    { class: "card detail", "aria-labelledby": "clip-title" },
    el("div", { class: "card-head" }, title),
    canvas,
    facts,
    el("div", { class: "buttons" }, play, right, wrong),
    el("p", { class: "keys small" }, KEYS.flatMap(([key, text]) => [el("kbd", {}, key), ` ${text} `])),
  );
  view.append(
    el("h1", { class: "sr" }, "Clips"),
    el(
      "div",
      { class: "columns clips" },
      el(
        "section",
        { class: "card", "aria-labelledby": "clips-title" },
        el("div", { class: "card-head" }, el("h2", { id: "clips-title" }, "Clips"), amount, keep),
        el("div", { class: "filters" }, Object.values(filters).map((one) => one.element)),
        bulk,
        list,
        none,
        message,
        lessons,
      ),
      detail,
    ),
    dialog,
  );

  function filter(name, value, text = (one) => one) {
    const id = `filter-${name.toLowerCase()}`;
    const select = el("select", { id, onchange: show }, el("option", { value: "" }, "all"));
    return {
      element: el("div", {}, el("label", { for: id }, name), select),
      passes: (clip) => !select.value || value(clip) === select.value,
      fill() {
        const values = [...new Set(clips.map(value))].sort();
        const before = select.value;
        select.replaceChildren(
          el("option", { value: "" }, "all"),
          ...values.map((one) => el("option", { value: one }, text(one))),
        );
        select.value = values.includes(before) ? before : "";
      },
    };
  }

  async function tried(work) {
    try {
      await work();
      say(message, "");
    } catch (error) {
      say(message, error.message);
    }
  }

  const load = () =>
    tried(async () => {
      const found = await get("/api/clips");
      clips = found.clips.reverse();
      keep.setAttribute("aria-checked", String(found.enabled));
      say(amount, `${clips.length} of ${found.max_count}, ${mib(found.bytes)} of ${mib(found.max_bytes)} MiB`);
      say(
        none,
        found.enabled
          ? "No clips yet. Each wake and near miss is kept from now on."
          : "No clips are kept. “Keep new clips” keeps a recording of each wake and near miss, on this machine alone.",
      );
      for (const one of Object.values(filters)) one.fill();
      show();
      await teach();
    });

  /** Offer to make the added words again that have labeled clips which they have not learned from. */
  async function teach() {
    const { words } = await get("/api/words");
    const offers = words.flatMap((word) => {
      const known = new Set(word.made.clips ?? []);
      const count = clips.filter((one) => one.word === word.name && one.label && !known.has(one.id)).length;
      return count ? [offer(word.name, count)] : [];
    });
    if (!lessons.querySelector("[data-result]")) lessons.replaceChildren(...offers);
  }

  function offer(word, count) {
    const button = el("button", { type: "button", class: "quiet", onclick: () => improve(word, button) }, "Improve");
    const clipsText = count === 1 ? "1 labeled clip" : `${count} labeled clips`;
    return el("p", {}, el("b", {}, spoken(word)), ` can learn from ${clipsText}. `, button);
  }

  function improve(word, button) {
    button.disabled = true;
    say(button, "Learning, a minute or so…");
    return tried(async () => {
      try {
        const found = await post(`/api/words/${encodeURIComponent(word)}/improve`, {});
        lessons.replaceChildren(improved(word, found));
      } finally {
        button.disabled = false;
        say(button, "Improve");
      }
    });
  }

  function improved(word, found) {
    const undo = el("button", { type: "button", class: "quiet", onclick: () => end(() => post(`/api/words/${encodeURIComponent(word)}/undo`, {})) }, "Undo");
    const end = (work) =>
      tried(async () => {
        await work();
        lessons.replaceChildren();
        await teach();
      });
    const done = el("button", { type: "button", onclick: () => end(() => null) }, "Keep");
    const figure = (text, [before, after], of) =>
      el("tr", {}, el("th", { scope: "row" }, text), el("td", {}, `${before} of ${of}`), el("td", {}, `${after} of ${of}`));
    const rate = found.false_accepts_per_hour;
    return el(
      "section",
      { "data-result": "", "aria-label": `${spoken(word)}, before and after` },
      el("h3", {}, `${spoken(word)} has learned`),
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, el("td"), el("th", { scope: "col" }, "before"), el("th", { scope: "col" }, "after"))),
        el(
          "tbody",
          {},
          figure("its clips that are missed", found.missed, found.right),
          figure("other clips that wake it", found.woken, found.wrong),
          figure("its takes that are missed", found.takes_missed, found.takes),
        ),
      ),
      el("p", { class: "small" }, `At about ${rate.toPrecision(2)} false wakes an hour of continuous speech, before and after. Each clip and take is judged by a detector that was made without it.`),
      el("div", { class: "buttons" }, done, undo),
    );
  }

  function show() {
    shown = clips.filter((clip) => Object.values(filters).every((one) => one.passes(clip)));
    const known = new Set(shown.map((clip) => clip.id));
    for (const id of marked) if (!known.has(id)) marked.delete(id);
    const { activeElement: focused } = document;
    const hadFocus = rows.contains(focused);
    const place = hadFocus && `[data-id="${CSS.escape(focused.closest("tr").dataset.id)}"] ${focused.tagName}`;
    const { scrollTop } = list;
    rows.replaceChildren(...shown.map(row));
    list.scrollTop = scrollTop;
    none.hidden = clips.length > 0;
    const again = shown.find((clip) => clip.id === current?.id) ?? shown[0] ?? null;
    choose(again, hadFocus);
    if (place) rows.querySelector(place)?.focus();
    showMarked();
  }

  function row(clip) {
    const box = el("input", {
      type: "checkbox",
      "aria-label": `Mark ${spoken(clip.word)}, ${time.format(1000 * clip.time)}`,
      checked: marked.has(clip.id),
      onchange: () => mark(clip, box.checked),
    });
    const name = el("button", { type: "button", class: "plain", tabindex: "-1", onclick: () => choose(clip) }, spoken(clip.word));
    const found = clip.label;
    return el(
      "tr",
      { "data-id": clip.id, onclick: (event) => event.target.tagName === "TD" && choose(clip) },
      el("td", {}, box),
      el("td", {}, name),
      el("td", {}, el("span", { class: `badge ${clip.kind === "wake" ? "good" : "warn"}` }, KINDS[clip.kind] ?? clip.kind)),
      el("td", {}, found ? el("span", { class: `badge ${found === "right" ? "good" : "bad"}` }, found === "right" ? "✓ right" : "✗ wrong") : "–"),
      el("td", {}, score(clip.score)),
      el("td", {}, speaker(clip.speaker) || "–"),
      el("td", {}, time.format(1000 * clip.time)),
    );
  }

  async function choose(clip, focus = true) {
    const isNew = clip?.id !== current?.id;
    current = clip;
    for (const one of rows.children) {
      const isCurrent = one.dataset.id === clip?.id;
      one.classList.toggle("current", isCurrent);
      const button = one.querySelector("button");
      button.tabIndex = isCurrent ? 0 : -1;
      button.setAttribute("aria-current", String(isCurrent));
      if (isCurrent && focus) button.focus();
    }
    for (const button of [play, right, wrong]) button.disabled = !clip;
    right.setAttribute("aria-pressed", String(clip?.label === "right"));
    wrong.setAttribute("aria-pressed", String(clip?.label === "wrong"));
    if (!clip) {
      say(title, "No clip is chosen");
      say(facts, "–");
      wave.show(null, null);
      return;
    }
    say(title, `${spoken(clip.word)}, ${KINDS[clip.kind] ?? clip.kind}`);
    const by = speaker(clip.speaker);
    say(facts, `score ${score(clip.score)} of ${score(clip.threshold)}${by ? ` · ${by}` : ""} · ${time.format(1000 * clip.time)}`);
    if (!isNew) return;
    player.stop();
    const path = `/api/clips/${encodeURIComponent(clip.id)}`;
    await tried(async () => {
      const [whole, file] = await Promise.all([get(path), bytes(`${path}/audio.wav`)]);
      if (current?.id === clip.id) wave.show(whole, file);
    });
  }

  function playCurrent() {
    if (current) tried(() => player.toggle(`/api/clips/${encodeURIComponent(current.id)}/audio.wav`, follow));
  }

  function follow(seconds) {
    say(play, seconds === null ? "Play" : "Stop");
    wave.play(seconds);
  }

  function mark(clip, isMarked) {
    if (isMarked) marked.add(clip.id);
    else marked.delete(clip.id);
    showMarked();
  }

  function markAll() {
    for (const clip of shown) if (all.checked) marked.add(clip.id);
    if (!all.checked) marked.clear();
    for (const box of rows.querySelectorAll("input")) box.checked = all.checked;
    showMarked();
  }

  function showMarked() {
    say(count, marked.size ? `${marked.size} marked` : "none marked");
    for (const button of bulkButtons) button.disabled = marked.size === 0;
    all.checked = shown.length > 0 && marked.size === shown.length;
    all.indeterminate = marked.size > 0 && marked.size < shown.length;
  }

  const label = (ids, value) =>
    tried(async () => {
      await post("/api/clips/label", { clips: ids, label: value });
      const named = new Set(ids);
      clips = clips.map((clip) => (named.has(clip.id) ? { ...clip, label: value } : clip));
      current = clips.find((clip) => clip.id === current?.id) ?? null;
      filters.label.fill();
      show();
      await teach();
    });

  /** Label the chosen clip, and choose the next one at once: the next key is for that. */
  function labelCurrent(value) {
    if (!current) return;
    const { id } = current;
    const wanted = current.label === value ? null : value;
    const next = shown[shown.findIndex((clip) => clip.id === id) + 1];
    if (wanted && next) choose(next);
    label([id], wanted);
  }

  function confirmDelete(ids) {
    if (!ids.length) return;
    const labeled = clips.filter((clip) => ids.includes(clip.id) && clip.label).length;
    const learned = labeled ? ` ${labeled} of them labeled: words and thresholds learn from these.` : "";
    say(question, `Delete ${ids.length} ${ids.length === 1 ? "clip" : "clips"}?${learned} This cannot be undone.`);
    dialog.clips = ids;
    dialog.returnValue = "";
    dialog.showModal();
  }

  const remove = (ids) =>
    tried(async () => {
      await post("/api/clips/delete", { clips: ids });
      marked.clear();
      await load();
      refocus(rows.querySelector(".current button"), keep);
    });

  function switchKeep() {
    const enabled = keep.getAttribute("aria-checked") !== "true";
    return tried(async () => {
      await post("/api/clips/keep", { enabled });
      await load();
    });
  }

  function pressed(event) {
    const tag = event.target.tagName;
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open || tag === "SELECT") return;
    const key = event.key.toLowerCase();
    const at = shown.findIndex((clip) => clip.id === current?.id);
    const actions = {
      arrowdown: () => choose(shown[Math.min(at + 1, shown.length - 1)] ?? null),
      arrowup: () => choose(shown[Math.max(at - 1, 0)] ?? null),
      r: () => labelCurrent("right"),
      w: () => labelCurrent("wrong"),
      u: () => current?.label && labelCurrent(current.label),
      x: () => {
        if (!current) return;
        mark(current, !marked.has(current.id));
        rows.children[at].querySelector("input").checked = marked.has(current.id);
      },
    };
    if (key === " " && (tag === "BODY" || event.target.classList.contains("plain") || tag === "MAIN")) actions[" "] = playCurrent;
    if (!actions[key]) return;
    event.preventDefault();
    actions[key]();
  }
  document.addEventListener("keydown", pressed);
  load();

  return {
    heard(kind, data) {
      const isKept = kind === "event" && (data.type === "wake" || data.type === "rejected");
      if (isKept && keep.getAttribute("aria-checked") === "true") setTimeout(load, 1500);
      if (kind === "daemon" && data.there) load();
    },
    close() {
      document.removeEventListener("keydown", pressed);
      player.stop();
      wave.close();
    },
  };
}
