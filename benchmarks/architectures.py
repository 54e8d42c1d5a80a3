"""Architectures that nobody tuned this package for: each step works on each, or says why not.

Twenty-odd networks of timm beside those of the papers, at small size, are trained for a moment on
scikit-learn's digits and then taken through every step of a study: weights of 4 bits, weights and
static activations of 8, one step of QAT, packing and reading again, an int8 file, curvature.

    python benchmarks/architectures.py [NAME ...] [--folder runs/architectures]

Each network has a process of its own, and a file in ``--folder`` that names the code it was
measured with, so that a killed run goes on. Prints Markdown: the share of the weights with codes
and of answers that are those of fp32, or the reason of a refusal. Exits with 1 if anything failed
other than by a refusal, or is named by a width that none of its weights has.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import quantskew
from quantskew import methods, models
from quantskew.architecture import Architecture
from quantskew.data.loading import Samples
from quantskew.deployment import onnx_files
from quantskew.errors import UserError
from quantskew.impact.curvature import measure
from quantskew.quantization import packing
from quantskew.quantization.fitting import Qat
from quantskew.quantization.layers import left_out, plain
from quantskew.quantization.method import Method
from quantskew.quantization.qat import reestimate_batch_norm
from quantskew.training.loop import fit
from quantskew.training.training import Training

SIZE, CLASSES, TEST = 16, 10, 128
TRAIN = {True: 320, False: 64}  # images; the whole networks of the papers take long to train
OWN: Mapping[str, tuple[int, dict[str, Any]]] = {
    "convnext_atto": (32, {"depths": (1, 1, 2, 1)}),
    "convnextv2_atto": (32, {"depths": (1, 1, 2, 1)}),
    "deit_tiny_patch16_224": (32, {"img_size": 32, "patch_size": 8, "depth": 4}),
    "swin_tiny_patch4_window7_224": (
        64,
        {"img_size": 64, "window_size": 4, "embed_dim": 32, "depths": (1, 1, 2, 1)},
    ),
    "mobilenetv3_small_050": (32, {}),
    "tf_efficientnetv2_b0": (32, {}),
    "regnetx_002": (32, {}),
    "regnety_002": (32, {}),
    "mobilevit_xxs": (64, {}),
    "ghostnet_050": (32, {}),
    "edgenext_xx_small": (64, {}),
    "levit_128s": (64, {"img_size": 64}),
    "poolformer_s12": (32, {}),
    "resnext26ts": (32, {}),
    "densenet121": (32, {"block_config": (2, 2, 2, 2)}),
    "mixnet_s": (32, {}),
    "mnasnet_small": (32, {}),
    "repvgg_a0": (32, {}),
    "fastvit_t8": (64, {}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64, "depth": 3}),
    "nf_resnet26": (32, {}),
    "nf_regnet_b0": (32, {}),
    "nfnet_l0": (32, {}),
    "dm_nfnet_f0": (32, {"depths": (1, 1, 1, 1)}),
    "resnetv2_50x1_bit": (32, {}),
}
"""Pixels a side and options of networks that timm builds; the depth of large ones is cut."""

NAMES = (*models.MODELS, *OWN)
STEPS = ("ptq", "static", "qat", "reload", "file", "curvature")


def build(name: str) -> nn.Module:
    """Build a network as a study does."""
    own = OWN.get(name)
    if own is None:
        return models.build(name, classes=CLASSES, channels=3, size=SIZE)
    size, options = own
    architecture = Architecture(factory=f"timm:{name}", options=options)
    return models.build(name, classes=CLASSES, channels=3, size=size, architecture=architecture)


def digits(name: str) -> Samples:
    """Return some of scikit-learn's digits as colour images for a network, test images first."""
    size, train = OWN.get(name, (SIZE, {}))[0], TRAIN[name in OWN]
    raw, labels = load_digits(return_X_y=True)
    small = torch.from_numpy(raw[: TEST + train]).reshape(-1, 1, 8, 8).float() * (255 / 16)
    images = functional.interpolate(small, size=(size, size)).expand(-1, 3, -1, -1)
    labels = labels[: len(images)]
    return Samples(
        images=images.to(torch.uint8).contiguous(),
        labels=torch.from_numpy(labels).long(),
        ids=np.array([f"{index:04}" for index in range(len(images))]),
        split=np.repeat(["test", "train"], [TEST, train]),
        attributes=pd.DataFrame({"label": labels.astype(str)}),
        classes=tuple(map(str, range(CLASSES))),
        metadata={},
    )


