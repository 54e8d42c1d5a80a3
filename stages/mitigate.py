"""Make the fairer variants of a data set and a model: retrained, fine-tuned, mixed in precision."""

from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Make the variants of the section ``mitigations``."""
    # not above: every worker imports this file again, and needs none of it
    from quantskew import params
    from quantskew.variants import make_variants

    make_variants(params.load(), "mitigate", dataset, model)


if __name__ == "__main__":
    run(main)
