"""Stage graphs derived from real pipelines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pipelines.catalogue import Model
from pipelines.derive import derive
from pipelines.errors import GraphRefused
from pipelines.graph import StageGraph
from tests.families.tiny import TINY


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return TINY[request.param](tmp_path_factory.mktemp(request.param))


def test_stages_and_what_flows(model: Model) -> None:
    graph = derive("tiny", model)["text"]
    assert graph.names == ("text_encoder", "denoise", "decode")
    assert [stage.kind for stage in graph.stages] == ["encode", "diffuse", "decode"]
    assert graph.loop_stage == "denoise"
    assert graph.is_last("decode")
    assert "prompt_embeds" in graph.carried("text_encoder")
    assert "latents" in graph.carried("denoise")
    assert graph.carried("decode") == frozenset()
    assert graph.stage("denoise").loaded in {("transformer",), ("unet",)}
    assert graph.stage("decode").loaded == ("vae",)
    with pytest.raises(KeyError):
        graph.stage("no_such")


def test_every_weight_belongs_to_a_stage(model: Model) -> None:
    graph = derive("tiny", model)["text"]
    loaded = [component for stage in graph.stages for component in stage.loaded]
    assert len(loaded) == len(set(loaded))


def test_a_graph_survives_json(model: Model) -> None:
    graph = derive("tiny", model)["text"]
    assert msgspec.json.decode(msgspec.json.encode(graph), type=StageGraph) == graph


def test_a_source_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphRefused, match=r"there is no folder .*/absent"):
        derive("absent", Model(source=str(tmp_path / "absent"), family="sd3"))
    with pytest.raises(GraphRefused, match="no pipeline"):
        derive("empty", Model(source=str(tmp_path), family="sd3"))


def test_an_entry_of_a_wrong_family_is_refused(tmp_path: Path) -> None:
    model = TINY["sd3"](tmp_path)
    for family in TINY.keys() - {"sd3"}:
        with pytest.raises(GraphRefused):
            derive("mistaken", msgspec.structs.replace(model, family=family))
    with pytest.raises(GraphRefused, match="is a SD3Transformer2DModel; the family flux runs with a Flux"):
        derive("mistaken", msgspec.structs.replace(model, family="flux"))


def test_a_source_without_a_part_is_refused(tmp_path: Path) -> None:
    model = TINY["sd3"](tmp_path)
    index = Path(model.source, "model_index.json")
    parts = msgspec.json.decode(index.read_bytes())
    parts["vae"] = [None, None]
    index.write_bytes(msgspec.json.encode(parts))
    with pytest.raises(GraphRefused, match="decode"):
        derive("cut", model)


@pytest.mark.parametrize(("made", "named"), [("flux", "flux-schnell"), ("flux-schnell", "flux")])
def test_a_distilled_model_is_another_family(made: str, named: str, tmp_path: Path) -> None:
    """Its blocks would take a guidance scale, and do nothing with it."""
    model = msgspec.structs.replace(TINY[made](tmp_path), family=named)
    with pytest.raises(GraphRefused, match=f"guidance scale.*{named}"):
        derive("mistaken", model)
