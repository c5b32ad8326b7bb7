"""The forward pass of training and its losses, with the modules of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2VLForConditionalGeneration

from headmap.demo.batches import BLANK, CELL_CLASSES, IGNORE, NEWLINE, PAGE_START, Batch

ATTENTION = "headmap_demo_training"


class FrameEmbed(nn.Module):
    """The patch embedding as one matrix product.

    Kernel and stride are equal, so the convolution is a linear map. Both frames of a still picture are equal, so their
    weights can be added first. This module owns the convolution, so parameters keep their names.
    """

    def __init__(self, proj: nn.Conv3d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, patches: Tensor) -> Tensor:  # [N, 3 * CELL * CELL] -> [N, embed_dim]
        return F.linear(patches, self.proj.weight.sum(dim=2).flatten(1))


def prepare(model: Qwen2VLForConditionalGeneration) -> None:
    """Give the model the attention and patch embedding for training. Weights and their names do not change."""
    AttentionInterface.register(ATTENTION, picture_then_turns)
    model.set_attn_implementation({"text_config": ATTENTION, "vision_config": "sdpa"})
    model.model.visual.patch_embed = FrameEmbed(model.model.visual.patch_embed.proj)


def picture_then_turns(
    module: nn.Module,
    query: Tensor,  # [B, heads, S, head_dim]
    key: Tensor,  # [B, kv_heads, S, head_dim]
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    *,
    prefix: int,
    turn_mask: Tensor,
    is_image: Tensor,
    looks: list[Tensor],
    **_: Any,
) -> tuple[Tensor, None]:
    """Use causal attention in the picture and masked attention (`turn_mask`, [B, 1, S - P, S]) in the turns after it.

    For each layer, the share of attention that the turns give to the picture is appended to `looks`: [B, heads, S - P].
    The picture is where `is_image`, [B, P], is 1.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    picture = F.scaled_dot_product_attention(
        query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], is_causal=True, scale=scaling
    )
    weights = ((query[:, :, prefix:] * scaling) @ key.mT + turn_mask).softmax(dim=-1)
    turns = weights @ value
    looks.append((weights[..., :prefix] @ is_image[:, None, :, None]).squeeze(-1))
    return torch.cat([picture, turns], dim=2).transpose(1, 2), None


@dataclass(frozen=True)
class Losses:
    """Scalars of one step. Accuracies are top-1 accuracies."""

    total: Tensor
    glyph: Tensor
    context: Tensor
    jump: Tensor
    transcription: Tensor
    lookup: Tensor
    looking: Tensor
    glyph_accuracy: Tensor
    context_accuracy: Tensor
    jump_accuracy: Tensor
    transcription_accuracy: Tensor
    lookup_accuracy: Tensor


class CellHead(nn.Module):
    """Predicts a cell's character and the characters before it from its visual token. Used only in training."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, (1 + context) * CELL_CLASSES)

    def forward(self, visual: Tensor) -> Tensor:  # [N, width] -> [N, 1 + context, CELL_CLASSES]
        return self.linear(visual).unflatten(-1, (-1, CELL_CLASSES))


def compute_losses(
    model: Qwen2VLForConditionalGeneration,
    head: CellHead,
    batch: Batch,
    reads: bool,
    cell_weight: float,
    look_weight: float = 0.0,
) -> Losses:
    """Run one batch. Without `reads` it runs only the vision tower and the cell losses."""
    visual = model.model.visual(batch.patches, grid_thw=batch.grid).pooler_output  # [N, hidden]
    cells = head(visual)
    written = batch.cells[:, 0] != BLANK
    glyph = F.cross_entropy(cells[written, 0], batch.cells[written, 0])
    blank = F.cross_entropy(cells[~written, 0], batch.cells[~written, 0])
    before, before_true = cells[written, 1:].flatten(0, 1), batch.cells[written, 1:].flatten()
    across = _across_lines(batch.cells[written, 1:]).flatten()
    context = F.cross_entropy(before[~across], before_true[~across])
    jump = F.cross_entropy(before[across], before_true[across])  # this case is rare and hard, so it has its own average
    cell_loss = glyph + 0.2 * blank + context + jump
    before_right = (before.detach().argmax(-1) == before_true).float()
    zero = glyph.new_zeros(())
    transcription = lookup = looking = transcription_accuracy = lookup_accuracy = zero
    total = cell_loss
    if reads:
        logits, labels, is_lookup, looking = _answers(model, visual, batch)
        losses = F.cross_entropy(logits, labels, reduction="none")
        right = (logits.detach().argmax(-1) == labels).float()
        transcription, lookup = losses[~is_lookup].mean(), losses[is_lookup].mean()
        transcription_accuracy, lookup_accuracy = right[~is_lookup].mean(), right[is_lookup].mean()
        total = transcription + lookup + cell_weight * cell_loss + look_weight * looking
    return Losses(
        total=total,
        glyph=glyph.detach(),
        context=context.detach(),
        jump=jump.detach(),
        transcription=transcription.detach(),
        lookup=lookup.detach(),
        looking=looking.detach(),
        glyph_accuracy=(cells[written, 0].detach().argmax(-1) == batch.cells[written, 0]).float().mean(),
        context_accuracy=before_right[~across].mean(),
        jump_accuracy=before_right[across].mean(),
        transcription_accuracy=transcription_accuracy,
        lookup_accuracy=lookup_accuracy,
    )


def _across_lines(before: Tensor) -> Tensor:
    """Whether each character before a cell is at or beyond the end of an earlier line, `[cells, context]`."""
    line_end = (before == NEWLINE) | (before == PAGE_START)
    return line_end.cumsum(dim=1) > 0


def _answers(
    model: Qwen2VLForConditionalGeneration, visual: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logits and labels of all answer tokens, which are lookups, and how many KV heads look at the picture.

    The number of heads is a soft count. Each KV head adds the square root of the share of attention that its queries
    give to the picture during the answer. With the root, few heads with a large share cost less than many heads with a
    small share.
    """
    looks: list[Tensor] = []
    text = model.model.language_model
    embeddings = text.embed_tokens(batch.input_ids).flatten(0, 1)
    embeddings = embeddings.index_copy(0, batch.image_at, visual).view(*batch.input_ids.shape, -1)
    hidden = text(
        inputs_embeds=embeddings,
        attention_mask={"full_attention": None},
        position_ids=batch.positions,
        use_cache=False,
        prefix=batch.prefix,
        turn_mask=batch.mask,
        is_image=batch.is_image,
        looks=looks,
    ).last_hidden_state
    asked = batch.labels != IGNORE
    groups = text.config.num_attention_heads // text.config.num_key_value_heads
    answering = asked[:, batch.prefix :].float().unsqueeze(1)  # [B, 1, S - P]
    shares = (torch.stack(looks) * answering).sum(dim=(1, 3)) / answering.sum()  # [L, heads]
    looking = (shares.unflatten(1, (-1, groups)).mean(dim=2) + 1e-3).sqrt().sum()
    return model.lm_head(hidden[asked]), batch.labels[asked], batch.is_lookup[asked], looking
