"""What HEADMAP_DEVICE may name. No GPU is needed, nor harmful."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from headmap.devices import find_device, use_device
from headmap.errors import Unavailable
from headmap.settings import Settings


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_a_setting_may_name_it(name: str) -> None:
    assert Settings(device=name).device == name


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:one", "cuda:-1", "cuda:1 ", "mps", ""])
def test_others_are_refused_by_the_variables_name(name: str) -> None:
    with pytest.raises(ValidationError, match="must be auto, cpu, cuda or cuda:N"):
        Settings(device=name)


def test_a_gpu_that_is_not_there_is_told_in_one_line_with_how_many_are() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(Unavailable) as told:
        find_device(f"cuda:{count}")
    assert f"HEADMAP_DEVICE=cuda:{count}:" in told.value.detail
    assert f"sees {count} GPUs" in told.value.detail
    assert "\n" not in told.value.detail


def test_auto_is_the_first_gpu_or_the_cpu() -> None:
    expected = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    assert find_device("auto") == expected
    assert find_device("cpu") == torch.device("cpu")
    use_device(find_device("auto"))
