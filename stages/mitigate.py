"""Make the fairer variants of a data set and a model: retrained, fine-tuned, mixed in precision."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.variants import make_variants


def main(dataset: str, model: str) -> None:
    """Make the variants of the section ``mitigations``."""
    make_variants(params.load(), "mitigate", dataset, model)


if __name__ == "__main__":
    run(main)
