"""Quantize the baselines of a data set and a model by every method at every width."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.variants import make_variants


def main(dataset: str, model: str) -> None:
    """Make the variants of the section ``methods``."""
    make_variants(params.load(), "quantize", dataset, model)


if __name__ == "__main__":
    run(main)
