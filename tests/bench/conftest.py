"""One short real run that several tests look at."""

import json

import pytest

SCENE = {"id": "text-0", "task": "words", "prompt": "hello, who are you?", "images": []}


@pytest.fixture(scope="session")
def prompts_folder(tmp_path_factory):
    """Three tasks' prompts: words, and pictures of two sizes."""
    from engines import noise_image

    folder = tmp_path_factory.mktemp("prompts")
    records = [{**SCENE, "id": f"text-{i}", "prompt": f"hello, who are you? {i}"} for i in range(3)]
    for i in range(2):
        noise_image(i, 32 + 8 * i).save(folder / f"{i}.png")
        records.append({"id": f"picture-{i}", "task": "pictures", "prompt": "what is this?", "images": [f"{i}.png"]})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="session")
def benchmark_run(image_target, prompts_folder, tmp_path_factory):
    """(document, target, announcements) of a benchmark of plain vLLM and SpecFLASH on a tiny LLaVA that ran out of time once, and what it said."""
    from engines import ALWAYS

    from vllm_specflash.lab.bench.document import Document
    from vllm_specflash.lab.bench.method import PLAIN, Method
    from vllm_specflash.lab.bench.schedule import Benchmark, Plan
    from vllm_specflash.lab.bench.targets import Target

    folder = tmp_path_factory.mktemp("benchmark")
    target = Target("tiny", str(image_target), None, ("words", "pictures"))
    plan = Plan(
        repeats=2, prompts=2, min_tokens=8, max_tokens=16, dtype="float32", max_model_len=256, kv_cache_gib=0.05,
        enforce_eager=True,
    )  # fmt: skip
    methods = (Method(PLAIN, None), Method("specflash", ALWAYS))
    said = []

    def run(seconds: float) -> Document:
        document = Document(folder / "bench.json", {"plan": "of this test"})
        Benchmark(plan, methods, (1, 2), target, document, said.append, prompts_folder, seconds).run(folder / "logs")
        return document

    run(seconds=0)
    return run(seconds=600), target, said
