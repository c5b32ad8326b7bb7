"""Muon for matrices, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Muon(Optimizer):
    """Muon: orthogonalized momentum (Jordan et al., 2024), in float32.

    `torch.optim.Muon` runs the Newton-Schulz steps in bfloat16, which is slow on processors without bfloat16 matrix
    units. Matrices of the same shape are stacked, so that a step needs only a few large products.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch has overloads for a closure
        """Apply the gradients. A closure is not supported."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for shape, params in by_shape.items():
                updates = [self._momentum(param, group["momentum"]) for param in params]
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for param, update in zip(params, orthogonalize(torch.stack(updates)), strict=True):
                    param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"] * scale)

    def _momentum(self, param: nn.Parameter, momentum: float) -> Tensor:
        """Update the running mean with the gradient. Returns the mean after one more such update (Nesterov)."""
        if param.grad is None:
            raise ValueError("a parameter without a gradient has no momentum")
        state = self.state[param]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(param)
        state["momentum"].lerp_(param.grad, 1 - momentum)
        return param.grad.lerp(state["momentum"], momentum)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrices by Newton-Schulz steps on `[count, rows, cols]`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def build_optimizers(modules: nn.Module, muon_lr: float, adam_lr: float) -> list[Optimizer]:
    """Use Muon for the blocks' matrices, and AdamW for embeddings, patches, the cell head, biases and norms."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, param in modules.named_parameters():
        inside = ".layers." in name or ".blocks." in name or ".merger." in name
        (matrices if inside and param.ndim == 2 else others).append(param)
    return [Muon(matrices, lr=muon_lr), AdamW(others, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)]


def set_lr(optimizers: list[Optimizer], muon_lr: float, adam_lr: float) -> None:
    """Set the learning rates of the two optimizers from `build_optimizers`."""
    for optimizer, lr in zip(optimizers, (muon_lr, adam_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
