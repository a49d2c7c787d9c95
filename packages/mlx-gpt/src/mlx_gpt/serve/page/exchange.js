/**
 * Conversations as files: JSON with OpenAI's messages, which `mlx-gpt finetune` reads too, and
 * Markdown. A file has the shown version of each turn.
 */

import { element } from "./dom.js";
import { addTurn, messagesFor, newConversation, path } from "./conversation.js";

const ROLES = ["system", "user", "assistant"];

/** Return a conversation as it is exported: `messages`, and what they were made with. */
export function toOpenAI(conversation) {
  const { title, created, settings } = conversation;
  const { model, sampling } = settings;
  const date = new Date(created).toISOString();
  return { title, created: date, model, ...sampling, messages: messagesFor(conversation) };
}

/** Return a conversation as Markdown. */
export function toMarkdown(conversation) {
  const { system } = conversation.settings;
  const parts = [`# ${conversation.title}`];
  if (system.trim()) parts.push("## System prompt", system);
  for (const turn of path(conversation)) {
    if (!turn.content) continue;
    parts.push(turn.role === "user" ? "## You" : `## ${turn.model || "Assistant"}`, turn.content);
  }
  return `${parts.join("\n\n")}\n`;
}

/** Let the browser save a text as a file. */
export function download(name, text, type) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = element("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000); // Safari reads it after the click
}

/** Return a name for the file of a conversation. */
export function fileName(conversation, ending) {
  const words = conversation.title.normalize("NFC").replace(/[^\p{L}\p{N}]+/gu, "-");
  return `${words.replace(/^-+|-+$/g, "").toLowerCase().slice(0, 50) || "conversation"}.${ending}`;
}

/**
 * Return the conversations of a file: an exported object, an array or JSON lines of such, or an
 * array of messages. Throw an Error whose message says what is wrong, and where.
 */
export function fromJson(text, settings) {
  const found = parse(text);
  const isMessages = Array.isArray(found) && found.length > 0 && found.every((each) => each?.role);
  const objects = isMessages ? [{ messages: found }] : [found].flat();
  if (objects.length === 0) throw new Error("it has no conversation");
  return objects.map((each, i) => read(each, settings, `conversation ${i + 1}`));
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    const lines = text.split("\n").filter((line) => line.trim());
    if (lines.length < 2) throw new Error(`it is no JSON (${error.message})`);
    return lines.map((line, i) => {
      try {
        return JSON.parse(line);
      } catch {
        throw new Error(`line ${i + 1} is no JSON`);
      }
    });
  }
}

function read(object, settings, where) {
  if (!Array.isArray(object?.messages)) throw new Error(`${where} has no list "messages"`);
  const made = newConversation({ ...settings, system: "" });
  object.messages.forEach((message, i) => {
    const place = `message ${i + 1} of ${where}`;
    if (!ROLES.includes(message?.role)) {
      throw new Error(`${place} must have the role system, user or assistant, has ${message?.role}`);
    }
    const content = textOf(message.content, place);
    if (message.role !== "system") {
      addTurn(made, made.leaf, message.role, content, { state: "done", model: object.model ?? null });
    } else if (i > 0) throw new Error(`${place} is a system prompt, which must be the first message`);
    else made.settings.system = content;
  });
  const created = Date.parse(object.created);
  if (Number.isFinite(created)) made.created = created;
  made.title = typeof object.title === "string" && object.title ? object.title : made.title;
  made.title ||= "Imported";
  return made;
}

function textOf(content, place) {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? content : [null];
  if (!parts.every((part) => part?.type === "text" && typeof part.text === "string")) {
    throw new Error(`${place} must have a text as content`);
  }
  return parts.map((part) => part.text).join("");
}
