"""Make the ONNX files that ship of a data set and a model, and describe each in a card."""

from pathlib import Path

from quantskew import params
from quantskew.deployment.cards import write_cards
from quantskew.deployment.shipped import ship_all
from quantskew.engine.command import run


def main(dataset: str, model: str) -> None:
    """Write the files, what they answer, and their model cards."""
    study = params.load()
    target = Path("data/deployed", dataset, model)
    made = ship_all(study, dataset, model, target)
    write_cards(study, made, target)


if __name__ == "__main__":
    run(main)
