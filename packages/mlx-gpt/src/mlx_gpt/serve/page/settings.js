/** The settings of a conversation: its system prompt, and how answers are sampled. */

import { byId, element } from "./dom.js";
import { recall, remember } from "./memory.js";

const LAST = "mlx-gpt settings";
const EMPTY = { model: null, system: "", sampling: {} };

// What OpenAI's interface and mlx-gpt call them. An empty field is not sent: the server decides.
const FIELDS = [
  ["max_tokens", "Max tokens", { min: 1, step: 1 }, "longest answer"],
  ["temperature", "Temperature", { min: 0, max: 2, step: "any" }, "0: greedy"],
  ["seed", "Seed", { min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 }, "repeats an answer"],
  ["top_p", "Top p", { min: 0.001, max: 1, step: "any" }, "1: all tokens"],
  ["top_k", "Top k", { min: 0, step: 1 }, "0: all tokens"],
  ["min_p", "Min p", { min: 0, max: 1, step: "any" }, "0: all tokens"],
  ["repetition_penalty", "Repetition penalty", { min: 0.01, max: 100, step: "any" }, "1: none"],
  ["presence_penalty", "Presence penalty", { min: -2, max: 2, step: "any" }, "0: none"],
  ["frequency_penalty", "Frequency penalty", { min: -2, max: 2, step: "any" }, "0: none"],
];

/** Return the settings that were used last, with which a new conversation begins. */
export function lastSettings() {
  try {
    return { ...EMPTY, ...JSON.parse(recall("localStorage", LAST) ?? "{}") };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return EMPTY;
  }
}

export const rememberSettings = (settings) =>
  remember("localStorage", LAST, JSON.stringify(settings));

/** Make the fields of the dialog; `changed(settings)` is called when it closes after a change. */
export function connectSettings(changed) {
  const dialog = byId("settings");
  const fields = FIELDS.map(([name, label, limits, hint]) => {
    const type = { type: "number", inputmode: "decimal", placeholder: "default" };
    const input = element("input", { id: `field-${name}`, name, ...type, ...limits });
    return element("label", { for: input.id }, label, input, element("small", {}, hint));
  });
  byId("fields").replaceChildren(...fields);
  byId("reset").addEventListener("click", () => {
    for (const [name] of FIELDS) byId(`field-${name}`).value = "";
  });
  dialog.addEventListener("close", () => changed({ ...dialog.settings, ...readSettings() }));
}

/** Open the dialog with the settings of a conversation. */
export function openSettings(settings) {
  const dialog = byId("settings");
  dialog.settings = settings;
  byId("system").value = settings.system;
  for (const [name] of FIELDS) byId(`field-${name}`).value = settings.sampling[name] ?? "";
  dialog.showModal();
}

/** Read the dialog. A value out of its range, which the browser marks, is not taken. */
function readSettings() {
  const sampling = {};
  for (const [name] of FIELDS) {
    const field = byId(`field-${name}`);
    if (field.value !== "" && field.checkValidity()) sampling[name] = field.valueAsNumber;
  }
  return { system: byId("system").value, sampling };
}
