// The form: its controls follow the model, and what stands in them is read as a choice.
import { byId, count, make, sentence } from "./dom.js";
import { facts, member } from "./models.js";
import { throwSeed } from "./request.js";

const CHIPS = 64; // classes that are shown one by one; more are typed

/** What is wrong with a field, found before anything is sent. */
export class FieldError extends Error {
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

export class Form {
  constructor(start) {
    this.start = start;
    this.models = [];
    this.limits = {};
    byId("model").addEventListener("change", () => this.show(this.chosen));
    byId("mode").addEventListener("change", () => this.tellSteps());
    byId("steps-trained").addEventListener("change", () => {
      byId("steps").value = "";
      this.tellSteps();
    });
    byId("steps").addEventListener("input", () => {
      for (const radio of this.radios()) radio.checked = byId("steps").value === radio.value;
      this.tellSteps();
    });
    byId("deadline").addEventListener("input", () => this.tellSteps());
    byId("labels").addEventListener("change", () => this.tellLabels());
    byId("labels-text").addEventListener("input", () => this.tellLabels());
    byId("n").addEventListener("input", () => this.tellLabels());
    byId("n-less").addEventListener("click", () => this.moreImages(-1));
    byId("n-more").addEventListener("click", () => this.moreImages(1));
    byId("dice").addEventListener("click", () => {
      byId("seed").value = throwSeed();
    });
    byId("form").addEventListener("input", (event) => clearError(event.target.closest("[data-param]")));
  }

  /** Offer these models; the one that was chosen stays so, and where nothing has changed so does all else. */
  offer({ models, limits }) {
    if (JSON.stringify([models, limits]) === JSON.stringify([this.models, this.limits])) return;
    const before = byId("model").value;
    this.models = models;
    this.limits = limits;
    byId("model").replaceChildren(...models.map(({ id }) => make("option", { value: id, textContent: id })));
    if (models.some(({ id }) => id === before)) byId("model").value = before;
    byId("n").max = limits.images ?? 10;
    if (this.chosen) this.show(this.chosen);
  }

  get chosen() {
    return this.models.find(({ id }) => id === byId("model").value);
  }

  /** The controls of a model. */
  show(model) {
    byId("model-hint").textContent = facts(model);
    const prompts = model.conditions === "prompts";
    byId("prompt-field").hidden = byId("negative-field").hidden = !prompts;
    byId("labels-field").hidden = prompts || model.conditions === "unconditional";
    const chips = model.conditions === "classes" && model.classes <= CHIPS;
    byId("labels").hidden = !chips;
    byId("labels-text").hidden = chips;
    const classes = Array.from({ length: chips ? model.classes : 0 }, (_, label) => label);
    const named = (label) => chip("checkbox", "label", label, model.classNames[label]);
    byId("labels").replaceChildren(...classes.map(named));
    byId("labels").classList.toggle("in-fives", classes.length <= 10);
    const own = (each) => chip("radio", "count", each, String(each), each === model.steps);
    byId("steps-trained").replaceChildren(...model.choices.map(own));
    byId("steps").value = "";
    byId("steps").max = this.limits.steps ?? "";
    const sampler = model.defaults.sampler ? ` (${model.defaults.sampler})` : "";
    byId("sampler").replaceChildren(
      make("option", { value: "", textContent: `The model's own${sampler}` }),
      ...model.samplers.map((each) => make("option", { value: each, textContent: each })),
    );
    byId("guidance-field").hidden = !model.guidance;
    this.start.size(model.width, model.height);
    this.tellLabels();
    this.tellSteps();
  }

  /** What was chosen, as `toRequest` takes it. Raises a FieldError for what no server needs to be asked about. */
  async read() {
    const model = this.chosen;
    if (!model) throw new FieldError("model", "No model is served.");
    const n = whole("n", "Images", 1, this.limits.images ?? 10) ?? 1;
    const byDeadline = this.mode === "deadline";
    const steps = byDeadline ? null : this.steps();
    if (!byDeadline && steps === null) throw new FieldError("num_inference_steps", "Choose a number of steps.");
    const deadline = byDeadline ? whole("deadline", "Deadline", 1, this.limits.deadline_ms ?? 600_000) : null;
    if (byDeadline && deadline === null) throw new FieldError("deadline_ms", "Say how many milliseconds there are.");
    const prompts = model.conditions === "prompts";
    if (prompts && !byId("prompt").value.trim()) throw new FieldError("prompt", "Say what to draw.");
    return {
      model: model.id,
      prompt: prompts ? byId("prompt").value : null,
      negative: prompts ? byId("negative").value : null,
      labels: this.spread(model, n),
      n,
      steps,
      deadline,
      sampler: byId("sampler").value || null,
      guidance: model.guidance ? number("guidance") : null,
      seed: whole("seed", "Seed", 0, Number.MAX_SAFE_INTEGER) ?? throwSeed(),
      previews: Math.max(0, Math.min(3, (steps ?? 4) - 1)),
      start: await this.start.read(),
    };
  }

  get mode() {
    return document.querySelector("input[name=mode]:checked").value;
  }

  radios() {
    return [...document.querySelectorAll("input[name=count]")];
  }

  steps() {
    const typed = whole("steps", "Steps", 1, this.limits.steps ?? 1000, "num_inference_steps");
    const pressed = this.radios().find((radio) => radio.checked);
    return typed ?? (pressed ? Number(pressed.value) : null);
  }

  /** The labels that are on, in order; words where the model's classes are typed. */
  pressed() {
    if (!byId("labels").hidden) {
      return [...document.querySelectorAll("input[name=label]:checked")].map((box) => Number(box.value));
    }
    const words = byId("labels-text").value.split(",").map((word) => word.trim()).filter(Boolean);
    return words.map((word) => (/^-?\d+(\.\d+)?$/.test(word) ? Number(word) : word));
  }

