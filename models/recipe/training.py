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


def cosine_lr(step: int, steps: int, peak: float, warmup: int) -> float:
    """Learning rate of a step: a linear rise over ``warmup`` steps, then half a cosine to a hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def falling_lr(progress: float, peak: float, warmth: float = 1.0) -> float:
    """Learning rate at a progress in [0, 1]: level until 0.7, then straight down to 0.

    ``warmth`` rises from 0 over the first steps and holds the rate back until it is 1.
    """
    return peak * max(0.0, min(warmth, 1.0, (1.0 - progress) / 0.3))


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


class Report:
    """Prints the mean of a figure over every 50 steps, put in ``words``."""

    PERIOD = 50

    def __init__(self, name: str, steps: int, words: Callable[[float], str]) -> None:
        self._name, self._steps, self._words = name, steps, words
        self._began_s = time.perf_counter()
        self._figures: list[float] = []

    def add(self, figure: float, step: int) -> None:
        """Takes the figure of a step."""
        self._figures.append(figure)
        if step % self.PERIOD == 0:
            mean = sum(self._figures) / len(self._figures)
            took_s = time.perf_counter() - self._began_s
            print(f"[{took_s:7.1f} s] {self._name} {step}/{self._steps}: {self._words(mean)}", flush=True)
            self._figures.clear()


class Clock:
    """Which stage is being trained, for how many steps and seconds already, over all resumptions."""

    LONGEST_STEP_S = 30.0

    def __init__(self) -> None:
        self.stage, self.steps, self.seconds = 0, 0, 0.0
        self._seen_s = time.perf_counter()

    def progress(self, steps: int, seconds: float) -> float:
        """How much of a stage of so many steps, or seconds if those are over sooner, has passed."""
        return max(self.steps / steps, self.seconds / seconds)

    def tick(self) -> None:
        """Counts a step and the time since the last one; a longer gap than any step's is a pause."""
        now_s = time.perf_counter()
        self.steps += 1
        self.seconds += min(now_s - self._seen_s, self.LONGEST_STEP_S)
        self._seen_s = now_s

    def next_stage(self) -> None:
        """Begins the next stage."""
        self.stage, self.steps, self.seconds = self.stage + 1, 0, 0.0
        self._seen_s = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The three counts."""
        return {"stage": self.stage, "steps": self.steps, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what ``state_dict`` gave."""
        self.stage, self.steps, self.seconds = state["stage"], state["steps"], state["seconds"]


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
        self.loaded_step = 0

    def load(self, device: torch.device) -> int:
        """Restores the parts from the file if there is one; returns the step it was written at, else 0."""
        if not self.path.exists():
            return 0
        state = torch.load(self.path, map_location=device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.loaded_step = int(state["step"])
        return self.loaded_step

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
