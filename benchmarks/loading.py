"""How fast images are made ready and trained from, and how much memory that takes.

``python benchmarks/loading.py`` compares, in one run, with an ImageFolder and a DataLoader of
torchvision that do the same work on the same generated files. ``--memory 23705 162770`` states the
peak memory for that many faces (the sizes of UTKFace and of CelebA's training part), and
``--audit 10000`` that of an audit of as many images of 224×224 from a loader, each measured in a
process of its own. Machines are noisy: read the ratios, not the times.
"""

import argparse
import io
import multiprocessing
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import torch

import quantskew
import quantskew._torchvision
from quantskew.analysis.study import Statistics
from quantskew.data.loading import load
from quantskew.data.prepare import prepare
from quantskew.data.source import Source

# isort: split
import timm  # it imports torchvision, which must have loaded by then

SIZE, BATCH = 64, 64


def picture(generator: np.random.Generator, height: int, width: int) -> bytes:
    """Encode something as rich in detail as a face: smooth areas with some grain."""
    coarse = generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    grain = generator.integers(-8, 9, (height, width, 1), dtype=np.int16)
    pixels = (np.asarray(image, np.int16) + grain).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def folder_of(root: Path, count: int) -> Path:
    """Write ``root/<class>/<number>.jpg`` of 200×200 and the CSV of their names."""
    generator, rows = np.random.default_rng(0), []
    for number in range(count):
        name = f"{'ab'[number % 2]}/{number}.jpg"
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(generator, 200, 200))
        rows.append((name, "ab"[number % 2]))
    pd.DataFrame(rows, columns=["image", "label"]).to_csv(root / "labels.csv", index=False)
    return root


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Fastest of some repeats."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def speed(count: int) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    with tempfile.TemporaryDirectory() as name:
        root = folder_of(Path(name) / "images", count)
        table = Path(name) / "samples.parquet"
        source = Source(reader="folder", path=str(root), size=SIZE, duplicates="keep")

        def make() -> None:
            prepare("generated", source, name).write(table)

        made = seconds(make)
        samples = load(table)
        loaded = seconds(lambda: load(table))

        def epoch() -> None:
            for at in torch.randperm(len(samples)).split(BATCH):
                samples.images[at].float().div_(255)

        ours = seconds(epoch)
        print(f"{count} JPEGs of 200×200 to {SIZE}×{SIZE}, {torch.get_num_threads()} threads")
        print(f"  decode, check, split, write   {count / made:9.0f} images/s, once")
        print(f"  load                          {count / loaded:9.0f} images/s, once a run")
        print(f"  epoch                         {count / ours:9.0f} images/s")
        transform = v2.Compose(
            [v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor(), v2.ToDtype(torch.float, True)]
        )
        images = ImageFolder(root, transform)
        for workers in (0, 2):
            loader = torch.utils.data.DataLoader(
                images, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
            )

            def theirs(loader: torch.utils.data.DataLoader[Any] = loader) -> None:
                for _ in loader:
                    pass

            peer = seconds(theirs)
            print(
                f"  ImageFolder, {workers} workers, epoch  {count / peer:9.0f} images/s; ours is "
                f"×{peer / ours:.0f} an epoch, ×{10 * peer / (made + loaded + 10 * ours):.1f} over "
                "10 epochs with all that is done once"
            )


def _watched(work: Callable[[], object], result: "multiprocessing.Queue[Any]") -> None:
    """Run, and give the peak of this process: private memory, and with mapped file pages."""
    peak, done = {"RssAnon": 0, "VmHWM": 0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for line in Path("/proc/self/status").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in peak:
                    peak[key] = max(peak[key], int(value.split()[0]))

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    work()
    elapsed = time.perf_counter() - start
    done.set()
    thread.join()
    result.put((elapsed, peak["RssAnon"] / 1024, peak["VmHWM"] / 1024))


def _make(archive: Path, table: Path) -> None:
    source = Source(reader="folder", path=str(archive), table="labels.csv", size=SIZE)
    prepare("generated", source, archive.parent).write(table)


class Noise(torch.utils.data.Dataset[Any]):
    """Images of floats, each made when it is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(index)), index % 10


def _audit(count: int) -> None:
    network = timm.create_model("mobilenetv3_small_050", num_classes=10)
    loader = torch.utils.data.DataLoader(Noise(count), batch_size=BATCH)
    quantskew.audit(network, loader, bits=8, statistics=Statistics(draws=100))


def audit(count: int) -> None:
    context = multiprocessing.get_context("spawn")
    result, size = context.Queue(), count * 3 * 224**2 * 4 / 2**20
    print(f"audit of {count} images of 3×224×224 from a loader: {size:.0f} MiB of floats")
    process = context.Process(target=_run, args=(_audit, (count,), result))
    process.start()
    elapsed, private, whole = result.get()
    process.join()
    print(f"  {elapsed:.1f} s, peak {private:.0f} MiB, {whole:.0f} MiB with pages of files")


def memory(count: int) -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        archive, table = Path(name) / "faces.zip", Path(name) / "samples.parquet"
        generator = np.random.default_rng(0)
        with zipfile.ZipFile(archive, "w") as packed:
            for number in range(count):
                packed.writestr(f"{number:06d}.jpg", picture(generator, 109, 89))
        names = [f"{number:06d}.jpg" for number in range(count)]
        rows = pd.DataFrame({"image": names, "label": np.arange(count) % 2})
        rows.to_csv(Path(name) / "labels.csv", index=False)
        print(f"{count} faces of 3×{SIZE}×{SIZE}: {count * 3 * SIZE**2 / 2**20:.0f} MiB of pixels")
        for title, work, given in (
            ("make the table", _make, (archive, table)),
            ("load it", load, (table,)),
        ):
            result = context.Queue()
            process = context.Process(target=_run, args=(work, given, result))
            process.start()
            elapsed, private, whole = result.get()
            process.join()
            print(
                f"  {title:15} {elapsed:6.1f} s, peak {private:6.0f} MiB, "
                f"{whole:6.0f} MiB with pages of files, which the system may take back"
            )


def _run(
    work: Callable[..., object], given: tuple[Any, ...], result: "multiprocessing.Queue[Any]"
) -> None:
    _watched(lambda: work(*given), result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3000, help="files for the comparison")
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="N", help="faces")
    parser.add_argument("--audit", type=int, nargs="*", default=[], metavar="N", help="images")
    given = parser.parse_args()
    for count in given.audit:
        audit(count)
    if not given.audit:
        speed(given.images)
    for count in given.memory:
        memory(count)
