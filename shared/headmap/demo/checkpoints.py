"""Checkpoints of a training run: one safetensors file. Its header has the step and the seed as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

CHECKPOINT = "checkpoint.safetensors"
STATE = "state"


def save_checkpoint(folder: Path, step: int, seed: int, modules: nn.Module, optimizers: list[Optimizer]) -> None:
    """Save everything needed to continue after `step` steps. The old checkpoint is replaced atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"weights.{name}": param.detach().contiguous() for name, param in modules.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for name, value in _flat_state(optimizer).items():
            tensors[f"optimizer.{number}.{name}"] = value
    temporary = folder / (CHECKPOINT + ".part")
    save_file(tensors, temporary, metadata={STATE: json.dumps({"step": step, "seed": seed})})
    os.replace(temporary, folder / CHECKPOINT)


def load_checkpoint(folder: Path, seed: int, modules: nn.Module, optimizers: list[Optimizer]) -> int:
    """Load a checkpoint into the modules and optimizers. Returns the number of finished steps, 0 without one.

    Raises:
        ValueError: if the checkpoint belongs to another seed or another model.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return 0
    state = read_state(path)
    if state["seed"] != seed:
        raise ValueError(f"{path}: made with seed {state['seed']}, not {seed}")
    tensors = load_file(path)
    with torch.no_grad():
        for name, param in modules.named_parameters():
            saved = tensors.get(f"weights.{name}")
            if saved is None or saved.shape != param.shape:
                raise ValueError(f"{path}: does not fit this model at {name}")
            param.copy_(saved)
    for number, optimizer in enumerate(optimizers):
        start = f"optimizer.{number}."
        _restore_state(optimizer, {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)})
    return int(state["step"])


def read_state(path: Path) -> dict[str, int]:
    """Read the step and the seed of a checkpoint without its tensors."""
    with safe_open(path, framework="pt") as file:
        state: dict[str, int] = json.loads((file.metadata() or {})[STATE])
    return state


def _flat_state(optimizer: Optimizer) -> dict[str, Tensor]:
    """Map `INDEX.NAME` to tensors. INDEX is the parameter's number in the optimizer's order."""
    flat = {}
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, param in enumerate(params):
        for name, value in optimizer.state.get(param, {}).items():
            flat[f"{index}.{name}"] = torch.as_tensor(value).detach().contiguous()
    return flat


def _restore_state(optimizer: Optimizer, flat: dict[str, Tensor]) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for key, value in flat.items():
        index, name = key.split(".", 1)
        param = params[int(index)]
        optimizer.state[param][name] = value.to(param.device) if value.ndim else value
