"""Make the ONNX files that ship of a data set and a model, and describe each in a card."""

from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Write the files, their answers, and their model cards."""
    # not above: every worker imports this file again, and needs none of it
    from quantskew import params
    from quantskew.deployment.shipped import ship_all

    study = params.load()
    made = ship_all(study, dataset, model)
    from quantskew.deployment.cards import write_cards  # once the workers have ended

    write_cards(study, made, dataset, model)


if __name__ == "__main__":
    run(main)
