"""Score heads by text retrieval: SparseMM's rule (section 3.1) on a page's text instead of its picture.

Retrieval heads copy an asked part of a long text to the answer (Wu et al., arXiv 2404.15574, section 2). Here the long
text is the page's, written into the prompt, and each of the page's questions asks for a part of it. A page without
questions is asked for as a whole.

The true answer is forced, so a model that cannot answer is scored too: a score says where heads look before the
answer's next token, not that the model would have written it. Wu et al. count a head only where it looks at the very
token that the model writes. Here a hit is anywhere in the word, as on a picture, so that both kinds of maps compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.scoring.alignment import RULES, match_aligned
from headmap.scoring.answers import text_tokens, token_texts
from headmap.scoring.page import Page
from headmap.scoring.reading import replay
from headmap.scoring.visual_heads import PageScores, page_hits, page_scores

COPY_PROMPT = "Repeat this text."


def score_texts(
    loaded: LoadedModel,
    group: Sequence[tuple[int, Page]],
    on_step: Callable[[], None],
    *,
    rule: str,
    max_new_tokens: int,
) -> list[PageScores]:
    """Score numbered pages. A page's score is the sum over its questions.

    `max_new_tokens` cuts each answer. `on_step` is called after each forward pass and may raise to end the work.
    """
    return [_score(loaded, page, on_step, rule, max_new_tokens) for _, page in group]


def lookup_prompt(loaded: LoadedModel, page: Page, question: str) -> PreparedPrompt:
    """The page's text, line by line, then the question; no picture."""
    content = [{"type": "text", "text": f"{page.text}\n\n{question}"}]
    return loaded.prepare([{"role": "user", "content": content}], [])


def word_regions(loaded: LoadedModel, prompt: PreparedPrompt, words: Sequence[str]) -> list[npt.NDArray[np.int64]]:
    """For each word, the positions of the prompt's tokens that hold it, (tokens,) int64. Positions may be none."""
    texts = token_texts(loaded, prompt.inputs["input_ids"][0].tolist())
    owners = np.array(match_aligned(texts, words))
    return [np.flatnonzero(owners == word) for word in range(len(words))]


def _score(loaded: LoadedModel, page: Page, on_step: Callable[[], None], rule: str, max_new_tokens: int) -> PageScores:
    words = [word.text for word in page.words]
    scores = np.zeros((loaded.info.num_layers, loaded.info.num_heads))
    seen = matched = hits = 0
    for question, answer in [(one.question, one.answer) for one in page.questions] or [(COPY_PROMPT, page.text)]:
        tokens = text_tokens(loaded, answer)[:max_new_tokens]
        if not tokens:
            continue
        prompt = lookup_prompt(loaded, page, question)
        reading = replay(loaded, prompt, tokens)
        places = word_regions(loaded, prompt, words)
        read = RULES[rule](token_texts(loaded, tokens), words)
        picked = [index for index, word in enumerate(read) if word >= 0 and len(places[word])]
        regions = [places[read[index]] for index in picked]
        found = page_hits(reading.winners[:, :, picked], regions)
        scores += page_scores(found, regions)
        seen, matched, hits = seen + len(tokens), matched + len(picked), hits + int(found.sum())
        on_step()
    return PageScores(scores, seen, matched, hits)
