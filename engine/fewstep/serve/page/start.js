// The picture to start from: chosen, dropped or taken from a result; how much of it changes, and where.
import { button, make } from "./dom.js";
import { Mask } from "./mask.js";

const MOST = 32 * 2 ** 20; // bytes of a file that is opened at all; it is sent in the model's size

export class Start {
  constructor(details, inner, wrong) {
    this.details = details;
    this.inner = inner;
    this.wrong = wrong;
    this.shape = [32, 32];
    this.bitmap = null;
    this.file = make("input", { type: "file", accept: "image/*", id: "start-file" });
    this.file.addEventListener("change", () => this.open(this.file.files[0]));
    this.drop = make(
      "label",
      { className: "drop", for: "start-file" },
      this.file,
      make("span", {}, make("b", { textContent: "Choose an image" }), " or drop one here"),
    );
    this.strength = make("input", { type: "range", id: "strength", min: 0.05, max: 1, step: 0.05, value: 0.6 });
    this.said = make("output", { for: "strength" });
    this.hint = make("p", { className: "hint" });
    this.strength.addEventListener("input", () => this.tell());
    details.addEventListener("painted", () => this.tell());
    for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => this.dragged(event));
    this.draw();
  }

  /** The size of the model's images, which the picture is brought to. */
  size(width, height) {
    if (this.shape[0] === width && this.shape[1] === height) return;
    this.shape = [width, height];
    this.draw();
  }

  /** Start from a file or another blob. */
  async open(blob) {
    if (!blob) return;
    this.details.open = true;
    try {
      if (blob.size > MOST) throw new Error("too large");
      this.bitmap = await createImageBitmap(blob);
    } catch {
      this.wrong("image", "This is not an image that the browser can read, or it is larger than 32 MB.");
      return;
    }
    this.draw();
    this.mask.stage.focus({ preventScroll: true });
  }

  /** What a request says of it: {image, mask, strength}; null for no picture. */
  async read() {
    if (!this.bitmap) return null;
    return { ...(await this.mask.files()), strength: Number(this.strength.value) };
  }

  draw() {
    if (!this.bitmap) {
      this.file.value = "";
      this.inner.replaceChildren(this.drop);
      return;
    }
    this.mask = new Mask(...this.shape);
    this.mask.show(this.bitmap);
    const away = button("Remove image", () => {
      this.bitmap = null;
      this.draw();
      this.file.focus();
    });
    this.mask.element.querySelector(".tools").append(away);
    const strength = make(
      "div",
      { className: "field" },
      make("label", { for: "strength", className: "split" }, "Strength", this.said),
      this.strength,
      this.hint,
    );
    this.inner.replaceChildren(this.mask.element, strength);
    this.tell();
  }

  tell() {
    const strength = Number(this.strength.value);
    this.said.textContent = strength.toFixed(2);
    const all = "Paint over what is to be drawn anew. Now all of it is";
    const where = this.mask?.painted ? "What is painted is drawn anew" : all;
    this.hint.textContent = `${where}, ${strength < 1 ? "from the picture and noise" : "from noise alone"}.`;
  }

  dragged(event) {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    if (event.type === "drop") this.open(event.dataTransfer.files[0]);
    else this.details.open = true;
  }
}
