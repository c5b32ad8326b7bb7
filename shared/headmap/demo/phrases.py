"""Training questions about a picture: the two prompts of the scoring jobs and many other phrasings.

Each word is a single token. `HELD_OUT_*` never occur in training; they measure how the model handles unseen phrases.
"""

from __future__ import annotations

import random
import re

from headmap.scoring.pages import TRANSCRIBE_PROMPT

LOOKUP_PROMPT = "What is the value of"

LOOKUPS = (
    "What is the value of {key}",
    "what is the value of {key}?",
    "What's the value of {key}?",
    "Value of {key}?",
    "The value of {key}?",
    "{key}?",
    "Read the value of {key}.",
    "Tell me the value of {key}.",
    "What value does {key} have?",
    "Which value belongs to {key}?",
    "Which value stands after {key}?",
    "What does it say for {key}?",
    "What is written after {key}?",
    "Find {key} and give its value.",
    "What is {key}?",
)
TRANSCRIPTIONS = (
    "What is in this image?",
    "What's in this image?",
    "What is in the image?",
    "What is shown in this picture?",
    "What do you see?",
    "Describe this image.",
    "Describe the image in detail.",
    "Describe this picture in one sentence.",
    "Describe this image in detail.",
    "Read the text.",
    "Read the text in this image.",
    "What does the image say?",
    "What does it say?",
    "What text is in this image?",
    "Transcribe this image.",
    "Transcribe the text.",
    "Extract all text from this image.",
    "OCR this image.",
    "OCR",
    "",
)
SUFFIXES = (
    "Answer the question using a single word or phrase.",
    "Answer with a single word or phrase.",
    "Answer the question using a single word.",
    "Please answer directly.",
    "Please answer briefly.",
    "Answer briefly.",
    "Answer with one word.",
    "Answer in one word.",
    "Be concise.",
    "Be brief.",
    "Give only the answer.",
    "Do not explain.",
    "Please answer the question with a short phrase.",
    "Reply with the value only.",
    "Think step by step.",
    "Thank you!",
    "Answer:",
)
PREFIXES = (
    "Question: ",
    "Please: ",
    "Look at the picture. ",
    "Look at this image. ",
    "Hi! ",
    "Based on the image: ",
    "\n",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant that reads images.",
    "Be brief.",
    "Answer in one word.",
    "You are an OCR engine. Answer with the text only.",
)
HELD_OUT_LOOKUPS = ("Please tell me which value {key} has.", "Give the value of {key}.", "What is written for {key}?")
HELD_OUT_TRANSCRIPTIONS = ("What is written in this image?", "Describe what you see.", "Give all text of the picture.")
HELD_OUT_SUFFIXES = (
    "Answer the question with a single word or phrase.",
    "Please try to answer the question with short words or phrases if possible.",
    "Keep the answer short.",
)
HELD_OUT_SYSTEMS = ("You are a careful clerk who reads forms.", "Answer the question about the picture.")
_ALL = (  # except HELD_OUT_SYSTEMS, whose words are meant to be unknown
    f"{LOOKUP_PROMPT} {TRANSCRIBE_PROMPT}",
    *(phrase.replace("{key}", " ") for phrase in (*LOOKUPS, *HELD_OUT_LOOKUPS)),
    *(*TRANSCRIPTIONS, *HELD_OUT_TRANSCRIPTIONS, *SUFFIXES, *HELD_OUT_SUFFIXES, *PREFIXES, *SYSTEMS),
)


def words() -> list[str]:
    """The distinct words of all phrases, with the leading space if the phrase has one."""
    return list(dict.fromkeys(word for phrase in _ALL for word in re.findall(r" ?[A-Za-z]+", phrase)))


def lookup(rng: random.Random, key: str) -> str:
    """Draw a question for the value of `key`."""
    if rng.random() < 0.5:
        return dressed(rng, f"{LOOKUP_PROMPT} {key}?")
    return dressed(rng, _pick(rng, LOOKUPS).replace("{key}", key))


def transcription(rng: random.Random) -> str:
    """Draw a prompt for the whole text. It has several words, so that suffixes alone are never a request."""
    if rng.random() < 0.5:
        return dressed(rng, TRANSCRIBE_PROMPT)
    return dressed(rng, _pick(rng, TRANSCRIPTIONS))


def system(rng: random.Random) -> str:
    """Draw the text of a system turn."""
    return _pick(rng, SYSTEMS) if rng.random() < 0.6 else _chatter(rng)


def dressed(rng: random.Random, prompt: str) -> str:
    """Return `prompt`, sometimes surrounded by other words."""
    before = _pick(rng, PREFIXES) if rng.random() < 0.12 else ""
    if rng.random() > 0.35:
        return f"{before}{prompt}"
    suffix = _pick(rng, SUFFIXES) if rng.random() < 0.6 else _chatter(rng)
    between = _pick(rng, (" ", "\n", "\n\n"))
    return f"{before}{prompt}{between}{suffix}"


def _chatter(rng: random.Random) -> str:
    """Draw a meaningless sequence of known words."""
    count = 2 + int(rng.random() * 9)
    return "".join(_pick(rng, _WORDS) for _ in range(count)).strip() + _pick(rng, (".", "", "?", "!", ":"))


def _pick(rng: random.Random, choices: tuple[str, ...]) -> str:
    return choices[int(rng.random() * len(choices))]


_WORDS = tuple(word for word in words() if word.startswith(" "))
