"""Chat prompts of our own making, for the draft of the plain text target.

    python -m vllm_specflash.lab.demo.chat_prompts --out chat.jsonl --count 4000
    python -m vllm_specflash.lab.demo.chat_prompts --out examples/data/chat.jsonl --held-out

A prompt is a family's template filled with words from chat_words.py. The held-out prompts are drawn first, with a seed
of their own, and no training prompt equals one of them.
"""

import argparse
import json
import random
from pathlib import Path

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.chat_words import (
    ANIMALS, CHARACTERS, CODE, FIRST_TURNS, FOODS, HISTORY, LANGUAGES, LIFE, MOODS, NUMBERS, OPINIONS, PASSAGES,
    PEOPLE, PLACES, REASONS, REWRITES, SCIENCE, SENTENCES, SETTINGS, SOCIETY, SYSTEMS, TECHNOLOGY, TONES, WORDS,
)  # fmt: skip

HELD_OUT_COUNT = 124
HELD_OUT_SEED = 20_001
TRAINING_SEED = 7


def _story(rng: random.Random) -> str:
    who, where, mood = rng.choice(CHARACTERS), rng.choice(SETTINGS), rng.choice(MOODS)
    form = rng.choice(
        ("Write a short story about {who} {where}.", "Tell me a {mood} story about {who}.",
         "Write the opening paragraph of a {mood} novel about {who} {where}.", "Write a poem about {who}.",
         "Write a {mood} bedtime story about {who} {where}.", "Write a dialogue between {who} and {other}.",
         "Describe a day in the life of {who} {where}.")
    )  # fmt: skip
    return form.format(who=who, where=where, mood=mood, other=rng.choice(CHARACTERS))


def _explain(rng: random.Random) -> str:
    topic = rng.choice(rng.choice((SCIENCE, TECHNOLOGY, HISTORY, SOCIETY)))
    return rng.choice(
        ("Explain {t} in simple terms.", "What is the most important thing to know about {t}?", "Tell me about {t}.",
         "Explain {t} to a ten-year-old.", "Write a short paragraph about {t}.", "Why does {t} matter?",
         "What are common misconceptions about {t}?", "Give me a brief overview of {t}.",
         "How would you teach {t} to beginners?", "What should I know about {t}?", "Describe {t} with an analogy.",
         "Write an introduction to an essay about {t}.")
    ).format(t=topic)  # fmt: skip


def _list(rng: random.Random) -> str:
    topic = rng.choice(rng.choice((SCIENCE, TECHNOLOGY, SOCIETY, LIFE)))
    return rng.choice(
        ("List {n} facts about {t}.", "Give me {n} tips for someone interested in {t}.", "Name {n} books or films about {t}.",
         "List {n} advantages and disadvantages of {t}.", "Write {n} quiz questions about {t}.",
         "Give {n} reasons to learn about {t}.", "List {n} questions a beginner might ask about {t}.")
    ).format(n=rng.choice(NUMBERS), t=topic)  # fmt: skip


def _advice(rng: random.Random) -> str:
    return rng.choice(
        ("How do I get started with {t}?", "Give me advice on {t}.", "What are the steps for {t}?",
         "What mistakes should I avoid when {t}?", "Make a one-week plan for {t}.", "Is {t} worth it?",
         "What do I need for {t}?", "Write a short guide to {t}.")
    ).format(t=rng.choice(LIFE))  # fmt: skip


def _letter(rng: random.Random) -> str:
    form = rng.choice(("letter", "email", "message", "note"))
    return f"Write a {rng.choice(TONES)} {form} to {rng.choice(PEOPLE)} {rng.choice(REASONS)}."


def _rewrite(rng: random.Random) -> str:
    return f"{rng.choice(REWRITES).rstrip('.')}:\n\n{rng.choice(PASSAGES)}"


def _language(rng: random.Random) -> str:
    return rng.choice(
        ("What does the word '{w}' mean?", "Use the word '{w}' in three sentences.", "Give me synonyms of '{w}'.",
         "Write a short paragraph that uses the words '{w}' and '{v}'.", "Correct this sentence if needed: {s}",
         "Rewrite this sentence in three different ways: {s}", "What is the opposite of '{w}'? Explain.",
         "Compare the words '{w}' and '{v}'.")
    ).format(w=rng.choice(WORDS), v=rng.choice(WORDS), s=rng.choice(SENTENCES))  # fmt: skip


def _code(rng: random.Random) -> str:
    return rng.choice(
        ("Write a {l} function that {c}.", "Write a {l} program that {c} and explain it.",
         "How would you write a function in {l} that {c}?", "Show me {l} code that {c}, with comments.",
         "Write a unit test for a {l} function that {c}.")
    ).format(l=rng.choice(LANGUAGES), c=rng.choice(CODE))  # fmt: skip


