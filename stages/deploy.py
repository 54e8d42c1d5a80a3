"""Make the ONNX files that ship of a data set and a model, and describe each in a card."""

from quantskew import params
from quantskew.deployment.cards import write_cards
from quantskew.deployment.shipped import ship_all
from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Write the files, their answers, and their model cards."""
    study = params.load()
    write_cards(study, ship_all(study, dataset, model), dataset, model)


if __name__ == "__main__":
    run(main)
