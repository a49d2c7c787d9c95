/** What the page says beside the conversation: to screen readers, in a short note, in questions. */

import { byId } from "./dom.js";

const NOTE_MS = 6000;
let hiding;

/** Let screen readers say it, when they have finished what they are saying. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Show a line for some seconds. */
export function note(text) {
  announce(text);
  const line = byId("note");
  line.textContent = text;
  line.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (line.hidden = true), NOTE_MS);
}

/** Ask in a dialog; return whether the answer is yes. `action` names what yes does. */
export async function confirmed(question, action) {
  byId("question").textContent = question;
  byId("question-yes").textContent = action;
  return (await closed(byId("question-dialog"))) === "yes";
}

/** Ask for a line of text; return it, or null. */
export async function asked(label, value = "") {
  const field = byId("line");
  byId("line-label").textContent = label;
  field.value = value;
  return (await closed(byId("line-dialog"))) === "yes" ? field.value.trim() : null;
}

/** Ask for the key of the server; return it, or null. */
export async function askedForKey(reason) {
  byId("key-reason").textContent = reason;
  const field = byId("key");
  field.value = "";
  const isGiven = (await closed(byId("key-dialog"))) === "yes";
  return (isGiven && field.value.trim()) || null;
}

/** Open a dialog, wait until it closes, and return the value of the button that closed it. */
function closed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** Let the buttons marked so close their dialog, as Escape does. */
export function connectDialogs() {
  for (const button of document.querySelectorAll("dialog [data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
}
