// POST /generate as a stream of tokens.
import { send } from "./api.js";
import { Problem, lost } from "./problems.js";

/**
 * Ask, and call `onToken(text)` for each token; resolves with the last event, which has `generated_text` and `details`.
 * Throws Problem; a stream that ends without an answer is one too.
 * @param {object} body @param {AbortSignal} signal @param {(text: string) => void} onToken
 */
export async function generate(body, signal, onToken) {
  const answer = await send("/dashboard/api/generate", { method: "POST", body: { ...body, stream: true }, signal });
  for await (const { event, data } of events(answer.body, signal)) {
    const document = parsed(data);
    if (event === "error") throw new Problem(document ?? { code: "connection_lost", detail: "the stream broke off" });
    if (document?.token?.text) onToken(document.token.text);
    if (document?.details) return document;
  }
  throw lost();
}

/** Server-sent events of a body. @param {ReadableStream<Uint8Array>} body @param {AbortSignal} signal */
async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { event: "message", data: [] };
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw signal.aborted ? error : lost();
    });
    if (done) return;
    const lines = (rest + value).split(/\r\n|\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { event: event.event, data: event.data.join("\n") };
        event = { event: "message", data: [] };
      } else if (line.startsWith("data:")) event.data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("event:")) event.event = line.slice(6).trim();
    }
  }
}

/** The data of an event, or null where a connection broke in the middle of it. */
function parsed(data) {
  try {
    return JSON.parse(data);
  } catch {
    return null;
  }
}
