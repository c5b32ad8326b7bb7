"""Pages read by a model, greedily, with a watch on where its heads look: most of a page in one pass.

The page's text is known, so the model is not asked for one token after the other: it runs over the prompt and the
expected answer at once, and the greedy token at each place says how far the answer really is as expected. Such rows of
attention are those of step-by-step decoding, for the model is causal. Where an answer takes another way, all pages of a
batch go on together, each on a guess that is checked in the same manner (`drafts.py`), or by one token.

Answers are the greedy ones whatever was guessed, up to rounding: two logits, or two weights of attention, that are
nearer to each other than rounding may change places, as they may between any two sizes of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.transformers.attention import with_cache
from headmap.scoring.drafts import Draft
from headmap.scoring.probe import MAX_LOGITS, Past, ProbeCache, Watched


@dataclass(frozen=True)
class Reading:
    """What a model read on a page, and where it looked.

    answer: tokens, the end token included where one came. winners: (num_layers, num_heads, len(answer)) int64, the
    position of the key that each head looked at most when it predicted a token; the prompt comes first.
    """

    answer: list[int]
    winners: npt.NDArray[np.int64]


@torch.inference_mode()
def read_pages(
    loaded: LoadedModel,
    prompts: Sequence[PreparedPrompt],
    expected: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    on_step: Callable[[], None] = lambda: None,
) -> list[Reading]:
    """Have each prompt answered, by at least one token and at most `max_new_tokens`.

    `expected`: for each prompt the tokens that the answer may well consist of; they must not hold the token that stands
    for a picture. `on_step` is called after each forward and may raise to end the work.
    """
    pages = [_Page(loaded, prompt, draft, max_new_tokens) for prompt, draft in zip(prompts, expected, strict=True)]
    for page in pages:
        page.take(_greedy(loaded, _start(loaded, page)).tolist())
        on_step()
    while running := [page for page in pages if not page.done]:
        tokens = _greedy(loaded, _go_on(loaded, running))
        for page, own in zip(running, tokens.split([page.fed.rows for page in running]), strict=True):
            page.take(own.tolist())
        on_step()
    return [Reading(page.answer, torch.cat(page.winners, dim=2).cpu().numpy()) for page in pages]


class _Page:
    """One page being read: the answer so far, and the input of the next forward.

    tokens: those after the prompt, the answer's last one and the guess; positions: where they stand.
    """

    def __init__(self, loaded: LoadedModel, prompt: PreparedPrompt, expected: Sequence[int], limit: int) -> None:
        self.prompt = prompt
        self.answer: list[int] = []
        self.winners: list[torch.Tensor] = []
        self.done = False
        self._draft, self._limit, self._ends = Draft(expected), limit, loaded.eos_token_ids
        self._next(Past())

    def _next(self, past: Past) -> None:
        self._guess = self._draft.guess(self.answer, self._limit - len(self.answer) - 1)
        self.tokens = [*self.answer[-1:], *self._guess]
        end = self.prompt.next_position + len(self.answer) + len(self._guess)
        self.positions = range(end - len(self.tokens), end)
        prompt_tokens = 0 if self.answer else self.prompt.prompt_tokens
        self.fed = Watched(
            past, tokens=prompt_tokens + len(self.tokens), rows=len(self._guess) + 1, spans=self.prompt.spans
        )

    def take(self, greedy: list[int]) -> None:
        """Extend the answer by the greedy tokens at the watched rows, as long as the input agrees with them."""
        pairs = enumerate(zip(self._guess, greedy, strict=False))
        right = next((index for index, (guessed, token) in pairs if guessed != token), len(self._guess))
        new = greedy[: right + 1]
        new = new[: next((index for index, token in enumerate(new, start=1) if token in self._ends), len(new))]
        self.answer.extend(new)
        self.winners.append(torch.stack(self.fed.winners)[:, :, : len(new)])
        self._draft.learn(len(self._guess), right)
        self.done = new[-1] in self._ends or len(self.answer) >= self._limit
        past = self.fed.past
        if self.done:
            past.clear()
        else:
            past.length = self.prompt.prompt_tokens + len(self.answer) - 1
            self._next(past)


def _start(loaded: LoadedModel, page: _Page) -> torch.Tensor:
    """Run the whole model on a prompt and the first guess. Returns the watched rows, (rows, hidden)."""
    device, dtype, prompt = loaded.device, loaded.model.dtype, page.prompt
    inputs = {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in prompt.inputs.items()
    }
    guess = torch.tensor([page.tokens], dtype=torch.int64, device=device)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], guess], dim=1)
    positions = torch.tensor(page.positions, dtype=torch.int64).expand(*prompt.position_ids.shape[:-1], -1)
    output = loaded.model.model(
        **inputs,
        position_ids=torch.cat([prompt.position_ids, positions], dim=-1).to(device),
        use_cache=True,
        **with_cache(loaded.model.model, ProbeCache([page.fed], loaded.cache_shape)),
    )
    return output.last_hidden_state[0, -page.fed.rows :]


def _go_on(loaded: LoadedModel, pages: Sequence[_Page]) -> torch.Tensor:
    """Run the text model on each page's last token and guess. Returns (rows of all, hidden)."""
    family, device = loaded.family, loaded.device
    text_model = family.text_model(loaded.model)
    positions = torch.tensor([place for page in pages for place in page.positions], device=device)
    output = text_model(
        input_ids=torch.tensor([[token for page in pages for token in page.tokens]], device=device),
        position_ids=family.decode_positions(positions).transpose(-1, -2),
        use_cache=True,
        **with_cache(text_model, ProbeCache([page.fed for page in pages], loaded.cache_shape)),
    )
    return output.last_hidden_state[0]


def _greedy(loaded: LoadedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The most likely token after each row of `hidden`, (rows, hidden): (rows,); logits a few rows at a time."""
    head = loaded.model.lm_head
    parts = hidden.split(max(1, MAX_LOGITS // head.out_features))
    return torch.cat([head(part).argmax(-1) for part in parts]).cpu()
