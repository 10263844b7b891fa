"""Samples against a reference: features of both in one pass each, many metrics, statistics in files."""

from jaxdiff.evaluation.checks import check, check_bootstrap, subset_size, warnings
from jaxdiff.evaluation.classifier import Training, kept_classifier, trained_classifier
from jaxdiff.evaluation.copies import Copies, copies
from jaxdiff.evaluation.gather import Gathered, as_often, extractor, gather, hashed, images_of, labels_of
from jaxdiff.evaluation.measure import (
    METRICS,
    Metric,
    Options,
    check_reference,
    chosen,
    frechet_interval,
    measure,
    name_of,
    row_of,
    size_of,
    some_of,
)
from jaxdiff.evaluation.names import NAMES, check_name, default_features, features, planned
from jaxdiff.evaluation.paired import PAIRED, check_pairs, paired
from jaxdiff.evaluation.statistics import is_statistics, read_about, read_statistics, write_statistics

__all__ = [
    "METRICS", "NAMES", "PAIRED", "Copies", "Gathered", "Metric", "Options", "Training", "as_often", "check",
    "check_bootstrap", "check_name", "check_pairs", "check_reference", "chosen", "copies", "default_features",
    "extractor", "features", "frechet_interval", "gather", "hashed", "images_of", "is_statistics", "kept_classifier",
    "labels_of", "measure", "name_of", "paired", "planned", "read_about", "read_statistics", "row_of", "size_of",
    "some_of", "subset_size", "trained_classifier", "warnings", "write_statistics",
]  # fmt: skip
