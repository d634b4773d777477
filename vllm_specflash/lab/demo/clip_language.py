"""What people ask about a clip and what the target answers; wording follows the request, as for scenes.

Answers say where a thing starts and where it ends before they say which way it moved: the target reads both places off
the frames, and the direction then follows from its own words.
"""

import json

import numpy as np

from vllm_specflash.lab.demo.clips import Clip, Mover
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.words import NUMBERS, PLACES, a, ask, at, be, listing, objects, upper, verb, was

TOWARDS = {"right": "to the right", "left": "to the left", "down": "down", "up": "up"}


def _it(m: Mover) -> str:
    return "they" if be(m.name) == "are" else "it"


def _so(m: Mover) -> str:
    """ "so it moves to the right", or "so it stays there"."""
    return f"so {_it(m)} " + (f"{verb(m.name, 'move')} {TOWARDS[m.direction]}" if m.direction else f"{verb(m.name, 'stay')} there")


def _goes(m: Mover) -> str:
    """ "starts at the top left and ends at the top right, so it moves to the right"."""
    return f"{verb(m.name, 'start')} {at(m.start)} and {verb(m.name, 'end')} {at(m.end)}, {_so(m)}"


def _one_sentence(c):
    return f"{upper(', while '.join(f'{a(m.name)} {_goes(m)}' for m in c.movers))}."


def _with_background(c):
    ways = ", and ".join(f"{a(m.name)} that {_goes(m)}" for m in c.movers)
    return f"A clip with a {c.colour} background shows {ways}."


def _ends(c):
    return " ".join(f"The {m.name} {_goes(m)}." for m in c.movers)


def _json(c):
    ways = [
        {"name": m.name, "from": PLACES[m.start], "to": PLACES[m.end], "direction": m.direction or "none"}
        for m in c.movers
    ]
    return json.dumps({"background": c.colour, "objects": ways})


def _detail(c):
    first, last = ([f"{a(m.name)} {at(cell)}" for m, cell in ends] for ends in _both_ends(c))
    parts = [f"This clip has {NUMBERS[c.frames]} frames and a plain {c.colour} background."]
    parts.append(f"It begins with {listing(first)}.")
    parts.append(f"It ends with {listing(last)}.")
    parts += [f"Over the frames the {m.name} {_goes(m)}." for m in c.movers]
    moving = [f"the {m.name}" for m in c.movers if m.direction]
    parts.append(f"Only {listing(moving)} changed place, and the background stays {c.colour} all the time.")
    return " ".join(parts)


def _both_ends(c):
    return [(m, m.start) for m in c.movers], [(m, m.end) for m in c.movers]


def _story(c):
    parts = [f"Once upon a time there {was(c.movers[0].name)} {listing([a(m.name) for m in c.movers])} in a {c.colour} world."]
    for m in c.movers:
        parts.append(f"In the morning the {m.name} {was(m.name)} {at(m.start)}.")
        parts.append(f"In the evening the {m.name} {was(m.name)} {at(m.end)}.")
        if m.direction is None:
            parts.append(f"So all day long the {m.name} stayed right there and took a rest.")
        else:
            parts.append(f"So all day long the {m.name} travelled {TOWARDS[m.direction]}, step by step.")
    return " ".join([*parts, f"All of this took {NUMBERS[c.frames]} frames, and then the story was over."])


def _frames(c):
    lines = []
    for f in range(c.frames):
        lines.append(f"Frame {f + 1}: {listing([f'{a(m.name)} {at(c.cell(m, f))}' for m in c.movers])}.")
    return "\n".join([*lines, f"Summary: {_one_sentence(c)}"])


