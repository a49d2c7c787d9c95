/**
 * Conversations in the browser: IndexedDB, which holds far more than the 5 MB of localStorage.
 *
 * Where a browser refuses it (some private windows), conversations last as long as the page.
 */

const NAME = "mlx-gpt";
const CONVERSATIONS = "conversations";
const channel = new BroadcastChannel(NAME); // other tabs of this page

let database = null; // a promise of it, or of null where there is none
const kept = new Map(); // what could not be stored
const deleted = new Set(); // an answer that ends later must not bring its conversation back

/** Call `changed(id)` when another tab stores a conversation, or deletes some (null: several). */
export function onChangeElsewhere(changed) {
  channel.addEventListener("message", ({ data }) => changed(data));
}

/** Return all conversations, latest first. */
export async function allConversations() {
  const stored = await run("readonly", (store) => store.getAll());
  const all = new Map([...(stored ?? []), ...kept.values()].map((each) => [each.id, each]));
  return [...all.values()].sort((a, b) => b.updated - a.updated);
}

/** Return a conversation, or undefined. */
export async function loadConversation(id) {
  return kept.get(id) ?? (await run("readonly", (store) => store.get(id))) ?? undefined;
}

/** Store a conversation; return null, or a line that says why it was not stored. */
export async function saveConversation(conversation) {
  if (deleted.has(conversation.id)) return null;
  try {
    if ((await run("readwrite", (store) => store.put(conversation))) !== null) {
      kept.delete(conversation.id);
      channel.postMessage(conversation.id);
      return null;
    }
  } catch (error) {
    kept.set(conversation.id, conversation);
    if (error.name === "QuotaExceededError") {
      return "The browser's storage is full: export this conversation, and delete others.";
    }
    return `The browser did not store this conversation (${error.name}): export it.`;
  }
  kept.set(conversation.id, conversation);
  return "This browser stores nothing for this page: export what you want to keep.";
}

/** Return whether a conversation was deleted on this page; it cannot be stored again. */
export const isDeleted = (id) => deleted.has(id);

/** Delete a conversation. */
export async function deleteConversation(id) {
  deleted.add(id);
  kept.delete(id);
  await run("readwrite", (store) => store.delete(id));
  channel.postMessage(id);
}

/** Delete all conversations; return how many. */
export async function deleteAllConversations() {
  const all = await allConversations();
  for (const { id } of all) deleted.add(id);
  kept.clear();
  await run("readwrite", (store) => store.clear());
  channel.postMessage(null);
  return all.length;
}

/** Make a request in a transaction and return its result when it is on disk; null: no database. */
async function run(mode, makeRequest) {
  database ??= open();
  const opened = await database;
  if (!opened) return null;
  return new Promise((resolve, reject) => {
    const transaction = opened.transaction(CONVERSATIONS, mode);
    const request = makeRequest(transaction.objectStore(CONVERSATIONS));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

function open() {
  return new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      return resolve(null); // forbidden by the browser's settings
    }
    request.onupgradeneeded = () =>
      request.result.createObjectStore(CONVERSATIONS, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  });
}
