/**
 * Markdown inside a block: emphasis, code, links. Returns DOM nodes.
 *
 * Emphasis follows CommonMark's delimiter runs. HTML is text, apart from <br>, a line break. Links
 * go to http, https and mailto only; anything else stays the text that it was. Images become links,
 * since the page loads nothing from elsewhere. TeX is shown as its source. `open` says that the
 * text still grows: what is begun at its end looks as if it were closed.
 */

import { element } from "./dom.js";

const SPECIAL = /[\\`*_~![<&$]|https?:\/\//g;
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const SPACE_OR_MARK = /[\s\p{P}\p{S}]/u;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" };
const ENTITY = /&(?:(amp|lt|gt|quot|apos|nbsp)|#(\d{1,7}));/y;
const BREAK = /<br\s*\/?>/iy;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y;
const BARE_URL = /https?:\/\/[^\s<>"`\\]+/y;
const TARGET = /\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\([^\s()]*\))*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;
const UNFINISHED_TARGET = /\([^)\s]*$/y;
const LONGEST_LINK_TEXT = 1000; // bounds the search for the other bracket
const DEEPEST = 16; // emphasis in emphasis; browsers lay out deep trees by recursion
const MOST_OPEN = 3; // marks at the end of a growing text that count as closed
const TAGS = { "*": ["em", "strong"], _: ["em", "strong"], "~": [null, "del"] };

