/** What the fields for messages share. */

// On a screen keyboard Enter begins a line, as in every other field there.
const types = matchMedia("(pointer: coarse)");

/** Return whether a key sends the message: Enter, without Shift, and not to choose a character. */
export const isSendKey = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && !types.matches;

/** Make a textarea as high as its text; its CSS sets the limit. */
export function fitHeight(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}
