/** Answers that are being generated: one a conversation at a time, in as many as one likes. */

import { ServerError, streamAnswer } from "./api.js";
import { messagesFor } from "./conversation.js";

const LEAST_SECONDS = 0.02; // for a rate
const running = new Map(); // id of a conversation: {conversation, controller, ended}

/** Return a conversation of which an answer is being generated, or undefined. */
export const runningConversation = (id) => running.get(id)?.conversation;

/** Return the ids of all of them. */
export const runningIds = () => new Set(running.keys());

/** End the answer of a conversation, if there is one, and wait for it; what has come stays. */
export async function stop(id) {
  running.get(id)?.controller.abort();
  await running.get(id)?.ended;
}

/**
 * Generate the answer `turn`, a turn of its conversation. `changed()` is called when it has more
 * text, and once more when it has ended: its `state` then is done, stopped or failed.
 */
export function answer(conversation, turn, changed) {
  const controller = new AbortController();
  const run = { conversation, controller };
  running.set(conversation.id, run);
  run.ended = generate(conversation, turn, changed, controller.signal);
  return run.ended;
}

async function generate(conversation, turn, changed, signal) {
  const { model, sampling } = conversation.settings;
  const fresh = { content: "", state: "running", finish: null, stats: null, error: null };
  Object.assign(turn, { ...fresh, model });
  const messages = messagesFor(conversation, turn.parent);
  const begin = performance.now();
  let first = null;
  let usage = null;
  try {
    for await (const piece of streamAnswer({ model, messages, ...sampling }, signal)) {
      usage = piece.usage ?? usage;
      turn.finish = piece.finish;
      if (!piece.text) continue;
      first ??= performance.now();
      turn.content += piece.text;
      changed();
    }
    turn.state = "done";
  } catch (error) {
    if (error.name === "AbortError") turn.state = "stopped";
    else if (error instanceof ServerError) fail(turn, error);
    else throw error;
  } finally {
    running.delete(conversation.id);
    if (turn.state === "running") turn.state = "failed"; // by a fault of this page
    turn.stats = statistics(begin, first, performance.now(), usage);
    conversation.updated = Date.now();
    changed();
  }
}

function fail(turn, { message, status, retryAfter }) {
  turn.state = "failed";
  const retryAt = retryAfter === null ? null : Date.now() + retryAfter * 1000;
  turn.error = { message, status, retryAt };
}

/** Return seconds and numbers of tokens; null where they are not known. */
function statistics(begin, first, end, usage) {
  const tokens = usage?.completion_tokens ?? null;
  const seconds = first === null ? null : (end - first) / 1000;
  return {
    toFirst: first === null ? null : (first - begin) / 1000,
    tokens,
    // The first token is not in the time between the first and the last. What arrives at once
    // was held back on its way, and says nothing about the model.
    perSecond: tokens > 1 && seconds >= LEAST_SECONDS ? (tokens - 1) / seconds : null,
    promptTokens: usage?.prompt_tokens ?? null,
    cachedTokens: usage?.prompt_tokens_details?.cached_tokens ?? null,
  };
}
