"""Split equals whole, bit for bit, over worker objects that hold different parts of a model."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from tests.families.cases import Case, equal, handed_over, holding, made_split, made_whole
from worker.errors import ComponentNotHeld, HandoffRefused, StageNotResident, StopAtBoundary
from worker.loop_tap import Capture
from worker.packing import Payload, pack, unpack
from worker.stages import StageRun
from worker.task_pipeline import run_whole

STAGES = ("text_encoder", "denoise", "decode")


@pytest.mark.parametrize("guidance_scale", [3.5, 1.0])
def test_split_equals_whole(case: Case, guidance_scale: float) -> None:
    generation = msgspec.structs.replace(case.generation, guidance_scale=guidance_scale)
    latents, raw = made_whole(case, generation)
    assert raw
    for tensor in (latents, *raw):
        assert tensor.isfinite().all()
        assert tensor.std() > 0.01
    assert equal(made_split(case, generation), (latents, raw))


def test_merged_stages_equal_whole(case: Case) -> None:
    """Encode and denoise in one call, decode elsewhere; and all three in one call."""
    expected = run_whole(case.whole, case.generation).get(case.whole.graphs["text"].output)
    run = StageRun(case.whole, case.generation)
    run.run("text_encoder")
    run.run("denoise")
    decoded = StageRun(case.alone["decode"], case.generation, handed_over(run.payload("denoise")))
    decoded.run("decode")
    run.run("decode")
    assert torch.equal(run.output(), expected)
    assert torch.equal(decoded.output(), expected)


def test_one_worker_serves_two_jobs_in_turns(case: Case) -> None:
    """Nothing of one job stays behind in the worker for the next."""
    other = msgspec.structs.replace(case.generation, seed=5, num_inference_steps=3)
    first, second = made_whole(case, case.generation), made_whole(case, other)
    assert not equal(first, second)
    assert equal(made_split(case, other), second)
    assert equal(made_split(case, case.generation), first)


def test_negative_controls_differ(case: Case) -> None:
    """What the comparison must notice: another seed, a lost step."""
    expected = made_whole(case, case.generation)
    assert not equal(made_split(case, msgspec.structs.replace(case.generation, seed=12)), expected)
    assert not equal(made_split(case, case.generation, skip_step=1), expected)


def test_a_dropped_handoff_field_is_noticed(case: Case) -> None:
    """Every field of every handoff matters: without it the picture differs or the stage refuses."""
    expected = made_whole(case, case.generation)
    run = StageRun(case.alone["text_encoder"], case.generation)
    run.run("text_encoder")
    fields = set(run.payload("text_encoder").values) | {"latents"}
    # the next block takes it from the shape of the embeddings where it is not given
    fields -= {"batch_size"}
    assert len(fields) > 1
    for field in fields:
        try:
            broken = made_split(case, case.generation, drop=field)
        except (ValueError, TypeError, AttributeError, RuntimeError):
            continue  # a block refused to run without its input
        assert not equal(broken, expected), field


def test_generator_state_travels(case: Case) -> None:
    """The picture does not depend on torch's global generator, and the state behind a stage is carried."""
    torch.manual_seed(1)
    first = made_split(case, case.generation)
    torch.manual_seed(2)
    assert equal(made_split(case, case.generation), first)
    run = StageRun(case.alone["text_encoder"], case.generation)
    run.run("text_encoder")
    carried = handed_over(run.payload("text_encoder"))
    denoise = StageRun(case.alone["denoise"], case.generation, carried)
    denoise.run("denoise")
    after = denoise.payload("denoise").generator_state
    # the text encoders draw nothing, so what they make does not depend on the seed
    assert carried.generator_state is None
    assert after is not None
    fresh = torch.Generator("cpu").manual_seed(case.generation.seed).get_state()
    assert not torch.equal(after, fresh)


def test_boundaries_are_reported_and_can_stop(case: Case) -> None:
    run = StageRun(case.alone["text_encoder"], case.generation)
    run.run("text_encoder")
    payload = run.payload("text_encoder")
    seen: list[tuple[int, int]] = []
    StageRun(case.alone["denoise"], case.generation, payload).run(
        "denoise", lambda done, steps, capture: seen.append((done, steps))
    )
    assert [done for done, _ in seen] == [0, 1, 2, 3, 4]
    assert {steps for _, steps in seen} == {4}

    calls: list[int] = []

    def stop_after_two(done: int, steps: int, capture: Capture) -> None:
        calls.append(done)
        if done == 2:
            raise StopAtBoundary(done)

    with pytest.raises(StopAtBoundary) as stopped:
        StageRun(case.alone["denoise"], case.generation, payload).run("denoise", stop_after_two)
    assert stopped.value.steps_done == 2
    assert calls == [0, 1, 2]
    # the worker is as good as before
    assert equal(made_split(case, case.generation), made_whole(case, case.generation))


def test_a_stage_that_is_not_resident_is_refused(case: Case) -> None:
    with pytest.raises(StageNotResident):
        StageRun(case.alone["decode"], case.generation).run("text_encoder")


def _sizes(part: Any) -> dict[str, Any]:
    """The config without what diffusers notes beside it, such as the folder that it was read from."""
    return {name: value for name, value in part.config.items() if not name.startswith("_")}


def test_stand_ins_hold_nothing(case: Case) -> None:
    assert 0 < case.alone["decode"].resident_bytes < case.whole.resident_bytes
    stages = case.stages(case.generation)
    parts = [case.alone[stage].resident_bytes for stage in stages]
    assert sum(parts) == holding(case.model, *stages).resident_bytes
    (denoiser,) = case.whole.graphs["text"].stage(case.loop_stage).loaded
    stand_in = getattr(case.alone["decode"].pipe, denoiser)
    assert not isinstance(stand_in, torch.nn.Module)
    assert _sizes(stand_in) == _sizes(getattr(case.whole.pipe, denoiser))
    assert stand_in.dtype == torch.float32
    with pytest.raises(ComponentNotHeld):
        stand_in(torch.zeros(1))
    with pytest.raises(ComponentNotHeld):
        _ = stand_in.forward


def test_evicting_and_loading_again(case: Case) -> None:
    resident = holding(case.model, *STAGES)
    before = resident.resident_bytes
    resident.evict(("denoise",))
    assert resident.stages == {"text_encoder", "decode"}
    assert resident.resident_bytes < before
    resident.load(("denoise",))
    assert resident.resident_bytes == before
    assert torch.equal(
        run_whole(resident, case.generation).get(resident.graphs["text"].output),
        run_whole(case.whole, case.generation).get(case.whole.graphs["text"].output),
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
    assert back.values["view"].stride() == tensor.T.stride()
    assert torch.equal(back.values["tensors"][1], tensor)
    assert (back.values["flag"], back.values["scale"], back.tags) == (True, 2.5, {"view": ["tag"]})
