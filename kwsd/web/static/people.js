// The people whose voices are known: enrolling and deleting them, and who speaks now.

import { get, post } from "./api.js";
import { el, refocus, say } from "./dom.js";
import { openEnrollment } from "./enrollment.js";
import { Meter, ask, begin, day, resumed } from "./studio.js";
import { score } from "./wording.js";

const LONG = 63;

export function open(view) {
  let enrollment = null;
  let isClosed = false;
  let isFailing = false;
  let people = [];
  const meter = new Meter();
  const message = el("p", { class: "told", role: "status" });
  const list = el("ul", { class: "entries", "aria-label": "People" });
  const none = el("p", { class: "none", hidden: true }, "Nobody is enrolled. Whoever is, is named at each wake, and may be asked for by it (speaker: in the configuration).");
  const input = el("input", { id: "new-person", maxlength: String(LONG), autocomplete: "off", required: true, placeholder: "ann" });
  const add = el("button", {}, "Enroll");
  const form = el(
    "form",
    { class: "new", onsubmit: (event) => addPerson(event) },
    el("label", { for: "new-person" }, "Somebody’s name"),
    el("div", { class: "buttons" }, input, add),
    el("p", { class: "small" }, "Five times a wake word, twice free speech. What is kept is how the voice sounds, and no recording."),
  );
  const who = el("p", { class: "who" }, "–");
  const whoMore = el("p", { class: "told", role: "status" }, "Say anything, for a second or more.");
  const test = el("button", { type: "button", class: "record", onclick: hear }, "Who is speaking?");
  const frame = el(
    "div",
    { class: "columns words" },
    el(
      "section",
      { class: "card", "aria-labelledby": "people-title" },
      el("div", { class: "card-head" }, el("h1", { id: "people-title", tabindex: "-1" }, "People"), message),
      list,
      none,
    ),
    el(
      "div",
      { class: "side" },
      el("section", { class: "card", "aria-label": "Enroll somebody" }, form),
      el(
        "section",
        { class: "card tester", "aria-labelledby": "test-title" },
        el("div", { class: "card-head" }, el("h2", { id: "test-title" }, "Test")),
        meter.element,
        el("div", { class: "buttons" }, test),
        who,
        whoMore,
      ),
    ),
  );

  /** Show the people once they are known, so that nothing moves then. */
  async function showList() {
    await load();
    if (!isClosed && !enrollment) view.replaceChildren(frame);
  }

  async function tried(work) {
    try {
      await work();
    } catch (error) {
      told("bad", error.message);
    }
  }

  function told(state, text) {
    message.dataset.state = state;
    say(message, text);
  }

  /** Show who is enrolled; what it fails with is told until it does not. */
  async function load() {
    try {
      const found = await get("/api/people");
      people = found.speakers;
      list.replaceChildren(...people.map(person), ...found.unusable.map((why) => el("li", { class: "problem" }, why)));
      none.hidden = people.length + found.unusable.length > 0;
      test.disabled = people.length === 0;
      if (isFailing) told("", "");
      isFailing = false;
    } catch (error) {
      isFailing = true;
      told("bad", error.message);
    }
  }

  function person(one) {
    const references = one.references.length ? one.references : [{ name: "", takes: one.takes, created: one.created }];
    const line = (reference) => `${reference.name ? `${reference.name}: ` : ""}${reference.takes} takes, ${day.format(1000 * reference.created)}`;
    const named = references.filter((reference) => references.length > 1 || reference.name);
    return el(
      "li",
      { class: "person" },
      el(
        "div",
        {},
        el("b", {}, one.name),
        references.map((reference) =>
          el(
            "p",
            { class: "small" },
            line(reference),
            named.includes(reference)
              ? el("button", { type: "button", class: "plain link", "aria-label": `Delete the reference ${reference.name || "without a label"} of ${one.name}`, onclick: () => remove(one, reference) }, "Delete…")
              : null,
          ),
        ),
      ),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", class: "quiet", "aria-label": `Enroll ${one.name} again`, onclick: () => enter({ name: one.name }) }, "Enroll again"),
        el("button", { type: "button", class: "quiet", "aria-label": `Delete ${one.name}`, onclick: () => remove(one, null) }, "Delete…"),
      ),
    );
  }

  function addPerson(event) {
    event.preventDefault();
    const name = input.value.trim();
    if (name) enter({ name });
  }

  async function enter(body) {
    add.disabled = true;
    told("", `Getting ready for ${body.name} …`);
    await tried(async () => {
      const state = await begin(view, "/api/enrollment", body);
      if (isClosed) return;
      told("", "");
      if (state) enterEnrollment(state);
    });
    add.disabled = false;
    refocus(add);
  }

  function enterEnrollment(state) {
    enrollment = openEnrollment(view, state, async (kind, text, again) => {
      enrollment.close();
      enrollment = null;
      input.value = "";
      await showList();
      if (isClosed) return;
      told(kind, text);
      document.getElementById("people-title").focus();
      if (again) enter(again);
    });
  }

  async function remove(one, reference) {
    const what = reference ? `the reference ${reference.name || "without a label"} of ${one.name}` : one.name;
    const yes = await ask(view, `Delete ${what}? How the voice sounds is forgotten; it has to be enrolled again.`, "Delete", "Keep");
    if (!yes) return;
    await tried(async () => {
      await post("/api/people/delete", { name: one.name, reference: reference ? reference.name : null });
      told("good", `${what} is deleted.`);
      await load();
      document.getElementById("people-title").focus();
    });
  }

  async function hear() {
    if (test.ariaDisabled === "true") return;
    test.ariaDisabled = "true"; // it keeps the focus
    test.classList.add("on");
    meter.element.classList.add("on");
    say(test, "Listening …");
    say(who, "–");
    whoMore.dataset.state = "";
    say(whoMore, "Say something now.");
    try {
      const { speaker } = await post("/api/people/hear", {});
      const name = speaker.verified ? speaker.name : "a stranger";
      say(who, speaker.reason ?? `${name}, ${score(speaker.score)}`);
      const { nearest, runner_up: other } = speaker;
      const near = speaker.verified ? "" : ` Nearest is ${nearest.name}.`;
      const then = other ? ` Then comes ${other.name}, ${score(other.score)}.` : "";
      whoMore.dataset.state = speaker.verified ? "good" : "warn";
      say(whoMore, `A voice is known from ${score(speaker.threshold)} on.${near}${then}`);
    } catch (error) {
      whoMore.dataset.state = "bad";
      say(whoMore, error.message);
    }
    test.ariaDisabled = "false";
    test.disabled = people.length === 0;
    test.classList.remove("on");
    meter.element.classList.remove("on");
    say(test, "Who is speaking?");
    refocus(test);
  }

  view.append(el("p", { class: "none" }, "Asking the daemon …"));
  meter.show(null);
  showList();
  tried(async () => {
    const waits = () => {
      told("", "Somebody is being enrolled here; a moment …");
      return !isClosed;
    };
    const state = await resumed("person", waits);
    if (state && !isClosed) enterEnrollment(state);
  });

  return {
    heard(kind, data) {
      meter.heard(kind, data);
      enrollment?.heard(kind, data);
      if (kind === "daemon" && data.there && !enrollment) load();
    },
    close() {
      isClosed = true;
      enrollment?.close();
    },
  };
}
