"""Derives the stage graph of a model from its modular pipeline. The one module here that imports diffusers.

A workflow of Modular Diffusers resolves to leaf blocks with dotted names; the part before the first dot is
the top-level block, and those are the stages. What a stage reads is what its blocks take and no earlier block
of the same stage makes.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from pipelines.catalogue import Model
from pipelines.errors import GraphRefused
from pipelines.families import Family, pipeline_inputs
from pipelines.graph import Stage, StageGraph
from pipelines.schedulers import check_scheduler
from wire.generation import Generation

# whoever runs this reports errors itself, in one place and in full
diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


def workflow_blocks(model: Model, workflow: str) -> dict[str, Any]:
    """The leaf blocks of one of the model's workflows by dotted name, in the order in which they run."""
    family = model.family_table
    chosen = family.workflows[workflow]
    blocks = _blocks_class(family)()
    if chosen.name is None:
        resolved = blocks.get_execution_blocks(**dict.fromkeys(chosen.triggers, True))
    else:
        resolved = blocks.get_workflow(chosen.name)
    return dict(resolved.sub_blocks)


def init_pipeline(model: Model) -> Any:
    """The model's own pipeline object (its class, its config), with no weights in it.

    Raises `GraphRefused` if the source is not there or is no pipeline.
    """
    if model.source.startswith("/") and not Path(model.source).is_dir():
        raise GraphRefused(f"there is no folder {model.source}")
    try:
        return _blocks_class(model.family_table)().init_pipeline(model.source)
    except (OSError, ValueError) as error:
        raise GraphRefused(f"{model.source} is no pipeline that diffusers can open: {error}") from error


def weight_components(pipe: Any) -> frozenset[str]:
    """Names of the parts that have weights in the model's source. Parts that are null there are not named."""
    index = dict(pipe.config)
    found = set()
    for name in pipe.pretrained_component_names:
        spec = pipe.get_component_spec(name)
        if (
            _is_network(spec.type_hint)
            and spec.pretrained_model_name_or_path is not None
            and index.get(name) is not None
        ):
            found.add(name)
    return frozenset(found)


def derive(name: str, model: Model) -> dict[str, StageGraph]:
    """The stage graph of each workflow of `model`.

    Raises `GraphRefused` with the reason if it cannot be run in stages.
    """
    pipe = init_pipeline(model)
    check_scheduler(name, model, _own_scheduler(name, pipe))
    _check_guidance(pipe, model)
    return {workflow: _derive(name, model, pipe, workflow) for workflow in model.family_table.workflows}


def _own_scheduler(name: str, pipe: Any) -> Any:
    try:
        return pipe.get_component_spec("scheduler").load()
    except (OSError, ValueError) as error:
        raise GraphRefused(f"{name} has no scheduler that diffusers can open: {error}") from error


def _derive(name: str, model: Model, pipe: Any, workflow: str) -> StageGraph:
    weights = weight_components(pipe)
    groups: dict[str, dict[str, Any]] = {}
    for dotted, block in workflow_blocks(model, workflow).items():
        groups.setdefault(dotted.partition(".")[0], {})[dotted] = block
    loops = [stage for stage, blocks in groups.items() if any(is_loop(block) for block in blocks.values())]
    if len(loops) != 1:
        raise GraphRefused(f"{name} has {len(loops)} stages with a denoise loop, expected 1")
    stages: list[Stage] = []
    kind = "encode"
    tagged: dict[str, set[str]] = {}
    for stage_name, blocks in groups.items():
        if stage_name == loops[0]:
            kind = "diffuse"
        elif kind == "diffuse":
            kind = "decode"
        held = weights - set(model.family_table.sizes_only) if kind == "diffuse" else weights
        stages.append(_stage(stage_name, kind, blocks, held, tagged))
    graph = StageGraph(
        model=name,
        workflow=workflow,
        pipeline_class=type(pipe).__name__,
        stages=tuple(stages),
        output=model.family_table.output,
    )
    _check_family(pipe, model, groups[loops[0]])
    _check(graph, model, groups)
    return graph


