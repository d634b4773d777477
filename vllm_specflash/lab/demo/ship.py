"""Put a work folder's trained parts where they ship, in bfloat16: `python -m vllm_specflash.lab.demo.ship WORK_FOLDER`."""

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from vllm_specflash.lab.checkout import WEIGHTS
from vllm_specflash.lab.demo.assemble import LORA, PROJECTOR, TOWER


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for part, source in ((TOWER, "."), (PROJECTOR, "final"), (LORA, "final")):
        tensors = load_file(arguments.folder / source / part)
        save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, arguments.to / part)
        print(part, (arguments.to / part).stat().st_size)


if __name__ == "__main__":
    main()
