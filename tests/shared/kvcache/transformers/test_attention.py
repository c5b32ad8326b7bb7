"""Prompt attention in pieces against a dense computation: windows, and pictures that see themselves both ways."""

from __future__ import annotations

import pytest
import torch

from headmap.kvcache.transformers import attention
from headmap.kvcache.transformers.attention import LayerAttention, PromptMask, causal_attention, headmap_attention


def dense_visible(n: int, mask: PromptMask) -> torch.Tensor:
    """(n, n) bool, token by token from the definition."""
    seen = torch.zeros(n, n, dtype=torch.bool)
    for row in range(n):
        for column in range(n):
            together = any(start <= row < end and start <= column < end for start, end in mask.spans)
            near = mask.window is None or column > row - mask.window
            seen[row, column] = (column <= row or together) and near
    return seen


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("spans", [(), ((2, 9),), ((0, 4), (4, 7), (20, 31))])
@pytest.mark.parametrize(("rows", "queries"), [(7, 33), (64, 33), (7, 4)])
def test_attention_in_pieces_is_the_dense_computation(
    window: int | None,
    spans: tuple[tuple[int, int], ...],
    rows: int,
    queries: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "MASKED_ROWS", rows)
    torch.manual_seed(0)
    n, mask = 33, PromptMask(window, spans)
    q, k, v = torch.randn(1, 4, queries, 8), torch.randn(1, 2, n, 8), torch.randn(1, 2, n, 8)
    logits = (q @ k.repeat_interleave(2, 1).transpose(2, 3) * 0.3).masked_fill(
        ~dense_visible(n, mask)[n - queries :], -torch.inf
    )
    expected = (logits.softmax(-1) @ v.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(causal_attention(q, k, v, 0.3, mask), expected, atol=1e-5, rtol=1e-5)


class Layer(LayerAttention):
    window = 8

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        return queries.transpose(1, 2)


def test_a_layer_of_another_window_or_kind_of_attention_is_refused() -> None:
    layer, query = Layer(), torch.zeros(1, 1, 1, 8)
    module = torch.nn.Identity()
    assert headmap_attention(module, query, layer, layer, None, sliding_window=8)[0].shape == (1, 1, 1, 8)
    with pytest.raises(ValueError, match="a sliding window of None, but its cache has 8"):
        headmap_attention(module, query, layer, layer, None)
    with pytest.raises(ValueError, match="softcap is not served"):
        headmap_attention(module, query, layer, layer, None, sliding_window=8, softcap=50.0)
