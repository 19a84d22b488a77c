// A request as curl and as Python, to be run as it stands beside the server that the page came from.
import { formFields } from "./request.js";

const CLIENT_FIELDS = new Set(["model", "prompt", "n", "stream", "partial_images"]); // the rest is ours: extra_body

const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** What a terminal takes. The key, where there is one, is read from the environment. */
export function curl({ path, fields, files }, origin, keyed) {
  const lines = [`curl -N ${origin}${path}`];
  if (keyed) lines.push('-H "Authorization: Bearer $FEWSTEP_API_KEY"');
  if (Object.keys(files).length) {
    for (const [name, value] of formFields(fields)) lines.push(`--form-string ${shell(`${name}=${value}`)}`);
    for (const name of Object.keys(files)) lines.push(`-F ${name}=@${name}.png`);
  } else {
    lines.push("-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify(fields))}`);
  }
  return lines.join(" \\\n  ");
}

/** What Python takes, with the openai client. */
export function python({ path, fields, files }, origin, keyed) {
  const edit = path.endsWith("/edits");
  const own = Object.entries(fields).filter(([name]) => CLIENT_FIELDS.has(name));
  const extra = Object.entries(fields).filter(([name]) => !CLIENT_FIELDS.has(name));
  const given = Object.keys(files).map((name) => `    ${name}=open("${name}.png", "rb"),`);
  const lines = [
    "import base64",
    ...(keyed ? ["import os"] : []),
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${origin}/v1", api_key=${keyed ? 'os.environ["FEWSTEP_API_KEY"]' : '"none"'})`,
    `events = client.images.${edit ? "edit" : "generate"}(`,
    ...own.map(([name, value]) => `    ${name}=${literal(value)},`),
    ...(fields.prompt === undefined ? ['    prompt="*",'] : []),
    ...given,
    ...(extra.length ? [`    extra_body=${literal(Object.fromEntries(extra))},`] : []),
    ")",
    `done = (event for event in events if event.type == "image_${edit ? "edit" : "generation"}.completed")`,
    "for number, event in enumerate(done):",
    '    with open(f"image-{number}.png", "wb") as file:',
    "        file.write(base64.b64decode(event.b64_json))",
  ];
  return `${lines.join("\n")}\n`;
}

/** A value as Python writes it. */
function literal(value) {
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null) return "None";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
