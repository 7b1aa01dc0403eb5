"""What the chart installs: valid objects, closed pods, settings that the services take."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest

from lensmith_api.v1 import access_pb2
from lensmith_auth.settings import AuthSettings
from lensmith_dataset.settings import DatasetSettings
from lensmith_gateway.contract import load_contract
from lensmith_gateway.settings import GatewaySettings
from lensmith_inference.settings import InferenceSettings
from lensmith_platform.settings import ServiceSettings, load
from lensmith_registry.settings import RegistrySettings
from lensmith_stack.programs import script
from lensmith_trainer.settings import TrainerSettings
from tests.chart.conftest import CHART, VALUES, Release, Render, helm

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "auth": AuthSettings,
    "dataset": DatasetSettings,
    "registry": RegistrySettings,
    "inference": InferenceSettings,
    "trainer": TrainerSettings,
    "gateway": GatewaySettings,
}
INTERNAL_OWNERS = {
    "KeyResolverService": "auth",
    "TrainingDataService": "dataset",
    "ServingService": "registry",
    "TrainingJobService": "registry",
}


def module(path: Path) -> ModuleType:
    """A script of deploy/, imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module", params=["defaults", "everything"])
def release(request: pytest.FixtureRequest, render: Render, everything: dict[str, Any]) -> Release:
    """The chart as it comes, and with every option on."""
    return render(everything if request.param == "everything" else None)


@pytest.mark.parametrize("values", [VALUES, None], ids=["least", "everything"])
def test_lint_finds_nothing_when_strict(values: dict[str, Any] | None, everything: dict[str, Any]) -> None:
    report = helm.chart.lint(CHART, values or everything, strict=True)
    assert not report["errors"]
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_every_object_fits_its_schema_when_rendered(release: Release, version: str) -> None:
    for found in release.objects:
        kubernetes_validate.validate(found, version, strict=True)


