// What the server says that it can do, in one shape for the rest of the page.
import { read } from "./api.js";

/** The models that are served, with what each takes, and the server's limits. */
export async function capabilities() {
  const [listed, able] = await Promise.all([read("/v1/models"), read("/capabilities")]);
  const about = new Map(entries(able.models).map((each) => [each.id, each]));
  return {
    models: listed.data.map(({ id }) => model({ id, ...about.get(id) }, able)),
    limits: able.limits ?? {},
  };
}

const entries = (models) =>
  Array.isArray(models) ? models : Object.entries(models ?? {}).map(([id, each]) => ({ id, ...each }));

function model(about, able) {
  const [channels, height, width] = about.image_shape ?? [3, 32, 32];
  return {
    id: about.id,
    conditions: about.reads_prompts ? "prompts" : (about.conditions ?? "unconditional"),
    classes: about.classes ?? null,
    classNames: about.class_names ?? [],
    allowed: about.labels_allowed ?? "",
    channels,
    height,
    width,
    trained: about.trained_steps ?? [],
    choices: about.step_choices ?? [],
    steps: about.default_steps ?? null,
    members: about.members ?? [],
    defaults: about.defaults ?? {},
    samplers: able.samplers ?? [],
    guidance: about.guidance ?? "",
    dtype: about.dtype ?? "",
    device: about.device ?? "",
  };
}

/** The model's shape and where it runs, for people. */
export const facts = (each) =>
  [`${each.width} × ${each.height}`, each.channels === 1 ? "gray" : null, each.dtype, each.device]
    .filter(Boolean)
    .join(" · ");

/** Which member of a family draws in so many steps: trained for it, else for the next larger number, else the last. */
export function member(each, steps) {
  const exact = each.members.filter((one) => one.steps.includes(steps));
  const larger = each.members.filter((one) => !one.steps.length || Math.max(...one.steps) >= steps);
  return exact[0] ?? larger[0] ?? each.members.at(-1) ?? null;
}
