/** The page: the request on the left, its tokens and one token's story on the right. */

import { ApiError, apiKey, complete, explain, models, schemasOfFields, setApiKey } from "./api.js";
import { Choice } from "./choice.js";
import { byId, count, h } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Inspector } from "./inspector.js";
import { Parameters } from "./parameters.js";

const MOST_CONTEXT = 400;
const MOST_EXPLANATIONS = 500;
const USUAL_TOP = 8;

const inspector = new Inspector(byId("inspector"), closeInspector);
let parameters = null;
/** Alternatives to ask for: as many as the panel has room for, if the server gives that many. */
let numTop = 0;
/** The last run: its body, its choices, and whether it has come to its end. */
let run = { body: null, choices: [], isWhole: false };
let sending = null;
let selected = null;
let isFirmlySelected = false;
let explaining = null;
const explanations = new Map();

function status(text, kind = "") {
  byId("progress").textContent = "";
  byId("status").textContent = text;
  byId("status").className = kind;
}

async function start() {
  status("Loading …");
  try {
    const [names, schemas] = await Promise.all([models(), parameters === null ? schemasOfFields() : null]);
    byId("model").replaceChildren(...names.map((name) => h("option", { value: name }, name)));
    if (schemas !== null) {
      parameters = new Parameters(byId("parameters"), schemas.completion);
      numTop = Math.min(USUAL_TOP, schemas.explain.top_logprobs.anyOf[0].maximum);
      byId("examples").append(...EXAMPLES.map(exampleButton));
      useExample(EXAMPLES[0]);
    }
    status("Ready.");
  } catch (error) {
    showError(error);
  }
}

function exampleButton(example) {
  return h("button", { type: "button", onclick: () => useExample(example) }, example.title);
}

function useExample({ prompt, parameters: values }) {
  byId("prompt").value = prompt;
  parameters.write(values);
}

/** Return the request's body, or null if a control has no right value, which is then shown. */
function bodyOf() {
  showPromptProblem("");
  const values = parameters.read();
  if (values === null) {
    status("A parameter is not right.", "bad");
    return null;
  }
  return {
    model: byId("model").value,
    prompt: byId("prompt").value,
    logprobs: parameters.maximum("logprobs"),
    ...values,
  };
}

async function generate() {
  const body = parameters === null ? null : bodyOf();
  if (body === null) return;
  leaveToken();
  explanations.clear();
  run = { body, choices: [], isWhole: false };
  byId("choices").replaceChildren();
  byId("output").scrollIntoView({ block: "start" });
  if (await send(body, (piece) => choiceOf(piece.index).add(piece))) {
    run.isWhole = true;
    byId("replay").disabled = false;
  }
}

/** Send a completion and hand over its pieces. Return true if it came to its end. */
async function send(body, take) {
  const started = performance.now();
  sending?.abort();
  const current = new AbortController();
  sending = current;
  setBusy(true);
  status("Generating …");
  let numTokens = 0;
  try {
    for await (const piece of complete(body, current.signal)) {
      if (current.signal.aborted) break;
      take(piece);
      numTokens += piece.token_ids.length;
      byId("progress").textContent = count(numTokens, "token"); // outside the status line, which is read aloud
    }
    const seconds = (performance.now() - started) / 1000;
    status(`${count(numTokens, "token")} in ${seconds.toFixed(1)} s, seed ${run.choices[0]?.seed ?? "-"}.`, "good");
    return true;
  } catch (error) {
    if (error.name === "AbortError") status(`Stopped after ${count(numTokens, "token")}.`);
    else showError(error);
    return false;
  } finally {
    if (sending === current) {
      sending = null;
      setBusy(false);
    }
  }
}

function setBusy(isBusy) {
  byId("stop").disabled = !isBusy;
  byId("generate").disabled = isBusy;
  byId("replay").disabled = isBusy || !run.isWhole;
  byId("output").setAttribute("aria-busy", String(isBusy));
}

/** Return the choice with this index, after making all up to it. */
function choiceOf(index) {
  while (run.choices.length <= index) {
    const prompt = run.body.prompt.length > MOST_CONTEXT ? `…${run.body.prompt.slice(-MOST_CONTEXT)}` : run.body.prompt;
    const shown = { prompt, suffix: run.body.suffix ?? "", onSelect: select, onLeave: leaveToken };
    const choice = new Choice(run.choices.length, shown);
    run.choices.push(choice);
    byId("choices").append(choice.node);
  }
  return run.choices[index];
}

