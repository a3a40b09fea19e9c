/** Elements and texts. Text from outside becomes text nodes only: nothing here parses HTML. */

/**
 * Return a new element.
 * attributes: strings; true for one without a value; false and undefined leave it out; functions listen ("onclick").
 * children: nodes and strings.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(name.slice(2), value);
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Return a probability in words: "88.2 %". */
export function percent(p) {
  if (p === 0) return "0";
  if (p === 1) return "100 %";
  const value = 100 * p;
  if (value < 0.01) return "< 0.01 %";
  return `${value >= 99.95 ? "> 99.9" : value.toFixed(value >= 10 ? 1 : 2)} %`;
}

/** Return a count with separators, and its noun in the right number. */
export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Return the text of a token for a reader: its characters, or the bytes of a part of one. */
export function textOf(bytes, fallback) {
  if (bytes === null || bytes === undefined) return { text: fallback, isText: false };
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(bytes)), isText: true };
  } catch {
    return { text: bytes.map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join(""), isText: false };
  }
}

/** Return a text on one line, with its white space visible. */
export function visible(text) {
  return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/ /g, "·") || "(empty)";
}

/** Return a text for a screen reader: white space as words. */
export function spoken(text) {
  if (text === "") return "empty";
  if (text.trim() !== "") return text.trim();
  return text.includes("\n") ? "new line" : "space";
}
