"""Who is left behind, how sure that is, and what helps: tables, figures and a report."""

from importlib.metadata import version

from quantskew import params
from quantskew.analysis.run import Source, analyze_all
from quantskew.engine.command import run
from quantskew.engine.fingerprint import libraries


def main() -> None:
    """Compare all networks of the study, and write what people read."""
    study = params.load()
    parameters = study.model_dump(mode="json", exclude={"compute"})
    source = Source(parameters, {"quantskew": version("quantskew"), **libraries()})
    analyze_all(study.judged(), source, study.compute)


if __name__ == "__main__":
    run(main)