/** Send the last request again with its seed, and compare every token and byte. */
async function replay() {
  const before = run.choices.map((choice) => ({ ids: choice.tokenIds, text: choice.text }));
  const again = before.map(() => ({ ids: [], text: "" }));
  const body = { ...run.body, seed: run.choices[0].seed };
  const isWhole = await send(body, (piece) => {
    const one = (again[piece.index] ??= { ids: [], text: "" });
    one.ids.push(...piece.token_ids);
    one.text += piece.text;
  });
  if (isWhole) showComparison(before, again, body.seed);
}

function showComparison(before, again, seed) {
  const different = before.findIndex(
    (one, index) => one.text !== again[index].text || String(one.ids) !== String(again[index].ids),
  );
  if (different === -1 && before.length === again.length) {
    const numTokens = before.reduce((sum, one) => sum + one.ids.length, 0);
    status(`Replayed with seed ${seed}: ${count(numTokens, "token")}, the same bytes.`, "good");
  } else {
    const at = before[different]?.ids.findIndex((id, index) => id !== again[different].ids[index]);
    status(`Replayed with seed ${seed}: choice ${different + 1} differs at token ${at + 1}.`, "bad");
  }
}

/** Select a token. isFirm: by keyboard or click; a token that the pointer only passes gives way to it. */
function select(choice, index, isFirm) {
  if (!isFirm && isFirmlySelected) return;
  isFirmlySelected = isFirm;
  if (selected?.choice === choice && selected.index === index) return;
  selected?.choice.mark(null);
  selected = { choice, index };
  choice.mark(index);
  inspector.showToken(choice, index, run.choices.length > 1);
  if (isFirm) choice.reveal(index);
  showExplanation(choice, index);
}

function leaveToken() {
  explaining?.abort();
  selected?.choice.mark(null);
  selected = null;
  isFirmlySelected = false;
  inspector.clear();
}

/** Close the panel, and give the focus back to its token. */
function closeInspector() {
  const last = selected;
  leaveToken();
  last?.choice.focusQuietly(last.index);
}

async function showExplanation(choice, index) {
  explaining?.abort();
  const current = new AbortController();
  explaining = current;
  const key = `${choice.index} ${index}`;
  try {
    let explanation = explanations.get(key);
    if (explanation === undefined) {
      const ids = choice.tokenIds.slice(0, index + 1);
      const position = { token_ids: ids, position: index, choice: choice.index, top_logprobs: numTop };
      explanation = await explain({ ...run.body, seed: choice.seed, ...position }, current.signal);
      if (explanations.size >= MOST_EXPLANATIONS) explanations.clear();
      explanations.set(key, explanation);
    }
    if (!current.signal.aborted) inspector.showExplanation(explanation);
  } catch (error) {
    if (error.name !== "AbortError") inspector.showError(error.message);
  }
}

function showPromptProblem(text) {
  byId("prompt-error").textContent = text;
  byId("prompt").setAttribute("aria-invalid", String(text !== ""));
}

/** Show an error beside the control that it names, or in the status line. */
function showError(error) {
  if (!(error instanceof ApiError)) {
    status(`The server cannot be reached: ${error.message}`, "bad");
    return;
  }
  const { parameter, message } = error;
  if (parameter === "prompt") showPromptProblem(message);
  const isShown = parameter === "prompt" || (parameters?.showProblem(parameter, message) ?? false);
  status(isShown ? `The server refuses ${parameter}.` : message, "bad");
  if (error.status === 401) byId("key").focus();
}

byId("request").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
byId("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    generate();
  }
});
byId("stop").addEventListener("click", () => sending?.abort());
byId("replay").addEventListener("click", replay);
byId("inspector").addEventListener("keydown", (event) => {
  if (event.key === "Escape") closeInspector();
});
byId("connection").addEventListener("submit", (event) => event.preventDefault());
byId("key").value = apiKey();
byId("key").addEventListener("change", () => {
  setApiKey(byId("key").value);
  start();
});

start();
