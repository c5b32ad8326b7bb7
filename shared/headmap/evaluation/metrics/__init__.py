"""Metrics by name: one file each."""

from __future__ import annotations

from headmap.errors import InvalidParameter
from headmap.evaluation.metrics.anls import Anls
from headmap.evaluation.metrics.base import Metric
from headmap.evaluation.metrics.cer import CharacterAccuracy
from headmap.evaluation.metrics.contains import Contains
from headmap.evaluation.metrics.exact import Exact
from headmap.evaluation.metrics.relaxed import Relaxed
from headmap.evaluation.metrics.vqa import Vqa
from headmap.evaluation.metrics.wer import WordAccuracy

METRICS: dict[str, type[Metric]] = {
    metric.name: metric for metric in (Exact, Contains, Anls, Relaxed, Vqa, CharacterAccuracy, WordAccuracy)
}


def get_metric(name: str) -> Metric:
    """The metric called `name`. Raises InvalidParameter naming those there are."""
    if name not in METRICS:
        raise InvalidParameter(f"metric: {name!r} is none of {', '.join(METRICS)}", param="metric")
    return METRICS[name]()


__all__ = ["METRICS", "Metric", "get_metric"]
