"""Write digests of what the study depends on outside of its parameters."""

from quantskew import params
from quantskew.engine.command import run
from quantskew.outside import write_inputs


def main() -> None:
    """Look at the user's own files and code."""
    write_inputs(params.load())


if __name__ == "__main__":
    run(main)
