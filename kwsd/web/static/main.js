// The frame of the page: where one is, how the microphone is, what went wrong.

import { el, icon, say } from "./dom.js";
import { Stream } from "./stream.js";
import { pauses } from "./wording.js";

const PAGES = [
  {
    name: "live",
    title: "Live",
    path: "M1 10h3l2-5 3 11 4-14 2 8h4",
    load: () => import("./live.js"),
  },
  {
    name: "clips",
    title: "Clips",
    path: "M2 10v0M5 7v6M8 3v14M11 6v8M14 8v4M17 9v2",
    load: () => import("./clips.js"),
  },
  {
    name: "thresholds",
    title: "Thresholds",
    path: "M2 6h9M15 6h3M2 14h3M9 14h9M13 4v4M7 12v4",
    load: () => import("./thresholds.js"),
  },
  {
    name: "words",
    title: "Words",
    path: "M10 3a2.5 2.5 0 0 0-2.5 2.5v4a2.5 2.5 0 0 0 5 0v-4A2.5 2.5 0 0 0 10 3zM4.5 9.5a5.5 5.5 0 0 0 11 0M10 15v3",
    load: () => import("./words.js"),
  },
  {
    name: "people",
    title: "People",
    path: "M10 10a3.2 3.2 0 1 0 0-6.4a3.2 3.2 0 0 0 0 6.4zM3.5 17a6.5 6.5 0 0 1 13 0",
    load: () => import("./people.js"),
  },
  {
    name: "doctor",
    title: "Doctor",
    path: "M5 3v5a4 4 0 0 0 8 0V3M9 12v1a4 4 0 0 0 8 0v-2M17 11a1.5 1.5 0 1 0 0-3a1.5 1.5 0 0 0 0 3M3 3h3M12 3h3",
    load: () => import("./doctor.js"),
  },
];

const view = document.getElementById("view");
const notice = document.getElementById("notice");
const chip = document.getElementById("chip");
const troubles = new Map();
const latest = { daemon: null, past: [], status: null, refused: null };
let shown = null;
let isOver = false;
let turn = 0;

const links = new Map(
  PAGES.map((page) => {
    const link = el("a", { href: `#/${page.name}` }, icon(page.path), el("span", {}, page.title));
    document.getElementById("nav").append(el("li", {}, link));
    return [page.name, link];
  }),
);

/** Show a trouble for as long as there is a text for it. */
export function trouble(kind, text) {
  if (text) troubles.set(kind, text);
  else troubles.delete(kind);
  const texts = [...troubles.values()];
  notice.hidden = texts.length === 0;
  say(notice, texts.join(" "));
}

function sayChip(state, text) {
  chip.dataset.state = state;
  say(document.getElementById("chip-text"), text);
}

function showMicrophone() {
  const { daemon, status } = latest;
  if (!daemon?.there) return sayChip("trouble", "daemon away");
  if (!status) return sayChip("waiting", "connected");
  if (status.pauses.length) return sayChip("paused", pauses(status.pauses));
  const states = { ok: "listening", lost: "microphone lost", silent: "microphone silent" };
  const state = status.microphone.state;
  return sayChip(state === "ok" ? "ok" : "trouble", states[state] ?? state);
}

function heard(kind, data) {
  if (kind === "past") latest.past = data;
  else if (kind === "event") {
    latest.past.push(data);
    if (latest.past.length > 200) latest.past.shift();
  } else latest[kind] = data;
  if (kind === "daemon") {
    if (data.version) say(document.getElementById("version"), `kwsd ${data.version}`);
    if (!data.there) latest.status = null;
    const why = data.why ? ` (${data.why})` : "";
    trouble("daemon", data.there ? "" : `The daemon is away${why}. The page reconnects by itself.`);
  }
  if (kind === "refused") trouble("refused", data ? `Scores are ${data}` : "");
  if (kind === "daemon" || kind === "status") showMicrophone();
  shown?.heard?.(kind, data);
}

function over() {
  isOver = true;
  document.getElementById("leave").hidden = true;
  shown?.close?.();
  shown = null;
  troubles.clear();
  trouble("", "");
  sayChip("waiting", "signed out");
  view.replaceChildren(
    el(
      "section",
      { class: "empty" },
      el("h1", {}, "This session has ended"),
      el("p", {}, "On the machine where kwsd runs, ", el("code", {}, "kwsd web link"), " prints a new link."),
    ),
  );
  document.title = "kwsd";
  view.focus();
}

/** Show the page that is chosen; return whether that was the last one chosen. */
async function go() {
  if (isOver) return false;
  const name = location.hash.replace(/^#\/?/, "").split("/")[0] || "live";
  const page = PAGES.find((one) => one.name === name) ?? PAGES[0];
  for (const [other, link] of links)
    if (other === page.name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  const mine = ++turn;
  let module;
  do {
    try {
      module = await page.load();
    } catch {
      // The server is away, which the stream tells.
      await new Promise((done) => setTimeout(done, 1000));
    }
    if (isOver || mine !== turn) return false;
  } while (!module);
  shown?.close?.();
  document.title = `${page.title} · kwsd`;
  view.replaceChildren();
  shown = module.open(view, { trouble });
  for (const kind of ["daemon", "past", "status"])
    if (latest[kind]) shown.heard?.(kind, latest[kind]);
  return true;
}

document.getElementById("leave").addEventListener("click", async () => {
  try {
    await fetch("/api/session", { method: "DELETE" });
  } catch {
    return; // the server is away, which the stream tells
  }
  stream.over();
});
window.addEventListener("hashchange", () => go().then((isShown) => isShown && view.focus({ preventScroll: true })));
const stream = new Stream(heard, (why) => trouble("server", why), over);
go();
