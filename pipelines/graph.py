"""The stage graph of a model: what its stages are, what each needs, and what flows between them.

Derived once in a worker by `pipelines.derive`; everyone else reads the values here.
"""

from __future__ import annotations

from functools import cached_property

import msgspec


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One top-level part of a modular pipeline.

    `blocks` are the leaf blocks it runs, in order, by their dotted names. `components` are the parts it
    declares, `loaded` those of them that come from weight or tokenizer files. `reads` and `writes` are names
    of pipeline state. `kind` is one of "encode", "diffuse", "decode": where its time is counted.
    """

    name: str
    kind: str
    blocks: tuple[str, ...]
    components: tuple[str, ...]
    loaded: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def has_loop(self) -> bool:
        return self.kind == "diffuse"


class StageGraph(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All stages of one workflow, in order. `output` is the state name of the finished picture or clip.

    `workflow` is "text" or "image": what a request starts from.
    """

    model: str
    workflow: str
    pipeline_class: str
    stages: tuple[Stage, ...]
    output: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @cached_property
    def loop_stage(self) -> str:
        """The one stage that steps."""
        return next(stage.name for stage in self.stages if stage.has_loop)

    def stage(self, name: str) -> Stage:
        """Raises `KeyError` for a name that is no stage of this model."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def carried(self, after: str) -> frozenset[str]:
        """State names that later stages read: what the handoff behind stage `after` may have to hold."""
        later = self.stages[self.names.index(after) + 1 :]
        return frozenset(name for stage in later for name in stage.reads)

    def is_last(self, name: str) -> bool:
        return self.names[-1] == name
