"""What config.json tells of sliding windows is what transformers makes of it, and what the engine plans with."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoConfig

from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.select import SNAPKV
from headmap.kvcache.transformers.generate import cache_shape
from headmap.models import read_model
from headmap.registry.migrations import migrate
from headmap.settings import Settings
from services.scoring.app import create_app
from services.scoring.kv_config import sliding_layers

_QWEN = {"model_type": "qwen2", "num_hidden_layers": 30, "num_attention_heads": 8, "hidden_size": 64}


@pytest.mark.parametrize(
    ("model_type", "text"),
    [
        ("gemma3", {"model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024}),
        ("gemma3", {"model_type": "gemma3_text", "num_hidden_layers": 26}),
        ("gemma3", {"model_type": "gemma3_text", "num_hidden_layers": 9, "sliding_window_pattern": 2}),
        ("mistral3", {"model_type": "mistral", "num_hidden_layers": 4}),
        ("mistral3", {"model_type": "mistral", "num_hidden_layers": 4, "sliding_window": None}),
        ("llava_next", {"model_type": "mistral", "num_hidden_layers": 4, "sliding_window": 77}),
        ("llava_next", {"model_type": "llama", "num_hidden_layers": 4}),
        ("internvl", _QWEN | {"use_sliding_window": True, "sliding_window": 50}),
        ("internvl", _QWEN | {"use_sliding_window": True, "max_window_layers": 3}),
        ("internvl", _QWEN | {"use_sliding_window": False, "sliding_window": 50, "max_window_layers": 0}),
    ],
)
def test_windows_are_those_of_the_configuration_class(tmp_path: Path, model_type: str, text: dict[str, Any]) -> None:
    text = {"num_attention_heads": 8, **text}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "text_config": text}))
    shape = cache_shape(SimpleNamespace(config=AutoConfig.from_pretrained(tmp_path), dtype=torch.float32))  # type: ignore[arg-type]
    assert sliding_layers(read_model("m", tmp_path)) == (shape.window, shape.sliding_layers)


@pytest.mark.parametrize("name", ["gemma3", "mistral3_sliding", "qwen2_vl", "qwen2_vl_sliding"])
def test_budgets_count_windows_as_the_engine_does(
    name: str, small_model: Callable[[str], LoadedModel], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    loaded, shape = small_model(name), small_model(name).cache_shape
    settings = Settings(data_dir=tmp_path, models=(str(model_folder(name)),))
    migrate(settings)
    matrix = np.random.default_rng(3).random((shape.num_layers, loaded.info.num_heads))
    scores = HeadScores(matrix, shape.num_kv_heads)
    with TestClient(create_app(settings)) as client:
        body = {"model": settings.models[0], "num_kv_heads": shape.num_kv_heads, "scores": scores.to_sparsemm()}
        map_id = client.post("/maps", json=body).json()["id"]
        few = {"keep_recent": 3, "select": "snapkv"}
        sizes = ((20, 100), (64, 100), (150, 100), (10, 20))
        for more, (budget, prompt_tokens) in product(({}, few), sizes):
            query = {"budget": budget, "prompt_tokens": prompt_tokens, **more}
            found = client.get(f"/maps/{map_id}/budgets", params=query).json()
            request = (
                KVRequest("sparsemm", budget, keep_recent=3, select=SNAPKV) if more else KVRequest("sparsemm", budget)
            )
            plan = plan_cache(request, shape, prompt_tokens, scores)
            assert found["budgets"] == plan.tokens.tolist()
            assert (found["window"], found["keep_recent"]) == (plan.select.window, plan.recent)
            assert (found["kept_tokens"], found["full_tokens"]) == (plan.kept_tokens, shape.full_tokens(prompt_tokens))
            assert (found.get("sliding_window"), found["sliding_layers"]) == (shape.window, [*shape.sliding_layers])
