"""Requests whose drafts must be chains, because the scheduler or the sampler reads them as a sequence."""

# Settings that say so by being set at all.
IN_ORDER = ("structured_outputs", "guided_decoding", "bad_words", "thinking_token_budget")
# On model runner V1, seeded draws and logprobs belong to a draft's tokens one by one as well.
IN_ORDER_ON_V1 = ("seed", "logprobs", "logprob_token_ids")
PENALTIES = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0}


def reads_drafts_in_order(sampling_params, v1: bool = False) -> bool:
    """Whether a request with these vLLM SamplingParams may only have chains.

    Grammars and thinking budgets advance along the draft; penalties and bad words count what came before a token in it.
    """
    if sampling_params is None:
        return True
    names = IN_ORDER + IN_ORDER_ON_V1 if v1 else IN_ORDER
    if any(getattr(sampling_params, name, None) not in (None, []) for name in names):
        return True
    if any(getattr(sampling_params, name, off) != off for name, off in PENALTIES.items()):
        return True
    return v1 and bool(getattr(sampling_params, "min_tokens", 0))
