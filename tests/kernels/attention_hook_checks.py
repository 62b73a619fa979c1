"""Every attention call of every family, and which path it takes; switched on for one model, and off again."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

Row = tuple[dict[str, int], tuple[str, ...]]

TEXT: Row = ({}, ("own",))
VAE: Row = ({"AttnProcessor2_0": 2}, ("triton",))
TABLE: dict[str, dict[str, Row]] = {
    "sd3": {
        "text_encoder": TEXT,
        "text_encoder_2": TEXT,
        "text_encoder_3": TEXT,
        "transformer": ({"JointAttnProcessor2_0": 2}, ("triton",)),
        "vae": VAE,
    },
    "flux": {
        "text_encoder": TEXT,
        "text_encoder_2": TEXT,
        "transformer": ({"FluxAttnProcessor": 2}, ("triton",)),
        "vae": VAE,
    },
    "flux2-klein": {
        "text_encoder": TEXT,
        "transformer": ({"Flux2AttnProcessor": 1, "Flux2ParallelSelfAttnProcessor": 1}, ("triton",)),
        "vae": VAE,
    },
    "qwen-image": {
        "text_encoder": TEXT,
        "transformer": ({"QwenDoubleStreamAttnProcessor2_0": 2}, ("triton",)),
        "vae": ({"QwenImageAttentionBlock": 2}, ("triton",)),
    },
    "z-image": {
        "text_encoder": TEXT,
        "transformer": ({"ZSingleStreamAttnProcessor": 4}, ("triton",)),
        "vae": VAE,
    },
    "sdxl": {
        "text_encoder": TEXT,
        "text_encoder_2": TEXT,
        "unet": ({"AttnProcessor2_0": 8}, ("triton",)),
        "vae": VAE,
    },
    "wan": {
        "text_encoder": TEXT,
        "transformer": ({"WanAttnProcessor": 4}, ("triton",)),
        "vae": ({"WanAttentionBlock": 2}, ("triton",)),
    },
    "hunyuan-video-1.5": {
        "text_encoder": TEXT,
        "transformer": ({"AttnProcessor2_0": 1, "HunyuanVideo15AttnProcessor2_0": 1}, ("triton",)),
        "vae": ({}, ("own", "torch: causal over frames")),
    },
    "ltx": {"text_encoder": TEXT, "transformer": ({"LTXVideoAttnProcessor": 4}, ("triton",))},
    "cogvideox": {"text_encoder": TEXT, "transformer": ({"CogVideoXAttnProcessor2_0": 2}, ("triton",))},
}
"""By family and part: how many of which class were switched over, and the paths that calls took.

"own" are calls of torch's attention that a part makes itself: of text encoders, which are transformers', run
once a prompt and are left as they are, and of what has no way in. The families that are not here have the
networks of their namesakes. The VAEs of LTX and CogVideoX attend to nothing.
"""


def seen(name: str) -> dict[str, Any]:
    """What the tiny model `name` calls with everything attached, and how far its result is from torch's."""
    from kernels.attention import Settings, kernel
    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import Switch
    from tests.families.cases import holding
    from tests.families.tiny import TINY
    from wire.generation import Generation
    from worker.task_pipeline import run_whole

    # the fewer and larger its blocks, the faster the interpreter
    kernel._shipped = lambda q, k: Settings(256, 256, 4, 1)
    with tempfile.TemporaryDirectory() as folder:
        model = TINY[name](Path(folder))
        resident = holding(model)
        width_px, height_px = model.default_size_px
        generation = Generation(
            prompt="a cat",
            width_px=width_px,
            height_px=height_px,
            num_inference_steps=2,
            guidance_scale=model.default_guidance,
            seed=11,
            num_frames=model.default_frames,
        )
        output = model.family_table.output
        plain = run_whole(resident, generation).get(output)
        parts = {n: part for n, part in resident.pipe.components.items() if isinstance(part, torch.nn.Module)}
        switches = {part: Switch("triton", torch.device("cpu")) for part in parts}
        attached = {n: attach(part, switches[n]) for n, part in parts.items()}
        with own_calls(parts) as own:
            switched = run_whole(resident, generation).get(output)
        for each in attached.values():
            each.detach()
        again = run_whole(resident, generation).get(output)
    table = {}
    for n in parts:
        paths = {f"{c.path}: {c.reason}".removesuffix(": ") for c in switches[n].counts()}
        paths |= {"own"} if own[n] else set()
        if paths:
            table[n] = (dict(sorted(attached[n].switched.items())), sorted(paths))
    return {
        "table": table,
        "error": float((switched.double() - plain.double()).abs().max()),
        "same": bool(torch.equal(switched, plain)),
        "undone": bool(torch.equal(again, plain)),
    }