/** Return the nodes of a text. */
export function inlineNodes(text, open = false, links = true) {
  if (open) text = text.replace(/[*_~`]+$/, ""); // half of a delimiter, or what is closed anyway
  const scan = { text, open, links, at: 0, items: [], unmatched: new Set() };
  while (scan.at < text.length) {
    SPECIAL.lastIndex = scan.at;
    const found = SPECIAL.exec(text);
    const end = found ? found.index : text.length;
    if (end > scan.at) scan.items.push(text.slice(scan.at, end));
    scan.at = end;
    if (found) READERS[found[0][0]](scan);
  }
  return nest(scan.items, open);
}

/** Return the address if a link may go there, else null. */
function safeAddress(address) {
  if (!URL.canParse(address)) return null;
  const url = new URL(address);
  return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
}

const READERS = {
  "\\": readBackslash,
  "`": readCode,
  "*": readDelimiters,
  _: readDelimiters,
  "~": readDelimiters,
  "!": (scan) => (scan.text[scan.at + 1] === "[" && readLink(scan, scan.at + 1)) || take(scan, 1),
  "[": (scan) => readLink(scan, scan.at) || take(scan, 1),
  "<": readAngle,
  "&": readEntity,
  $: (scan) => {
    if (!scan.text.startsWith("$$", scan.at) || !readMath(scan, "$$")) take(scan, 1);
  },
  h: readBareUrl,
};

/** Add the next characters as they are. */
function take(scan, count) {
  scan.items.push(scan.text.slice(scan.at, scan.at + count));
  scan.at += count;
}

function match(pattern, scan) {
  pattern.lastIndex = scan.at;
  return pattern.exec(scan.text);
}

function readBackslash(scan) {
  const next = scan.text[scan.at + 1] ?? "";
  if (next === "(" && readMath(scan, "\\)")) return;
  if (next === "[" && readMath(scan, "\\]")) return;
  if (PUNCTUATION.test(next) && !"()".includes(next)) scan.at += 1;
  else if (next === "\n") scan.at += 1;
  take(scan, 1);
}

/** Read TeX between two-character delimiters: its source is shown, and is no Markdown. */
function readMath(scan, closing) {
  let end = scan.unmatched.has(closing) ? -1 : scan.text.indexOf(closing, scan.at + 2);
  if (end < 0 && !scan.open) {
    scan.unmatched.add(closing);
    return false;
  }
  if (end < 0) end = scan.text.length;
  const source = scan.text.slice(scan.at + 2, end).trim();
  scan.items.push(element("code", { class: "math" }, source));
  scan.at = end + 2;
  return true;
}

function readCode(scan) {
  const { text, at } = scan;
  const ticks = match(/`+/y, scan)[0];
  let end = scan.unmatched.has(ticks) ? -1 : closingTicks(text, at + ticks.length, ticks.length);
  if (end < 0) {
    scan.unmatched.add(ticks);
    if (!scan.open) return take(scan, ticks.length);
    end = text.length;
  }
  let code = text.slice(at + ticks.length, end).replaceAll("\n", " ");
  if (/^ .*[^ ].* $/.test(code)) code = code.slice(1, -1);
  scan.items.push(element("code", {}, code));
  scan.at = end + ticks.length;
}

function closingTicks(text, from, length) {
  const runs = /`+/g;
  runs.lastIndex = from;
  for (let run = runs.exec(text); run; run = runs.exec(text)) {
    if (run[0].length === length) return run.index;
  }
  return -1;
}

function readAngle(scan) {
  const line = match(BREAK, scan);
  if (line) {
    scan.items.push("\n");
    scan.at += line[0].length;
    return;
  }
  const found = scan.links && match(AUTOLINK, scan);
  const address = found && safeAddress(found[1]);
  if (!address) return take(scan, 1);
  scan.items.push(link(address, [found[1]]));
  scan.at += found[0].length;
}

function readEntity(scan) {
  const found = match(ENTITY, scan);
  if (!found) return take(scan, 1);
  const code = Number(found[2]);
  const isCharacter = code > 31 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  const character = found[1] ? ENTITIES[found[1]] : isCharacter && String.fromCodePoint(code);
  scan.items.push(character || found[0]);
  scan.at += found[0].length;
}

function readBareUrl(scan) {
  const before = scan.text[scan.at - 1] ?? " ";
  let found = match(BARE_URL, scan)?.[0].replace(/[.,;:!?'*_~]+$/, "");
  // A closing bracket belongs to the sentence, unless the address has its opening one.
  while (found?.endsWith(")") && found.split("(").length <= found.split(")").length - 1) {
    found = found.slice(0, -1);
  }
  const address = found && scan.links && !/\w/.test(before) && safeAddress(found);
  if (!address) return take(scan, 4);
  scan.items.push(link(address, [found]));
  scan.at += found.length;
}

/** Read a link or image whose "[" is at `bracket`; return whether there is one. */
function readLink(scan, bracket) {
  const { text } = scan;
  const end = closingBracket(text, bracket);
  if (end < 0 || !scan.links) return false;
  const label = text.slice(bracket + 1, end);
  TARGET.lastIndex = UNFINISHED_TARGET.lastIndex = end + 1;
  const found = TARGET.exec(text);
  if (!found) {
    const unfinished = scan.open && UNFINISHED_TARGET.exec(text);
    if (!unfinished) return false;
    scan.items.push(...inlineNodes(label, false, false)); // bounded: a label is short
    scan.at = text.length;
    return true;
  }
  const address = safeAddress((found[1] ?? found[2]).replace(/\\([!-/:-@[-`{-~])/g, "$1"));
  if (!address) return false;
  const content = inlineNodes(label, false, false);
  scan.items.push(link(address, content.length ? content : [address]));
  scan.at = end + 1 + found[0].length;
  return true;
}

function closingBracket(text, bracket) {
  const limit = Math.min(text.length, bracket + LONGEST_LINK_TEXT);
  let depth = 0;
  for (let i = bracket; i < limit; i++) {
    if (text[i] === "\\") i += 1;
    else if (text[i] === "[") depth += 1;
    else if (text[i] === "]" && --depth === 0) return i;
  }
  return -1;
}

function link(address, content) {
  const outside = { rel: "noopener noreferrer nofollow", target: "_blank", title: address };
  return element("a", { href: address, ...outside }, content);
}

/** Add a run of * or _ or ~, and whether it may open or close emphasis. */
function readDelimiters(scan) {
  const { text, at } = scan;
  const mark = text[at];
  let end = at;
  while (text[end] === mark) end += 1;
  const before = text[at - 1] ?? " ";
  const after = text[end] ?? " ";
  const [markBefore, markAfter] = [before, after].map((each) => SPACE_OR_MARK.test(each));
  const opens = !/\s/.test(after) && (!markAfter || markBefore);
  const closes = !/\s/.test(before) && (!markBefore || markAfter);
  const inWord = mark === "_"; // snake_case is no emphasis
  scan.items.push({
    mark,
    count: end - at,
    length: end - at,
    opens: opens && (!inWord || !closes || markBefore),
    closes: closes && (!inWord || !opens || markAfter),
  });
  scan.at = end;
}

/** Return nodes for the items, with what stands between matching delimiters put into elements. */
function nest(items, open) {
  const done = [];
  const searched = new Map(); // kind of closer: how far down no opener is left for it
  for (const item of items) {
    if (item.closes) closeEmphasis(done, item, searched);
    if (!item.mark || item.count > 0) done.push(item);
  }
  let closed = 0;
  for (let i = done.length - 1; open && i >= 0 && closed < MOST_OPEN; i--) {
    const { mark, count, opens, closes } = done[i];
    const tag = opens && !closes && TAGS[mark][Math.min(count, 2) - 1];
    if (!tag) continue;
    closed += 1;
    done.splice(i, Infinity, wrap(tag, done.slice(i + 1)));
  }
  return toNodes(done);
}

function closeEmphasis(done, closer, searched) {
  const kind = `${closer.mark}${closer.opens}${closer.length % 3}`;
  while (closer.count > 0) {
    const lowest = searched.get(kind) ?? 0;
    let i = done.length - 1;
    while (i >= lowest && !matches(done[i], closer)) i -= 1;
    if (i < lowest || depthOf(done.slice(i + 1)) === DEEPEST) {
      searched.set(kind, done.length);
      return;
    }
    const opener = done[i];
    const used = Math.min(2, opener.count, closer.count);
    opener.count -= used;
    closer.count -= used;
    const made = wrap(TAGS[opener.mark][used - 1], done.splice(i + 1));
    if (opener.count === 0) done.pop();
    done.push(made);
    for (const [each, height] of searched) searched.set(each, Math.min(height, done.length));
  }
}

function matches(opener, closer) {
  if (opener.mark !== closer.mark || !opener.opens) return false;
  if (closer.mark === "~") return opener.count === 2 && closer.count === 2;
  const both = opener.closes || closer.opens; // CommonMark's rule of three
  const whole = opener.length % 3 === 0 && closer.length % 3 === 0;
  return !both || whole || (opener.length + closer.length) % 3 !== 0;
}

const depths = new WeakMap(); // element of emphasis: how deep others are nested in it

const depthOf = (items) => items.reduce((depth, item) => Math.max(depth, depths.get(item) ?? 0), 0);

function wrap(tag, items) {
  const made = element(tag, {}, toNodes(items));
  depths.set(made, depthOf(items) + 1);
  return made;
}

/** Return items as nodes and strings; delimiters that matched nothing are text. */
function toNodes(items) {
  return items.map((item) => (item.mark ? item.mark.repeat(item.count) : item));
}
