"""Models of random weights by shape. Imports nothing of headmap: peers build the same in environments of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedModel, Qwen2Config

SEED = 0
VOCABULARY = 32_000


@dataclass(frozen=True)
class Shape:
    """A text model's shape; `llama` for Llama's layers instead of Qwen2's, with a head of its own."""

    name: str
    num_heads: int
    num_kv_heads: int
    num_layers: int
    intermediate: int
    head_dim: int = 64
    llama: bool = False


GQA = Shape("GQA, 14 query and 2 KV heads", 14, 2, 24, 4864)
MHA = Shape("MHA, 16 heads", 16, 16, 24, 4096)
VICUNA = Shape("LLaVA-Vicuna 7 B, 32 heads", 32, 32, 32, 11_008, head_dim=128, llama=True)
TINY = Shape("tiny, 4 query and 2 KV heads", 4, 2, 2, 64, head_dim=16)


def build(
    shape: Shape, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", attention: str = "sdpa"
) -> PreTrainedModel:
    """Random weights of the given shape, from one seed; a small vocabulary, since the head is the same for all."""
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(_config(shape), dtype=dtype, attn_implementation=attention)
    return model.eval()


@torch.inference_mode()
def weights_sum(model: PreTrainedModel) -> float:
    """A checksum: the same where two processes made the same weights."""
    return float(sum(parameter.double().abs().sum() for parameter in model.parameters()))


def _config(shape: Shape) -> PretrainedConfig:
    kind = LlamaConfig if shape.llama else Qwen2Config
    return kind(
        hidden_size=shape.head_dim * shape.num_heads,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=65_536,
        tie_word_embeddings=not shape.llama,
    )
