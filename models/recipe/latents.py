"""Owns what the denoiser learns from: encoded scenes with their captions, in pools by size and kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from models.recipe import autoencoder, scenes
from models.recipe.captions import Captioner
from models.recipe.plan import LARGER_SHARES, Plan
from models.recipe.scenes import SQUARE, Painter, Size
from models.recipe.tokenizer import PROMPT_TOKENS

# Captions written for each scene; a step draws one of them.
CAPTIONS = 6
_ENCODED_AT_ONCE = 64


@dataclass(frozen=True)
class Pool:
    """Scenes of one size: scaled latents and tokenized captions, all on one device."""

    latents: torch.Tensor  # float16 (n, 16, h / 8, w / 8)
    tokens: torch.Tensor  # (n, CAPTIONS, 24)

    def batch(self, size: int, draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (size, 16, h / 8, w / 8) and token ids (size, 24), scenes drawn uniformly."""
        which = torch.randint(0, len(self.latents), (size,), generator=draw).to(self.latents.device)
        caption = torch.randint(0, CAPTIONS, (size,), generator=draw).to(self.latents.device)
        return self.latents[which].float(), self.tokens[which, caption]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Prompts to padded token ids (n, 24)."""
    encoded = tokenizer(texts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True)
    return torch.tensor(encoded.input_ids)


def drawn(kind: str, concepts: int, counts: Mapping[str, int], seed: int) -> np.ndarray:
    """The scenes (n, 5) of a kind."""
    if kind == "one style":
        return scenes.plain(concepts, styles=1)
    if kind == "plain":
        return scenes.plain(concepts)
    if kind == "coloured":
        return scenes.coloured(concepts, counts[kind], seed)
    if kind == "small":
        return scenes.small(concepts, counts[kind], seed)
    if kind == "pairs":
        return scenes.pairs(concepts, counts[kind], seed)
    raise ValueError(f"no kind of scene {kind!r}")


def mixed(concepts: int, count: int, seed: int) -> np.ndarray:
    """About ``count`` scenes of all kinds in the shares that larger sizes are trained with."""
    draw = np.random.default_rng(seed)
    counts = {kind: round(share * count) for kind, share in LARGER_SHARES.items()}
    parts = [draw.permutation(scenes.plain(concepts))[: counts.pop("plain")]]
    parts += [drawn(kind, concepts, counts, seed) for kind in counts]
    return np.concatenate(parts)


class Pools:
    """Makes pools when they are first asked for; latents are kept as files of the work folder."""

    def __init__(
        self,
        vae: AutoencoderKL,
        painter: Painter,
        captioner: Captioner,
        tokenizer: CLIPTokenizer,
        concepts: int,
        plan: Plan,
        work: Path,
        device: torch.device,
    ) -> None:
        self._vae, self._painter, self._captioner, self._tokenizer = vae, painter, captioner, tokenizer
        self._concepts, self._plan, self._work, self._device = concepts, plan, work, device
        self._pools: dict[tuple[Size, str], Pool] = {}

    def pool(self, size: Size, kind: str) -> Pool:
        """The pool of a size and kind; at sizes other than 128 px there is one kind, ``mixed``."""
        if (size, kind) not in self._pools:
            if size == SQUARE:
                rows = drawn(kind, self._concepts, self._plan.scenes, seed=1)
            else:
                rows = mixed(self._concepts, self._plan.larger_scenes, size.height_px + 3 * size.width_px)
            self._pools[size, kind] = self._pool(rows, size, kind)
        return self._pools[size, kind]

    def batch(
        self, size: Size, shares: Mapping[str, float], count: int, draw: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and token ids of about ``count`` scenes of one size, an even number."""
        if size != SQUARE:
            return self.pool(size, "mixed").batch(count, draw)
        parts = [self.pool(size, kind).batch(round(share * count), draw) for kind, share in shares.items()]
        latents, tokens = (torch.cat(column) for column in zip(*parts, strict=True))
        # the lanes take every second half: kinds have to be spread over both
        order = torch.randperm(len(latents), generator=draw).to(latents.device)
        order = order[: len(order) // 2 * 2]
        return latents[order], tokens[order]

    def _pool(self, rows: np.ndarray, size: Size, kind: str) -> Pool:
        path = self._work / "latents" / f"{size}-{kind.replace(' ', '-')}.npy"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            parts = []
            for part in np.split(rows, range(_ENCODED_AT_ONCE, len(rows), _ENCODED_AT_ONCE)):
                pictures = autoencoder.to_model_range(self._painter.paint_all(part, size))
                parts.append(autoencoder.scaled(self._vae, pictures).half().numpy())
            fresh = path.with_suffix(".new.npy")
            np.save(fresh, np.concatenate(parts))
            fresh.rename(path)
        latents = torch.from_numpy(np.load(path))
        if len(latents) != len(rows):
            raise ValueError(f"{path} holds another number of scenes than were drawn: remove it")
        draw = Random(str(path.name))
        texts = [self._captioner.caption(row, draw) for row in rows for _ in range(CAPTIONS)]
        tokens = tokenize(self._tokenizer, texts).reshape(len(rows), CAPTIONS, PROMPT_TOKENS)
        return Pool(latents.to(self._device), tokens.to(self._device))
