"""The bundled model in the shape of one of half a billion parameters: it reads as the bundled one does.

Its weights lie in a corner of larger matrices, and the added parts (layers, heads, hidden units, vocabulary) cannot
reach the output. So it costs as much as any model of that shape, and its answers can be checked. Added heads have
random queries and keys: they look somewhere too.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from transformers import PretrainedConfig, PreTrainedModel

from headmap.families.loading import LoadedModel, wrap_model

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, INTERMEDIATE, VOCABULARY = 896, 14, 7, 64, 24, 4864, 151_936


@torch.no_grad()
def widened(small: LoadedModel) -> LoadedModel:
    """A model of 24 layers, hidden 896, 14 query and 7 KV heads of 64 dimensions: 0.5 B parameters, float32."""
    torch.manual_seed(0)
    model = type(small.model)(_config(small.model)).eval()
    source = {name.replace(".inner.", "."): parameter for name, parameter in small.model.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in source and source[name].shape == parameter.shape:
            parameter.copy_(source[name])  # the vision tower
        else:
            _fill(name, parameter, source.get(name), small.model.config.text_config)
    info = replace(small.info, name="widened", num_layers=LAYERS, num_heads=HEADS, num_kv_heads=KV_HEADS)
    return wrap_model(info, model, small.tokenizer, small.image_processor)


def _config(model: PreTrainedModel) -> PretrainedConfig:
    config = copy.deepcopy(model.config)
    text = config.text_config
    small_hidden = text.hidden_size
    text.hidden_size, text.intermediate_size, text.vocab_size = HIDDEN, INTERMEDIATE, VOCABULARY
    text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads = LAYERS, HEADS, KV_HEADS
    text.layer_types = text.layer_types[:1] * LAYERS
    text.max_window_layers = LAYERS
    text.rms_norm_eps *= small_hidden / HIDDEN  # the mean square falls by the same factor
    # Twice as many frequencies: the small model's are every other one, in the same order of axes.
    text.rope_parameters["mrope_section"] = [2 * size for size in text.rope_parameters["mrope_section"]]
    config.vision_config.hidden_size = HIDDEN
    return config


def _fill(name: str, wide: torch.Tensor, narrow: torch.Tensor | None, text: PretrainedConfig) -> None:
    """Put a parameter of the small model into its corner; `narrow` is None in added layers. `text`: the small one's."""
    if name.endswith("norm.weight"):
        if narrow is not None:
            wide.zero_()[: len(narrow)] = narrow * math.sqrt(len(narrow) / HIDDEN)
        return
    kind = name.split(".")[-2]
    if kind not in ("q_proj", "k_proj"):
        wide.zero_()  # no added part reaches the output
    if narrow is None:
        return
    per_head = text.hidden_size // text.num_attention_heads
    rows, columns = (_corner(size) for size in (narrow.shape + narrow.shape)[:2])
    if kind in ("q_proj", "k_proj", "v_proj"):
        rows = _head_corner(narrow.shape[0], per_head)
    if kind == "o_proj":
        columns = _head_corner(narrow.shape[1], per_head)
    if kind == "q_proj":
        narrow = narrow * math.sqrt(HEAD_DIM / per_head)  # logits are divided by the root of the head dimension
    wide[rows] = 0
    if narrow.ndim == 1:
        wide[rows] = narrow
    else:
        wide[rows[:, None], columns] = narrow


def _corner(size: int) -> torch.Tensor:
    return torch.arange(size)


def _head_corner(size: int, per_head: int) -> torch.Tensor:
    """Where heads of `per_head` dimensions lie in heads of HEAD_DIM: at every other frequency of each rotated half."""
    half, step = per_head // 2, HEAD_DIM // per_head
    head, place = torch.arange(size) // per_head, torch.arange(size) % per_head
    return head * HEAD_DIM + place // half * (HEAD_DIM // 2) + place % half * step
