"""Packed files: golden bytes, round trips on all architectures, damage."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quantization_networks import SMALL, network
from safetensors.torch import save_file
from torch import nn

from quantskew.quantization.codes import pack, unpack
from quantskew.quantization.layers import quantizable
from quantskew.quantization.packing import PackingError, load, read, save
from quantskew.quantization.ptq import quantize_network
from quantskew.quantization.qat import convert, prepare, quantizers
from quantskew.quantization.weights import BFloat16, Float16, IntegerWeights


def test_golden_bytes():
    assert pack(torch.tensor([1, 2, 15]), 4).tolist() == [0x21, 0x0F]
    assert pack(torch.tensor([0, 1, 2, 3]), 2).tolist() == [0b11100100]
    assert pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0]), 3).tolist() == [0xD1, 0x58, 0x1F]
    assert pack(torch.tensor([200, 3]), 8).tolist() == [200, 3]


@given(st.integers(2, 8), st.data())
def test_unpack_inverts_pack_and_the_size_is_dense(bits, data):
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    packed = pack(torch.tensor(codes, dtype=torch.int16), bits)
    assert len(packed) == (len(codes) * bits + 7) // 8
    assert unpack(packed, bits, (len(codes),)).tolist() == codes


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="0 to 16; 4 bits"):
        pack(torch.tensor([0, 16]), 4)
    with pytest.raises(ValueError, match="-1 to 3"):
        pack(torch.tensor([-1, 3]), 4)
    with pytest.raises(ValueError, match="2 bytes do not hold 3 codes"):
        unpack(torch.zeros(2, dtype=torch.uint8), 8, (3,))


SETTINGS = [
    IntegerWeights(),
    IntegerWeights(granularity="channel", scheme="symmetric", first_last=8),
    IntegerWeights(granularity="channel", range="mse", fold_bn=False),
    Float16(),
    BFloat16(),
    IntegerWeights(
        fold_bn=False, quantize_biases=True, quantize_norms=True, bias_correction="weights"
    ),
]


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_loaded_network_gives_the_same_logits_bit_by_bit(name, tmp_path):
    original, images = network(name)
    for bits, setting in enumerate(SETTINGS, start=2):
        if name.startswith("efficientnet") and setting == SETTINGS[2]:
            continue  # the largest of the small ones: seconds
        quantized = quantize_network(original, images, bits=bits, weights=setting)
        save(tmp_path / "a", quantized)
        loaded = load(tmp_path / "a", network(name)[0])
        logits = loaded(images)
        assert logits.dtype == torch.float32
        assert torch.equal(logits, quantized.network(images))
        assert not torch.equal(logits, original(images))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035"])
@torch.no_grad()
def test_memory_format_of_every_weight_is_kept(name, tmp_path):
    """Strides of size-1 dimensions too: they decide which kernels run."""

    def fresh():
        made, images = network(name, channels=1)
        return made.to(memory_format=torch.channels_last), images

    original, images = fresh()
    trained = prepare(original, images, bits=4, weights=IntegerWeights())
    for made in (
        quantize_network(original, images, bits=4, weights=IntegerWeights()),
        quantize_network(original, images, bits=4, weights=IntegerWeights(fold_bn=False)),
        convert(trained),
    ):
        save(tmp_path / "a", made)
        loaded = load(tmp_path / "a", fresh()[0])
        assert torch.equal(loaded(images), made.network(images))
        for key, layer in quantizable(original).items():
            weight, quantizer = quantizers(trained)[key]
            others = (n.get_submodule(key).weight for n in (made.network, loaded))
            for other in (*others, weight, quantizer(weight)):
                assert other.stride() == layer.weight.stride()


@pytest.fixture
def small(tmp_path):
    original, images = network("vgg_bn")
    quantized = quantize_network(original, images, bits=3, weights=IntegerWeights(first_last=8))
    return quantized, tmp_path / "vgg.safetensors"


def test_file_is_small_and_has_the_same_bytes_again(small):
    quantized, path = small
    save(path, quantized)
    first = path.read_bytes()
    save(path, quantized)
    assert path.read_bytes() == first
    bits = sum(w.codes.numel() * w.bits for w in quantized.weights.values())
    floats = 4 * sum(p.numel() for n, p in quantized.network.named_parameters() if "bias" in n)
    assert bits / 8 + floats < len(first) < bits / 8 + floats + 4000


def test_reading_without_the_network(small):
    quantized, path = small
    save(path, quantized)
    weights, tensors, notes = read(path)
    share = notes.pop("share")
    assert share["weights"] == 1 > share["parameters"] > 0.9
    assert notes == quantized.notes
    for name, weight in quantized.weights.items():
        assert torch.equal(weights[name].codes, weight.codes)
        assert torch.equal(weights[name].dequantize(), weight.dequantize())
        assert weights[name].bits == weight.bits
    assert sorted(tensors) == sorted(f"{name}.bias" for name in weights)


def test_every_truncation_and_every_changed_byte_is_refused(small):
    _, path = small
    save(path, small[0])
    whole = bytearray(path.read_bytes())
    header = int.from_bytes(whole[:8], "little")
    for size in (0, 5, 8 + header // 2, 8 + header, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PackingError, match=path.name):
            read(path)
    for place in range(0, len(whole), 37):
        if 8 <= place < 8 + header and whole[place : place + 1].isspace():
            continue  # padding of the header means nothing
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(PackingError, match=path.name):
            read(path)


def test_other_files_and_other_networks_are_refused(small, tmp_path):
    quantized, path = small
    with pytest.raises(PackingError, match="no such file"):
        read(path)
    save_file({"a": torch.zeros(1)}, path, {"other": json.dumps({})})
    with pytest.raises(PackingError, match="no quantized network"):
        read(path)
    save(path, quantized)
    for other in ("vgg", "resnet18"):
        with pytest.raises(PackingError, match="another network"):
            load(path, network(other)[0])


def test_a_norm_over_several_dimensions_is_read_again(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 6, 6)), nn.Flatten(), nn.Linear(72, 3))
    net[1].bias.data.uniform_()
    weights = IntegerWeights(quantize_norms=True)
    made = quantize_network(net, torch.rand(2, 1, 8, 8), bits=4, weights=weights)
    save(tmp_path / "file", made)
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(load(tmp_path / "file", net)(images), made.network(images))


def test_a_weight_changed_after_quantization_is_not_saved(small):
    quantized, path = small
    with torch.no_grad():
        quantized.network[0].weight.add_(1)
    with pytest.raises(ValueError, match=r"0\.weight was changed"):
        save(path, quantized)
    assert not path.exists()
