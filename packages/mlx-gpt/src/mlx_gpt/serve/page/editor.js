/** Change a message of the user in its place. */

import { element } from "./dom.js";
import { fitHeight, isSendKey } from "./keys.js";

/** Show a field instead of the content of a turn; `done(text)` is called with a changed text. */
export function editor(node, text, done) {
  const [, content, below] = node.children;
  const field = element("textarea", { "aria-label": "Edit message", rows: 1 });
  field.value = text;
  const close = () => {
    form.remove();
    content.hidden = below.hidden = false;
  };
  const form = element(
    "form",
    { class: "editor" },
    field,
    element("p", { class: "hint" }, "The old version is kept."),
    element("button", { type: "button" }, "Cancel"),
    element("button", { type: "submit", class: "primary" }, "Send"),
  );
  const cancel = () => {
    close();
    below.querySelector("[aria-label='Edit message']").focus();
  };
  form.querySelector("[type=button]").addEventListener("click", cancel);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const changed = field.value.trimEnd();
    if (!changed) return field.focus();
    close();
    done(changed);
  });
  field.addEventListener("input", () => fitHeight(field));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation(); // it would also stop an answer
      cancel();
    } else if (isSendKey(event)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  content.hidden = below.hidden = true;
  node.append(form);
  fitHeight(field);
  field.focus();
}
