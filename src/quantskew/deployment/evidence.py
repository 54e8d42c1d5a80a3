"""What the gate judges: variants of a study, or a pair of ONNX files on labelled images."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from quantskew import tables
from quantskew.analysis.gate import Evidence, Policy
from quantskew.data.decoding import decode_all
from quantskew.data.groups import Groups, groupings
from quantskew.data.loading import load
from quantskew.data.preprocess import Preprocess
from quantskew.data.source import Source
from quantskew.data.sources import read
from quantskew.data.sources.registry import Image
from quantskew.engine.fingerprint import file_hash
from quantskew.errors import UserError, close_names, one_of
from quantskew.layout import folder_of, predictions_path, samples_path, stored_variants
from quantskew.names import FULL_PRECISION, Variant
from quantskew.sections import checked

if TYPE_CHECKING:
    from quantskew.deployment.onnx_files import OnnxNetwork
    from quantskew.params import Params

_PIXELS = Preprocess(scale=255, mean=(0.0,), std=(1.0,))  # what files of quantskew take
_LIBRARIES = ("quantskew", "onnx", "onnxruntime", "numpy", "scipy")
_BATCH = 256


class EvidenceError(UserError, ValueError):
    """A network of the study that is not there, or files and images that do not fit together."""


def from_study(
    study: "Params", policy: Policy, variant: str, *, dataset: str | None, model: str | None
) -> Evidence:
    """Read what a variant answered, and the fp32 network it was made from.

    Parameters
    ----------
    study
        All parameters.
    policy
        Its ``groups`` replace those of the study.
    variant
        Name of its file without the suffix: ``int8_random-8bit-seed0`` of the stage ``deploy``,
        ``ptq-4bit-seed0`` of ``quantize``.
    dataset, model
        May be left out of a study that has only one.

    Raises
    ------
    UserError
        When there is no such data set, model or variant, with those there are.
    """
    dataset = one_of("dataset", dataset, study.datasets)
    model = one_of("model", model, study.models)
    known = {}
    evaluated = folder_of("evaluate", dataset, model)
    stored = stored_variants(dataset, model)
    for one, (file, base) in stored.items():
        known[one.stem] = (one, base, file, stored[base].file, evaluated)
    deployed = folder_of("deploy", dataset, model)
    for row in tables.read("deployed", deployed / "deployed.parquet").to_pylist():
        one = Variant(*(row[column] for column in Variant._fields))
        base = one._replace(method=row["base"], bits=FULL_PRECISION)
        files = (deployed / row["file"], deployed / f"{base.stem}.onnx")
        known[one.stem] = (one, base, *files, deployed)
    if variant not in known:
        raise EvidenceError(
            f"no variant {variant!r} of {model} on {dataset}{close_names(variant, known)}; "
            f"there are {', '.join(known)}"
        )
    used = {"bins", "preprocess", "output", "threshold"} & policy.model_fields_set
    if used:
        raise EvidenceError(
            f"{', '.join(sorted(used))} in the policy is for a pair of files (--fp32, --int8); the "
            f"answers of {variant} are stored"
        )
    found, base, file, base_file, folder = known[variant]
    simulated = folder == evaluated and found.bits != FULL_PRECISION
    note = f"{variant} is simulated in PyTorch; no runtime executes this file"
    test = load(samples_path(dataset)).test
    groups = study.groups.model_copy(update={"minimum": policy.minimum})
    return Evidence(
        name=f"{dataset} {model} {found.stem}",
        reference=base.stem,
        labels=test.labels.numpy(),
        before=_answers(folder, base, test.ids),
        after=_answers(folder, found, test.ids),
        n_classes=len(test.classes),
        divisions=groupings(test.attributes, policy.groups or study.groups_of(dataset), groups),
        bytes=file.stat().st_size,
        classes=test.classes,
        warnings=(note,) if simulated else (),
        provenance=_provenance(network=[file], reference=[base_file], data=[samples_path(dataset)]),
    )


def _answers(folder: Path, variant: Variant, ids: np.ndarray) -> np.ndarray:
    path = predictions_path(folder, variant)
    rows = tables.read("predictions", path, ["id", "prediction", "logits"]).to_pandas()
    rows = rows.set_index("id").loc[ids]
    _check_finite({str(path): np.stack([*rows["logits"]])}, ids)
    answers: np.ndarray = rows["prediction"].to_numpy()
    return answers


def _provenance(**files: list[Path]) -> dict[str, Any]:
    """Hash what a verdict rests on, and note the versions of the libraries."""
    hashes = {
        what if part == parts[0] else f"{what} {part.name}": file_hash(part)
        for what, parts in files.items()
        for part in parts
    }
    return {"sha256": hashes, "versions": {name: version(name) for name in _LIBRARIES}}


def from_files(
    fp32: Path,
    int8: Path,
    data: Path,
    policy: Policy,
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
) -> Evidence:
    """Run a pair of ONNX files on labelled images.

    Parameters
    ----------
    fp32, int8
        The reference and the file to judge.
    data
        A Parquet file with the columns ``image`` (bytes of a picture, or arrays), ``label`` and
        attributes; or the table ``samples`` of a study. Of data with a split, the test part is
        taken.
    policy
        Its ``groups`` are columns, or their intersections; the label unless given. Its
        ``preprocess`` says how images are fed to files that quantskew did not write.
    label
        Name of the column of the label: indices of the outputs, or names of classes.
    classes
        Names of the classes in the order of the outputs, for files that do not know them.

    Raises
    ------
    FileError
        When a file cannot be run.
    EvidenceError
        When the files differ in their images or classes, labels are no classes of theirs, it is not
        known how images are fed, too many images are unusable, or answers are not finite.
    """
    from quantskew.deployment import onnx_files

    layout = policy.preprocess.layout if policy.preprocess else "NCHW"
    reference, network = (
        onnx_files.OnnxNetwork(path, output=policy.output, layout=layout) for path in (fp32, int8)
    )
    for what in ("shape", "classes"):
        first, second = getattr(reference, what), getattr(network, what)
        if first != second:
            raise EvidenceError(f"{fp32} has {what} {first}, {int8} has {second}; give a pair")
    preprocess, shape = _preprocess(network, reference, policy)
    rows, images, known = _rows(data, label)
    names = _one_list(
        {"--classes": classes, f"the metadata of {int8}": network.classes, str(data): known}
    )
    try:
        pixels, rejects = _pixels(images, len(rows), shape, preprocess)
    except (pa.ArrowException, OSError) as error:
        raise EvidenceError(f"{data} cannot be read: {error}") from None
    if pixels.dtype == np.float32:
        preprocess = _for_floats(preprocess, pixels, policy)
    usable, listed, left_out = _test_part(rows, rejects, data, policy)
    rows = rows.iloc[usable].reset_index(drop=True)
    logits = {
        str(file.path): _logits(file, pixels, usable, preprocess) for file in (reference, network)
    }
    _check_finite(logits, rows["id"].to_numpy())
    before, after = (
        _classes_answered(file, logits[str(file.path)], policy) for file in (reference, network)
    )
    if before.n != after.n:
        raise EvidenceError(f"{fp32} has {before.n} outputs, {int8} has {after.n}; give a pair")
    if names and len(names) != after.n:
        raise EvidenceError(
            f"there are {len(names)} names of classes ({', '.join(names[:12])}), and {int8} tells "
            f"{after.n} classes apart"
        )
    labels = _codes(rows["label"], names, after.n, data, int8)
    names = names or tuple(map(str, range(after.n)))
    rows["label"] = pd.Categorical.from_codes(labels, pd.Index(names))
    files = {"network": onnx_files.parts(int8), "reference": onnx_files.parts(fp32)}
    integers = onnx_files.inventory(onnx_files.read(int8))
    return Evidence(
        name=str(int8),
        reference=str(fp32),
        labels=labels,
        before=before.answers,
        after=after.answers,
        n_classes=after.n,
        divisions=groupings(
            rows.drop(columns=["id", "split"], errors="ignore"),
            policy.groups or ("label",),
            checked(Groups, {"minimum": policy.minimum, "bins": policy.bins}, "the policy"),
        ),
        bytes=onnx_files.stored_bytes(int8),
        classes=names,
        input=f"{'×'.join(map(str, shape))}; {preprocess.steps(shape[0])}",
        warnings=(*left_out, *_doubts(files, integers)),
        provenance=_provenance(**files, data=[data]) | {"rejects": listed, "integers": integers},
    )


def _one_list(given: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the names of the classes, on which all that name them must agree."""
    named = {where: names for where, names in given.items() if names}
    if len({*named.values()}) > 1:
        lists = "; ".join(f"{where}: {', '.join(names)}" for where, names in named.items())
        raise EvidenceError(f"the classes or their order differ: {lists}")
    return next(iter(named.values()), ())


