// Two dialogs: the request as code, and the API key.
import { key } from "./api.js";
import { button, byId, make } from "./dom.js";
import { curl, python } from "./snippets.js";

const LANGUAGES = { curl, Python: python };

/** Show the request of a run as curl or Python, to be copied. */
export function showCode(run) {
  const dialog = byId("code");
  const text = make("pre", { tabIndex: 0, "aria-label": "Code" });
  const copied = make("span", { className: "hint", role: "status" });
  const tabs = Object.entries(LANGUAGES).map(([name, write]) =>
    button(name, (event) => {
      text.textContent = write(run.request, location.origin, key.get() !== null);
      text.dataset.language = name;
      for (const each of tabs) each.setAttribute("aria-pressed", String(each === event.currentTarget));
      copied.textContent = "";
    }),
  );
  const copy = button("Copy", async () => {
    copied.textContent = (await toClipboard(text)) ? "Copied" : "Selected: press Ctrl + C";
  }, { className: "primary" });
  const files = Object.entries(run.request.files).map(([name, blob]) =>
    make("a", {
      className: "button",
      href: URL.createObjectURL(blob),
      download: `${name}.png`,
      textContent: `${name}.png`,
    }),
  );
  dialog.replaceChildren(
    make("div", { className: "bar" },
      make("div", { className: "tabs", role: "group", "aria-label": "Language" }, ...tabs),
      button("Close", () => dialog.close(), { className: "quiet close" }),
    ),
    text,
    make("div", { className: "actions" }, copy, ...files, copied),
  );
  dialog.showModal();
  tabs[0].click();
  tabs[0].focus();
}

async function toClipboard(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element); // there is no clipboard over plain HTTP, save from this machine
    return false;
  }
}

/** Ask for the API key; it stays in this tab. `given` is called when there is a new one. */
export function askKey(given, message = "") {
  const dialog = byId("key");
  if (dialog.open) return;
  const input = make("input", { type: "password", id: "key-input", autocomplete: "off", value: key.get() ?? "" });
  const form = make("form", {
    method: "dialog",
    onsubmit: () => {
      key.set(input.value.trim());
      given();
    },
  },
    make("label", { for: "key-input", textContent: "API key" }),
    input,
    message ? make("p", { className: "wrong", textContent: message }) : null,
    make("p", {
      className: "hint",
      textContent: "It is kept in this tab until you close it, and sent to no other server.",
    }),
    make("div", { className: "actions" },
      make("button", { className: "primary", textContent: "Use" }),
      button("Cancel", () => dialog.close()),
    ),
  );
  dialog.replaceChildren(form);
  dialog.showModal();
  input.focus();
}
