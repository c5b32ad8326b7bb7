"""One token for each row: the highest, or drawn with one random number per row. Rows without a cut are not sorted.

Rows are cut into blocks, so that a vocabulary is read by operations that use every core and vectors, and only one block
of each row is looked at token by token.
"""

from __future__ import annotations

import torch

_BLOCK = 1024
_BELOW_ONE = 1 - 2**-52  # any float64 total times this is below the total
CANDIDATES = 1024
"""The likeliest tokens that cuts look at on a CPU before they sort all."""


def highest(rows: torch.Tensor) -> torch.Tensor:
    """The index of each row's highest value, the first of equal ones. `rows`: (R, n); returns (R,) int64."""
    blocks, rest = _blocks(rows)
    maxima = blocks.amax(-1)
    if rest.shape[1]:
        maxima = torch.cat([maxima, rest.amax(-1, keepdim=True)], 1)
    block = maxima.argmax(-1)
    return block * _BLOCK + _block_of(rows, block, -torch.inf).argmax(-1)


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw an index from each row with probability weight / row sum, by inverting the running sum.

    `weights`: (R, n) float32, at least 0. `uniforms`: (R,) float64, from 0 to below 1. Returns (R,) int64. A weight of
    0 is never drawn; a row whose weights are all 0, or that holds a NaN, gives any index.
    """
    block, rest = _inverse(_sums(weights), uniforms)
    inside, _ = _inverse(_block_of(weights, block, 0.0), rest)
    return (block * _BLOCK + inside).clamp_(max=weights.shape[1] - 1)


def draw_from_top(
    scaled: torch.Tensor, uniforms: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """As `draw`, from the `top_k` likeliest of each row, cut to the fewest that hold `top_p` of their sum.

    `scaled`: (R, n) float32, logarithms of weights; each row's highest is 0. `top_k`: (R,) int64, from 1 to n. `top_p`:
    (R,) float64 (nucleus sampling, Holtzman et al. 2019). Returns (R,) int64.
    """
    if scaled.is_cuda:
        return _draw_sorted(scaled, uniforms, top_k, top_p)
    ordered, index = scaled.topk(min(CANDIDATES, scaled.shape[1]))
    total = torch.full_like(uniforms, torch.inf)  # the sum top-k leaves; unknown where top-k is larger than this prefix
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
    """The weights, (R, m), of a row's first m in order, 0 after the cut; and whether the cut lies in them, (R,).

    `total`: (R,) float64, the sum of the first `top_k`, read only where `top_k` is above m.
    """
    inside = top_k <= ordered.shape[1]
    places = torch.arange(ordered.shape[1], device=ordered.device)
    weights = ordered.exp().masked_fill_(places >= top_k[:, None], 0.0)
    reached = weights.cumsum(-1, dtype=torch.float64)
    bound = top_p * torch.where(inside, reached[:, -1], total)
    # Keep tokens while the sum before them is below the bound: always at least one
    return weights.masked_fill_(reached - weights >= bound[:, None], 0.0), inside | (reached[:, -1] >= bound)


def _inverse(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The index where each row's running sum passes `uniforms` of its total, and how far into that weight it passes.

    Sums in float64: in float32 the error over 150,000 tokens would exceed many a weight.
    """
    reached = weights.cumsum(-1, dtype=torch.float64)
    some = weights > 0
    # The highest sum, not the last: a device that adds in a tree may round sums of the same addends differently
    total = reached.masked_fill(~some, 0.0).amax(-1)
    target = uniforms.clamp(max=_BELOW_ONE) * total
    place = (some & (reached > target[:, None])).to(torch.int8).argmax(-1)
    weight = weights.gather(1, place[:, None])[:, 0].double()
    before = reached.gather(1, place[:, None])[:, 0] - weight
    return place, ((target - before) / weight).clamp(0.0, _BELOW_ONE)


def _total(scaled: torch.Tensor) -> torch.Tensor:
    """(R,) float64: the sum of the weights of each row, the highest being 1."""
    # Below -87 a weight adds nothing to a sum of at least 1, and exp is slow there
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
