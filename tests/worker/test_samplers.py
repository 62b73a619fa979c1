"""Every family with every sampler of its table; pairs that would make noise are refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import pytest
import torch

from pipelines.catalogue import Model, load_catalogue
from pipelines.derive import derive
from pipelines.errors import CatalogueRefused, GraphRefused
from pipelines.families import FAMILIES
from pipelines.samplers import SAMPLERS
from tests.families.cases import CPU, SOURCE, Case, equal, made_split, made_whole, sampled
from tests.families.tiny import TINY
from wire.generation import Generation
from worker.resident import ResidentModel
from worker.schedulers import scheduler_of
from worker.task_pipeline import run_whole

each_family = pytest.mark.parametrize("case", list(TINY), indirect=True)


def generations(case: Case) -> list[Generation]:
    """From text, and from a picture where the family does that."""
    text = msgspec.structs.replace(case.generation, num_inference_steps=6)
    workflow = case.model.family_table.workflows.get("image")
    if workflow is None:
        return [text]
    strength = 0.7 if workflow.takes_strength else None
    return [text, msgspec.structs.replace(text, image=SOURCE, strength=strength)]


@each_family
def test_split_and_paused_equal_whole(case: Case) -> None:
    for sampler in case.model.family_table.samplers:
        with sampled(case, sampler):
            for generation in generations(case):
                expected = made_whole(case, generation)
                for tensor in (expected[0], *expected[1]):
                    assert tensor.isfinite().all(), sampler
                    assert tensor.std() > 0.01, sampler
                assert equal(made_split(case, generation), expected), sampler
                assert equal(made_split(case, generation, pause_at=(2, 3)), expected), sampler


@each_family
def test_one_seed_is_one_picture(case: Case) -> None:
    """Whatever torch's global generator says; and each sampler makes another picture."""
    generation = generations(case)[0]
    pictures = []
    for sampler in case.model.family_table.samplers:
        with sampled(case, sampler):
            torch.manual_seed(1)
            pictures.append(made_whole(case, generation))
            torch.manual_seed(2)
            assert equal(made_whole(case, generation), pictures[-1]), sampler
            other = msgspec.structs.replace(generation, seed=12)
            assert not equal(made_whole(case, other), pictures[-1]), sampler
    for number, picture in enumerate(pictures):
        assert not any(equal(picture, another) for another in pictures[:number])


@each_family
def test_the_noise_schedule_stays_the_models(case: Case) -> None:
    """Solvers name its shift differently; without it the second of six timesteps would be 833, not 923."""
    if case.model.family_table.predicts != "flow":
        return
    generation = generations(case)[0]
    second = {}
    for sampler in case.model.family_table.samplers:
        with sampled(case, sampler):
            second[sampler] = run_whole(case.whole, generation).get("timesteps")[1].item()
    assert max(second.values()) - min(second.values()) < 20, second


def test_the_catalogue_chooses(tmp_path: Path) -> None:
    model = TINY["sd3"](tmp_path)
    assert type(resident(model).pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    chosen = resident(msgspec.structs.replace(model, sampler="unipc-flow")).pipe.scheduler
    assert isinstance(chosen, diffusers.UniPCMultistepScheduler)
    assert (chosen.config.use_flow_sigmas, chosen.config.flow_shift) == (True, 3.0)


def resident(model: Model) -> ResidentModel:
    return ResidentModel("tested", model, CPU)


def test_starting_from_a_picture_is_the_same_mixture() -> None:
    """What diffusers' solvers lack, against the scheduler that has it."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    solver = scheduler_of(euler, "unipc-flow")
    solver.set_timesteps(8)
    euler.set_timesteps(sigmas=solver.sigmas[:-1].tolist(), timesteps=solver.timesteps.tolist())
    # both were shifted already
    euler.sigmas = solver.sigmas
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in solver.timesteps[1:4]:
        mixed = solver.scale_noise(picture, t[None], noise)
        assert torch.allclose(mixed, euler.scale_noise(picture, t[None].float(), noise), atol=1e-6)


REFUSED = [
    *(
        (family, name)
        for family in ("sd3", "flux", "wan")
        for name in ("euler", "euler-a", "dpm++-sde", "lcm")
    ),
    ("sd3", "unipc"),
    ("qwen-image", "dpm++-flow"),
    ("z-image", "unipc-flow"),
    ("z-image", "dpm++-flow"),
    ("sdxl", "flow-euler"),
    ("sdxl", "unipc-flow"),
]


@pytest.mark.parametrize(("family", "sampler"), REFUSED)
def test_pairs_that_make_noise_are_refused(family: str, sampler: str, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(f'[m]\nsource = "x"\nfamily = "{family}"\nsampler = "{sampler}"\n')
    with pytest.raises(CatalogueRefused, match=rf"m\.sampler is '{re.escape(sampler)}'; {family} runs with"):
        load_catalogue(file)
    # and again where the weights are, should an entry come another way
    model = TINY[family](tmp_path)
    with pytest.raises(GraphRefused, match=re.escape(sampler) + ".*" + family):
        derive("m", msgspec.structs.replace(model, sampler=sampler))


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_samplers_expect_what_the_family_predicts(name: str) -> None:
    for family in FAMILIES.values():
        assert (SAMPLERS[name].expects == family.predicts) or name not in family.samplers


def with_scheduler(model: Model, scheduler: Any) -> Model:
    """The saved `model` with another scheduler in its folder."""
    scheduler.save_pretrained(Path(model.source, "scheduler"))
    index = Path(model.source, "model_index.json")
    parts = msgspec.json.decode(index.read_bytes())
    parts["scheduler"] = ["diffusers", type(scheduler).__name__]
    index.write_bytes(msgspec.json.encode(parts))
    return model


OWN_REFUSED = [
    ("sd3", diffusers.LCMScheduler(), "LCMScheduler expects networks that predict noise, those of sd3"),
    ("sd3", diffusers.EulerAncestralDiscreteScheduler(), "EulerAncestralDiscreteScheduler expects.*sd3"),
    (
        "sd3",
        diffusers.FlowMatchHeunDiscreteScheduler(),
        "FlowMatchHeunDiscreteScheduler does not run with sd3",
    ),
    ("wan", diffusers.LCMScheduler(), "LCMScheduler expects.*wan"),
    ("wan", diffusers.UniPCMultistepScheduler(), "UniPCMultistepScheduler expects.*noise.*wan"),
    ("flux", diffusers.EulerDiscreteScheduler(), "EulerDiscreteScheduler expects.*flux"),
    ("sdxl", diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler expects.*sdxl"),
    ("sdxl", diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"), "predict v.*sdxl"),
    ("sdxl", diffusers.DDIMScheduler(), "DDIMScheduler does not run with sdxl, which takes"),
]


@pytest.mark.parametrize(("family", "scheduler", "message"), OWN_REFUSED)
def test_a_models_own_scheduler_is_refused(family: str, scheduler: Any, message: str, tmp_path: Path) -> None:
    model = with_scheduler(TINY[family](tmp_path), scheduler)
    with pytest.raises(GraphRefused, match=message):
        derive("m", model)
    with pytest.raises(GraphRefused, match=message):
        resident(model)


def test_a_scheduler_of_another_class_can_be_replaced(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    model = with_scheduler(TINY["sdxl"](tmp_path), scheduler)
    chosen = resident(msgspec.structs.replace(model, sampler="euler")).pipe.scheduler
    assert type(chosen) is diffusers.EulerDiscreteScheduler
    assert chosen.config.beta_schedule == "scaled_linear"
