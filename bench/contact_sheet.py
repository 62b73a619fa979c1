"""The contact sheet: rows of pictures with captions, drawn with Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

_INK, _SOFT, _PAPER, _EDGE = "#22252d", "#767b88", "#ffffff", "#e3e5ea"
_TILE_PX, _GAP_PX, _MARGIN_PX = 184, 18, 40
_CAPTION_PX, _HEAD_PX, _SECTION_PX = 52, 112, 74
_RADIUS_PX = 12
_COLUMNS = 7


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture. `caption` is large, `detail` small below it."""

    png: bytes
    caption: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Pictures under one heading."""

    title: str
    note: str
    tiles: tuple[Tile, ...]

    @property
    def n_rows(self) -> int:
        return -(-len(self.tiles) // _COLUMNS)


def sheet(title: str, subtitle: str, sections: Sequence[Section]) -> Image.Image:
    """The whole sheet. Pictures keep their proportions within square tiles."""
    width_px = 2 * _MARGIN_PX + _COLUMNS * _TILE_PX + (_COLUMNS - 1) * _GAP_PX
    row_px = _TILE_PX + _CAPTION_PX + _GAP_PX
    height_px = (
        _HEAD_PX + sum(_SECTION_PX + section.n_rows * row_px for section in sections) + _MARGIN_PX // 2
    )
    image = Image.new("RGB", (width_px, height_px), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN_PX, 32), title, font=_font(32, bold=True), fill=_INK)
    draw.text((_MARGIN_PX, 76), subtitle, font=_font(16), fill=_SOFT)
    y_px = _HEAD_PX
    for section in sections:
        draw.line((_MARGIN_PX, y_px + 6, width_px - _MARGIN_PX, y_px + 6), fill=_EDGE, width=1)
        heading = _font(19, bold=True)
        draw.text((_MARGIN_PX, y_px + 24), section.title, font=heading, fill=_INK)
        note_x_px = _MARGIN_PX + draw.textlength(section.title, font=heading) + 14
        draw.text((note_x_px, y_px + 28), section.note, font=_font(15), fill=_SOFT)
        y_px += _SECTION_PX
        for index, tile in enumerate(section.tiles):
            row, column = divmod(index, _COLUMNS)
            corner = (_MARGIN_PX + column * (_TILE_PX + _GAP_PX), y_px + row * row_px)
            _draw_tile(image, draw, tile, corner)
        y_px += section.n_rows * row_px
    return image


def write_sheet(file: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write it to the PNG `file`."""
    sheet(title, subtitle, sections).save(file, optimize=True)


def _draw_tile(image: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int]) -> None:
    x_px, y_px = corner
    with Image.open(io.BytesIO(tile.png)) as opened:
        picture = opened.convert("RGB")
    scale = _TILE_PX / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_TILE_PX, _TILE_PX), _PAPER)
    square.paste(picture, ((_TILE_PX - size[0]) // 2, (_TILE_PX - size[1]) // 2))
    image.paste(square, corner, _rounded_mask())
    box = (x_px, y_px, x_px + _TILE_PX - 1, y_px + _TILE_PX - 1)
    draw.rounded_rectangle(box, radius=_RADIUS_PX, outline=_EDGE, width=1)
    caption_font, detail_font = _font(16, bold=True), _font(13)
    caption = _fitted(draw, tile.caption, caption_font)
    draw.text((x_px + 2, y_px + _TILE_PX + 7), caption, font=caption_font, fill=_INK)
    detail = _fitted(draw, tile.detail, detail_font)
    draw.text((x_px + 2, y_px + _TILE_PX + 29), detail, font=detail_font, fill=_SOFT)


def _rounded_mask() -> Image.Image:
    """Drawn large and shrunk: Pillow's corners have no smoothing of their own."""
    factor = 4
    side_px = _TILE_PX * factor
    mask = Image.new("L", (side_px, side_px), 0)
    box = (0, 0, side_px - 1, side_px - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius=_RADIUS_PX * factor, fill=255)
    return mask.resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)


def _fitted(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> str:
    """`text`, cut with an ellipsis to the width of a tile."""
    if draw.textlength(text, font=font) <= _TILE_PX:
        return text
    while text and draw.textlength(f"{text}…", font=font) > _TILE_PX:
        text = text[:-1]
    return f"{text.rstrip()}…"


def _font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """matplotlib's own copy of DejaVu Sans: the same face as in the timeline, on any machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size_px)
