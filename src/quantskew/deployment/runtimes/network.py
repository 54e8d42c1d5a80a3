"""A file of a network, whichever runtime executes it: its input, its output, its answers.

A runtime is a subclass of :class:`Network` in a file of this package, which says what files it
opens, what must be installed, and how they are run. Everything else is the same for all: the order
of the axes, batches of a fixed size, the codes of integer inputs and outputs, and what is no
classifier.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np

from quantskew.errors import UserError, close_names

_Name = TypeVar("_Name")
Layout = Literal["NCHW", "NHWC"]
AXES: dict[str, tuple[int, int, int]] = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
"""Where channels, height and width are among the axes of an input."""
PIXELS = {"pixels": "[0, 1]"}
"""Metadata of a file that takes pixel values divided by 255, as all that quantskew writes do."""
NOTES = "quantskew"
"""Under which name files that hold metadata of several makers have those of quantskew."""

MINIMUM_INTEGER = 0.5
"""Share of the bytes of the weights that must be integers in a file that is named by a width."""
BLOCK = 32
"""Weights of a row that share a scale in 4 bits, where a runtime has such blocks."""
BATCH = 32
"""Images that a file gets at a time. With more of them, activations take most of the memory, and a
file that measures ranges as it runs takes those of a batch: so all that judge files share it."""


class FileError(UserError, ValueError):
    """A file that cannot be run or is not an image classifier."""


class Port(NamedTuple):
    """An input or output of a file.

    Attributes
    ----------
    shape
        ``None`` for an axis that is not fixed.
    scale, zero
        Of integer codes that stand for ``scale`` × (code − ``zero``); a scale of 0 means that
        integers are the values themselves.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    scale: float = 0.0
    zero: int = 0


class Weight(NamedTuple):
    """The stored weight of a layer: whether it is integers, the bits of a number, and how many."""

    integer: bool
    bits: int
    size: float

    @property
    def bytes(self) -> float:
        """Size of the packed numbers, without scales and zero points."""
        return self.size * self.bits / 8


def inventory(weights: Iterable[Weight]) -> dict[str, Any]:
    """Count the layers of a network, those with integer weights, and the share of their bytes.

    Examples
    --------
    >>> inventory([Weight(True, 8, 30), Weight(False, 32, 2.5)])
    {'layers': 2, 'integer_layers': 1, 'integer_bytes': 0.75}
    """
    listed = [*weights]
    integer = [weight for weight in listed if weight.integer]
    share = _bytes(integer) / _bytes(listed) if listed else 0.0
    return {"layers": len(listed), "integer_layers": len(integer), "integer_bytes": share}


def check_width(name: str, runtime: str, weights: Sequence[Weight], bits: int) -> None:
    """Refuse to name a file by a width that most of its weights do not have."""
    own = [weight for weight in weights if weight.integer and weight.bits <= bits]
    share = _bytes(own) / (_bytes(weights) or 1)
    if share < MINIMUM_INTEGER:
        raise FileError(
            f"{name} is no file of {bits} bits: {runtime} packs {len(own)} of {len(weights)} "
            f"layers so, {100 * share:.2g} % of the bytes of the weights, and "
            f"{100 * MINIMUM_INTEGER:g} % are needed"
        )


def share_by_type(weights: Iterable[Weight]) -> dict[str, float]:
    """Share of the bytes of the weights of a network that each type has, the largest first.

    Examples
    --------
    >>> share_by_type([Weight(True, 4, 60), Weight(False, 32, 2.5)])
    {'int4': 0.75, 'float32': 0.25}
    """
    sizes: dict[str, float] = defaultdict(float)
    for weight in weights:
        sizes[f"{'int' if weight.integer else 'float'}{weight.bits}"] += weight.bytes
    largest_first = sorted(sizes.items(), key=lambda item: -item[1])
    return {name: size / sum(sizes.values()) for name, size in largest_first}


def _bytes(weights: Iterable[Weight]) -> float:
    return sum(weight.bytes for weight in weights)


