"""Put a work folder's trained parts where they ship, in bfloat16: `python -m vllm_specflash.lab.demo.ship WORK_FOLDER`."""

import argparse
from pathlib import Path

from safetensors.torch import save_file

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.checkout import WEIGHTS
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, TOWER, tensors_of


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    trained = {TOWER: arguments.folder, PROJECTOR: arguments.folder / "final", LORA: arguments.folder / "final"}
    parts = {part: tensors_of(folder / part) for part, folder in trained.items()}
    arguments.to.mkdir(parents=True, exist_ok=True)
    for part, tensors in parts.items():
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, arguments.to / part)
        print(part, (arguments.to / part).stat().st_size)


if __name__ == "__main__":
    main()
