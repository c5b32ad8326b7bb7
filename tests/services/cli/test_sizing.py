"""`headmap sizing` against the cache's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from headmap.engine.scheduler import startable
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.pool.paging import Paging
from headmap.kvcache.shape import CacheShape
from services.cli.main import app

SHAPE = CacheShape(num_layers=3, num_kv_heads=2, head_dim=16, itemsize=4)
PAGING = Paging(SHAPE)
MEMORY = 10_000_000


def sizes(prompt: int, new: int, budget: int) -> list[list[int]]:
    shape = ["--layers=3", "--kv-heads=2", "--head-dim=16", "--dtype=float32"]
    asked = [f"--prompt-tokens={prompt}", f"--new-tokens={new}", f"--budget={budget}", f"--memory={MEMORY}"]
    done = CliRunner().invoke(app, ["sizing", *shape, *asked])
    assert done.exit_code == 0, done.output
    return [[int(word.replace(",", "")) for word in line.split()[-4:]] for line in done.stdout.splitlines()[2:]]


@pytest.mark.parametrize(("prompt", "new", "budget"), [(1000, 50, 100), (64, 64, 32), (10, 5, 100)])
def test_it_says_what_pages_are_needed_and_never_too_little(prompt: int, new: int, budget: int) -> None:
    scores = HeadScores(np.arange(12, dtype=float).reshape(3, 4) ** 3, 2)
    pages = MEMORY // PAGING.page_bytes
    full, some = sizes(prompt, new, budget)
    plan = plan_cache(KVRequest("full"), SHAPE, prompt, scores)
    whole = PAGING.sequence(plan, new)
    start = startable(pages, PAGING.sequence(plan, 1), PAGING.tail(1))
    assert full == [(prompt + new) * 6 * 128, whole * PAGING.page_bytes, start, pages // whole]
    for method in ("sparsemm", "snapkv", "adakv"):
        plan = plan_cache(KVRequest(method, budget=budget), SHAPE, prompt, scores)
        assert (plan.kept_tokens + 6 * new) * 128 == some[0]
        assert PAGING.sequence(plan, new) * PAGING.page_bytes <= some[1]


def test_an_unknown_dtype_is_named() -> None:
    least = [f"--{name}=1" for name in ("layers", "kv-heads", "head-dim", "prompt-tokens", "new-tokens", "budget")]
    done = CliRunner().invoke(app, ["sizing", *least, "--memory=1", "--dtype=int8"])
    assert done.exit_code == 2
    assert "int8" in done.output
