"""The chart, rendered by Helm's own code."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "lensmith"
VALUES: dict[str, Any] = {"image": {"registry": "registry.example/lensmith"}}

helm = pytest.importorskip("helm_python", reason="HELM IS MISSING: `make chart` installs it and tests the chart")


@dataclass(frozen=True)
class Release:
    """What an installation would make.

    Attributes:
        objects: every object, hooks included.
        notes: what the person who installs is told.
    """

    objects: list[dict[str, Any]]
    notes: str

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Objects of a kind by name."""
        return {found["metadata"]["name"]: found for found in self.objects if found["kind"] == kind}

    def pods(self) -> dict[str, dict[str, Any]]:
        """Pod specs by name of what makes them."""
        makers = {**self.of("Deployment"), **self.of("Job")}
        return {name: maker["spec"]["template"]["spec"] for name, maker in makers.items()}


Render = Callable[..., Release]


@pytest.fixture(scope="session")
def render() -> Render:
    """Renders the chart with values over the least that it needs."""

    def render(values: dict[str, Any] | None = None, *, name: str = "lensmith") -> Release:
        with helm.Chart.load(CHART) as chart:
            rendered = chart.render({**VALUES, **(values or {})}, name=name, namespace="vision")
        notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
        manifests = [text for path, text in rendered.items() if path.endswith(".yaml")]
        return Release([found for text in manifests for found in yaml.safe_load_all(text) if found], notes)

    return render


@pytest.fixture(scope="session")
def everything() -> dict[str, Any]:
    """Values that switch every option on."""
    scaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 5, "targetCPUUtilizationPercentage": 60}
    return {
        "image": {"registry": "registry.example/lensmith", "tag": "1.2.3", "pullSecrets": ["registry"]},
        "otlpEndpoint": "http://collector:4317",
        "commonLabels": {"team": "vision"},
        "podAnnotations": {"note": "x"},
        "defaults": {"autoscaling": scaling, "priorityClassName": "high", "nodeSelector": {"disk": "ssd"}},
        "services": {
            "indexer": {"enabled": True, "env": [{"name": "LENSMITH_DATASET_INDEX_BATCH", "value": "16"}]},
            "registry": {
                "extraVolumes": [{"name": "packs", "persistentVolumeClaim": {"claimName": "packs"}}],
                "extraVolumeMounts": [{"name": "packs", "mountPath": "/packs", "readOnly": True}],
                "env": [{"name": "LENSMITH_REGISTRY_PACK_FOLDERS", "value": "/packs"}],
            },
        },
        "envoy": {
            "corsOrigins": ["https://console.example", "*"],
            "autoscaling": scaling,
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
        },
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "host": "vision.example",
            "tlsSecret": "tls",
            "annotations": {"a": "b"},
        },
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "scrapers": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "postgres": {"port": 6432, "to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}]},
        },
    }
