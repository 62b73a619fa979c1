"""What only video families have: numbers of frames, a picture that travels, a sampler without a state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image

from pipelines.derive import derive
from pipelines.families import check_fields
from tests.families.cases import SOURCE, Case, case_of, checkpoint_at, handed_over, source_picture
from tests.families.cogvideox import cogvideox
from tests.families.hunyuan_video import hunyuan_video
from tests.families.tiny import TINY
from worker.errors import HandoffRefused
from worker.packing import Payload, pack, unpack
from worker.stages import StageRun
from worker.task_pipeline import run_whole


@pytest.fixture(scope="module", params=["wan", "hunyuan-video-1.5", "ltx", "cogvideox"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name: str = request.param
    return case_of(TINY[name](tmp_path_factory.mktemp(name)))


def test_as_many_frames_as_asked(video: Case) -> None:
    family = video.model.family_table
    for num_frames in (1 + family.frame_stride, 1 + 2 * family.frame_stride):
        check_fields(family, guidance_scale=3.5, negative_prompt=None, num_frames=num_frames)
        generation = msgspec.structs.replace(video.generation, num_frames=num_frames, num_inference_steps=2)
        clip = run_whole(video.whole, generation).get("videos")
        assert clip.shape == (1, num_frames, 3, generation.height_px, generation.width_px)


def test_without_guidance_the_denoiser_runs_once_a_step(video: Case) -> None:
    passes: list[int] = []
    hook = video.whole.pipe.transformer.register_forward_hook(lambda *_: passes.append(1))
    for guidance_scale, per_step in ((3.5, 2), (1.0, 1)):
        passes.clear()
        run_whole(video.whole, msgspec.structs.replace(video.generation, guidance_scale=guidance_scale))
        assert len(passes) == per_step * video.generation.num_inference_steps
    hook.remove()


def test_a_picture_of_another_size_travels_as_it_was_fitted(tmp_path: Path) -> None:
    """HunyuanVideo's image encoder sees the picture as the VAE's stage has cut it."""
    case = case_of(hunyuan_video(tmp_path))
    generation = msgspec.structs.replace(case.generation, image=SOURCE)
    picture = source_picture(generation)
    assert picture is not None
    picture = picture.resize((80, 48), Image.Resampling.NEAREST)
    payload: Payload | None = None
    for stage in case.stages(generation):
        run = StageRun(case.alone[stage], generation, payload, picture)
        run.run(stage)
        payload = handed_over(run.payload(stage))
        if stage == "vae_encoder":
            assert payload.values["image"].size == (generation.width_px, generation.height_px)
    assert torch.equal(run.output(), run_whole(case.whole, generation, picture).get("videos"))


def test_only_plain_pictures_travel() -> None:
    picture = Image.effect_noise((5, 3), 50.0)
    back = unpack(pack(Payload(values={"image": picture.convert("RGB")}))[0]).values["image"]
    assert back.tobytes() == picture.convert("RGB").tobytes()
    with pytest.raises(HandoffRefused, match="image is a Image"):
        pack(Payload(values={"image": picture}))


def test_the_prediction_before_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    """CogVideoX's DPM scheduler gives it to the caller to keep."""
    case = case_of(cogvideox(tmp_path))
    encode = StageRun(case.whole, case.generation)
    encode.run("text_encoder")
    payload = encode.payload("text_encoder")
    checkpoint = checkpoint_at(case.whole, case.generation, payload, 2, stage="denoise")
    name = "old_pred_original_sample"
    assert checkpoint.values[name].shape == checkpoint.values["latents"].shape
    kept = {key: value for key, value in checkpoint.values.items() if key != name}
    whole = run_whole(case.whole, case.generation).get("latents")
    for tried, same in ((checkpoint, True), (replace(checkpoint, values=kept), False)):
        denoise = StageRun(case.alone["denoise"], case.generation, payload)
        denoise.run("denoise", checkpoint=tried)
        assert torch.equal(denoise.payload("denoise").values["latents"], whole) == same


def test_a_source_without_an_image_encoder_serves_text(tmp_path: Path) -> None:
    """As published for HunyuanVideo 1.5: the catalogue says that its weights start from text only."""
    model = hunyuan_video(tmp_path)
    index = Path(model.source, "model_index.json")
    parts = msgspec.json.decode(index.read_bytes())
    del parts["image_encoder"], parts["feature_extractor"]
    index.write_bytes(msgspec.json.encode(parts))
    graphs = derive("published", msgspec.structs.replace(model, workflows=("text",)))
    assert graphs.keys() == {"text"}
