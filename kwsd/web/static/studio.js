// What recording words and voices share: the meter, the question before a loss, files, takes.

import { get, post, upload } from "./api.js";
import { el, say } from "./dom.js";
import { minus } from "./wording.js";

const FLOOR = -70;
const ACCEPTED = ".wav,.flac,.ogg,.mp3,audio/wav,audio/flac,audio/ogg,audio/mpeg";

/** Shows the level of the daemon's microphone, which the page's stream has. */
export class Meter {
  constructor() {
    this.bar = el("i");
    this.text = el("span", { class: "small" }, "–");
    this.element = el(
      "div",
      { class: "meter" },
      el("div", { class: "meter-track", role: "meter", "aria-label": "Level of the microphone", "aria-valuemin": FLOOR, "aria-valuemax": 0, "aria-valuenow": FLOOR }, this.bar),
      this.text,
    );
  }

  /** Show a level in dB of full scale, or none. */
  show(dbfs) {
    const level = dbfs ?? FLOOR;
    this.bar.style.width = `${Math.max(0, Math.min(100, 100 * (1 - level / FLOOR)))}%`;
    this.bar.classList.toggle("loud", level > -3);
    this.element.firstChild.setAttribute("aria-valuenow", Math.round(level));
    say(this.text, dbfs === null ? "no sound" : `${minus(dbfs)} dBFS`);
  }

  heard(kind, data) {
    if (kind === "scores") this.show(data.level_dbfs);
    else if (kind === "status" && (data.pauses.length || data.microphone.state !== "ok")) this.show(null);
    else if (kind === "daemon" && !data.there) this.show(null);
  }
}

/** Ask before something is lost; the answer is whether to go on. */
export function ask(view, question, yes, no = "Keep it") {
  return new Promise((decided) => {
    const dialog = el(
      "dialog",
      {
        "aria-label": question,
        onclose: () => {
          dialog.remove();
          decided(dialog.returnValue === "yes");
        },
      },
      el(
        "form",
        { method: "dialog" },
        el("p", {}, question),
        el(
          "div",
          { class: "buttons" },
          el("button", { class: "quiet", value: "" }, no),
          el("button", { class: "bad", value: "yes" }, yes),
        ),
      ),
    );
    view.append(dialog);
    dialog.showModal();
  });
}

/** Return a button that uploads files one after the other. `working` is told what is done, and null
 * at the end, `taken` the state after each that was taken, and `told` what came of them all. */
export function files(path, { working, taken, told }) {
  const text = "Upload recordings";
  const input = el("input", { type: "file", accept: ACCEPTED, multiple: true, hidden: true, "aria-label": text, onchange: send });
  const button = el("button", { type: "button", class: "quiet", onclick: () => input.click() }, text);

  async function send() {
    const chosen = [...input.files];
    const of = chosen.length;
    const problems = [];
    input.value = "";
    for (const [n, file] of chosen.entries()) {
      working(`Reading ${file.name}, ${n + 1} of ${of}.`);
      try {
        taken(await upload(`${path}?name=${encodeURIComponent(file.name)}`, file));
      } catch ({ message }) {
        problems.push(message.startsWith(file.name) ? `${message}.` : `${file.name}: ${message}.`);
      }
    }
    working(null);
    const summary = `${of - problems.length} of ${of} ${of === 1 ? "recording" : "recordings"} taken.`;
    told(problems.length ? "bad" : "good", [summary, ...problems].join(" "));
  }
  return [button, input];
}

/** Begin what is guided. Where something else is, offer to end that. */
export async function begin(view, path, body) {
  try {
    return await post(path, body);
  } catch (error) {
    if (error.code !== "busy") throw error;
    const now = await get("/api/guided");
    if (!now) throw error;
    const where = now.own ? "here" : "in another browser";
    const yes = await ask(view, `${sentence(now.what)} ${where}. What was recorded for it would be lost.`, "End it and begin", "Leave it");
    if (!yes) return null;
    await post("/api/guided/end", {});
    return post(path, body);
  }
}

/** Return what this browser is guided through, of a kind, once nothing is being done to it; nothing
 * where `waits()` says that nobody wants it any more. */
export async function resumed(kind, waits) {
  for (;;) {
    const now = await get("/api/guided");
    if (!now?.own || now.kind !== kind) return null;
    if (now.state && !now.doing) return now.state;
    if (!waits()) return null;
    await new Promise((later) => setTimeout(later, 1000));
  }
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
