"""Images of any kind of container as :class:`~quantskew.data.loading.Samples`.

========================= ======================================================================
given                     what is read of it
========================= ======================================================================
``Samples``               as it is
path to a Parquet file    the table ``samples``, or a file of your own with the columns ``image``
                          (bytes of a picture), ``label`` and any attributes
``params.Source``         any source of ``params.yaml``, with its own columns, size and path
``DataLoader``            batches ``(images, labels)`` or ``(images, labels, {attribute: values})``
``Dataset``               the same, sample by sample
``(images, labels)``      arrays or tensors; a third item holds the attributes, a mapping or frame
========================= ======================================================================

A dataset, or that of a loader that does not shuffle, may instead have a data frame ``attributes``
with one row a sample. Images are (N, C, H, W): uint8 is scaled to [0, 1] when the network runs,
floats are taken as they come, for the network was trained on what its loader gives. Those of a
loader lie in a temporary file, of which the system keeps in memory what there is room for. Labels
are the indices of the outputs; labels that are texts, in a file of your own, need ``classes`` of
its ``Source``: which output stands for which.

Pictures of a file keep their size and colours where the network takes them. Else they are cut to
their middle and scaled to the size that the network names, with a warning that says so.
"""

import io
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from quantskew import models
from quantskew.data.loading import Samples, load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source
from quantskew.data.sources.registry import KEYS, Image, read
from quantskew.errors import UserError, named

Data = Samples | str | Path | Source | DataLoader[Any] | Dataset[Any] | tuple[Any, ...] | list[Any]
_BATCH = 256
_INDEX = re.compile("0|[1-9][0-9]*")  # not "01", which would be the output of "1"


class DataError(UserError, ValueError):
    """Images, labels or attributes that do not fit together or do not fit the network."""


def samples(data: Data, network: nn.Module, *, split: Literal["train", "test"]) -> Samples:
    """Read labelled images and check that a network can be run on them.

    Parameters
    ----------
    data
        See the table above.
    network
        Takes the images and gives logits (N, classes).
    split
        Which part to take of a file that publishes a split; all samples of anything else.

    Raises
    ------
    DataError
        When lengths differ, a label is no output of the network, it is not known which output a
        label stands for, or the kind is unknown.
    ModelError
        When the network does not take the images or does not give one row of logits for each.

    Warns
    -----
    UserWarning
        When images of a file cannot be used, with the first three and why.
    """
    if isinstance(data, Samples):
        found = data
    elif isinstance(data, str | Path | Source):
        found = _from_file(data, split, network)
    elif isinstance(data, DataLoader | Dataset):
        with named("reading the samples", DataError):
            found = _assembled(*_collected(data))
    elif isinstance(data, tuple | list) and len(data) in (2, 3):
        with named("reading the samples", DataError):
            found = _assembled(*data)
    else:
        raise DataError(
            f"data is a {type(data).__name__}; give a DataLoader, a Dataset, the path of a Parquet "
            "file, or (images, labels) with attributes as a third item"
        )
    return _checked(found, network)


def classes_of(network: nn.Module, images: Tensor) -> int:
    """Run a network on two images and return how many logits it gives for each."""
    some = images[:2]
    models.check(network)
    what = f"the network does not run on images of shape {tuple(some.shape)} ({some.dtype}): it"
    with named(what, models.ModelError):  # whatever its layers say of a shape that does not fit
        outputs = models.logits(models.clone(network), some)
    if outputs.ndim != 2 or len(outputs) != len(some) or outputs.shape[1] < 2:
        raise models.ModelError(
            f"the network gives shape {tuple(outputs.shape)} for {len(some)} images; "
            "logits (images, classes) of two classes or more are needed"
        )
    return outputs.shape[1]