def test_objects_have_names_of_their_own_when_rendered(release: Release) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in release.objects]
    assert len(names) == len(set(names))
    assert all(found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lensmith" for found in release.objects)


def test_installation_is_refused_when_no_registry_is_named(render: Render) -> None:
    with pytest.raises(helm.HelmError, match=r"image\.registry is required"):
        render({"image": {"registry": ""}})


def test_names_follow_the_release_when_it_is_called_otherwise(render: Render) -> None:
    release = render(name="blue")
    assert "blue-lensmith-auth" in release.of("Deployment")
    assert "lensmith-release" not in str(release.objects)


def test_pods_are_closed_when_they_run(release: Release) -> None:
    for name, pod in release.pods().items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] >= 10000, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert ":" in container["image"].rpartition("/")[2], name
            assert not container["image"].endswith(":latest"), name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
    for account in release.of("ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_secrets_are_files_when_pods_need_them(release: Release) -> None:
    for name, pod in release.pods().items():
        for container in pod["containers"]:
            assert "envFrom" not in container, name
            for variable in container.get("env", []):
                assert "valueFrom" not in variable, f"{name}: {variable['name']}"
                assert "://" not in variable["value"].replace("dns:///", "").replace("http://collector", ""), name
        for volume in pod["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] in {0o440, 0o444}
    assert not release.of("Secret")


def test_probes_ask_three_different_things_when_a_pod_lives(release: Release) -> None:
    for name, pod in release.pods().items():
        container = pod["containers"][0]
        if name.endswith("-migrate"):
            continue
        startup, liveness, readiness = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
        if name.endswith("-envoy"):
            assert readiness["httpGet"]["path"] == "/readyz"
            assert "tcpSocket" in liveness
        else:
            assert readiness["grpc"] == {"port": 50051}
            # A service must not be killed because another one is away.
            assert liveness["httpGet"] == {"path": "/healthz", "port": "metrics"}
            assert startup["tcpSocket"] == {"port": "grpc"}
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60


def test_pods_have_time_to_drain_when_they_go(release: Release) -> None:
    for name, pod in release.pods().items():
        env = {entry["name"]: entry["value"] for entry in pod["containers"][0].get("env", [])}
        drain = next((float(value) for key, value in env.items() if key.endswith("_DRAIN_SECONDS")), None)
        grace = next((float(value) for key, value in env.items() if key.endswith("_GRACE_SECONDS")), None)
        if drain is not None and grace is not None:
            assert pod["terminationGracePeriodSeconds"] > drain + grace + 5, name


def test_migration_runs_before_the_new_code_when_installed(release: Release) -> None:
    job = release.of("Job")["lensmith-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    assert job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == "lensmith_platform.db.migrate"


def test_services_take_their_settings_when_started_with_what_the_chart_gives(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, pod in enumerate(release.pods().values()):
        container = pod["containers"][0]
        service = container["name"]
        if service not in SETTINGS:
            continue
        place = tmp_path / str(number)
        _mount_secrets(pod, place)
        for name in [name for name in os.environ if name.startswith("LENSMITH_")]:
            monkeypatch.delenv(name)
        for entry in container["env"]:
            monkeypatch.setenv(entry["name"], entry["value"].replace("/run/secrets/lensmith", f"{place}/run"))
        settings = load(SETTINGS[service])
        assert settings.listen == "0.0.0.0:50051"
        assert settings.service_key_file.read_text().startswith("-----BEGIN PRIVATE KEY")
        assert (settings.service_keys_dir / f"{service}.pub").exists()
        assert set(settings.addresses) == {"auth", "dataset", "registry", "inference", "trainer"} - {service}


def _mount_secrets(pod: dict[str, Any], place: Path) -> None:
    """Write the Secrets that the pod mounts, as `make_secrets.py` makes them."""
    roles = [f"lensmith_{owner}{end}" for owner in ("auth", "dataset", "registry") for end in ("", "_worker")]
    contents = module(ROOT / "deploy" / "helm" / "make_secrets.py").secret_contents(
        "postgresql://db:5432/lensmith",
        dict.fromkeys(["lensmith_migrate", *roles], "p/w"),
        "nats://n",
        "http://s/b",
        "k",
    )
    for volume in pod["volumes"]:
        if "secret" not in volume:
            continue
        content = contents[volume["secret"]["secretName"].removeprefix("lensmith-")]
        (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == volume["name"]]
        folder = Path(mount["mountPath"].replace("/run/secrets/lensmith", f"{place}/run"))
        folder.mkdir(parents=True)
        for name, text in content.items():
            (folder / name).write_text(text)


def test_callers_of_the_protos_get_through_when_policies_hold(render: Render) -> None:
    release = render({"services": {"indexer": {"enabled": True}}})
    policies = release.of("NetworkPolicy")

    def reached(component: str) -> set[str]:
        rules = policies[f"lensmith-{component}"]["spec"]["ingress"]
        peers = [peer for rule in rules if {"port": 50051} in rule["ports"] for peer in rule["from"]]
        return {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in peers}

    for owner, callers in _callers().items():
        # The worker half of dataset calls as dataset.
        workers = {"indexer"} if "dataset" in callers else set()
        assert callers | workers | {"gateway"} <= reached(owner) | {owner}, owner
    for component in ("auth", "dataset", "registry", "inference", "gateway"):
        assert "envoy" in reached(component)
    for component in ("trainer", "indexer"):
        assert "envoy" not in reached(component)


def _callers() -> dict[str, set[str]]:
    """Which services call which, as the `callers` of all RPCs say, and auth by all."""
    callers: dict[str, set[str]] = {"auth": set(SETTINGS) - {"auth"}}
    contract = load_contract()
    for rpc in contract.rpcs:
        callers.setdefault(rpc.owner, set()).update(rpc.access.callers)
    for name, owner in INTERNAL_OWNERS.items():
        for method in contract.internal_service(name).methods:
            access = method.GetOptions().Extensions[access_pb2.access]
            callers.setdefault(owner, set()).update(access.callers)
    return callers


def test_egress_mirrors_ingress_when_policies_hold(render: Render) -> None:
    policies = render().of("NetworkPolicy")
    for name, policy in policies.items():
        for rule in policy["spec"].get("egress", []):
            assert rule, f"{name} lets everything out"
            for peer in rule.get("to", []):
                target = peer.get("podSelector", {}).get("matchLabels", {}).get("app.kubernetes.io/component")
                if target is None or target == "indexer":
                    continue
                caller = policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
                froms = [one for entry in policies[f"lensmith-{target}"]["spec"]["ingress"] for one in entry["from"]]
                assert caller in {one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in froms}, (
                    f"{caller} may call {target}, which does not let it in"
                )


def test_envoy_configuration_is_the_generators_when_protos_are_unchanged() -> None:
    command = [sys.executable, str(ROOT / "deploy" / "helm" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_envoy_loads_its_configuration_when_rendered(release: Release, tmp_path: Path) -> None:
    text = release.of("ConfigMap")["lensmith-envoy"]["data"]["envoy.yaml"]
    # A ConfigMap holds a mebibyte at most.
    assert len(text) < 1_000_000
    (tmp_path / "envoy.yaml").write_text(text)
    command = [str(script("envoy")), "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    for service in ("auth", "dataset", "registry", "inference", "gateway"):
        assert f"address: lensmith-{service}\n" in text
        assert f"lensmith-{service}" in release.of("Service")


def test_only_named_origins_may_call_when_cors_is_set(render: Render) -> None:
    def origins(values: dict[str, Any] | None) -> str:
        text = render(values).of("ConfigMap")["lensmith-envoy"]["data"]["envoy.yaml"]
        return str(text).partition("allow_origin_string_match:")[2].partition("allow_methods")[0]

    assert origins(None).split() == ["-", "exact:", "https://cors-origin.invalid"]
    assert origins({"envoy": {"corsOrigins": ["https://a.example"]}}).split() == ["-", "exact:", '"https://a.example"']


def test_dataset_leaves_indexing_alone_when_the_indexer_is_apart(render: Render) -> None:
    def roles(release: Release, name: str) -> str:
        env = release.pods()[name]["containers"][0]["env"]
        return next(str(entry["value"]) for entry in env if entry["name"] == "LENSMITH_DATASET_ROLES")

    assert roles(render(), "lensmith-dataset") == "api,indexer"
    apart = render({"services": {"indexer": {"enabled": True}}})
    assert (roles(apart, "lensmith-dataset"), roles(apart, "lensmith-indexer")) == ("api", "indexer")


def test_replicas_are_left_to_the_autoscaler_when_it_is_on(release: Release) -> None:
    scaled = {found["spec"]["scaleTargetRef"]["name"] for found in release.of("HorizontalPodAutoscaler").values()}
    for name, deployment in release.of("Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled)
    assert set(release.of("PodDisruptionBudget")) == set(release.of("Deployment"))


def test_notes_tell_how_to_reach_it_when_installed(render: Render, everything: dict[str, Any]) -> None:
    assert "port-forward service/lensmith 8080:80" in render().notes
    assert "https://vision.example" in render(everything).notes
