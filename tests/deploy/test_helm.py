"""The Kubernetes chart, rendered by Helm's own code and held against Kubernetes' schemas. No cluster is involved."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headmap.settings import Settings

helm = pytest.importorskip("helm_python", reason="Helm's library has no wheel for this machine")
import kubernetes_validate  # noqa: E402  # comes with it

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm"
VERSIONS = ("1.27", "1.31", "1.34")
# Kinds whose schemas come with an operator, not with Kubernetes
FOREIGN = {"ScaledObject", "TriggerAuthentication", "PodMonitor", "PrometheusRule"}

LEAST: dict[str, Any] = {"secret": {"name": "ours"}, "datasets": {"volume": {"enabled": True}}}
MOST: dict[str, Any] = {
    "secret": {"name": "ours", "apiKeys": True, "hfToken": True, "dashboardSecret": True},
    "settings": {"models": '["Qwen/Qwen2-VL-7B-Instruct"]', "shard_pages": 16},
    "models": {"volume": {"enabled": True, "storageClass": "shared"}},
    "datasets": {"s3": {"url": "s3://pages/ours", "endpoint": "https://s3.example", "region": "eu", "keys": True}},
    "postgres": {"enabled": False, "host": "db.example"},
    "redis": {"enabled": False, "host": "redis.example"},
    "scoringWorker": {"autoscaling": {"enabled": True}, "gpus": 1, "nodeSelector": {"pool": "batch"}},
    "inference": {
        "gpus": 2,
        "kvMemoryBytes": None,
        "autoscaling": {"enabled": True, "prometheus": "http://prometheus.example:9090"},
    },
    "dashboard": {"replicas": 2},
    "drainSeconds": 60,
    "tracing": {"endpoint": "http://collector.example:4318", "gatewayEndpoint": "http://collector.example:4317"},
    "images": {"pullSecrets": [{"name": "pull"}]},
    "gateway": {"ingress": {"enabled": True, "host": "headmap.example", "tlsSecret": "tls", "className": "nginx"}},
    "monitoring": {"podMonitor": True, "prometheusRule": True},
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example"}],
    "podAnnotations": {"sidecar.example/inject": "true"},
    "podLabels": {"team.example/name": "vision"},
    "serviceAccountName": "theirs",
}


def render(values: dict[str, Any]) -> list[dict[str, Any]]:
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values=values, name="demo", namespace="vision")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def named(documents: list[dict[str, Any]], kind: str, part: str) -> dict[str, Any]:
    return next(one for one in documents if one["kind"] == kind and one["metadata"]["name"] == f"demo-{part}")


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template:
            yield document["metadata"]["name"], template["spec"]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.fixture(scope="module", params=[LEAST, MOST], ids=["least", "most"])
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(request.param)


def test_helm_finds_nothing_to_complain_about() -> None:
    found = helm.chart.lint(CHART, values=LEAST)
    assert found["errors"] == []
    assert [one["error"] for one in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_has_its_kinds_schema(documents: list[dict[str, Any]], version: str) -> None:
    for document in documents:
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in documents]
    assert len(names) == len(set(names))


def test_the_parts_of_the_compose_file_are_here() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    wanted = {f"demo-{name}" for name, one in services.items() if "profiles" not in one} - {
        "demo-fetch",
        "demo-passwords",
    }
    found = render(LEAST)
    assert wanted <= {name for name, _ in pods(found)}
    fetching = [name for name, pod in pods(found) if any(one["name"] == "fetch" for one in containers(pod))]
    assert sorted(fetching) == ["demo-inference", "demo-scoring-worker"]


def test_selectors_and_services_find_their_pods(documents: list[dict[str, Any]]) -> None:
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in documents if "template" in one.get("spec", {})]
    for document in documents:
        spec = document.get("spec", {})
        if document["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("podSelector", spec.get("selector"))
            selector = selector.get("matchLabels", selector)
            matches = [one for one in labels if selector.items() <= one.items()]
            assert len(matches) == 1, document["metadata"]["name"]


def test_without_a_secret_nothing_renders_and_no_password_is_in_it(documents: list[dict[str, Any]]) -> None:
    with pytest.raises(helm.HelmError, match=r"secret\.name"):
        render({})
    for name, pod in pods(documents):
        for container in containers(pod):
            for variable in container.get("env", []):
                secret = re.search("PASSWORD|AUTH|TOKEN|API_KEYS|ACCESS_KEY", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"], (name, variable["name"])
    assert all(document["kind"] != "Secret" for document in documents)


def test_every_setting_it_hands_on_exists(documents: list[dict[str, Any]]) -> None:
    known = {f"HEADMAP_{name.upper()}" for name in Settings.model_fields}
    ours = [one for _, pod in pods(documents) for one in containers(pod)]
    passed = {entry["name"] for one in ours for entry in one.get("env", []) if entry["name"].startswith("HEADMAP_")}
    assert passed - known == set()
    for one in ours:
        names = [entry["name"] for entry in one.get("env", [])]
        assert len(names) == len(set(names)), one["name"]


def test_pods_are_confined_bounded_and_probed(documents: list[dict[str, Any]]) -> None:
    for name, pod in pods(documents):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        for container in containers(pod):
            where = f"{name} {container['name']}"
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"], where
            assert "memory" in container["resources"]["limits"], where
        if not name.endswith("migrate"):
            assert all("livenessProbe" in one for one in pod["containers"]), name
    for part in ("scoring-api", "inference", "gateway"):
        assert "readinessProbe" in named(documents, "Deployment", part)["spec"]["template"]["spec"]["containers"][0]


def test_what_ended_or_can_do_nothing_is_started_again(documents: list[dict[str, Any]]) -> None:
    """An engine that ended makes /health/ready answer 503: should its process not end, it is ended."""
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            pod = document["spec"]["template"]["spec"]
            assert pod.get("restartPolicy", "Always") == "Always", document["metadata"]["name"]
    inference = named(documents, "Deployment", "inference")["spec"]["template"]["spec"]["containers"][0]
    assert inference["livenessProbe"]["httpGet"]["path"] == "/health/ready"


def test_all_replicas_count_requests_in_one_place(documents: list[dict[str, Any]]) -> None:
    for name, pod in pods(documents):
        for container in containers(pod):
            passed = {one["name"]: one for one in container.get("env", [])}
            if "HEADMAP_DATABASE_URL" in passed:
                assert passed["HEADMAP_RATE_LIMIT_URL"]["value"].endswith(":6379/1"), name
                names = list(passed)
                assert names.index("REDIS_PASSWORD") < names.index("HEADMAP_RATE_LIMIT_URL"), "is not expanded"


@pytest.mark.parametrize(("secret", "has_key"), [({}, False), ({"apiKeys": True}, True), ({"metricsKey": True}, True)])
def test_metrics_are_scraped_with_a_key_where_keys_close_them(secret: dict[str, bool], has_key: bool) -> None:
    found = render(LEAST | {"secret": {"name": "ours"} | secret, "monitoring": {"podMonitor": True}})
    endpoint = named(found, "PodMonitor", "metrics")["spec"]["podMetricsEndpoints"][0]
    key = {"credentials": {"name": "ours", "key": "metrics-key"}}
    assert endpoint.get("authorization") == (key if has_key else None)


def test_alerts_are_those_of_the_compose_stack() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert named(render(MOST), "PrometheusRule", "alerts")["spec"] == rules


def test_what_is_added_reaches_all_our_pods() -> None:
    for document in render(MOST):
        template = document.get("spec", {}).get("template")
        if template:
            name = document["metadata"]["name"]
            assert template["metadata"]["annotations"]["sidecar.example/inject"] == "true", name
            assert template["metadata"]["labels"]["team.example/name"] == "vision", name
            assert "team.example/name" not in document["spec"].get("selector", {}).get("matchLabels", {}), name
            assert template["spec"]["serviceAccountName"] == "theirs", name
            ours = [one for one in containers(template["spec"]) if one["name"] != "gateway"]
            assert all(MOST["extraEnv"][0] in one["env"] for one in ours), name
    gateway = named(render(MOST), "Deployment", "gateway")["spec"]["template"]
    assert "checksum/config" in gateway["metadata"]["annotations"]


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in pod["containers"][0].get("env", [])}


@pytest.mark.parametrize(("values", "drain"), [(LEAST, 30), (MOST, 60)])
def test_a_pod_has_time_to_drain(values: dict[str, Any], drain: int) -> None:
    """First it waits until nobody sends it anything more, then requests finish, then it ends."""
    found = render(values)
    for part in ("gateway", "scoring-api", "inference", "dashboard"):
        pod = named(found, "Deployment", part)["spec"]["template"]["spec"]
        waits = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
        assert waits + drain + 10 <= pod["terminationGracePeriodSeconds"], part
        if part == "gateway":
            period = int(environment(pod)["GRACE_PERIOD"].removesuffix("s"))
            assert drain < period < pod["terminationGracePeriodSeconds"] - waits
        else:
            assert environment(pod)["HEADMAP_DRAIN_SECONDS"] == str(drain), part


def test_spans_go_where_they_are_wanted() -> None:
    for name, pod in pods(render(MOST)):
        if name in ("demo-gateway", "demo-migrate"):
            continue
        told = environment(pod)
        assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.example:4318", name
        assert list(told).index("POD_NAME") < list(told).index("OTEL_RESOURCE_ATTRIBUTES"), "is not expanded"
        assert "k8s.namespace.name=vision" in told["OTEL_RESOURCE_ATTRIBUTES"]
    gateway = environment(named(render(MOST), "Deployment", "gateway")["spec"]["template"]["spec"])
    assert (gateway["GATEWAY_TRACING"], gateway["OTEL_EXPORTER_OTLP_ENDPOINT"][-5:]) == ("tracing", ":4317")
    assert not any("OTEL" in name for _, pod in pods(render(LEAST)) for name in environment(pod))


def test_gpus_are_asked_for_where_they_are_wanted() -> None:
    most = render(MOST)
    for part, count, selector in (("inference", 2, {}), ("scoring-worker", 1, {"pool": "batch"})):
        pod = named(most, "Deployment", part)["spec"]["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == count
        assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"} | selector
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    for _, pod in pods(render(LEAST)):
        assert "nodeSelector" not in pod
        assert all("nvidia.com/gpu" not in one["resources"]["limits"] for one in containers(pod))


def test_migrations_run_before_what_is_upgraded() -> None:
    for values, first in ((LEAST, "post-install"), (MOST, "pre-install")):
        hooks = named(render(values), "Job", "migrate")["metadata"]["annotations"]
        assert hooks["helm.sh/hook"] == f"{first},pre-upgrade"


def test_workers_scale_on_open_shards() -> None:
    """KEDA's own schema is not here: what its documentation asks of a PostgreSQL trigger is checked by hand."""
    found = render(MOST)
    scaled = named(found, "ScaledObject", "scoring-worker")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "demo-scoring-worker"
    assert 0 <= scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    trigger = scaled["triggers"][0]
    assert trigger["type"] == "postgresql"
    assert {"host", "port", "userName", "dbName", "sslmode", "query", "targetQueryValue"} == set(trigger["metadata"])
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    reference = named(found, "TriggerAuthentication", trigger["authenticationRef"]["name"].removeprefix("demo-"))
    assert reference["spec"]["secretTargetRef"][0]["parameter"] == "password"
    assert "replicas" not in named(found, "Deployment", "scoring-worker")["spec"]
    least = render(LEAST)
    assert named(least, "Deployment", "scoring-worker")["spec"]["replicas"] == 1
    assert {document["kind"] for document in least} & FOREIGN == set(), "needs an operator by default"