def _report(c):
    parts = [f"I watched all {NUMBERS[c.frames]} frames of the clip, which show {objects(len(c.movers))} on {c.colour}."]
    for m in c.movers:
        moved = f"moved {TOWARDS[m.direction]}" if m.direction else "never moved"
        parts.append(f"The {m.name} started {at(m.start)} and ended {at(m.end)}, so {_it(m)} {moved}.")
    halfway = listing([f"the {m.name} {at(c.cell(m, c.frames // 2))}" for m in c.movers])
    parts.append(f"In frame {c.frames // 2 + 1} I saw {halfway}.")
    names = listing([f"the {m.name}" for m in c.movers])
    return " ".join([*parts, f"Nothing else happened, and apart from {names} there is only the {c.colour} background."])


CAPTIONS = {
    "What happens in this clip?": _one_sentence,
    "Caption this video.": _one_sentence,
    "What moves where?": _ends,
    "Say where things start and where they end.": _ends,
    "Write one sentence about the video.": _with_background,
    "Give a short description of the clip.": _with_background,
    "Give the motion as JSON.": _json,
}
DETAILED = {
    "Describe this clip in detail.": _detail,
    "Give a detailed description of the video.": _detail,
    "Tell the clip as a little story.": _story,
    "Make up a bedtime story from this video.": _story,
    "Go through the clip frame by frame.": _frames,
    "Describe every frame.": _frames,
    "Report carefully what you watched.": _report,
    "Write a long caption for this video.": _report,
}


def caption(clip: Clip, rng: np.random.Generator) -> tuple[str, str]:
    """A request for a caption of 15 to 60 tokens, and the answer."""
    return ask(CAPTIONS, clip, rng)


def detailed(clip: Clip, rng: np.random.Generator) -> tuple[str, str]:
    """A request for a description of 60 to 160 tokens, and the answer."""
    return ask(DETAILED, clip, rng)


def _which_way(c, rng):
    m = c.movers[rng.integers(len(c.movers))]
    answer = f"The {m.name} {_goes(m)}."
    return f"Which way {'do' if be(m.name) == 'are' else 'does'} the {m.name} move?", answer


def _where_end(c, rng):
    m = c.movers[rng.integers(len(c.movers))]
    do = "do" if be(m.name) == "are" else "does"
    return [
        (f"Where {do} the {m.name} end?", f"The {m.name} {verb(m.name, 'end')} {at(m.end)}."),
        (f"Where {do} the {m.name} start?", f"The {m.name} {verb(m.name, 'start')} {at(m.start)}."),
    ][rng.integers(2)]


def _what_moves(c, rng):
    moving = [a(m.name) for m in c.movers if m.direction]
    return "What is moving?", f"{upper(listing(moving))}."


def _what_shown(c, rng):
    return "Which objects are in the clip?", f"The clip shows {listing([a(m.name) for m in c.movers])}."


def _colour(c, rng):
    return "What color is the background of the clip?", f"The background is {c.colour} in every frame."


def _frame(c, rng):
    f = int(rng.integers(c.frames))
    where = listing([f"the {m.name} {be(m.name)} {at(c.cell(m, f))}" for m in c.movers])
    return f"What is where in frame {f + 1}?", f"{upper(where)}."


def _how_many_frames(c, rng):
    return "How many frames are there?", f"There are {NUMBERS[c.frames]} frames."


def _present(c, rng):
    shown = [m.name for m in c.movers]
    name = shown[rng.integers(len(shown))] if rng.random() < 0.5 else NAMES[rng.integers(len(NAMES))]
    answer = f"Yes, there {be(name)} {a(name)}." if name in shown else f"No, only {listing([a(n) for n in shown])}."
    return f"{upper(be(name))} there {a(name)} in the clip?", answer


QUESTIONS = (
    _which_way, _which_way, _where_end, _where_end, _frame, _frame,
    _what_moves, _what_shown, _colour, _how_many_frames, _present,
)  # fmt: skip


def question(clip: Clip, rng: np.random.Generator) -> tuple[str, str]:
    """A short question about the clip and its answer."""
    return QUESTIONS[rng.integers(len(QUESTIONS))](clip, rng)
