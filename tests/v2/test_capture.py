"""What `specflash data --features` keeps on model runner V2: the states of a teacher-forced pass, at the positions they are of."""

import pytest
import torch
from engines import greedy, mixed_prompts
from v2 import engine, metric

from vllm_specflash.train.capture import EXTENSION, read_captured
from vllm_specflash.train.target import Target


@pytest.mark.parametrize(
    "tight", [{}, {"max_num_batched_tokens": 19, "max_num_seqs": 2}, {"num_gpu_blocks_override": 10, "max_model_len": 256}],
    ids=["whole prompts", "chunks", "preemption"],
)  # fmt: skip
def test_captured_states_are_those_of_a_teacher_forced_pass(llava, v2_engines, tmp_path, tight):
    with engine(llava, worker_extension_cls=EXTENSION, enable_prefix_caching=False, **tight) as llm:
        llm.collective_rpc("start_capture", args=([1, 0],))
        outputs = llm.generate([prompt for prompt in mixed_prompts() if isinstance(prompt, str)], greedy(40), use_tqdm=False)
        assert not tight.get("num_gpu_blocks_override") or metric(llm, "num_preemptions") > 0
        llm.collective_rpc("write_captured", args=(str(tmp_path / "captured"),))
    captured = read_captured(tmp_path / "captured")
    model = Target(str(llava), torch.float32).model
    for output in outputs:
        ids = torch.tensor([[*output.prompt_token_ids, *output.outputs[0].token_ids]])
        with torch.no_grad():
            layers = model(input_ids=ids, output_hidden_states=True).hidden_states
        # Behind the final norm, what went into the second layer and what the first one read. The last token is never run.
        states = torch.stack((layers[-1], layers[1], layers[0]), dim=2)[0, :-1]
        found = captured[output.request_id].float().unflatten(-1, (3, -1))
        assert found.shape == states.shape
        assert ((found - states).norm(dim=-1) / states.norm(dim=-1)).max() < 0.05
