"""What an engine's draft says, step by step, and drafts of our own in its place."""

from collections import defaultdict

import torch
from engines import runner
from pytest import MonkeyPatch
from torch import Tensor

from vllm_specflash.draft.candidates import Candidates
from vllm_specflash.draft.core import Proposal, Queries
from vllm_specflash.triton_kernels.best_tree import BINS, best_tree
from vllm_specflash.triton_kernels.find_copies import Copies


class Recorder:
    """Listens, as a context, to the drafting core of an engine in this process, on either model runner.

    Requests are numbered from 0 in the order in which the context adds them.

    Args:
        llm: the engine.
        truth: request number -> prompt and answer. Of four drafts, three are then trees whose first branch is wrong all the way
            and whose second is true; what is recorded stays what the network says.

    Attributes:
        said: request number -> {target position of the row that asked: [candidates, one entry a time it asked]}; the network's own,
            without copies, which are not drafted meanwhile.
        copies: request number -> {the same position: [what the engine found that may be copied, one entry a time]}.
        side_paths: drafts of which a path was accepted that does not lie first.
    """

    def __init__(self, llm, truth: dict[int, list[int]] | None = None):
        self.runner, self.truth = runner(llm), truth or {}
        self.said: dict[int, dict[int, list[Candidates]]] = defaultdict(lambda: defaultdict(list))
        self.copies: dict[int, dict[int, list[Copies]]] = defaultdict(lambda: defaultdict(list))
        self.side_paths = 0
        self._number = llm.request_counter.counter
        self.v1 = hasattr(self.runner, "drafter")
        self.drafter = self.runner.drafter if self.v1 else self.runner.speculator
        self._patches = MonkeyPatch()

    def __enter__(self) -> "Recorder":
        core = self.drafter.core
        self._propose, self._ask = self.drafter.propose, core.propose
        self._patches.setattr(self.drafter, "propose", self._step)
        self._patches.setattr(core, "propose", self._asked)
        return self

    def __exit__(self, *error) -> None:
        self._patches.undo()

    def _step(self, batch, *args, **kwargs):
        """vLLM's call; what a request's newest position is, is read from vLLM's own account of it."""
        if not kwargs.get("dummy_run"):
            self.req_ids = list(batch.req_ids)
            if self.v1:
                self.tables = batch.block_table
                self.lengths = [self.runner.requests[req_id].num_tokens for req_id in self.req_ids]
            else:
                self.tables = self.drafter.block_table[: batch.num_reqs]
                self.lengths = self.runner.req_states.total_len.gpu[batch.idx_mapping].tolist()
            acceptance = self.runner.rejection_sampler.acceptance
            if acceptance is not None:
                in_place = torch.arange(1, acceptance.nodes.shape[1] + 1)
                self.side_paths += int(((acceptance.nodes >= 0) & (acceptance.nodes != in_place)).any(1).sum())
        return self._propose(batch, *args, **kwargs)

    def _asked(self, rows, queries: Queries, ratio: Tensor, *args) -> Proposal:
        proposal = self._ask(rows, queries._replace(copies=None), ratio, *args)
        asked = [self._who_asked(queries, row) for row in range(len(queries.rows))]
        for row, who in enumerate(asked):
            if who is not None:
                self.said[who[0]][who[1]].append(Candidates(*(part[row : row + 1].clone() for part in proposal.candidates)))
                if queries.copies is None:
                    continue
                self.copies[who[0]][who[1]].append(Copies(*(part[row : row + 1].clone() for part in queries.copies)))
        return self._told(proposal, queries, asked) if self.truth else proposal

    def _who_asked(self, queries: Queries, row: int) -> tuple[int, int] | None:
        """Request number, and the position whose next token is the newest; None where no draft is wanted."""
        if not queries.visible[row]:
            return None
        (request,) = (self.tables == queries.block_table[row]).all(1).nonzero().flatten().tolist()
        return int(self.req_ids[request].split("-")[0]) - self._number, self.lengths[request] - 2

    def _told(self, proposal: Proposal, queries: Queries, asked: list[tuple[int, int] | None]) -> Proposal:
        """The same, with the known answers' tokens on the second branch of three trees in four."""
        tokens, first, following = (part.clone() for part in proposal.candidates)
        for row, who in enumerate(asked):
            if who is None or who[0] not in self.truth or who[1] % 4 == 0:
                continue
            true = self.truth[who[0]][who[1] + 2 :][: tokens.shape[1]]
            tokens[row, : len(true), 1] = torch.tensor(true)
            tokens[row, :, 0] = tokens[row, :, 1] ^ 1
            first[row], following[row] = 0.0, 0.0
            first[row, :2] = torch.tensor([0.5, 0.45])
            following[row, :, 0, 0], following[row, :, 1, 1] = 0.5, 0.9
        core = self.drafter.core
        deepest = torch.where(queries.visible > 0, queries.deepest, 0)
        tree = best_tree(first, following, core.num_nodes, deepest, queries.chain, torch.ones(BINS + 1))
        return Proposal(tree, Candidates(tokens, first, following))
