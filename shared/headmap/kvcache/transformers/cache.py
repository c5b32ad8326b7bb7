"""The ragged cache: for every sequence and KV head as many tokens as its budget says, and room to grow.

Prefill hands each layer's full keys and values to attention, keeps what the plan says, and drops the rest before the
next layer runs; so at no time does more than one layer hold its full keys. Decoding appends one token to every head of
every running sequence and attends over the blocks as they lie; nothing is re-copied. Between two turns of a
conversation a sequence can be parked outside; its next turn is prefilled on top of what it kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from headmap.budgets import Ints
from headmap.device_errors import is_out_of_memory
from headmap.kvcache.backends import AUTO, Attend, get_backend
from headmap.kvcache.blocks import Assigned, BlockTables
from headmap.kvcache.methods import get_method
from headmap.kvcache.plan import KeepPlan
from headmap.kvcache.selection import keep_tokens
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.store import LayerStore
from headmap.kvcache.transformers.attention import LayerAttention, PromptMask, causal_attention
from headmap.kvcache.transformers.watch import KeptTokens

BLOCK_SIZE = 32


class RaggedCache:
    """Keys and values of all running sequences. Not thread-safe: one engine thread owns it.

    `memory_bytes` bounds what `admit` hands out over all sequences; None means no bound. `growth` is the share by which
    a layer's store is enlarged when decoding fills it: less wastes less memory, more moves the tensors less often.
    `attend` is a backend's; None takes the one that `get_backend` calls auto.
    """

    def __init__(
        self,
        shape: CacheShape,
        *,
        dtype: torch.dtype,
        device: torch.device,
        block_size: int = BLOCK_SIZE,
        memory_bytes: int | None = None,
        growth: float = 1 / 8,
        attend: Attend | None = None,
    ) -> None:
        self.shape = shape
        self.device = device
        self.block_bytes = block_size * shape.token_bytes
        blocks = None if memory_bytes is None else memory_bytes // self.block_bytes
        self.tables = BlockTables(shape, block_size, blocks, growth=growth)
        self.layers = [LayerStore(block_size, shape.head_dim, dtype, device) for _ in range(shape.num_layers)]
        self._attend = attend

    @cached_property
    def attend(self) -> Attend:
        """Attention of a decode step over one layer's store."""
        return self._attend or get_backend(AUTO, self.device)

    def reservation(self, plan: KeepPlan, new_tokens: int, parked: ParkedSequence | None = None) -> int:
        """Bytes a sequence holds at most: what it keeps of its prompt and `new_tokens` more in every head.

        With `parked`, what it held before that too.
        """
        before = None if parked is None else parked.lengths
        return self.tables.blocks_for(plan, new_tokens, before) * self.block_bytes

    def fits(self, reservation: int) -> bool:
        return self.tables.fits(reservation // self.block_bytes)

    def admit(self, reservation: int) -> int:
        """Reserve bytes for a sequence; returns its slot. Raises OutOfMemory where they do not fit."""
        return self.tables.admit(reservation // self.block_bytes)

    @torch.inference_mode()  # the stores may hold tensors made in inference mode
    def release(self, slot: int) -> None:
        """Forget a sequence. Its blocks are free for others; a store more than half free shrinks if it can."""
        heads = self.shape.num_kv_heads
        self.tables.release(slot)
        for layer_idx, store in enumerate(self.layers):
            store.free(slot * heads, heads)
            self.tables.limit(layer_idx, len(store.owner))  # fewer than handed out where memory ran out
            stay = self.tables.scattered(layer_idx)
            if stay is None:
                continue
            try:
                store.keep_blocks(stay)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            else:
                self.tables.compact(layer_idx, stay)

    @torch.inference_mode()
    def park(self, slot: int) -> ParkedSequence:
        """A copy of what a sequence holds, in the machine's memory and without unused room; the slot stays as it is."""
        rows = (self._rows(layer_idx, slot) for layer_idx in range(self.shape.num_layers))
        layers = tuple((keys.cpu(), values.cpu()) for keys, values in rows)
        return ParkedSequence(self.tables.lengths[:, slot].copy(), layers)

    @torch.inference_mode()
    def unpark(self, slot: int, parked: ParkedSequence) -> None:
        """Put a parked sequence into an empty slot that `reservation` was told of it."""
        for layer_idx, (keys, values) in enumerate(parked.layers):
            self.put(layer_idx, slot, parked.lengths[layer_idx], keys.to(self.device), values.to(self.device))

    @torch.inference_mode()
    def copy(self, slot: int, to: int) -> None:
        """Give an empty slot all that a sequence holds."""
        for layer_idx in range(self.shape.num_layers):
            self.put(layer_idx, to, self.tables.lengths[layer_idx, slot], *self._rows(layer_idx, slot))

    def put(self, layer_idx: int, slot: int, counts: Ints, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add tokens to one sequence's heads, `counts` (num_kv_heads,); `keys`, `values`: (sum, head_dim), by head."""
        places, assigned = self.tables.place(layer_idx, slot, counts)
        self._give(layer_idx, assigned)
        self.layers[layer_idx].write(torch.from_numpy(places).to(self.device), keys, values)

    def row(self, layer_idx: int, slot: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of what one head holds: keys and values, (n, head_dim) each, in sliding layers oldest token first."""
        places = self.tables.in_order(layer_idx, slot)
        if places is None:
            return self.layers[layer_idx].row(slot * self.shape.num_kv_heads + head)
        return self.layers[layer_idx].read(torch.from_numpy(places[head]).to(self.device))

    def _rows(self, layer_idx: int, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of what all heads of a layer hold of a sequence: (sum of its lengths, head_dim) each, by head."""
        rows = [self.row(layer_idx, slot, head) for head in range(self.shape.num_kv_heads)]
        keys, values = (torch.cat(tensors) for tensors in zip(*rows, strict=True))
        return keys, values

    def empty(self, layer_idx: int, slot: int) -> None:
        """Forget what one layer holds of a sequence."""
        self.tables.empty(layer_idx, slot)
        self.layers[layer_idx].free(slot * self.shape.num_kv_heads, self.shape.num_kv_heads)

    def prefill(
        self,
        slot: int,
        plan: KeepPlan,
        on_layer: Callable[[], None] | None = None,
        spans: tuple[tuple[int, int], ...] = (),
        watch: KeptTokens | None = None,
    ) -> PrefillCache:
        """The cache to run a whole prompt with; `on_layer` is called before each layer.

        `spans`: the pictures whose tokens see each other in both directions. On a slot that holds tokens it is the
        prompt of a further turn: its queries see what was kept before them, and plan and spans are about its own
        tokens. `watch` learns what one head keeps.
        """
        return PrefillCache(self, slot, plan, on_layer, spans, watch)

    def decode(self, slots: Sequence[int]) -> DecodeCache:
        """The cache to run one token of each of `slots` with; makes room for the tokens."""
        order = np.asarray(slots, dtype=np.int64)
        places, assigned = self.tables.append(order)
        try:
            for layer_idx, given in assigned.items():
                self._give(layer_idx, given)
            device_places = torch.from_numpy(places.reshape(self.shape.num_layers, -1)).to(self.device)
            in_order = np.array_equal(order, np.arange(self.tables.num_slots))
            return DecodeCache(self, torch.from_numpy(order).to(self.device), device_places, in_order)
        except BaseException:
            self._take_back(order)
            raise

    @contextmanager
    def step(self, slots: Sequence[int]) -> Iterator[DecodeCache]:
        """`decode` for what runs inside; an error there takes the tokens back.

        Of a step that failed each sequence must be in the next one or be released: some layers may have written its
        token, which is written again to where it belongs.
        """
        cache = self.decode(slots)
        try:
            yield cache
        except BaseException:
            self._take_back(np.asarray(slots, dtype=np.int64))
            raise

    @torch.inference_mode()
    def _take_back(self, slots: Ints) -> None:
        for layer_idx, assigned in self.tables.take_back(slots).items():
            self.layers[layer_idx].take_back(assigned)

    def _give(self, layer_idx: int, assigned: Assigned) -> None:
        store = self.layers[layer_idx]
        try:
            store.resize(len(self.tables.owner[layer_idx]))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            store.resize(int(assigned.blocks.max()) + 1)  # without room for further steps
            self.tables.limit(layer_idx, len(store.owner))
        store.assign(assigned)

    def tokens(self, slot: int) -> int:
        """Tokens held for a sequence, over all layers and KV heads."""
        return int(self.tables.lengths[:, slot].sum())

    @property
    def layout(self) -> tuple[int, int]:
        """Changes whenever a tensor of the cache lies elsewhere or kernels get another shape."""
        return sum(store.moves for store in self.layers), self.tables.num_rows

    @property
    def reserved_bytes(self) -> int:
        return self.tables.reserved_blocks * self.block_bytes

    @property
    def capacity_bytes(self) -> int | None:
        blocks = self.tables.capacity_blocks
        return None if blocks is None else blocks * self.block_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the key and value tensors that exist now."""
        return sum(store.keys.nbytes + store.values.nbytes for store in self.layers)


@dataclass(frozen=True)
class ParkedSequence:
    """What a sequence held, outside the cache. lengths: (num_layers, num_kv_heads) int64, tokens of each head; layers:
    keys and values by layer, each (sum of its lengths, head_dim), head by head."""

    lengths: Ints
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @property
    def nbytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.layers)


@dataclass(frozen=True)
class PrefillCache:
    """A model's cache for one sequence's whole prompt, or for that of a further turn."""

    cache: RaggedCache
    slot: int
    plan: KeepPlan
    on_layer: Callable[[], None] | None = None
    spans: tuple[tuple[int, int], ...] = ()
    watch: KeptTokens | None = None

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        if self.on_layer is not None:
            self.on_layer()
        window = self.cache.shape.window_of(layer_idx)
        # Made head by head once: attention, selection and what is kept read them so.
        layer = _PrefillLayer(self, keys.contiguous(), values.contiguous(), layer_idx, window)
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def store(self, layer_idx: int, keys: torch.Tensor, values: torch.Tensor, keep: torch.Tensor | None) -> None:
        """Put what a layer keeps into blocks. `keys`, `values`: (num_kv_heads, n, d); `keep`: (num_kv_heads, n)."""
        heads, n, d = keys.shape
        if keep is None:
            lengths = np.full(heads, n, dtype=np.int64)
            kept_keys, kept_values = keys.reshape(-1, d), values.reshape(-1, d)
        else:
            lengths = keep.sum(1).cpu().numpy()
            kept = keep.flatten().nonzero()[:, 0]
            kept_keys, kept_values = (of.reshape(-1, d).index_select(0, kept) for of in (keys, values))
        self.cache.put(layer_idx, self.slot, lengths, kept_keys, kept_values)


@dataclass(frozen=True)
class _PrefillLayer(LayerAttention):
    prefill: PrefillCache
    keys: torch.Tensor
    values: torch.Tensor
    layer_idx: int
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        plan = self.prefill.plan
        if len(queries) != 1 or self.keys.shape[2] != plan.prompt_tokens:
            raise ValueError(
                f"a plan for one prompt of {plan.prompt_tokens} tokens, got {len(queries)} x {self.keys.shape[2]}"
            )
        mask = PromptMask(self.window, self.prefill.spans)
        if not self.prefill.cache.tables.lengths[self.layer_idx, self.prefill.slot].any():
            output = causal_attention(queries, self.keys, self.values, scaling, mask)
            keys, values = self.keys[0], self.values[0]
        else:
            output, keys, values = self._on_top(queries, scaling, mask)
        keep = None
        if self.window is not None:
            keys, values = keys[:, -self.window :], values[:, -self.window :]
        elif not plan.keeps_all:
            budgets = torch.from_numpy(plan.tokens[self.layer_idx]).to(queries.device)
            last = queries[0, :, -max(plan.window, 1) :]
            keep = keep_tokens(get_method(plan.method), last, keys, scaling, budgets, plan.window, mask)
        self.prefill.store(self.layer_idx, keys, values, keep)
        if self.prefill.watch is not None:
            length = keys.shape[1]
            self.prefill.watch.note(self.layer_idx, plan.prompt_tokens - length, length, keep)
        return output

    def _on_top(
        self, queries: torch.Tensor, scaling: float, mask: PromptMask
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Attention over what was kept before and over the prompt; and the keys and values to keep from."""
        cache, slot = self.prefill.cache, self.prefill.slot
        heads = self.keys.shape[1]
        outputs, all_keys, all_values = [], [], []
        for head, own in enumerate(queries.chunk(heads, dim=1)):  # each head has a past of another length
            past_keys, past_values = cache.row(self.layer_idx, slot, head)
            keys, values = torch.cat([past_keys, self.keys[0, head]]), torch.cat([past_values, self.values[0, head]])
            outputs.append(
                causal_attention(own, keys[None, None], values[None, None], scaling, mask.after(len(past_keys)))
            )
            all_keys.append(keys)
            all_values.append(values)
        output = torch.cat(outputs, dim=2)
        if self.window is None:  # what was kept before stays as it is
            return output, self.keys[0], self.values[0]
        cache.empty(self.layer_idx, slot)
        return output, torch.stack(all_keys), torch.stack(all_values)


@dataclass(frozen=True)
class DecodeCache:
    """A model's cache for one token of each running sequence. slots: (S,); places: (num_layers, S x num_kv_heads).

    in_order: whether these are all sequences there are, in the order of their slots: so their heads are the rows.
    """

    cache: RaggedCache
    slots: torch.Tensor
    places: torch.Tensor
    in_order: bool = False

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: object, **__: object
    ) -> tuple[LayerAttention, LayerAttention]:
        """`keys`, `values`: (S, num_kv_heads, 1, d)."""
        if keys.shape[2] != 1:
            raise ValueError(f"decoding takes one token a sequence, got {keys.shape[2]}")
        store = self.cache.layers[layer_idx]
        store.write(self.places[layer_idx], keys.reshape(-1, keys.shape[-1]), values.reshape(-1, values.shape[-1]))
        layer = _DecodeLayer(self, store, self.cache.shape.window_of(layer_idx))
        return layer, layer

    def get_seq_length(self, layer_idx: int = 0) -> int:
        raise NotImplementedError("sequences differ in length; decoding gives every token its position")


@dataclass(frozen=True)
class _DecodeLayer(LayerAttention):
    decode: DecodeCache
    store: LayerStore
    window: int | None = None

    def attend(self, queries: torch.Tensor, scaling: float) -> torch.Tensor:
        sequences, num_heads, _, d = queries.shape
        cache = self.decode.cache
        heads = cache.shape.num_kv_heads
        own = queries.reshape(sequences, heads, num_heads // heads, d)
        if self.decode.in_order:
            return cache.attend(own.flatten(0, 1), self.store, scaling).view(sequences, 1, num_heads, d)
        by_slot = own.new_zeros((cache.tables.num_rows // heads, *own.shape[1:]))
        by_slot.index_copy_(0, self.decode.slots, own)
        output = cache.attend(by_slot.flatten(0, 1), self.store, scaling).view_as(by_slot)
        return output.index_select(0, self.decode.slots).view(sequences, 1, num_heads, d)
