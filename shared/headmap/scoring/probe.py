"""One pass over prompt and answer that notes where every head looked, and nothing else.

Replay gives the attention of step-by-step decoding at a fraction of its cost: the model is causal, so the row of the
token before an answer token is the row that predicted it. Of each row only the argmax is kept; rows are taken a few at
a time, so nothing of the size heads x n x n ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.kvcache.attention import CAUSAL, LayerAttention, PromptMask, causal_attention
from headmap.kvcache.plan import CacheShape

MAX_LOGITS = 1 << 24
"""Attention logits held at a time: 64 MiB in float32."""


@dataclass(frozen=True)
class ProbeCache:
    """`past_key_values` of a replay. rows: (r,) int64, the query positions to look at; spans as in PreparedPrompt."""

    rows: torch.Tensor
    shape: CacheShape
    spans: tuple[tuple[int, int], ...] = ()
    winners: list[torch.Tensor] = field(default_factory=list)
    """By layer: (num_heads, r) int64, the key position with the highest attention."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        layer = _ProbeLayer(self, keys, values, self.shape.window_of(layer_idx))
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


@dataclass(frozen=True)
class _ProbeLayer(LayerAttention):
    probe: ProbeCache
    keys: torch.Tensor
    values: torch.Tensor
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        mask = PromptMask(self.window, self.probe.spans)
        self.probe.winners.append(argmax_keys(queries[0], self.keys[0], self.probe.rows, mask))
        return causal_attention(queries, self.keys, self.values, scaling, mask)


def argmax_keys(
    queries: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, mask: PromptMask = CAUSAL
) -> torch.Tensor:
    """For each query head and row the key with the highest attention among those that the row sees.

    `queries`: (num_heads, n, d); `keys`: (num_kv_heads, n, d); `rows`: (r,). Returns (num_heads, r) int64. Softmax
    keeps the order, so logits decide.
    """
    num_heads, n, _ = queries.shape
    num_kv_heads = len(keys)
    transposed = keys.float().transpose(1, 2)
    columns = torch.arange(n, device=keys.device)
    found = []
    for part in rows.split(max(1, MAX_LOGITS // (num_heads * n))):
        grouped = queries[:, part].float().reshape(num_kv_heads, -1, queries.shape[-1])
        logits = torch.bmm(grouped, transposed).view(num_heads, len(part), n)
        found.append(logits.masked_fill_(~mask.visible(part, columns), -torch.inf).argmax(-1))
    return torch.cat(found, dim=1) if found else rows.new_zeros((num_heads, 0))


@torch.inference_mode()
def replay(
    loaded: LoadedModel, prompt: PreparedPrompt, answer: Sequence[int], picked: Sequence[int]
) -> npt.NDArray[np.int64]:
    """Where each head looked when it predicted the answer's tokens `picked` (indices into `answer`).

    Returns prompt positions, (num_layers, num_heads, len(picked)) int64.
    """
    device, dtype = loaded.device, loaded.model.dtype
    fed = torch.tensor([list(answer[:-1])], dtype=torch.int64)
    positions = torch.arange(prompt.next_position, prompt.next_position + fed.shape[1])
    rows = torch.tensor(picked, dtype=torch.int64, device=device) + prompt.prompt_tokens - 1
    probe = ProbeCache(rows, loaded.cache_shape, prompt.spans)
    inputs = {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device)
        for key, value in prompt.inputs.items()
    }
    inputs["input_ids"] = torch.cat([inputs["input_ids"], fed.to(device)], dim=1)
    loaded.model.model(
        **inputs,
        position_ids=torch.cat([prompt.position_ids, positions.expand(*prompt.position_ids.shape[:-1], -1)], dim=-1).to(
            device
        ),
        past_key_values=probe,
        use_cache=True,
    )
    return torch.stack(probe.winners).cpu().numpy()
