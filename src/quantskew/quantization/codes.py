"""The weight of a layer as integer codes, and codes as dense bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from quantskew.quantization.affine import Scheme, code_range, dequantize

FLOAT = 32  # the width of what stays in floating point
Widths = int | tuple[int, ...]  # of a whole weight, or of each of its output channels


@dataclass(frozen=True)
class QuantizedWeight:
    """The weight of one layer as codes on a grid; see :mod:`quantskew.quantization.affine`.

    The codes are int16, of the shape of the weight; scale and zero point, float32 and int32,
    broadcast against them. ``bits`` is the width of a code; a tuple gives every output channel its
    own, 32 keeping the channel as it was. An ``offset``, float32, is added to all weights of an
    output channel. ``kept`` are the channels that are kept, float32, in their order; their codes
    are 0.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: Widths
    scheme: Scheme
    offset: Tensor | None = None
    kept: Tensor | None = None

    def dequantize(self) -> Tensor:
        """Return the float32 weight."""
        weight = dequantize(self.codes, self.scale, self.zero_point)
        if self.offset is not None:
            weight = weight + self.offset
        if self.kept is not None:
            weight[kept_channels(self.bits)] = self.kept
        return weight

    def limits(self) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest legal code, broadcasting against the codes."""
        return limits(self.bits, self.scheme, self.codes)

    def mean_bits(self) -> float:
        """Return the mean width of its weights."""
        return float(np.mean(self.bits))


def limits(bits: Widths, scheme: Scheme, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest code, int32, broadcasting against a weight."""
    widths = (bits,) if isinstance(bits, int) else bits
    ends = [(0, 0) if width == FLOAT else code_range(width, scheme) for width in widths]
    pairs = torch.tensor(ends, dtype=torch.int32, device=weight.device)
    low, high = pairs.T.reshape(2, -1, *[1] * (weight.ndim - 1))
    return low, high


def by_width(bits: tuple[int, ...]) -> Iterator[tuple[int, Tensor]]:
    """Give each width of integer codes in rising order, with the channels that have it."""
    widths = torch.tensor(bits)
    for width in sorted({*bits} - {FLOAT}):
        yield width, (widths == width).nonzero().flatten()


def kept_channels(bits: Widths) -> Tensor:
    """Return the indices of the channels that stay in floating point."""
    return (torch.tensor(bits) == FLOAT).nonzero().flatten()


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes from 0 to 2^bits − 1 densely into bytes.

    Examples
    --------
    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    lowest, highest = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if lowest < 0 or highest >> bits:
        raise ValueError(f"codes run from {lowest} to {highest}; {bits} bits hold 0 to 2^{bits}−1")
    column = codes.reshape(-1, 1).to(torch.uint8).cpu().numpy()
    stream = np.unpackbits(column, axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream.reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Return the codes of a shape from their bytes, as int16; the inverse of :func:`pack`."""
    size = int(np.prod(shape, dtype=np.int64))
    if packed.numel() != -(-size * bits // 8):
        raise ValueError(f"{packed.numel()} bytes do not hold {size} codes of {bits} bits")
    stream = np.unpackbits(packed.cpu().numpy(), count=size * bits, bitorder="little")
    column = np.packbits(stream.reshape(size, bits), axis=1, bitorder="little")
    return torch.from_numpy(column).to(torch.int16).reshape(shape)


def pack_channels(codes: Tensor, bits: Widths) -> Tensor:
    """Pack codes whose width may differ from channel to channel: one stream a width, rising."""
    if isinstance(bits, int):
        return pack(codes, bits)
    streams = [pack(codes[rows], width) for width, rows in by_width(bits)]
    return torch.cat([torch.empty(0, dtype=torch.uint8), *streams])


def unpack_channels(packed: Tensor, bits: Widths, shape: tuple[int, ...]) -> Tensor:
    """Return the codes from their bytes; the inverse of :func:`pack_channels`."""
    if isinstance(bits, int):
        return unpack(packed, bits, shape)
    codes = torch.zeros(shape, dtype=torch.int16)
    for width, rows in by_width(bits):
        size = -(-codes[rows].numel() * width // 8)
        codes[rows] = unpack(packed[:size], width, (len(rows), *shape[1:]))
        packed = packed[size:]
    return codes
