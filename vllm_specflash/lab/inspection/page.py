"""An inspected answer as one HTML file that needs nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

from vllm_specflash.lab.inspection.answer import Inspected
from vllm_specflash.lab.inspection.gaze import gaze, looked_at, most_of
from vllm_specflash.lab.inspection.heat import heat_map, picture
from vllm_specflash.lab.inspection.record import ROOT, Record, Span, Step

# Pixels of a drawn tree: a column with its box, a row, room for the root; and the letters that fit into a box.
COLUMN, BOX, ROW, LEFT, LETTERS = 96, 78, 28, 20, 9
# Invisible in a box of their own.
VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def page(inspected: Inspected, prompt: str, images: Sequence[Path], target: str, draft: str | None) -> str:
    """The HTML, pictures included."""
    record = inspected.record
    most = most_of(record.steps)
    slowest = max((step.seconds for step in record.decode_steps), default=0) or max(s.seconds for s in record.steps)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vllm_specflash.lab.inspection", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        prompt=prompt,
        target=target,
        draft=draft,
        summary=summary(record),
        tokens_per_step=record.tokens_per_step,
        total_ms=1e3 * sum(step.seconds for step in record.steps),
        images=[_image(path, span) for path, span in zip(images, record.spans)],
        tokens=[
            _token(piece, step + 1, kind, record.steps[step])
            for piece, (_, step, kind) in zip(inspected.pieces, record.tokens(), strict=True)
        ],
        steps=[{**_step(step, inspected.names, slowest), "gaze": gaze(step, most)} for step in record.steps],
    )


def _token(piece: str, number: int, kind: str, step: Step) -> dict:
    # The target's own token was not drafted: nobody looked anywhere for it.
    return {"piece": piece, "step": number, "kind": kind, "looked": looked_at(step) if kind == "accepted" else None}


def _image(path: Path, span: Span) -> dict:
    url, width, height = picture(path)
    shape = frames, rows, columns = span.shape(width / height)
    return {
        "url": url, "width": width, "height": height, "rows": rows, "columns": columns, "side": span.side(shape),
        "latents": [
            {"url": heat_map(weights, frames * rows, columns), "width": span.width(latent)}
            for latent, weights in enumerate(span.weights)
        ],
    }  # fmt: skip


def _step(step: Step, names: dict[int, str], slowest: float) -> dict:
    # Prefill is far longer than any decode: its bar ends where the page does.
    scale = 100 / max(slowest, step.seconds)
    return {
        "kind": _kind(step),
        "ms": 1e3 * step.seconds,
        "target_ms": 1e3 * step.target_seconds,
        "draft_ms": 1e3 * step.draft_seconds,
        "target_share": scale * step.target_seconds,
        "draft_share": scale * step.draft_seconds,
        "own": visible(names[step.emitted[-1]]) if step.emitted else None,
        "tree": drawn_tree(step, names) if step.draft else None,
    }


def summary(record: Record) -> str:
    """What a reader without the words of the trade takes home."""
    later = record.decode_steps
    emitted = sum(len(step.emitted) for step in later)
    if not later:
        return "The answer ended with its first token: there was nothing to speed up."
    guessed, right = sum(len(step.draft) for step in later), sum(len(step.accepted) for step in later)
    drafting = sum(step.draft_seconds for step in later) / sum(step.seconds for step in later)
    return (
        f"The large model ran {len(later)} times for {emitted} tokens, where without a draft it would have run {emitted} times. "
        f"{right} of the draft's {guessed} guesses were right, and guessing took {drafting:.0%} of the time."
    )


def drawn_tree(step: Step, names: dict[int, str]) -> dict:
    """Places of a draft's nodes in pixels: a column per depth, a row per branch, a line from every node to its parent."""
    place, fates = {ROOT: (-1, 0)}, step.fates
    for row, (depth, line) in enumerate(branches(step)):
        place |= {index: (depth + offset, row) for offset, index in enumerate(line)}
    nodes = []
    for index, node in enumerate(step.draft):
        (column, row), (_, above) = place[index], place[node.parent]
        x, y, middle = LEFT + column * COLUMN, row * ROW + 2, row * ROW + ROW // 2
        begin = LEFT - 8 if node.parent == ROOT else x - COLUMN + BOX
        bend = x - (COLUMN - BOX) / 2
        text = visible(names[node.token])
        nodes.append({
            "text": text, "short": text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…", "fate": fates[index],
            "x": x, "y": y, "middle": x + BOX / 2, "path": f"M{begin} {above * ROW + ROW // 2}H{bend}V{middle}H{x}",
        })  # fmt: skip
    columns, rows = (1 + max(at[axis] for at in place.values()) for axis in (0, 1))
    return {"width": LEFT + columns * COLUMN, "height": rows * ROW, "box": BOX, "root": ROW // 2, "nodes": nodes}


def _kind(step: Step) -> str:
    if step.scheduled > 1 + len(step.draft):
        return f"prefill of {step.scheduled} tokens"
    if not step.draft:
        return "no draft"
    return f"{len(step.accepted)} of {len(step.draft)} drafted tokens accepted"


def branches(step: Step) -> Iterator[tuple[int, list[int]]]:
    """A draft's nodes in lines: (depth of the first, indices from parent to child); a chain is one line."""
    children: dict[int, list[int]] = {}
    for index, node in enumerate(step.draft):
        children.setdefault(node.parent, []).append(index)
    begun = [(0, child) for child in reversed(children.get(ROOT, []))]
    while begun:
        depth, index = begun.pop()
        line = [index]
        while children.get(index):
            first, *others = children[index]
            begun += [(depth + len(line), other) for other in reversed(others)]
            line.append(first)
            index = first
        yield depth, line


def visible(text: str) -> str:
    """A token's text with its blanks shown, so that a box is never empty."""
    return "".join(VISIBLE.get(character, character) for character in text) or "∅"
