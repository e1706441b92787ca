"""Records of others -> ours: what a YAML, a cache or a checkpoint says is read strictly, and looked at for sense."""

from collections.abc import Mapping
from typing import Any

from vla_tune.schema.body import Embodiment
from vla_tune.schema.column import Statistics
from vla_tune.schema.sense import check_embodiment, check_statistics
from vla_tune.schema.strict import structured
from vla_tune.schema.versions import embodiment_of_today


def embodiment_from_record(record: Mapping[str, Any]) -> Embodiment:
    """The embodiment written in a data YAML; every field is required but the groups' `names`.

    `normalized: true` is read as `normalization: quantile`, `normalized: false` as `normalization: none`.

    Raises:
        ValueError: a field is missing, unknown, of another type, or says what cannot be.
    """
    source = f"embodiment {str(record.get('name', '(without a name)'))[:80]}"
    body = structured(embodiment_of_today(record), Embodiment, source)
    check_embodiment(body, source)
    return body


def statistics_from_record(record: Mapping[str, Any], *, source: str) -> Statistics:
    """Statistics read from a cache or a checkpoint.

    Raises:
        ValueError: a field is missing, unknown, of another type, or the numbers contradict each other.
    """
    statistics = structured(record, Statistics, source)
    check_statistics(statistics, source)
    return statistics
