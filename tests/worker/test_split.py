"""Split equals whole, bit for bit, over worker objects that hold different parts of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from pipelines.catalogue import Model
from pipelines.errors import FieldRefused
from pipelines.families import check_fields
from tests.families.tiny import TINY
from wire.generation import Generation
from worker.errors import ComponentNotHeld, HandoffRefused, StageNotResident, StopAtBoundary
from worker.packing import Payload, pack, unpack
from worker.resident import ResidentModel
from worker.stages import StageRun
from worker.task_pipeline import run_whole

CPU = torch.device("cpu")
STAGES = ("text_encoder", "denoise", "decode")
EMBEDDED = Path(__file__).parents[2] / "models" / "triptych-emoji"


@dataclass(frozen=True)
class Case:
    """One model, whole on one worker object and split over three."""

    model: Model
    whole: ResidentModel
    encoder: ResidentModel
    denoiser: ResidentModel
    decoder: ResidentModel
    generation: Generation

    @property
    def split(self) -> tuple[ResidentModel, ResidentModel, ResidentModel]:
        return self.encoder, self.denoiser, self.decoder


def _holding(model: Model, *stages: str) -> ResidentModel:
    resident = ResidentModel("tested", model, CPU)
    resident.load(stages)
    return resident


@pytest.fixture(scope="module", params=[*TINY, "embedded"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "embedded":
        model = Model(
            source=str(EMBEDDED), family="sd3", default_size_px=(128, 128), inputs={"max_sequence_length": 0}
        )
    else:
        model = TINY[request.param](tmp_path_factory.mktemp(request.param))
    width_px, height_px = model.default_size_px
    generation = Generation(
        prompt="a cat",
        width_px=width_px,
        height_px=height_px,
        num_inference_steps=4,
        guidance_scale=3.5,
        seed=11,
        num_frames=model.default_frames,
    )
    encode, denoise, decode = (_holding(model, stage) for stage in STAGES)
    return Case(model, _holding(model, *STAGES), encode, denoise, decode, generation)


@contextmanager
def _raw_pixels(resident: ResidentModel) -> Iterator[list[torch.Tensor]]:
    """Collects what the VAE's decoder returns, before it is clamped to 0..1."""
    raw: list[torch.Tensor] = []
    hook = resident.pipe.vae.decoder.register_forward_hook(lambda _m, _i, output: raw.append(output.clone()))
    yield raw
    hook.remove()


def _whole(case: Case, generation: Generation) -> tuple[torch.Tensor, list[torch.Tensor]]:
    with _raw_pixels(case.whole) as raw:
        state = run_whole(case.whole, generation)
    return state.get("latents"), raw


def _handed_over(payload: Payload, drop: str | None = None) -> Payload:
    """Through bytes and back, as between two processes; `drop` loses one field on the way."""
    kept = {name: value for name, value in payload.values.items() if name != drop}
    return unpack(pack(replace(payload, values=kept))[0])


