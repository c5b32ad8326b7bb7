"""Long prompts in pieces: the same numbers, never all activations at once."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from headmap.families.loading import LoadedModel
from headmap.families.pieces import InPieces, bound_activations
from tests.shared.families.test_packing import hidden, prompt

TOKENS = 7


class Noting(nn.Module):
    """Doubles what it gets, and notes how many tokens that was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.seen.append(states.shape[-2])
        return torch.cat([states, states], dim=-1)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 14, 30])
def test_a_piece_has_no_more_tokens_than_its_bound(n: int) -> None:
    inner, states = Noting(), torch.randn(2, n, 3)
    output = InPieces(inner, TOKENS)(states)
    assert torch.equal(output, torch.cat([states, states], dim=-1))
    assert sum(inner.seen) == (n if 2 * n <= TOKENS else 2 * n)
    assert max(inner.seen) <= TOKENS
    assert len(inner.seen) == -(-2 * n // TOKENS)


def in_pieces(loaded: LoadedModel, tokens: int) -> LoadedModel:
    model = copy.deepcopy(loaded.model)
    for part in model.modules():
        if isinstance(part, InPieces):
            part.tokens = tokens
    return replace(loaded, model=model)


def test_a_long_prompt_is_the_same_in_pieces(family_model: LoadedModel) -> None:
    layers = family_model.family.text_model(family_model.model).layers
    assert all(isinstance(layer.mlp, InPieces) and isinstance(layer.input_layernorm, InPieces) for layer in layers)
    packed = family_model.family.pack([prompt(family_model, number, 1) for number in range(2)])
    cut = in_pieces(family_model, TOKENS)
    for pieces, whole in zip(hidden(cut, packed), hidden(family_model, packed), strict=True):
        torch.testing.assert_close(pieces, whole, atol=1e-4, rtol=1e-4)


def test_what_is_not_known_to_take_tokens_one_by_one_is_left_alone() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.weights = nn.Linear(4, 2), nn.Parameter(torch.ones(2, 4, 4))

    text = nn.Module()
    text.layers = nn.ModuleList([nn.ModuleDict({"mlp": part, "self_attn": nn.Linear(4, 4)}) for part in (
        Experts(), nn.Sequential(nn.Linear(4, 4), nn.SiLU())
    )])  # fmt: skip
    bound_activations(text, text, TOKENS)
    assert [isinstance(layer["mlp"], InPieces) for layer in text.layers] == [False, True]
    assert not any(isinstance(layer["self_attn"], InPieces) for layer in text.layers)


class Largest(TorchDispatchMode):
    """The largest tensor that anything makes, in bytes."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return made


def test_nothing_is_as_large_as_tokens_squared(family_model: LoadedModel) -> None:
    """Such as a mask, which transformers makes for attention functions that it knows."""
    text = family_model.prepare_text("a" * 2000)
    shape = family_model.cache_shape
    if shape.sliding_layers:
        pytest.skip("windows take a mask of some rows at a time")
    with Largest() as largest:
        hidden(family_model, family_model.family.pack([text]))
    assert largest.nbytes < text.prompt_tokens**2


def test_pictures_take_no_more_than_their_number_times_one(family_model: LoadedModel) -> None:
    taken = []
    for count in (1, 6):
        packed = family_model.family.pack([prompt(family_model, 4, 1)] * count)
        pictures = {key: value for key, value in packed.inputs.items() if key != "input_ids"}
        with torch.inference_mode(), Largest() as largest:
            family_model.model.model.get_image_features(**pictures)
        taken.append(largest.nbytes)
    assert taken[1] <= 6 * taken[0]
