"""Labelled images, fed in batches to files of networks; a few batches are in memory at a time."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from quantskew.data.decoding import decode, resize_and_crop
from quantskew.data.preprocess import Preprocess
from quantskew.data.source import Source
from quantskew.data.sources import read
from quantskew.data.sources.registry import Image, UnusableError
from quantskew.deployment.runtimes import BATCH, Layout, Network, open_file
from quantskew.errors import UserError, close_names

if TYPE_CHECKING:
    from quantskew.analysis.gate import Policy

_PIXELS = Preprocess(scale=255, mean=(0.0,), std=(1.0,))  # what files of quantskew take
_VALUES = 1 << 23
"""Values of a batch at most, so that its copies need some ten megabytes."""
Pixels = np.ndarray | UnusableError
"""One decoded image, channels × height × width, or why there is none."""


class EvidenceError(UserError, ValueError):
    """A network of the study that is not there, or files and images that do not fit together."""


@dataclass
class Labelled:
    """Labelled images of a file.

    Attributes
    ----------
    rows
        One row an image with the columns ``id`` and ``label``, both texts, and the attributes;
        ``split`` where the file has one.
    images
        One a row; gone through once.
    classes
        Names of the classes in their order, where the file knows them.
    part
        Which images are fed to networks, where the file has a split.
    """

    path: Path
    rows: pd.DataFrame
    images: Iterable[Image]
    classes: tuple[str, ...] = ()
    part: Literal["test", "train"] = "test"


def read_labelled(path: Path, label: str, part: Literal["test", "train"] = "test") -> Labelled:
    """Open a Parquet file with images, or a part of the table ``samples`` of a study.

    Raises
    ------
    EvidenceError
        When it is no such file, is broken, or has no rows.
    """
    if not path.is_file():  # a pipe would wait for ever
        problem = "is not a regular file" if path.exists() else "no such file"
        raise EvidenceError(f"{path}: {problem}")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise EvidenceError(f"{path} is not a whole Parquet file: {error}") from None
    if not file.metadata.num_rows:
        raise EvidenceError(f"{path} has no rows")
    if (file.schema_arrow.metadata or {}).get(b"table") == b"samples":
        from quantskew.data.loading import load  # which needs torch

        own = getattr(load(path), part)
        pixels = own.images.numpy().transpose(0, 2, 3, 1)
        images = (one[..., 0] if one.shape[-1] == 1 else one for one in pixels)
        return Labelled(path, own.attributes.assign(id=own.ids), images, own.classes)
    try:
        raw = read("data", Source(reader="parquet", path=str(path), label=label), path.parent)
    except (pa.ArrowException, OSError) as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from None
    return Labelled(path, raw.rows, raw.images, part=part)


@dataclass
class Input:
    """How images are fed to files that take the same.

    Attributes
    ----------
    preprocess
        Steps from a picture to the input.
    shape
        Channels, height and width of the input.
    layout
        Of the input of the last of the files.
    stated
        Whether the policy says how, so that floats are fed so too.
    """

    preprocess: Preprocess
    shape: tuple[int, int, int]
    layout: Layout
    stated: bool

    @property
    def steps(self) -> str:
        """How images are fed, in a line."""
        fed = self.preprocess.model_copy(update={"layout": self.layout})
        return f"{'×'.join(map(str, self.shape))}; {fed.steps(self.shape[0])}"

    def picture(self, image: Image) -> Pixels:
        """Decode a picture."""
        said = self.preprocess
        fit = said.resizes and partial(
            resize_and_crop, resize=said.resize, crop=said.crop, interpolation=said.interpolation
        )
        channels, *size = self.shape
        try:
            return decode(image, size=(size[0], size[1]), channels=channels, fit=fit or None)
        except UnusableError as reason:
            return reason

    def floats(self, image: Image) -> Pixels:
        """Check an array of floats, and bring its axes into order."""
        array = np.atleast_3d(image) if isinstance(image, np.ndarray) else None
        if array is not None and array.shape == (*self.shape[1:], self.shape[0]):
            array = array.transpose(2, 0, 1)
        if array is None or array.shape != self.shape:
            given = type(image).__name__ if array is None else f"an array {array.shape}"
            return UnusableError(f"{given}, where {self.shape} is needed")
        if not np.isfinite(array).all():
            return UnusableError("values that are not finite")
        return array.astype(np.float32)

    def values(self, pixels: np.ndarray) -> np.ndarray:
        """Floats are fed as stated, else as they come if they are pixels in [0, 1]."""
        if pixels.dtype == np.uint8 or self.stated:
            return self.preprocess.values(pixels)
        if pixels.min() < 0 or pixels.max() > 1:
            raise EvidenceError(
                f"images are floats from {pixels.min():g} to {pixels.max():g}, and the files take "
                "values in [0, 1]; state preprocess: {scale: …, mean: …, std: …} in the policy"
            )
        self.preprocess = self.preprocess.model_copy(update={"scale": 1.0})
        return pixels


class Feed:
    """The images of a part of a file as the input of one or several networks.

    Iterating gives pairs of the rows of a batch and its values for each network, float32
    (n, C, H, W); images that one of them cannot use are left out.

    Parameters
    ----------
    data
        The images.
    networks
        Files; those that the policy does not tell apart take the same images.
    policy
        Says how images are fed, which may be left out for files that quantskew wrote, and how many
        may be unusable.
    at_most
        Number of images to use, spread over all; all unless given.

    Attributes
    ----------
    inputs
        How images are fed to each network; the same object where it is the same.
    rejects
        Once all is gone through: what was left out, and why.
    warnings
        Likewise: what is to be said of that.

    Raises
    ------
    EvidenceError
        When the networks take different images, it is not known how images are fed, the policy
        names a file that is not there, or too many images are unusable.
    """

    def __init__(
        self,
        data: Labelled,
        networks: Sequence[Network],
        policy: "Policy",
        *,
        at_most: int | None = None,
    ) -> None:
        self.data, self.max_rejects, self.at_most = data, policy.max_rejects, at_most
        own = [policy.fed(network.path) for network in networks]
        fitted = {
            stated: _fitting(
                [one for one, how in zip(networks, own, strict=True) if how == stated], stated
            )
            for stated in own
        }
        self.inputs = [fitted[stated] for stated in own]
        self._distinct = [*fitted.values()]
        fixed = max(network.batch or 1 for network in networks)
        largest = max(math.prod(one.shape) for one in self._distinct)
        free = min(BATCH, max(1, _VALUES // largest))
        self.batch = -(-free // fixed) * fixed
        self.rejects: list[str] = []
        self.warnings: list[str] = []

    def steps(self, *places: int) -> str:
        """How images are fed to some of the networks, in a line; once where it is the same."""
        return " | ".join(dict.fromkeys(self.inputs[place].steps for place in places))

    def __iter__(self) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        rows, path = self.data.rows, self.data.path
        in_part = np.ones(len(rows), bool)
        if "split" in rows:
            in_part = rows["split"].eq(self.data.part).to_numpy()
        if not in_part.any():
            raise EvidenceError(
                f"{path} has no {self.data.part} images; only these are fed to networks"
            )
        labelled = rows["label"].notna().to_numpy()
        unusable = dict.fromkeys(np.flatnonzero(in_part & ~labelled).tolist(), "it has no label")
        wanted = in_part & labelled
        if self.at_most is not None and self.at_most < wanted.sum():
            usable = np.flatnonzero(wanted)
            spread = np.linspace(0, len(usable) - 1, self.at_most).astype(int)
            wanted[:] = False
            wanted[usable[spread]] = True
        with tqdm(total=int(wanted.sum()), unit="image", disable=None) as bar:
            for places, pixels in self._decoded(wanted):
                good = {}
                for row, several in zip(places, pixels, strict=True):
                    whole = [one for one in several if isinstance(one, np.ndarray)]
                    if len(whole) == len(several):
                        good[row] = whole
                    else:
                        reasons = (one for one in several if isinstance(one, UnusableError))
                        unusable[row] = str(next(reasons))
                if good:
                    values = {
                        id(one): one.values(np.stack([several[at] for several in good.values()]))
                        for at, one in enumerate(self._distinct)
                    }
                    yield np.array([*good]), [values[id(one)] for one in self.inputs]
                bar.update(len(places))
        self._judge_rejects(unusable, in_part, wanted)

    def _decoded(self, wanted: np.ndarray) -> Iterator[tuple[list[int], list[list[Pixels]]]]:
        """Decode in threads for each input, a batch ahead of the one that is used."""
        iterator, seen = iter(self.data.images), []
        try:
            for image in iterator:  # up to the first that tells pictures from floats
                seen.append(image)
                if isinstance(image, np.ndarray | Path) or (isinstance(image, bytes) and image):
                    break
            floats = isinstance(seen[-1], np.ndarray) and seen[-1].dtype.kind == "f"
            if floats and any(one.preprocess.resizes for one in self._distinct):
                raise EvidenceError(
                    "images are arrays of floats, which no preprocess resizes or crops"
                )
            work = [one.floats if floats else one.picture for one in self._distinct]

            def decoded(image: Image) -> list[Pixels]:
                return [one(image) for one in work]

            images = (item for item in enumerate(chain(seen, iterator)) if wanted[item[0]])
            ahead: tuple[list[int], Iterator[list[Pixels]]] = [], iter(())
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                while batch := [*islice(images, self.batch)]:
                    places, pixels = ahead
                    ahead = [row for row, _ in batch], pool.map(decoded, [one for _, one in batch])
                    yield places, [*pixels]
                yield ahead[0], [*ahead[1]]
        except (pa.ArrowException, OSError) as error:
            raise EvidenceError(f"{self.data.path} cannot be read: {error}") from None

    def _judge_rejects(
        self, unusable: Mapping[int, str], in_part: np.ndarray, wanted: np.ndarray
    ) -> None:
        ids, path = self.data.rows["id"], self.data.path
        self.rejects = [f"{ids.iloc[row]}: {why}" for row, why in sorted(unusable.items())]
        unlabelled, looked_at = (in_part & self.data.rows["label"].isna()).sum(), wanted.sum()
        said = (
            f"{len(unusable)} of {unlabelled + looked_at} images of {path} are unusable: "
            + "; ".join(self.rejects[:3])
        )
        broken, total = len(unusable) - unlabelled, in_part.sum()
        # those that are looked at stand for all that have a label
        share = (unlabelled + broken * (total - unlabelled) / max(looked_at, 1)) / total
        if share > self.max_rejects or broken == looked_at:
            raise EvidenceError(
                f"{said}; the policy allows {100 * self.max_rejects:g} % (max_rejects)"
            )
        self.warnings += [said] if unusable else []
        if others := len(ids) - total:
            self.warnings.append(
                f"{others} images of other parts than {self.data.part} are left out"
            )


def answers_of(feed: Feed, networks: Sequence[Network]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Run files on the same images.

    Returns
    -------
    rows
        The images that can be used, (N,).
    scores
        What each file gives for these, (N, scores).
    """
    rows, scores = [], [list[np.ndarray]() for _ in networks]
    for part, several in feed:
        rows.append(part)
        for network, values, given in zip(networks, several, scores, strict=True):
            given.append(network(values))
    return np.concatenate(rows), [np.concatenate(given) for given in scores]


