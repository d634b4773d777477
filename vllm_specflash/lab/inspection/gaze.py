"""What the draft looked at in each step, as cells that the page shades."""

from collections.abc import Sequence

from vllm_specflash.lab.inspection.record import Step


def most_of(steps: Sequence[Step]) -> float:
    """The largest share that any latent got, what all cells are shaded by; 0 where none got any."""
    return max((share for step in steps if step.looks for of_span in step.looks for share in of_span), default=0.0)


def named(picture: int, latent: int) -> str:
    """How the page calls a latent, by indices from 0."""
    return f"latent {latent + 1} of picture {picture + 1}"


def looked_at(step: Step) -> str | None:
    """The latent that the step's draft looked at most, with its share; None without a draft or pictures."""
    if step.most_looked is None:
        return None
    *where, share = step.most_looked
    return f"{named(*where)} ({share:.0%})"


def gaze(step: Step, most: float) -> dict | None:
    """Cells by picture, and text's share: what page.html draws. None without a draft or pictures.

    Args:
        most: the share that is shaded fully.
    """
    if step.most_looked is None:
        return None

    def cell(*where: int, share: float) -> dict:
        top = where == step.most_looked[:2]
        return {"title": f"{named(*where)}: {share:.1%}", "look": share / (most or 1), "top": top}

    return {
        "most": looked_at(step),
        "text": step.text_look,
        "pictures": [
            [cell(picture, latent, share=share) for latent, share in enumerate(shares)]
            for picture, shares in enumerate(step.looks)
        ],
    }
