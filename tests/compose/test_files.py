"""What can be said of the stack's files without Docker."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from headmap import __version__
from headmap.settings import Settings
from services.cli.main import app
from tests.compose.stack import ROOT

FILES = ["docker-compose.yml", "docker-compose.gpu.yml"]
# Set by the Dockerfile
OF_IMAGE = {"HEADMAP_DATA_DIR", "HEADMAP_GUIDE_DIR"}
# Read by compose itself, not by our processes
OF_COMPOSE = {"HEADMAP_PORT", "HEADMAP_ADDRESS", "HEADMAP_GATEWAY_PROXIES", "HEADMAP_TAG", "HEADMAP_METRICS_KEY"}


def mappings(node: yaml.Node) -> list[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        return [node, *(found for pair in node.value for part in pair for found in mappings(part))]
    if isinstance(node, yaml.SequenceNode):
        return [found for part in node.value for found in mappings(part)]
    return []


def stack() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.mark.parametrize("name", FILES)
def test_no_key_stands_twice(name: str) -> None:
    """Compose v2 refuses it, also of merge keys; docker-compose 1.29 takes the last without a word."""
    root = yaml.compose((ROOT / name).read_text())
    assert root is not None
    for mapping in mappings(root):
        keys = [key.value for key, _ in mapping.value]
        assert len(keys) == len(set(keys)), f"{name}, line {mapping.start_mark.line + 1}: {keys}"


@pytest.mark.parametrize("name", FILES)
def test_it_is_what_the_compose_specification_allows(name: str) -> None:
    """Compose v2 holds files against this schema; test_stack.py has whichever Compose is here read them."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(ROOT / name)]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def settings_of(service: dict[str, Any]) -> set[str]:
    """The variables that a service sets, also those it takes from a file."""
    return {name.removesuffix("_FILE") for name in service.get("environment", {})}


def test_every_setting_reaches_a_service() -> None:
    services = stack()["services"]
    known = {f"HEADMAP_{name.upper()}" for name in Settings.model_fields} - OF_IMAGE
    passed = {name for service in services.values() for name in settings_of(service)}
    assert known - passed == set()
    assert {name for name in passed if name.startswith("HEADMAP_")} - known - OF_COMPOSE == set()
    told = set(re.findall(r"^#?(HEADMAP_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert told - known - OF_COMPOSE == set()


def test_inference_and_worker_have_the_settings_they_read() -> None:
    services = stack()["services"]
    known = {f"HEADMAP_{name.upper()}" for name in Settings.model_fields} - OF_IMAGE
    for name in ("inference", "scoring-worker"):
        assert known - settings_of(services[name]) == {"HEADMAP_DASHBOARD_SECRET"}, name


def test_every_process_of_ours_can_send_its_spans() -> None:
    for name, service in stack()["services"].items():
        if str(service["image"]).startswith("headmap-") and name not in ("passwords", "fetch"):
            assert "OTEL_EXPORTER_OTLP_ENDPOINT" in service["environment"], name


def test_nothing_has_to_be_set_and_no_password_passes_through_compose() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert ":?" not in text
    assert re.findall(r"\$\{?[A-Z_]*PASSWORD\b", text) == []
    assert re.findall(r"^[A-Z_]+=", (ROOT / ".env.example").read_text(), re.MULTILINE) == []


def test_who_reads_a_password_waits_for_it_and_cannot_change_it() -> None:
    services = stack()["services"]

    def awaited(name: str) -> set[str]:
        direct = set(services[name].get("depends_on", {}))
        return direct.union(*(awaited(one) for one in direct))

    for name, service in services.items():
        mounts = [one for one in service.get("volumes", []) if one.startswith("passwords:")]
        reads = "/run/headmap/" in json.dumps([service.get("environment", {}), service.get("command", [])])
        if name != "passwords":
            assert mounts == (["passwords:/run/headmap:ro"] if reads else []), name
            assert not reads or "passwords" in awaited(name), name


def test_only_the_gateway_has_a_port_by_default_and_nothing_a_fixed_name() -> None:
    services = stack()["services"]
    default = {name: service for name, service in services.items() if "profiles" not in service}
    assert [name for name, service in default.items() if "ports" in service] == ["gateway"]
    assert all("container_name" not in service for service in services.values())


def test_what_runs_for_good_is_started_again_and_what_runs_once_is_waited_for() -> None:
    services = stack()["services"]
    once = {
        name
        for service in services.values()
        for name, awaited in service.get("depends_on", {}).items()
        if awaited["condition"] == "service_completed_successfully"
    }
    assert once == {"passwords", "migrate", "fetch"}
    for name, service in services.items():
        assert service.get("restart") == (None if name in once else "unless-stopped"), name


def test_every_default_service_is_bounded_and_ours_are_confined() -> None:
    for name, service in stack()["services"].items():
        assert "mem_limit" in service, name
        if "build" in service:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name


def test_the_dashboard_and_alerts_use_metrics_that_exist() -> None:
    sources = [*(ROOT / "services").rglob("*metrics.py"), ROOT / "shared" / "headmap" / "http" / "metrics.py"]
    defined = set(re.findall(r"\"(headmap_[a-z0-9_]+)\"", "".join(path.read_text() for path in sources)))
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "headmap.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used = {name for expression in expressions for name in re.findall(r"headmap_[a-z0-9_]+", expression)}
    plain = {re.sub(r"_(bucket|total)$", "", name) for name in used}
    assert plain - {re.sub(r"_total$", "", name) for name in defined} == set()


def test_the_images_say_what_they_are() -> None:
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)=\"(.*?)\"", (ROOT / "Dockerfile").read_text())
    told = {name: [value for key, value in labels if key == name] for name, _ in labels}
    assert told["title"] == ["headmap-api", "headmap-model"]
    assert told["version"] == [__version__] * 2
    assert told["revision"] == ["$REVISION"] * 2


def test_every_alert_is_explained() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert f"`{rule['alert']}`" in page


def test_the_example_of_sizes_is_what_the_command_says() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text()
    command, told = re.findall(r"```(?:sh)?\n(headmap sizing.*?)```\n\n```\n(.*?)```", page, re.DOTALL)[0]
    done = CliRunner().invoke(app, shlex.split(command.replace("\\\n", " "))[1:])
    assert [line.rstrip() for line in done.stdout.splitlines()] == told.splitlines()


def test_the_sizes_in_the_table_follow_from_the_formula() -> None:
    page = (ROOT / "docs" / "sizing.md").read_text()
    for layers, kv_heads, per_token in ((28, 4, 57_344), (32, 8, 131_072), (32, 32, 524_288)):
        assert layers * kv_heads * 2 * 128 * 2 == per_token
        assert f"| {layers} | {kv_heads} | 128 | bfloat16, 2 | {per_token:,}" in page
    config = json.loads((ROOT / Path("shared/headmap/demo/model/config.json")).read_text())["text_config"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    bundled = config["num_hidden_layers"] * config["num_key_value_heads"] * 2 * head_dim * 4
    assert f"{bundled:,}" in page
