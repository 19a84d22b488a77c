// Server-sent events read from the body of a POST, which EventSource cannot send.

/** The events of a byte stream, as {name, data}; comments are passed over. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text = (text + value).replaceAll("\r\n", "\n");
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (event.data !== "") yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => null);
  }
}

function parse(block) {
  const event = { name: "message", data: "" };
  const lines = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const [field, value] = colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
    if (field === "event") event.name = value;
    else if (field === "data") lines.push(value);
  }
  event.data = lines.join("\n");
  return event;
}
