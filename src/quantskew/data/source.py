"""Where the images of a data set come from (``sources:``)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from quantskew.sections import Fraction, Section, Seed

Side = Annotated[int, Field(ge=8, le=1024, description="pixels")]
Size = int | tuple[int, int]
"""Side of a square in pixels, or height and width."""
Interpolation = Literal["bilinear", "bicubic"]


def height_and_width(size: Size) -> tuple[int, int]:
    """Both sides of a size."""
    return size if isinstance(size, tuple) else (size, size)


class Source(Section):
    """Where the images of a data set come from and how they are made ready (``sources:``).

    The key of the section names the reader (``mnist5k``, ``utkface``, …) unless ``reader`` does.
    What is left empty is the reader's own: its size, its label, its split.
    """

    reader: str | None = None
    path: str | None = None  # files already on disk; without it they are looked for, then fetched
    revision: str | None = None  # commit of a data set on the hub
    config: str | None = None  # variant of a data set on the hub
    size: Side | tuple[Side, Side] | None = None  # of a square, or height and width
    resize: Side | None = None  # of the shorter side, and then `size` is cut from the middle
    interpolation: Interpolation = "bilinear"  # of resize
    channels: Literal[1, 3] | None = None
    table: str | None = None  # CSV or JSON lines beside a folder of images
    part: bool = False  # the files are a part of those the table names, and the rest is left out
    image: str = "image"
    label: str | None = None
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # labels, in their order
    split: str | None = None
    attributes: tuple[str, ...] | None = None
    together: str | None = None  # column whose equal values stay on one side of the split
    imbalance: Literal["paper"] | tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Seed = 0
    validation: Literal["leave_out", "train", "test"] = "leave_out"
    duplicates: Literal["together", "drop", "keep"] = "together"
    max_rejects: Fraction = 0.02

    @model_validator(mode="after")
    def _has_a_middle(self) -> "Source":
        sides = self.size if isinstance(self.size, tuple) else (self.size or 0,)
        if self.resize is not None and self.resize < max(sides):
            raise ValueError(f"resize: {self.resize} is smaller than size, which is cut out of it")
        if self.resize is None and self.interpolation != "bilinear":
            raise ValueError("interpolation acts with resize alone; give that, or leave it out")
        return self

    def files(self, name: str, downloads: str) -> list[Path]:
        """Files and folders that the data set of a name is read from; they may be missing."""
        if self.path is None:
            return [Path(downloads, (self.reader or name).removeprefix("imbalanced-"))]
        path = Path(self.path).expanduser()
        beside = path if path.is_dir() else path.parent
        return [path] if self.table is None else [path, beside / self.table]
