"""Which engines run trees on GPUs: those that ask, whose attention is vLLM's Triton one, and whose layers our kernel can serve."""

from types import SimpleNamespace

import pytest
from engines import answers, draft_stats, engine, greedy, runner
from tiny_models import HEAD_DIM, HEADS, KV_HEADS
from triton_on_cpu import NodeSlotRunner, use_triton_attention
from vllm import EngineArgs
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends import registry
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from vllm_specflash import compat, plugin
from vllm_specflash.engine import cpu_worker, speculative_config, tree_backend
from vllm_specflash.engine.tree_backend import TreeAttentionBackend, TreeAttentionImpl

pytestmark = pytest.mark.parent


@pytest.fixture(autouse=True)
def unregistered(monkeypatch):
    """CUSTOM is free, and what a test registers is forgotten."""
    monkeypatch.setattr(registry, "_ATTN_OVERRIDES", {})


@pytest.fixture
def chosen(text_target):
    return lambda **given: _chosen(EngineArgs(str(text_target), **given))


def _chosen(arguments: EngineArgs) -> AttentionBackendEnum | None:
    """What vLLM makes of the arguments after our choice."""
    plugin.select_tree_attention(arguments)
    # As EngineArgs.create_engine_config combines them.
    from vllm.config.attention import AttentionConfig

    if arguments.attention_backend is None:
        return arguments.attention_config.backend
    assert arguments.attention_config.backend is None
    return AttentionConfig.validate_backend_before(arguments.attention_backend)


@pytest.mark.parametrize(
    "given",
    [
        {}, {"attention_backend": "auto"}, {"attention_backend": "TRITON_ATTN"}, {"attention_backend": "triton_attn"},
        {"attention_backend": AttentionBackendEnum.TRITON_ATTN}, {"attention_config": {"backend": "TRITON_ATTN"}},
    ],
    ids=str,
)  # fmt: skip
def test_our_backend_takes_the_place_of_no_choice_and_of_the_one_it_extends(given, chosen):
    assert chosen(**given) is AttentionBackendEnum.CUSTOM
    assert AttentionBackendEnum.CUSTOM.get_class() is TreeAttentionBackend


@pytest.mark.parametrize(
    "given",
    [
        {"attention_backend": "FLASH_ATTN"}, {"attention_backend": AttentionBackendEnum.FLASHINFER},
        {"attention_config": {"backend": "FLASH_ATTN"}},
    ],
    ids=str,
)  # fmt: skip
def test_any_other_choice_stands(given, chosen):
    assert chosen(**given) in (AttentionBackendEnum.FLASH_ATTN, AttentionBackendEnum.FLASHINFER)
    assert not registry._ATTN_OVERRIDES


def test_a_choice_per_kind_of_layer_stands(chosen):
    assert chosen(attention_config={"backend_per_kind": {"full_attention": "FLASH_ATTN"}}) is None


def test_another_plugins_backend_stays_registered(chosen):
    registry.register_backend(AttentionBackendEnum.CUSTOM, "somewhere.else.Backend")
    assert chosen() is None
    assert AttentionBackendEnum.CUSTOM.get_path() == "somewhere.else.Backend"


def test_a_vllm_that_lacks_a_name_keeps_its_own(monkeypatch, chosen):
    missing = compat.Name("vllm.v1.attention.backends.triton_attn", "NoSuchClass")
    monkeypatch.setattr(compat, "CUDA_TREE_NAMES", (*compat.CUDA_TREE_NAMES, missing))
    assert chosen() is None


def test_choosing_twice_changes_nothing(text_target):
    arguments = EngineArgs(str(text_target))
    for _ in range(2):
        plugin.select_tree_attention(arguments)
        assert arguments.attention_backend == "CUSTOM"
        assert plugin.register_tree_attention()


@pytest.mark.parametrize(
    ("platform", "tree", "runs"),
    [
        ("cpu", None, True), ("cpu", True, True), ("cpu", False, False),
        ("cuda", None, False), ("cuda", True, True), ("cuda", False, False),
        ("rocm", None, False), ("rocm", True, False),
    ],
)  # fmt: skip
def test_gpus_draft_trees_only_when_told(platform, tree, runs, monkeypatch):
    stub = SimpleNamespace(is_cpu=lambda: platform == "cpu", is_cuda=lambda: platform == "cuda")
    monkeypatch.setattr(speculative_config, "current_platform", stub)
    assert speculative_config.runs_trees(tree) is runs


