"""Run every network of a data set and a model on the test set, and describe each group."""

from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Write answers, groups, layers, history and the surveys of the loss."""
    # not above: every worker imports this file again, and needs none of it
    from quantskew import params
    from quantskew.evaluation.collect import evaluate_all

    evaluate_all(params.load(), dataset, model)


if __name__ == "__main__":
    run(main)
