// What a threshold would have done in the last days, by the log of each.

import { el, say, svg } from "./dom.js";
import { limit, plural, span } from "./wording.js";

const BAR = 120;
const PARTS = [
  ["kept", "woke, and would again"],
  ["fewer", "woke, and would not"],
  ["more", "did not, and would have"],
];
const COLUMNS = ["Day", "Heard", "Woke", "Would have", "", "Change"];
const name = new Intl.DateTimeFormat(undefined, { weekday: "short", month: "short", day: "numeric" });

/** Return when the last days began here, the oldest first, in seconds since 1970. */
export function beginnings(count) {
  return Array.from({ length: count }, (_, n) => {
    const one = new Date();
    one.setHours(0, 0, 0, 0);
    one.setDate(one.getDate() - (count - 1 - n));
    return one.getTime() / 1000;
  });
}

export class Days {
  constructor() {
    this.summary = el("p", {}, "–");
    this.labels = el("p", { class: "small" }, "\u00a0");
    this.rows = el("tbody");
    const heads = COLUMNS.map((text) => (text ? el("th", { scope: "col" }, text) : el("td")));
    const key = ([part, text]) => el("li", {}, el("i", { class: `bar ${part}`, "aria-hidden": "true" }), text);
    this.more = el(
      "div",
      {},
      this.labels,
      el(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": "Day by day" },
        el("table", { class: "days" }, el("thead", {}, el("tr", {}, heads)), this.rows),
      ),
      el("ul", { class: "legend plain", "aria-label": "Key of the bars" }, PARTS.map(key)),
    );
    this.element = el(
      "section",
      { class: "card", "aria-labelledby": "days-title" },
      el("div", { class: "card-head" }, el("h2", { id: "days-title" }, "What it would have done")),
      this.summary,
      this.more,
    );
  }

  /** Show what a threshold would have done in days, whose peaks are `[peak, woke, right]`. */
  show(days, threshold) {
    const begun = days.findIndex((day) => day.hours > 0);
    const heard = begun < 0 ? [] : days.slice(begun); // a day without sound is told where others have some
    const each = heard.map((day) => counted(day, threshold)).reverse();
    this.more.hidden = !each.length;
    const sum = (key) => each.reduce((total, one) => total + one[key], 0);
    const woken = sum("kept") + sum("more");
    say(
      this.summary,
      sum("hours")
        ? `In the ${span(3600 * sum("hours"))} heard it woke ${plural(sum("woke"), "time")}. With ${limit(threshold)} it would have woken ${plural(woken, "time")}: ${change(sum("fewer"), sum("more"))}.`
        : "Nothing is logged in these days, so there is nothing to compare yet.",
    );
    const are = (count) => `${count} of those ${count === 1 ? "is" : "are"}`;
    const notes = [
      sum("lost") && `Gone: ${are(sum("lost"))} labeled right, and would be missed.`,
      sum("found") && `New: ${are(sum("found"))} labeled right, and would no longer be missed.`,
      sum("bad") && `New: ${are(sum("bad"))} labeled wrong.`,
    ];
    say(this.labels, notes.filter(Boolean).join(" ") || "\u00a0");
    const most = Math.max(1, ...each.map((one) => one.woke + one.more));
    this.rows.replaceChildren(...each.map((one) => row(one, most)));
  }
}

/** Return how often a word woke in a day, and what would be gone and new at a threshold. */
function counted(day, threshold) {
  const would = day.peaks.filter(([peak]) => peak >= threshold);
  const fresh = would.filter(([, woke]) => !woke);
  const kept = would.length - fresh.length;
  return {
    start: day.start,
    hours: day.hours,
    woke: day.woke,
    kept,
    fewer: day.woke - kept,
    more: fresh.length,
    lost: day.peaks.filter(([peak, woke, right]) => peak < threshold && woke && right).length,
    found: fresh.filter(([, , right]) => right).length,
    bad: fresh.filter(([, , right]) => right === false).length,
  };
}

function row(one, most) {
  const told = (value) => el("td", {}, one.hours ? value : "–");
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, name.format(1000 * one.start)),
    told(span(3600 * one.hours)),
    told(one.woke),
    told(one.kept + one.more),
    el("td", {}, bar(one, most)),
    el("td", {}, one.hours ? change(one.fewer, one.more) : "not heard"),
  );
}

function change(fewer, more) {
  const parts = [fewer && `${fewer} fewer`, more && `${more} more`].filter(Boolean);
  return parts.join(", ") || "the same";
}

function bar(one, most) {
  const picture = svg("svg", { viewBox: `0 0 ${BAR} 12`, width: BAR, height: 12, "aria-hidden": "true" });
  let x = 0;
  for (const [part] of PARTS) {
    const width = (one[part] / most) * BAR;
    if (width)
      picture.append(svg("rect", { class: `bar ${part}`, x: x + 0.5, y: 1.5, width: Math.max(width - 1, 1), height: 9 }));
    x += width;
  }
  return picture;
}
