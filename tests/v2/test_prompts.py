"""What happens to prompts and blocks: chunks that split images, prefix hits, preemption, the model's longest length."""

from drafts import draft_for
from engines import accepted_tokens, answers, draft_stats, greedy, mixed_prompts, with_images
from tiny_models import tiny_llama
from v2 import engine, metric

TOKENS = 32


def test_chunked_prefill_that_splits_images(llava, drafts, plain_answers, misranking):
    """Several images a prompt, prompts that end in one, trees beside the chunks."""
    with engine(llava, drafts["knowing"], max_num_batched_tokens=19, max_num_seqs=2) as llm:
        assert answers(llm, mixed_prompts(), greedy(16)) == [tokens[:16] for tokens in plain_answers]
        stats = draft_stats(llm)
        # All twelve images, whole: 16 visual tokens and 4 latents each.
        assert (stats["visual_tokens"], stats["latents"]) == (12 * 16, 12 * 4)
        assert stats["moved"] > 30


def test_what_side_paths_left_in_cached_blocks_is_right(llava, drafts, misranking):
    """The second question of a conversation reads the blocks that the first one's answer filled, side paths and all."""
    question = with_images("user: <image> tell me a long story, please. assistant: ", 1)

    def follow_up(story: tuple[int, ...], llm) -> dict:
        return {**question, "prompt": question["prompt"] + llm.get_tokenizer().decode(story) + " user: and? assistant: "}

    with engine(llava) as llm:
        story = answers(llm, [question], greedy(72))[0]
        then = answers(llm, [follow_up(story, llm)], greedy(16))
    with engine(llava, drafts["knowing"], enable_prefix_caching=True) as llm:
        assert answers(llm, [question], greedy(72)) == [story]
        assert draft_stats(llm)["moved"] > 10
        hits = metric(llm, "prefix_cache_hits")
        assert answers(llm, [follow_up(story, llm)], greedy(16)) == then
        # More than the prompt has: blocks that only decoding filled.
        assert metric(llm, "prefix_cache_hits") - hits >= 128
        # Again, with its images' latents from the cache.
        assert answers(llm, [follow_up(story, llm), question], greedy(16)) == [*then, story[:16]]


def test_preemption_in_mid_tree(llava, drafts, plain_answers, misranking):
    with engine(llava, drafts["knowing"], num_gpu_blocks_override=14, max_model_len=256) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == plain_answers
        assert metric(llm, "num_preemptions") > 0 and draft_stats(llm)["moved"] > 50


def test_max_model_len_edge(llava, drafts, misranking):
    prompts = ["user: short. ", with_images("user: <image> at the end of the model's length. ", 1)]
    with engine(llava, max_model_len=80) as llm:
        expected = answers(llm, prompts, greedy(500))
        assert len(expected[0]) == 80 - len("user: short. ")
    with engine(llava, drafts["knowing"], max_model_len=80) as llm:
        assert answers(llm, prompts, greedy(500)) == expected
        assert draft_stats(llm)["moved"] > 10


def test_text_only_target(tmp_path, misranking):
    target = tiny_llama(tmp_path / "tiny-llama")
    prompts = [prompt for prompt in mixed_prompts() if isinstance(prompt, str)]
    with engine(target) as llm:
        expected = answers(llm, prompts, greedy(TOKENS))
    with engine(target, draft_for(target, tmp_path / "draft", knowing=True)) as llm:
        assert answers(llm, prompts, greedy(TOKENS)) == expected
        assert accepted_tokens(llm) > 30 and draft_stats(llm)["moved"] > 20