def test_inference_scales_on_requests() -> None:
    """KEDA's own schema is not here: what its documentation asks of a Prometheus trigger is checked by hand."""
    found = render(MOST)
    scaled = named(found, "ScaledObject", "inference")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "demo-inference"
    assert 0 < scaled["minReplicaCount"] < scaled["maxReplicaCount"]
    waiting, running = scaled["triggers"]
    for trigger in (waiting, running):
        assert trigger["type"] == "prometheus"
        assert {"serverAddress", "query", "threshold"} == set(trigger["metadata"])
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    query = waiting["metadata"]["query"]
    assert query == 'sum(headmap_num_requests_waiting{job="headmap",namespace="vision"})'
    assert "headmap_num_requests_running{" in running["metadata"]["query"]
    assert "replicas" not in named(found, "Deployment", "inference")["spec"]
    least = render(LEAST)
    assert named(least, "Deployment", "inference")["spec"]["replicas"] == 2


def test_replicas_of_the_dashboard_share_their_sessions() -> None:
    deployment = named(render(MOST), "Deployment", "dashboard")["spec"]
    assert deployment["replicas"] == 2
    variables = {one["name"]: one for one in deployment["template"]["spec"]["containers"][0]["env"]}
    reference = {"secretKeyRef": {"name": "ours", "key": "dashboard-secret"}}
    assert variables["HEADMAP_DASHBOARD_SECRET"]["valueFrom"] == reference


