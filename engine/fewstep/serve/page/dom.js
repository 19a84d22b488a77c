// Short words for what is done to the document all the time. Nothing here takes HTML: text stays text.

export const byId = (id) => document.getElementById(id);

/** An element with properties, "data-" and "aria-" attributes, listeners ("onclick") and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button that does something. */
export const button = (text, onclick, properties = {}) =>
  make("button", { type: "button", onclick, ...properties }, text);

/** Milliseconds for people: "4.2 ms", "38 ms", "1.24 s". */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** Words with a capital at their front. */
export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

/** "1 image", "4 images". */
export const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** A picture in base64 as a blob, and an address at which an <img> finds it. */
export function picture(base64, type = "image/png") {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type });
  return { blob, url: URL.createObjectURL(blob) };
}
