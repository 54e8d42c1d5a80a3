"""Train the fp32 baselines of a data set and a model, one a seed."""

from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Train what is not trained yet; collect weights and histories."""
    # not above: every worker imports this file again, and needs none of it
    from quantskew import params
    from quantskew.variants import make_baselines

    make_baselines(params.load(), dataset, model)


if __name__ == "__main__":
    run(main)
