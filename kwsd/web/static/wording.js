// What happened, in words. All numbers have their units, and scores two digits.

export const score = (value) => (value === null || value === undefined ? "–" : value.toFixed(2));
/** Return a threshold: with a third digit where two would make it 1. */
export const limit = (value) => value.toFixed(value > 0.95 ? 3 : 2);
/** Return a whole number with the sign that is as wide as a digit. */
export const minus = (value) => value.toFixed(0).replace("-", "−");
export const spoken = (word) => word.replaceAll("_", " ");

/** Return who spoke, as "ann, 0.93", or nothing where nobody is enrolled. */
export function speaker(match) {
  if (!match) return "";
  if (match.reason) return match.reason;
  return `${match.name ?? "a stranger"}, ${score(match.score)}`;
}

/** Return `{kind, title, detail}` of a wake, a refusal, or a change of the microphone. */
export function describe(event) {
  switch (event.type) {
    case "wake":
      return {
        kind: "wake",
        title: `woke: ${score(event.score)} of ${score(event.threshold)}`,
        detail: speaker(event.speaker),
      };
    case "rejected":
      return { kind: "refused", ...refusal(event) };
    case "microphone":
      return { kind: event.state === "ok" ? "ok" : "trouble", ...microphone(event) };
    case "lag":
      return {
        kind: event.behind ? "trouble" : "ok",
        title: event.behind
          ? `behind by ${event.lag_s.toFixed(1)} s: the machine is too slow or too busy`
          : "has caught up",
        detail: "",
      };
    default:
      return { kind: "trouble", title: event.type, detail: "" };
  }
}

function refusal(event) {
  const reached = `${score(event.score)} of ${score(event.threshold)}`;
  switch (event.reason) {
    case "near_miss":
      return { title: `near miss: ${reached}`, detail: speaker(event.speaker) };
    case "wrong_speaker": {
      const match = event.speaker;
      if (match?.verified)
        return { title: `${match.name} may not wake it`, detail: `the word scored ${reached}` };
      const needs = match ? ` of ${score(match.threshold)}` : "";
      return {
        title: `${match ? speaker(match).replace("a stranger", "stranger") : "nobody enrolled"}${needs}`,
        detail: `the word scored ${reached}`,
      };
    }
    case "refractory":
      return { title: "too soon after the last wake", detail: `scored ${reached}` };
    case "other_word":
      return { title: "another word fits better", detail: `scored ${reached}` };
    default:
      return { title: event.reason, detail: reached };
  }
}

/** Return the name of a source; of a recording, without its folders. */
export const fileName = (name) => (name.startsWith("/") ? name.split("/").pop() : name);

function microphone(event) {
  const lost = event.samples_lost ? ` (${event.samples_lost} samples lost)` : "";
  const titles = {
    ok: "the microphone gives sound",
    lost: "the microphone is lost; it is tried again",
    silent: "nothing but zeros for a minute: is it muted?",
    overflow: `samples were lost${lost}: the machine is too busy`,
    moved: "the sound comes from another source now",
    paused: "the microphone is paused",
  };
  return { title: titles[event.state] ?? event.state, detail: fileName(event.detail ?? "") };
}

/** Return a length of time for people: "8 s", "3 min", "2 h", "5 d". */
export function span(seconds) {
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]])
    if (seconds >= 2 * length) return `${Math.round(seconds / length)} ${unit}`;
  return `${Math.round(seconds)} s`;
}

/** Return what a pause is called: "paused by cli for 5 min". */
export function pauses(list) {
  const each = list.map((one) =>
    one.left_s === null ? `${one.holder}, while it is connected` : `${one.holder} for ${span(one.left_s)}`,
  );
  return `paused by ${each.join(" and ")}`;
}

/** Return a number with its unit: "1 wake", "2 wakes". */
export const plural = (count, unit) => `${count} ${unit}${count === 1 ? "" : "s"}`;
