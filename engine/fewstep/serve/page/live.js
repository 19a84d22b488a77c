// The panel of what the server is doing: the queue, the batch and the latency, asked for every second.
import { read } from "./api.js";
import { byId, duration, make } from "./dom.js";

const EVERY = 1000; // ms between two questions while the page is seen
const KEPT = 60; // answers that the lines show
const LANES = 64; // that are drawn one by one

export class Live {
  /** `gone` is told of an error in place of an answer, `here` of an answer and whether there was none before. */
  constructor({ gone, here }) {
    this.gone = gone;
    this.here = here;
    this.queue = Array(KEPT).fill(0);
    this.latency = Array(KEPT).fill(0);
    this.sums = []; // of the last answers
    this.away = false;
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.again());
  }

  start() {
    this.again();
  }

  again() {
    clearTimeout(this.timer);
    if (!document.hidden) this.ask();
  }

  async ask() {
    try {
      const said = await read("/live", { signal: AbortSignal.timeout(5000) });
      this.show(said);
      this.here(said, this.away);
      this.away = false;
    } catch (error) {
      this.away = true;
      this.gone(error);
      if (error.status === 401) return; // until there is a key
      byId("status").textContent = "no answer";
      byId("status").dataset.state = "gone";
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.again(), EVERY);
  }

  show(said) {
    const running = Object.values(said.running ?? {}).reduce((sum, each) => sum + each, 0);
    const sessions = Math.max(1, Object.values(said.running ?? {}).filter((each) => each > 0).length);
    const slots = (said.slots ?? 0) * sessions;
    const phase = said.phase ?? "ready";
    byId("status").textContent = phase === "ready" ? (running || said.queued ? "working" : "idle") : phase;
    byId("status").dataset.state = phase === "ready" ? "ready" : "busy";
    byId("live-queue").textContent = said.queued ?? 0;
    byId("live-batch").textContent = running;
    byId("live-slots").textContent = slots ? `of ${slots} slots` : "";
    this.lanes(running, slots);
    this.line(byId("live-queue-line"), this.queue, said.queued ?? 0);
    this.times(said);
  }

  /** The mean over the images of the last minute, from sums that only grow. */
  times({ finished = 0, queue_seconds: queued = 0, run_seconds: ran = 0 }) {
    if (finished < (this.sums.at(-1)?.finished ?? 0)) this.sums = []; // another server
    this.sums.push({ finished, queued, ran });
    if (this.sums.length > KEPT) this.sums.shift();
    const then = this.sums[0];
    const images = finished - then.finished;
    const waited = (1000 * (queued - then.queued)) / images;
    const total = waited + (1000 * (ran - then.ran)) / images;
    byId("live-latency").textContent = images ? duration(total) : "–";
    byId("live-tail").textContent = images ? `mean, ${duration(waited)} queued` : "no images of late";
    this.line(byId("live-latency-line"), this.latency, images ? total : 0);
  }

  lanes(running, slots) {
    const drawn = Math.min(slots, LANES);
    const lanes = byId("live-lanes");
    if (lanes.children.length !== drawn) lanes.replaceChildren(...Array.from({ length: drawn }, () => make("i")));
    const used = slots ? Math.ceil((running / slots) * drawn) : 0;
    [...lanes.children].forEach((lane, i) => lane.classList.toggle("is-used", i < used));
  }

  /** One more value, and the line through the last of them. */
  line(svg, values, value) {
    values.push(value);
    values.shift();
    const most = Math.max(...values, 1e-9);
    const points = values.map((each, i) => {
      return `${(i * (120 / (KEPT - 1))).toFixed(1)},${(26 - (most > 1e-6 ? (each / most) * 23 : 0)).toFixed(1)}`;
    });
    let path = svg.firstElementChild;
    if (!path) {
      path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
      svg.append(path);
    }
    path.setAttribute("points", points.join(" "));
  }
}
