/** The chat page: what happens when something is clicked, typed, answered or stored. */

import { answer, runningConversation, runningIds, stop } from "./answering.js";
import { hasKey, listModels, ServerError, setKey } from "./api.js";
import { connectComposer, focusComposer, showModels, showRunning } from "./composer.js";
import { addTurn, newConversation, showVersion } from "./conversation.js";
import { byId } from "./dom.js";
import { connectFiles } from "./files.js";
import { announce, asked, askedForKey, confirmed, connectDialogs, note } from "./notices.js";
import { followEnd } from "./scroll.js";
import { connectSettings, lastSettings, openSettings, rememberSettings } from "./settings.js";
import { connectDrawer, isDrawerOpen, setDrawer, showList } from "./sidebar.js";
import {
  allConversations,
  deleteConversation,
  isDeleted,
  loadConversation,
  onChangeElsewhere,
  saveConversation,
} from "./store.js";
import { focusVersion, showTurns, updateTurn, visibleText } from "./turns.js";

const SAVE_MS = 1000; // how much of a growing answer a closed window may lose

let current = newConversation(lastSettings());
let models = [];
let list = []; // of {id, title, updated}
const goToEnd = followEnd();

const actions = {
  async edit(turn, text) {
    addTurn(current, turn.parent, "user", text);
    await ask();
  },
  async regenerate(turn) {
    await begin(addTurn(current, turn.parent, "assistant", ""));
  },
  async retry(turn) {
    if (turn.error?.status === 401 && !(await enterKey(turn.error.message))) return;
    if (turn.content) await actions.regenerate(turn);
    else await begin(turn);
  },
  show(turn, step) {
    if (runningConversation(current.id)) return note("First stop the answer, with Escape.");
    showVersion(current, turn);
    save(current);
    showTurns(current, actions);
    focusVersion(turn, step);
  },
  goOn: () => send("Continue."),
};

async function send(text) {
  addTurn(current, current.leaf, "user", text);
  await ask();
}

const ask = () => begin(addTurn(current, current.leaf, "assistant", ""));

/** Generate an answer of the conversation that is shown, which goes on if another one is opened. */
async function begin(turn) {
  const conversation = current;
  await stop(conversation.id); // an answer that this one replaces
  if (models.length === 0) await loadModels();
  let saved = Date.now();
  let frame = null;
  const show = () => {
    cancelAnimationFrame(frame);
    frame = null;
    updateTurn(conversation, turn, actions);
  };
  const changed = () => {
    if (turn.state !== "running") return show();
    frame ??= requestAnimationFrame(show); // as often as the screen, not as tokens come
    if (Date.now() - saved < SAVE_MS) return;
    saved = Date.now();
    save(conversation);
  };
  const ended = answer(conversation, turn, changed);
  if (current === conversation) showAll();
  goToEnd();
  focusComposer();
  announce("Answering");
  await save(conversation);
  try {
    await ended;
  } finally {
    await save(conversation);
    if (current === conversation) showControls();
  }
  if (current === conversation) announceEnd(turn);
  else if (!isDeleted(conversation.id)) note(`Answered: ${conversation.title}`);
}

function announceEnd(turn) {
  if (turn.error) announce(turn.error.message);
  else announce(turn.state === "stopped" ? "Stopped" : `Answer: ${visibleText(turn)}`);
}

/** Store a conversation, and show it where it belongs in the list. */
async function save(conversation) {
  const { id, title, updated } = conversation;
  if (isDeleted(id)) return;
  list = [{ id, title, updated }, ...list.filter((each) => each.id !== id)];
  list.sort((a, b) => b.updated - a.updated);
  showSidebar();
  if (conversation === current) history.replaceState(null, "", `#${id}`);
  const refused = await saveConversation(conversation);
  if (refused) note(refused);
}

const showSidebar = () => showList(list, current.id, runningIds(), open);

