/** The buttons that export, import and delete: files of the user, and everything in the browser. */

import { runningIds, stop } from "./answering.js";
import { versions } from "./conversation.js";
import { byId } from "./dom.js";
import { download, fileName, fromJson, toMarkdown, toOpenAI } from "./exchange.js";
import { announce, confirmed, note } from "./notices.js";
import { lastSettings } from "./settings.js";
import { allConversations, deleteAllConversations, saveConversation } from "./store.js";

const JSON_TYPE = "application/json";

/** `current()` is the conversation that is shown; `changed(id)` is called to show another one. */
export function connectFiles(current, changed) {
  byId("export-json").addEventListener("click", () => {
    // One line: files of JSON lines are what `mlx-gpt finetune` reads.
    const text = `${JSON.stringify(toOpenAI(current()))}\n`;
    save(current(), fileName(current(), "json"), text, JSON_TYPE);
  });
  byId("export-markdown").addEventListener("click", () => {
    save(current(), fileName(current(), "md"), toMarkdown(current()), "text/markdown");
  });
  byId("export-all").addEventListener("click", exportAll);
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", (event) => importFiles(event.target, changed));
  byId("delete-all").addEventListener("click", () => deleteAll(changed));
}

function save(conversation, name, text, type) {
  download(name, text, type);
  const hasVersions = conversation.turns.some((turn) => versions(conversation, turn).length > 1);
  const what = hasVersions ? `The versions that are shown are in ${name}` : `Exported as ${name}`;
  note(what);
}

async function exportAll() {
  const all = await allConversations();
  const lines = all.map((each) => `${JSON.stringify(toOpenAI(each))}\n`);
  download("mlx-gpt-conversations.jsonl", lines.join(""), JSON_TYPE);
  say(`Exported ${count(all.length)}, of each turn the version that is shown.`);
}

async function importFiles(input, changed) {
  const lines = [];
  let last = null;
  for (const file of input.files) {
    try {
      const made = fromJson(await file.text(), lastSettings());
      for (const conversation of made) {
        const refused = await saveConversation(conversation);
        if (refused) throw new Error(refused);
        last = conversation.id;
      }
      lines.push(`Imported ${count(made.length)} from ${file.name}.`);
    } catch (error) {
      lines.push(`${file.name} was not imported: ${error.message}.`);
    }
  }
  input.value = ""; // so that the same file can be chosen again
  say(lines.join(" "));
  if (last) await changed(last);
}

async function deleteAll(changed) {
  const all = await allConversations();
  const question = `Delete ${count(all.length)} from this browser? This cannot be undone.`;
  if (!(await confirmed(question, "Delete all"))) return;
  await Promise.all([...runningIds()].map(stop));
  say(`Deleted ${count(await deleteAllConversations())}.`);
  await changed(null);
}

/** Say something in the dialog of settings, in which these buttons are. */
function say(text) {
  byId("files-note").textContent = text;
  if (byId("settings").open) announce(text);
  else note(text);
}

const count = (number) => `${number} conversation${number === 1 ? "" : "s"}`;
