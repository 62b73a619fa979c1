"""What can be wrong with a model before anything runs.

PipelineError
|- UnknownModel        no catalogue entry of that name (the caller's fault)
|- CatalogueRefused    a catalogue file that does not say what it must (the operator's fault)
|- FieldRefused        a request field that this family cannot honour (the caller's fault)
`- GraphRefused        a model whose blocks do not form stages we can run (ours, or the model's)
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of this package's errors."""


class UnknownModel(PipelineError):
    """No catalogue entry of that name."""


class CatalogueRefused(PipelineError):
    """A catalogue file that does not say what it must."""


class FieldRefused(PipelineError):
    """A request field that has no effect, or is out of bounds, on this model. `field` is its public name."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


class GraphRefused(PipelineError):
    """A model whose blocks do not form stages that can be run apart."""
