"""Samples against a reference: features of both in one pass each, many metrics, statistics in files."""

from jaxdiff.evaluation.classifier import Training, trained_classifier
from jaxdiff.evaluation.copies import Copies, copies
from jaxdiff.evaluation.gather import Gathered, as_often, extractor, gather, images_of, labels_of
from jaxdiff.evaluation.measure import (
    METRICS,
    Metric,
    Options,
    check,
    check_reference,
    chosen,
    frechet_interval,
    measure,
    name_of,
    some_of,
    subset_size,
    warnings,
)
from jaxdiff.evaluation.names import NAMES, check_name, default_features, features, planned
from jaxdiff.evaluation.paired import PAIRED, paired
from jaxdiff.evaluation.statistics import is_statistics, read_about, read_statistics, write_statistics

__all__ = [
    "METRICS", "NAMES", "PAIRED", "Copies", "Gathered", "Metric", "Options", "Training", "as_often", "check",
    "check_name", "check_reference", "chosen", "copies", "default_features", "extractor", "features",
    "frechet_interval", "gather", "images_of", "is_statistics", "labels_of", "measure", "name_of", "paired",
    "planned", "read_about", "read_statistics", "some_of", "subset_size", "trained_classifier", "warnings",
    "write_statistics",
]  # fmt: skip
