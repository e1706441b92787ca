"""Actions as the codes of a chunk."""

import numpy as np
import pytest

from vla_tune.models.heads.codes import EncodeActions
from vla_tune.tokens import BinTokenizer, uniform_edges


def test_codes_beyond_the_end_are_ignored():
    tokenizer = BinTokenizer(uniform_edges(256), 512)
    actions = np.linspace(-1, 1, 6, dtype=np.float32).reshape(3, 2)
    mask = np.array([[True, True], [True, True], [False, False]])
    encoded = EncodeActions(tokenizer, 3)({"actions": actions, "action_mask": mask})
    assert encoded["codes"].tolist() == tokenizer.encode(actions).tolist()
    assert encoded["code_mask"].tolist() == [True] * 4 + [False] * 2
    with pytest.raises(ValueError, match="chunks of 3 actions, the contract says 4"):
        EncodeActions(tokenizer, 4)({"actions": actions, "action_mask": mask})
    assert EncodeActions(tokenizer, 3)({"instruction": "x"}) == {"instruction": "x"}
