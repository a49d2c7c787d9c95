/** The server: its models, and answers as they are generated. */

import { recall, remember } from "./memory.js";

const KEY = "mlx-gpt key"; // of sessionStorage: it ends with the tab
const BASE = new URL("v1/", document.baseURI);

/** An answer that is no success; `status` is 0 when there was none. */
export class ServerError extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.name = "ServerError";
    this.status = status;
    this.retryAfter = retryAfter; // seconds, or null
  }
}

/** Keep the key until the tab is closed; null forgets it. */
export const setKey = (key) => remember("sessionStorage", KEY, key);

export const hasKey = () => recall("sessionStorage", KEY) !== null;

/** Return the names of the models, adapters included. */
export async function listModels() {
  const response = await request("models", {});
  const { data } = parsed(await response.text());
  if (!Array.isArray(data)) throw new ServerError("The server's list of models is no list.");
  return data.map((model) => String(model.id));
}

/**
 * Yield what the server sends of an answer: `text` as it comes, `finish` (why it ended) and
 * `usage` (numbers of tokens). Throw a ServerError where it fails, also in the middle.
 */
export async function* streamAnswer(body, signal) {
  const wanted = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(wanted),
    signal,
  });
  let finish = null;
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const { error, choices, usage } = parsed(data);
    if (error) throw new ServerError(error.message, 500);
    const [choice] = choices ?? [];
    finish ??= choice?.finish_reason ?? null;
    yield { text: choice?.delta?.content ?? "", finish, usage: usage ?? null };
  }
  if (!finish) throw new ServerError("The connection ended before the answer did.");
}

/** Return an object of JSON. */
function parsed(text) {
  try {
    const found = JSON.parse(text);
    if (found && typeof found === "object") return found;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new ServerError(`The server sent what is no JSON object: ${text.slice(0, 80)}`);
}

async function request(path, options) {
  const key = recall("sessionStorage", KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server does not answer. Is mlx-gpt serve still running?");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const text = await response.text();
  let message = "";
  try {
    message = JSON.parse(text).error?.message ?? "";
  } catch {
    // No JSON: something between this page and the server has answered.
  }
  const seconds = Number(response.headers.get("Retry-After") ?? NaN);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  message ||= `The server answered ${response.status} ${response.statusText}.`;
  return new ServerError(message, response.status, retryAfter);
}

/** Yield the data of server-sent events. */
async function* events(response) {
  let rest = "";
  let data = [];
  for await (const piece of pieces(response)) {
    const lines = (rest + piece).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

/** Yield a body as text. Safari's streams are not iterable, so it is read step by step. */
async function* pieces(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection broke in the middle of the answer.");
  } finally {
    reader.cancel().catch(() => {}); // already closed or broken
  }
}
