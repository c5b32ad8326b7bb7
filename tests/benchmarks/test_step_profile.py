"""The profile of a step, with tiny models on a CPU: every row adds up, and kernels are told apart by their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from benchmarks import step_profile
from benchmarks.random_model import TINY_GQA
from benchmarks.report import Recorder
from tests.benchmarks.test_gpu import SETUP


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Layers are traced and not compiled, which takes long on a CPU."""
    monkeypatch.setattr(
        "headmap.engine.compiled.compiled", lambda *, one_row: lambda layer, *given: layer(given[0], **given[1])
    )
    yield
    torch._dynamo.reset()


def test_own_code_and_compiled_layers_have_a_row_for_each_batch() -> None:
    setup = replace(SETUP, shapes=(TINY_GQA,), batches=(1, 2))
    rows = step_profile.run(record=Recorder(), setup=setup, prompt=40)["rows"]
    assert [(row["batch"], row["compiled"]) for row in rows] == [(1, False), (2, False), (1, True), (2, True)]
    assert all(row["step_ms"] > 0 and row["kernels"] > 0 and row["rest_ms"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("attend", "attention"),
        ("nvjet_sm90_tst_128x8_64x12_4x1_v_bz_TNT", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16>", "products"),
        ("triton_red_fused__unsafe_view_add_mm_mul_silu_t_view_6", "products"),
        ("triton_poi_fused__unsafe_view_mul_silu_3", "rest"),
        ("void at::native::vectorized_elementwise_kernel<8>", "rest"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel: str, kind: str) -> None:
    assert step_profile.kind_of(kernel) == kind
