/**
 * Controls by the JSON Schema of a field. A kind makes an element and two functions:
 * read() returns the value, or undefined if the field is left alone, and throws RuleError for a text that is no value;
 * write(value) shows a value, or clears the control with undefined.
 */

import { h } from "./dom.js";

/** A text in a control is no value of its kind. The message is the rule. */
export class RuleError extends Error {}

/** Return the kind of a field's schema, without null. */
export function kindOf(schema) {
  const parts = schema.anyOf ?? [];
  const isWord = parts[0]?.enum !== undefined;
  if (schema.type === "boolean") return flag;
  if (schema.type === "integer" || schema.type === "number") return number;
  if (schema.enum) return word;
  if (isWord && parts[1]?.type === "array") return words;
  if (isWord && parts[1]?.type === "integer") return wordOrCount;
  if (parts[0]?.type === "string" && parts[1]?.type === "array") return texts;
  if (schema.type === "array") return schema.items.type === "integer" ? ids : sequences;
  if (schema.type === "string") return text;
  if (schema.type === "object" && schema.maxProperties === 1) return oneOf;
  if (schema.type === "object" && schema.properties) return record;
  if (schema.type === "object") return bias;
  return json;
}

function flag(field, attributes) {
  const standard = field.schema.default ?? false;
  const input = h("input", { ...attributes, type: "checkbox" });
  const write = (value) => {
    input.checked = value ?? standard;
  };
  return { element: input, write, read: () => (input.checked === standard ? undefined : input.checked) };
}

function number(field, attributes) {
  const { schema } = field;
  const isInteger = schema.type === "integer";
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const step = isInteger ? "1" : schema.maximum - low <= 2 ? "0.01" : "0.1";
  const input = h("input", { ...attributes, type: "number", step, placeholder: placeholder(field) });
  const read = () => {
    if (input.validity.badInput) throw new RuleError("must be a number");
    if (input.value === "") return undefined;
    const value = Number(input.value);
    if (isInteger && !Number.isSafeInteger(value)) {
      throw new RuleError("must be an integer below 2^53, because browsers round larger ones");
    }
    return value;
  };
  const write = (value) => {
    input.value = value ?? "";
    if (slider) slider.value = value ?? schema.default ?? low;
  };
  // The slider is for a pointer alone: the number beside it does the same for the keyboard and for readers.
  let slider = null;
  if (!isInteger && schema.maximum - low <= 10) {
    const range = { type: "range", min: low, max: schema.maximum, step, tabindex: "-1", "aria-hidden": "true" };
    slider = h("input", {
      ...range,
      oninput: () => {
        input.value = slider.value;
      },
    });
    input.addEventListener("input", () => {
      slider.value = input.value === "" ? (schema.default ?? low) : input.value;
    });
  }
  return { element: input, beside: slider, read, write };
}

function word(field, attributes) {
  const none = field.schema.default ?? (field.none || "default");
  const options = field.schema.enum.map((one) => h("option", { value: one }, one));
  const select = h("select", attributes, h("option", { value: "" }, `${none} (default)`), ...options);
  const write = (value) => {
    select.value = value ?? "";
  };
  return { element: select, write, read: () => select.value || undefined };
}

function words(field, attributes) {
  const options = field.schema.anyOf[0].enum.map((one) => h("option", { value: one }, one));
  const size = String(options.length);
  const select = h("select", { ...attributes, multiple: true, size }, ...options);
  const read = () => {
    const chosen = [...select.selectedOptions].map((option) => option.value);
    return chosen.length === 0 ? undefined : chosen;
  };
  const write = (value) => {
    const chosen = [value ?? []].flat();
    for (const option of options) option.selected = chosen.includes(option.value);
  };
  return { element: select, isTall: true, read, write };
}

function wordOrCount(field, attributes) {
  const list = h("datalist", { id: `${attributes.id}-words` });
  list.append(...field.schema.anyOf[0].enum.map((one) => h("option", { value: one })));
  const input = line(field, { ...attributes, list: list.id });
  const read = () => (/^\d+$/.test(input.value.trim()) ? Number(input.value) : input.value.trim() || undefined);
  return { element: input, beside: list, isTall: true, read, write: (value) => (input.value = value ?? "") };
}

function text(field, attributes) {
  const area = h("textarea", { ...attributes, rows: "2", spellcheck: "false" });
  const write = (value) => {
    area.value = value ?? "";
  };
  return { element: area, isTall: true, write, read: () => area.value || undefined };
}

/** Strings, one per line; "\n" in a line is a new line, "\\" a backslash. */
function texts(field, attributes) {
  return lines(attributes, "one per line; \\n is a new line", unescaped, escaped);
}

/** Sequences of tokens, one per line: a text, or token ids in brackets. */
function sequences(field, attributes) {
  const parse = (one) => (/^\[[\d\s,]+\]$/.test(one) ? numbers(one.slice(1, -1)) : unescaped(one));
  const write = (one) => (Array.isArray(one) ? `[${one.join(", ")}]` : escaped(one));
  return lines(attributes, "one per line: a text, or [token ids]", parse, write);
}

function ids(field, attributes) {
  const input = line(field, { ...attributes, placeholder: field.none || "17, 42", inputmode: "numeric" });
  const read = () => (input.value.trim() === "" ? undefined : numbers(input.value));
  return { element: input, isTall: true, read, write: (value) => (input.value = (value ?? []).join(", ")) };
}

