/** Follow an answer that grows, but only while its reader is at the end. */

import { byId } from "./dom.js";

const NEAR = 48; // pixels from the end that count as the end

/** Watch the conversation; return a function that goes to its end and follows from there. */
export function followEnd() {
  const [scroller, turns, button] = ["scroller", "turns", "to-end"].map(byId);
  let follows = true;
  let lastTop = 0;
  const toEnd = () => {
    follows = true;
    scroller.scrollTop = scroller.scrollHeight;
    button.hidden = true;
  };
  scroller.addEventListener(
    "scroll",
    () => {
      const top = scroller.scrollTop;
      // Only who scrolls up leaves the end: the text below may have grown since the last scroll.
      if (scroller.scrollHeight - top - scroller.clientHeight < NEAR) follows = true;
      else if (top < lastTop) follows = false;
      lastTop = top;
      button.hidden = follows;
    },
    { passive: true },
  );
  const resized = new ResizeObserver(() => {
    if (follows) toEnd();
    else button.hidden = false;
  });
  resized.observe(turns);
  resized.observe(scroller);
  button.addEventListener("click", () => {
    toEnd();
    byId("message").focus({ preventScroll: true });
  });
  return toEnd;
}
