"""Owns what the training stages share: parallel gradients, checkpoints, learning rate, averaging, the log."""

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import nn


def log(message: str, began_s: float) -> None:
    """Prints one line of progress with the seconds since ``began_s`` of ``time.perf_counter()``."""
    print(f"[{time.perf_counter() - began_s:7.1f} s] {message}", flush=True)


def cosine_lr(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate of a step: a linear rise over ``warmup`` steps, then half a cosine to a hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def falling_lr(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate of a step: a linear rise, level until 70 % of the steps, then straight down to 0."""
    left = (steps - step) / (0.3 * steps)
    return peak * min((step + 1) / warmup, 1.0, left)


class Lanes:
    """Splits each training batch over single-threaded lanes that meet once a step.

    Kernels that share their work between cores meet hundreds of times a step, and on a machine with
    other work each meeting waits for the scheduler; lanes are as fast on an idle machine and several
    times faster on a busy one. On a GPU use one lane.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def step(
        self,
        model: nn.Module,
        losses: Callable[..., tuple[torch.Tensor, torch.Tensor]],
        batch: Sequence[torch.Tensor],
    ) -> float:
        """Sets the gradients of ``model`` to those of the mean loss of the batch.

        ``losses`` maps equal shares of the batch's tensors, split along the first dimension, to the loss
        and a figure to report (both scalars). Returns the mean of the reported figure.
        """
        parameters = list(model.parameters())
        shares = list(zip(*(part.chunk(self.count) for part in batch), strict=True))

        def lane(share: tuple[torch.Tensor, ...]) -> tuple[tuple[torch.Tensor | None, ...], float]:
            loss, figure = losses(*share)
            gradients = torch.autograd.grad(loss / len(shares), parameters, allow_unused=True)
            return gradients, float(figure.detach())

        results = list(self.pool.map(lane, shares))
        for parameter, *parts in zip(parameters, *(gradients for gradients, _ in results), strict=True):
            known = [part for part in parts if part is not None]
            parameter.grad = torch.stack(known).sum(dim=0) if known else None
        return sum(figure for _, figure in results) / len(results)


class Average:
    """Exponential moving average of a module's parameters, as a module of the same class."""

    def __init__(self, average: nn.Module, decay: float) -> None:
        self.module = average.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Moves the average towards ``source``; faster in the first steps, when the average knows little."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for mine, theirs in zip(self.module.parameters(), source.parameters(), strict=True):
            mine.lerp_(theirs, 1.0 - decay)


class Checkpoint:
    """A training state in one file, written whole or not at all, at most once per period."""

    def __init__(self, path: Path, period_s: float, **parts: Any) -> None:
        self.path = path
        self.period_s = period_s
        self.parts = parts
        self.saved_s = time.perf_counter()

    def load(self, device: torch.device) -> int:
        """Restores the parts from the file if there is one; returns the step it was written at, else 0."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location=device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Writes the parts and the step beside the file, then renames."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state["step"] = step
        fresh = self.path.with_suffix(".new")
        torch.save(state, fresh)
        os.replace(fresh, self.path)
        self.saved_s = time.perf_counter()

    def tick(self, step: int) -> None:
        """Saves if the period has passed since the last save."""
        if time.perf_counter() - self.saved_s >= self.period_s:
            self.save(step)
