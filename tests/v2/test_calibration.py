"""What the engine learns of its draft's chances is what tree/calibration.py makes of the same observations, on V1's path."""

import numpy as np
import pytest
import torch
from engines import greedy, runner
from v2 import engine

from vllm_specflash.draft import core
from vllm_specflash.tree.calibration import BINS, Calibration, calibrated
from vllm_specflash.tree.step import Draft, StepTrees
from vllm_specflash.triton_kernels.best_tree import CERTAIN

# Of unlike lengths, so that requests leave one by one and others take over their slots.
LENGTHS = [40, 9, 30, 14, 22, 40, 17, 35]
PROMPTS = ["a", "user: hello, who are you? assistant: ", "0123456789 ", "one two three ", "what?", "b c", "Z", "again and again "]


class Observer:
    """Hears by request, never by slot, what the draft gave and what the target took; and does V1's sums with it.

    Attributes:
        calibration: V1's.
        crossed: steps in which a request's slot was not its place in the batch.
        steps: that verified something.
    """

    def __init__(self, ours):
        self.ours, self.calibration, self.crossed, self.steps = ours, Calibration(), 0, 0
        self._drafts: dict[str, Draft] = {}
        self._propose, self._sample = ours.speculator.propose, ours.sample
        ours.speculator.propose, ours.sample = self.propose, self.sample

    def propose(self, batch, *args, **kwargs):
        drafts = self._propose(batch, *args, **kwargs)
        speculator = self.ours.speculator
        for request, (req_id, slot) in enumerate(zip(batch.req_ids, batch.idx_mapping.tolist())):
            parents, chances = (table[slot].tolist() for table in (speculator.tables.trees.parents, speculator.tables.chances))
            self._drafts[req_id] = Draft(parents, chances)
            # Its first node was chosen by what has been learnt so far.
            chance = calibrated(np.array(chances[1]), self.calibration.ratio, CERTAIN)
            assert speculator.draft_token_confidence_probs[request, 0].item() == pytest.approx(chance, rel=1e-4)
        return drafts

    def sample(self, hidden_states, batch, grammar_output):
        output = self._sample(hidden_states, batch, grammar_output)
        acceptance = self.ours.rejection_sampler.acceptance
        if acceptance is not None:
            counts = np.diff(batch.cu_num_logits_np).tolist()
            chain = Draft.chain(self.ours.speculator.width - 1)
            drafts = [self._drafts.get(req_id, chain).cut(count - 1) for req_id, count in zip(batch.req_ids, counts)]
            self.calibration.observe(*StepTrees.of(drafts).observations(acceptance.lengths, acceptance.nodes))
            ratio = self.ours.speculator.calibration.ratio
            torch.testing.assert_close(ratio.double(), torch.from_numpy(self.calibration.ratio), rtol=1e-4, atol=1e-4)
            self.crossed += batch.idx_mapping.tolist() != list(range(len(counts)))
            self.steps += 1
        return output


@pytest.fixture
def misleading(monkeypatch):
    """Drafts that are sure of their second choice, and give the first some chance beside it. How much depends on the token, so that
    hardly two requests' trees are alike.
    """
    joined = core.joined

    def misled(rounds):
        candidates = joined(rounds)
        order = torch.arange(candidates.tokens.shape[2])
        order[:2] = torch.tensor([1, 0])
        tokens, tables = candidates.tokens[:, :, order], []
        for table, of in ((candidates.first, tokens[:, 0]), (candidates.following, tokens[:, 1:, None, :])):
            # Spread over the upper bins, and over the lower ones.
            own = 0.55 + 0.4 * (of[..., :1] * 0.618 % 1)
            table = 0.001 * torch.ones_like(table)
            table[..., :1], table[..., 1:2] = own, own - 0.5
            tables.append(table)
        return candidates._replace(tokens=tokens, first=tables[0], following=tables[1])

    monkeypatch.setattr(core, "joined", misled)


def test_an_overconfident_draft_is_seen_through(llava, drafts, misleading):
    with engine(llava, drafts["knowing"], {"num_speculative_tokens": 9}, max_num_seqs=4) as llm:
        observer = Observer(runner(llm))
        llm.generate(PROMPTS, [greedy(length, ignore_eos=True) for length in LENGTHS], use_tqdm=False)
        assert observer.steps > 20 and observer.crossed > 5
        ratio = runner(llm).speculator.calibration.ratio
        # First choices are given more than half and hardly ever taken; second choices are taken, and were given less.
        assert ratio[BINS // 2 + 1 : BINS - 1].max() < 0.8 and ratio[: BINS // 2].max() > 1.2


def test_nan_teaches_nothing(llava, drafts):
    with engine(llava, drafts["nan"]) as llm:
        llm.generate(PROMPTS[:3], greedy(8), use_tqdm=False)
        assert torch.equal(runner(llm).speculator.calibration.ratio, torch.ones(BINS + 1))
