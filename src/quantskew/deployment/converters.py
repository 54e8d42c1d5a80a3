"""How files of each runtime are made: of another file, and in integers.

A converter is a subclass of :class:`Converter`. What it needs is imported as it runs.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from quantskew.deployment.runtimes import BLOCK, FileError, Network
from quantskew.deployment.runtimes.network import NOTES


class Converter:
    """Makes files of a suffix; this one is for those that are made of a network alone.

    Attributes
    ----------
    made_of
        Suffix of the files that :meth:`make` converts; empty where it converts none.
    """

    kinds: ClassVar[dict[str, "type[Converter]"]] = {}
    made_of: ClassVar[str] = ""

    def __init_subclass__(cls, *, suffix: str) -> None:
        """Register a converter by the suffix of the files it makes."""
        super().__init_subclass__()
        Converter.kinds[suffix] = cls

    @staticmethod
    def of(path: Path) -> "type[Converter]":
        """Return the converter for a file by its suffix."""
        return Converter.kinds.get(path.suffix.lower(), Converter)

    @staticmethod
    def make(source: Network, target: Path) -> None:
        """Convert a file of the suffix ``made_of`` with its metadata."""
        raise FileError(f"{source.path} → {target}: there is no converter")

    @staticmethod
    def pack(source: Network, target: Path, bits: int, images: np.ndarray) -> Mapping[str, Path]:
        """Write candidates for a file with integer weights, of one in floating point.

        Parameters
        ----------
        source, target
            Of several candidates, all but the first are written beside ``target``.
        bits
            Width of the weights, 8 or 4.
        images
            float32, (N, C, H, W): what sets the ranges of activations where these are static.

        Returns
        -------
        Mapping
            The candidates, by how their activations are quantized.
        """
        raise FileError(f"{source.path}: nothing packs files of its runtime into {bits} bits")


class Onnx(Converter, suffix=".onnx"):
    """Quantizes by ONNX Runtime: all layers in 8 bits, and products with stored weights in 4."""

    @staticmethod
    def pack(source: Network, target: Path, bits: int, images: np.ndarray) -> dict[str, Path]:
        """Write QDQ nodes in 8 bits, ``MatMulNBits`` in 4."""
        from quantskew.deployment import onnx_files

        if bits == 8:
            import torch

            products = onnx_files.quantize(
                source.path, target, torch.from_numpy(images),
                output=source.output.name, layout=source.layout,
            )  # fmt: skip
            return {f"static, of products {products}": target}
        onnx_files.pack(source.path, target)
        return {"in floating point": target}


class OpenVINO(Converter, suffix=".xml"):
    """Converts ONNX files by OpenVINO, and quantizes by nncf; in 4 bits products alone."""

    made_of = ".onnx"

    @staticmethod
    def make(source: Network, target: Path) -> None:
        """Convert; integers of the QDQ format stay so, and fp32 is not made fp16."""
        import openvino

        model = openvino.convert_model(source.path)
        for name, text in source.notes.items():
            model.set_rt_info(text, [NOTES, name])
        openvino.save_model(model, target, compress_to_fp16=False)

    @staticmethod
    def pack(source: Network, target: Path, bits: int, images: np.ndarray) -> dict[str, Path]:
        """Quantize all layers in 8 bits; in 4 bits the weights of matrix products."""
        import nncf
        import openvino

        nncf.set_log_level("ERROR")
        model = openvino.Core().read_model(source.path)
        if bits == 8:
            seen = nncf.Dataset([*source.batches(images, 1)])
            made, ranges = nncf.quantize(model, seen, subset_size=len(images)), "static"
        else:
            mode, ranges = nncf.CompressWeightsMode.INT4_ASYM, "in floating point"
            made = nncf.compress_weights(model, mode=mode, group_size=BLOCK, all_layers=True)
        openvino.save_model(made, target, compress_to_fp16=False)
        return {ranges: target}


class LiteRT(Converter, suffix=".tflite"):
    """Converts programs of ``torch.export`` by litert-torch, and quantizes by ai-edge-quantizer.

    The converter fixes the number of images of a run, so files made here take one.
    """

    made_of = ".pt2"

    @staticmethod
    def make(source: Network, target: Path) -> None:
        """Convert, in the layout of the source."""
        import torch
        from litert_torch import convert

        one = tuple(size or 1 for size in source.input.shape[1:])
        with _quiet():
            module = torch.export.load(source.path).module()
            # litert-torch 0.10 knows a constant by the address of its contiguous form. Of a weight
            # whose channels lie last that is a copy, freed before the next one is made, often at
            # the same address: that layer then gets the weights of this one (its issue 1061)
            for constant in (*module.parameters(), *module.buffers()):
                constant.data = constant.data.contiguous()
            convert(module, (torch.zeros(1, *one),)).export(str(target))
        _annotate(target, source.notes)

    @staticmethod
    def pack(source: Network, target: Path, bits: int, images: np.ndarray) -> dict[str, Path]:
        """Quantize weights by channel, and activations statically (8 bits) or dynamically."""
        from ai_edge_litert.interpreter import Interpreter
        from ai_edge_quantizer import quantizer, recipe

        recipes = {
            8: {"static": recipe.static_wi8_ai8, "dynamic": recipe.dynamic_wi8_afp32},
            4: {"dynamic": recipe.dynamic_wi4_afp32},
        }
        path = str(source.path)
        ((signature, ports),) = Interpreter(path).get_signature_list().items()
        (name,) = ports["inputs"]
        made = {}
        for ranges, rules in recipes[bits].items():
            made[ranges] = target.with_stem(f"{target.stem} {ranges}")
            with _quiet():
                work = quantizer.Quantizer(path, rules())
                seen = None
                if work.need_calibration:
                    fed = [{name: one} for one in source.batches(images, 1)]
                    seen = work.calibrate({signature: fed})
                work.quantize(seen).export_model(str(made[ranges]))
            _annotate(made[ranges], source.notes)
        return made


def _annotate(path: Path, notes: Mapping[str, str]) -> None:
    """Write metadata into a LiteRT file."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content)
    for held in model.buffers:
        if held.offset > 1:  # it lies behind the flatbuffer, where the quantizer puts large ones
            held.data = np.frombuffer(content, np.uint8, held.size, held.offset)
            held.offset = held.size = 0
    model.metadata = [one for one in model.metadata or [] if one.name != NOTES.encode()]
    entry, buffer = schema.MetadataT(), schema.BufferT()
    buffer.data = np.frombuffer(json.dumps(dict(sorted(notes.items()))).encode(), np.uint8)
    entry.name, entry.buffer = NOTES, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata.append(entry)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the progress and the advice of the converters."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
