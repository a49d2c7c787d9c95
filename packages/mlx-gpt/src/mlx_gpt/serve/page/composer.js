/** The field for a message, with the choice of the model. */

import { byId, element } from "./dom.js";
import { fitHeight, isSendKey } from "./keys.js";
import { announce } from "./notices.js";

const isTouch = matchMedia("(pointer: coarse)");

/** Call `send(text)` for a message and `stop()` for the button that ends an answer. */
export function connectComposer(send, stop) {
  const [form, field] = [byId("composer"), byId("message")];
  field.addEventListener("input", () => fitHeight(field));
  field.addEventListener("keydown", (event) => {
    if (!isSendKey(event)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = field.value.trimEnd(); // indentation is part of it
    if (byId("send").hidden) return announce("An answer is being written. Escape stops it.");
    if (text === "") return field.focus();
    field.value = "";
    fitHeight(field);
    focusComposer();
    send(text);
  });
  byId("stop").addEventListener("click", () => {
    stop();
    focusComposer();
  });
}

/** Put the cursor into the field; not on a phone, where a keyboard would hide the answer. */
export function focusComposer() {
  if (!isTouch.matches) byId("message").focus();
}

/** Show the button that stops an answer, or the one that sends a message. */
export function showRunning(isRunning) {
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
}

/** Show the models that can be chosen; a chosen one that is not served is named as such. */
export function showModels(models, chosen) {
  const select = byId("model");
  const options = models.map((name) => element("option", { value: name }, name));
  if (chosen && !models.includes(chosen)) {
    options.unshift(element("option", { value: chosen, disabled: true }, `${chosen} (not served)`));
  }
  if (options.length === 0) options.push(element("option", { value: "" }, "no model"));
  select.replaceChildren(...options);
  select.value = chosen ?? models[0] ?? "";
  select.disabled = models.length === 0;
}
