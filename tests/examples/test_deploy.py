"""The configuration to operate a server by: files parse, name what exists, and every metric they ask for is one that we serve."""

import json
import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import vllm_specflash
from vllm_specflash import compat
from vllm_specflash.engine.stats import ACCEPTANCE_LENGTH, DraftStats
from vllm_specflash.lab.checkout import WEIGHTS

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent
DEPLOY = ROOT / "examples" / "deploy"
METRIC = re.compile(r"\bvllm:\w+")


def _yaml(path: str) -> dict:
    return yaml.safe_load((DEPLOY / path).read_text(encoding="utf-8"))


RULES = [rule for group in _yaml("rules.yml")["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((DEPLOY / "grafana" / "specflash.json").read_text(encoding="utf-8"))
EXPRESSIONS = [rule["expr"] for rule in RULES] + [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_whole(expression):
    for opening, closing in ("()", "[]", "{}"):
        depth = 0
        for character in expression:
            depth += (character == opening) - (character == closing)
            assert depth >= 0, expression
        assert depth == 0, expression
    assert METRIC.search(expression) or any(name in expression for name in RECORDED)
    # A counter without rate() or increase() only ever grows.
    for name in METRIC.findall(expression):
        if name.endswith(("_total", "_bucket")):
            assert re.search(rf"(rate|increase)\({name}\b", expression), name


def test_our_metrics_are_those_of_the_code():
    ours = {f"{metric}_total" for _, metric, _ in DraftStats.described()} | {ACCEPTANCE_LENGTH}
    asked = {name for expression in EXPRESSIONS for name in METRIC.findall(expression) if name.startswith("vllm:specflash_")}
    assert asked <= ours
    # What tells of trouble is on the dashboard and in the alerts.
    assert "vllm:specflash_errors_total" in asked and len(asked) > 7


def test_every_metric_is_served(server):
    from openai import OpenAI
    from questions import MODEL, question
    from serving import samples

    OpenAI(base_url=f"{server}/v1", api_key="none").chat.completions.create(model=MODEL, messages=question(1), max_tokens=16)
    served = {name for name, _, _ in samples(server)}
    asked = {name for expression in EXPRESSIONS for name in METRIC.findall(expression)}
    assert len(asked) > 15 and asked <= served


def test_alerts_say_what_to_think_of_them():
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) == 3
    assert all("$labels.model_name" in alert["annotations"]["summary"] for alert in alerts)


def test_panels_do_not_overlap():
    places = {(x, y) for panel in DASHBOARD["panels"] for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
              for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])}  # fmt: skip
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) == 12


def test_services_of_the_compose_file_find_each_other():
    services = _yaml("compose.yaml")["services"]
    (scraped,) = (target for job in _yaml("prometheus.yml")["scrape_configs"] for static in job["static_configs"] for target in static["targets"])
    name, port = scraped.split(":")
    assert f"{port}:{port}" in services[name]["ports"]
    source = _yaml("grafana/datasource.yml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and "9090:9090" in services["prometheus"]["ports"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"]}


def test_files_that_services_take_exist_and_land_where_they_are_looked_for():
    services, mounted = _yaml("compose.yaml")["services"], {}
    for service in services.values():
        for volume in service.get("volumes", []):
            given, inside, *_ = volume.split(":")
            if given.startswith("."):
                assert (DEPLOY / given).exists(), given
                mounted[inside] = given
    assert "/etc/prometheus/rules.yml" in mounted and _yaml("prometheus.yml")["rule_files"] == ["rules.yml"]
    folder = _yaml("grafana/dashboards.yml")["providers"][0]["options"]["path"]
    assert f"{folder}/specflash.json" in mounted
    assert services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] in mounted
    build = services["server"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_a_dockerfile_copies_what_the_package_is_made_of(name):
    text = (DEPLOY / name).read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]}
    assert copied >= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "vllm_specflash", "triton_kernels"}
    assert all((ROOT / word).exists() for word in copied)


def test_versions_are_those_of_the_project():
    cpu, cuda = ((DEPLOY / f"Dockerfile.{kind}").read_text(encoding="utf-8") for kind in ("cpu", "cuda"))
    assert re.search(r"torch==[\d.]+", cpu)[0] in (ROOT / "Makefile").read_text(encoding="utf-8")
    version = Version(re.search(r"VLLM_VERSION=(\S+)", cuda)[1]).release[:2]
    assert compat.OLDEST <= version <= compat.NEWEST


def test_the_demos_command_finds_target_and_draft():
    """The command line of the compose file, as far as a shell without vLLM takes it."""
    (command,) = _yaml("compose.yaml")["services"]["server"]["command"][2:]
    assert "python -m vllm_specflash.lab.demo.assemble" in command
    from vllm_specflash.lab.showcase import DEMO_TARGETS

    assert (Path(DEMO_TARGETS[0].draft) / "config.json").is_file() and DEMO_TARGETS[0].name == "scenes"


def test_the_demos_weights_are_mounted_where_the_package_looks_for_them():
    (mounted,) = [volume for volume in _yaml("compose.yaml")["services"]["server"]["volumes"] if "weights" in volume]
    given, inside, _ = mounted.split(":")
    assert (DEPLOY / given).resolve() == WEIGHTS
    # Where the official image of that Python has its packages.
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", (DEPLOY / "Dockerfile.cpu").read_text(encoding="utf-8"), re.MULTILINE)
    assert inside == f"/usr/local/lib/python{python}/site-packages/{WEIGHTS.relative_to(ROOT)}"
