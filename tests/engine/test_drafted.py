"""What a step's drafts become: of trees as of copies, nothing from a token on that ends the answer."""

import numpy as np
import pytest

from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.v1.drafted import Drafted


@pytest.mark.parametrize("stops, length", [({7}, 2), ({5}, 0), ({9}, 3), ({4}, 4), (set(), 4)])
def test_a_copy_ends_before_what_ends_the_answer(stops, length):
    drafted = Drafted(DraftStats())
    drafted.expect("a", stops)
    # The fifth token is not to be verified, whatever it is.
    drafts = drafted.chains(["a"], [[5, 6, 7, 9, 4]], [[0.9] * 5], [4])
    assert drafts == [[5, 6, 7, 9][:length]]
    draft = drafted.of("a", length)
    assert draft.parents == list(range(-1, length)) and len(draft.chances) == length + 1 and np.isnan(draft.chances[0])


def test_a_request_that_ended_is_forgotten():
    drafted = Drafted(DraftStats())
    drafted.expect("a", {5})
    drafted.forget("a")
    assert drafted.chains(["a"], [[5, 6]], [[0.9, 0.9]], [2]) == [[5, 6]]