def opened(paths: Sequence[Path], policy: "Policy", *, threads: int | None = None) -> list[Network]:
    """Open files as a policy says: which output answers, and the order of the axes if it is stated.

    Raises
    ------
    EvidenceError
        When the policy says how a file is fed that is not among them.
    """
    names = [text for path in paths for text in (path.name, str(path))]
    for name in policy.preprocess_of:
        if name not in names:
            raise EvidenceError(
                f"preprocess_of in the policy: no file {name!r}{close_names(name, names)}; there "
                f"are {', '.join(path.name for path in paths)}"
            )
    return [open_file(path, threads=threads, **as_stated(policy, path)) for path in paths]


def as_stated(policy: "Policy", path: Path) -> dict[str, Any]:
    """What a policy says of the output and the layout of a file, as ``open_file`` takes it."""
    fed = policy.fed(path)
    known = fed is not None and "layout" in fed.model_fields_set
    return {"output": policy.output, "layout": fed.layout if fed is not None and known else None}


def calibration_images(
    file: Path, data: Path, policy: "Policy", at_most: int, *, label: str = "label"
) -> np.ndarray:
    """Return images of the training part of a file as another file takes them, (N, C, H, W).

    Parameters
    ----------
    file
        The file that takes them.
    data, policy, label
        As in :func:`quantskew.deployment.evidence.from_files`; all images of data without a split.
    at_most
        Number of images, spread over all.
    """
    networks = opened([file], policy)
    feed = Feed(read_labelled(data, label, part="train"), networks, policy, at_most=at_most)
    return np.concatenate([values for _, (values,) in feed])


