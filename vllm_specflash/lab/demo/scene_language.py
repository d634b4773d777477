"""What people ask about a scene and what the target answers.

The wording of an answer follows from the wording of the request: varied language, but no coin to toss, as a chat model
that is asked "row by row" goes row by row.
"""

import json
from collections.abc import Callable

import numpy as np

from vllm_specflash.lab.demo.canvas import COLOURS
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.scenes import Scene
from vllm_specflash.lab.demo.words import ACROSS, NUMBERS, PLACES, ROWS, a, ask, at, be, listing, objects, upper


def _each(scene: Scene, form: Callable[[str, int], str]) -> list[str]:
    return [form(name, cell) for name, cell in scene.objects]


def _empty(scene: Scene) -> list[str]:
    taken = {cell for _, cell in scene.objects}
    return [f"the {place}" for cell, place in enumerate(PLACES) if cell not in taken]


def _names(scene: Scene) -> str:
    return listing(_each(scene, lambda name, _: a(name)))


def _one_sentence(s):
    return f"{upper(listing(_each(s, lambda n, c: f'{a(n)} {at(c)}')))} on a {s.colour} background."


def _background_first(s):
    return f"On a {s.colour} background there {be(s.objects[0][0])} {listing(_each(s, lambda n, c: f'{a(n)} {at(c)}'))}."


def _place_first(s):
    return f"{upper(listing(_each(s, lambda n, c: f'{at(c)} {be(n)} {a(n)}')))}. The background is {s.colour}."


def _picture_of(s):
    return f"A {s.colour} picture with {listing(_each(s, lambda n, c: f'{a(n)} {at(c)}'))}."


def _detail(s):
    parts = [f"This picture shows {objects(len(s.objects))} on a plain {s.colour} background."]
    parts += _each(s, lambda n, c: f"There {be(n)} {a(n)} {at(c)}.")
    parts.append(f"The other places are empty: {listing(_empty(s))}.")
    return " ".join([*parts, f"Altogether I count {objects(len(s.objects))}: {_names(s)}."])


