/** An answer that failed: one line that says why, and a button to try again. */

import { element, icon } from "./dom.js";

const NEEDS_KEY = 401;

/** Return the line. After 429 it counts down to the time that the server named. */
export function problem(turn, actions) {
  const { message, status, retryAt } = turn.error ?? { message: "The page failed. Reload it." };
  const when = element("span");
  const caption = status === NEEDS_KEY ? "Enter the key" : "Try again";
  const again = element("button", { type: "button", onclick: () => actions.retry(turn) }, caption);
  const line = element("p", { class: "problem" }, icon("warning"), element("span", {}, message, when));
  line.append(again);
  if (retryAt) countDown(when, retryAt);
  return line;
}

function countDown(when, retryAt) {
  const show = () => {
    const seconds = Math.ceil((retryAt - Date.now()) / 1000);
    when.textContent = seconds > 0 ? ` Try again in ${seconds} s.` : " You can try again now.";
    if (seconds > 0) setTimeout(() => when.isConnected && show(), 1000);
  };
  show();
}
