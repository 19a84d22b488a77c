// From what was chosen to the request that says it, which is also what the snippets show.

const SEEDS = 2 ** 32;

/** A seed thrown anew. */
export const throwSeed = () => Math.floor(Math.random() * SEEDS);

/** A name for a request, by which it can be cancelled. */
export const requestId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), hex).join("");
const hex = (byte) => byte.toString(16).padStart(2, "0");

/**
 * The request of a choice: where it goes, its fields in the order in which they are read, and its files.
 * Fields that were left to the server are left out.
 */
export function toRequest(choice) {
  const fields = { model: choice.model, prompt: choice.prompt };
  const say = (name, value) => {
    if (value !== null && value !== undefined && value !== "") fields[name] = value;
  };
  if (choice.prompt === null) delete fields.prompt;
  say("labels", choice.labels);
  say("negative_prompt", choice.negative);
  say("n", choice.n);
  say("num_inference_steps", choice.steps);
  say("deadline_ms", choice.deadline);
  say("sampler", choice.sampler);
  say("guidance_scale", choice.guidance);
  say("seed", choice.seed);
  if (choice.start) say("strength", choice.start.strength);
  fields.stream = true;
  fields.partial_images = choice.previews;
  const files = {};
  if (choice.start) files.image = choice.start.image;
  if (choice.start?.mask) files.mask = choice.start.mask;
  return { path: choice.start ? "/v1/images/edits" : "/v1/images/generations", fields, files };
}

/** The body of a request: JSON, or a form where there are files. */
export function body({ fields, files }) {
  if (!Object.keys(files).length) return JSON.stringify(fields);
  const form = new FormData();
  for (const [name, value] of formFields(fields)) form.append(name, value);
  for (const [name, blob] of Object.entries(files)) form.append(name, blob, `${name}.png`);
  return form;
}

/** Fields as a form has them: a list is named once for each of its entries. */
export function* formFields(fields) {
  for (const [name, value] of Object.entries(fields)) {
    if (Array.isArray(value)) for (const each of value) yield [`${name}[]`, String(each)];
    else yield [name, String(value)];
  }
}
