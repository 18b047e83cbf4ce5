// The threshold of each word: what others would do and would have done, put in force, taken back.

import { get, post } from "./api.js";
import { Days, beginnings } from "./days.js";
import { el, refocus, say } from "./dom.js";
import { TradeOff, estimate, legend, tells } from "./tradeoff.js";
import { limit, plural, span, spoken } from "./wording.js";

const PERIODS = [
  [7, "the last 7 days"],
  [14, "the last 14 days"],
  [30, "the last 30 days"],
  [0, "everything"],
];
const SHOWN_DAYS = 30;
const ORIGINS = { configured: "configuration", calibrated: "calibration", model: "its model" };
const NAMES = ["Strict", "Balanced", "Lenient"];
const AIMS = ["1 a day", "1 a week", "1 a month"];

/** Return a number with the digits that count. */
function digits(value) {
  if (value > 0 && value < 0.001) return "under 0.001";
  return value >= 10 ? value.toFixed(0) : Number(value.toPrecision(2)).toString();
}
/** Return a rate an hour as that of a day. */
const daily = (rate) => (24 * rate < 0.01 ? "under 0.01" : digits(24 * rate));
const percent = (share) => `${digits(100 * share)} %`;
const heardFor = (hours) => span(3600 * hours);

export function open(view) {
  let calibration = null;
  let word = null;
  let data = null;
  let at = 0;
  let isAway = false;
  let isBusy = false;
  let differed = "";
  let asked = 0;

  const rows = el("tbody");
  const noWords = el("p", { class: "none", hidden: true });
  const title = el("h2", { id: "word-title" }, "–");
  const period = el(
    "select",
    { id: "period", onchange: () => load() },
    PERIODS.map(([days, text]) => el("option", { value: String(days), selected: days === 14 }, text)),
  );
  const heard = el("span", { class: "small" }, "–");
  const cells = {};
  const cell = (key, name) => {
    cells[key] = [el("dd", {}, "–"), el("dd", { class: "sub" }, "\u00a0")];
    return el("div", {}, el("dt", {}, name), ...cells[key]);
  };
  const slider = el("input", {
    type: "range",
    "aria-label": "Threshold",
    min: "0",
    max: "0",
    step: "1",
    disabled: true,
    oninput: () => move(slider.valueAsNumber),
  });
  const plotsBox = el("div", { class: "tradeoff" });
  const plots = new TradeOff(plotsBox, (index) => move(index));
  const measured = NAMES.map((name, n) => aimButton(name, () => data?.operating_points[n]?.threshold));
  const aims = AIMS.map((name, n) => aimButton(name, () => (tells(data?.hours) ? data.choices[n]?.threshold : undefined)));
  const noAims = el("p", { class: "small" }, "Once an hour is logged, a threshold can be chosen by how often the word may wake here.");
  const apply = el("button", { type: "button", disabled: true, onclick: put }, "Apply");
  const back = el("button", { type: "button", class: "quiet", disabled: true, onclick: goBack }, "Back to the one in force");
  const undo = el("button", { type: "button", class: "quiet", disabled: true, onclick: takeBack }, "Undo the last change");
  const message = el("p", { class: "small", role: "status" });
  const hints = el("ul", { class: "hints" });
  const days = new Days();

  const body = el(
    "div",
    {},
    el(
      "dl",
      { class: "readout" },
      cell("threshold", "Threshold"),
      cell("wakes", "False wakes here"),
      cell("model", "By its model"),
      cell("missed", "Missed, as measured"),
      cell("clips", "Your labeled clips"),
    ),
    plotsBox,
    el("div", { class: "slide" }, slider),
    legend(),
    el(
      "div",
      { class: "aims" },
      el("div", { role: "group", "aria-labelledby": "measured-title" }, el("p", { id: "measured-title", class: "small" }, "As measured"), measured),
      el("div", { role: "group", "aria-labelledby": "aims-title" }, el("p", { id: "aims-title", class: "small" }, "By the log here, at most"), aims),
    ),
    noAims,
    el("div", { class: "buttons" }, apply, back, undo),
  );
  const stack = el(
    "div",
    { class: "stack", hidden: true },
    el(
      "section",
      { class: "card", "aria-labelledby": "word-title" },
      el(
        "div",
        { class: "card-head" },
        title,
        el("div", { class: "period" }, el("label", { for: "period", class: "small" }, "By the log of "), period, heard),
      ),
      body,
      message,
      hints,
    ),
    days.element,
  );
  view.append(
    el("h1", { class: "sr" }, "Thresholds"),
    el(
      "div",
      { class: "columns thresholds" },
      el(
        "section",
        { class: "card", "aria-labelledby": "words-title" },
        el("div", { class: "card-head" }, el("h2", { id: "words-title" }, "Words")),
        el(
          "table",
          {},
          el("thead", {}, el("tr", {}, ["Word", "Threshold", "Set by"].map((text) => el("th", { scope: "col" }, text)))),
          rows,
        ),
        noWords,
      ),
      stack,
    ),
  );

  function aimButton(name, threshold) {
    const button = el(
      "button",
      { type: "button", class: "quiet", disabled: true, "aria-pressed": "false", onclick: () => move(plots.nearest(threshold())) },
      name,
    );
    button.threshold = threshold;
    return button;
  }

  async function tried(work) {
    try {
      await work();
    } catch (error) {
      say(message, error.message);
    }
    stack.hidden = !calibration && !message.textContent;
  }

  /** Ask for all thresholds, and for what others would do to the word that is chosen. */
  const load = () =>
    tried(async () => {
      calibration = await get("/api/thresholds");
      const names = Object.keys(calibration.words);
      if (!names.includes(word)) word = names[0] ?? null;
      showWords();
      await choose(word);
    });

  async function choose(name) {
    if (name !== word) say(message, "");
    const kept = name === word && data && data.word === name && at !== inForce() ? threshold() : null;
    word = name;
    showWords();
    if (!name) return;
    const mine = ++asked;
    stack.setAttribute("aria-busy", "true");
    const count = Number(period.value);
    const starts = beginnings(count || SHOWN_DAYS);
    const query = `since=${count ? starts[0] : 0}&days=${starts.join()}`;
    let found = null;
    try {
      found = await get(`/api/words/${encodeURIComponent(name)}/trade-off?${query}`);
    } finally {
      if (mine === asked) {
        data = found;
        say(title, spoken(name));
        body.hidden = hints.hidden = days.element.hidden = !data;
        stack.setAttribute("aria-busy", "false");
      }
    }
    if (mine !== asked) return; // another was chosen meanwhile
    plots.show(data);
    slider.max = String(data.trade_off.length - 1);
    slider.setAttribute("aria-label", `Threshold of ${spoken(name)}`);
    say(heard, `${heardFor(data.hours)} heard`);
    move(kept === null ? inForce() : plots.nearest(kept));
  }

  const threshold = () => data.trade_off[at].threshold;
  const inForce = () => data.trade_off.findIndex((row) => row.threshold === data.in_force.threshold);

  function showWords() {
    const names = calibration ? Object.entries(calibration.words) : [];
    const hadFocus = rows.contains(document.activeElement);
    const none = calibration
      ? "No word is listened for. Enable one: kwsd word enable WORD, or name it under words in the configuration."
      : "The daemon is away. Once it is back, its words and their thresholds stand here.";
    noWords.hidden = names.length > 0 || (!calibration && !isAway);
    say(noWords, none);
    rows.replaceChildren(
      ...names.map(([name, one]) =>
        el(
          "tr",
          { class: name === word ? "current" : "", onclick: () => tried(() => choose(name)) },
          el("td", {}, el("button", { type: "button", class: "plain", "aria-current": String(name === word) }, spoken(name))),
          el("td", {}, limit(one.threshold)),
          el("td", {}, ORIGINS[one.origin]),
        ),
      ),
    );
    if (hadFocus) rows.querySelector("[aria-current=true]")?.focus();
  }

  /** Look at another threshold: nothing is changed by that. */
  function move(index) {
    if (!data) return;
    at = Math.min(Math.max(index, 0), data.trade_off.length - 1);
    slider.value = String(at);
    plots.move(at);
    showFigures();
    showButtons();
    showHints();
    days.show(data.days, threshold());
  }

  function showFigures() {
    const row = data.trade_off[at];
    const set = (key, value, sub) => {
      say(cells[key][0], value);
      say(cells[key][1], sub || "\u00a0");
    };
    const now = data.in_force.threshold;
    set("threshold", limit(row.threshold), row.threshold === now ? "in force" : `in force: ${limit(now)}`);
    const rate = estimate(row, data.hours);
    const [low, high] = row.bounds;
    const wakes = rate === null ? `under ${daily(high)}` : daily(rate);
    const bounds = row.seen ? `${daily(low).replace("under 0.01", "0")} to ${daily(high)}` : `under ${daily(high)}`;
    const hasLog = tells(data.hours);
    if (hasLog) set("wakes", `${wakes} a day`, rate === null ? "none was heard (95 %)" : `${bounds} (95 %)`);
    else set("wakes", "–", data.hours ? "too little is logged" : "nothing is logged yet");
    const model = row.rate;
    if (model) set("model", `${digits(model.held)} an hour`, "of continuous speech");
    else set("model", "–", "was not measured");
    const takes = data.takes === null ? "" : ` of ${plural(data.takes, "take")}`;
    if (row.missed) set("missed", percent(row.missed[0]) + takes, `${percent(row.missed[1])} in noise`);
    else set("missed", "–", "was not measured");
    const missed = data.right.filter((peak) => peak < row.threshold).length;
    const woken = data.wrong.filter((peak) => peak >= row.threshold).length;
    const wrong = data.wrong.length ? `${woken} of ${data.wrong.length} wrong wake it` : "";
    if (data.right.length) set("clips", `${missed} of ${data.right.length} missed`, wrong || "none is wrong");
    else set("clips", "–", wrong || "none is labeled right");
    const effects = [hasLog && `${wakes} false wakes a day`, row.missed && `${percent(row.missed[0])} missed`];
    slider.setAttribute("aria-valuetext", [limit(row.threshold), ...effects.filter(Boolean)].join(", "));
  }

  function showButtons() {
    const isSame = at === inForce();
    const isFixed = data.in_force.origin === "configured";
    const isStuck = isAway || isBusy;
    slider.disabled = false;
    apply.disabled = isSame || isFixed || isStuck;
    back.disabled = isSame;
    undo.disabled = !calibration.earlier || isStuck;
    for (const button of [...measured, ...aims]) {
      const own = button.threshold();
      button.disabled = own === undefined;
      button.setAttribute("aria-pressed", String(own !== undefined && plots.nearest(own) === at));
    }
    noAims.hidden = tells(data.hours);
  }

  function showHints() {
    const texts = [];
    const { in_force: now } = data;
    const row = data.trade_off[at];
    if (isAway) texts.push("The daemon is away: this is what it said last.");
    if (now.origin === "configured")
      texts.push(`The configuration sets this threshold, and wins. Remove words.${data.word}.threshold there, then kwsd reload.`);
    if (!data.logs)
      texts.push("Nothing new is logged: the configuration has log_peaks: false. Remove it, then kwsd reload.");
    else if (!data.hours)
      texts.push("Nothing is logged with this model of the word yet. The daemon logs while it hears the microphone; come back in an hour.");
    else if (data.hours < 24)
      texts.push(`The log is ${heardFor(data.hours)} long: a rate of 1 a day shows only after ${heardFor(-Math.log(0.05) * 24)} without a false wake.`);
    if (data.other_hours > 0.1)
      texts.push(`${heardFor(data.other_hours)} were logged with another model or checker, and do not count.`);
    const choice = tells(data.hours) && data.choices.find((one) => one.threshold === row.threshold);
    if (choice && choice.capped)
      texts.push("Hardly anything would reach a threshold for this rate; this is the highest of use. Allow more, or make the word better with more takes.");
    else if (choice && choice.hours < choice.hours_needed && choice.bounds[1] > choice.rate)
      texts.push(`To show this rate (95 %), ${heardFor(choice.hours_needed)} without a false wake are needed; beyond what was heard it is extrapolated.`);
    if (now.origin === "model" && now.rate?.asked && now.rate.held > 1.05 * now.rate.asked)
      texts.push(`It was asked for ${digits(now.rate.asked)} false wakes an hour of speech, and no good threshold holds it to that: ${digits(now.rate.held)} are to be expected. More takes, or a longer phrase, help.`);
    if (row.missed?.[0] > 0.5) texts.push("It would miss most.");
    if (data.assumed_right)
      texts.push(`${plural(data.assumed_right, "wake")} without a label count as right. Label clips, and they tell more.`);
    if (!data.right.length)
      texts.push("No clip of this word is labeled right. Keep and label some on the page Clips: they show what would be missed in this room.");
    hints.replaceChildren(...texts.map((text) => el("li", {}, text)));
  }

  /** Do what changes thresholds, and show those that are in force then; the focus stays with the
   * button `again`, or goes to the slider. */
  const changing = (work, ...again) =>
    tried(async () => {
      isBusy = true;
      showButtons();
      try {
        const text = await work();
        await choose(word);
        say(message, text);
      } finally {
        isBusy = false;
        if (data) showButtons();
        refocus(...again, slider);
      }
    });

  function put() {
    const { model } = data.in_force;
    const choice = [...data.choices, ...pointRates()].find((one) => one.threshold === threshold());
    const body = { threshold: threshold(), model, rate: choice?.rate ?? null, hours: data.hours };
    return changing(async () => {
      calibration = await post(`/api/words/${encodeURIComponent(word)}/threshold`, body);
      return `In force: ${spoken(word)} wakes from ${limit(body.threshold)} on.`;
    });
  }

  const pointRates = () => data.operating_points.map((one) => ({ threshold: one.threshold, rate: one.false_accepts_per_hour }));

  function takeBack() {
    return changing(async () => {
      const before = calibration.words;
      calibration = await post("/api/thresholds/undo", {});
      at = inForce();
      const changed = Object.entries(calibration.words).filter(([name, one]) => before[name]?.threshold !== one.threshold);
      const texts = changed.map(([name, one]) => `${spoken(name)} is back at ${limit(one.threshold)}`);
      return `${texts.join(", ") || "The last change is taken back; no word has another threshold"}.`;
    }, undo);
  }

  function goBack() {
    move(inForce());
    slider.focus();
  }

  return {
    heard(kind, told) {
      if (kind === "daemon") {
        const wasAway = isAway;
        isAway = !told.there;
        if (data && isAway !== wasAway) move(at);
        if (told.there && (wasAway || !data)) load();
        showWords();
      }
      if (kind === "status" && calibration && !isBusy) {
        // Somebody else may have changed them: `kwsd calibrate`, another page.
        const all = (words, id) => JSON.stringify(Object.entries(words).map(([name, one]) => [name, one.threshold, one.origin, one[id]]));
        const both = [all(told.words, "id"), all(calibration.words, "model")];
        if (both[0] !== both[1] && both.join() !== differed) load();
        differed = both.join();
      }
    },
    close() {
      asked++;
      plots.close();
    },
  };
}