def _split(
    case: Case,
    generation: Generation,
    *,
    drop: str | None = None,
    skip_step: int | None = None,
    lose_generator: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same job over three worker objects; the keyword arguments break it on purpose."""
    payload: Payload | None = None
    latents = torch.empty(0)
    with _raw_pixels(case.decoder) as raw:
        for stage, resident in zip(STAGES, case.split, strict=True):
            run = StageRun(resident, generation, payload)
            if stage == "denoise" and skip_step is not None:
                _skipping(run, resident, skip_step)
            run.run(stage)
            if stage == "decode":
                break
            payload = _handed_over(run.payload(stage), drop)
            if lose_generator:
                payload = replace(payload, generator_state=torch.Generator("cpu").get_state())
            latents = payload.values.get("latents", latents)
    return latents, raw


def _skipping(run: StageRun, resident: ResidentModel, step: int) -> None:
    """Make the scheduler of this run leave the latents alone at one step."""
    scheduler: Any = run._pipe.scheduler
    original, calls = scheduler.step, iter(range(1000))

    def skip(noise: torch.Tensor, t: Any, sample: torch.Tensor, **kwargs: Any) -> Any:
        moved = original(noise, t, sample, **kwargs)
        return (sample,) if next(calls) == step else moved

    scheduler.step = skip


def _equal(
    ours: tuple[torch.Tensor, list[torch.Tensor]], theirs: tuple[torch.Tensor, list[torch.Tensor]]
) -> bool:
    pairs = zip([ours[0], *ours[1]], [theirs[0], *theirs[1]], strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
def test_split_equals_whole(case: Case, guidance_scale: float) -> None:
    generation = msgspec.structs.replace(case.generation, guidance_scale=guidance_scale)
    family = case.model.family_table
    if guidance_scale == 1.0 and not family.runs_unguided:
        with pytest.raises(FieldRefused):
            check_fields(family, guidance_scale=guidance_scale, negative_prompt=None)
        return
    latents, raw = _whole(case, generation)
    assert raw
    for tensor in (latents, *raw):
        assert tensor.isfinite().all()
        assert tensor.std() > 0.01
    assert _equal(_split(case, generation), (latents, raw))


def test_merged_stages_equal_whole(case: Case) -> None:
    """Encode and denoise in one call, decode elsewhere; and all three in one call."""
    expected = run_whole(case.whole, case.generation).get(case.whole.graph.output)
    run = StageRun(case.whole, case.generation)
    run.run("text_encoder")
    run.run("denoise")
    decoded = StageRun(case.decoder, case.generation, _handed_over(run.payload("denoise")))
    decoded.run("decode")
    run.run("decode")
    assert torch.equal(run.output(), expected)
    assert torch.equal(decoded.output(), expected)


def test_one_worker_serves_two_jobs_in_turns(case: Case) -> None:
    """Nothing of one job stays behind in the worker for the next."""
    other = msgspec.structs.replace(case.generation, seed=5, num_inference_steps=3)
    first, second = _whole(case, case.generation), _whole(case, other)
    assert not _equal(first, second)
    assert _equal(_split(case, other), second)
    assert _equal(_split(case, case.generation), first)


def test_negative_controls_differ(case: Case) -> None:
    """What the comparison must notice: another seed, a lost step."""
    expected = _whole(case, case.generation)
    assert not _equal(_split(case, msgspec.structs.replace(case.generation, seed=12)), expected)
    assert not _equal(_split(case, case.generation, skip_step=1), expected)


def test_a_dropped_handoff_field_is_noticed(case: Case) -> None:
    """Every field of every handoff matters: without it the picture differs or the stage refuses."""
    expected = _whole(case, case.generation)
    run = StageRun(case.encoder, case.generation)
    run.run("text_encoder")
    fields = set(run.payload("text_encoder").values) | {"latents"}
    assert len(fields) > 1
    for field in fields:
        try:
            broken = _split(case, case.generation, drop=field)
        except (ValueError, TypeError, AttributeError, RuntimeError):
            continue  # a block refused to run without its input
        assert not _equal(broken, expected), field


def test_generator_state_travels(case: Case) -> None:
    """The picture does not depend on torch's global generator, and the state behind a stage is carried."""
    torch.manual_seed(1)
    first = _split(case, case.generation)
    torch.manual_seed(2)
    assert _equal(_split(case, case.generation), first)
    run = StageRun(case.encoder, case.generation)
    run.run("text_encoder")
    carried = _handed_over(run.payload("text_encoder"))
    denoise = StageRun(case.denoiser, case.generation, carried)
    denoise.run("denoise")
    after = denoise.payload("denoise").generator_state
    assert not torch.equal(after, carried.generator_state)
    fresh = torch.Generator("cpu").manual_seed(case.generation.seed).get_state()
    assert torch.equal(carried.generator_state, fresh)


def test_boundaries_are_reported_and_can_stop(case: Case) -> None:
    run = StageRun(case.encoder, case.generation)
    run.run("text_encoder")
    payload = run.payload("text_encoder")
    seen: list[tuple[int, int]] = []
    StageRun(case.denoiser, case.generation, payload).run("denoise", lambda *at: seen.append(at))
    assert [done for done, _ in seen] == [0, 1, 2, 3, 4]
    assert {steps for _, steps in seen} == {4}

    calls: list[int] = []

    def stop_after_two(done: int, steps: int) -> None:
        calls.append(done)
        if done == 2:
            raise StopAtBoundary(done)

    with pytest.raises(StopAtBoundary) as stopped:
        StageRun(case.denoiser, case.generation, payload).run("denoise", stop_after_two)
    assert stopped.value.steps_done == 2
    assert calls == [0, 1, 2]
    # the worker is as good as before
    assert _equal(_split(case, case.generation), _whole(case, case.generation))


def test_a_stage_that_is_not_resident_is_refused(case: Case) -> None:
    with pytest.raises(StageNotResident):
        StageRun(case.decoder, case.generation).run("text_encoder")


def test_stand_ins_hold_nothing(case: Case) -> None:
    assert 0 < case.decoder.resident_bytes < case.whole.resident_bytes
    assert sum(part.resident_bytes for part in case.split) == case.whole.resident_bytes
    stand_in = case.decoder.pipe.transformer
    assert not isinstance(stand_in, torch.nn.Module)
    assert stand_in.config.num_layers == case.whole.pipe.transformer.config.num_layers
    assert stand_in.dtype == torch.float32
    with pytest.raises(ComponentNotHeld):
        stand_in(torch.zeros(1))
    with pytest.raises(ComponentNotHeld):
        _ = stand_in.forward


def test_evicting_and_loading_again(case: Case) -> None:
    resident = _holding(case.model, *STAGES)
    before = resident.resident_bytes
    resident.evict(("denoise",))
    assert resident.stages == {"text_encoder", "decode"}
    assert resident.resident_bytes < before
    resident.load(("denoise",))
    assert resident.resident_bytes == before
    assert torch.equal(
        run_whole(resident, case.generation).get(resident.graph.output),
        run_whole(case.whole, case.generation).get(case.whole.graph.output),
    )


def test_what_cannot_travel_is_refused() -> None:
    with pytest.raises(HandoffRefused, match=r"a\.0"):
        pack(Payload(values={"a": [object()]}))
    with pytest.raises(HandoffRefused):
        unpack(b"\x08\0\0\0\0\0\0\0nonsense")


def test_payload_round_trip() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    values = {
        "tensors": [tensor, tensor],
        "nested": {"pair": (1, None), "dtype": torch.bfloat16},
        "view": tensor.T,
        "flag": True,
        "scale": 2.5,
    }
    back = unpack(pack(Payload(values=values, tags={"view": ["tag"]}))[0])
    assert back.values["nested"] == values["nested"]
    assert isinstance(back.values["nested"]["pair"], tuple)
    assert torch.equal(back.values["view"], tensor.T)
    assert torch.equal(back.values["tensors"][1], tensor)
    assert (back.values["flag"], back.values["scale"], back.tags) == (True, 2.5, {"view": ["tag"]})
