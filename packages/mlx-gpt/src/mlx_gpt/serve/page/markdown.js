/** Show Markdown of a model: blocks as DOM nodes. What it spells out as HTML stays text. */

import { parseBlocks } from "./blocks.js";
import { copyButton } from "./copy.js";
import { element } from "./dom.js";
import { inlineNodes } from "./inline.js";

// A line that may still become a list, a heading, a rule or a fence is not shown yet.
const UNDECIDED_LINE = /(^|\n) *(?:[-*_`~#>+]+|\|) *$/;

const shown = new WeakMap(); // container: the blocks that it shows, each with its key and node

/**
 * Show the text in the container. While it is `open`, the text grows: only blocks that changed
 * since the last call are made again, so that a selection in the others stays.
 */
export function showMarkdown(container, text, open = false) {
  const blocks = parseBlocks(open ? text.replace(UNDECIDED_LINE, "$1") : text, open);
  const before = shown.get(container) ?? [];
  const now = blocks.map((block, i) => {
    const grows = open && i === blocks.length - 1;
    const key = `${grows}${block.type}${block.source}`;
    const old = before[i];
    if (old?.key === key) return old;
    if (old?.language !== undefined && block.type === "code" && old.language === block.language) {
      old.node.querySelector("code").textContent = block.text; // its button keeps the focus
      return { ...old, key };
    }
    return { key, node: makeBlock(block, grows), language: block.language };
  });
  now.forEach(({ node }, i) => {
    if (before[i] === undefined) container.append(node);
    else if (before[i].node !== node) before[i].node.replaceWith(node);
  });
  before.slice(now.length).forEach(({ node }) => node.remove());
  shown.set(container, now);
}

const MAKERS = {
  // The page has h1, a turn has h2.
  heading: ({ level, text }, open) =>
    element(`h${Math.min(level + 2, 6)}`, { class: `level-${level}` }, inlineNodes(text, open)),
  paragraph: ({ text }, open) => element("p", {}, inlineNodes(text, open)),
  rule: () => element("hr"),
  quote: ({ blocks }, open) => element("blockquote", {}, makeBlocks(blocks, open)),
  code: makeCode,
  list: makeList,
  table: makeTable,
};

const makeBlock = (block, open) => MAKERS[block.type](block, open);

const makeBlocks = (blocks, open) =>
  blocks.map((block, i) => makeBlock(block, open && i === blocks.length - 1));

function makeCode({ language, text }) {
  const code = element("code", {}, text);
  const caption = element(
    "figcaption",
    {},
    element("span", {}, language || "text"),
    copyButton("Copy code", () => code.textContent, "Copy"),
  );
  // What scrolls can be reached by the keyboard.
  const label = language ? `Code, ${language}` : "Code";
  const scrolled = element("pre", { tabindex: 0, role: "group", "aria-label": label }, code);
  return element("figure", { class: "code" }, caption, scrolled);
}

function makeList({ ordered, start, tight, items }, open) {
  const attributes = { class: tight ? "tight" : null, start: ordered && start !== 1 ? start : null };
  const made = items.map(({ blocks, done }, i) => {
    const content = makeBlocks(blocks, open && i === items.length - 1);
    if (done === null) return element("li", {}, content);
    const box = element("span", { role: "img", "aria-label": done ? "done" : "to do" });
    box.append(done ? "☑ " : "☐ ");
    if (content[0]?.tagName !== "P") content.unshift(element("p"));
    content[0].prepend(box);
    return element("li", { class: "task" }, content);
  });
  return element(ordered ? "ol" : "ul", attributes, made);
}

function makeTable({ header, alignments, rows }, open) {
  const row = (tag, cells, grows) =>
    cells.map((cell, i) =>
      element(
        tag,
        { class: alignments[i] ?? "left" },
        inlineNodes(cell, grows && i === cells.length - 1),
      ),
    );
  const body = rows.map((cells, i) =>
    element("tr", {}, row("td", cells, open && i === rows.length - 1)),
  );
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, row("th", header, false))),
    element("tbody", {}, body),
  );
  return element("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" }, table);
}
