"""`headmap sizing` against what the cache itself reserves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.shape import CacheShape
from headmap.kvcache.transformers.cache import RaggedCache
from services.cli.main import app


def sizes(prompt: int, new: int, budget: int) -> list[list[int]]:
    shape = ["--layers=3", "--kv-heads=2", "--head-dim=16", "--dtype=float32"]
    asked = [f"--prompt-tokens={prompt}", f"--new-tokens={new}", f"--budget={budget}", "--memory=10000000"]
    done = CliRunner().invoke(app, ["sizing", *shape, *asked])
    assert done.exit_code == 0, done.output
    return [[int(word.replace(",", "")) for word in line.split()[-3:]] for line in done.stdout.splitlines()[2:]]


@pytest.mark.parametrize(("prompt", "new", "budget"), [(1000, 50, 100), (64, 64, 32), (10, 5, 100)])
def test_it_says_what_is_reserved_and_never_too_little(prompt: int, new: int, budget: int) -> None:
    shape = CacheShape(num_layers=3, num_kv_heads=2, head_dim=16, itemsize=4)
    cache = RaggedCache(shape, dtype=torch.float32, device=torch.device("cpu"), memory_bytes=10_000_000)
    scores = HeadScores(np.arange(12, dtype=float).reshape(3, 4) ** 3, 2)
    full, some = sizes(prompt, new, budget)
    plan = plan_cache(KVRequest("full"), shape, prompt, scores)
    assert full == [(prompt + new) * 6 * 128, cache.reservation(plan, new), 10_000_000 // cache.reservation(plan, new)]
    for method in ("sparsemm", "snapkv", "adakv"):
        kv = KVRequest(method, budget=budget)
        plan = plan_cache(kv, shape, prompt, scores)
        assert (plan.kept_tokens + 6 * new) * 128 == some[0]
        assert cache.reservation(plan, new) <= some[1]


def test_an_unknown_dtype_is_named() -> None:
    least = [f"--{name}=1" for name in ("layers", "kv-heads", "head-dim", "prompt-tokens", "new-tokens", "budget")]
    done = CliRunner().invoke(app, ["sizing", *least, "--memory=1", "--dtype=int8"])
    assert done.exit_code == 2
    assert "int8" in done.output