@contextmanager
def own_calls(parts: dict[str, torch.nn.Module]) -> Iterator[dict[str, int]]:
    """Counts calls of torch's attention by the part that makes them, but for those through our function."""
    from kernels import attend

    ours_in: Any = attend
    counts = dict.fromkeys(parts, 0)
    inside: list[str] = []
    original: Any = torch.nn.functional.scaled_dot_product_attention
    reference: Any = ours_in.attention_reference
    hooks = []

    def enter(name: str) -> Any:
        return lambda *_: inside.append(name)

    def leave(*_: Any) -> None:
        inside.pop()

    for name, part in parts.items():
        for module in (part, getattr(part, "decoder", None), getattr(part, "encoder", None)):
            if isinstance(module, torch.nn.Module):
                hooks.append(module.register_forward_pre_hook(enter(name)))
                hooks.append(module.register_forward_hook(leave))

    def spied(*args: Any, **kwargs: Any) -> Any:
        if inside:
            counts[inside[-1]] += 1
        return original(*args, **kwargs)

    def ours(*args: Any, **kwargs: Any) -> Any:
        torch.nn.functional.scaled_dot_product_attention = original
        try:
            return reference(*args, **kwargs)
        finally:
            torch.nn.functional.scaled_dot_product_attention = spied

    torch.nn.functional.scaled_dot_product_attention = spied
    ours_in.attention_reference = ours
    yield counts
    torch.nn.functional.scaled_dot_product_attention = original
    ours_in.attention_reference = reference
    for hook in hooks:
        hook.remove()


def families(_device: str) -> None:
    """Each family's part of the table, and pictures that are torch's but for rounding."""
    # as in pyproject.toml
    warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
    for name, table in TABLE.items():
        found = seen(name)
        assert found["table"] == {part: (has, sorted(paths)) for part, (has, paths) in table.items()}, name
        # float32 throughout, some hundred roundings deep, on pixels of 0 to 1
        assert found["error"] <= 2e-5, (name, found["error"])
        assert not found["same"], f"{name}: the kernel left no trace, so it did not run"
        assert found["undone"], name


def neighbours(_device: str) -> None:
    """Attaching one model leaves another of the same classes as it is, and two switches do not mix."""
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import Switch

    registered = dict(_AttentionBackendRegistry._backends)
    members, active = list(AttentionBackendName), _AttentionBackendRegistry._active_backend
    one, other, third = tiny_flux(), tiny_flux(), tiny_flux()
    first, second = (Switch("triton", torch.device("cpu")) for _ in range(2))
    plain = run(one)
    attached = attach(one, first), attach(other, second)
    run(third)
    assert first.counts() == second.counts() == ()
    run(other)
    assert first.counts() == ()
    assert sum(each.calls for each in second.counts()) == 2
    assert not torch.equal(run(one), plain)
    assert list(AttentionBackendName) == members
    assert _AttentionBackendRegistry._active_backend is active
    for each in attached:
        each.detach()
        each.detach()
    assert torch.equal(run(one), plain)
    assert _AttentionBackendRegistry._backends == registered


def falls_back(_device: str) -> None:
    """What the kernel does not take goes to torch, with torch's very result, and is counted by its reason."""
    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import Count, Switch

    wide = tiny_flux().double()
    plain = run(wide)
    switch = Switch("triton", torch.device("cpu"))
    attach(wide, switch)
    assert torch.equal(run(wide), plain)
    assert switch.counts() == (Count("attention", "torch", "type", 2),)


def auto(_device: str) -> None:
    """Torch where nothing was measured; while recording, calls are kept, and measured once asked for."""
    from kernels import tuning
    from kernels.attention import Settings
    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import Choice, Count, Switch

    model = tiny_flux()
    plain = run(model)
    switch = Switch("auto", torch.device("cpu"))
    attach(model, switch)
    assert torch.equal(run(model), plain)
    assert switch.counts() == (Count("attention", "torch", "not measured", 2),)
    assert not switch.recorded
    with switch.recording():
        run(model)
    assert list(switch.recorded) == ["attention float32 d16 q2 k2"]
    said: list[str] = []
    chosen = tuning.tune(switch, 60.0, said.append)
    assert list(chosen) == ["attention float32 d16 q2 k2"]
    assert chosen["attention float32 d16 q2 k2"].path == "torch", "the interpreter is not faster than torch"
    assert Settings(*chosen["attention float32 d16 q2 k2"].settings).block_q >= 16
    assert any("torch" in line for line in said)
    assert torch.equal(run(model), plain)
    assert Count("attention", "torch", "", 2) in switch.counts()
    # what is measured elsewhere is taken over, but nothing changes what was chosen before
    switch.use({"attention float32 d16 q2 k2": Choice("triton")})
    assert torch.equal(run(model), plain)
    other = Switch("auto", torch.device("cpu"), {"attention float32 d16 q2 k2": Choice("triton")})
    second = tiny_flux()
    attach(second, other)
    assert not torch.equal(run(second), plain)


def compiled(_device: str) -> None:
    """Dynamo traces an attached model as one graph, with the op in it, and that does the same."""
    from kernels.attention_hooks import attach_attention as attach
    from kernels.switch import Switch

    model = tiny_flux()
    attach(model, Switch("triton", torch.device("cpu")))
    wanted = run(model)
    graphs: list[str] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(str(graph.graph))
        return graph.forward

    compiled: Any = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(run(compiled), wanted)
    assert [graph.count("torch.ops.triptych.attention") for graph in graphs] == [2]


def tiny_flux() -> Any:
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def run(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    made = {
        "hidden_states": torch.randn(1, 16, 4, generator=generator),
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=generator),
        "pooled_projections": torch.randn(1, 32, generator=generator),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.randn(16, 3, generator=generator),
        "txt_ids": torch.zeros(8, 3),
    }
    with torch.no_grad():
        output: torch.Tensor = model(**{name: each.to(model.dtype) for name, each in made.items()})[0]
    return output


CHECKS: dict[str, Callable[[str], None]] = {
    check.__name__: check for check in (neighbours, falls_back, auto, compiled, families)
}
