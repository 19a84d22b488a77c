// The grid of results: a run for each request, a tile for each of its images, which refines as previews come.
import { button, byId, count, duration, make, picture } from "./dom.js";

const RUNS = 40; // that stay on the page

/** One image of a run: waiting, running with previews, done or failed. */
class Tile {
  constructor(run, place) {
    this.run = run;
    this.place = place;
    this.frames = []; // {step, blob, url} of each preview, then of the image
    this.fact = null; // what the server says of the image
    this.picture = make("img", { alt: "", hidden: true, className: run.crisp ? "crisp" : "" });
    this.ticks = make("span", { className: "ticks", "aria-hidden": "true" });
    this.words = make("span", { className: "waiting", textContent: "waiting" });
    this.open = button("", () => this.run.view(this), { className: "face", disabled: true });
    this.open.append(this.picture, this.words);
    this.open.style.aspectRatio = `${run.width} / ${run.height}`;
    this.caption = make("p", { className: "caption" });
    this.element = make("li", { className: "tile is-waiting" }, this.open, this.ticks, this.caption);
    this.steps(run.request.fields.num_inference_steps ?? null, 0);
  }

  /** So many of so many steps are done. */
  steps(of, done) {
    if (of && of !== this.of) {
      this.of = of;
      this.ticks.replaceChildren(...Array.from({ length: Math.min(of, 16) }, () => make("i")));
    }
    if (!this.of) return;
    const shown = Math.floor((done / this.of) * this.ticks.children.length);
    [...this.ticks.children].forEach((tick, i) => tick.classList.toggle("is-done", i < shown));
    if (!done) return;
    this.element.classList.replace("is-waiting", "is-running");
    this.caption.textContent = `step ${done} of ${of}`;
  }

  /** A partial image, or the image. */
  frame(base64, step, type) {
    const frame = { step, ...picture(base64, type) };
    this.frames.push(frame);
    this.picture.src = frame.url;
    this.picture.hidden = false;
    this.words.hidden = true;
    this.element.dataset.frames = this.frames.length;
  }

  done(base64, type, fact) {
    this.fact = fact ?? {};
    const { steps, seed, label, member, run_ms: run, queue_ms: queued } = this.fact;
    this.frame(base64, steps ?? null, type);
    this.steps(steps ?? this.of, steps ?? this.of);
    this.element.classList.remove("is-waiting", "is-running");
    this.element.classList.add("is-done");
    const what = label === undefined || label === null ? "Image" : `Label ${label}`;
    this.picture.alt = `${what}, seed ${seed}`;
    this.open.disabled = false;
    this.open.setAttribute("aria-label", `${what}, seed ${seed}, ${duration(run)}: larger`);
    const facts = [label === null || label === undefined ? null : `label ${label}`, `seed ${seed}`];
    if (this.run.request.fields.deadline_ms) facts.unshift(count(steps, "step"));
    this.caption.replaceChildren(
      make("b", { textContent: duration(run) }),
      make("span", { textContent: `${duration(queued)} queued` }),
      make("span", { className: "more", textContent: facts.filter(Boolean).join(" · ") }),
    );
    this.caption.title = `drawn by ${member}`;
  }

  failed(message) {
    if (this.fact) return;
    this.element.classList.remove("is-waiting", "is-running");
    this.element.classList.add("is-failed");
    this.words.textContent = message;
    this.words.hidden = false;
  }

  forget() {
    for (const { url } of this.frames) URL.revokeObjectURL(url);
  }
}

/** One request and its images. */
export class Run {
  constructor(request, model, { view, code, cancel }) {
    Object.assign(this, { request, view });
    this.model = model;
    this.width = model.width;
    this.height = model.height;
    this.crisp = Math.max(model.width, model.height) <= 128;
    this.began = performance.now();
    const n = request.fields.n ?? 1;
    this.tiles = Array.from({ length: n }, (_, place) => new Tile(this, place));
    this.title = make("h3", { textContent: this.words() });
    this.cancelling = button("Cancel", () => cancel(this), { className: "quiet" });
    const asCode = button("Code", () => code(this), { className: "quiet", "aria-label": "This request as code" });
    this.note = make("p", { className: "note", hidden: true });
    this.element = make(
      "article",
      { className: `run ${this.width > 256 ? "is-large" : ""}` },
      make("header", {}, this.title, this.cancelling, asCode),
      this.note,
      make("ul", { className: "tiles" }, ...this.tiles.map((tile) => tile.element)),
    );
  }

  /** What was asked, in a line. */
  words(fact = null) {
    const { fields, files } = this.request;
    const steps = fact?.steps ?? fields.num_inference_steps;
    return [
      fact?.model ?? fact?.member ?? fields.model,
      files.mask ? "inpainting" : files.image ? "from an image" : null,
      steps ? count(steps, "step") : null,
      fields.deadline_ms ? `within ${fields.deadline_ms} ms` : null,
      fact?.sampler ?? fields.sampler,
      `seed ${fields.seed}`,
    ]
      .filter(Boolean)
      .join(" · ");
  }

  get left() {
    return this.tiles.filter((tile) => !tile.fact && !tile.element.classList.contains("is-failed"));
  }

  /** An event of the stream. */
  told(type, said) {
    if (type === "whole") {
      said.data.forEach((each, place) => this.finish(this.tiles[place], each, said));
      return;
    }
    const fact = said.fewstep ?? {};
    const tile = this.tiles[fact.index ?? said.image_index ?? 0] ?? this.left[0];
    if (type.endsWith(".completed")) this.finish(tile, said, said);
    else if (type.endsWith(".partial_image")) {
      tile.steps(fact.steps ?? tile.of, fact.step ?? said.partial_image_index + 1);
      tile.frame(said.b64_json, fact.step ?? said.partial_image_index + 1, mime(said));
    } else if (fact.step) tile.steps(fact.steps, fact.step);
  }

  finish(tile, said, around) {
    const fact = { ...said.fewstep };
    fact.member = fact.member ?? fact.model;
    tile.done(said.b64_json, mime(around), fact);
    this.title.textContent = this.words(fact);
    this.warn(fact.warnings ?? []);
  }

  warn(warnings) {
    const before = this.note.textContent;
    const more = warnings.filter((each) => !before.includes(each));
    if (!more.length) return;
    this.note.hidden = false;
    this.note.textContent = [before, ...more].filter(Boolean).join(" ");
  }

  /** Nothing more comes. */
  over() {
    if (document.activeElement === this.cancelling) byId("generate").focus();
    this.cancelling.remove();
  }

  /** What did not come will not. */
  stop(message) {
    for (const tile of this.left) tile.failed(message);
  }

  forget() {
    for (const tile of this.tiles) tile.forget();
    this.element.remove();
  }
}

const mime = (said) => `image/${said.output_format ?? "png"}`;

/** The runs of this page, newest first. */
export class Results {
  constructor() {
    this.runs = [];
  }

  add(run) {
    byId("empty").hidden = true;
    byId("results").prepend(run.element);
    this.runs.unshift(run);
    while (this.runs.length > RUNS) this.runs.pop().forget();
  }

  /** A run that came to nothing. */
  remove(run) {
    this.runs = this.runs.filter((each) => each !== run);
    run.forget();
    byId("empty").hidden = this.runs.length > 0;
  }
}
