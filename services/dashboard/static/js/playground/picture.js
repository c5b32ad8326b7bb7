// The picture that is asked about: uploaded, pasted, dropped, or a sample page whose answers are known.
import { byId, h } from "../lib/dom.js";
import { readPicture, sample } from "../lib/pictures.js";
import { Problem, notice } from "../lib/problems.js";

const SAMPLES = 100;
// what browsers show; the server also reads TIFF
const KINDS = "PNG, JPEG, WebP, GIF or BMP";

export class Picture {
  /** @param {{onChange: () => void, onQuestion: (text: string) => void}} calls */
  constructor({ onChange, onQuestion }) {
    this.onChange = onChange;
    this.onQuestion = onQuestion;
    /** @type {import("../lib/pictures.js").Shown | null} */
    this.current = null;
    this.questions = [];
    this.next = 0;
    this.#listen();
  }

  /** The answer that is known to `question`, or null. @param {string} question */
  answerTo(question) {
    return this.questions.find((one) => one.question === question.trim())?.answer ?? null;
  }

  /** Say that one is needed, where there is none; returns whether there is. */
  check() {
    if (!this.current) byId("picture-problem").replaceChildren(notice(new Problem({ code: "no_image", detail: "nothing to ask about" })));
    return Boolean(this.current);
  }

  #listen() {
    const file = byId("file");
    const drop = byId("drop");
    byId("upload").addEventListener("click", () => file.click());
    byId("sample").addEventListener("click", () => this.#guard(() => this.#takeSample()));
    byId("remove-picture").addEventListener("click", () => this.#show(null, []));
    file.addEventListener("change", () => {
      const [first] = file.files;
      file.value = "";
      if (first) this.#guard(() => this.#takeFile(first));
    });
    document.addEventListener("paste", (event) => {
      const first = [...(event.clipboardData?.files ?? [])][0];
      if (first) this.#guard(() => this.#takeFile(first));
    });
    for (const kind of ["dragenter", "dragover"]) {
      drop.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      const first = event.dataTransfer?.files[0];
      if (first) this.#guard(() => this.#takeFile(first));
    });
  }

  async #guard(work) {
    const place = byId("picture-problem");
    place.replaceChildren();
    try {
      await work();
    } catch (error) {
      place.replaceChildren(notice(error));
    }
  }

  async #takeFile(file) {
    this.#show(await readPicture(file, file.name || "pasted picture"), []);
  }

  async #takeSample() {
    const index = this.next;
    this.next = (index + 1) % SAMPLES;
    const { picture, questions } = await sample(index);
    this.#show(picture, questions);
    if (questions.length) this.onQuestion(questions[0].question);
  }

  /** @param {import("../lib/pictures.js").Shown | null} shown @param {{question: string, answer: string}[]} questions */
  #show(shown, questions) {
    this.current = shown;
    byId("picture-problem").replaceChildren();
    this.questions = questions;
    const image = byId("picture");
    image.hidden = !shown;
    byId("drop-empty").hidden = Boolean(shown);
    byId("remove-picture").hidden = !shown;
    byId("picture-name").textContent = shown ? `${shown.name}, ${shown.width} × ${shown.height}` : KINDS;
    if (shown) {
      image.src = shown.url;
      image.alt = `The picture to ask about: ${shown.name}`;
    }
    const chips = byId("questions");
    chips.hidden = !questions.length;
    chips.replaceChildren(...questions.slice(0, 4).map(({ question }) => chip(question, () => this.onQuestion(question))));
    this.onChange();
  }
}

function chip(question, onclick) {
  return h("button", { type: "button", class: "chip", onclick }, question);
}
