"""What an engine tells of its memory in the units of other servers."""

from __future__ import annotations

from headmap.engine.engine import Engine
from headmap.families.loading import LoadedModel


def test_a_block_holds_its_tokens_in_every_layer_and_kv_head(engine: Engine, model: LoadedModel) -> None:
    stats, shape = engine.stats(), model.cache_shape
    heads = len(shape.budgeted_layers) * shape.num_kv_heads
    assert stats.kv_block_bytes == stats.kv_block_tokens * heads * shape.token_bytes
    assert stats.kv_capacity_bytes > stats.kv_block_bytes