def _from_file(given: str | Path | Source, split: str, network: nn.Module) -> Samples:
    source = given if isinstance(given, Source) else Source(reader="parquet", path=str(given))
    path = Path(source.path or "").expanduser()
    if path.is_file() and path.suffix == ".parquet":
        try:
            notes = pq.read_schema(path).metadata or {}
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is not a whole Parquet file: {error}") from None
        if notes.get(b"table") == b"samples":
            found = load(path)
            return {"train": found.train, "test": found.test}[split]
    with tempfile.TemporaryDirectory() as folder:
        source = _fitted(source, network, folder)
        prepared = prepare("data", source, folder, draw=False)
        prepared.write(Path(folder, "samples.parquet"))
        found = load(Path(folder, "samples.parquet"))
    left_out = prepared.rejects[~prepared.rejects["kept"].astype(bool)]
    if len(left_out):
        first = "; ".join(f"{row.id}: {row.reason}" for row in left_out.head(3).itertuples())
        warnings.warn(f"{len(left_out)} samples of {path} are left out: {first}", stacklevel=4)
    in_order = source.classes or "classes" not in KEYS.get(source.reader or "", ())
    if not in_order and not all(_INDEX.fullmatch(name) for name in found.classes):
        raise DataError(
            f"the labels of {path} are {', '.join(found.classes[:12])}; which output of the "
            f"network stands for which is not known. Give Source(reader={source.reader!r}, path=…, "
            "classes=(…)), the labels in the order of the outputs"
        )
    if not in_order:  # numbers are the outputs themselves, though not all may be there
        outputs = torch.tensor([int(name) for name in found.classes])
        found = replace(found, labels=outputs[found.labels], classes=())
    if found.metadata["split"]["by"] == "published":
        found = getattr(found, split)
        if not len(found):
            raise DataError(f"{path} has no {split} samples; give the path of those to use as such")
    return found


def _fitted(source: Source, network: nn.Module, folder: str) -> Source:
    """Choose the size and the planes of pictures whose source leaves them open, and say so."""
    if source.size is not None and source.channels is not None:
        return source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prepare() reads them again and warns
        shapes = [*filter(None, map(_shape, read("data", source, folder).images))]
    if not shapes:
        return source  # prepare() says what is wrong with them
    modes, sides = {mode for _, mode in shapes}, Counter(side for side, _ in shapes)
    own = sides if len(sides) == 1 else ()
    stated = [(source.size, source.size) if isinstance(source.size, int) else source.size]
    known = [*own, *((side, side) for side in _declared(network))]
    planes = 1 if modes == {1} else 3
    tried = [
        (size, channels)
        for size in (filter(None, stated) if source.size else known)
        for channels in ([source.channels] if source.channels else [planes, 4 - planes])
    ]
    for size, channels in tried:
        try:
            classes_of(network, torch.zeros(2, channels, *size, dtype=torch.uint8))
        except models.ModelError:
            continue
        others = [(side, n) for side, n in sides.most_common() if side != size]
        changes = [f"{n} images of {h}×{w} pixels" for (h, w), n in others]
        if source.size is None and changes:
            warnings.warn(
                f"{source.path}: {', '.join(changes[:3])} are cut to their middle and "
                f"scaled to {size[0]}×{size[1]}; Source(…, size=…) chooses another size",
                stacklevel=5,
            )
        if source.channels is None and modes != {channels}:
            warnings.warn(
                f"{source.path}: images are turned into {'grey' if channels == 1 else 'RGB'}, as "
                "the network takes them",
                stacklevel=5,
            )
        return source.model_copy(update={"size": size, "channels": channels})
    most = ", ".join(f"{h}×{w}" for h, w in sorted(sides)[:3])
    raise DataError(
        f"{source.path}: the images have {most} pixels{' and more' if len(sides) > 3 else ''}, and "
        "at which size the network takes them is not known; give "
        f"Source(reader={source.reader!r}, path=…, size=…, channels=…)"
    )


def _shape(image: Image) -> tuple[tuple[int, int], int] | None:
    """Height and width of a picture, and 1 or 3 for grey or colour; ``None`` of a broken one."""
    if isinstance(image, np.ndarray):
        return (image.shape[0], image.shape[1]), 1 if image.ndim == 2 else 3
    if not isinstance(image, bytes | Path):
        return None
    try:
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
            width, height = picture.size
            return (height, width), 1 if picture.mode in ("1", "L", "LA") else 3
    except Exception:  # a broken header may raise nearly anything; prepare() rejects the picture
        return None


def _declared(network: nn.Module) -> list[int]:
    """Sides of the images that a network of timm or Hugging Face says it was made for."""
    patches: Any = getattr(network, "patch_embed", None)
    sides = [getattr(patches, "img_size", None)]
    for attribute in ("pretrained_cfg", "default_cfg"):
        settings = getattr(network, attribute, None) or {}
        sides.append(settings.get("input_size") if isinstance(settings, Mapping) else None)
    sides.append(getattr(getattr(network, "config", None), "image_size", None))
    plain = [side[-1] if isinstance(side, list | tuple) else side for side in sides]
    return [*dict.fromkeys(side for side in plain if isinstance(side, int))]