def _check_guidance(pipe: Any, model: Model) -> None:
    """A network that is told the guidance scale, or one that is not, is what the family says it is."""
    if "transformer" not in pipe.pretrained_component_names:
        return
    spec = pipe.get_component_spec("transformer")
    if spec.pretrained_model_name_or_path is None:
        return  # a stage without its weights is refused by name below
    config = spec.type_hint.load_config(spec.pretrained_model_name_or_path, subfolder=spec.subfolder)
    told = config.get("guidance_embeds")
    if told is not None and told != (model.family_table.guidance == "input"):
        raise GraphRefused(
            f"the transformer of {model.source} {'takes' if told else 'does not take'} the guidance scale as"
            f" an input, so it is not of the family {model.family}"
        )


def _check_family(pipe: Any, model: Model, blocks: dict[str, Any]) -> None:
    """The networks of the loop are those its blocks were written for, or the entry names a wrong family."""
    for block in blocks.values():
        for spec in block.expected_components:
            if spec.name in model.family_table.sizes_only:
                continue
            declared, own = spec.type_hint, pipe.get_component_spec(spec.name).type_hint
            if _is_network(declared) and _is_network(own) and not issubclass(own, declared):
                raise GraphRefused(
                    f"{spec.name} of {model.source} is a {own.__name__}; the family {model.family} runs"
                    f" with a {declared.__name__}"
                )


def _is_network(type_hint: Any) -> bool:
    return isinstance(type_hint, type) and issubclass(type_hint, torch.nn.Module)


def _blocks_class(family: Family) -> Any:
    module, _, name = family.blocks.rpartition(":")
    home = importlib.import_module(module) if module else diffusers
    blocks_class = getattr(home, name, None)
    if blocks_class is None:
        raise GraphRefused(f"diffusers {diffusers.__version__} has no {name}")
    return blocks_class


def is_loop(block: Any) -> bool:
    """Whether `block` is a denoise loop, which calls its own `loop_step` once per step."""
    return isinstance(block, diffusers.modular_pipelines.LoopSequentialPipelineBlocks)


def _stage(
    name: str, kind: str, blocks: dict[str, Any], weights: frozenset[str], tagged: dict[str, set[str]]
) -> Stage:
    """One stage. `tagged` collects, over all stages so far, which names were written under a kwargs tag."""
    components: dict[str, None] = {}
    reads: dict[str, None] = {}
    writes: dict[str, None] = {}
    for block in blocks.values():
        components |= dict.fromkeys(spec.name for spec in block.expected_components)
        for parameter in block.inputs:
            wanted = {parameter.name} if parameter.name else tagged.get(parameter.kwargs_type, set())
            reads |= dict.fromkeys(sorted(wanted - writes.keys()))
        for output in block.intermediate_outputs:
            writes[output.name] = None
            if output.kwargs_type:
                tagged.setdefault(output.kwargs_type, set()).add(output.name)
    return Stage(
        name=name,
        kind=kind,
        blocks=tuple(blocks),
        components=tuple(components),
        loaded=tuple(component for component in components if component in weights),
        reads=tuple(reads),
        writes=tuple(writes),
    )


def _check(graph: StageGraph, model: Model, groups: dict[str, dict[str, Any]]) -> None:
    """Every required input must come from the request or from an earlier stage."""
    sample = Generation(
        prompt="", width_px=64, height_px=64, num_inference_steps=1, guidance_scale=2.0, seed=0
    )
    known = set(pipeline_inputs(model.family_table, sample, model.inputs)) | {"generator"}
    if graph.workflow == "image":
        known |= {"image", "strength"}
    for stage in graph.stages:
        for block in groups[stage.name].values():
            missing = {p.name for p in block.inputs if p.required and p.name} - known
            if missing:
                names = ", ".join(sorted(missing))
                raise GraphRefused(f"stage {stage.name} of {graph.model} needs {names}, which nothing makes")
            known |= {output.name for output in block.intermediate_outputs}
            # a block may fill in an input that it takes optionally and write it back (Wan's timesteps)
            known |= {p.name for p in block.inputs if p.name and not p.required}
        if not stage.loaded:
            raise GraphRefused(f"stage {stage.name} of {graph.model} has no weights in {model.source}")
    if graph.output not in known:
        raise GraphRefused(f"{graph.model} does not write {graph.output!r}")
