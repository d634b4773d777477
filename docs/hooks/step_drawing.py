"""Draws docs/how_it_works.svg: narrow enough that its type is read on a phone.

    python docs/hooks/step_drawing.py
"""

from pathlib import Path

INK, FAINT = "#0f172a", "#475569"
TEXT, VISUAL, LATENT, DRAFT, ACCEPTED = "#dbeafe", "#fde68a", "#f59e0b", "#bbf7d0", "#4ade80"
WIDTH, HEIGHT = 480, 560
CELL = 21


def cells(x: float, y: float, colours: list[str]) -> str:
    return "".join(
        f'<rect x="{x + CELL * i}" y="{y}" width="{CELL - 2}" height="24" rx="3" fill="{colour}" stroke="#334155"/>\n'
        for i, colour in enumerate(colours)
    )


def text(x: float, y: float, said: str, bold: bool = False, anchor: str = "start", fill: str = INK) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{fill}"{weight}>{said}</text>\n'


def arrow(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#334155" stroke-width="2" marker-end="url(#tip)"/>\n'


def box(x: float, y: float, width: float, *lines: str) -> str:
    height = 12 + 20 * len(lines)
    drawn = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="#f1f5f9" stroke="#334155"/>\n'
    return drawn + "".join(text(x + width / 2, y + 21 + 20 * i, line, bold=True, anchor="middle") for i, line in enumerate(lines))


def drawing() -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="16">\n',
        "<title>One step of SpecFLASH</title>\n",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#334155"/></marker></defs>\n',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="white"/>\n',
        text(16, 30, "The target's sequence", bold=True),
        cells(16, 42, [TEXT] * 3 + [VISUAL] * 14 + [TEXT] * 4),
        text(16 + 3 * CELL + 7 * CELL, 86, "N visual tokens of an image", anchor="middle"),
        arrow("M226 96V150"),
        text(238, 118, "M learned queries pool", fill=FAINT),
        text(238, 138, "what the target saw", fill=FAINT),
        text(16, 172, "The draft's sequence", bold=True),
        cells(16, 184, [TEXT] * 3 + [LATENT] * 4 + [TEXT] * 4),
        text(16 + 5 * CELL, 228, "M latents", anchor="middle"),
        text(16, 256, "Its keys and values lie in vLLM's own", fill=FAINT),
        text(16, 276, "paged cache, in the target's blocks.", fill=FAINT),
        arrow("M252 196H274"),
        box(278, 170, 194, "one attention layer", "and a light head"),
        arrow("M394 224V304"),
        text(16, 316, "A draft: K tokens per forward,", bold=True),
        text(16, 338, "the likeliest as a tree", bold=True),
        cells(16 + 15 * CELL, 308, [DRAFT] * 6),
        cells(16 + 17 * CELL, 338, [DRAFT] * 3),
        '<path d="M367 332V350H373" fill="none" stroke="#334155" stroke-width="1.5"/>\n',
        arrow("M394 368V392"),
        box(16, 396, 448, "the target: one forward over all of them"),
        arrow("M110 430V460"),
        text(16, 480, "Said by vLLM's own sampler", bold=True),
        cells(16, 490, [ACCEPTED] * 3 + [TEXT]),
        text(112, 508, "accepted guesses, and one token", fill=FAINT),
        text(16, 540, "of the target's own: as without a draft, only sooner.", fill=FAINT),
        "</svg>\n",
    ]
    return "".join(parts)


if __name__ == "__main__":
    (Path(__file__).resolve().parents[1] / "how_it_works.svg").write_text(drawing(), encoding="utf-8")
