"""specflash data: prompts in, the target's own answers out."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.report import print_skipped
from vllm_specflash.config import SpecFlashError
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.generate import GenerationOptions, generate_answers
from vllm_specflash.train.images import images_below
from vllm_specflash.train.prompts import Prompt, prompts_of_images, read_prompts
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.self_prompts import SelfPromptOptions


@with_options(generation=GenerationOptions, own=SelfPromptOptions)
def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    out: Annotated[Path, typer.Option(help="Folder of answer shards; an existing one is continued.")],
    generation: GenerationOptions,
    own: SelfPromptOptions,
    prompts: Annotated[
        Path | None,
        typer.Option(help="jsonl, OpenAI chat format, or fields id, task, prompt, images; or a folder of images."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="With --self-prompts: pictures that they are about.")] = None,
    template: Annotated[
        list[str],
        typer.Option(help="With a folder of images: what each is asked; {name} is the file's name; may be repeated."),
    ] = [],
    features: Annotated[Path | None, typer.Option(help="Also keep the target's hidden states here, for training.")] = None,
    target_layers: Annotated[
        str, typer.Option(help="With --features: layers of the target, by commas, whose inputs are kept too; empty: none.")
    ] = "",
) -> None:
    skipped: Counter = Counter()
    with one_sentence_errors():
        if prompts is None and not own.self_prompts:
            raise SpecFlashError("Give prompts with --prompts, or let the target write them with --self-prompts N.")
        if images is not None and not own.self_prompts:
            raise SpecFlashError("--images goes with --self-prompts N: say how many questions the target is to write.")
        if target_layers and features is None:
            raise SpecFlashError("--target-layers goes with --features: say where they are to be kept.")
        asked = [] if prompts is None else _prompts(prompts, template, skipped)
        pictures = [] if images is None else images_below(images.resolve())
        if images is not None and not pictures:
            raise SpecFlashError(f"There are no images below {images}: name a folder that has some.")
        generate_answers(asked, target, out, generation, skipped, features, own, pictures, target_layers)
    print_skipped(skipped)
    folder = AnswerFolder(out)
    out.mkdir(parents=True, exist_ok=True)
    write_provenance(
        out / "provenance.json", target=target, prompts=str(prompts or ""), asked=len(asked) + own.self_prompts,
        answers=len(folder.ids()), data_sha256=folder.digest(), skipped=dict(skipped),
    )  # fmt: skip


def _prompts(path: Path, templates: list[str], skipped: Counter) -> list[Prompt]:
    """The prompts of a jsonl file or a folder of images. Raises SpecFlashError where there are none."""
    if path.is_dir() and not templates:
        raise SpecFlashError(f"{path} is a folder of images: say with --template what each of them is asked.")
    if not path.is_dir() and templates:
        raise SpecFlashError(f"--template goes with a folder of images, and {path} is none: leave it out.")
    if not path.exists():
        raise SpecFlashError(f"There are no prompts at {path}: name a jsonl file or a folder of images.")
    found = list(prompts_of_images(path, templates) if path.is_dir() else read_prompts(path, skipped))
    if not found:
        reasons = f" ({', '.join(skipped)})" if skipped else ""
        raise SpecFlashError(f"{path} has no usable prompt{reasons}: docs/training.md shows the three forms that are read.")
    return found
