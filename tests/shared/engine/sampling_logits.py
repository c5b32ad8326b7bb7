"""Made-up logits, and many draws from the same ones."""

from __future__ import annotations

from dataclasses import replace

import torch

from headmap.engine.sampling.params import SamplingParams
from headmap.engine.sampling.request_state import RequestState
from headmap.engine.sampling.sampler import sample


def random_logits(rows: int, vocab: int, seed: int = 0) -> torch.Tensor:
    """(rows, vocab) float32, with the spread that a model's have."""
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def draws(logits: torch.Tensor, params: SamplingParams, number: int, rows: int = 50) -> torch.Tensor:
    """(vocab,) int64: how often each token comes in `number` draws, half over seeds and half over places."""
    states = [RequestState(replace(params, seed=seed)) for seed in range(rows)]
    tokens = []
    for _ in range(number // rows):
        chosen = sample(logits.repeat(rows, 1), states).tokens
        tokens.append(chosen)
        for state, token in zip(states, chosen.tolist(), strict=True):
            state.take(token)
    return torch.cat(tokens).bincount(minlength=len(logits))
