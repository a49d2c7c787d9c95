/** Small things that the browser remembers; as long as the page lasts where it refuses to. */

const here = new Map();

/** Return what is remembered in "localStorage" or "sessionStorage", or null. */
export function recall(area, name) {
  try {
    return window[area].getItem(name);
  } catch (error) {
    if (error.name !== "SecurityError") throw error;
    return here.get(name) ?? null;
  }
}

/** Remember a text; null forgets it. */
export function remember(area, name, text) {
  if (text === null) here.delete(name);
  else here.set(name, text);
  try {
    if (text === null) window[area].removeItem(name);
    else window[area].setItem(name, text);
  } catch (error) {
    if (!["SecurityError", "QuotaExceededError"].includes(error.name)) throw error;
  }
}