def test_the_gateway_serves_what_compose_serves() -> None:
    found = render(LEAST)
    config = named(found, "ConfigMap", "gateway")["data"]
    assert config["Caddyfile"] == (ROOT / "services" / "gateway" / "Caddyfile").read_text()
    site = {path.name: path.read_text() for path in (ROOT / "services" / "gateway" / "site").iterdir()}
    assert {name: text for name, text in config.items() if name != "Caddyfile"} == site
    environment = named(found, "Deployment", "gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
    given = {one["name"]: one["value"] for one in environment if not one["name"].startswith(("XDG_", "OTEL_"))}
    asked = set(re.findall(r"\{\$([A-Z_]+):", config["Caddyfile"]))
    assert set(given) | {"GATEWAY_TRACING"} == asked | {"GATEWAY_TRACING"}
    hosts = {name: value for name, value in given.items() if name.endswith("_HOST")}
    services = {one["metadata"]["name"] for one in found if one["kind"] == "Service"}
    assert set(hosts.values()) <= services


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"settings": {"models": '["Qwen/Qwen2-VL-7B-Instruct"]'}}, "models.volume.enabled"),
        ({"postgres": {"enabled": False}}, "postgres.host"),
        ({"redis": {"enabled": False}}, "redis.host"),
        ({"gateway": {"ingress": {"enabled": True}}}, "gateway.ingress.host"),
        ({"inference": {"autoscaling": {"enabled": True}}}, "inference.autoscaling.prometheus"),
        ({"dashboard": {"replicas": 2}}, "secret.dashboardSecret"),
        ({"inference": {"replica": 3}}, "replica"),
        ({"scoringWorker": {"gpus": "one"}}, "gpus"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm.HelmError, match=re.escape(words)):
        render(LEAST | values)


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def compare(values: dict[str, Any], node: dict[str, Any], where: str) -> None:
        if node.get("additionalProperties", True) is not False:
            return
        assert set(values) == set(node["properties"]) - {"global"}, where  # which a parent chart may set
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, node["properties"][name], f"{where}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")


