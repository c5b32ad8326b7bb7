"""`headmap sizing`: how much KV memory a request takes, and how many requests fit at once."""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli.common import console, json_option, one_line_errors, print_json


@one_line_errors
def sizing(
    layers: Annotated[int, typer.Option(min=1, help="Layers of the text model.")],
    kv_heads: Annotated[int, typer.Option(min=1, help="KV heads of each layer.")],
    head_dim: Annotated[int, typer.Option(min=1, help="Numbers in one key of a KV head.")],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt, with its visual tokens.")],
    new_tokens: Annotated[int, typer.Option(min=0, help="Most tokens of an answer: max_new_tokens.")],
    budget: Annotated[int, typer.Option(min=1, help="Prompt tokens to keep per KV head, on average.")],
    memory: Annotated[int, typer.Option(min=1, help="KV memory in bytes: HEADMAP_KV_MEMORY_BYTES.")],
    dtype: Annotated[str, typer.Option(help="Number format of the cache: float32, bfloat16 or float16.")] = "bfloat16",
    as_json: Annotated[bool, json_option("bytes_per_token", "full", "budget")] = False,
) -> None:
    """Compute how much KV memory requests take, with the whole cache and with a budget.

    More requests may run at a time than can run to their ends. A request starts once there are pages for its prompt
    and for a page of generated tokens. If memory runs short later, the youngest request waits again.

    \b
    Example:
      headmap sizing --layers 28 --kv-heads 4 --head-dim 128 \\
        --prompt-tokens 4000 --new-tokens 256 --budget 800 --memory 20000000000
    """
    from rich.table import Table

    from headmap.engine.scheduler import startable
    from headmap.kvcache.pool.paging import Paging
    from headmap.kvcache.shape import DTYPE_BYTES, CacheShape

    if dtype not in DTYPE_BYTES:
        raise typer.BadParameter(f"{dtype!r} is none of {', '.join(DTYPE_BYTES)}", param_hint="--dtype")

    shape = CacheShape(layers, kv_heads, head_dim, DTYPE_BYTES[dtype])
    paging, rows = Paging(shape), layers * kv_heads
    kept = min(budget, prompt_tokens)
    # Heads that all hold as much round up alike; of others each may leave all but one place of its last page free.
    at_most = rows * (kept + paging.page_tokens - 1) // paging.page_tokens
    pages = memory // paging.page_bytes

    def sizes(tokens: int, prompt: int) -> dict[str, int]:
        whole = prompt + paging.tail(max(1, new_tokens))
        return {
            "bytes": (tokens + new_tokens) * rows * shape.token_bytes,
            "bytes_in_pages": whole * paging.page_bytes,
            "start": startable(pages, prompt + paging.tail(1), paging.tail(1)),
            "fit": pages // whole,
        }

    full = sizes(prompt_tokens, paging.full(prompt_tokens))
    some = sizes(kept, min(at_most, paging.full(prompt_tokens)))
    if as_json:
        print_json({"bytes_per_token": rows * shape.token_bytes, "full": full, "budget": some})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("cache", "bytes of a request", "in pages at most", "start at a time", "fit to their ends"):
        table.add_column(name, justify="left" if name == "cache" else "right")
    for name, told in (("full", full), (f"budget {budget}", some)):
        table.add_row(name, *(f"{number:,}" for number in told.values()))
    console().print(f"{rows * shape.token_bytes:,} bytes per token")
    console().print(table)
