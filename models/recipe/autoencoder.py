"""Owns the picture autoencoder: its architecture, its training and the statistics of its latents."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from models.recipe.art import STYLES
from models.recipe.optimizer import Optimizer
from models.recipe.plan import AutoencoderPlan
from models.recipe.scenes import BACKGROUNDS, NONE, SQUARE, Painter
from models.recipe.training import Checkpoint, Lanes, Report, cosine_lr

LATENT_CHANNELS = 16
CROP_PX = 64
# Weights against the mean squared error: absolute errors, errors of edges, and the Kullback-Leibler term.
ABSOLUTE_WEIGHT, EDGE_WEIGHT, KL_WEIGHT = 0.1, 0.1, 1e-5
# Logarithm of the variance that the posterior starts with: little noise, so that colours are learned at once.
FIRST_LOGVAR = -6.0
# Concepts whose art the autoencoder never sees, in any style: every tenth, so that it can be judged on them.
UNSEEN_STRIDE, UNSEEN_OFFSET = 10, 9
CHECKPOINT_S = 60.0


def build() -> AutoencoderKL:
    """A fresh autoencoder: RGB in [-1, 1] of (n, 3, h, w) to latents of (n, 16, h / 8, w / 8) and back.

    It starts close to a linear map: residual branches at zero, changes of size as averaging and repeating.
    From torch's own start the same training needs several times the steps to find the colours.
    """
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )
    for module in model.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            if module.conv_shortcut is not None:
                nn.init.orthogonal_(module.conv_shortcut.weight)
        elif isinstance(module, Downsample2D):
            _add_identity(module.conv.weight, slice(0, 2), 0.25)
        elif isinstance(module, Upsample2D):
            _add_identity(module.conv.weight, slice(1, 2), 1.0)
    noise = model.encoder.conv_out
    nn.init.zeros_(noise.weight.data[LATENT_CHANNELS:])
    nn.init.constant_(noise.bias.data[LATENT_CHANNELS:], FIRST_LOGVAR)
    return model


@torch.no_grad()
def _add_identity(kernel: torch.Tensor, taps: slice, gain: float) -> None:
    """Halves a convolution kernel (c, c, 3, 3) and adds ``gain`` from each channel to itself at the taps."""
    channels = torch.arange(len(kernel))
    kernel.mul_(0.5)
    kernel[channels, channels, taps, taps] += gain


def to_model_range(pictures: np.ndarray) -> torch.Tensor:
    """uint8 pictures (n, h, w, 3) to float RGB in [-1, 1], (n, 3, h, w)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def unseen(concepts: int) -> np.ndarray:
    """Indices of the concepts that the autoencoder is judged on and never trained with."""
    return np.arange(UNSEEN_OFFSET, concepts, UNSEEN_STRIDE)


