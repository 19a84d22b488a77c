// A mask painted over a picture: canvas, brush, undo; by mouse, touch, pen or keys.
import { button, make } from "./dom.js";

const KEPT = 30; // strokes that can be undone
const PAINT = "#ff4a36"; // seen on dark and light pictures alike; only its alpha counts
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** An editor for a picture of width x height pixels. `element` is what to put on the page. */
export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.past = [];
    this.cursor = null;
    this.picture = make("canvas", { width, height, className: "picture", "aria-hidden": "true" });
    this.mask = make("canvas", { width, height, className: "mask", "aria-hidden": "true" });
    const [least, most] = [1, Math.max(4, Math.round(Math.min(width, height) / 3))];
    this.brush = make("input", { type: "range", min: least, max: most, step: 1, "aria-label": "Brush size in pixels" });
    this.brush.value = Math.max(2, Math.round(Math.min(width, height) / 10));
    this.ring = make("span", { className: "ring", hidden: true });
    this.stage = make(
      "div",
      {
        className: width <= 128 ? "stage crisp" : "stage",
        tabIndex: 0,
        role: "application",
        "aria-label": "Mask over the picture. Arrow keys move the brush, Space paints, U undoes, C clears.",
        onpointerdown: (event) => this.down(event),
        onpointermove: (event) => this.move(event),
        onpointerup: () => this.lift(),
        onpointercancel: () => this.lift(),
        onpointerleave: () => !this.last && this.hide(),
        onkeydown: (event) => this.key(event),
        onblur: () => this.hide(),
      },
      this.picture,
      this.mask,
      this.ring,
    );
    this.undoing = button("Undo", () => this.undo(), { disabled: true });
    this.clearing = button("Clear", () => this.clear(), { disabled: true });
    this.stage.style.aspectRatio = `${width} / ${height}`;
    const brush = make("label", { className: "inline" }, make("span", { textContent: "Brush" }), this.brush);
    this.element = make(
      "div",
      { className: "mask-editor" },
      this.stage,
      make("div", { className: "tools" }, brush, this.undoing, this.clearing),
    );
  }

  /** Draw a picture under the mask, cut to the middle where its sides are in another proportion. */
  show(bitmap) {
    const scale = Math.max(this.width / bitmap.width, this.height / bitmap.height);
    const [wide, high] = [bitmap.width * scale, bitmap.height * scale];
    const context = this.picture.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = scale !== 1;
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, (this.width - wide) / 2, (this.height - high) / 2, wide, high);
  }

  /** Whether anything is painted. */
  get painted() {
    const { data } = this.context.getImageData(0, 0, this.width, this.height);
    return data.some((value, i) => i % 4 === 3 && value > 127);
  }

  /** The picture, and the mask as the endpoint takes it: transparent is what is drawn anew. Null for no mask. */
  async files() {
    const image = await png(this.picture);
    if (!this.painted) return { image, mask: null };
    const painted = this.context.getImageData(0, 0, this.width, this.height);
    for (let i = 0; i < painted.data.length; i += 4) {
      const drawn = painted.data[i + 3] > 127;
      painted.data.set([0, 0, 0, drawn ? 0 : 255], i);
    }
    const canvas = make("canvas", { width: this.width, height: this.height });
    canvas.getContext("2d").putImageData(painted, 0, 0);
    return { image, mask: await png(canvas) };
  }

  undo() {
    const before = this.past.pop();
    if (before) this.context.putImageData(before, 0, 0);
    this.tell();
  }

  clear() {
    this.keep();
    this.context.clearRect(0, 0, this.width, this.height);
    this.tell();
  }

  get context() {
    return this.mask.getContext("2d", { willReadFrequently: true });
  }

  down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.keep();
    this.last = this.at(event);
    this.paint(this.last, this.last);
    this.point(this.last);
  }

  move(event) {
    for (const each of event.getCoalescedEvents?.() ?? [event]) {
      const here = this.at(each);
      if (this.last) {
        this.paint(this.last, here);
        this.last = here;
      }
    }
    this.point(this.at(event));
  }

  lift() {
    this.last = null;
    this.tell();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "z" && !event.altKey) {
        event.preventDefault();
        this.undo();
      }
      return;
    }
    this.cursor ??= [this.width / 2, this.height / 2];
    const step = Math.max(1, Math.round(this.width / 32)) * (event.shiftKey ? 4 : 1);
    if (event.key in MOVES) {
      const [x, y] = MOVES[event.key];
      this.cursor = [
        Math.min(this.width, Math.max(0, this.cursor[0] + x * step)),
        Math.min(this.height, Math.max(0, this.cursor[1] + y * step)),
      ];
    } else if (event.key === " ") {
      this.keep();
      this.paint(this.cursor, this.cursor);
      this.tell();
    } else if (event.key === "u") this.undo();
    else if (event.key === "c") this.clear();
    else return;
    event.preventDefault();
    this.point(this.cursor);
  }

  at(event) {
    const box = this.stage.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return [x * this.width, y * this.height];
  }

  paint([x, y], [u, v]) {
    const context = this.context;
    context.strokeStyle = PAINT;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = Number(this.brush.value);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(u + 0.001, v);
    context.stroke();
  }

  point([x, y]) {
    const { style } = this.ring;
    this.ring.hidden = false;
    style.left = `${(x / this.width) * 100}%`;
    style.top = `${(y / this.height) * 100}%`;
    style.width = `${(this.brush.value / this.width) * 100}%`;
  }

  hide() {
    this.ring.hidden = true;
  }

  keep() {
    this.past.push(this.context.getImageData(0, 0, this.width, this.height));
    if (this.past.length > KEPT) this.past.shift();
  }

  tell() {
    this.undoing.disabled = this.past.length === 0;
    this.clearing.disabled = !this.painted;
    this.element.dispatchEvent(new CustomEvent("painted", { bubbles: true }));
  }
}

const png = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