def _collected(data: DataLoader[Any] | Dataset[Any]) -> tuple[Tensor, Tensor, pd.DataFrame]:
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=_BATCH)
    labels, attributes, form, count = [], [], None, 0
    with tempfile.TemporaryFile() as spool:
        for batch in loader:
            if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
                raise DataError(
                    f"a batch is a {type(batch).__name__}; (images, labels) is needed, or "
                    "(images, labels, {attribute: values})"
                )
            part = torch.as_tensor(batch[0]).detach().cpu()
            part = part.float() if part.is_floating_point() else part
            if form not in (None, (tuple(part.shape[1:]), part.dtype)):
                raise DataError(
                    f"images of {tuple(part.shape[1:])}, {part.dtype}, come after images of "
                    f"{form[0]}, {form[1]}"
                )
            form, count = (tuple(part.shape[1:]), part.dtype), count + len(part)
            part.numpy().tofile(spool)
            labels.append(torch.as_tensor(batch[1]))
            if len(batch) == 3:
                attributes.append(_frame(batch[2]))
        if form is None:
            raise DataError("the loader gives no batch")
        pages = np.memmap(spool, part.numpy().dtype, "r+", shape=(count, *form[0]))
    if attributes:
        frame = pd.concat(attributes, ignore_index=True)
    else:
        frame = _frame(getattr(loader.dataset, "attributes", None))
        if len(frame.columns) and not _in_order(loader):
            raise DataError(
                "the loader shuffles, so the rows of dataset.attributes cannot be told apart; give "
                "shuffle=False, or batches (images, labels, {attribute: values})"
            )
    return torch.from_numpy(pages), torch.cat(labels), frame


def _in_order(loader: DataLoader[Any]) -> bool:
    batches = loader.batch_sampler
    drawn = batches.sampler if type(batches) is BatchSampler else loader.sampler
    return type(batches) in (BatchSampler, type(None)) and isinstance(drawn, SequentialSampler)


def _frame(attributes: Any) -> pd.DataFrame:
    if isinstance(attributes, Mapping):
        attributes = pd.DataFrame({name: _column(v) for name, v in attributes.items()})
    if attributes is None:
        return pd.DataFrame()
    if not isinstance(attributes, pd.DataFrame):
        raise DataError(
            f"attributes are a {type(attributes).__name__}; a mapping of names to values is "
            "needed, or a data frame"
        )
    return attributes


def _column(values: Any) -> "pd.Series[Any]":
    # values that have an index stand in the order of the images all the same
    given = pd.Series(values.cpu().numpy() if isinstance(values, Tensor) else values)
    return given.reset_index(drop=True)


def _assembled(images: Any, labels: Any, attributes: Any = None) -> Samples:
    pixels, codes = torch.as_tensor(images), torch.as_tensor(labels)
    frame = _frame(attributes).reset_index(drop=True)
    if not frame.columns.is_unique:
        raise DataError(
            f"two attributes are named {frame.columns[frame.columns.duplicated()][0]!r}"
        )
    if "label" in frame:
        raise DataError("an attribute is named 'label', which is the class; rename it")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise DataError(
            f"images are {pixels.dtype} of shape {tuple(pixels.shape)}; uint8 or floats of "
            "(N, C, H, W) are needed"
        )
    if codes.ndim != 1 or codes.is_floating_point():
        raise DataError(f"labels are {codes.dtype} of {tuple(codes.shape)}; N integers are needed")
    sizes = {"images": len(pixels), "labels": len(codes)}
    sizes |= {"attributes": len(frame)} if len(frame.columns) else {}
    if len(set(sizes.values())) > 1 or not len(pixels):
        raise DataError(
            f"lengths differ or are 0: {', '.join(f'{n} {k}' for k, n in sizes.items())}"
        )
    n = len(codes)
    return Samples(
        images=pixels if pixels.dtype == torch.uint8 else pixels.float(),
        labels=codes.long().cpu(),
        ids=np.array([f"{i:07d}" for i in range(n)], object),
        split=np.full(n, "test"),
        attributes=frame if len(frame.columns) else pd.DataFrame(index=range(n)),
        classes=(),
        metadata={},
    )


def _checked(found: Samples, network: nn.Module) -> Samples:
    outputs = classes_of(network, found.images)
    if found.classes:
        if len(found.classes) != outputs:
            raise DataError(
                f"the data name {len(found.classes)} classes ({', '.join(found.classes[:12])}), "
                f"the network has {outputs} outputs"
            )
        return found
    labels = found.labels.numpy()
    wrong = np.flatnonzero((labels < 0) | (labels >= outputs))
    if len(wrong):
        raise DataError(
            f"label {labels[wrong[0]]} of sample {wrong[0]} (and {len(wrong) - 1} more) is no "
            f"class: the network has {outputs} outputs, 0 to {outputs - 1}"
        )
    classes = tuple(map(str, range(outputs)))
    named = pd.Categorical.from_codes(labels, pd.Index(classes))
    return replace(found, classes=classes, attributes=found.attributes.assign(label=named))
