"""What the documents list is what the program has."""

from conftest import ROOT

from quantskew.fairness.catalogue import CATALOGUE


def metrics_table() -> str:
    """The table of docs/metrics.md; run ``python tests/test_docs.py`` to write it anew."""
    rows = [
        f"| `{m.name}` | {m.title} | {m.sentence} | {m.of} | {m.better} |"
        for m in CATALOGUE.values()
    ]
    head = "| name | what it is called | what it is | of | better |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def test_the_list_of_metrics_is_the_catalogue():
    assert metrics_table() in (ROOT / "docs/metrics.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    page = ROOT / "docs/metrics.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("| name |")
    page.write_text(head + metrics_table() + rest.rpartition("|\n")[2], encoding="utf-8")
