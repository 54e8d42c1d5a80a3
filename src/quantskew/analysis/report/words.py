"""The words of the page: what terms mean, what methods do, and the colour of a verdict."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import markupsafe

from quantskew.analysis.study import Study, kind
from quantskew.fairness.verdicts import CANNOT_TELL

SAFE, HARMS = "safe within the margin", "harms someone"
TONES = {
    SAFE: "good", HARMS: "bad", CANNOT_TELL: "open",
    "equivalent": "good", "better": "good", "worse": "bad",
    "supported": "good", "refuted": "bad", "not testable": "open",
}  # fmt: skip
"""Colour of each verdict, which always stands in words too."""

GLOSSARY = {
    "accuracy": "Share of the test samples that are answered rightly, in percent.",
    "cannot tell": "The change is neither surely within the margin nor surely a loss or a gain: "
    "too few images or seeds.",
    "certificate": "The most accuracy that any group of a grouping can have lost, which holds "
    "for all of them at once (at 95 %, unless the study says otherwise).",
    "equivalent": "The whole interval of a change lies within the margin.",
    "false discovery rate": "The average share of reported effects that are false; used for "
    "everything that is explored beside the headline outcomes.",
    "fp32": "The network before quantization, in 32-bit floating point.",
    "FVO": "Fairness violation: accuracy of the best group less that of the worst, in points "
    "(Bellam & Kim, equation 2). 0 means that all groups are served alike.",
    "Holm": "An adjustment of p-values, so that of all headline outcomes none is called found by "
    "chance more often than stated.",
    "int8": "Weights stored as 8-bit integers; int4 and int2 likewise.",
    "interval": "A range that is computed so that it holds the true value for 95 of 100 sets of "
    "test samples, unless the study says otherwise.",
    "margin": "The largest change that does not matter, as the study states it "
    "(statistics.margin, 2 points by default).",
    "points": "Percentage points: from 97 % to 95 % is a loss of 2 points.",
    "PTQ": "Post-training quantization: weights are rounded once, without training.",
    "QAT": "Quantization-aware training: training goes on while the weights are rounded.",
    "seed": "Start of the random numbers of a training: initial weights and order of the images. "
    "Another seed gives another network.",
    "simulated": "Computed in floating point with the rounded weights; no file for a runtime is "
    "made.",
    "simultaneous": "Holds for all groups at once, so also for whichever turns out worst.",
    "worst group": "The group with the lowest accuracy.",
}
"""Terms that the page explains, each in a sentence or two."""
FURTHER = {
    "activation": "What a layer passes on for an image. It is quantized statically, with ranges "
    "found beforehand, or dynamically, with ranges found for each image.",
    "calibration": "Looking at some training images to choose the range of the activations or the "
    "rounding of the weights.",
    "cell": "One piece of work of a study, such as one seed, method and width. Its result is kept "
    "and used again.",
    "clipping range": "The values that the integer codes span; what lies outside is cut off.",
    "exploratory": "Outside the family of tests that Holm adjusts; judged by the false discovery "
    "rate.",
    "flip": "A test image that exactly one of two networks answers rightly.",
    "gate": "A check that fails a build if a policy is broken.",
    "group, grouping": "The images with one value of an attribute, such as race; race*gender is "
    "the grouping by both.",
    "mixed precision": "Layers of different widths; the first and the last are often kept at 8 "
    "bits.",
    "paired": "Measured on the same test images before and after.",
    "per tensor, per channel": "One scale for a whole layer, or one for each of its outputs.",
    "recipe": "How a remedy changes training: sampling, augmentation, loss.",
    "reference": "The method that others are compared with at each width; ptq by default.",
    "remedy": "A method that is meant to help the worst group.",
    "scale, zero point": "The step between two codes, and the code that stands for zero.",
    "unit": "What is counted: an image, or a person, lesion or video of which there are several "
    "images.",
    "variant": "One network at one method, width and seed.",
    "verdict": "Worse, better, equivalent or cannot tell.",
}
"""Terms that only the documentation uses; its glossary holds both."""

_TERMS = re.compile(
    r"\b(" + "|".join(sorted(map(re.escape, GLOSSARY), key=len, reverse=True)) + r")\b"
)


def explained(text: str) -> markupsafe.Markup:
    """Escape a text, and link the first use of every term to the glossary."""
    seen: set[str] = set()

    def link(found: re.Match[str]) -> str:
        term = found[0]
        if term in seen:
            return term
        seen.add(term)
        return (
            f'<a class="term" href="#{anchor(term)}" title="{markupsafe.escape(GLOSSARY[term])}">'
            f"{term}</a>"
        )

    return markupsafe.Markup(_TERMS.sub(link, str(markupsafe.escape(text))))


def anchor(term: str) -> str:
    """Name of the place of a term in the glossary."""
    return "word-" + term.lower().replace(" ", "-")


def methods_described(study: Study) -> dict[str, str]:
    """Say in a line what each method of a study is: by its ``about``, or else by its parts."""
    return {
        name: method.get("about") or "; ".join(_parts(method))
        for name, method in study.all_methods().items()
        if {"weights", "training"} <= {*method}
    }


def _parts(method: Mapping[str, Any]) -> Iterator[str]:
    recipe, weights = method.get("recipe", {}), method["weights"]
    trained = kind(method, "training") != "none"
    if method.get("function"):
        yield f"own function {method['function']}"
    yield "quantization-aware training" if trained else "after training"
    form = weights.get("format", weights.get("kind", "integer"))
    if form != "integer":
        yield f"weights as {form}"
    else:
        per = weights.get("granularity", "tensor")
        yield f"weights {weights.get('scheme', 'asymmetric')} per {per}"
        for part, usual in (("range", "minmax"), ("rounding", "nearest")):
            if not trained and kind(weights, part) not in ("", usual):
                yield f"{part} {kind(weights, part)}"
        if weights.get("first_last"):
            yield f"first and last layer at {weights['first_last']} bits"
    for part, usual, words in (
        ("oscillations", "as_is", "oscillations: {}"), ("activations", "none", "{} activations"),
        ("policy", "uniform", "widths by layer: {}"),
    ):  # fmt: skip
        if kind(method, part) not in ("", usual):
            yield words.format(kind(method, part))
    for part, usual in (
        ("sampling", "as_is"), ("augmentation", "none"), ("loss", "cross_entropy"),
    ):  # fmt: skip
        if kind(recipe, part) not in ("", usual):
            yield f"{part}: {kind(recipe, part)}"
    for part in method.get("post", ()):
        yield f"then {part['kind'].replace('_', ' ')}"
