"""Configurations of one's own that were written before heads were the models' are read for one version more."""

import pytest
from hydra.utils import get_class

NAMES = [
    ("vla_tune.heads.ParallelTokenHead", "vla_tune.models.heads.ParallelTokenHead"),
    ("vla_tune.heads.AutoregressiveTokenHead", "vla_tune.models.heads.AutoregressiveTokenHead"),
    ("vla_tune.heads.RegressionHead", "vla_tune.models.heads.RegressionHead"),
    ("vla_tune.heads.loss.ActionRows", "vla_tune.models.heads.codes.ActionRows"),
    ("vla_tune.heads.decoding.FullVocabulary", "vla_tune.models.heads.decoding.FullVocabulary"),
]


@pytest.mark.parametrize(("older", "now"), NAMES)
def test_an_older_name_is_the_class_of_today(older: str, now: str):
    assert get_class(older) is get_class(now)
