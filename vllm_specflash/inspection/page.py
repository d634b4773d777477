"""An inspected answer as one HTML file that needs nothing else."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

from vllm_specflash.inspection.answer import Inspected
from vllm_specflash.inspection.heat import heat_map, picture
from vllm_specflash.inspection.record import ROOT, Span, Step

# Invisible in a box of their own.
VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}


def page(inspected: Inspected, prompt: str, images: Sequence[Path], target: str, draft: str | None) -> str:
    """The HTML, pictures included."""
    record = inspected.record
    slowest = max((step.seconds for step in record.decode_steps), default=0) or max(s.seconds for s in record.steps)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vllm_specflash.inspection", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(
        prompt=prompt,
        target=target,
        draft=draft,
        tokens_per_step=record.tokens_per_step,
        total_ms=1e3 * sum(step.seconds for step in record.steps),
        images=[_image(path, span) for path, span in zip(images, record.spans)],
        tokens=[
            {"piece": piece, "step": step + 1, "kind": kind}
            for piece, (_, step, kind) in zip(inspected.pieces, record.tokens(), strict=True)
        ],
        steps=[_step(step, inspected.names, slowest) for step in record.steps],
    )


def _image(path: Path, span: Span) -> dict:
    url, width, height = picture(path)
    frames, rows, columns = span.shape(width / height)
    return {
        "url": url, "width": width, "height": height, "rows": rows, "columns": columns,
        "latents": [
            {"url": heat_map(weights, frames * rows, columns), "width": span.width(latent)}
            for latent, weights in enumerate(span.weights)
        ],
    }  # fmt: skip


def _step(step: Step, names: dict[int, str], slowest: float) -> dict:
    # Prefill is far longer than any decode: its bar ends where the page does.
    scale = 100 / max(slowest, step.seconds)
    nodes = [{"text": visible(names[node.token]), "fate": fate} for node, fate in zip(step.draft, step.fates)]
    return {
        "kind": _kind(step),
        "ms": 1e3 * step.seconds,
        "target_ms": 1e3 * step.target_seconds,
        "draft_ms": 1e3 * step.draft_seconds,
        "target_share": scale * step.target_seconds,
        "draft_share": scale * step.draft_seconds,
        "own": visible(names[step.emitted[-1]]) if step.emitted else None,
        "branches": [{"depth": depth, "nodes": [nodes[i] for i in line]} for depth, line in branches(step)],
    }


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
