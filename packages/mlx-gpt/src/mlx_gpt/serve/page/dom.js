/** Build elements. Text becomes text nodes: nothing here, or on this page, parses HTML. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a new element. An attribute `onclick: f` listens, `true` sets an empty attribute, and
 * `false`, `null` and `undefined` set none. Children are nodes, strings and arrays of them; absent
 * ones are skipped.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child != null && child !== false) made.append(child);
  }
  return made;
}

/** Return an icon of the page's sprite; it has no meaning of its own to a screen reader. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Return a button with an icon; `label` is its name and its tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  const always = { type: "button", class: "icon-button", "aria-label": label, title: label };
  return element("button", { ...always, onclick, ...attributes }, icon(name));
}

export const byId = (id) => document.getElementById(id);
