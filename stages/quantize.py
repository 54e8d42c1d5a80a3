"""Quantize the baselines of a data set and a model by every method at every width."""

from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Make the variants of the section ``methods``."""
    # not above: every worker imports this file again, and needs none of it
    from quantskew import params
    from quantskew.variants import make_variants

    make_variants(params.load(), "quantize", dataset, model)


if __name__ == "__main__":
    run(main)