def _detail_ordered(s):
    openers = ["First", "Next", "Then", "Finally"]
    parts = [f"The image has a {s.colour} background and {objects(len(s.objects))} on it."]
    parts += [f"{o}, {at(c)}, you can see {a(n)}." for o, (n, c) in zip(openers, s.objects)]
    for r, row in enumerate(ROWS):
        inside = [a(n) for n, c in s.objects if c // 3 == r]
        parts.append(f"The {row} row holds {listing(inside) if inside else 'nothing'}.")
    taken = NUMBERS[len(s.objects)]
    return " ".join([*parts, f"Of the nine places {taken} {'is' if taken == 'one' else 'are'} taken; nothing else is shown."])


def _child(s):
    parts = [f"Look at this {s.colour} picture!"]
    parts += _each(s, lambda n, c: f"Can you find the {n}? {'They are' if be(n) == 'are' else 'It is'} {at(c)}.")
    parts.append(f"How many things did you count? {upper(objects(len(s.objects)))}: {_names(s)}.")
    parts.append(f"And what color is everything around? It is {s.colour}. Well done!")
    return " ".join([*parts, f"Now let us say it together once more: {', '.join(_each(s, lambda n, c: f'{a(n)} {at(c)}'))}."])


def _rows(s):
    here = {c: a(n) for n, c in s.objects}
    parts = []
    for r, row in enumerate(ROWS):
        across = [f"{here.get(3 * r + k, 'nothing')} {side}" for k, side in enumerate(ACROSS)]
        parts.append(f"{upper(row)} row: {', '.join(across)}.")
    total = f"{objects(len(here))} on {s.colour}: {_names(s)}"
    return " ".join([*parts, f"In all there {'is' if len(here) == 1 else 'are'} {total}."])


def _columns(s):
    parts = []
    for k, side in enumerate(("On the left side", "In the middle", "On the right side")):
        inside = sorted((c, n) for n, c in s.objects if c % 3 == k)
        shown = listing([f"{a(n)} {at(c)}" for c, n in inside]) if inside else "nothing"
        parts.append(f"{side} there {be(inside[0][1]) if inside else 'is'} {shown}.")
    parts.append(f"Everything is drawn on a {s.colour} background, and I count {objects(len(s.objects))} from left to right.")
    return " ".join([*parts, f"Nothing can be seen at these places: {listing(_empty(s))}."])


def _upwards(s):
    parts = [f"Starting from the bottom of this {s.colour} picture and going up, this is what I see."]
    for r in (2, 1, 0):
        inside = [f"{a(n)} {at(c)}" for n, c in s.objects if c // 3 == r]
        parts.append(f"In the {ROWS[r]} row: {listing(inside)}." if inside else f"The {ROWS[r]} row is empty.")
    parts.append(f"That makes {objects(len(s.objects))}: {_names(s)}.")
    return " ".join([*parts, f"{upper(listing(_empty(s)))} are empty."])


def _bullets(s):
    return "\n".join(_each(s, lambda n, c: f"- {n}: {PLACES[c]}") + [f"- background: {s.colour}"])


def _numbered(s):
    return "\n".join(f"{i}. {upper(a(n))} {at(c)}" for i, (n, c) in enumerate(s.objects, 1))


def _comma(s):
    return upper(", ".join(n for n, _ in s.objects)) + "."


def _json(s):
    return json.dumps({"background": s.colour, "objects": [{"name": n, "place": PLACES[c]} for n, c in s.objects]})


CAPTIONS = {
    "What is in this picture?": _one_sentence,
    "Caption this image.": _one_sentence,
    "Describe the image.": _background_first,
    "What does the image show?": _background_first,
    "What do you see, and where?": _place_first,
    "Tell me where everything is.": _place_first,
    "Write one sentence about this picture.": _picture_of,
    "Give a short description.": _picture_of,
    "List the objects with their places.": _bullets,
    "Make a numbered list of what is shown.": _numbered,
    "Give the contents as JSON.": _json,
}
DETAILED = {
    "Describe this picture in detail.": _detail,
    "Give a detailed description of the image.": _detail,
    "Explain carefully what you see.": _detail_ordered,
    "Write a long caption for this picture.": _detail_ordered,
    "Tell a child what is in this picture.": _child,
    "Describe the picture to a young child.": _child,
    "Go through the picture row by row.": _rows,
    "What is in each row?": _rows,
    "Describe the picture from left to right.": _columns,
    "What is on each side of the image?": _columns,
    "Describe the image starting from the bottom.": _upwards,
    "Describe everything from bottom to top.": _upwards,
}


def caption(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A request for a caption of 10 to 50 tokens, and the answer."""
    return ask(CAPTIONS, scene, rng)


def detailed(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A request for a description of 60 to 120 tokens, and the answer."""
    return ask(DETAILED, scene, rng)


def _where(s, rng):
    n, c = s.objects[rng.integers(len(s.objects))]
    return [
        (f"Where {be(n)} the {n}?", f"The {n} {be(n)} {at(c)}."),
        (f"In which place can I find the {n}?", f"You can find the {n} {at(c)} of the picture."),
    ][rng.integers(2)]


def _what_at(s, rng):
    here = {c: n for n, c in s.objects}
    c = s.objects[rng.integers(len(s.objects))][1] if rng.random() < 0.7 else int(rng.integers(9))
    name = here.get(c)
    return [
        (f"What is {at(c)}?", f"There {be(name)} {a(name)} {at(c)}." if name else f"There is nothing {at(c)}."),
        (f"Which object is {at(c)} of the picture?", f"It is {a(name)}." if name else "None, that place is empty."),
    ][rng.integers(2)]


def _how_many(s, rng):
    count = len(s.objects)
    return [
        ("How many objects are there?", f"There {'is' if count == 1 else 'are'} {objects(count)}: {_names(s)}."),
        ("Count the things in the picture.", f"{upper(NUMBERS[count])}: {_names(s)}."),
    ][rng.integers(2)]


def _colour(s, rng):
    return [
        ("What color is the background?", f"The background is {s.colour}."),
        ("Which color surrounds the objects?", f"They are surrounded by {s.colour}."),
    ][rng.integers(2)]


def _list(s, rng):
    return [("List the objects.", _comma(s)), ("Name everything you can see.", f"I can see {_names(s)}.")][rng.integers(2)]


def _present(s, rng):
    shown = [n for n, _ in s.objects]
    name = shown[rng.integers(len(shown))] if rng.random() < 0.5 else NAMES[rng.integers(len(NAMES))]
    cells = [c for n, c in s.objects if n == name]
    answer = f"Yes, there {be(name)} {a(name)} {at(cells[0])}." if cells else f"No, I can see {_names(s)}."
    return f"{upper(be(name))} there {a(name)} in the picture?", answer


def _above(s, rng):
    if len(s.objects) < 2:
        return _where(s, rng)
    (n, c), (m, d) = (s.objects[i] for i in rng.permutation(len(s.objects))[:2])
    return f"Where are the {n} and the {m}?", f"The {n} {be(n)} {at(c)} and the {m} {be(m)} {at(d)}."


def _colour_check(s, rng):
    guess = COLOURS[rng.integers(len(COLOURS))] if rng.random() < 0.5 else s.colour
    return f"Is the background {guess}?", f"Yes, it is {guess}." if guess == s.colour else f"No, it is {s.colour}."


QUESTIONS = (_where, _where, _what_at, _what_at, _how_many, _colour, _list, _present, _above, _colour_check)


def question(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """A short question about the scene and its answer."""
    return QUESTIONS[rng.integers(len(QUESTIONS))](scene, rng)
