// What is wrong with the machine, with the command that mends it, and the configuration in force.

import { get, post } from "./api.js";
import { el, refocus, say } from "./dom.js";

const MARKS = { true: ["✓", "fine"], false: ["✗", "wrong"] };
/** Sources of what nobody has set. */
const UNSET = ["default", "model", "added word"];
/** What the configuration says of a key, as YAML writes it. */
const written = (value) => (typeof value === "string" ? value : JSON.stringify(value));

export function open(view) {
  let keys = [];
  let isAway = false;

  const verdict = el("p", { class: "verdict", role: "status" }, "Examining the machine …");
  const again = el("button", { type: "button", class: "quiet", disabled: true, onclick: () => examine().then(() => refocus(again)) }, "Examine again");
  const findings = el("ul", { class: "findings", "aria-label": "Findings" });
  const search = el("input", {
    type: "search",
    placeholder: "Key, value or source",
    "aria-label": "Search the configuration",
    oninput: showKeys,
  });
  const isSet = el("input", { type: "checkbox", onchange: showKeys });
  const amount = el("p", { class: "small", role: "status" }, "–");
  const rows = el("tbody");
  view.append(
    el("h1", { class: "sr" }, "Doctor and configuration"),
    el(
      "div",
      { class: "columns doctor" },
      el(
        "section",
        { class: "card", "aria-labelledby": "doctor-title" },
        el("div", { class: "card-head" }, el("h2", { id: "doctor-title" }, "Doctor"), again),
        verdict,
        findings,
        el(
          "p",
          { class: "small" },
          "In a terminal, ",
          el("code", {}, "kwsd doctor"),
          " says the same for your own account, and listens to the microphone where no daemon has it.",
        ),
      ),
      el(
        "section",
        { class: "card", "aria-labelledby": "config-title" },
        el("div", { class: "card-head" }, el("h2", { id: "config-title" }, "Configuration"), amount),
        el("div", { class: "config-filters" }, search, el("label", {}, isSet, "Only what is set")),
        el(
          "table",
          { class: "config" },
          el(
            "thead",
            {},
            el("tr", {}, ...["Key", "Value", "Source"].map((name) => el("th", { scope: "col" }, name))),
          ),
          rows,
        ),
      ),
    ),
  );

  async function examine() {
    again.disabled = true;
    say(verdict, "Examining the machine …");
    verdict.dataset.state = "";
    try {
      const found = await post("/api/doctor", {});
      const wrong = found.filter((one) => !one.ok).length;
      // What is wrong comes first; the rest stays in the order of the examination.
      findings.replaceChildren(...found.filter((one) => !one.ok).map(row), ...found.filter((one) => one.ok).map(row));
      verdict.dataset.state = wrong ? "bad" : "good";
      say(verdict, wrong ? `${wrong} of ${found.length} findings need you.` : `All ${found.length} findings are fine.`);
    } catch (error) {
      verdict.dataset.state = "bad";
      say(verdict, error.message);
    }
    again.disabled = false;
  }

  async function configure() {
    try {
      keys = await get("/api/config");
      showKeys();
    } catch (error) {
      say(amount, error.message);
    }
  }

  function showKeys() {
    const wanted = search.value.trim().toLowerCase();
    const shown = keys.filter(
      ({ key, value, source }) =>
        (!isSet.checked || !UNSET.includes(source)) &&
        `${key} ${written(value)} ${source}`.toLowerCase().includes(wanted),
    );
    rows.replaceChildren(...shown.map(keyRow));
    say(amount, shown.length === keys.length ? `${keys.length} keys` : `${shown.length} of ${keys.length} keys`);
  }

  examine();
  configure();
  return {
    heard(kind, data) {
      // A daemon that comes back may have another configuration, and heals what was found.
      if (kind !== "daemon") return;
      if (!data.there) keys = [];
      else if (!keys.length) configure();
      if (data.there && isAway) examine();
      isAway = !data.there;
    },
  };
}

function row({ check, ok, detail, fix }) {
  const [mark, meaning] = MARKS[ok];
  return el(
    "li",
    { class: ok ? "fine" : "bad" },
    el("span", { class: "mark", role: "img", "aria-label": meaning }, mark),
    el(
      "div",
      {},
      el("p", {}, el("b", {}, check), " ", detail),
      fix ? el("p", { class: "fix" }, el("span", { class: "small" }, "What helps"), el("code", {}, fix)) : null,
    ),
  );
}

function keyRow({ key, value, source, about }) {
  return el(
    "tr",
    { class: UNSET.includes(source) ? "" : "set" },
    el("th", { scope: "row" }, el("code", {}, key), about ? el("p", { class: "small" }, about) : null),
    el("td", {}, el("code", {}, written(value))),
    el("td", { class: "small" }, source),
  );
}
