"""Requests whose drafts must be chains, because the scheduler or the sampler reads them as a sequence."""

# Settings that say so by being set at all.
IN_ORDER = ("structured_outputs", "guided_decoding", "bad_words", "seed", "logprobs", "thinking_token_budget")
PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}


def reads_drafts_in_order(sampling_params) -> bool:
    """Whether a request with these vLLM SamplingParams may only have chains.

    Grammars and thinking budgets advance along the draft; penalties, bad words and min_tokens count what came before a
    token in it; seeded draws and logprobs belong to its tokens one by one.
    """
    if sampling_params is None:
        return True
    if any(getattr(sampling_params, name, None) not in (None, []) for name in IN_ORDER):
        return True
    if any(getattr(sampling_params, name, off) != off for name, off in PENALTIES.items()):
        return True
    return bool(getattr(sampling_params, "min_tokens", 0))
