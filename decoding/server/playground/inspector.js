/** The panel about one token: alternatives with bars, and what each stage did to the distribution. */

import { count, h, percent, textOf, visible } from "./dom.js";

const NO_TOKEN = "Point at a token, or move to one with Tab and the arrow keys, to see what it was drawn from.";

export class Inspector {
  constructor(node, onClose) {
    this.node = node;
    this.onClose = onClose;
    this.clear();
  }

  clear() {
    this.node.classList.remove("is-open");
    const title = h("h2", { id: "inspector-title" }, "Token");
    this.node.replaceChildren(h("div", { class: "inspector-head" }, title), h("p", { class: "empty" }, NO_TOKEN));
  }

  /** Show what the completion itself reported about a token, until the explanation is there. */
  showToken(choice, index, isOneOfMany) {
    const token = choice.tokens[index];
    this.facts = h("p", { class: "facts" });
    this.content = h("div", { class: "inspector-body" });
    const where = `${isOneOfMany ? `Choice ${choice.index + 1}, ` : ""}Token ${index + 1}`;
    const close = h(
      "button",
      { type: "button", class: "close", "aria-label": "Close", title: "Escape", onclick: this.onClose },
      "×",
    );
    const title = h(
      "h2",
      { id: "inspector-title" },
      `${where} `,
      h("code", { class: "chosen" }, token.isText ? visible(token.text) : token.text),
    );
    const head = h("div", { class: "inspector-head" }, title, this.facts, close);
    this.node.replaceChildren(head, this.content);
    this.node.classList.add("is-open");
    const p = token.p === null ? "" : `, ${percent(token.p)}`;
    this.facts.textContent = `id ${token.id}${p}`;
    const largest = Math.max(...token.top.map(([, one]) => one));
    const rows = token.top.map(([text, one]) =>
      bar({ name: visible(text), p: one, largest, isChosen: text === token.text }),
    );
    this.content.append(
      panel("Alternatives", h("div", { class: "bars" }, ...rows)),
      panel("Stages", h("p", { class: "empty" }, "…")),
    );
  }

  showError(text) {
    this.content.lastChild.replaceChildren(h("h3", {}, "Stages"), h("p", { class: "error" }, text));
  }

  /** Show an explanation, after its last stage at first. */
  showExplanation(explanation) {
    const { steps, tokens } = explanation;
    const chosen = tokens.find((token) => token.token_id === explanation.token_id) ?? tokens[0];
    const at = tokens.indexOf(chosen);
    const first = steps[0].probabilities[at];
    const last = steps.at(-1).probabilities[at];
    this.facts.replaceChildren(
      `id ${chosen.token_id}, rank ${chosen.rank.toLocaleString("en")}: the model gave it `,
      h("b", {}, percent(first)),
      ", it was drawn with ",
      h("b", {}, percent(last)),
      ` out of ${count(steps.at(-1).num_kept, "token")}`,
    );
    this.alternatives = h("div", { class: "bars" });
    this.heading = h("h3", {});
    const pick = (number) => this.showStep(explanation, number, at);
    const left = h("section", { class: "panel" }, this.heading, this.alternatives);
    const right = h("section", { class: "panel" }, h("h3", {}, "Stages"), stages(explanation, at, pick));
    this.content.replaceChildren(left, right);
    if (explanation.error !== null) right.append(h("p", { class: "error" }, explanation.error));
    pick(steps.length - 1);
  }

  showStep({ steps, tokens }, number, chosen) {
    const step = steps[number];
    const before = steps[Math.max(0, number - 1)];
    const largest = Math.max(...steps.flatMap((one) => one.probabilities));
    const title = number === 0 ? "As the model gives them" : `After ${titleOf(step)}`;
    this.heading.replaceChildren(title, number === 0 ? "" : h("span", { class: "hint" }, " (grey: before it)"));
    const order = tokens.map((_, index) => index).sort((a, b) => steps[0].probabilities[b] - steps[0].probabilities[a]);
    const rows = order.map((index) => {
      const token = tokens[index];
      const { text, isText } = textOf(token.bytes, token.token);
      const p = step.probabilities[index];
      return bar({
        name: isText ? visible(text) : text,
        p,
        before: before.probabilities[index],
        largest,
        isChosen: index === chosen,
        note: p === 0 ? shortReason(token.why_not) : "",
      });
    });
    this.alternatives.replaceChildren(...rows);
  }
}

/** Return the settings of a stage, or its name where it has none. */
function titleOf(step) {
  if (step.stage === "logits") return "the model";
  return step.title.startsWith(`${step.stage} `) ? step.title.slice(step.stage.length + 1) : step.title;
}

function shortReason(reason) {
  return (reason ?? "").split(", before which")[0];
}

function panel(title, ...children) {
  return h("section", { class: "panel" }, h("h3", {}, title), ...children);
}

/**
 * Return a row with a token, its bar and its probability.
 * before: the probability before the stage, behind the bar. largest: the probability of a bar of full length.
 */
function bar({ name, p, before = p, largest = 1, isChosen, note = "" }) {
  const fill = h("span", { class: "fill" });
  const ghost = h("span", { class: "ghost" });
  fill.style.width = `${(100 * p) / largest}%`;
  ghost.style.width = `${(100 * before) / largest}%`;
  const track = h("span", { class: "track" }, ghost, fill, h("span", { class: "note" }, note));
  const state = `${isChosen ? "is-chosen" : ""} ${p === 0 ? "is-out" : ""}`;
  const value = h("span", { class: "value" }, percent(p));
  const mark = isChosen ? h("span", { class: "sr" }, " (this token)") : null;
  return h("div", { class: `bar-row ${state}` }, h("code", { title: name }, name, mark), track, value);
}

/** Return the table of stages; its radio buttons choose the stage that the bars show. */
function stages({ steps }, at, onPick) {
  const rows = steps.map((step, number) => {
    const id = `stage-${number}`;
    const radio = h("input", {
      type: "radio",
      name: "stage",
      id,
      checked: number === steps.length - 1,
      onchange: () => onPick(number),
    });
    const title = h("label", { for: id, title: step.title }, titleOf(step));
    const removed = step.mass_removed > 0 ? percent(step.mass_removed) : "";
    const cells = [
      step.num_kept.toLocaleString("en"),
      removed,
      step.entropy.toFixed(2),
      percent(step.probabilities[at]),
    ];
    return h("tr", {}, h("th", { scope: "row" }, radio, title), ...cells.map((text) => h("td", {}, text)));
  });
  const head = ["stage", "kept", "removed", "entropy", "this token"].map((text) => h("th", { scope: "col" }, text));
  return h(
    "div",
    { class: "scroll" },
    h("table", { class: "stages" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)),
  );
}
