"""Have a model read pages greedily and record where its heads look. One pass covers most of a page.

The page's text is known, so the model need not generate one token at a time. It runs once over the prompt and the
expected answer. The greedy token at each place shows how far the answer matches the expected one. The model is causal,
so these attention rows equal the rows of step-by-step decoding. If an answer differs, all pages of a batch continue
together. Each continues with a guess that is checked in the same way (`drafts.py`), or with one token.

Guesses do not change the greedy answers, except by rounding. Two logits or two attention weights may swap if their
difference is smaller than the rounding error. The same can happen between two batch sizes.
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
    """A model's answer to a page, and where its heads looked.

    answer: tokens, including the end token if the model wrote one. winners: (num_layers, num_heads, len(answer)) int64,
    the position of the key with each head's highest attention when the model predicted a token. Positions start at the
    prompt.
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
    """Answer each prompt with at least one token and at most `max_new_tokens` tokens.

    `expected`: the likely tokens of each prompt's answer, which must not include the picture token. `on_step` is called
    after each forward pass and may raise to end the work.
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


@torch.inference_mode()
def replay(loaded: LoadedModel, prompt: PreparedPrompt, answer: Sequence[int]) -> Reading:
    """Force `answer`, at least one token, whatever the model would write. Takes one forward pass."""
    page = _Page(loaded, prompt, answer, len(answer))
    _start(loaded, page)
    return Reading(list(answer), torch.stack(page.fed.winners).cpu().numpy())


class _Page:
    """One page being read: the answer so far, and the input of the next forward.

    tokens: the input after the prompt, which is the answer's last token and the guess. positions: their positions.
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
        """Extend the answer by the greedy tokens of the watched rows, while the input agrees with them."""
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
    """The most likely next token, (rows,), for `hidden`, (rows, hidden). Logits are computed a few rows at a time."""
    head = loaded.model.lm_head
    parts = hidden.split(max(1, MAX_LOGITS // head.out_features))
    return torch.cat([head(part).argmax(-1) for part in parts]).cpu()
