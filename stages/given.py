"""Read the answers of networks that the study did not make, and describe each group."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.evaluation.given import write_given


def main() -> None:
    """Write what the tables of ``answers:`` say as tables of the study."""
    write_given(params.load())


if __name__ == "__main__":
    run(main)
