/** The list of conversations: beside the chat, or on a narrow window a drawer over it. */

import { byId, element } from "./dom.js";

const DAY_MS = 86_400_000;
const GROUPS = [
  ["Today", 1],
  ["Yesterday", 2],
  ["Last seven days", 7],
  ["Earlier", Infinity],
];

/** Show the conversations ({id, title, updated}), latest first; `open(id)` is called for one. */
export function showList(conversations, currentId, runningIds, open) {
  const midnight = new Date().setHours(24, 0, 0, 0);
  const parts = [];
  let from = -Infinity;
  for (const [name, days] of GROUPS) {
    const age = (each) => Math.max(0, (midnight - each.updated) / DAY_MS);
    const group = conversations.filter((each) => age(each) >= from && age(each) < days);
    from = days;
    if (group.length === 0) continue;
    const items = group.map((each) => item(each, currentId, runningIds.has(each.id), open));
    parts.push(element("h2", {}, name), element("ul", {}, items));
  }
  if (parts.length === 0) parts.push(element("p", {}, "No conversation yet."));
  const list = byId("conversations");
  const focused = list.contains(document.activeElement) && document.activeElement.dataset.id;
  list.replaceChildren(...parts);
  if (focused) list.querySelector(`[data-id="${focused}"]`)?.focus();
}

function item({ id, title }, currentId, isRunning, open) {
  const button = element(
    "button",
    {
      type: "button",
      title,
      "data-id": id,
      "aria-current": id === currentId ? "page" : null,
      onclick: () => open(id),
    },
    element("span", {}, title),
    isRunning && element("span", { class: "dot", role: "img", "aria-label": "answering" }),
  );
  return element("li", {}, button);
}

/** Open or close the drawer; while it is open, the rest of the page cannot be reached. */
export function setDrawer(isOpen) {
  const wasOpen = isDrawerOpen();
  document.body.classList.toggle("drawer-open", isOpen);
  byId("open-sidebar").setAttribute("aria-expanded", String(isOpen));
  byId("main").inert = isOpen;
  byId("shade").hidden = !isOpen;
  if (isOpen) byId("new").focus();
  else if (wasOpen) byId("open-sidebar").focus();
}

export const isDrawerOpen = () => document.body.classList.contains("drawer-open");

/** Let the buttons around it open and close the drawer. */
export function connectDrawer() {
  byId("open-sidebar").addEventListener("click", () => setDrawer(true));
  byId("close-sidebar").addEventListener("click", () => setDrawer(false));
  byId("shade").addEventListener("click", () => setDrawer(false));
  matchMedia("(min-width: 820px)").addEventListener("change", () => setDrawer(false));
}
