"""Run every network of a data set and a model on the test set, and describe each group."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.evaluation.collect import evaluate_all


def main(dataset: str, model: str) -> None:
    """Write answers, groups, layers, history and the surveys of the loss."""
    evaluate_all(params.load(), dataset, model)


if __name__ == "__main__":
    run(main)
