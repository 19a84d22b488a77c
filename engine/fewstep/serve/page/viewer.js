// An image by itself: larger, with the previews that led to it, and what can be done with it.
import { button, byId, duration, make } from "./dom.js";

export class Viewer {
  constructor(useAsStart) {
    this.dialog = byId("viewer");
    this.useAsStart = useAsStart;
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside the picture
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.go(-1);
      else if (event.key === "ArrowRight") this.go(1);
    });
  }

  show(tile) {
    this.tile = tile;
    this.draw();
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** The image before or after this one, of the same run. */
  go(by) {
    const { tiles } = this.tile.run;
    const next = tiles[this.tile.place + by];
    if (next?.fact) this.show(next);
  }

  arrow(text, by, said) {
    const disabled = !this.tile.run.tiles[this.tile.place + by]?.fact;
    return button(text, () => this.go(by), { className: "quiet", "aria-label": said, disabled });
  }

  draw() {
    const { tile } = this;
    const { fact, frames, run } = tile;
    const url = frames.at(-1).url;
    const large = make("img", { src: url, alt: tile.picture.alt, className: run.crisp ? "crisp large" : "large" });
    const strip = (frames.length > 1 ? frames : []).map((frame, i) => {
      const last = i === frames.length - 1;
      const face = make("img", { src: frame.url, alt: "", className: run.crisp ? "crisp" : "" });
      const said = last ? "Image" : `Step ${frame.step}`;
      const one = button("", () => {
        large.src = frame.url;
        for (const each of one.parentElement.children) each.setAttribute("aria-pressed", String(each === one));
      }, { "aria-pressed": String(last), "aria-label": last ? "The image" : `The preview after step ${frame.step}` });
      one.append(face, make("span", { textContent: said }));
      return one;
    });
    const name = `${run.request.fields.model}-${fact.seed ?? tile.place}-${fact.steps ?? ""}.png`.replaceAll("/", "-");
    this.dialog.replaceChildren(
      make("div", { className: "bar" },
        this.arrow("‹", -1, "The image before"),
        this.arrow("›", 1, "The image after"),
        button("Close", () => this.dialog.close(), { className: "quiet close", autofocus: true }),
      ),
      large,
      make("div", { className: "strip", role: "group", "aria-label": "On the way" }, ...strip),
      make("dl", { className: "facts" }, ...rows(fact)),
      make("div", { className: "actions" },
        make("a", { className: "button", href: url, download: name, textContent: "Download" }),
        button("Use as start", () => {
          this.dialog.close();
          this.useAsStart(frames.at(-1).blob);
        }),
      ),
    );
  }
}

function rows(fact) {
  const said = [
    ["Label", fact.label],
    ["Seed", fact.seed],
    ["Steps", fact.chosen_by_deadline ? `${fact.steps}, by the deadline` : fact.steps],
    ["Sampler", fact.sampler],
    ["Drawn by", fact.member],
    ["Queued", fact.queue_ms === undefined ? null : duration(fact.queue_ms)],
    ["Ran", fact.run_ms === undefined ? null : duration(fact.run_ms)],
  ];
  return said
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => [make("dt", { textContent: name }), make("dd", { textContent: String(value) })])
    .map((pair) => make("div", {}, ...pair));
}
