/**
 * Markdown as blocks: headings, paragraphs, lists, quotes, fenced code, tables, rules.
 *
 * CommonMark with the tables and task lists of GitHub, but as models write it: an indented line is
 * no code, two spaces are enough to nest a list, and a fence that is never closed runs to the end.
 */

const FENCE = /^( *)(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const DELIMITER_ROW = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const BEGUN_DELIMITER_ROW = /^ {0,3}\|[ \t|:-]*$/;
const DEEPEST = 16; // what is nested deeper is a paragraph

/**
 * Return the blocks of a text. Each has a `type` and its `source`, equal for equal blocks; `open`
 * says that the text still grows.
 */
export function parseBlocks(text, open = false) {
  let fence;
  const lines = text.split(/\r\n|\r|\n/).map((line) => {
    const isCode = fence !== undefined; // there a tab stays a tab
    fence = fenceAfter(line, fence);
    return isCode ? line : line.replace(/^[ \t]+/, (space) => space.replaceAll("\t", "    "));
  });
  return parseLines(lines, open, 0);
}

function parseLines(lines, open, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const block = readBlock(lines, at, open, depth);
    block.source = lines.slice(at, block.end).join("\n");
    at = block.end;
    blocks.push(block);
  }
  return blocks;
}

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

function readBlock(lines, at, open, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return readFence(lines, at, fence, open);
  const heading = HEADING.exec(line);
  if (heading) {
    return { type: "heading", level: heading[1].length, text: heading[2] ?? "", end: at + 1 };
  }
  if (RULE.test(line)) return { type: "rule", end: at + 1 };
  if (isTable(lines, at, open)) return readTable(lines, at);
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return readQuote(lines, at, open, depth);
    if (ITEM.test(line)) return readList(lines, at, open, depth);
  }
  return readParagraph(lines, at, open);
}

/** Return whether a line ends a paragraph. A number other than 1 does not: "in\n1986. It was". */
function interrupts(lines, at, open) {
  const line = lines[at];
  const item = ITEM.exec(line);
  const isList = item && item[3] && (!/\d/.test(item[2]) || /^0*1\D$/.test(item[2]));
  const isOther = FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line);
  return isList || isOther || isTable(lines, at, open);
}

/** Return whether a paragraph may go on after a line, also without its indent or its ">". */
const isText = (line) =>
  !isBlank(line) && !FENCE.test(line) && !HEADING.test(line) && !RULE.test(line);

function readParagraph(lines, at, open) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !interrupts(lines, end, open)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim());
  return { type: "paragraph", text: text.join("\n"), end };
}

function readFence(lines, at, [, indent, marks, info], open) {
  let end = at + 1;
  while (end < lines.length && !closesFence(lines[end], marks)) end += 1;
  const code = lines.slice(at + 1, end).map((line) => withoutIndent(line, indent.length));
  const isClosed = end < lines.length;
  if (!isClosed && open && /^ *[`~]{1,2}$/.test(code.at(-1) ?? "")) code.pop();
  const language = info.trim().split(/[\s{,]/)[0];
  return { type: "code", language, text: code.join("\n"), end: isClosed ? end + 1 : end };
}

function closesFence(line, marks) {
  const text = line.trim();
  return text.length >= marks.length && text === marks[0].repeat(text.length);
}

const withoutIndent = (line, count) => line.slice(Math.min(count, indentOf(line)));

function readQuote(lines, at, open, depth) {
  const inside = [];
  let fence;
  let end = at;
  for (; end < lines.length; end++) {
    const line = lines[end];
    const continues = !fence && !isBlank(line) && isText(inside.at(-1) ?? "");
    if (!QUOTE.test(line) && (!continues || interrupts(lines, end, open))) break;
    inside.push(line.replace(QUOTE, ""));
    fence = fenceAfter(inside.at(-1), fence);
  }
  return { type: "quote", blocks: parseLines(inside, open, depth + 1), end };
}

function readList(lines, at, open, depth) {
  const [, , marker] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(marker);
  const list = { type: "list", ordered, start: parseInt(marker, 10), tight: true, items: [] };
  const margin = indentOf(lines[at]);
  let end = at;
  while (end < lines.length) {
    const next = nextLine(lines, end);
    const item = ITEM.exec(lines[next] ?? "");
    const isSibling = item && /\d/.test(item[2]) === ordered && item[1].length <= margin + 1;
    if (!isSibling || item[1].length < margin - 1 || RULE.test(lines[next])) break;
    if (next > end && list.items.length > 0) list.tight = false;
    end = readItem(lines, next, item, list, open, depth);
  }
  list.end = end;
  return list;
}

/** Return the index of the next line that is not blank. */
function nextLine(lines, at) {
  while (at < lines.length && isBlank(lines[at])) at += 1;
  return at;
}

/** Add an item to a list; return where the lines after it begin. */
function readItem(lines, at, [head, before, marker, space], list, open, depth) {
  const content = before.length + marker.length + Math.min(space.length || 1, 4);
  const inside = [lines[at].slice(head.length)];
  let fence = FENCE.exec(inside[0])?.[2];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end];
    if (!fence && isBlank(line)) {
      const next = nextLine(lines, end);
      if (next === lines.length || !belongs(lines[next], before.length, content)) break;
    } else if (!fence && !belongs(line, before.length, content)) {
      if (!isText(inside.at(-1)) || ITEM.test(line) || interrupts(lines, end, open)) break;
    }
    inside.push(withoutIndent(line, content));
    fence = fenceAfter(inside.at(-1), fence);
  }
  const task = /^\[([ xX])\] +/.exec(inside[0]);
  if (task) inside[0] = inside[0].slice(task[0].length);
  const blocks = parseLines(inside, open && end === lines.length, depth + 1);
  if (blocks.some((block, i) => i > 0 && block.type === "paragraph")) list.tight = false;
  list.items.push({ blocks, done: task ? task[1] !== " " : null });
  return end;
}

/** Return whether an indented line is part of the item whose marker and content begin there. */
function belongs(line, marker, content) {
  const indent = indentOf(line);
  return indent >= content || (indent >= marker + 2 && (ITEM.test(line) || FENCE.test(line)));
}

function fenceAfter(line, fence) {
  if (fence) return closesFence(line, fence) ? undefined : fence;
  return FENCE.exec(line)?.[2];
}

/** Return whether a table begins: a row, and below it the row of dashes, whole or just begun. */
function isTable(lines, at, open) {
  const [row, next] = [lines[at], lines[at + 1]];
  if (next === undefined || !row.includes("|")) return false;
  const isLast = at + 2 === lines.length;
  if (open && isLast && /^ {0,3}\|/.test(row) && BEGUN_DELIMITER_ROW.test(next)) return true;
  if (!DELIMITER_ROW.test(next) || !next.includes("-")) return false;
  return cells(row).length === cells(next).length;
}

function readTable(lines, at) {
  let end = at + 2;
  while (end < lines.length && !isBlank(lines[end]) && lines[end].includes("|")) end += 1;
  const alignments = cells(lines[at + 1]).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return right ? (left ? "center" : "right") : "left";
  });
  const rows = lines.slice(at + 2, end).map(cells);
  return { type: "table", header: cells(lines[at]), alignments, rows, end };
}

/** Return the cells of a row; "\|" is no border. */
function cells(line) {
  const row = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return row.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}
