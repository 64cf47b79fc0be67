"""The examples: what the schemas say of them, and that no tool can see QEMU's own socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from qmpguard.cli import parser
from qmpguard.settings.options import CONFIG, OPTIONS

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: what the image sets
IMAGE = dict(word.split("=", 1) for word in (ROOT / "Dockerfile").read_text().split() if word.startswith("QMPGUARD_"))
VARIABLES = {option.variable for option in (CONFIG, *OPTIONS)}


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


@pytest.fixture
def pod() -> Any:
    return load("kubernetes.yaml")


@pytest.fixture
def compose() -> Any:
    return load("compose.yaml")


def test_the_pod_is_what_kubernetes_takes(pod: Any) -> None:
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_the_guard_is_a_native_sidecar_that_does_not_wait_for_qemu(pod: Any) -> None:
    (guard,) = pod["spec"]["initContainers"]
    assert guard["restartPolicy"] == "Always"
    assert "--ready" not in guard["startupProbe"]["exec"]["command"], "QEMU starts after it: the pod would never start"
    assert "--ready" not in guard["livenessProbe"]["exec"]["command"], "a guard without QEMU must not be killed"
    assert "--ready" in guard["readinessProbe"]["exec"]["command"]


def test_the_probes_are_commands_that_there_are(pod: Any) -> None:
    (guard,) = pod["spec"]["initContainers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        parser().parse_args(guard[probe]["exec"]["command"][1:])


def test_in_the_pod_only_qemu_and_the_guard_see_qemus_socket(pod: Any) -> None:
    spec = pod["spec"]
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in spec["initContainers"] + spec["containers"]}
    assert mounts == {"guard": {"qemu", "guard"}, "qemu": {"qemu"}, "tool": {"guard"}}
    for container in spec["initContainers"] + spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_in_compose_only_qemu_and_the_guard_see_qemus_socket(compose: Any) -> None:
    services = compose["services"]
    mounts = {name: {v.partition(":")[0] for v in service["volumes"]} for name, service in services.items()}
    assert mounts == {"guard": {"qemu", "guard"}, "qemu": {"qemu"}, "tool": {"guard"}}
    assert compose["volumes"].keys() == {"qemu", "guard"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["user"] == "65532:65532"


def test_every_variable_in_the_image_and_the_examples_is_an_option(pod: Any, compose: Any) -> None:
    (guard,) = pod["spec"]["initContainers"]
    used = {*IMAGE, *compose["services"]["guard"]["environment"], *(e["name"] for e in guard["env"])}
    assert used >= {"QMPGUARD_QEMU", "QMPGUARD_LISTEN", "QMPGUARD_ADMIN", "QMPGUARD_NAME"}
    assert used <= VARIABLES


def test_qemu_the_guard_and_the_tools_agree_on_the_paths(pod: Any, compose: Any) -> None:
    at = f"unix:{IMAGE['QMPGUARD_QEMU']},server=on,wait=off"
    assert at in pod["spec"]["containers"][0]["command"]
    assert at in compose["services"]["qemu"]["command"]
    assert IMAGE["QMPGUARD_LISTEN"] == "/guard/qmp.sock"
