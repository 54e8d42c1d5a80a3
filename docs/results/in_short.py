"""Print a line for each kept study: ``python docs/results/in_short.py``.

Run at the root of the project. Of each network: accuracy of the best and the worst group at fp32,
and at each width the largest loss of a group under plain post-training quantization, in points.
"""

import pandas as pd
from build import HERE, Results

from quantskew.analysis.views import first_groupings
from quantskew.names import BASELINE, width_name

STUDIES = ("utkface", "utkface_resnet18", "imbalanced_mnist", "quantization")
WIDTHS = (8, 4, 3, 2)


def line(study: Results) -> dict[str, str]:
    """Describe the network of a study, which has one network and one data set."""
    levels = first_groupings(study.frame("levels"), study.study)
    levels = levels[(levels["metric"] == "accuracy") & levels["counted"]]
    fp32 = levels[levels["method"] == BASELINE].set_index("group")["value"]
    changes = first_groupings(study.frame("effects"), study.study)
    changes = changes[
        (changes["method"] == study.plain)
        & (changes["reference"] == BASELINE)
        & (changes["metric"] == "accuracy")
        & changes["counted"]
    ]
    said = {
        "study": study.folder.name,
        "fp32, best group": f"{100 * fp32.max():.0f} % ({fp32.idxmax()})",
        "worst group": f"{100 * fp32.min():.0f} % ({fp32.idxmin()})",
    }
    for bits in WIDTHS:
        rows = changes[changes["bits"] == bits].set_index("group")["change"]
        points = "" if rows.empty else f"{100 * rows.min():z.1f} ({rows.idxmin()})"
        said[width_name(bits)] = points.replace("-", "−")
    return said


if __name__ == "__main__":
    print(pd.DataFrame([line(Results(HERE / name)) for name in STUDIES]).to_string(index=False))
