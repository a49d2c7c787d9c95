/**
 * A conversation: a tree of turns, of which one path is shown.
 *
 * To regenerate an answer or to edit a message adds a turn beside the old one, so nothing is lost:
 *
 *     {id, title, created, updated, settings: {model, system, sampling}, leaf,
 *      turns: [{id, parent, role, content, state, finish, model, stats, error}]}
 *
 * `leaf` is the last turn of the path, `state` of an answer is running, done, stopped or failed.
 */

const TITLE_CHARACTERS = 60;

/** Return an empty conversation. */
export function newConversation(settings) {
  const now = Date.now();
  const id = `c-${randomId()}`;
  const copied = structuredClone(settings);
  return { id, title: "", created: now, updated: now, settings: copied, leaf: null, turns: [] };
}

// crypto.randomUUID is missing where a page is served over plain http from another machine.
const randomId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(9)), (byte) =>
    byte.toString(16).padStart(2, "0"),
  ).join("");

/** Add a turn after `parent` (null: the first one), and show it. */
export function addTurn(conversation, parent, role, content, more = {}) {
  const turn = { id: `t-${randomId()}`, parent, role, content, ...more };
  conversation.turns.push(turn);
  conversation.leaf = turn.id;
  conversation.updated = Date.now();
  if (!conversation.title && role === "user") conversation.title = titleFrom(content);
  return turn;
}

function titleFrom(text) {
  const line = text.trim().split("\n")[0].trim();
  const characters = Array.from(line);
  if (characters.length <= TITLE_CHARACTERS) return line;
  return `${characters.slice(0, TITLE_CHARACTERS - 1).join("").trimEnd()}…`;
}

/** Return the turns from the first one to `last`. */
export function path(conversation, last = conversation.leaf) {
  const byId = new Map(conversation.turns.map((turn) => [turn.id, turn]));
  const turns = [];
  for (let turn = byId.get(last); turn; turn = byId.get(turn.parent)) turns.unshift(turn);
  return turns;
}

/** Return the turn and those that are other versions of it, oldest first. */
export const versions = (conversation, turn) =>
  conversation.turns.filter((each) => each.parent === turn.parent);

/** Show another version of a turn, with what was said last after it. */
export function showVersion(conversation, turn) {
  let leaf = turn;
  for (const each of conversation.turns) {
    if (each.parent === leaf.id) leaf = latestChild(conversation, leaf);
  }
  conversation.leaf = leaf.id;
}

const latestChild = (conversation, turn) =>
  conversation.turns.findLast((each) => each.parent === turn.id);

/**
 * Return OpenAI's messages for the turns up to `last`. Empty answers (of requests that failed) are
 * left out, and messages of the user that then follow each other are joined: many chat templates
 * refuse two in a row.
 */
export function messagesFor(conversation, last = conversation.leaf) {
  const { system } = conversation.settings;
  const messages = system.trim() ? [{ role: "system", content: system }] : [];
  for (const { role, content } of path(conversation, last)) {
    if (!content) continue;
    const previous = messages.at(-1);
    if (role === "user" && previous?.role === "user") previous.content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}