/** Show everything about the current conversation but its turns. */
function showControls() {
  const isEmpty = current.turns.length === 0;
  byId("title").textContent = current.title || "New conversation";
  document.title = current.title ? `${current.title} · mlx-gpt` : "mlx-gpt";
  byId("open-actions").hidden = byId("turns").hidden = isEmpty;
  byId("empty").hidden = !isEmpty;
  const { system, sampling } = current.settings;
  byId("open-settings").toggleAttribute("data-changed", system || Object.keys(sampling).length);
  showModels(models, current.settings.model);
  showRunning(runningConversation(current.id) !== undefined);
  showSidebar();
}

function showAll() {
  showTurns(current, actions);
  showControls();
}

/** Show a conversation by its id; null, or an unknown one, is a new conversation. */
async function open(id) {
  const found = id && (runningConversation(id) ?? (await loadConversation(id)));
  current = found || newConversation(lastSettings());
  if (!current.settings.model) current.settings.model = models[0] ?? null;
  if (!runningConversation(current.id)) markInterrupted(current);
  history.replaceState(null, "", found ? `#${id}` : location.pathname);
  showAll();
  setDrawer(false);
  goToEnd();
  focusComposer();
}

/** An answer that ran when its window was closed has ended there. */
function markInterrupted(conversation) {
  for (const turn of conversation.turns) if (turn.state === "running") turn.state = "stopped";
}

async function loadModels() {
  try {
    models = await listModels();
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
    if (error.status === 401 && (await enterKey(error.message))) return loadModels();
    note(error.message);
  }
  current.settings.model ??= models[0] ?? null;
  byId("forget-key").hidden = !hasKey();
  byId("served").textContent = models[0] ?? "mlx-gpt";
  showControls();
}

/** Ask for the server's key; return whether there is one now. */
async function enterKey(reason) {
  const key = await askedForKey(reason);
  if (key) setKey(key);
  byId("forget-key").hidden = !hasKey();
  return key !== null;
}

async function refreshList() {
  list = (await allConversations()).map(({ id, title, updated }) => ({ id, title, updated }));
  showSidebar();
}

async function rename() {
  const title = await asked("Title", current.title);
  if (!title) return;
  current.title = title;
  await save(current);
  showControls();
}

async function remove() {
  const question = `Delete "${current.title}"? This cannot be undone.`;
  if (!(await confirmed(question, "Delete"))) return;
  await stop(current.id);
  await deleteConversation(current.id);
  list = list.filter((each) => each.id !== current.id);
  await open(null);
  note("Deleted");
}

function changeSettings(settings) {
  current.settings = { ...current.settings, ...settings };
  rememberSettings(current.settings);
  if (current.turns.length > 0) save(current);
  showControls();
}

function pressed(event) {
  const isElsewhere = document.querySelector("dialog[open], :popover-open");
  if (event.key !== "Escape" || isElsewhere) return;
  if (isDrawerOpen()) setDrawer(false);
  else stop(current.id);
}

function connect() {
  connectComposer(send, () => stop(current.id));
  connectDialogs();
  connectDrawer();
  connectSettings(changeSettings);
  connectFiles(() => current, async (id) => {
    await refreshList();
    await open(id);
  });
  byId("new").addEventListener("click", () => open(null));
  byId("open-settings").addEventListener("click", () => openSettings(current.settings));
  byId("model").addEventListener("change", (event) => changeSettings({ model: event.target.value }));
  byId("rename").addEventListener("click", rename);
  byId("delete").addEventListener("click", remove);
  byId("forget-key").addEventListener("click", () => {
    setKey(null);
    byId("forget-key").hidden = true;
    note("The key is forgotten");
  });
  for (const button of byId("actions").querySelectorAll("button")) {
    button.addEventListener("click", () => byId("actions").hidePopover());
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("message").focus();
  });
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  onChangeElsewhere(async (id) => {
    await refreshList();
    const isHere = current.turns.length > 0 && (id === null || id === current.id);
    const isBusy = runningConversation(current.id) || document.querySelector(".editor");
    if (isHere && !isBusy) await open(current.id);
  });
}

connect();
await refreshList();
await open(location.hash.slice(1));
await loadModels();