class Network(ABC):
    """A file that a runtime executes on the CPU.

    Parameters
    ----------
    path
        An image classifier with one input of four axes, of floats or integers, and an output
        (N, classes) of scores or (N,) of labels or single scores.
    output
        Name of the output that answers, if there are several.
    layout
        Order of the axes of the input. Left out, it is where an axis of 1 or 3 says that the
        channels are; NCHW if that may be either.
    threads
        How many the runtime uses; its own choice unless given.

    Attributes
    ----------
    shape
        C, H, W of the images; ``None`` for a dimension that is not fixed.
    batch
        Images that every run takes; ``None`` if any number does.
    notes
        Metadata of the file.
    remarks
        What is to be said of how the file is run.

    Raises
    ------
    FileError
        When the runtime is not installed or cannot load the file, or the file is no classifier.
    """

    kinds: ClassVar[dict[str, type["Network"]]] = {}
    """The runtimes by the suffix of their files."""
    runtime: ClassVar[str]
    library: ClassVar[str]
    install: ClassVar[str]

    def __init_subclass__(cls, *, suffix: str, runtime: str, library: str, install: str) -> None:
        """Register a runtime by the suffix of its files.

        ``library`` is the distribution whose version is noted, ``install`` what pip is to install.
        """
        super().__init_subclass__()
        cls.runtime, cls.library, cls.install = runtime, library, install
        Network.kinds[suffix] = cls

    def __init__(
        self,
        path: str | Path,
        *,
        output: str | None = None,
        layout: Layout | None = None,
        threads: int | None = None,
    ) -> None:
        self.path, self.notes = Path(path), dict[str, str]()
        self.remarks: list[str] = []
        if not self.path.is_file():
            raise FileError(f"{path}: no such file")
        try:
            inputs, outputs = self._load(threads)
        except ImportError as error:
            raise FileError(
                f"{path} needs {self.runtime}, which cannot be imported ({error}): "
                f"pip install '{self.install}'"
            ) from None
        except Exception as error:  # every runtime has exceptions of its own
            raise FileError(
                f"{path} is not a file that {self.runtime} can run: {first_line(error)}"
            ) from None
        names = [port.name for port in outputs]
        if (len(outputs) != 1) if output is None else (output not in names):
            raise FileError(
                f"{path} has {len(outputs)} outputs, {', '.join(names)}; name the one that answers "
                f"as output: in the policy{'' if output is None else f' (got {output!r})'}"
            )
        self.place = names.index(output or names[0])
        self.input, self.output = inputs[0], outputs[self.place]
        self._check_classifier(inputs)
        self.batch, *_ = shape = self.input.shape
        self.layout = layout or (
            "NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW"
        )
        self.shape = tuple(shape[axis] for axis in AXES[self.layout])

    @staticmethod
    def of(path: str | Path) -> type["Network"]:
        """Return the runtime of a file by its suffix."""
        suffix = Path(path).suffix.lower()
        if suffix not in Network.kinds:
            known = ", ".join(f"{end} ({kind.runtime})" for end, kind in Network.kinds.items())
            raise FileError(
                f"{path}: no runtime takes files that end in {suffix!r}"
                f"{close_names(suffix, Network.kinds)}; there are {known}"
            )
        return Network.kinds[suffix]

    def _check_classifier(self, inputs: Sequence[Port]) -> None:
        wide = [size for size in self.output.shape[1:] if size != 1]
        numbers = all(port.dtype.kind in "fiub" for port in (self.input, self.output))
        if len(inputs) > 1 or len(self.input.shape) != 4 or not self.output.shape or not numbers \
                or len(wide) > 1:  # fmt: skip
            ports = ", ".join(_text(port) for port in (*inputs, self.output))
            raise FileError(
                f"{self.path} has inputs and outputs {ports}; a classifier takes one tensor of "
                "numbers, (N, C, H, W) or (N, H, W, C), and returns one (N, classes)"
            )

    @abstractmethod
    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        """Open the file, and describe its inputs and outputs; it may raise anything."""

    @abstractmethod
    def _run(self, batch: np.ndarray) -> np.ndarray:
        """Give the output at ``self.place`` for a batch in the layout and type of the input."""

    def parts(self) -> list[Path]:
        """List the file and those beside it that hold its weights."""
        return [self.path]

    @abstractmethod
    def weights(self) -> list[Weight]:
        """List the stored weights of convolutions and matrix products."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, from the metadata of a file written by quantskew; else empty."""
        noted = self.notes.get("classes", "")
        return tuple(noted.split("\n")) if noted else ()

    @property
    def takes_pixels(self) -> bool:
        """Whether the metadata say that the input is pixel values in [0, 1]."""
        return PIXELS.items() <= self.notes.items()

    @property
    def takes_codes(self) -> bool:
        """Whether the input is integers that are pixel values themselves."""
        return self.input.dtype.kind in "iu" and not self.input.scale

    @property
    def gives_labels(self) -> bool:
        """Whether the output is the index of a class for each image, in place of scores."""
        whole = self.output.dtype.kind in "iub" and not self.output.scale
        return whole and all(size == 1 for size in self.output.shape[1:])

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Answer images.

        Parameters
        ----------
        values
            float32, (N, C, H, W): what the network was trained on. Integer inputs are given its
            codes.

        Returns
        -------
        numpy.ndarray
            float32, (N, scores); of a file that answers with labels, int64 (N, 1).

        Raises
        ------
        FileError
            When the runtime fails on images of this shape, or values cannot be its codes.
        """
        answers = []
        for part in self.batches(values, len(values)):
            try:
                answer = np.asarray(self._run(part))
                answers.append(answer.reshape(len(part), -1))
            except Exception as error:  # whatever the runtime says of a shape that does not fit
                raise FileError(
                    f"{self.path} does not run on images of shape {values.shape}: "
                    f"{first_line(error)}"
                ) from None
            if sum(length != 1 for length in answer.shape[1:]) > 1:
                raise FileError(
                    f"{self.path} answers {answer.shape} for {len(part)} images; a classifier "
                    "returns (N, classes)"
                )
        whole = np.concatenate(answers)[: len(values)]
        if self.gives_labels:
            return whole.astype(np.int64)
        if self.output.scale:
            whole = (whole.astype(np.float32) - self.output.zero) * np.float32(self.output.scale)
        return whole.astype(np.float32)

    def batches(self, values: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Give images (N, C, H, W) in the layout and type of the input, ``size`` at a time.

        Where every run takes the same number of images, that is their number, and the last ones are
        filled up with copies of the last image.
        """
        fed, size = self._fed(values), self.batch or size
        for start in range(0, len(fed), size):
            part = fed[start : start + size]
            lacking = (self.batch or len(part)) - len(part)
            yield np.pad(part, [(0, lacking), *[(0, 0)] * 3], mode="edge")

    def _fed(self, values: np.ndarray) -> np.ndarray:
        port = self.input
        axes = (0, 2, 3, 1) if self.layout == "NHWC" else (0, 1, 2, 3)
        values = values.transpose(axes)
        if port.dtype.kind == "f":
            return np.ascontiguousarray(values, port.dtype)
        limits = np.iinfo(port.dtype)
        codes, spare = values, 0
        if port.scale:  # values a little out of range are clipped, as in the network itself
            codes, spare = np.rint(values / port.scale + port.zero), limits.max - limits.min
        low, high = codes.min(), codes.max()
        whole = port.scale or np.array_equal(codes, np.rint(codes))
        if low < limits.min - spare or high > limits.max + spare or not whole:
            wanted = f"{port.dtype} pixels; state preprocess: {{scale: 1, mean: 0, std: 1}}"
            if port.scale:
                ends = ((end - port.zero) * port.scale for end in (limits.min, limits.max))
                wanted = "values from {:.3g} to {:.3g}".format(*ends)
            raise FileError(
                f"{self.path} is fed values from {values.min():.3g} to {values.max():.3g}, and "
                f"takes {wanted}"
            )
        return np.ascontiguousarray(np.clip(codes, limits.min, limits.max).astype(port.dtype))


