"""Who is left behind, how sure that is, and what helps: tables, figures and a report."""

from quantskew import params
from quantskew.analysis.run import Source, analyze_all
from quantskew.engine.command import run


def main() -> None:
    """Compare all networks of the study, and write what people read."""
    study = params.load()
    source = Source.of(study.model_dump(mode="json", exclude={"compute"}))
    analyze_all(study.judged(), source, study.compute)


if __name__ == "__main__":
    run(main)
