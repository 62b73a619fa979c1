"""The catalogue: which models can be served, where they come from, and the bounds of their requests.

A catalogue file is TOML with one table per model. Relative folders are taken from the file's own folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from pipelines.errors import CatalogueRefused, FieldRefused, UnknownModel
from pipelines.families import FAMILIES, Family, check_fields
from pipelines.samplers import SAMPLERS

BUILT_IN = Path(__file__).with_name("catalogue.toml")

DTYPES = ("bfloat16", "float16", "float32")

Positive = Annotated[int, msgspec.Meta(ge=1)]


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One servable model.

    `source` is a folder in diffusers' layout (starts with "." or "/") or a hub id; whether it is there
    shows when it is loaded. `dtype` is the type of weights and arithmetic on a GPU; on a CPU weights are
    widened to float32. Sizes are in pixels, both sides multiples of `size_multiple_px`.
    `frames_per_second` is how fast a clip plays. `workflows`: those of its family's that its weights were
    made for; all where empty. `inputs` are constant inputs of its pipeline. `sampler` replaces the
    model's own scheduler. `adapters`: LoRA adapters by name, each a safetensors file or a folder that
    holds one.
    `decode_tile_px`: side of a tile of a tiled decode, the VAE's own where None; a multiple of the side of
    four latents. `decode_bytes_per_px` replaces the family's figure for a VAE of another width.
    """

    source: str
    family: str
    dtype: str = "bfloat16"
    description: str = ""
    default_size_px: tuple[Positive, Positive] = (1024, 1024)
    min_size_px: Positive = 64
    max_size_px: Positive = 2048
    size_multiple_px: Positive = 16
    default_steps: Positive = 28
    max_steps: Positive = 200
    default_guidance: float = 5.0
    max_guidance: float = 20.0
    default_frames: Positive = 1
    frames_per_second: Positive = 16
    max_prompt_chars: Positive = 4000
    workflows: tuple[str, ...] = ()
    sampler: str | None = None
    adapters: dict[str, str] = {}
    decode_tile_px: Positive | None = None
    decode_bytes_per_px: Positive | None = None
    inputs: dict[str, Any] = {}

    @property
    def family_table(self) -> Family:
        """Its row of the families, with no other workflows than its own."""
        family = FAMILIES[self.family]
        if not self.workflows:
            return family
        workflows = {name: family.workflows[name] for name in self.workflows}
        return msgspec.structs.replace(family, workflows=workflows)


class Catalogue:
    """Models by name."""

    def __init__(self, models: dict[str, Model]) -> None:
        self._models = models

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._models))

    def __getitem__(self, name: str) -> Model:
        """Raises `UnknownModel`, naming what there is."""
        try:
            return self._models[name]
        except KeyError:
            raise UnknownModel(f"unknown model {name!r}; known: {', '.join(self.names)}") from None


def load_catalogue(*files: Path) -> Catalogue:
    """The built-in catalogue, overlaid by `files` in order. Raises `CatalogueRefused`."""
    models: dict[str, Model] = {}
    for file in (BUILT_IN, *files):
        try:
            read = msgspec.toml.decode(file.read_bytes())
        except (OSError, msgspec.MsgspecError) as error:
            raise CatalogueRefused(f"catalogue {file}: {error}") from error
        models |= {name: _checked(name, _model(name, entry, file), file) for name, entry in read.items()}
    return Catalogue(models)


def to_entry(model: Model) -> dict[str, Any]:
    """`model` in builtin types, as messages carry it."""
    entry: dict[str, Any] = msgspec.to_builtins(model)
    return entry


def from_entry(entry: dict[str, Any]) -> Model:
    """The opposite of `to_entry`. Raises `CatalogueRefused`."""
    try:
        return msgspec.convert(entry, type=Model)
    except msgspec.ValidationError as error:
        raise CatalogueRefused(f"catalogue entry: {error}") from error


def _model(name: str, entry: Any, file: Path) -> Model:
    try:
        return msgspec.convert(entry, type=Model)
    except msgspec.ValidationError as error:
        raise CatalogueRefused(f"catalogue {file}: {name}: {error}") from error


def _checked(name: str, model: Model, file: Path) -> Model:
    if model.dtype not in DTYPES:
        raise CatalogueRefused(
            f"catalogue {file}: {name}.dtype is {model.dtype!r}; known: {', '.join(DTYPES)}"
        )
    if model.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CatalogueRefused(f"catalogue {file}: {name}.family is {model.family!r}; known: {known}")
    family = FAMILIES[model.family]
    if model.sampler is not None and model.sampler not in family.samplers:
        raise CatalogueRefused(
            f"catalogue {file}: {name}.sampler is {model.sampler!r}; {model.family} runs with"
            f" {', '.join(family.samplers)}"
        )
    steps = None if model.sampler is None else SAMPLERS[model.sampler].max_steps
    if steps is not None and model.max_steps > steps:
        raise CatalogueRefused(
            f"catalogue {file}: {name}.max_steps is {model.max_steps}; {model.sampler} makes {steps} at most"
        )
    if model.adapters and not family.takes_lora:
        raise CatalogueRefused(f"catalogue {file}: {name}.adapters: {model.family} takes no LoRA adapters")
    for workflow in model.workflows:
        if workflow not in family.workflows:
            raise CatalogueRefused(
                f"catalogue {file}: {name}.workflows has {workflow!r}; {model.family} has"
                f" {', '.join(family.workflows)}"
            )
    if (model.default_frames - 1) % family.frame_stride:
        raise CatalogueRefused(
            f"catalogue {file}: {name}.default_frames is no multiple of {family.frame_stride} and 1 more"
        )
    try:
        check_fields(family, guidance_scale=model.default_guidance, negative_prompt=None)
    except FieldRefused as error:
        raise CatalogueRefused(f"catalogue {file}: {name}.default_guidance: {error}") from error
    for side_px in model.default_size_px:
        if side_px % model.size_multiple_px or not model.min_size_px <= side_px <= model.max_size_px:
            raise CatalogueRefused(
                f"catalogue {file}: {name}.default_size_px is outside the model's own bounds"
            )

    def absolute(source: str) -> str:
        return str((file.parent / source).resolve()) if source.startswith((".", "/")) else source

    adapters = {adapter: absolute(source) for adapter, source in model.adapters.items()}
    return msgspec.structs.replace(model, source=absolute(model.source), adapters=adapters)
