"""The schema of every Parquet table, in one place.

Every column says what it holds in its field metadata, which ``TABLES[name].describe()`` prints and
which travels inside the file.

The *variant* of a network is named by five columns that most tables share, :data:`VARIANT`; its
*point* in the study, :data:`POINT`, is all but the seed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

VARIANT = ("dataset", "model", "seed", "method", "bits")
POINT = ("dataset", "model", "method", "bits")


def _column(name: str, kind: pa.DataType, what: str, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null, metadata={"description": what})


_VARIANT = [
    _column("dataset", pa.string(), "name of the data set"),
    _column("model", pa.string(), "name of the architecture"),
    _column("seed", pa.int32(), "training seed"),
    _column("method", pa.string(), "name of the method; 'fp32' is the baseline"),
    _column("bits", pa.int32(), "width of the weights; 32 and 16 are floating point"),
]
_NETWORK = _VARIANT[:2]
_POINT = [field for field in _VARIANT if field.name != "seed"]
_GROUP = [
    _column("attribute", pa.string(), "grouping, e.g. 'race' or 'race*gender'"),
    _column("group", pa.string(), "value of the grouping, e.g. 'Asian' or 'Asian*female'"),
]
_SCOPE = [
    _GROUP[0],
    _column("width", pa.string(), "width at which groups are compared; 'all': at each"),
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
        _column("id", pa.string(), "name of the sample, unique in the data set"),
        _column("split", pa.string(), "'train' or 'test'"),
        _column("label", pa.int32(), "index of the class"),
        _column("image", pa.binary(), "uint8 pixels, channels × height × width"),
    ),
    "rejects": _table(
        ("id", "reason"),
        _column("id", pa.string(), "file or row with a defect"),
        _column("reason", pa.string(), "what is wrong with it"),
        _column("kept", pa.bool_(), "whether it is in the data set all the same"),
    ),
    "history": _table(
        (*VARIANT, "epoch", "split", "attribute", "group"),
        *_VARIANT,
        _column("epoch", pa.int32(), "epoch of the training, from 1"),
        _column("split", pa.string(), "'train' or 'test'"),
        *_GROUP,
        _column("n", pa.int64(), "watched samples of the group"),
        _column("accuracy", pa.float64(), "share of these samples answered rightly"),
        _column("loss", pa.float64(), "mean cross-entropy of these samples, nats"),
    ),
    "variants": _table(
        VARIANT,
        *_VARIANT,
        _column("base", pa.string(), "method of the fp32 network it was made from"),
        _column("file", pa.string(), "its weights, beside this table; or its answers, as given"),
        _column("bytes", pa.int64(), "size of the weights", null=True),
        _column("images_trained", pa.int64(), "forward and backward, beyond fp32's", null=True),
    ),
    "failures": _table(
        (*VARIANT, "step"),
        *_VARIANT,
        _column("step", pa.string(), "what could not be done, such as 'quantize' or 'curvature'"),
        _column("reason", pa.string(), "the error, and the settings that led to it"),
    ),
    "deployed": _table(
        VARIANT,
        *_VARIANT,
        _column("base", pa.string(), "method of the fp32 network it was made from"),
        _column("file", pa.string(), "name of the ONNX file, beside this table"),
        _column("bytes", pa.int64(), "size of the ONNX file"),
        _column("opset", pa.int32(), "version of the ONNX operators"),
        _column("operators", pa.string(), "names of the ONNX operators in the file"),
        _column("layers", pa.int32(), "convolutions and matrix products by weights"),
        _column("integer_layers", pa.int32(), "layers with integer weights"),
        _column("integer_bytes", pa.float64(), "share of the bytes of layer weights in integers"),
        _column("products", pa.string(), "activation ranges of matrix products: static, dynamic"),
        _column("calibration", pa.string(), "training images that set the ranges"),
        _column("accuracy", pa.float64(), "share of the test samples answered rightly"),
        _column("agreement_fp32", pa.float64(), "share answered as by the fp32 file"),
        _column("difference_fp32", pa.float64(), "largest difference of a logit to the fp32 file"),
        _column("agreement_pytorch", pa.float64(), "share answered as by PyTorch"),
        _column("difference_pytorch", pa.float64(), "largest difference of a logit to PyTorch"),
    ),
    "deployed_groups": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _column("n", pa.int64(), "test samples of the group"),
        _column("counted", pa.bool_(), "whether the group is large enough to judge by"),
        _column("fp32", pa.float64(), "accuracy of the fp32 file on the group"),
        _column("accuracy", pa.float64(), "accuracy of this file on the group"),
        _column("low", pa.float64(), "lower limit of accuracy (Clopper & Pearson, by unit)"),
        _column("high", pa.float64(), "upper limit of accuracy"),
        _column("pytorch", pa.float64(), "accuracy of the network in PyTorch"),
        _column("lost", pa.int64(), "samples right by the fp32 file alone"),
        _column("gained", pa.int64(), "samples right by this file alone"),
        _column("bound", pa.float64(), "certified upper bound of the accuracy lost", null=True),
    ),
    "predictions": _table(
        (*VARIANT, "id"),
        *_VARIANT,
        _column("id", pa.string(), "name of the test sample"),
        _column("label", pa.int32(), "index of its class"),
        _column("prediction", pa.int32(), "index of the class with the highest logit"),
        _column("logits", pa.list_(pa.float32()), "one a class, where they are known", null=True),
    ),
    "runtimes": _table(
        ("file", "attribute", "group"),
        _column("file", pa.string(), "file of the network, or table of its answers"),
        _column("runtime", pa.string(), "runtime that executed it, or 'table of answers'"),
        _column("bytes", pa.int64(), "size of the file with its weights; 0 of a table of answers"),
        _column("verdict", pa.string(), "of the gate on the file, by all rules of the policy"),
        *_GROUP,
        _column("images", pa.int64(), "test images of the group"),
        _column("units", pa.int64(), "persons, or other units, that these are of"),
        _column("judged", pa.bool_(), "whether the group is large enough to be judged"),
        _column("reference", pa.float64(), "accuracy of the reference, the first file"),
        _column("accuracy", pa.float64(), "accuracy of the file"),
        _column("accuracy_low", pa.float64(), "lower limit of that accuracy"),
        _column("accuracy_high", pa.float64(), "upper limit of that accuracy"),
        _column("agreement", pa.float64(), "share of the images answered as by the reference"),
        _column("agreement_low", pa.float64(), "lower limit of that share"),
        _column("agreement_high", pa.float64(), "upper limit of that share"),
        _column("lost", pa.int64(), "images answered rightly by the reference alone"),
        _column("gained", pa.int64(), "images answered rightly by the file alone"),
        _column("loss_low", pa.float64(), "lower limit of the accuracy lost", null=True),
        _column("loss_high", pa.float64(), "upper limit of the accuracy lost", null=True),
    ),
    "file_layers": _table(
        ("position", "attribute", "group"),
        _column("layer", pa.string(), "name of the operator; '(all layers)': every one restored"),
        _column("operator", pa.string(), "Conv, Gemm or MatMul; empty of all layers"),
        _column("position", pa.int64(), "of the operator in the graph; -1 of all layers"),
        _column(
            "weight_error", pa.float64(), "norm of the rounding of its weight / that of it", True
        ),
        *_GROUP,
        _column("n", pa.int64(), "images of the group"),
        _column("fp32", pa.float64(), "accuracy of the fp32 file"),
        _column("int8", pa.float64(), "accuracy of the quantized file"),
        _column("restored", pa.float64(), "its accuracy with the layer as in the fp32 file"),
        _column("regained", pa.int64(), "images that are right only with the layer restored"),
        _column("lost", pa.int64(), "images that are right only with the layer quantized"),
        _column("agreement_int8", pa.float64(), "share answered as by the fp32 file"),
        _column("agreement_restored", pa.float64(), "the same with the layer restored"),
        _column("distance_int8", pa.float64(), "mean L2 distance to the scores of the fp32 file"),
        _column("distance_restored", pa.float64(), "the same with the layer restored"),
    ),
    "groups": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _column("n", pa.int64(), "test samples of the group"),
        _column("counted", pa.bool_(), "whether the group is large enough to be compared"),
        _column("accuracy", pa.float64(), "share of its samples that is answered rightly"),
        _column("loss", pa.float64(), "mean cross-entropy, nats"),
        _column("calibration_error", pa.float64(), "expected calibration error, 15 bins"),
        _column("null_logits", pa.int64(), "samples whose logits are all zero"),
        _column("cosine_distance", pa.float64(), "mean, to fp32 logits (eq. 8)", null=True),
        _column("l1_distance", pa.float64(), "mean L1 distance to the fp32 logits"),
        _column("l2_distance", pa.float64(), "mean L2 distance to the fp32 logits"),
        _column(
            "logit_variance", pa.float64(), "variance of the logits, mean over samples (eq. 9)"
        ),
        _column("softmax_variance", pa.float64(), "variance of the softmax, mean over samples"),
        _column("top_probability", pa.float64(), "mean highest softmax (eq. 11)"),
        _column("true_probability", pa.float64(), "mean softmax of the true class"),
    ),
    "layers": _table(
        (*VARIANT, "layer"),
        *_VARIANT,
        _column("layer", pa.string(), "name of the layer; 'all': all layers together"),
        _column("weights", pa.int64(), "number of weights"),
        _column("layer_bits", pa.float64(), "mean width of the weights of the layer"),
        _column("share", pa.float64(), "share of all weights at the variant's width", null=True),
        _column("absolute_change", pa.float64(), "sum of |change| to fp32 (eq. 5)"),
        _column("relative_error", pa.float64(), "norm of the change over fp32's", null=True),
        _column("original_sparsity", pa.float64(), "share of zeros among the fp32 weights"),
        _column("sparsity", pa.float64(), "share of zeros among the weights (eq. 6)"),
    ),
    "weight_histograms": _table(
        (*VARIANT, "low"),
        *_VARIANT,
        _column("low", pa.float64(), "lower edge of a bin; bins span fp32, folded"),
        _column("high", pa.float64(), "upper edge of the bin"),
        _column("count", pa.int64(), "weights of all layers in the bin"),
    ),
    "boundaries": _table(
        (*VARIANT, "attribute", "group", "low"),
        *_VARIANT,
        *_GROUP,
        _column("low", pa.float64(), "lower edge of a bin of the true probability"),
        _column("high", pa.float64(), "upper edge of the bin"),
        _column("count", pa.int64(), "test samples in the bin"),
    ),
    "curvature": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _column("n", pa.int64(), "test samples of the group, for gradient_plain"),
        _column("n_train", pa.int64(), "training samples of the group"),
        _column("sampled", pa.int64(), "test samples for all other columns"),
        _column("gradient_plain", pa.float64(), "norm of the mean gradient (eq. 10)"),
        _column("gradient_equal_n", pa.float64(), "norm at the n of the smallest group"),
        _column("gradient_unbiased_square", pa.float64(), "squared norm, a U-statistic", null=True),
        _column("gradient_unbiased_square_error", pa.float64(), "SE of the square", null=True),
        _column("largest_eigenvalue", pa.float64(), "largest eigenvalue of the Hessian"),
        _column("largest_eigenvalue_error", pa.float64(), "SE of the eigenvalue", null=True),
        _column("residual", pa.float64(), "residual over the eigenvalue"),
        _column("products", pa.int64(), "Hessian-vector products taken"),
        _column("trace", pa.float64(), "trace of the Hessian", null=True),
        _column("trace_error", pa.float64(), "standard error of the trace", null=True),
        _column("weight_distance", pa.float64(), "norm of the change of weights", null=True),
        _column("excess_loss", pa.float64(), "mean loss less that at fp32", null=True),
        _column("first_order", pa.float64(), "excess loss, by the gradient", null=True),
        _column("second_order", pa.float64(), "excess loss, by gradient and curvature", null=True),
        _column("bound", pa.float64(), "bound of Tran et al. on second_order", null=True),
    ),
    "layer_damage": _table(
        (*VARIANT, "attribute", "group", "position"),
        *_VARIANT,
        *_GROUP,
        _column("layer", pa.string(), "name of the only layer quantized"),
        _column("position", pa.int32(), "place of the layer in the network, from 0"),
        _column("sampled", pa.int64(), "test samples of the group that were run"),
        _column("rise", pa.float64(), "rise of their mean loss over fp32, nats"),
    ),
    "claims": _table(
        ("dataset", "model", "claim", "width"),
        _NETWORK[0],
        _column("model", pa.string(), "architecture tested; 'all': all of the study together"),
        _column("claim", pa.string(), "name of the claim"),
        _column("text", pa.string(), "what is claimed, as a sentence"),
        _column("width", pa.string(), "width tested, e.g. 'int4'; 'all': all of them together"),
        _column("attribute", pa.string(), "grouping whose groups are compared"),
        _column("estimand", pa.string(), "number that is compared with the boundary"),
        _column("scale", pa.string(), "what estimates are: 'share' of 1, or 'rank correlation'"),
        _column("compared", pa.string(), "methods, models, groups or columns that are compared"),
        _column("units", pa.int64(), "networks, pairs of networks or groups behind the estimate"),
        _column("estimate", pa.float64(), "mean of a contrast, or rank correlation", null=True),
        _column("boundary", pa.float64(), "value beyond which the claim says it lies", null=True),
        _column("low", pa.float64(), "lower limit over seeds and test samples", null=True),
        _column("high", pa.float64(), "upper limit over seeds and test samples", null=True),
        _column("d", pa.float64(), "Cohen's d of the contrast over networks", null=True),
        _column("d_low", pa.float64(), "lower limit of Cohen's d", null=True),
        _column("d_high", pa.float64(), "upper limit of Cohen's d", null=True),
        _column("p_value", pa.float64(), "two-sided p of lying on the boundary", null=True),
        _column("family", pa.string(), "claims adjusted together, for each data set and model"),
        _column("p_holm", pa.float64(), "p after Holm's adjustment in the family", null=True),
        _column(
            "verdict",
            pa.string(),
            "'equivalent', 'supported', 'refuted', 'cannot tell', 'not testable'",
        ),
        _column("missing", pa.string(), "what the study lacks for a test; empty if nothing"),
    ),
    "attribution": _table(
        ("dataset", "model", "attribute", "width", "group", "step"),
        *_NETWORK,
        *_SCOPE,
        _column("group", pa.string(), "group whose widths are compared; 'all': groups are"),
        _column("step", pa.string(), "step of the impact flow, in words"),
        _column("rows", pa.int64(), "groups, widths or pairs of both that are compared"),
        _column("spearman", pa.float64(), "Spearman's rho of step and accuracy lost", null=True),
        _column("kendall", pa.float64(), "Kendall's tau-b of step and accuracy lost", null=True),
    ),
    "mediation": _table(
        ("dataset", "model", "attribute", "width", "step"),
        *_NETWORK,
        *_SCOPE,
        _column("step", pa.string(), "step of the impact flow, in words"),
        _column("mediator", pa.string(), "next step of the impact flow, which is held fixed"),
        _column("rows", pa.int64(), "groups, or pairs of group and width, that are compared"),
        _column("total", pa.float64(), "slope of accuracy lost on the step, of ranks", null=True),
        _column("direct", pa.float64(), "slope with the mediator held fixed", null=True),
        _column("association_through", pa.float64(), "total less direct slope", null=True),
    ),
    "levels": _table(
        (*POINT, "attribute", "group", "metric"),
        *_POINT,
        *_GROUP,
        _column("metric", pa.string(), "name in the catalogue of group metrics, such as 'fvo'"),
        _column("n", pa.int64(), "test samples that the metric is taken of"),
        _column("counted", pa.bool_(), "whether the group is large enough to be compared"),
        _column("value", pa.float64(), "metric, mean over training seeds", null=True),
        _column("low", pa.float64(), "lower limit of value, for other test samples", null=True),
        _column("high", pa.float64(), "upper limit of value, for other test samples", null=True),
        _column("seed_sd", pa.float64(), "standard deviation between training seeds", null=True),
        _column("chance_mean", pa.float64(), "mean metric, were all groups alike", null=True),
        _column(
            "chance_upper", pa.float64(), "its 95th percentile, were all groups alike", null=True
        ),
        _column("p_chance", pa.float64(), "p-value of all groups being treated alike", null=True),
        _column("debiased", pa.float64(), "metric with the share of chance taken out", null=True),
        _column(
            "top_share",
            pa.float64(),
            "share of answers that are the most frequent class",
            null=True,
        ),
        _column(
            "collapsed",
            pa.bool_(),
            "a network answers nearly one class, unlike the labels",
            null=True,
        ),
        _column("note", pa.string(), "why value is missing, what was left out of it, or doubts"),
    ),
    "effects": _table(
        (*POINT, "reference", "attribute", "group", "metric"),
        *_POINT,
        _column("reference", pa.string(), "method compared with: fp32, or one of the same width"),
        *_GROUP,
        _column("metric", pa.string(), "name in the catalogue of group metrics, such as 'fvo'"),
        _column("counted", pa.bool_(), "whether the group is large enough to be compared"),
        _column(
            "change", pa.float64(), "change of the metric, mean over training seeds", null=True
        ),
        _column("low", pa.float64(), "lower limit of change; see column about", null=True),
        _column("high", pa.float64(), "upper limit of change; see column about", null=True),
        _column(
            "high_all", pa.float64(), "upper limit of change, for all groups at once", null=True
        ),
        _column(
            "may_lose_most", pa.bool_(), "no other group is known to lose more accuracy", null=True
        ),
        _column("p_value", pa.float64(), "p-value of no change, two-sided", null=True),
        _column("about", pa.string(), "what the verdict speaks of: these networks, or the method"),
        _column("family", pa.string(), "headline: adjusted together by Holm; or exploratory"),
        _column("p_holm", pa.float64(), "p-value of a headline outcome after Holm", null=True),
        _column("fdr", pa.float64(), "false discovery rate of an exploratory test", null=True),
        _column("seed_sd", pa.float64(), "standard deviation between training seeds", null=True),
        _column("verdict", pa.string(), "worse, better, equivalent, cannot tell, undefined"),
        _column(
            "decide", pa.float64(), "images, or seeds where about the method, to decide", null=True
        ),
        _column("note", pa.string(), "what to know of the verdict; mostly empty"),
    ),
    "scores": _table(
        (*POINT, "attribute", "group", "score"),
        *_POINT,
        *_GROUP,
        _column("score", pa.string(), "name in the catalogue of scores, such as 'nll'"),
        _column("n", pa.int64(), "test samples that the score asks about"),
        _column("counted", pa.bool_(), "whether the group is large enough to be compared"),
        _column("before", pa.float64(), "score of the fp32 networks, mean over seeds", null=True),
        _column("after", pa.float64(), "score of this point, mean over training seeds", null=True),
        _column("change", pa.float64(), "score of this point less that of fp32", null=True),
        _column("low", pa.float64(), "lower limit of change, for other test samples", null=True),
        _column("high", pa.float64(), "upper limit of change, for other test samples", null=True),
        _column("p_value", pa.float64(), "p of no change; a distance has none", null=True),
        _column("fdr", pa.float64(), "false discovery rate over the whole table", null=True),
        _column("verdict", pa.string(), "of these networks: worse, better, equivalent, …"),
        _column("note", pa.string(), "why the score is missing; mostly empty"),
    ),
    "slices": _table(
        (*POINT, "slice"),
        *_POINT,
        _column("slice", pa.string(), "the part of the samples, in words"),
        _column("n", pa.int64(), "tested samples of the slice; others were searched"),
        _column("before", pa.float64(), "accuracy of the reference on the slice"),
        _column("after", pa.float64(), "accuracy of this point on the slice"),
        _column("change", pa.float64(), "accuracy after less before"),
        _column("low", pa.float64(), "lower limit of change, for other test samples"),
        _column("high", pa.float64(), "upper limit of change, for other test samples"),
        _column("rest", pa.float64(), "change of all other tested samples"),
        _column("p_value", pa.float64(), "p of losing no more than the rest, or nothing"),
        _column("fdr", pa.float64(), "false discovery rate over the slices of this point"),
        _column("verdict", pa.string(), "of these networks: worse, better, equivalent, …"),
    ),
    "certificates": _table(
        (*VARIANT, "attribute", "group"),
        *_VARIANT,
        *_GROUP,
        _column("n", pa.int64(), "test samples of the group"),
        _column("units", pa.int64(), "units (people) that they are of; n where each is its own"),
        _column("effective", pa.float64(), "independent samples as precise on the change"),
        _column("lost", pa.int64(), "samples that fp32 answers rightly and the variant wrongly"),
        _column("gained", pa.int64(), "samples that fp32 answers wrongly and the variant rightly"),
        _column("still_wrong", pa.int64(), "samples that both answer wrongly, but differently"),
        _column("bound", pa.float64(), "certified upper bound of the accuracy lost", null=True),
    ),
    "frontier": _table(
        POINT,
        *_POINT,
        _column("attribute", pa.string(), "grouping, e.g. 'race' or 'race*gender'"),
        _column("bytes", pa.float64(), "size of the file, mean over training seeds", null=True),
        _column("accuracy", pa.float64(), "overall accuracy, mean over training seeds"),
        _column("fvo", pa.float64(), "largest gap between two groups, mean over seeds", null=True),
        _column("fvo_high", pa.float64(), "upper limit of the largest gap", null=True),
        _column("loss", pa.float64(), "accuracy that the group which loses most lost against fp32"),
        _column("loss_bound", pa.float64(), "certified: no group of a seed loses more", null=True),
        _column("floor", pa.float64(), "lowest bound that this test set can certify", null=True),
        _column("on_frontier", pa.bool_(), "no other is as good in all criteria, better in one"),
        _column("probability", pa.float64(), "share of redrawn test sets with it on the frontier"),
        _column("excess", pa.float64(), "distance above the targets, as a share of 1", null=True),
        _column("meets", pa.bool_(), "whether all targets are met"),
        _column("recommended", pa.bool_(), "narrowest that meets targets, the free ones first"),
    ),
    "remedies": _table(
        (*POINT, "metric"),
        *_POINT,
        _column("attribute", pa.string(), "grouping, e.g. 'race' or 'race*gender'"),
        _column("images_trained", pa.float64(), "images trained on beyond fp32, mean over seeds"),
        _column("training", pa.float64(), "images_trained over those of fp32 itself", null=True),
        _column("free", pa.bool_(), "whether it trains nothing"),
        _column("images", pa.int64(), "calibration images that it looks at"),
        _column("labels", pa.int64(), "calibration images whose label it must know"),
        _column("bytes", pa.float64(), "size of the file, mean over training seeds"),
        _column("metric", pa.string(), "name in the catalogue of group metrics, such as 'fvo'"),
        _column("value", pa.float64(), "metric, mean over training seeds", null=True),
        _column("change", pa.float64(), "change against the reference of this width", null=True),
        _column("low", pa.float64(), "lower limit of change, for other test samples", null=True),
        _column("high", pa.float64(), "upper limit of change, for other test samples", null=True),
        _column("verdict", pa.string(), "as in table effects; empty for the reference itself"),
        _column("bar", pa.string(), "best of this width without training; empty if it is free"),
        _column("over_change", pa.float64(), "change against the bar", null=True),
        _column("over_low", pa.float64(), "lower limit of over_change", null=True),
        _column("over_high", pa.float64(), "upper limit of over_change", null=True),
        _column("over_verdict", pa.string(), "of the change against the bar, as in table effects"),
        _column("excess", pa.float64(), "distance above the targets, as a share of 1", null=True),
        _column("meets", pa.bool_(), "whether all targets are met"),
        _column("cheapest", pa.bool_(), "least training of those nearest to the targets"),
    ),
    "exemplars": _table(
        (*POINT, "id"),
        *_POINT,
        _column("id", pa.string(), "test sample whose most frequent answer changed"),
        _column("label", pa.int32(), "index of its class"),
        _column("before", pa.int32(), "most frequent answer over seeds at fp32"),
        _column("after", pa.int32(), "most frequent answer over seeds of this point"),
        _column("flips", pa.int64(), "training seeds whose answer changed"),
        _column("taxicab", pa.float64(), "distance of the answers over seeds, 0 (same) to 2"),
    ),
}
