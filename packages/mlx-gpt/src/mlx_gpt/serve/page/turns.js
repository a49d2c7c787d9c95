/** The turns of a conversation on the page, and what can be done with each. */

import { path, versions } from "./conversation.js";
import { copyButton } from "./copy.js";
import { byId, element, iconButton } from "./dom.js";
import { showMarkdown } from "./markdown.js";
import { problem } from "./problem.js";
import { editor } from "./editor.js";

const THOUGHTS = /^\s*<think>\n?([\s\S]*?)(?:<\/think>\s*|$)/;

const nodes = new Map(); // id of a turn: its node, of the conversation that is shown
let shownId = null;

/**
 * Show a conversation. `actions` has a function for what one can do with a turn: `edit(turn,
 * text)`, `regenerate(turn)`, `retry(turn)`, `show(turn)` and `goOn()`.
 */
export function showTurns(conversation, actions) {
  if (shownId !== conversation.id) nodes.clear();
  shownId = conversation.id;
  const turns = path(conversation).map((turn) => turnNode(conversation, turn, actions));
  byId("turns").replaceChildren(...turns);
}

/** Show that a turn has changed, if it is on the page. */
export function updateTurn(conversation, turn, actions) {
  if (shownId !== conversation.id || !nodes.has(turn.id)) return;
  fill(nodes.get(turn.id), conversation, turn, actions);
}

/** Return the text of a turn as it is on the page, without the marks of Markdown. */
export const visibleText = (turn) => nodes.get(turn.id)?.children[1].innerText ?? turn.content;

function turnNode(conversation, turn, actions) {
  const isUser = turn.role === "user";
  const node = nodes.get(turn.id) ?? emptyNode(isUser);
  nodes.set(turn.id, node);
  fill(node, conversation, turn, actions);
  return node;
}

function emptyNode(isUser) {
  const heading = element("h2", { class: "hidden" }, isUser ? "You" : "Answer");
  const content = element("div", { class: isUser ? "bubble" : "answer" });
  const below = element("div", { class: "below" });
  return element("article", { class: isUser ? "turn user" : "turn" }, heading, content, below);
}

function fill(node, conversation, turn, actions) {
  const [, content, below] = node.children;
  const isRunning = turn.state === "running";
  node.toggleAttribute("data-running", isRunning);
  if (turn.role === "user") {
    content.textContent = turn.content;
    below.replaceChildren(userTools(node, conversation, turn, actions));
    return;
  }
  content.setAttribute("aria-busy", String(isRunning));
  showAnswer(content, turn.content, isRunning);
  if (isRunning) {
    const waits = turn.content ? [] : [element("p", { class: "waits" }, "Reading")];
    if (!below.firstChild || !waits.length) below.replaceChildren(...waits);
    return;
  }
  below.replaceChildren(...notes(turn, actions), answerTools(conversation, turn, actions));
}

/** Show an answer; what a reasoning model thought first is folded away. */
function showAnswer(content, text, open) {
  const thoughts = THOUGHTS.exec(text);
  if (!content.firstChild) content.append(element("div", { class: "markdown" }));
  const answer = content.lastChild;
  if (thoughts) {
    if (content.children.length === 1) {
      const inside = element("div", { class: "markdown" });
      answer.before(element("details", {}, element("summary", {}, "Thoughts"), inside));
    }
    const isThinking = open && !thoughts[0].includes("</think>");
    showMarkdown(content.firstChild.lastChild, thoughts[1], isThinking);
  } else if (content.children.length > 1) content.firstChild.remove();
  showMarkdown(answer, thoughts ? text.slice(thoughts[0].length) : text, open);
}

function userTools(node, conversation, turn, actions) {
  const edit = () => editor(node, turn.content, (text) => actions.edit(turn, text));
  return element(
    "div",
    { class: "tools" },
    versionButtons(conversation, turn, actions),
    iconButton("edit", "Edit message", edit),
    copyButton("Copy message", () => turn.content),
  );
}

function answerTools(conversation, turn, actions) {
  return element(
    "div",
    { class: "tools" },
    turn.content && copyButton("Copy answer", () => turn.content),
    turn.content && iconButton("again", "Regenerate answer", () => actions.regenerate(turn)),
    versionButtons(conversation, turn, actions),
    element("p", { class: "figures", title: promptFigures(turn.stats) }, figures(turn)),
  );
}

/** Return the buttons to other versions, and which of how many this is. */
function versionButtons(conversation, turn, actions) {
  const all = versions(conversation, turn);
  if (all.length < 2) return null;
  const at = all.indexOf(turn);
  const to = (step) => () => actions.show(all[(at + step + all.length) % all.length], step);
  return element(
    "div",
    { class: "versions", role: "group", "aria-label": "Versions" },
    iconButton("left", "Previous version", to(-1), { "data-step": -1 }),
    element("span", {}, `${at + 1}/${all.length}`),
    iconButton("right", "Next version", to(1), { "data-step": 1 }),
  );
}

/** Put the focus back on the button that led to this version. */
export function focusVersion(turn, step) {
  nodes.get(turn.id)?.querySelector(`[data-step="${step}"]`)?.focus();
}

/** Return what there is to say about how an answer ended. */
function notes(turn, actions) {
  const made = [];
  if (turn.state === "failed") made.push(problem(turn, actions));
  if (turn.state === "done" && !turn.content) {
    made.push(element("p", { class: "hint" }, "The model answered nothing."));
  }
  if (turn.finish === "length") {
    const goOn = element("button", { type: "button", onclick: actions.goOn }, "Continue");
    const why = "The answer was cut off: it reached the limit of tokens. ";
    made.push(element("p", { class: "hint" }, why, goOn));
  }
  return made;
}

function figures({ content, state, stats, model }) {
  const parts = [];
  if (state === "stopped") parts.push("stopped");
  const rate = stats?.perSecond ? ` at ${precise(stats.perSecond)}/s` : "";
  if (stats?.tokens != null) parts.push(`${stats.tokens.toLocaleString("en")} tokens${rate}`);
  if (stats?.toFirst != null) parts.push(`first token after ${precise(stats.toFirst)} s`);
  if (model && content) parts.push(model);
  return parts.join(" · ");
}

function promptFigures(stats) {
  if (stats?.promptTokens == null) return null;
  const cached = stats.cachedTokens == null ? "" : `, ${stats.cachedTokens} of them from the cache`;
  return `Prompt: ${stats.promptTokens} tokens${cached}`;
}

/** Return a number with about three digits. */
const precise = (number) => number.toFixed(number < 10 ? 2 : number < 100 ? 1 : 0);