def outcome(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a step found, the reason of its refusal, or the failure."""
    try:
        return work()
    except UserError as refusal:
        return {"refused": str(refusal)}
    except Exception as error:  # whatever it is, it is to be mended
        return {"failed": f"{type(error).__name__}: {error}"}


def walk(name: str) -> dict[str, dict[str, Any]]:
    """Take a network through all steps."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = digits(name)
    network: nn.Module = nn.Identity()
    settings = Training(epochs=1, batch_size=32, lr=1e-3)

    def train() -> dict[str, Any]:
        nonlocal network
        network = build(name)
        part = data.train
        fit(network, part.images, part.labels, settings=settings, order=lambda _: order)
        # few steps leave their running statistics far behind, and the network with one answer
        reestimate_batch_norm(network, models.as_input(part.images, models.CPU))
        network.eval()
        return {}

    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    found = {"train": outcome(train)}
    if found["train"]:
        return found
    example = models.as_input(data.test.images[:2], models.CPU)
    network = plain(network, example)
    expected = models.logits(network, data.test.images)
    answers = expected.argmax(1)
    found["train"] = {"accuracy": float((answers == data.test.labels).float().mean())}
    made: dict[str, packing.Quantized] = {}

    def agreement(other: nn.Module) -> float:
        return float((models.logits(other, data.test.images).argmax(1) == answers).float().mean())

    def apply(step: str, bits: int, train: Samples = data.train, **parts: Any) -> dict[str, Any]:
        made[step] = methods.apply(
            network, Method(**parts), bits,
            example=example, calibration=data.train, train=train,
            training=settings, qat_settings=Qat(epochs=1, lr=1e-5), seed=0,
        )  # fmt: skip
        notes = made[step].notes
        inputs = notes.get("activations", {"layers": {}})["layers"]
        left = left_out(made[step].network, made[step].weights)
        parameters = dict(made[step].network.named_parameters())
        outside = {
            part: reason
            for part, reason in left.items()
            if parameters.get(part, parameters.get(f"{part}.weight", torch.empty(0))).ndim > 1
        }
        return {
            "layers": len(made[step].weights),
            "inputs": len(inputs),
            "share": notes["share"]["weights"],
            "agreement": agreement(made[step].network),
            "left": outside,
        }

    def reload() -> dict[str, Any]:
        same = {}
        for step, quantized in made.items():
            file = Path(folder, step)
            packing.save(file, quantized)
            again = packing.load(file, build(name))
            images = data.test.images[:64]
            same[step] = torch.equal(
                models.logits(again, images), models.logits(quantized.network, images)
            )
        return {"same": same}

    def export() -> dict[str, Any]:
        path = Path(folder, "network.onnx")
        onnx_files.export(network, example, path, {})
        images = models.as_input(data.train.images[:64], models.CPU)
        products = onnx_files.quantize(path, path, images)
        facts = onnx_files.check(path)._asdict()
        return {
            "products": products,
            "share": facts["integer_bytes"],
            "layers": f"{facts['integer_layers']} of {facts['layers']}",
            "agreement": agreement(onnx_files.OnnxNetwork(path)),
        }

    def curve() -> dict[str, Any]:
        images = models.as_input(data.test.images[:8], models.CPU)
        rows = measure(network, images, data.test.labels[:8], {"all": range(8)}, size=4)
        return {"eigenvalue": float(rows["largest_eigenvalue"].iloc[0])}

    one_step = data.train.at(slice(0, settings.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        found["ptq"] = outcome(lambda: apply("ptq", 4))
        found["static"] = outcome(lambda: apply("static", 8, activations={"kind": "static"}))
        found["qat"] = outcome(lambda: apply("qat", 8, train=one_step, training={"kind": "qat"}))
        found["reload"] = outcome(reload)
        found["file"] = outcome(export)
        found["curvature"] = outcome(curve)
    return found


def write(name: str, path: Path) -> None:
    """Write what a network gave as a file of JSON."""
    path.write_text(json.dumps(walk(name)), encoding="utf-8")


def version() -> str:
    """Digest of the code and the libraries that decide what comes out."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(Path(quantskew.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for name in ("torch", "timm", "onnxruntime"):
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()[:12]


def faults(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List what must be mended: failures, other logits after reading, widths in name alone."""
    wrong = [f"{step}: {facts['failed']}" for step, facts in found.items() if "failed" in facts]
    wrong += [f"{step}: no weight has codes" for step, facts in found.items()
              if facts.get("share") == 0]  # fmt: skip
    same = found.get("reload", {}).get("same", {})
    return wrong + [f"reload of {step}: other logits" for step, fits in same.items() if not fits]


def row(name: str, found: Mapping[str, Mapping[str, Any]], notes: list[str]) -> str:
    """Lay out one network as a row; reasons become footnotes."""

    def note(text: str) -> str:
        if text not in notes:
            notes.append(text)
        return f"<sup>{notes.index(text) + 1}</sup>"

    def cell(step: str) -> str:
        facts = found.get(step, {"failed": "the process ended"})
        for kind in ("refused", "failed"):
            if kind in facts:
                return f"{kind}{note(facts[kind])}"
        if step == "train":
            return percent(facts["accuracy"])
        if step == "reload":
            return "same" if all(facts["same"].values()) else "other logits"
        if step == "curvature":
            return f"{facts['eigenvalue']:.3g}"
        if step == "file":
            return f"{percent(facts['share'])} ({facts['products']}), {percent(facts['agreement'])}"
        outside = "".join(note(reason) for reason in dict.fromkeys(facts["left"].values()))
        share = f"{percent(facts['share'])}{outside}, {percent(facts['agreement'])}"
        return (
            share
            if step != "static" or facts["inputs"] == facts["layers"]
            else (f"{share}; inputs of {facts['inputs']} of {facts['layers']} layers")
        )

    size = OWN.get(name, (SIZE, {}))[0]
    cells = [cell(step) for step in ("train", *STEPS)] if found["train"] else []
    return f"| {name} | {size} | {' | '.join(cells)} |"


def percent(share: float) -> str:
    """Format a share; what is not quite all is not written as all."""
    text = f"{100 * share:.1f}"
    return "99.9" if text == "100.0" and share < 1 else text.removesuffix(".0")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("runs/architectures"))
    asked = parser.parse_args()
    folder = asked.folder / version()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    notes: list[str] = []
    wrong: list[str] = []
    for name in asked.names:
        path = folder / f"{name}.json"
        if not path.exists():
            process = get_context("fork").Process(target=write, args=(name, path))
            process.start()
            process.join()
            if process.exitcode:
                found = {"train": {"failed": f"the process ended with {process.exitcode}"}}
                path.write_text(json.dumps(found), encoding="utf-8")
            print(name, flush=True, file=sys.stderr)
        found = json.loads(path.read_text(encoding="utf-8"))
        rows.append(row(name, found, notes))
        wrong += [f"{name}, {fault}" for fault in faults(found)]
    print("| network | pixels | accuracy | weights of 4 bits | static, 8 bits | QAT, 8 bits | "
          "packed and read | int8 file | λmax |")  # fmt: skip
    print("|---|" + "---|" * 8)
    print("\n".join(rows))
    print("\n".join(["", *(f"{number}. {text}" for number, text in enumerate(notes, 1))]))
    print("\n".join(["", *(f"- {fault}" for fault in wrong)]) if wrong else "\nNothing failed.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