def training_scenes(concepts: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """``count`` scenes (n, 5) of seen concepts: any style, half on white, a fifth of them small things."""
    seen = np.setdiff1d(np.arange(concepts), unseen(concepts))
    background = draw.integers(1, len(BACKGROUNDS), count) * draw.integers(0, 2, count)
    columns = [
        draw.choice(seen, count),
        np.full(count, NONE),
        draw.integers(0, len(STYLES), count),
        background,
        (draw.random(count) < 0.2).astype(np.int64),
    ]
    return np.stack(columns, axis=1)


def cropped(pictures: np.ndarray, side_px: int, draw: np.random.Generator) -> np.ndarray:
    """Square crops (n, side, side, 3) of pictures (n, h, w, 3) at random places, half of them mirrored."""
    corners = draw.integers(0, pictures.shape[1] - side_px + 1, (len(pictures), 2))
    mirrored = draw.random(len(pictures)) < 0.5
    crops = [
        picture[top : top + side_px, left : left + side_px]
        for picture, (top, left) in zip(pictures, corners.tolist(), strict=True)
    ]
    return np.stack([crop[:, ::-1] if flip else crop for crop, flip in zip(crops, mirrored, strict=True)])


def loss_of(model: AutoencoderKL, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Training loss and mean squared error (both scalars) of a batch of pictures in [-1, 1]."""
    posterior = model.encode(batch).latent_dist
    error = model.decode(posterior.sample()).sample - batch
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
    # Errors of neighbouring differences weigh on the edges, which flat-coloured art lives by.
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    squared = error.square().mean()
    return squared + ABSOLUTE_WEIGHT * error.abs().mean() + EDGE_WEIGHT * edges + KL_WEIGHT * kl, squared


def train(
    painter: Painter,
    concepts: int,
    plan: AutoencoderPlan,
    start: Path | None,
    work: Path,
    device: torch.device,
    lanes: Lanes,
) -> AutoencoderKL:
    """Trains on painted scenes, crops first; resumes.

    ``start`` is a folder of weights to begin with, or None.
    """
    torch.manual_seed(0)
    model = build() if start is None else AutoencoderKL.from_pretrained(start, dtype=torch.float32)
    model = model.train().to(device, memory_format=torch.channels_last)
    ends = [p for half in (model.encoder, model.decoder) for p in (half.conv_in.weight, half.conv_out.weight)]
    optimizer = Optimizer(list(model.parameters()), ends, lanes.pool)
    checkpoint = Checkpoint(work / "autoencoder.pt", CHECKPOINT_S, model=model, optimizer=optimizer)
    step = checkpoint.load(device)
    steps = plan.crop_steps + plan.whole_steps
    draw = np.random.default_rng(step)
    report = Report("autoencoder", steps, lambda squared: f"{psnr_db(squared):.2f} dB")
    while step < steps:
        # crops cost a quarter and teach as much; whole pictures teach how far the middle reaches
        cropping = step < plan.crop_steps
        size, side_px = (plan.crop_batch, CROP_PX) if cropping else (plan.whole_batch, SQUARE.width_px)
        pictures = painter.paint_all(training_scenes(concepts, size, draw), SQUARE)
        batch = to_model_range(cropped(pictures, side_px, draw))
        batch = batch.to(device, memory_format=torch.channels_last)
        squared = lanes.step(model, lambda share: loss_of(model, share), [batch])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        lr = cosine_lr(step, steps, plan.peak_lr, warmup=30)
        optimizer.step(lr, lr)
        step += 1
        report.add(squared, step)
        checkpoint.tick(step)
    if step > checkpoint.loaded_step:
        checkpoint.save(step)
    return model.eval()


def unseen_psnr_db(model: AutoencoderKL, painter: Painter, concepts: int) -> dict[str, float]:
    """PSNR in dB on the art of unseen concepts, each on a background of the palette: all, and by style."""
    result: dict[str, float] = {}
    kept, squared = unseen(concepts), 0.0
    for index, style in enumerate(STYLES):
        rows = np.stack([np.array([c, NONE, index, c % len(BACKGROUNDS), 0]) for c in kept])
        pictures = to_model_range(painter.paint_all(rows, SQUARE))
        errors = decode(model, encode(model, pictures)) - pictures
        error = float(errors.square().mean())
        squared += error / len(STYLES)
        result[style] = round(psnr_db(error), 2)
    return {"all": round(psnr_db(squared), 2), **result}


def psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error between pictures in [-1, 1]."""
    return float(10.0 * np.log10(4.0 / squared_error))


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Most likely latents (n, 16, h / 8, w / 8), unscaled, of pictures (n, 3, h, w) in [-1, 1]."""
    device = next(model.parameters()).device
    return torch.cat(
        [model.encode(part.to(device)).latent_dist.mode().cpu() for part in torch.split(pictures, 16)]
    )


@torch.no_grad()
def decode(model: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] of unscaled latents (n, 16, h / 8, w / 8)."""
    device = next(model.parameters()).device
    return torch.cat(
        [model.decode(part.to(device)).sample.clamp(-1, 1).cpu() for part in torch.split(latents, 16)]
    )


def scaled(model: AutoencoderKL, pictures: torch.Tensor) -> torch.Tensor:
    """Latents (n, 16, h / 8, w / 8) as the denoiser sees them, of pictures (n, 3, h, w) in [-1, 1]."""
    shift, factor = float(model.config["shift_factor"]), float(model.config["scaling_factor"])
    return (encode(model, pictures) - shift) * factor


def set_latent_statistics(model: AutoencoderKL, latents: torch.Tensor) -> None:
    """Writes shift and scaling factor so that scaled latents have mean 0 and standard deviation 1."""
    model.register_to_config(
        shift_factor=round(float(latents.mean()), 4), scaling_factor=round(1.0 / float(latents.std()), 4)
    )
