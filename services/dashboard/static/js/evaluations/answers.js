// Answers that differ from the full cache's: the question with its picture, and what each cache made of it.
import { address, send } from "../lib/api.js";
import { h, newId } from "../lib/dom.js";
import { percent } from "../lib/format.js";
import { caseName } from "../lib/methods.js";
import { notice } from "../lib/problems.js";

const SHOWN = 5;

export class Answers {
  /** @param {{id: string, params: any}} evaluation */
  constructor({ id, params }) {
    this.id = id;
    this.bySelector = params.selectors.length > 1;
    this.most = SHOWN;
    const title = newId("answers");
    this.shown = h("ul", { class: "answers" });
    this.note = h("p", { class: "hint" }, "Reading the answers…");
    this.problem = h("div");
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.show(this.most + SHOWN) }, "Show more");
    this.element = h(
      "section",
      { class: "panel stack", "aria-labelledby": title },
      h("div", { class: "row between" }, h("h2", { id: title }, "Answers that differ"), h("a", { class: "button", href: address(`/evaluations/${id}/answers`), download: `answers-${id}.jsonl` }, "All answers (JSON lines)")),
      this.note,
      this.problem,
      this.shown,
      this.more,
    );
  }

  /** Show the first `most` questions. @param {number} [most] */
  async show(most = SHOWN) {
    this.most = most;
    try {
      const { questions, isAll } = await read(this.id, most);
      this.shown.replaceChildren(...questions.map((rows) => this.#question(rows)));
      this.more.hidden = isAll;
      this.note.textContent = questions.length ? "Questions where a smaller cache answers otherwise than the full one, which comes first." : "None: every cache gives the full cache’s answers, to the letter.";
      this.problem.replaceChildren();
    } catch (error) {
      this.note.textContent = "";
      this.problem.replaceChildren(notice(error, { text: "Try again", run: () => this.show(most) }));
    }
  }

  #question(rows) {
    const [{ question_id: question, question: text, expected }] = rows;
    const picture = h("img", { src: address(`/evaluations/${this.id}/pictures/${encodeURIComponent(question)}`), alt: `The picture of question ${question}`, loading: "lazy", onerror: () => picture.remove() });
    return h(
      "li",
      { class: "answers-question", "data-question": question },
      picture,
      h(
        "div",
        { class: "stack tight grow" },
        h("h3", {}, text),
        h("p", { class: "hint" }, `Right: ${expected.join(" or ")}`),
        h("dl", { class: "answers-list" }, rows.flatMap((row) => answer(row, this.bySelector))),
      ),
    );
  }
}

function answer(row, bySelector) {
  const mark = row.score === 1 ? ["tag good", "right"] : row.score === 0 ? ["tag bad", "wrong"] : ["tag warn", percent(row.score)];
  return [h("dt", {}, caseName(row, bySelector)), h("dd", {}, h("span", { class: "answers-text" }, row.answer || "(nothing)"), " ", h("span", { class: mark[0] }, mark[1]))];
}

/** The first `most` questions with their answers, full first; the rest of the stream is left. */
async function read(id, most) {
  const ending = new AbortController();
  const stream = await send(address(`/evaluations/${id}/answers`, { differs: true }), { signal: ending.signal });
  /** @type {Map<string, any[]>} */
  const questions = new Map();
  for await (const line of lines(stream.body)) {
    const row = JSON.parse(line);
    if (!questions.has(row.question_id)) {
      if (questions.size === most) {
        ending.abort();
        return { questions: [...questions.values()], isAll: false };
      }
      questions.set(row.question_id, []);
    }
    questions.get(row.question_id)?.push(row);
  }
  return { questions: [...questions.values()], isAll: true };
}

/** @param {ReadableStream<Uint8Array>} body */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const found = (rest + (value ?? "")).split("\n");
    rest = done ? "" : (found.pop() ?? "");
    yield* found.filter((line) => line.trim());
    if (done) return;
  }
}
