"""Pages per minute: our profiler against the plain loop that the public one runs.

The plain loop decodes a token at a time with eager attention and `output_attentions`, one page after the other, and
looks for each row's argmax. Both follow rule `paper` on the same pages and must find the same hits.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel

from benchmarks.report import document
from headmap.families.loading import LoadedModel, load_model
from headmap.models import find_model
from headmap.scoring.alignment import match_paper
from headmap.scoring.pages import Page, make_page
from headmap.scoring.profile import score_pages, token_texts, transcription_prompt
from headmap.settings import DEMO_MODEL, Settings

SEED = 13


def run(
    *, pages: int = 16, batch: int = 8, max_new_tokens: int = 256, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    loaded = load_model(find_model(DEMO_MODEL, Settings()))
    reference = AutoModelForImageTextToText.from_pretrained(
        loaded.info.folder, dtype=loaded.model.dtype, attn_implementation="eager"
    ).eval()
    drawn = [make_page(SEED, index) for index in range(pages)]
    rows: list[dict[str, Any]] = []
    for start in range(0, pages, batch):  # in turn: one batch ours, the same pages the plain way
        part = drawn[start : start + batch]
        began = perf_counter()
        ours = list(score_pages(loaded, part, rule="paper", max_new_tokens=max_new_tokens, batch=batch))
        ours_s = perf_counter() - began
        began = perf_counter()
        plain = [plain_scores(loaded, reference, page, max_new_tokens) for page in part]
        plain_s = perf_counter() - began
        same = all(np.array_equal(a.scores, b) for a, b in zip(ours, plain, strict=True))
        rows.append(
            {
                "pages": len(part), "ours_pages_per_minute": len(part) / ours_s * 60,
                "plain_pages_per_minute": len(part) / plain_s * 60, "speedup": plain_s / ours_s,
                "same_scores": same, "hits": sum(page.hits for page in ours),
            }
        )  # fmt: skip
        progress(f"pages {start} to {start + len(part) - 1}: x{plain_s / ours_s:.1f}, same scores: {same}")
    return document("scoring", {"model": loaded.info.revision, "pages": pages, "batch": batch, "rule": "paper"}, rows)


@torch.inference_mode()
def plain_scores(loaded: LoadedModel, reference: PreTrainedModel, page: Page, max_new_tokens: int) -> np.ndarray:
    """(layers, heads): one page's scores, the plain way."""
    prompt = transcription_prompt(loaded, page)
    answer: list[int] = []
    winners = []
    output = reference.model(**prompt.inputs, position_ids=prompt.position_ids, output_attentions=True, use_cache=True)
    while len(answer) < max_new_tokens:
        winners.append([[int(row.argmax()) for row in layer[0, :, -1]] for layer in output.attentions])
        answer.append(int(reference.lm_head(output.last_hidden_state[0, -1]).argmax()))
        if answer[-1] in loaded.eos_token_ids:
            break
        output = reference.model.language_model(
            input_ids=torch.tensor([[answer[-1]]]),
            position_ids=loaded.family.decode_positions(torch.tensor([prompt.next_position + len(answer) - 1])),
            past_key_values=output.past_key_values,
            output_attentions=True,
            use_cache=True,
        )
    scores = np.zeros((loaded.info.num_layers, loaded.info.num_heads))
    words = match_paper(token_texts(loaded, answer), [word.text for word in page.words])
    for step, word in enumerate(words):
        if word < 0:
            continue
        region = set((prompt.image_starts[0] + prompt.images[0].region(page.words[word].box)).tolist())
        for layer, heads in enumerate(winners[step]):
            for head, position in enumerate(heads):
                if position in region:
                    scores[layer, head] += 1 / len(region)
    return scores
