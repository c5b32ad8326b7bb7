"""`headmap sizing`: what a request takes of the KV memory, and how many fit at once."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.common import console, one_line_errors

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@one_line_errors
def sizing(
    layers: Annotated[int, typer.Option(min=1, help="Layers of the text model.")],
    kv_heads: Annotated[int, typer.Option(min=1, help="KV heads of each.")],
    head_dim: Annotated[int, typer.Option(min=1, help="Numbers in a key.")],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of a prompt, its pictures' included.")],
    new_tokens: Annotated[int, typer.Option(min=0, help="Of an answer at most: max_new_tokens.")],
    budget: Annotated[int, typer.Option(min=1, help="Tokens kept of a prompt per KV head, on average.")],
    memory: Annotated[int, typer.Option(min=1, help="HEADMAP_KV_MEMORY_BYTES.")],
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
) -> None:
    """Say what requests with the whole cache and with a budget take of the KV memory."""
    if dtype not in _BYTES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(_BYTES)}", param_hint="--dtype")
    from rich.table import Table

    from headmap.kvcache.transformers.cache import BLOCK_SIZE

    rows = layers * kv_heads
    per_token = rows * 2 * head_dim * _BYTES[dtype]
    whole = prompt_tokens + new_tokens
    kept = min(budget, prompt_tokens) + new_tokens
    table = Table(box=None, pad_edge=False)
    for name in ("cache", "bytes of a request", "in blocks at most", "at a time"):
        table.add_column(name, justify="left" if name == "cache" else "right")
    # Heads that all hold as much round up alike; of others each may leave all but one slot of its last block empty.
    for name, tokens, blocks in (
        ("full", whole, rows * -(-whole // BLOCK_SIZE)),
        (f"budget {budget}", kept, rows * (kept + BLOCK_SIZE - 1) // BLOCK_SIZE),
    ):
        reserved = blocks * BLOCK_SIZE * per_token // rows
        table.add_row(name, f"{tokens * per_token:,}", f"{reserved:,}", f"{memory // reserved:,}")
    console().print(f"{per_token:,} bytes per token")
    console().print(table)