/** A number per token id, one pair per line. */
function bias(field, attributes) {
  const area = h("textarea", { ...attributes, rows: "2", placeholder: "token id: number", spellcheck: "false" });
  const read = () => {
    const pairs = area.value.split("\n").filter((one) => one.trim() !== "");
    if (pairs.length === 0) return undefined;
    return Object.fromEntries(pairs.map(pair));
  };
  const write = (value) => {
    area.value = Object.entries(value ?? {})
      .map(([id, one]) => `${id}: ${one}`)
      .join("\n");
  };
  return { element: area, isTall: true, read, write };
}

function pair(one) {
  const match = /^\s*(\d+)\s*[:=]\s*(\S+)\s*$/.exec(one);
  if (!match || Number.isNaN(Number(match[2])))
    throw new RuleError("must have a token id and a number per line: 17: -2");
  return [match[1], Number(match[2])];
}

/** An object with one of a few properties: a choice of the property, and its value. */
function oneOf(field, attributes) {
  const kinds = field.schema.properties;
  const options = Object.keys(kinds).map((name) => h("option", { value: name }, name));
  const select = h("select", attributes, h("option", { value: "" }, field.none || "none"), ...options);
  const label = `${field.name}: its text`;
  const area = h("textarea", { id: `${attributes.id}-value`, rows: "4", spellcheck: "false", "aria-label": label });
  const isList = (name) => kinds[name].type === "array";
  const isObject = (name) => kinds[name].anyOf?.some((one) => one.type === "object");
  const show = () => {
    area.hidden = select.value === "";
    area.placeholder = select.value === "" ? "" : isList(select.value) ? "one per line" : select.value;
  };
  select.addEventListener("input", show);
  const read = () => {
    const name = select.value;
    if (name === "") return undefined;
    if (area.value === "") throw new RuleError(`must have a ${name}`);
    if (isList(name))
      return {
        [name]: area.value
          .split("\n")
          .filter((one) => one !== "")
          .map(unescaped),
      };
    return { [name]: isObject(name) ? parsedJson(area.value) : area.value };
  };
  const write = (value) => {
    const [name, source] = Object.entries(value ?? { "": "" })[0];
    select.value = name;
    if (Array.isArray(source)) area.value = source.map(escaped).join("\n");
    else area.value = typeof source === "string" ? source : JSON.stringify(source, null, 1);
    show();
  };
  return { element: select, beside: area, isTall: true, read, write };
}

/** An object of integers, a control for each. */
function record(field, attributes) {
  const inputs = Object.entries(field.schema.properties).map(([name, schema]) => {
    const range = { min: schema.minimum, max: schema.maximum, placeholder: schema.default ?? "" };
    return h("input", {
      type: "number",
      id: `${attributes.id}-${name}`,
      name,
      ...range,
      "aria-label": `${field.name}: ${name}`,
    });
  });
  const labels = inputs.map((input) => h("span", { class: "part" }, input.name, input));
  const group = h("div", { id: attributes.id, class: "record", role: "group", "aria-label": field.name }, ...labels);
  const read = () => {
    const given = inputs.filter((input) => input.value !== "");
    return given.length === 0 ? undefined : Object.fromEntries(given.map((input) => [input.name, Number(input.value)]));
  };
  const write = (value) => {
    for (const input of inputs) input.value = value?.[input.name] ?? "";
  };
  return { element: group, isTall: true, hasOwnLabel: true, read, write };
}

function json(field, attributes) {
  const control = text(field, attributes);
  const read = () => (control.element.value === "" ? undefined : parsedJson(control.element.value));
  return {
    ...control,
    read,
    write: (value) => (control.element.value = value === undefined ? "" : JSON.stringify(value)),
  };
}

function line(field, attributes) {
  return h("input", {
    placeholder: placeholder(field),
    ...attributes,
    type: "text",
    spellcheck: "false",
    autocomplete: "off",
  });
}

function lines(attributes, hint, parse, written) {
  const area = h("textarea", { ...attributes, rows: "2", placeholder: hint, spellcheck: "false" });
  const read = () => {
    const given = area.value.split("\n").filter((one) => one !== "");
    return given.length === 0 ? undefined : given.map(parse);
  };
  const write = (value) => {
    area.value = [value ?? []].flat().map(written).join("\n");
  };
  return { element: area, isTall: true, read, write };
}

function placeholder(field) {
  return String(field.schema.default ?? field.none ?? "");
}

function numbers(list) {
  const given = list.split(/[\s,]+/).filter((one) => one !== "");
  if (!given.every((one) => /^\d+$/.test(one))) throw new RuleError("must be token ids: 17, 42");
  return given.map(Number);
}

function parsedJson(source) {
  try {
    return JSON.parse(source);
  } catch {
    throw new RuleError("must be JSON");
  }
}

function unescaped(source) {
  return source.replace(/\\(n|t|r|\\)/g, (_, letter) => ({ n: "\n", t: "\t", r: "\r", "\\": "\\" })[letter]);
}

function escaped(source) {
  return source.replace(/[\n\t\r\\]/g, (one) => ({ "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\" })[one]);
}