def _maths(rng: random.Random) -> str:
    a, b, c = rng.randint(3, 98), rng.randint(2, 40), rng.randint(2, 12)
    return rng.choice(
        ("What is {a} plus {b}? Explain step by step.", "What is {a} times {c}? Show your work.",
         "A shop sells {c} apples for {b} dollars. How much do {d} apples cost?", "Solve for x: {c}x + {b} = {e}.",
         "A train travels {a} kilometers in {c} hours. What is its average speed?",
         "Anna has {a} marbles and gives {c} to each of her two friends. How many are left?",
         "What is {p} percent of {q}?", "Find the area of a rectangle with sides {a} and {c}.",
         "Explain how to add {c}/{b} and 1/{b}.", "What is the next number in the sequence {c}, {f}, {g}, {h}?")
    ).format(a=a, b=b, c=c, d=3 * c, e=c * rng.randint(2, 9) + b, p=rng.choice((5, 10, 15, 20, 25, 40)), q=20 * b,
             f=2 * c, g=3 * c, h=4 * c)  # fmt: skip


def _world(rng: random.Random) -> str:
    return rng.choice(
        ("What should I see in {p}?", "Plan a {n}-day trip to {p}.", "Describe {p} to someone who has never been there.",
         "Write a postcard from {p}.", "What is {p} known for?", "Compare {p} and {q}.", "What food is typical of {p}?",
         "When is the best time to visit {p}, and why?")
    ).format(p=rng.choice(PLACES), q=rng.choice(PLACES), n=rng.choice(NUMBERS[:3]))  # fmt: skip


def _nature(rng: random.Random) -> str:
    return rng.choice(
        ("Write a paragraph about the {a}.", "How do {a}s communicate?", "What is the difference between a {a} and a {b}?",
         "Write a fable about a {a} and a {b}.", "Give me {n} facts about the {a}.", "What do {a}s eat?",
         "Could a {a} live in {p}?")
    ).format(a=rng.choice(ANIMALS), b=rng.choice(ANIMALS), n=rng.choice(NUMBERS), p=rng.choice(PLACES))  # fmt: skip


def _kitchen(rng: random.Random) -> str:
    return rng.choice(
        ("Give me a recipe for {f}.", "How do I make {f}?", "What goes well with {f}?", "Write a shopping list for {f}.",
         "How can I make {f} healthier?", "Describe the taste of {f}.", "Write a menu description for {f}.")
    ).format(f=rng.choice(FOODS))  # fmt: skip


def _opinion(rng: random.Random) -> str:
    return rng.choice(("", "", "Answer in one paragraph: ", "Give arguments for both sides: ")) + rng.choice(OPINIONS)


def _compare(rng: random.Random) -> str:
    table = rng.choice((SCIENCE, TECHNOLOGY, HISTORY, SOCIETY, LIFE, FOODS))
    a, b = rng.sample(table, 2)
    return rng.choice(
        ("Compare {a} and {b}.", "What do {a} and {b} have in common?", "Which is more interesting, {a} or {b}, and why?",
         "Write a short dialogue about {a} and {b}.")
    ).format(a=a, b=b)  # fmt: skip


FAMILIES = (
    _explain, _explain, _explain, _story, _story, _list, _list, _advice, _letter, _rewrite, _language, _code, _maths,
    _world, _nature, _kitchen, _opinion, _compare,
)  # fmt: skip


def _messages(rng: random.Random) -> list[dict]:
    """One conversation that ends with a user's turn: mostly a single turn, some with a system prompt or a history."""
    messages = [{"role": "user", "content": rng.choice(FAMILIES)(rng)}]
    shape = rng.random()
    if shape < 0.08:
        messages.insert(0, {"role": "system", "content": rng.choice(SYSTEMS)})
    elif shape < 0.16:
        user, assistant = rng.choice(FIRST_TURNS)
        messages[:0] = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    return messages


def _draw(count: int, seed: int, excluded: set[str]) -> list[list[dict]]:
    """`count` conversations whose last turns are all different and not in `excluded`, which grows by them."""
    rng, conversations = random.Random(seed), []
    while len(conversations) < count:
        messages = _messages(rng)
        if messages[-1]["content"] not in excluded:
            excluded.add(messages[-1]["content"])
            conversations.append(messages)
    return conversations


def held_out_prompts() -> list[dict]:
    """Single-turn records `id, task, prompt, images` that no training prompt repeats."""
    turns = [messages[-1]["content"] for messages in _draw(HELD_OUT_COUNT, HELD_OUT_SEED, set())]
    return [{"id": f"chat-{i:03d}", "task": "chat", "prompt": turn, "images": []} for i, turn in enumerate(turns)]


def training_prompts(count: int) -> list[dict]:
    """Records `id, task, messages`; a longer list starts with the shorter one."""
    excluded = {record["prompt"] for record in held_out_prompts()}
    conversations = _draw(count, TRAINING_SEED, excluded)
    return [{"id": f"chat-train-{i:05d}", "task": "chat", "messages": m} for i, m in enumerate(conversations)]


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--held-out", action="store_true")
    arguments = parser.parse_args()
    records = held_out_prompts() if arguments.held_out else training_prompts(arguments.count)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


if __name__ == "__main__":
    main()
