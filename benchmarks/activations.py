"""Peak memory of a long prompt, its MLPs and norms whole and in pieces: `python -m benchmarks.activations`.

Each case is a process of its own, since a peak does not go down. Attention returns its queries, so that everything else
is measured; few layers suffice, since their activations do not add up.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass, replace

import torch
from transformers import AttentionInterface

from benchmarks import shapes
from headmap.families.pieces import MAX_TOKENS, bound_activations
from headmap.kvcache.transformers.attention import ATTENTION, LayerAttention, headmap_attention, with_cache

SHAPES = {"gqa": shapes.GQA, "vicuna": shapes.VICUNA}
LAYERS = 2
WHOLE = 1 << 30


class _NoAttention(LayerAttention):
    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        return queries.transpose(1, 2)


@dataclass(frozen=True)
class _NoCache:
    layer: LayerAttention

    def update(self, *_: object, **__: object) -> tuple[LayerAttention, LayerAttention]:
        return self.layer, self.layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


def measure(name: str, tokens: int, piece: int) -> int:
    """Bytes that a prompt of `tokens` takes at its peak above the weights, float32, in this process."""
    AttentionInterface.register(ATTENTION, headmap_attention)
    model = shapes.build(replace(SHAPES[name], num_layers=LAYERS), attention=ATTENTION).model
    bound_activations(model, model, piece)
    with torch.inference_mode():
        _forward(model, 64)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _forward(model, tokens)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10


def _forward(model: torch.nn.Module, tokens: int) -> None:
    ids = torch.zeros((1, tokens), dtype=torch.int64)
    model(
        input_ids=ids,
        position_ids=torch.arange(tokens)[None],
        use_cache=True,
        **with_cache(model, _NoCache(_NoAttention())),
    )


def main(name: str = "gqa", tokens: str = "16384", piece: str = "") -> None:
    """Without `piece` both cases, each in a process."""
    if piece:
        row = {
            "shape": name,
            "tokens": int(tokens),
            "piece": int(piece),
            "bytes": measure(name, int(tokens), int(piece)),
        }
        print(json.dumps(row))
        return
    for size in (WHOLE, MAX_TOKENS):
        subprocess.run([sys.executable, "-m", "benchmarks.activations", name, tokens, str(size)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
