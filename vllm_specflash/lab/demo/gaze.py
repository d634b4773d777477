"""Where the target looks when it names what is on a page: `python -m vllm_specflash.lab.demo.gaze --out gaze.json`.

For every position whose next token begins a name, and every layer: the attention that its best head gives the cell of that name,
and the most that any head gives the cell of the name after it. Means over single pages of nine pictograms that nothing was trained on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.checkout import SHEET_READER
from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID, asking, picture_prefix
from vllm_specflash.lab.demo.projector import PATCH_CELLS
from vllm_specflash.lab.demo.sheet_language import READINGS
from vllm_specflash.lab.demo.sheets import Sheet, sample_sheet
from vllm_specflash.lab.demo.sight_states import DemoStates
from vllm_specflash.lab.demo.split import sample_in
from vllm_specflash.train.provenance import write_provenance

REQUEST = "Name everything on the pages in order."
PAGES = 16


def read_out(page: Sheet, tokenizer) -> tuple[list[int], list[int]]:
    """Token ids of a page read out, and where each of its nine names begins."""
    answer = READINGS[REQUEST](page)
    encoded = tokenizer(answer, return_offsets_mapping=True)
    before = picture_prefix(1, tokenizer) + asking(REQUEST, tokenizer)
    begins, place = [], 0
    for name in page.pages[0]:
        place = answer.index(name, place)
        # A token that begins with the space before the name begins it too.
        begins.append(len(before) + next(i for i, (_, end) in enumerate(encoded.offset_mapping) if end > place))
    return before + encoded.input_ids, begins


@torch.inference_mode()
def gazes(states: DemoStates, pages: int) -> Iterator[np.ndarray]:
    """[2, layers, heads] for every name but a page's last: attention to its cell, and to the next name's."""
    states.model.set_attn_implementation("eager")
    for number in range(pages):
        page = sample_in("heldout", lambda rng: sample_sheet(rng, (1,)), np.random.default_rng([77, number]))
        ids, begins = read_out(page, states.tokenizer)
        tokens = torch.tensor(ids)
        found = states.model.model(
            inputs_embeds=states.inputs(tokens[None], page.pictures())[0], output_attentions=True
        ).attentions  # fmt: skip
        for cell, place in enumerate(begins[:-1]):
            seen = torch.stack([layer[0, :, place - 1, tokens == IMAGE_TOKEN_ID] for layer in found]).float()
            yield np.stack([seen[:, :, PATCH_CELLS == one].sum(-1).numpy() for one in (cell, cell + 1)])


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=SHEET_READER, help="the target's tower, projector and LoRA")
    parser.add_argument("--pages", type=int, default=PAGES)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    own, after = np.mean(list(gazes(DemoStates(options.weights), options.pages)), axis=0).max(-1)
    for layer, (now, later) in enumerate(zip(own, after)):
        print(f"layer {layer}: {now:.0%} on what is named, {later:.0%} on what comes after it")
    write_provenance(options.out, pages=options.pages, on_the_name=own.tolist(), on_the_next=after.tolist())


if __name__ == "__main__":
    main()
