/** One choice: its tokens as they come, each coloured by its probability. */

import { count, h, percent, spoken, textOf } from "./dom.js";

const LEVELS = [0.9, 0.5, 0.2, 0.05];

/**
 * A choice and the list of its tokens.
 *
 * tokens: {text, isText, id, p, top} for each shown token; p: probability, or null; top: [text, p] of alternatives.
 * tokenIds: of all tokens, with one that ended the choice and is not shown.
 */
export class Choice {
  constructor(index, { prompt, suffix, onSelect, onLeave }) {
    this.index = index;
    this.tokens = [];
    this.tokenIds = [];
    this.text = "";
    this.seed = null;
    this.finishReason = null;
    this.onSelect = onSelect;
    this.elements = [];
    const title = `Choice ${index + 1}`;
    this.meta = h("span", { class: "meta" });
    this.list = h("span", { role: "listbox", "aria-label": `${title}: tokens`, class: "tokens" });
    const before = h("span", { class: "context" }, prompt);
    const after = h("span", { class: "context" }, suffix);
    this.body = h("div", { class: "text" }, before, this.list, after);
    this.node = h(
      "article",
      { class: "choice", "aria-label": title },
      h("header", {}, h("h3", {}, title), this.meta),
      this.body,
    );
    this.list.addEventListener("keydown", (event) => this.onKey(event, onLeave));
    this.list.addEventListener("focusin", (event) => this.selectAt(event.target, true));
    this.list.addEventListener("click", (event) => this.selectAt(event.target, true));
    this.list.addEventListener("pointerover", (event) => this.onPointer(event));
    this.list.addEventListener("pointerleave", () => clearTimeout(this.timer));
  }

  /** Take a piece of the stream. */
  add(piece) {
    this.text += piece.text;
    this.tokenIds.push(...piece.token_ids);
    this.seed = piece.seed;
    const { logprobs } = piece;
    for (let i = 0; i < (logprobs?.token_ids.length ?? 0); i++) {
      const logprob = logprobs.token_logprobs[i];
      const top = Object.entries(logprobs.top_logprobs[i] ?? {}).map(([text, one]) => [text, Math.exp(one)]);
      const token = {
        ...textOf(logprobs.bytes[i], logprobs.tokens[i]),
        id: logprobs.token_ids[i],
        p: logprob === null ? null : Math.exp(logprob),
        top,
      };
      this.tokens.push(token);
      this.addElement(token);
    }
    if (piece.finish_reason) this.finish(piece);
  }

  finish(piece) {
    this.finishReason = piece.finish_reason;
    const reason = piece.stop_reason ? `stop: ${JSON.stringify(piece.stop_reason)}` : piece.finish_reason;
    this.meta.textContent = `${count(this.tokenIds.length, "token")}, ${reason}`;
  }

  addElement(token) {
    const index = this.elements.length;
    const name = `${spoken(token.text)}, ${token.p === null ? "no probability" : percent(token.p)}`;
    const element = h("span", {
      class: `token ${token.isText ? "" : "bytes"} p${level(token.p)}`,
      role: "option",
      tabindex: index === 0 ? "0" : "-1",
      "aria-selected": "false",
      "aria-label": name,
    });
    for (const part of token.text.split(/(\n)/)) {
      if (part === "\n") element.append(h("span", { class: "return", "aria-hidden": "true" }, "⏎"), "\n");
      else element.append(part);
    }
    element.dataset.index = String(index);
    this.elements.push(element);
    this.list.append(element);
  }

  onPointer(event) {
    clearTimeout(this.timer);
    if (event.pointerType === "touch") return;
    this.timer = setTimeout(() => this.selectAt(event.target, false), 90);
  }

  selectAt(target, isFirm) {
    const element = target.closest(".token");
    if (element && !this.isQuiet) this.onSelect(this, Number(element.dataset.index), isFirm);
  }

  /** Show that a token is selected, and make it the one that Tab reaches; null: none is. */
  mark(index) {
    for (const element of this.list.querySelectorAll("[aria-selected=true]"))
      element.setAttribute("aria-selected", "false");
    if (index === null) return;
    for (const element of this.list.querySelectorAll("[tabindex='0']")) element.tabIndex = -1;
    this.elements[index].setAttribute("aria-selected", "true");
    this.elements[index].tabIndex = 0;
  }

  /** Move the focus to a token without selecting it. */
  focusQuietly(index) {
    this.isQuiet = true;
    this.elements[index].focus();
    this.isQuiet = false;
  }

  /** Scroll a token into view, above the panel where that covers a part of the page. */
  reveal(index) {
    this.elements[index].scrollIntoView({ block: "nearest" });
  }

  onKey(event, onLeave) {
    const index = Number(event.target.closest(".token")?.dataset.index);
    const last = this.elements.length - 1;
    const target = {
      ArrowRight: () => Math.min(index + 1, last),
      ArrowLeft: () => Math.max(index - 1, 0),
      ArrowDown: () => this.onNextLine(index, 1),
      ArrowUp: () => this.onNextLine(index, -1),
      Home: () => 0,
      End: () => last,
      Escape: () => onLeave(),
    }[event.key];
    if (target === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const found = target();
    if (found !== undefined) this.elements[found].focus();
  }

  /** Return the token of the next line, down (1) or up (-1), that is nearest to a token. */
  onNextLine(index, direction) {
    const boxes = this.elements.map((element) => element.getClientRects()[0] ?? element.getBoundingClientRect());
    const from = boxes[index];
    const further = (box) => direction * (box.top - from.top) > from.height / 2;
    let best = index;
    for (let i = index + direction; i >= 0 && i < boxes.length; i += direction) {
      if (!further(boxes[i])) continue;
      if (best !== index && Math.abs(boxes[i].top - boxes[best].top) > from.height / 2) break;
      const distance = (one) => Math.abs(boxes[one].left - from.left);
      if (best === index || distance(i) < distance(best)) best = i;
    }
    return best;
  }
}

/** Return the number of the colour of a probability: 0 is that of the most likely tokens. */
function level(p) {
  if (p === null) return "-none";
  const found = LEVELS.findIndex((least) => p >= least);
  return found === -1 ? LEVELS.length : found;
}
