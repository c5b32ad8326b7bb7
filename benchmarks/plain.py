"""The plain loop, as the public profiler of SparseMM works: what ours is compared with.

One page at a time, eager attention with `output_attentions`, a token a step, and for each token that belongs to one
word the argmax of every head's row, head by head. Unlike the public loop it keeps the context, and follows SparseMM
section 3.1 as rule `paper` does.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import DynamicCache

from headmap.engine.detokenizer import TextStream
from headmap.families.loading import LoadedModel
from headmap.kvcache.transformers.attention import with_cache
from headmap.scoring.alignment import match_paper
from headmap.scoring.pages import Page
from headmap.scoring.profile import transcription_prompt


@torch.inference_mode()
def plain_page(loaded: LoadedModel, page: Page, max_new_tokens: int) -> tuple[np.ndarray, list[int]]:
    """One page's scores, (layers, heads), and its answer; the model must be set to eager attention."""
    model, prompt = loaded.model, transcription_prompt(loaded, page)
    words, text = [word.text for word in page.words], TextStream(loaded.tokenizer)
    scores = np.zeros((loaded.info.num_layers, loaded.info.num_heads))
    answer: list[int] = []
    held = with_cache(model, DynamicCache(config=model.config.get_text_config()))
    output = model(**prompt.inputs, position_ids=prompt.position_ids, output_attentions=True, use_cache=True, **held)
    while True:
        answer.append(int(output.logits[0, -1].argmax()))
        (word,) = match_paper([text.push(answer[-1])], words)
        if word >= 0:
            region = set((prompt.image_starts[0] + prompt.images[0].region(page.words[word].box)).tolist())
            for layer, attention in enumerate(output.attentions):
                for head in range(attention.shape[1]):
                    if int(attention[0, head, -1].topk(1).indices) in region:
                        scores[layer, head] += 1 / len(region)
        if answer[-1] in loaded.eos_token_ids or len(answer) >= max_new_tokens:
            return scores, answer
        output = model(
            input_ids=torch.tensor([[answer[-1]]]),
            position_ids=loaded.family.decode_positions(torch.tensor([prompt.next_position + len(answer) - 1])),
            output_attentions=True,
            use_cache=True,
            **held,
        )
