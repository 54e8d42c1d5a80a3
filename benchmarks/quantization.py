"""Time quantization against its peers, as ratios within one run.

* a QAT step over an fp32 training step of the same network; brevitas with learned scales beside it
* seconds to quantize the weights of a ResNet-50 by each post-training method; brevitas beside it
* a stored variant's pass over a test set against the fp32 network's

    python benchmarks/quantization.py [steps]

All of it runs as in a cell, with freed memory kept, but for the fp32 step that the QAT steps are
compared with: a process of its own takes it, set up as PyTorch sets it up. brevitas and torchao are
timed if they are installed. Times are of the processor, so that what else the machine does counts
little; they and their ratios are medians of interleaved calls.
"""

import copy
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from quantskew import models
from quantskew.engine import compute
from quantskew.quantization.layers import quantizable
from quantskew.quantization.ptq import quantize_network, quantize_weight
from quantskew.quantization.qat import damp, prepare
from quantskew.quantization.ranges import AciqGauss, Mse, Percentile
from quantskew.quantization.weights import IntegerWeights
from quantskew.training.loop import parameter_groups
from quantskew.training.optimizers import AdamW

PLAIN = "fp32, plain process"


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def report(title: str, times: Mapping[str, list[float]], base: str) -> None:
    """Print the median time of each, and its ratio to that of the base."""
    print(f"\n{title}")
    for name, taken in times.items():
        ratio = median(taken) / median(times[base])
        print(f"  {name:34s} {median(taken) * 1e3:9.1f} ms   ×{ratio:.2f}", flush=True)


def brevitas_network(network: nn.Module, bits: int, **options: object) -> nn.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import brevitas.nn as peers
        except ImportError:
            return None
    network = copy.deepcopy(network)
    for name, layer in quantizable(network).items():
        options |= {"weight_bit_width": bits, "bias": layer.bias is not None}
        if isinstance(layer, nn.Linear):
            peer = peers.QuantLinear(layer.in_features, layer.out_features, **options)
        else:
            peer = peers.QuantConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
                **options,
            )
        peer.load_state_dict(layer.state_dict(), strict=False)
        network.set_submodule(name, peer)
    channels_last: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def torchao_weights(network: nn.Module, bits: int) -> dict[str, Callable[[], object]]:
    """Return torchao's asymmetric min–max codes of all layers, by granularity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torchao.quantization import quant_primitives as peer
        except ImportError:
            return {}
    layers = [layer.weight.detach() for layer in quantizable(network).values()]

    def codes(weight: torch.Tensor, block: tuple[int, ...]) -> torch.Tensor:
        ends = {"quant_min": 0, "quant_max": 2**bits - 1}
        grid = peer.choose_qparams_affine(
            weight, peer.MappingType.ASYMMETRIC, block, torch.uint8, **ends
        )
        quantized: torch.Tensor = peer.quantize_affine(weight, block, *grid, torch.uint8, **ends)
        return quantized

    return {
        "torchao min–max per tensor": lambda: [codes(w, tuple(w.shape)) for w in layers],
        "torchao min–max per channel": lambda: [codes(w, (1, *w.shape[1:])) for w in layers],
    }


@cache
def steps_of(model: str) -> dict[str, Callable[[], object]]:
    """Return training steps of a network, as it is and with quantizers."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = models.build(model, classes=10, channels=1, size=28).train()
    images = models.as_input(torch.randint(0, 256, (64, 1, 28, 28)), torch.device("cpu"))
    labels = torch.randint(0, 10, (64,))
    prepared = prepare(network, images, bits=4, weights=IntegerWeights())
    dampened = copy.deepcopy(prepared)
    networks: dict[str, nn.Module] = {"fp32": network, "LSQ": prepared, "LSQ, dampened": dampened}
    peer = brevitas_network(network, 4, weight_scaling_impl_type="parameter_from_stats")
    if peer is not None:
        networks["brevitas, learned scale"] = peer
    optimizers = {
        name: AdamW().over(parameter_groups(one), lr=3e-3, weight_decay=0.05)
        for name, one in networks.items()
    }

    def step(name: str) -> None:
        optimizers[name].zero_grad()
        loss = cross_entropy(networks[name](images), labels)
        if networks[name] is dampened:
            loss = loss + 0.1 * damp(dampened)
        loss.backward()
        optimizers[name].step()

    return {name: partial(step, name) for name in networks}


def plain_step(model: str) -> float:
    return seconds(steps_of(model)["fp32"])


def training(model: str, rounds: int) -> None:
    times: dict[str, list[float]] = {PLAIN: []}
    with ProcessPoolExecutor(1, get_context("spawn")) as peer:
        for _ in range(rounds):
            times[PLAIN].append(peer.submit(plain_step, model).result())
            for name, step in steps_of(model).items():
                times.setdefault(name, []).append(seconds(step))
    report(f"training step, {model}, 64 images of 28×28", times, PLAIN)


def post_training() -> None:
    torch.manual_seed(0)
    network = models.build("resnet50", classes=1000, channels=3, size=224).eval()
    example = torch.rand(1, 3, 224, 224)
    methods = {
        "min–max per tensor": IntegerWeights(),
        "min–max per channel": IntegerWeights(granularity="channel"),
        "percentile per channel": IntegerWeights(granularity="channel", range=Percentile()),
        "ACIQ per channel": IntegerWeights(granularity="channel", range=AciqGauss()),
        "MSE per tensor": IntegerWeights(range=Mse()),
        "MSE per channel": IntegerWeights(granularity="channel", range=Mse()),
    }
    runs: dict[str, Callable[[], object]] = {
        name: partial(quantize_network, network, example, bits=4, weights=w)
        for name, w in methods.items()
    }
    # what the peers' calls do: the codes alone, without the copy of the network and its folding
    layers = [layer.weight for layer in quantizable(network).values()]

    def codes_alone(weights: IntegerWeights) -> None:
        for weight in layers:
            quantize_weight(weight, bits=4, weights=weights)

    for name, w in list(methods.items())[:2]:
        runs[f"{name}, codes alone"] = partial(codes_alone, w)
    peer = brevitas_network(network, 4)
    if peer is not None:
        peers: list[Any] = [m for m in peer.modules() if hasattr(m, "quant_weight")]
        runs["brevitas min–max per tensor"] = lambda: [m.quant_weight() for m in peers]
    runs |= torchao_weights(network, 4)
    times = {name: [seconds(run) for _ in range(3)] for name, run in runs.items()}
    report("weights of ResNet-50 (23.5 million)", times, "min–max per tensor")


def evaluation(rounds: int) -> None:
    torch.manual_seed(0)
    network = models.build("resnet18_quarter", classes=10, channels=1, size=28).eval()
    images = torch.randint(0, 256, (1000, 1, 28, 28), dtype=torch.uint8)
    variant = quantize_network(network, torch.rand(2, 1, 28, 28), bits=4, weights=IntegerWeights())
    networks = {"fp32": network, "4 bits": variant.network}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(rounds):
        for name, taken in times.items():
            taken.append(seconds(partial(models.logits, networks[name], images)))
    report("logits of 1,000 images, ResNet-18 of a quarter", times, "fp32")


if __name__ == "__main__":
    torch.set_num_threads(1)
    compute.keep_freed_memory()
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for model in ("resnet18_quarter", "mobilenetv2_narrow"):
        training(model, steps)
    post_training()
    evaluation(5)
