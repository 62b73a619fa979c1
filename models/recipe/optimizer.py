"""Owns the optimizer of the training stages: orthogonalized momentum for matrices, AdamW for the rest.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), for the update and
the coefficients; Liu et al., "Muon is Scalable for LLM Training" (2025), for its size relative to AdamW's.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import torch
from torch import nn

MOMENTUM = 0.95
# Root mean square of an update, in learning rates: about that of AdamW.
UPDATE_RMS = 0.2


def orthogonalized(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """The matrix (r, c) with all its singular values moved near 1, by Newton-Schulz rounds."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x: torch.Tensor = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram: torch.Tensor = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x if wide else x.transpose(0, 1)


class Optimizer:
    """Steps the matrices and kernels among a model's parameters by Muon and all others by AdamW.

    ``outer`` are parameters of matrix shape that are no hidden layer (embeddings, first and last
    projections) and go to AdamW as well. The matrices are orthogonalized in ``precision``.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        outer: Sequence[nn.Parameter],
        pool: Executor,
        precision: torch.dtype = torch.float32,
    ) -> None:
        apart = {id(parameter) for parameter in outer}
        self.hidden = [p for p in parameters if p.ndim >= 2 and id(p) not in apart]
        hidden = {id(parameter) for parameter in self.hidden}
        rest = [parameter for parameter in parameters if id(parameter) not in hidden]
        self.momenta = [torch.zeros_like(parameter) for parameter in self.hidden]
        self.adamw = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self._pool = pool
        self._precision = precision

    @torch.no_grad()
    def step(self, hidden_lr: float, rest_lr: float) -> None:
        """Applies the gradients at the two learning rates."""
        for group in self.adamw.param_groups:
            group["lr"] = rest_lr
        self.adamw.step()

        def move(parameter: nn.Parameter, momentum: torch.Tensor) -> None:
            if parameter.grad is None:
                return
            with torch.no_grad():
                momentum.lerp_(parameter.grad, 1.0 - MOMENTUM)
                matrix = parameter.grad.lerp(momentum, MOMENTUM).flatten(1).to(self._precision)
                size = hidden_lr * UPDATE_RMS * max(matrix.shape) ** 0.5
                parameter.sub_(orthogonalized(matrix).reshape(parameter.shape), alpha=size)

        list(self._pool.map(move, self.hidden, self.momenta))

    def state_dict(self) -> dict[str, Any]:
        """The moments of both parts."""
        return {"momenta": self.momenta, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        for mine, theirs in zip(self.momenta, state["momenta"], strict=True):
            mine.copy_(theirs)
        self.adamw.load_state_dict(state["adamw"])
