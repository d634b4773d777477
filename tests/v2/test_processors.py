"""Logits processors on Model Runner V2; in a file of their own, since a process holds one engine at a time."""

from drafts import draft_for
from engines import greedy, runner
from v2 import engine

PROMPTS = [f"user: question number {k}, please. assistant: " for k in range(2)]


def test_installed_logits_processors_read_drafts_in_order(json_llama, tmp_path, monkeypatch):
    """vLLM loads them without being asked to, and no request says that there are any."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor, loader

    class Installed(LogitsProcessor):
        def add_request(self, req_idx, sampling_params):
            return False

        def apply(self, logits, *args, **kwargs):
            return logits

    monkeypatch.setattr(loader, "_load_v2_logitsprocs_plugins", lambda: [Installed])
    with engine(json_llama, draft_for(json_llama, tmp_path / "draft", knowing=True)) as llm:
        core, tables, drafted = llm.llm_engine, runner(llm).speculator.tables, []
        for prompt in PROMPTS:
            core.add_request(prompt, prompt, greedy(24))
        while core.has_unfinished_requests():
            core.step()
            for slot in runner(llm).req_states.req_id_to_index.values():
                drafted.append(tables.trees.parents[slot, 1:][tables.chances[slot, 1:] > 0].tolist())
    assert any(drafted) and all(parents == list(range(len(parents))) for parents in drafted)