def closest(
    original: Network, candidates: Mapping[_Name, Network], images: np.ndarray
) -> tuple[_Name, float]:
    """Choose the file that answers most images as its source does, of equals the nearest scores.

    Returns
    -------
    name
        Of the file.
    agreement
        Share of the images that it answers alike; NaN of single scores, which are no answers
        without a threshold.

    Raises
    ------
    FileError
        When each answers NaN or infinity.
    """
    parts = np.array_split(images, range(BATCH, len(images), BATCH))
    expected = np.concatenate([original(part) for part in parts])
    ranked = []
    for name, file in candidates.items():
        scores = np.concatenate([file(part) for part in parts])
        if original.gives_labels:
            alike = scores == expected
        else:
            alike = scores.argmax(1) == expected.argmax(1)
        if np.isfinite(scores).all():
            distance = float(np.square(scores - expected).mean())
            ranked.append((float(alike.mean()), -distance, name))
    if not ranked:
        raise FileError(f"{original.path.name}: in integers it answers NaN or infinity")
    agreement, _, name = max(ranked, key=lambda one: one[:2])
    single = expected.shape[1] == 1 and not original.gives_labels
    return name, float("nan") if single else agreement


def open_file(
    path: str | Path,
    *,
    output: str | None = None,
    layout: Layout | None = None,
    threads: int | None = None,
) -> Network:
    """Open a file by the runtime of its suffix; see :class:`Network`.

    Raises
    ------
    FileError
        When no runtime takes such files, or its runtime refuses this one.
    """
    return Network.of(path)(path, output=output, layout=layout, threads=threads)


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, shortened."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def _text(port: Port) -> str:
    sizes = ", ".join("?" if size is None else str(size) for size in port.shape)
    return f"{port.name} {port.dtype}[{sizes}]"