def _test_part(
    rows: pd.DataFrame, unusable: Mapping[int, str], data: Path, policy: Policy
) -> tuple[np.ndarray, list[str], list[str]]:
    """Positions of the test images that can be used, the rejected ones, and what to say of both."""
    in_test = rows["split"].eq("test").to_numpy() if "split" in rows else np.ones(len(rows), bool)
    total = int(in_test.sum())
    if not total:
        raise EvidenceError(f"{data} has no test images; the gate judges by these alone")
    unlabelled = dict.fromkeys(np.flatnonzero(rows["label"].isna()).tolist(), "it has no label")
    reasons = {r: why for r, why in sorted({**unlabelled, **unusable}.items()) if in_test[r]}
    listed = [f"{rows['id'].iloc[row]}: {reason}" for row, reason in reasons.items()]
    first_three = "; ".join(listed[:3])
    said = f"{len(listed)} of {total} images of {data} are unusable: {first_three}"
    if len(listed) > policy.max_rejects * total:
        raise EvidenceError(
            f"{said}; the policy allows {100 * policy.max_rejects:g} % (max_rejects)"
        )
    warnings = [said] if listed else []
    if total < len(rows):
        warnings.append(f"{len(rows) - total} images of other parts than test are left out")
    return np.flatnonzero(in_test & ~np.isin(np.arange(len(rows)), [*reasons])), listed, warnings


