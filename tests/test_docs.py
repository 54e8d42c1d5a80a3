"""What the documents list is what the program has."""

from conftest import ROOT

from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.score_catalogue import SCORES


def metrics_table() -> str:
    """The table of docs/metrics.md; run ``python tests/test_docs.py`` to write it anew."""
    rows = [
        f"| `{m.name}` | {m.title} | {m.sentence} | {m.of} | {m.better} |"
        for m in CATALOGUE.values()
    ]
    head = "| name | what it is called | what it is | of | better |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def scores_table() -> str:
    """The table of scores of docs/metrics.md, written anew in the same way."""
    rows = [
        f"| `{s.name}` | {s.title} | {s.sentence} | {s.of} | {s.better} |" for s in SCORES.values()
    ]
    head = "| score | what it is called | what it is | of | better |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def test_the_list_of_metrics_is_the_catalogue():
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert metrics_table() in text
    assert scores_table() in text


if __name__ == "__main__":
    page = ROOT / "docs/metrics.md"
    text = page.read_text(encoding="utf-8")
    for table in (metrics_table(), scores_table()):
        head, _, rest = text.partition(table[:9])
        text = head + table + rest.partition("|\n\n")[2].join(["\n", ""])
    page.write_text(text.rstrip() + "\n", encoding="utf-8")
