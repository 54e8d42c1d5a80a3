"""Train the fp32 baselines of a data set and a model, one a seed."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.variants import make_baselines


def main(dataset: str, model: str) -> None:
    """Train what is not trained yet; collect weights and histories."""
    make_baselines(params.load(), dataset, model)


if __name__ == "__main__":
    run(main)
