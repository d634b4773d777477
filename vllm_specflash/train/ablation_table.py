"""The ablation's rows as one markdown table."""

from itertools import groupby

HEAD = """# Ablation

Short trainings that differ from the base in one thing: {steps} steps of {batch} answers each, the same answers in the same
order, tau simulated on up to {judged} held-out greedy answers of the target. The drafts are far from converged: compare rows
with each other, not with the shipped drafts. One seed each, and answers counted in dozens: a difference of 1% or 2% says nothing.

    {command}

The base: {base}.

The first columns are tau in one round, by task and over all answers. "chain of 8" drafts 8 tokens in as many rounds as the width
needs, so that all widths are compared at one length. "trees of 16" are drafted from one round, "first" is the share of forwards whose
first token is accepted, "calibration" the expected calibration error of the chain's chances. "attended" is the mean number of rows that a draft forward attends to,
"KV" the draft's rows at the end of an answer.
"""


def markdown(
    found: list[dict], missing: list[str], base: dict, steps: int, batch: int, judged: int, command: str
) -> str:
    """The page. `found` are rows as `run_row` returns them, `missing` the names of those still to be trained."""
    chains = list(found[0]["tau"])
    tasks = sorted(found[0]["tau"][chains[0]])
    columns = ["row", *tasks, "all", *chains[1:], "first", "calibration", "attended", "KV", "parameters"]
    lines = [
        HEAD.format(
            steps=steps, batch=batch, judged=judged, command=command, base=", ".join(f"{k} {v}" for k, v in base.items() if v != "")
        )
    ]
    reference = found[0]
    for question, rows in groupby(found, key=lambda row: row["row"]["question"]):
        lines += [f"\n## {question.capitalize()}\n", _line(columns), _line(["---"] * len(columns))]
        rows = list(rows)
        for row in rows if reference in rows else [reference, *rows]:
            taus = [row["tau"][chains[0]][task] for task in tasks] + [row["all"][chain] for chain in chains]
            chances = [f"{row['first']:.2f}", f"{row['calibration_error']:.3f}"]
            work = [f"{row['attended_rows']:.0f}", f"{row['kv_rows']:.0f}", f"{row['parameters'] / 1e6:.1f}M"]
            lines.append(_line([row["row"]["name"], *(f"{tau:.2f}" for tau in taus), *chances, *work]))
    if missing:
        lines.append(f"\nNot trained yet, the command goes on with them: {', '.join(missing)}.")
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