READERS = ("scoring-api", "scoring-worker")


def test_who_reads_datasets_reaches_the_volume() -> None:
    documents = render(LEAST)
    claim = named(documents, "PersistentVolumeClaim", "datasets")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for part in READERS:
        pod = named(documents, "Deployment", part)["spec"]["template"]["spec"]
        assert {"name": "blobs", "persistentVolumeClaim": {"claimName": "demo-datasets"}} in pod["volumes"]
        (container,) = pod["containers"]
        assert {"name": "HEADMAP_BLOB_URL", "value": "file:///blobs"} in container["env"]
        assert "/blobs" in [one["mountPath"] for one in container["volumeMounts"]]
    migrate = named(documents, "Job", "migrate")["spec"]["template"]["spec"]
    assert [one["name"] for one in migrate["volumes"]] == ["tmp"], "the hook may run before there is a claim"
    theirs = render(LEAST | {"datasets": {"volume": {"enabled": True, "existingClaim": "theirs"}}})
    assert [one for one in theirs if one["kind"] == "PersistentVolumeClaim" and "datasets" in str(one)] == []
    for name, pod in pods(theirs):
        if name in ("demo-scoring-api", "demo-scoring-worker", "demo-migrate"):
            assert {"name": "blobs", "persistentVolumeClaim": {"claimName": "theirs"}} in pod["volumes"]


def test_who_reads_datasets_reaches_s3() -> None:
    documents = render(MOST)
    assert [one for one in documents if one["kind"] == "PersistentVolumeClaim" and "datasets" in str(one)] == []
    for name, pod in pods(documents):
        for container in pod["containers"]:
            env = {one["name"]: one for one in container.get("env", [])}
            if name in ("demo-scoring-api", "demo-scoring-worker", "demo-migrate"):
                assert env["HEADMAP_BLOB_URL"]["value"] == "s3://pages/ours"
                assert env["AWS_ENDPOINT_URL_S3"]["value"] == "https://s3.example"
                assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["key"] == "aws-secret-access-key"
            else:
                assert not [variable for variable in env if variable.startswith("AWS")]


def test_without_a_place_for_datasets_nothing_renders() -> None:
    with pytest.raises(helm.HelmError, match=r"datasets\.s3\.url"):
        render({"secret": {"name": "ours"}})
