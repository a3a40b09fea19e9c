/** The controls of all parameters, made from the fields that the server describes. */

import { h } from "./dom.js";
import { kindOf, RuleError } from "./kinds.js";

/** Fields without a control: the prompt stays in its own box. */
const LEFT_OUT = new Set(["echo"]);
const OPEN = new Set(["Length and choices", "Temperature"]);
const IS_NARROW = matchMedia("(max-width: 720px)");

/** A control with its label, help, error and reset button. */
class Row {
  constructor(field, onChange) {
    const id = `p-${field.name}`;
    const described = `${id}-help ${id}-error`;
    this.field = field;
    this.control = kindOf(field.schema)(field, { id, name: field.name, "aria-describedby": described });
    this.problem = h("p", { id: `${id}-error`, class: "error", role: "alert" });
    this.reset = h(
      "button",
      { type: "button", class: "reset", "aria-label": `Reset ${field.name}`, title: "Reset" },
      "×",
    );
    this.reset.addEventListener("click", () => {
      this.write(undefined);
      onChange();
      this.focus();
    });
    const name = nameOf(field.name, this.control.hasOwnLabel ? null : id);
    const input = h("div", { class: "input" }, this.control.beside ?? null, this.control.element);
    if (this.control.isTall) input.prepend(this.control.element);
    const help = h("p", { id: `${id}-help`, class: "help" }, field.help);
    const layout = this.control.isTall ? "row tall" : "row";
    this.node = h("div", { class: layout, oninput: onChange }, name, this.reset, input, help, this.problem);
    this.write(undefined);
  }

  /** Return the value, or undefined; throws RuleError. */
  read() {
    return this.control.read();
  }

  write(value) {
    this.control.write(value);
    this.showProblem("");
  }

  /** Return true if the field is given, with a value that may be wrong. */
  get isGiven() {
    try {
      return this.read() !== undefined;
    } catch {
      return true;
    }
  }

  showProblem(text) {
    this.problem.textContent = text;
    this.control.element.setAttribute("aria-invalid", String(text !== ""));
  }

  focus() {
    this.control.element.focus();
  }
}

/** All parameters, in collapsible groups whose headings list what is given. */
export class Parameters {
  constructor(parent, schemas) {
    this.rows = new Map();
    this.groups = [];
    for (const [title, fields] of grouped(schemas)) this.addGroup(parent, title, fields);
    this.mark();
  }

  addGroup(parent, title, fields) {
    const rows = fields.map((field) => new Row(field, () => this.mark()));
    const given = h("span", { class: "given" });
    const summary = h("summary", {}, h("span", { class: "title" }, title), given);
    const details = h(
      "details",
      { open: OPEN.has(title) && !IS_NARROW.matches },
      summary,
      ...rows.map((row) => row.node),
    );
    for (const row of rows) this.rows.set(row.field.name, { row, details });
    this.groups.push({ rows, given });
    parent.append(details);
  }

  /** Return the given values by name, or null after showing what is wrong with them. */
  read() {
    const values = {};
    let wrong = null;
    for (const [name, { row }] of this.rows) {
      row.showProblem("");
      try {
        const value = row.read();
        if (value !== undefined) values[name] = value;
      } catch (error) {
        if (!(error instanceof RuleError)) throw error;
        wrong ??= name;
        row.showProblem(error.message);
      }
    }
    if (wrong !== null) this.focus(wrong);
    return wrong === null ? values : null;
  }

  /** Show these values, and clear all other controls. */
  write(values) {
    for (const [name, { row }] of this.rows) row.write(values[name]);
    this.mark();
  }

  set(name, value) {
    this.rows.get(name)?.row.write(value);
    this.mark();
  }

  /** Show an error at a parameter's control. Return false if there is no such control. */
  showProblem(name, text) {
    const known = this.rows.get(name);
    known?.row.showProblem(text);
    if (known) this.focus(name);
    return known !== undefined;
  }

  focus(name) {
    const { row, details } = this.rows.get(name);
    details.open = true;
    row.focus();
  }

  /** Return the largest value that the server takes for a field of integers; 0 if there is no such field. */
  maximum(name) {
    return this.rows.get(name)?.row.field.schema.maximum ?? 0;
  }

  /** Mark what is given, in its row and in the heading of its group. */
  mark() {
    for (const { rows, given } of this.groups) {
      for (const row of rows) row.node.classList.toggle("is-given", row.isGiven);
      given.textContent = rows
        .filter((row) => row.isGiven)
        .map(shortly)
        .join(", ");
    }
  }
}

/** Return the name of a field, which may be broken after each underscore; a label if `id` is that of its control. */
function nameOf(name, id) {
  const parts = name.split(/(?<=_)/).flatMap((part) => [part, h("wbr")]);
  return id === null ? h("span", { class: "name" }, ...parts) : h("label", { for: id, class: "name" }, ...parts);
}

function shortly(row) {
  let value;
  try {
    value = row.read();
  } catch {
    return `${row.field.name}?`;
  }
  const isShort = ["number", "string"].includes(typeof value) && String(value).length < 14;
  return isShort ? `${row.field.name} ${value}` : row.field.name;
}

/** Return [group, fields] in the order of the table of parameters. */
function grouped(schemas) {
  const rows = Object.entries(schemas).filter(([name, schema]) => schema["x-parameter"] && !LEFT_OUT.has(name));
  rows.sort(([, one], [, other]) => one["x-parameter"].row - other["x-parameter"].row);
  const groups = new Map();
  for (const [name, schema] of rows) {
    const { group, none } = schema["x-parameter"];
    if (!groups.has(group)) groups.set(group, []);
    groups
      .get(group)
      .push({ name, none, help: schema.description.replace(/^Extension\. /, ""), schema: schema.anyOf[0] });
  }
  const profiles = schemas.profile?.anyOf[0].enum ?? [];
  if (profiles.length > 0) {
    const field = {
      name: "profile",
      none: "the server's own",
      help: schemas.profile.description,
      schema: schemas.profile.anyOf[0],
    };
    groups.set("Order of the stages", [field]);
  }
  return groups;
}
