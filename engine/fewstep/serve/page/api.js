// What the page asks of the server, and what went wrong in its words.
import { events } from "./sse.js";

const KEY = "fewstep-api-key"; // in sessionStorage only: it goes when the tab does

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer that was not the one hoped for. `status` is 0 where there was none. */
export class ApiError extends Error {
  constructor(message, { status = 0, param = null, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code, retryAfter });
  }
}

/** The error in an envelope `{error: {message, param, code}}`. */
export function fromEnvelope(body, status, retryAfter = null) {
  const error = body?.error ?? {};
  const message = error.message ?? (typeof body?.detail === "string" ? body.detail : `The server answered ${status}.`);
  return new ApiError(message, { status, param: error.param ?? null, code: error.code ?? null, retryAfter });
}

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, credentials: "same-origin", cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. It may be restarting.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const after = Number.parseFloat(answer.headers.get("Retry-After"));
  throw fromEnvelope(body, answer.status, Number.isNaN(after) ? null : after);
}

/** GET as JSON. */
export const read = async (path, options) => (await ask(path, options)).json();

/** POST one request and hand each event of its answer to `told`; an answer that does not stream is told as a whole. */
export async function stream(path, body, id, signal, told) {
  const headers = { "X-Request-ID": id, Accept: "text/event-stream" };
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  const answer = await ask(path, { method: "POST", body, headers, signal });
  if (!answer.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    told("whole", await answer.json());
    return;
  }
  try {
    for await (const { name, data } of events(answer.body)) {
      if (data === "[DONE]") return;
      const said = JSON.parse(data);
      if (name === "error" || said.error) throw fromEnvelope(said, said.status ?? 500, said.retry_after ?? null);
      told(said.type ?? name, said);
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke before the images were done.");
  }
}
