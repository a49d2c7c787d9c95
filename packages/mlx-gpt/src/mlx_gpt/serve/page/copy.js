/** Copy text: by the clipboard's interface, which pages over plain http from elsewhere lack. */

import { element, icon } from "./dom.js";
import { announce } from "./notices.js";

const SHOWN_MS = 1600;

/** Return a button that copies what `text()` returns, and says for a moment that it did. */
export function copyButton(label, text, caption = null) {
  const words = caption && element("span", {}, caption);
  const attributes = { type: "button", class: caption ? "copy" : "icon-button", "aria-label": label };
  const button = element("button", { ...attributes, title: label }, icon("copy"), words);
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    announce(copied ? "Copied" : "The browser refused to copy: select the text instead");
    button.firstChild.replaceWith(icon(copied ? "check" : "close"));
    if (words) words.textContent = copied ? "Copied" : "Refused";
    setTimeout(() => {
      button.firstChild.replaceWith(icon("copy"));
      if (words) words.textContent = caption;
    }, SHOWN_MS);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch (error) {
      if (error.name !== "NotAllowedError") throw error;
    }
  }
  const area = element("textarea", { class: "hidden", readonly: true, "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}
