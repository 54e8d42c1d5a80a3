"""The schema of every Parquet table, in one place.

Every column says what it holds in its field metadata, which ``TABLES[name].describe()`` prints and
which travels inside the file.

The *variant* of a network is named by five columns that most tables share, :data:`VARIANT`; its
*point* in the study, :data:`POINT`, is all but the seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

VARIANT = ("dataset", "model", "seed", "method", "bits")
POINT = ("dataset", "model", "method", "bits")


def _column(name: str, what: str, null: bool = False, *, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": what})


_text, _flag = partial(_column, kind=pa.string()), partial(_column, kind=pa.bool_())
_index, _count = partial(_column, kind=pa.int32()), partial(_column, kind=pa.int64())
_number = partial(_column, kind=pa.float64())
_VARIANT = [
    _text("dataset", "name of the data set"),
    _text("model", "name of the architecture"),
    _index("seed", "training seed"),
    _text("method", "name of the method; 'fp32' is the baseline"),
    _index("bits", "width of the weights; 32 and 16 are floating point"),
]
_NETWORK = _VARIANT[:2]
_POINT = [field for field in _VARIANT if field.name != "seed"]
_GROUP = [
    _text("attribute", "grouping, e.g. 'race' or 'race*gender'"),
    _text("group", "value of the grouping, e.g. 'Asian' or 'Asian*female'"),
]
_SCOPE = [
    _GROUP[0],
    _text("width", "width at which groups are compared; 'all': at each"),
]


@dataclass(frozen=True)
class Table:
    """A schema and the columns whose values name a row and order the rows."""

    schema: pa.Schema
    key: tuple[str, ...]

    def describe(self) -> pd.DataFrame:
        """One row a column: name, type, what it holds."""
        return pd.DataFrame(
            {
                "column": self.schema.names,
                "type": [str(field.type) for field in self.schema],
                "description": [f.metadata[b"description"].decode() for f in self.schema],
            }
        )


def _table(key: tuple[str, ...], *columns: pa.Field) -> Table:
    return Table(pa.schema(columns), key)


TABLES: Mapping[str, Table] = {
    "samples": _table(
        ("split", "id"),  # so that either side of the split is one slice
        _text("id", "name of the sample, unique in the data set"),
        _text("split", "'train' or 'test'"),
        _index("label", "index of the class"),
        _column("image", "uint8 pixels, channels × height × width", kind=pa.binary()),
    ),
    "rejects": _table(
        ("id", "reason"),
        _text("id", "file or row with a defect"),
        _text("reason", "what is wrong with it"),
        _flag("kept", "whether it is in the data set all the same"),
    ),
    "history": _table(
        (*VARIANT, "epoch", "split", "attribute", "group"),
        *_VARIANT,
        _index("epoch", "epoch of the training, from 1"),
        _text("split", "'train' or 'test'"),
        *_GROUP,
        _count("n", "watched samples of the group"),
        _number("accuracy", "share of these samples answered rightly"),
        _number("loss", "mean cross-entropy of these samples, nats"),
    ),
    "variants": _table(
        VARIANT,
        *_VARIANT,
        _text("base", "method of the fp32 network it was made from"),
        _text("file", "its weights, beside this table; or its answers, as given"),
        _count("bytes", "size of the weights", null=True),
        _count("images_trained", "forward and backward, beyond fp32's", null=True),
    ),
    "failures": _table(
        (*VARIANT, "step"),
        *_VARIANT,
        _text("step", "what could not be done, such as 'quantize' or 'curvature'"),
        _text("reason", "the error, and the settings that led to it"),
    ),
    "deployed": _table(
        VARIANT,
        *_VARIANT,
        _text("base", "method of the fp32 network it was made from"),
        _text("file", "name of the ONNX file, beside this table"),
        _count("bytes", "size of the ONNX file"),
        _index("opset", "version of the ONNX operators"),
        _text("operators", "names of the ONNX operators in the file"),
        _index("layers", "convolutions and matrix products by weights"),
        _index("integer_layers", "layers with integer weights"),
        _number("integer_bytes", "share of the bytes of layer weights in integers"),
        _number("integer_operations", "share of multiplications of integers", null=True),
        _text("products", "activation ranges of matrix products: static, dynamic"),
        _text("calibration", "training images that set the ranges"),
        _number("accuracy", "share of the test samples answered rightly"),
        _number("agreement_fp32", "share answered as by the fp32 file"),
        _number("difference_fp32", "largest difference of a logit to the fp32 file"),
        _number("agreement_pytorch", "share answered as by PyTorch"),
        _number("difference_pytorch", "largest difference of a logit to PyTorch"),
    ),
    "deployed_groups": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _count("n", "test samples of the group"),
        _flag("counted", "whether the group is large enough to judge by"),
        _number("fp32", "accuracy of the fp32 file on the group"),
        _number("accuracy", "accuracy of this file on the group"),
        _number("low", "lower limit of accuracy (Clopper & Pearson, by unit)"),
        _number("high", "upper limit of accuracy"),
        _number("pytorch", "accuracy of the network in PyTorch"),
        _count("lost", "samples right by the fp32 file alone"),
        _count("gained", "samples right by this file alone"),
        _number("bound", "certified upper bound of the accuracy lost", null=True),
    ),
    "predictions": _table(
        (*VARIANT, "id"),
        *_VARIANT,
        _text("id", "name of the test sample"),
        _index("label", "index of its class"),
        _index("prediction", "index of the class with the highest logit"),
        _column("logits", "one a class, where they are known", True, kind=pa.list_(pa.float32())),
    ),
    "runtimes": _table(
        ("file", "attribute", "group"),
        _text("file", "file of the network, or table of its answers"),
        _text("runtime", "runtime that executed it, or 'table of answers'"),
        _count("bytes", "size of the file with its weights; 0 of a table of answers"),
        _text("verdict", "of the gate on the file, by all rules of the policy"),
        *_GROUP,
        _count("images", "test images of the group"),
        _count("units", "persons, or other units, that these are of"),
        _flag("judged", "whether the group is large enough to be judged"),
        _number("reference", "accuracy of the reference, the first file"),
        _number("accuracy", "accuracy of the file"),
        _number("accuracy_low", "lower limit of that accuracy"),
        _number("accuracy_high", "upper limit of that accuracy"),
        _number("agreement", "share of the images answered as by the reference"),
        _number("agreement_low", "lower limit of that share"),
        _number("agreement_high", "upper limit of that share"),
        _count("lost", "images answered rightly by the reference alone"),
        _count("gained", "images answered rightly by the file alone"),
        _number("loss_low", "lower limit of the accuracy lost", null=True),
        _number("loss_high", "upper limit of the accuracy lost", null=True),
        *(
            _number(f"speed_{size}{part}", f"{what} {size} images", null=True)
            for size in (1, 32)
            for part, what in (
                ("", "times as fast as the reference, median of pairs of batches of"),
                ("_low", "lower quartile of that of batches of"),
                ("_high", "upper quartile of that of batches of"),
            )
        ),
    ),
    "file_layers": _table(
        ("position", "attribute", "group"),
        _text("layer", "name of the operator; '(all layers)': every one restored"),
        _text("operator", "Conv, Gemm or MatMul; empty of all layers"),
        _count("position", "of the operator in the graph; -1 of all layers"),
        _number("weight_error", "norm of the rounding of its weight / that of it", null=True),
        *_GROUP,
        _count("n", "images of the group"),
        _number("fp32", "accuracy of the fp32 file"),
        _number("int8", "accuracy of the quantized file"),
        _number("restored", "its accuracy with the layer as in the fp32 file"),
        _count("regained", "images that are right only with the layer restored"),
        _count("lost", "images that are right only with the layer quantized"),
        _number("agreement_int8", "share answered as by the fp32 file"),
        _number("agreement_restored", "the same with the layer restored"),
        _number("distance_int8", "mean L2 distance to the scores of the fp32 file"),
        _number("distance_restored", "the same with the layer restored"),
    ),
    "groups": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _count("n", "test samples of the group"),
        _flag("counted", "whether the group is large enough to be compared"),
        _number("accuracy", "share of its samples that is answered rightly"),
        _number("loss", "mean cross-entropy, nats"),
        _number("calibration_error", "expected calibration error, 15 bins"),
        _count("null_logits", "samples whose logits are all zero"),
        _number("cosine_distance", "mean, to fp32 logits (eq. 8)", null=True),
        _number("l1_distance", "mean L1 distance to the fp32 logits"),
        _number("l2_distance", "mean L2 distance to the fp32 logits"),
        _number("logit_variance", "variance of the logits, mean over samples (eq. 9)"),
        _number("softmax_variance", "variance of the softmax, mean over samples"),
        _number("top_probability", "mean highest softmax (eq. 11)"),
        _number("true_probability", "mean softmax of the true class"),
    ),
    "layers": _table(
        (*VARIANT, "layer"),
        *_VARIANT,
        _text("layer", "name of the layer; 'all': all layers together"),
        _count("weights", "number of weights"),
        _number("layer_bits", "mean width of the weights of the layer"),
        _number("share", "share of all weights at the variant's width", null=True),
        _number("absolute_change", "sum of |change| to fp32 (eq. 5)"),
        _number("relative_error", "norm of the change over fp32's", null=True),
        _number("original_sparsity", "share of zeros among the fp32 weights"),
        _number("sparsity", "share of zeros among the weights (eq. 6)"),
    ),
    "weight_histograms": _table(
        (*VARIANT, "low"),
        *_VARIANT,
        _number("low", "lower edge of a bin; bins span fp32, folded"),
        _number("high", "upper edge of the bin"),
        _count("count", "weights of all layers in the bin"),
    ),
    "boundaries": _table(
        (*VARIANT, "attribute", "group", "low"),
        *_VARIANT,
        *_GROUP,
        _number("low", "lower edge of a bin of the true probability"),
        _number("high", "upper edge of the bin"),
        _count("count", "test samples in the bin"),
    ),
    "curvature": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _count("n", "test samples of the group, for gradient_plain"),
        _count("n_train", "training samples of the group"),
        _count("sampled", "test samples for all other columns"),
        _number("gradient_plain", "norm of the mean gradient (eq. 10)"),
        _number("gradient_equal_n", "norm at the n of the smallest group"),
        _number("gradient_unbiased_square", "squared norm, a U-statistic", null=True),
        _number("gradient_unbiased_square_error", "SE of the square", null=True),
        _number("largest_eigenvalue", "largest eigenvalue of the Hessian"),
        _number("largest_eigenvalue_error", "SE of the eigenvalue", null=True),
        _number("residual", "residual over the eigenvalue"),
        _count("products", "Hessian-vector products taken"),
        _number("trace", "trace of the Hessian", null=True),
        _number("trace_error", "standard error of the trace", null=True),
        _number("weight_distance", "norm of the change of weights", null=True),
        _number("excess_loss", "mean loss less that at fp32", null=True),
        _number("first_order", "excess loss, by the gradient", null=True),
        _number("second_order", "excess loss, by gradient and curvature", null=True),
        _number("bound", "bound of Tran et al. on second_order", null=True),
    ),
    "layer_damage": _table(
        (*VARIANT, "attribute", "group", "position"),
        *_VARIANT,
        *_GROUP,
        _text("layer", "name of the only layer quantized"),
        _index("position", "place of the layer in the network, from 0"),
        _count("sampled", "test samples of the group that were run"),
        _number("rise", "rise of their mean loss over fp32, nats"),
    ),
    "claims": _table(
        ("dataset", "model", "claim", "width"),
        _NETWORK[0],
        _text("model", "architecture tested; 'all': all of the study together"),
        _text("claim", "name of the claim"),
        _text("text", "what is claimed, as a sentence"),
        _text("width", "width tested, e.g. 'int4'; 'all': all of them together"),
        _text("attribute", "grouping whose groups are compared"),
        _text("estimand", "number that is compared with the boundary"),
        _text("scale", "what estimates are: 'share' of 1, or 'rank correlation'"),
        _text("compared", "methods, models, groups or columns that are compared"),
        _count("units", "networks, pairs of networks or groups behind the estimate"),
        _number("estimate", "mean of a contrast, or rank correlation", null=True),
        _number("boundary", "value beyond which the claim says it lies", null=True),
        _number("low", "lower limit over seeds and test samples", null=True),
        _number("high", "upper limit over seeds and test samples", null=True),
        _number("d", "Cohen's d of the contrast over networks", null=True),
        _number("d_low", "lower limit of Cohen's d", null=True),
        _number("d_high", "upper limit of Cohen's d", null=True),
        _number("p_value", "two-sided p of lying on the boundary", null=True),
        _text("family", "claims adjusted together, for each data set and model"),
        _number("p_holm", "p after Holm's adjustment in the family", null=True),
        _text("verdict", "'equivalent', 'supported', 'refuted', 'cannot tell', 'not testable'"),
        _text("missing", "what the study lacks for a test; empty if nothing"),
    ),
    "attribution": _table(
        ("dataset", "model", "attribute", "width", "group", "step"),
        *_NETWORK,
        *_SCOPE,
        _text("group", "group whose widths are compared; 'all': groups are"),
        _text("step", "step of the impact flow, in words"),
        _count("rows", "groups, widths or pairs of both that are compared"),
        _number("spearman", "Spearman's rho of step and accuracy lost", null=True),
        _number("kendall", "Kendall's tau-b of step and accuracy lost", null=True),
    ),
    "mediation": _table(
        ("dataset", "model", "attribute", "width", "step"),
        *_NETWORK,
        *_SCOPE,
        _text("step", "step of the impact flow, in words"),
        _text("mediator", "next step of the impact flow, which is held fixed"),
        _count("rows", "groups, or pairs of group and width, that are compared"),
        _number("total", "slope of accuracy lost on the step, of ranks", null=True),
        _number("direct", "slope with the mediator held fixed", null=True),
        _number("association_through", "total less direct slope", null=True),
    ),
    "levels": _table(
        (*POINT, "attribute", "group", "metric"),
        *_POINT,
        *_GROUP,
        _text("metric", "name in the catalogue of group metrics, such as 'fvo'"),
        _count("n", "test samples that the metric is taken of"),
        _flag("counted", "whether the group is large enough to be compared"),
        _number("value", "metric, mean over training seeds", null=True),
        _number("low", "lower limit of value, for other test samples", null=True),
        _number("high", "upper limit of value, for other test samples", null=True),
        _number("seed_sd", "standard deviation between training seeds", null=True),
        _number("chance_mean", "mean metric, were all groups alike", null=True),
        _number("chance_upper", "its 95th percentile, were all groups alike", null=True),
        _number("p_chance", "p-value of all groups being treated alike", null=True),
        _number("debiased", "metric with the share of chance taken out", null=True),
        _number("top_share", "share of answers that are the most frequent class", null=True),
        _flag("collapsed", "a network answers nearly one class, unlike the labels", null=True),
        _text("note", "why value is missing, what was left out of it, or doubts"),
    ),
    "effects": _table(
        (*POINT, "reference", "attribute", "group", "metric"),
        *_POINT,
        _text("reference", "method compared with: fp32, or one of the same width"),
        *_GROUP,
        _text("metric", "name in the catalogue of group metrics, such as 'fvo'"),
        _flag("counted", "whether the group is large enough to be compared"),
        _number("change", "change of the metric, mean over training seeds", null=True),
        _number("low", "lower limit of change; see column about", null=True),
        _number("high", "upper limit of change; see column about", null=True),
        _number("high_all", "upper limit of change, for all groups at once", null=True),
        _flag("may_lose_most", "no other group is known to lose more accuracy", null=True),
        _number("p_value", "p-value of no change, two-sided", null=True),
        _text("about", "what the verdict speaks of: these networks, or the method"),
        _text("family", "headline: adjusted together by Holm; or exploratory"),
        _number("p_holm", "p-value of a headline outcome after Holm", null=True),
        _number("fdr", "false discovery rate of an exploratory test", null=True),
        _number("seed_sd", "standard deviation between training seeds", null=True),
        _text("verdict", "worse, better, equivalent, cannot tell, undefined"),
        _number("decide", "images, or seeds where about the method, to decide", null=True),
        _text("note", "what to know of the verdict; mostly empty"),
    ),
    "scores": _table(
        (*POINT, "attribute", "group", "score"),
        *_POINT,
        *_GROUP,
        _text("score", "name in the catalogue of scores, such as 'nll'"),
        _count("n", "test samples that the score asks about"),
        _flag("counted", "whether the group is large enough to be compared"),
        _number("before", "score of the fp32 networks, mean over seeds", null=True),
        _number("after", "score of this point, mean over training seeds", null=True),
        _number("change", "score of this point less that of fp32", null=True),
        _number("low", "lower limit of change, for other test samples", null=True),
        _number("high", "upper limit of change, for other test samples", null=True),
        _number("p_value", "p of no change; a distance has none", null=True),
        _number("fdr", "false discovery rate over the whole table", null=True),
        _text("verdict", "of these networks: worse, better, equivalent, …"),
        _text("note", "why the score is missing; mostly empty"),
    ),
    "slices": _table(
        (*POINT, "slice"),
        *_POINT,
        _text("slice", "the part of the samples, in words"),
        _count("n", "tested samples of the slice; others were searched"),
        _number("before", "accuracy of the reference on the slice"),
        _number("after", "accuracy of this point on the slice"),
        _number("change", "accuracy after less before"),
        _number("low", "lower limit of change, for other test samples"),
        _number("high", "upper limit of change, for other test samples"),
        _number("rest", "change of all other tested samples"),
        _number("p_value", "p of losing no more than the rest, or nothing"),
        _number("fdr", "false discovery rate over the slices of this point"),
        _text("verdict", "of these networks: worse, better, equivalent, …"),
    ),
    "certificates": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _count("n", "test samples of the group"),
        _count("units", "units (people) that they are of; n where each is its own"),
        _number("effective", "independent samples as precise on the change"),
        _count("lost", "samples that fp32 answers rightly and the variant wrongly"),
        _count("gained", "samples that fp32 answers wrongly and the variant rightly"),
        _count("still_wrong", "samples that both answer wrongly, but differently"),
        _number("bound", "certified upper bound of the accuracy lost", null=True),
    ),
    "frontier": _table(
        POINT,
        *_POINT,
        _text("attribute", "grouping, e.g. 'race' or 'race*gender'"),
        _number("bytes", "size of the file, mean over training seeds", null=True),
        _number("accuracy", "overall accuracy, mean over training seeds"),
        _number("fvo", "largest gap between two groups, mean over seeds", null=True),
        _number("fvo_high", "upper limit of the largest gap", null=True),
        _number("loss", "accuracy that the group which loses most lost against fp32"),
        _number("loss_bound", "certified: no group of a seed loses more", null=True),
        _number("floor", "lowest bound that this test set can certify", null=True),
        _flag("on_frontier", "no other is as good in all criteria, better in one"),
        _number("probability", "share of redrawn test sets with it on the frontier"),
        _number("excess", "distance above the targets, as a share of 1", null=True),
        _flag("meets", "whether all targets are met"),
        _flag("recommended", "narrowest that meets targets, the free ones first"),
    ),
    "remedies": _table(
        (*POINT, "metric"),
        *_POINT,
        _text("attribute", "grouping, e.g. 'race' or 'race*gender'"),
        _number("images_trained", "images trained on beyond fp32, mean over seeds"),
        _number("training", "images_trained over those of fp32 itself", null=True),
        _flag("free", "whether it trains nothing"),
        _count("images", "calibration images that it looks at"),
        _count("labels", "calibration images whose label it must know"),
        _number("bytes", "size of the file, mean over training seeds"),
        _text("metric", "name in the catalogue of group metrics, such as 'fvo'"),
        _number("value", "metric, mean over training seeds", null=True),
        _number("change", "change against the reference of this width", null=True),
        _number("low", "lower limit of change, for other test samples", null=True),
        _number("high", "upper limit of change, for other test samples", null=True),
        _text("verdict", "as in table effects; empty for the reference itself"),
        _text("bar", "best of this width without training; empty if it is free"),
        _number("over_change", "change against the bar", null=True),
        _number("over_low", "lower limit of over_change", null=True),
        _number("over_high", "upper limit of over_change", null=True),
        _text("over_verdict", "of the change against the bar, as in table effects"),
        _number("excess", "distance above the targets, as a share of 1", null=True),
        _flag("meets", "whether all targets are met"),
        _flag("cheapest", "least training of those nearest to the targets"),
    ),
    "exemplars": _table(
        (*POINT, "id"),
        *_POINT,
        _text("id", "test sample whose most frequent answer changed"),
        _index("label", "index of its class"),
        _index("before", "most frequent answer over seeds at fp32"),
        _index("after", "most frequent answer over seeds of this point"),
        _count("flips", "training seeds whose answer changed"),
        _number("taxicab", "distance of the answers over seeds, 0 (same) to 2"),
    ),
}
