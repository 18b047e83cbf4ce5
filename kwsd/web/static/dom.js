// Elements without HTML in texts: what a word or a person is called is never markup.

/** Return an element; a key of `attributes` that begins with `on` is a listener. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && typeof value !== "string") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set the text of an element, where it is another one than before. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Give the focus to the first of these that can have it, where an action has left it to nobody. */
export function refocus(...elements) {
  const { activeElement: now, body } = document;
  if (now && now !== body && !now.disabled) return;
  elements.find((one) => one?.isConnected && !one.disabled)?.focus();
}

const SVG = "http://www.w3.org/2000/svg";

/** Return an element of SVG. */
export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Return an icon of 20 by 20 from the data of its path. */
export const icon = (path) =>
  svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, svg("path", { d: path }));
