"""The rows of sight.py as a page."""

HEAD = """# What sight is worth

Trainings that differ in what the draft sees of a picture: {steps} steps of {batch} answers each, the same answers in the same order,
K = {width}, on states of the target that reads sheets out, over reference answers; judged on held-out pictures by simulation in one round.
A page is a sheet of one page: nine pictograms that are nowhere in the prompt.

    python -m vllm_specflash.lab.demo.sight --out W {kinds} --steps {steps} --table sight.md      # {seeds}

"hidden" sees no visual row; "all rows" sees every one, as text; "paper" is softmax(A F^T) F; "placed" adds places,
normalised features and a projection, over the target's last states or over the projector's outputs (embeddings). First:
first drafted token accepted. Names: tokens that begin an object's name that came from a draft and not from the target.
Rows: rows a draft forward attends to, prompt and answer included, on average. A step: a drafting step of one request over so many
rows and a tree of 16, the draft's network and its choice of the tree, on {device}.
"""


def markdown(rows: list[dict], device: str) -> str:
    """The page of rows as `run_row` returns them, with the times that `add_times` measured on the device of that name."""
    setting = rows[0]["setting"]
    kinds = " ".join(f"--kind {kind}" for kind in setting["kinds"])
    seeds = ", then ".join(f"--seed {seed}" for seed in sorted({row["setting"]["seed"] for row in rows}))
    lines = [HEAD.format(kinds=kinds, seeds=seeds, device=device, **{name: setting[name] for name in ("steps", "batch", "width")})]
    tasks = sorted({task for row in rows for task in row["tasks"]})
    for task in tasks:
        columns = ["draft", "seed", "tau", "first", "names", "rows", "a step"]
        lines += [f"\n## {task.capitalize()}\n", _line(columns), _line(["---"] * len(columns))]
        for row in rows:
            if task in row["tasks"]:
                found = row["tasks"][task]
                shares = [f"{share:.0%}" for share in (found["accepted_at"][0], found["names_drafted"])]
                costs = f"{found['attended_rows']:.0f}", f"{found['draft_ms']:.2f} ms"
                lines.append(_line([row["row"], str(row["setting"]["seed"]), f"{found['tau']:.2f}", *shares, *costs]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