def _doubts(files: Mapping[str, list[Path]], integers: Mapping[str, Any]) -> Iterator[str]:
    """Say where the file to judge is the reference itself, or hardly quantized."""
    from quantskew.deployment.onnx_files import MINIMUM_INTEGER

    if len({tuple(map(file_hash, parts)) for parts in files.values()}) == 1:
        yield "both files are the same, byte for byte"
    share = integers["integer_bytes"]
    if share < MINIMUM_INTEGER:
        yield (
            f"{files['network'][0]} is no integer network: {integers['integer_layers']} of "
            f"{integers['layers']} layers have integer weights, {100 * share:.1f} % of the bytes "
            "of all weights"
        )


def _preprocess(
    network: "OnnxNetwork", reference: "OnnxNetwork", policy: Policy
) -> tuple[Preprocess, tuple[int, int, int]]:
    """How images are fed, and the channels, height and width that the files take."""
    axes = [*network.session.get_inputs()[0].shape]
    stated = policy.preprocess
    if stated is None:
        foreign = [str(n.path) for n in (reference, network) if not n.takes_pixels]
        if foreign:
            layout = "NHWC" if axes[3] in (1, 3) and axes[1] not in (1, 3) else "NCHW"
            raise EvidenceError(
                f"{' and '.join(foreign)}: how images are to be fed is not in the file, which "
                f"quantskew did not write (input {axes}). State it in the policy, with the values "
                "used in training: preprocess: {resize: 256, crop: 224, scale: 255, mean: [0, 0, "
                f"0], std: [1, 1, 1], layout: {layout}, channels: RGB}}"
            )
        stated = _PIXELS
    channels, height, width = network.shape
    channels = channels or 3
    if channels not in (1, 3):
        hint = "; state preprocess: {layout: NHWC}" if axes[3] in (1, 3) else ""
        raise EvidenceError(
            f"{network.path} wants images of {channels} channels (input {axes}, read as "
            f"{stated.layout}), and pictures have 1 or 3{hint}"
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
    return stated, (channels, *form)


def _rows(path: Path, label: str) -> tuple[pd.DataFrame, Iterable[Image], tuple[str, ...]]:
    """Rows with their label as a text, their images, and the classes that the data name."""
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
        test = load(path).test
        pixels = test.images.numpy().transpose(0, 2, 3, 1)
        images = (one[..., 0] if one.shape[-1] == 1 else one for one in pixels)
        return test.attributes.assign(id=test.ids, split="test"), images, test.classes
    try:
        raw = read("data", Source(reader="parquet", path=str(path), label=label), path.parent)
    except (pa.ArrowException, OSError) as error:
        raise EvidenceError(f"{path} cannot be read: {error}") from None
    return raw.rows, raw.images, ()


def _pixels(
    images: Iterable[Image], n: int, shape: tuple[int, int, int], preprocess: Preprocess
) -> tuple[np.ndarray, dict[int, str]]:
    """Images (N, C, H, W) in uint8, or in float32 if they are floats, and why some are missing."""
    iterator, seen = iter(images), []
    for image in iterator:  # up to the first that tells pictures from floats
        seen.append(image)
        if isinstance(image, np.ndarray | Path) or (isinstance(image, bytes) and image):
            break
    images = chain(seen, iterator)
    if isinstance(seen[-1], np.ndarray) and seen[-1].dtype.kind == "f":
        if preprocess.resizes:
            raise EvidenceError("images are arrays of floats, which no preprocess resizes or crops")
        pixels = np.zeros((n, *shape), np.float32)
        unusable = {}
        for row, image in enumerate(images):
            array = np.atleast_3d(np.asarray(image)) if isinstance(image, np.ndarray) else None
            if array is not None and array.shape == (*shape[1:], shape[0]):
                array = array.transpose(2, 0, 1)
            if array is None or array.shape != shape:
                given = type(image).__name__ if array is None else f"an array {array.shape}"
                unusable[row] = f"{given}, where {shape} is needed"
            elif not np.isfinite(array).all():
                unusable[row] = "values that are not finite"
            else:
                pixels[row] = array
        return pixels, unusable
    with tempfile.TemporaryDirectory() as folder:
        pixels, _, unusable = decode_all(
            images,
            n,
            size=shape[1:],
            channels=shape[0],
            fit=preprocess.fit if preprocess.resizes else None,
            folder=folder,
        )
    return pixels, unusable


def _for_floats(preprocess: Preprocess, images: np.ndarray, policy: Policy) -> Preprocess:
    """How floats are fed: as the policy says, else as they come if they are pixels in [0, 1]."""
    if policy.preprocess is not None:
        return preprocess
    if images.min() < 0 or images.max() > 1:
        raise EvidenceError(
            f"images are floats from {images.min():g} to {images.max():g}, and the files take "
            "values in [0, 1]; state preprocess: {scale: …, mean: …, std: …} in the policy"
        )
    return preprocess.model_copy(update={"scale": 1.0})


def _logits(
    network: "OnnxNetwork", pixels: np.ndarray, rows: np.ndarray, preprocess: Preprocess
) -> np.ndarray:
    import torch

    answers = []
    for part in np.array_split(rows, -(-len(rows) // _BATCH)):
        values = torch.from_numpy(preprocess.values(np.asarray(pixels[part])))
        try:
            answers.append(network(values).numpy().reshape(len(part), -1))
        except Exception as error:  # whatever the runtime says of a shape that does not fit
            reason = str(error).strip().partition("\n")[0][:200]
            raise EvidenceError(
                f"{network.path} does not run on images of shape {tuple(values.shape)}: {reason}"
            ) from None
    return np.concatenate(answers)


def _check_finite(logits: Mapping[str, np.ndarray], ids: np.ndarray) -> None:
    problems = []
    for name, numbers in logits.items():
        wrong = np.flatnonzero(~np.isfinite(numbers).all(1))
        if len(wrong):
            problems.append(
                f"{name} answers NaN or infinity for {len(wrong):,} of {len(numbers):,} images, "
                f"first for {ids[wrong[0]]}"
            )
    if problems:
        raise EvidenceError("; ".join(problems))


class _Answered(NamedTuple):
    answers: np.ndarray
    n: int


def _classes_answered(network: "OnnxNetwork", scores: np.ndarray, policy: Policy) -> _Answered:
    """Class of each image, and how many classes there are."""
    n = scores.shape[1]
    if policy.threshold is not None:
        if n != 1:
            raise EvidenceError(
                f"the policy states a threshold, and {network.path} gives {n} scores for each "
                "image: leave it out, the highest score answers"
            )
        return _Answered((scores[:, 0] >= policy.threshold).astype(np.int64), 2)
    if n == 1:
        raise EvidenceError(
            f"{network.path} gives one score for each image; state in the policy from which on it "
            "means class 1: threshold: 0.5 for probabilities, threshold: 0 for logits"
        )
    return _Answered(scores.argmax(1), n)


def _codes(
    labels: "pd.Series[Any]", names: tuple[str, ...], n: int, data: Path, network: Path
) -> np.ndarray:
    """Labels as indices of the outputs."""
    place = {name: code for code, name in enumerate(names or map(str, range(n)))}
    for name in labels.unique():
        if name not in place:
            legal = ", ".join(names) if names else f"0 to {n - 1}, or texts with --classes"
            raise EvidenceError(
                f"{data}: label {name!r} is no class of {network}, which has {legal}"
                f"{close_names(name, [*place]) if names else ''}"
            )
    codes: np.ndarray = labels.astype(str).map(place).to_numpy(np.int64, copy=True)
    return codes
