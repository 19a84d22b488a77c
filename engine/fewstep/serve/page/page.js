// The page: what is pressed becomes a request, and what the server says of it becomes pictures.
import { ApiError, key, stream } from "./api.js";
import { askKey, showCode } from "./dialogs.js";
import { button, byId, count, make, sentence } from "./dom.js";
import { clearError, FieldError, Form, showError } from "./form.js";
import { Live } from "./live.js";
import { capabilities } from "./models.js";
import { body, requestId, toRequest } from "./request.js";
import { Results, Run } from "./results.js";
import { Start } from "./start.js";
import { Viewer } from "./viewer.js";

const start = new Start(byId("start"), byId("start-inner"), showError);
const form = new Form(start);
const results = new Results();
const viewer = new Viewer((blob) => start.open(blob).then(() => byId("start").scrollIntoView({ block: "nearest" })));
const live = new Live({ gone: lost, here: back });
let loaded = false;
const running = new Map(); // what aborts each run that is under way
let countdown = null;

/** Say something above everything; `actions` are buttons. */
function notice(message, ...actions) {
  clearInterval(countdown);
  const bar = byId("notice");
  bar.hidden = !message;
  bar.dataset.of = "";
  bar.replaceChildren(...(message ? [make("p", { textContent: sentence(message) }), ...actions] : []));
  if (message) bar.scrollIntoView({ block: "nearest" });
}

function lost(error) {
  if (error.status === 401) {
    needKey(error);
    return;
  }
  if (byId("notice").dataset.of === "lost") return;
  notice("The server does not answer. This page asks again every second.");
  byId("notice").dataset.of = "lost";
}

/** The server has answered; where it was away, or is just starting, what it serves may be new. */
function back(said, wasAway) {
  if (byId("notice").dataset.of === "lost") notice("");
  if (said.phase === "ready" && (wasAway || !loaded)) load();
}

function needKey(error) {
  byId("key-open").hidden = false;
  notice("This server asks for an API key.");
  const before = key.get();
  if (before) key.set("");
  askKey(unlocked, before ? error.message : "");
}

function unlocked() {
  notice("");
  load();
  live.again();
}

async function load() {
  try {
    const able = await capabilities();
    form.offer(able);
    loaded = able.models.length > 0;
  } catch (error) {
    loaded = false;
    if (error.status === 401) needKey(error);
    else if (error.status === 0) lost(error);
    else notice(error.message);
  }
}

async function generate() {
  clearError();
  notice("");
  let request;
  try {
    request = toRequest(await form.read());
  } catch (error) {
    if (!(error instanceof FieldError)) throw error;
    if (!showError(error.param, error.message)) notice(error.message);
    return;
  }
  const run = new Run(request, form.chosen, { view: (tile) => viewer.show(tile), code: showCode, cancel });
  running.set(run, new AbortController());
  byId("results").setAttribute("aria-busy", "true");
  results.add(run);
  if (matchMedia("(max-width: 900px)").matches) run.element.scrollIntoView({ behavior: "smooth" });
  say(`Drawing ${count(run.tiles.length, "image")}`);
  try {
    await stream(request.path, body(request), requestId(), running.get(run).signal, (type, said) => {
      run.told(type, said);
      const { length } = run.left;
      say(length ? `${run.tiles.length - length} of ${count(run.tiles.length, "image")} done` : "Done");
    });
    run.stop("did not come");
  } catch (error) {
    failed(run, error);
  }
  running.delete(run);
  run.over();
  byId("results").setAttribute("aria-busy", String(running.size > 0));
}

function failed(run, error) {
  const some = run.left.length < run.tiles.length;
  if (error.name === "AbortError") {
    say("Cancelled");
    if (some) run.stop("cancelled");
    else results.remove(run);
    return;
  }
  if (!(error instanceof ApiError)) throw error;
  say("");
  if (some) run.stop("failed");
  else results.remove(run);
  if (error.status === 401) needKey(error);
  else if (error.retryAfter !== null) wait(error);
  else if (!showError(error.param, error.message)) notice(error.message, button("Try again", generate));
}

/** Count down to when the server said that it may be worth asking again. */
function wait(error) {
  const until = performance.now() + error.retryAfter * 1000;
  const again = button("", generate, { disabled: true });
  notice(error.message, again);
  const tell = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    again.disabled = left > 0;
    again.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left <= 0) clearInterval(countdown);
  };
  countdown = setInterval(tell, 250);
  tell();
}

/** Leave a run, or the newest of all; the server drops at the next step what nobody waits for. */
function cancel(run = [...running.keys()].at(-1)) {
  running.get(run)?.abort();
}

function say(words) {
  byId("progress").textContent = words;
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
byId("key-open").addEventListener("click", () => askKey(unlocked));
document.addEventListener("keydown", (event) => {
  const shown = document.querySelector("dialog[open]");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !shown) {
    event.preventDefault();
    generate();
  } else if (event.key === "Escape" && !shown) cancel();
});

await load();
live.start();
