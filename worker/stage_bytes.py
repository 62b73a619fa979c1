"""What a model's stages would take on this worker, from its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.catalogue import Model
from pipelines.derive import init_pipeline, weight_components
from pipelines.graph import StageGraph
from worker.config_only import stand_in
from worker.errors import LoadRefused


def stage_bytes(
    name: str, model: Model, graphs: Mapping[str, StageGraph], dtype: torch.dtype
) -> dict[str, int]:
    """Bytes of the weights of each stage's parts; a part counts in every stage that needs it.

    Raises `LoadRefused` if a part's configuration cannot be read.
    """
    pipe = init_pipeline(model)
    try:
        part_bytes = {
            part: stand_in(part, pipe.get_component_spec(part), dtype).n_bytes
            for part in weight_components(pipe)
        }
    except (OSError, ValueError) as error:
        raise LoadRefused(f"{name}: {error}") from error
    parts: dict[str, set[str]] = {}
    for graph in graphs.values():
        for stage in graph.stages:
            parts.setdefault(stage.name, set()).update(stage.loaded)
    return {stage: sum(part_bytes[part] for part in loaded) for stage, loaded in parts.items()}