def implementation(**changed) -> TreeAttentionImpl:
    plain = dict(alibi_slopes=None, sliding_window=None, kv_cache_dtype="auto")
    return TreeAttentionImpl(HEADS, HEAD_DIM, 1.0, KV_HEADS, **{**plain, **changed})


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({}, None), ({"sliding_window": 64}, "sliding windows"), ({"chunk_lookback": 1}, "sliding windows"),
        ({"alibi_slopes": [1.0] * HEADS}, "ALiBi"), ({"logits_soft_cap": 50.0}, "capped attention logits"),
        ({"kv_sharing_target_layer_name": "another"}, "layers that share keys and values"),
        ({"attn_type": "encoder_only"}, "attention of type encoder_only"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_kernel_cannot_do_is_noticed(changed, what):
    assert tree_backend.unsupported(implementation(**changed)) == what


@pytest.fixture
def told(monkeypatch):
    """What set_up_trees says in the log."""
    lines = []
    stub = SimpleNamespace(warning_once=lambda text, *args: lines.append(text % args))
    monkeypatch.setattr(tree_backend, "logger", stub)
    return lines


PROMPTS = ["user: hello, who are you? assistant: ", "0123456789 " * 6]


def test_layers_that_cannot_run_trees_get_chains(text_target, monkeypatch, told):
    with engine(text_target) as llm:
        expected = answers(llm, PROMPTS, greedy())
    use_triton_attention(monkeypatch)
    monkeypatch.setattr(tree_backend, "MAX_HEAD_SIZE", HEAD_DIM - 1)
    with engine(text_target, text_target / "specflash") as llm:
        assert answers(llm, PROMPTS, greedy()) == expected
        stats = draft_stats(llm)
        assert stats["errors"] == stats["branching"] == 0 < stats["proposed_tokens"]
    assert told == [f"SpecFLASH drafts chains only: trees do not run with heads wider than {HEAD_DIM - 1}."]


def test_another_backend_gets_chains(text_target, monkeypatch, told):
    monkeypatch.setattr(cpu_worker, "SpecFlashCPUModelRunner", NodeSlotRunner)
    with engine(text_target, text_target / "specflash") as llm:
        answers(llm, PROMPTS, greedy())
        stats = draft_stats(llm)
        assert stats["errors"] == stats["branching"] == 0 < stats["proposed_tokens"]
    wanted = "on GPUs trees need vLLM's Triton attention, and this engine has CPUAttentionBackendImpl"
    assert told == [f"SpecFLASH drafts chains only: {wanted}."]


def test_attention_runs_between_graphs_where_trees_run(text_target, monkeypatch):
    use_triton_attention(monkeypatch)
    support = TreeAttentionBackend.get_builder_cls().get_cudagraph_support
    with engine(text_target, text_target / "specflash") as llm:
        vllm_config = runner(llm).vllm_config
        assert support(vllm_config, None) is AttentionCGSupport.NEVER
        monkeypatch.setattr(tree_backend, "MAX_HEAD_SIZE", HEAD_DIM - 1)
        assert support(vllm_config, None) is AttentionCGSupport.ALWAYS


def test_both_ways_of_attending_happen_in_an_engine(text_target, monkeypatch):
    """Ours alone where all rows are nodes, after vLLM's beside a prefill."""
    use_triton_attention(monkeypatch)
    alone = []
    copied = tree_backend.NodeVerification._copied

    def noted(self, block_table):
        trees = copied(self, block_table)
        alone.append(trees.rows is None)
        return trees

    monkeypatch.setattr(tree_backend.NodeVerification, "_copied", noted)
    options = {"num_speculative_tokens": 64, "min_confidence": 0}
    with engine(text_target, text_target / "specflash", options, max_num_batched_tokens=160, max_num_seqs=3) as llm:
        answers(llm, [*PROMPTS, "a" * 300], greedy(60))
        assert draft_stats(llm)["errors"] == 0
    assert {True, False} == set(alone)


def test_our_implementation_writes_plain_numbers():
    assert not implementation().fused_output_quant_supported(None)