def _fitting(networks: Sequence[Network], stated: Preprocess | None) -> Input:
    """How images are fed to files that take the same."""
    network = networks[-1]
    shape = [*network.shape]
    for other in networks:
        if any(a and b and a != b for a, b in zip(other.shape, network.shape, strict=True)):
            raise EvidenceError(
                f"{other.path} has shape {other.shape}, {network.path} has {network.shape}; state "
                "in the policy how each is fed: preprocess_of: {FILE: {…}}"
            )
        shape = [a or b for a, b in zip(shape, other.shape, strict=True)]
    axes, known = [*network.input.shape], stated is not None
    if stated is None:
        foreign = [str(one.path) for one in networks if not one.takes_pixels]
        if foreign:
            usual = "scale: 255, mean: [0, 0, 0], std: [1, 1, 1]"
            if network.takes_codes:
                usual = "scale: 1, mean: 0, std: 1"
            raise EvidenceError(
                f"{' and '.join(foreign)}: how images are to be fed is not in the file, which "
                f"quantskew did not write (input {axes} {network.input.dtype}). State it in the "
                "policy, with the values used in training: preprocess: {resize: 256, crop: 224, "
                f"{usual}, layout: {network.layout}, channels: RGB}}"
            )
        stated = _PIXELS
    channels, height, width = shape
    channels = channels or 3
    if channels not in (1, 3):
        hint = "; state preprocess: {layout: NHWC}" if axes[3] in (1, 3) else ""
        raise EvidenceError(
            f"{network.path} wants images of {channels} channels (input {axes}, read as "
            f"{network.layout}), and pictures have 1 or 3{hint}"
        )
    size = stated.size()
    wanted = (height or (size and size[0]), width or (size and size[1]))
    if wanted[0] is None or wanted[1] is None:
        raise EvidenceError(
            f"{network.path} takes images of any size (input {axes}); state the one to judge at in "
            "the policy: preprocess: {resize: [HEIGHT, WIDTH], …}"
        )
    form = (int(wanted[0]), int(wanted[1]))
    if size is not None and size != form:
        raise EvidenceError(
            f"preprocess gives images of {size[0]}×{size[1]} pixels, {network.path} wants "
            f"{form[0]}×{form[1]}"
        )
    return Input(stated, (channels, *form), network.layout, known)
