"""Measure how well the model of a folder reads pages that were not in its training.

    python -m headmap.demo.evaluate [--model FOLDER] [--pages 60] [--seed 9000] [--out FILE.json]

Every prompt uses the chat template and the processor, one page at a time, with greedy decoding. The two prompts of the
scoring jobs come first, then phrasings that training never saw. Intervals are 95 %: Wilson intervals for shares, and a
bootstrap over pages for characters.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from rich.progress import track
from transformers import AutoModelForImageTextToText, AutoProcessor

from headmap.demo import phrases
from headmap.scoring.pages import TRANSCRIBE_PROMPT, Page, Question, make_page

MODEL_FOLDER = Path(__file__).parent / "model"
HELD_OUT_SEED = 9000
LOOKUP_TOKENS = 16
"""The maximum number of tokens in a value. Actual values are much shorter."""


@dataclass(frozen=True)
class Answer:
    """The model's answer, and whether the model stopped by itself."""

    text: str
    stopped: bool


@dataclass(frozen=True)
class Transcript:
    """A generated transcription compared with the true text."""

    edits: int
    length: int
    """Characters of the true text."""
    ended_right: bool
    """The model stopped by itself right after the last line, with as many lines as the page has."""


@torch.inference_mode()
def ask(
    model: Any,
    processor: Any,
    image: Image.Image,
    prompt: str,
    max_new_tokens: int = 320,
    *,
    system: str | None = None,
    text_first: bool = False,
) -> Answer:
    """Ask one question about one picture, decoded greedily. Options: a system turn, or the text before the picture."""
    parts: list[dict[str, str]] = [{"type": "image"}, {"type": "text", "text": prompt}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts[::-1] if text_first else parts}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[image], return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :].tolist()
    end = processor.tokenizer.eos_token_id
    return Answer(processor.tokenizer.decode([t for t in new if t != end]), end in new)


def transcribe(model: Any, processor: Any, page: Page, prompt: str = TRANSCRIBE_PROMPT) -> Transcript:
    """Let the model transcribe a page and compare the text with the true text."""
    answer = ask(model, processor, page.image, prompt)
    true_lines, lines = page.text.split("\n"), answer.text.split("\n")
    ended_right = answer.stopped and len(lines) == len(true_lines) and lines[-1] == true_lines[-1]
    return Transcript(edit_distance(answer.text, page.text), len(page.text), ended_right)


def edit_distance(a: str, b: str) -> int:
    """The minimum number of insertions, deletions and replacements between two texts (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def evaluate(model: Any, processor: Any, pages: Iterable[Page]) -> dict[str, Any]:
    """Measure a model's two plain prompts on some pages. Returns a JSON-ready object."""
    right: list[bool] = []
    transcripts: list[Transcript] = []
    for page in pages:
        for question in page.questions:
            right.append(_is_right(ask(model, processor, page.image, question.question, LOOKUP_TOKENS), question))
        transcripts.append(transcribe(model, processor, page))
    return {
        "pages": len(transcripts),
        "lookup_exact": _share(right),
        "transcription_characters": _characters(transcripts),
        "transcription_exact": _share([t.edits == 0 for t in transcripts]),
        "transcription_ends_right": _share([t.ended_right for t in transcripts]),
    }


def evaluate_phrasings(model: Any, processor: Any, pages: Iterable[Page]) -> dict[str, Any]:
    """Measure phrasings that training never saw. Returns a JSON-ready object.

    Each page has one question before its picture, one after a system turn, two with a suffix, two paraphrased questions
    and a paraphrased transcription.
    """
    right: dict[str, list[bool]] = {"text_first": [], "system_turn": [], "held_out_suffix": [], "held_out_lookup": []}
    transcripts: list[Transcript] = []

    def check(kind: str, page: Page, question: Question, prompt: str, **how: Any) -> None:
        right[kind].append(_is_right(ask(model, processor, page.image, prompt, LOOKUP_TOKENS, **how), question))

    for number, page in enumerate(pages):
        turns = itertools.cycle(page.questions)
        first, second = next(turns), next(turns)
        check("text_first", page, first, first.question, text_first=True)
        check("system_turn", page, second, second.question, system=_one_of(phrases.HELD_OUT_SYSTEMS, number))
        for turn in (2 * number, 2 * number + 1):
            asked = next(turns)
            check("held_out_suffix", page, asked, f"{asked.question}\n{_one_of(phrases.HELD_OUT_SUFFIXES, turn)}")
            key = asked.question.removeprefix(phrases.LOOKUP_PROMPT).strip(" ?")
            check("held_out_lookup", page, asked, _one_of(phrases.HELD_OUT_LOOKUPS, turn).format(key=key))
        prompt = _one_of(phrases.HELD_OUT_TRANSCRIPTIONS, number)
        transcripts.append(transcribe(model, processor, page, prompt))
    return {
        **{f"{kind}_exact": _share(answers) for kind, answers in right.items()},
        "held_out_transcription_characters": _characters(transcripts),
    }


def _one_of(texts: tuple[str, ...], number: int) -> str:
    return texts[number % len(texts)]


def _is_right(answer: Answer, question: Question) -> bool:
    return answer.stopped and answer.text == question.answer


def _share(values: list[bool]) -> dict[str, Any]:
    """A share with its 95 % Wilson interval."""
    n, z = len(values), 1.96
    if n == 0:
        raise ValueError("nothing to evaluate: no pages or no questions")
    p = sum(values) / n
    centre, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return {
        "value": round(p, 4),
        "interval": [round((centre - half) / scale, 4), round((centre + half) / scale, 4)],
        "n": n,
    }


def _characters(transcripts: list[Transcript], draws: int = 2000) -> dict[str, Any]:
    """Character accuracy, 1 - edits / length over all pages, with a 95 % bootstrap interval over pages."""

    def accuracy(some: list[Transcript]) -> float:
        return 1 - sum(t.edits for t in some) / sum(t.length for t in some)

    rng = random.Random(0)
    drawn = sorted(accuracy(rng.choices(transcripts, k=len(transcripts))) for _ in range(draws))
    interval = [round(drawn[int(draws * 0.025)], 4), round(drawn[int(draws * 0.975)], 4)]
    return {"value": round(accuracy(transcripts), 4), "interval": interval, "n": sum(t.length for t in transcripts)}


def load(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load the model and processor of a folder with transformers' Auto classes."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
    return model.to(device).eval(), AutoProcessor.from_pretrained(folder)


def main(
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = MODEL_FOLDER,
    pages: Annotated[int, typer.Option(min=1, help="How many held-out pages; four questions each.")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of the pages.")] = HELD_OUT_SEED,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Print the results of a model as JSON."""
    if dtype not in ("float32", "bfloat16"):
        raise typer.BadParameter("must be float32 or bfloat16", param_hint="--dtype")
    loaded, processor = load(model, "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, dtype))

    def drawn(what: str) -> Iterable[Page]:
        return (make_page(seed, index) for index in track(range(pages), description=what))

    figures = {
        "seed": seed,
        "dtype": dtype,
        **evaluate(loaded, processor, drawn("plain prompts")),
        **evaluate_phrasings(loaded, processor, drawn("other phrasings")),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