  /** A label for each image: the pressed ones in turn; where none is, the classes in turn from one at random. */
  spread(model, n) {
    if (model.conditions === "prompts" || model.conditions === "unconditional") return null;
    const pressed = this.pressed();
    const many = `${pressed.length} labels are on, and only ${count(n, "image")} asked for.`;
    if (pressed.length > n) throw new FieldError("labels", many);
    if (!pressed.length && !model.classes) throw new FieldError("labels", "Say for which label.");
    const first = Math.floor(Math.random() * (model.classes ?? 1));
    return Array.from({ length: n }, (_, i) =>
      pressed.length ? pressed[i % pressed.length] : (first + i) % model.classes,
    );
  }

  moreImages(by) {
    const most = Number(byId("n").max) || 10;
    byId("n").value = Math.min(most, Math.max(1, (Number.parseInt(byId("n").value, 10) || 0) + by));
    this.tellLabels();
  }

  tellLabels() {
    const model = this.chosen;
    if (!model || byId("labels-field").hidden) return;
    const pressed = this.pressed();
    const most = Number(byId("n").max) || 10;
    const n = Number.parseInt(byId("n").value, 10) || 0;
    if (pressed.length > n && pressed.length <= most) byId("n").value = pressed.length;
    const typed = byId("labels").hidden ? `${sentence(model.allowed)}, with commas between several. ` : "";
    byId("labels-hint").textContent = typed + this.aboutLabels(model, pressed.length);
    clearError(byId("labels-field"));
  }

  aboutLabels(model, pressed) {
    if (!pressed) return model.classes ? "None chosen: another for each image." : "";
    const n = Number.parseInt(byId("n").value, 10) || 1;
    if (pressed > 1) return `In turn over ${count(n, "image")}.`;
    return n === 1 ? "For the image." : `For all ${n} images.`;
  }

  tellSteps() {
    const model = this.chosen;
    const byDeadline = this.mode === "deadline";
    byId("by-steps").hidden = byDeadline;
    byId("by-deadline").hidden = !byDeadline;
    if (!model) return;
    const field = document.querySelector("[data-param=num_inference_steps]");
    clearError(field);
    const most = "As many steps as the time and the load allow.";
    byId("steps-hint").textContent = byDeadline ? most : this.aboutSteps(model);
  }

  aboutSteps(model) {
    const pressed = this.radios().find((radio) => radio.checked)?.value;
    const steps = Number.parseInt(byId("steps").value, 10) || Number(pressed);
    const one = steps ? member(model, steps) : null;
    byId("guidance-hint").textContent = sentence(one?.guidance ?? model.guidance);
    if (!steps) return "";
    const who = model.members.length > 1 ? `Drawn by ${one.name}.` : "";
    const untrained = model.trained.length && !model.trained.includes(steps);
    return untrained ? `Not trained for ${count(steps, "step")}. ${who}` : who;
  }
}

function chip(type, name, value, text, checked = false) {
  const input = make("input", { type, name, value, checked });
  return make("label", { className: "chip" }, input, make("span", { textContent: text ?? String(value) }));
}

function number(id) {
  const value = byId(id).value.trim();
  return value === "" ? null : Number(value);
}

/** The whole number in a field, null where there is none. */
function whole(id, called, least, most, param = null) {
  const text = byId(id).value.trim();
  if (text === "" && !byId(id).validity.badInput) return null;
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || value < least || value > most) {
    const named = param ?? byId(id).closest("[data-param]").dataset.param;
    throw new FieldError(named, `${called}: a whole number from ${least} to ${most}.`);
  }
  return value;
}

const ALSO = { steps: "num_inference_steps", deadline_ms: "num_inference_steps", label: "labels", seeds: "seed" };
Object.assign(ALSO, { mask: "image", strength: "image", images: "image", guidance_rescale: "guidance_scale" });

/** Say what is wrong beside the field that is to blame; whether there is such a field on show. */
export function showError(param, message) {
  const name = String(param ?? "").split(/[.[]/)[0];
  const field = document.querySelector(`.form [data-param="${CSS.escape(ALSO[name] ?? name)}"]`);
  if (!name || !field || field.hidden) return false;
  for (let around = field.parentElement; around; around = around.parentElement) {
    if (around.tagName === "DETAILS") around.open = true;
  }
  if (field.tagName === "DETAILS") field.open = true;
  clearError(field);
  const id = `error-${field.dataset.param}`;
  const said = message.startsWith(`${param}: `) ? message.slice(param.length + 2) : message; // it stands beside it
  field.append(make("p", { className: "wrong", id, textContent: sentence(said), role: "alert" }));
  field.classList.add("is-wrong");
  const shown = [...field.querySelectorAll("input, select, textarea, button")].filter((each) => each.offsetParent);
  const control = shown.find((each) => !["radio", "checkbox", "button"].includes(each.type)) ?? shown[0];
  if (control) {
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", id);
    control.focus({ preventScroll: true });
  }
  field.scrollIntoView({ block: "nearest" });
  return true;
}

/** Take back what was said of one field, or of all. */
export function clearError(field) {
  for (const each of field ? [field] : document.querySelectorAll(".is-wrong")) {
    each.classList.remove("is-wrong");
    for (const said of each.querySelectorAll(":scope > .wrong")) said.remove();
    for (const control of each.querySelectorAll("[aria-invalid]")) {
      control.removeAttribute("aria-invalid");
      control.removeAttribute("aria-describedby");
    }
  }
}
