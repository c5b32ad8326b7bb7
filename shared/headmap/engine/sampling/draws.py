"""One token of each row: the highest, or drawn with one random number a row. Without a sort where no cut asks for one.

Rows are cut into blocks, so that a vocabulary is read by operations that use every core and vectors, and only one block
of each row is looked at token by token.
"""

from __future__ import annotations

import torch

_BLOCK = 1024
_BELOW_ONE = 1 - 2**-52  # times any total in float64 it is below the total
CANDIDATES = 1024
"""The likeliest tokens that cuts look at on a CPU before they sort all."""


def highest(rows: torch.Tensor) -> torch.Tensor:
    """The place of the highest value of each row, the first where several are. `rows`: (R, n); returns (R,) int64."""
    blocks, rest = _blocks(rows)
    maxima = blocks.amax(-1)
    if rest.shape[1]:
        maxima = torch.cat([maxima, rest.amax(-1, keepdim=True)], 1)
    block = maxima.argmax(-1)
    return block * _BLOCK + _block_of(rows, block, -torch.inf).argmax(-1)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A place of each row with the probability that its weight has of the row's sum: the inverse of their running sum.

    `weights`: (R, n) float32, at least 0. `uniforms`: (R,) float64, from 0 to below 1. Returns (R,) int64. What weighs
    0 is never drawn; a row where nothing weighs anything, or something is not a number, gives any place.
    """
    block, rest = _inverse(_sums(weights), uniforms)
    inside, _ = _inverse(_block_of(weights, block, 0.0), rest)
    return (block * _BLOCK + inside).clamp_(max=weights.shape[1] - 1)


def draw_from_top(
    scaled: torch.Tensor, uniforms: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """As `draw`, from the `top_k` likeliest of each row, and of them from the fewest that have `top_p` of their sum.

    `scaled`: (R, n) float32, logarithms of weights, 0 the highest of each row. `top_k`: (R,) int64, from 1 to n.
    `top_p`: (R,) float64 (nucleus sampling, Holtzman et al. 2019). Returns (R,) int64.
    """
    if scaled.is_cuda:
        return _draw_sorted(scaled, uniforms, top_k, top_p)
    ordered, index = scaled.topk(min(CANDIDATES, scaled.shape[1]))
    total = torch.full_like(uniforms, torch.inf)  # of what top-k leaves, which is unknown where that is more than these
    if bool((everything := top_k == scaled.shape[1]).any()):
        total[everything] = torch.cat([_total(part) for part in scaled.split(8)])[everything]
    weights, covered = _cut(ordered, top_k, top_p, total)
    tokens = index.gather(1, draw(weights, uniforms)[:, None])[:, 0]
    for part in (~covered).nonzero()[:, 0].split(8):
        tokens[part] = _draw_sorted(scaled[part], uniforms[part], top_k[part], top_p[part])
    return tokens


def _draw_sorted(
    scaled: torch.Tensor, uniforms: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    ordered, index = scaled.sort(descending=True, stable=True)
    weights, _ = _cut(ordered, top_k, top_p, torch.zeros_like(uniforms))
    return index.gather(1, draw(weights, uniforms)[:, None])[:, 0]


def _cut(
    ordered: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, total: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights, (R, m), of the first m of a row in order, 0 after the cut; and whether the cut lies in them, (R,).

    `total`: (R,) float64, the sum of the first `top_k`, read where those are more than m.
    """
    inside = top_k <= ordered.shape[1]
    places = torch.arange(ordered.shape[1], device=ordered.device)
    weights = ordered.exp().masked_fill_(places >= top_k[:, None], 0.0)
    reached = weights.cumsum(-1, dtype=torch.float64)
    bound = top_p * torch.where(inside, reached[:, -1], total)
    # Tokens before which less than the bound has been gathered: always at least one
    return weights.masked_fill_(reached - weights >= bound[:, None], 0.0), inside | (reached[:, -1] >= bound)


def _inverse(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the running sum of each row passes `uniforms` of its total, and how far into that place's weight it does.

    Sums in float64: in float32 those of 150,000 tokens would be off by more than many of them weigh.
    """
    reached = weights.cumsum(-1, dtype=torch.float64)
    some = weights > 0
    # Not the last sum: a device that adds in a tree may round sums with the same addends differently
    total = reached.masked_fill(~some, 0.0).amax(-1)
    target = uniforms.clamp(max=_BELOW_ONE) * total
    place = (some & (reached > target[:, None])).to(torch.int8).argmax(-1)
    weight = weights.gather(1, place[:, None])[:, 0].double()
    before = reached.gather(1, place[:, None])[:, 0] - weight
    return place, ((target - before) / weight).clamp(0.0, _BELOW_ONE)


def _total(scaled: torch.Tensor) -> torch.Tensor:
    """(R,) float64: the sum of the weights of each row, the highest being 1."""
    # What is below -87 adds nothing to a sum of more than 1, and exp takes long over it
    return _sums(scaled.clamp(min=-87.0).exp_()).sum(-1, dtype=torch.float64)


def _sums(rows: torch.Tensor) -> torch.Tensor:
    """(R, blocks): the sum of each block."""
    blocks, rest = _blocks(rows)
    return torch.cat([blocks.sum(-1), rest.sum(-1, keepdim=True)], 1)


def _blocks(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the whole blocks, (R, blocks, block), and of what is left, (R, less than a block)."""
    whole = rows.shape[1] // _BLOCK
    return rows[:, : whole * _BLOCK].unflatten(1, (whole, _BLOCK)), rows[:, whole * _BLOCK :]


def _block_of(rows: torch.Tensor, block: torch.Tensor, beyond: float) -> torch.Tensor:
    """(R, block): one block of each row; `beyond` where the row has ended."""
    places = block[:, None] * _BLOCK + torch.arange(_BLOCK, device=rows.device)
    last = rows.shape[1] - 1
    return rows.gather(1, places.clamp(max=last)).masked_fill_(places > last, beyond)
