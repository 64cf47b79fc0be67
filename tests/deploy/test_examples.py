"""The examples: what the schemas say of them, and that no tool can see QEMU's own socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from qmpguard.cli import main, parser
from qmpguard.remote.admin import AdminClient
from qmpguard.settings.options import CONFIG, OPTIONS
from tests.support.process import guard_process

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: what the image sets
IMAGE = dict(word.split("=", 1) for word in (ROOT / "Dockerfile").read_text().split() if word.startswith("QMPGUARD_"))
VARIABLES = {option.variable for option in (CONFIG, *OPTIONS)}


TOKEN = "0123456789abcdef" * 2


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


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
    assert mounts == {"guard": {"qemu", "guard", "token"}, "qemu": {"qemu"}, "tool": {"guard"}}
    for container in spec["initContainers"] + spec["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_pod_monitor_scrapes_this_pod(pod: Any) -> None:
    """Label, port, path and token are the same on both sides."""
    monitor = load("kubernetes/podmonitor.yaml")["spec"]
    (guard,), (endpoint,) = pod["spec"]["initContainers"], monitor["podMetricsEndpoints"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (port,) = [port["containerPort"] for port in guard["ports"] if port["name"] == endpoint["port"]]
    environ = {one["name"]: one.get("value") for one in guard["env"]}
    assert environ["QMPGUARD_ADMIN"] == f"tcp:0.0.0.0:{port}"
    (mount,) = [m for m in guard["volumeMounts"] if environ["QMPGUARD_ADMIN_TOKEN_FILE"].startswith(m["mountPath"])]
    (volume,) = [v for v in pod["spec"]["volumes"] if v["name"] == mount["name"]]
    wanted = endpoint["authorization"]["credentials"]
    assert volume["secret"]["secretName"] == wanted["name"]
    assert environ["QMPGUARD_ADMIN_TOKEN_FILE"] == f"{mount['mountPath']}/{wanted['key']}"
    assert endpoint["path"] == "/metrics"


async def test_the_guard_of_the_pod_answers_its_probes_and_the_scraper(pod: Any, tmp_path: Path) -> None:
    """A free port stands for the pod's, and a file for its secret."""
    (guard,) = pod["spec"]["initContainers"]
    flags = {one["name"].removeprefix("QMPGUARD_").lower(): one.get("value", "vm") for one in guard["env"]}
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    flags["admin_token_file"] = str(tmp_path / "token")
    flags["admin"] = f"{flags['admin'].rpartition(':')[0]}:{free_port()}"
    flags |= {"qemu_listen": str(tmp_path / "q"), "listen": str(tmp_path / "l")}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
    async with guard_process(tmp_path, "run", *words) as process:
        await process.says("admin=")
        probes = [guard[f"{kind}Probe"]["exec"]["command"][1:] for kind in ("startup", "liveness", "readiness")]
        assert [await asyncio.to_thread(main, [*probe, flags["admin"]]) for probe in probes] == [0, 0, 1]
        told = await asyncio.to_thread(AdminClient(flags["admin"], flags["admin_token_file"]).get, "/metrics")
    assert told[0] == 200
    assert b"qmpguard_build_info" in told[1]


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
    (guard,) = pod["spec"]["initContainers"]
    for (run, flag, path), command in (
        (guard["args"], pod["spec"]["containers"][0]["command"]),
        (compose["services"]["guard"]["command"], compose["services"]["qemu"]["command"]),
    ):
        assert (run, flag) == ("run", "--qemu-listen"), "QEMU has no socket of its own"
        at = f"socket,id=qmp,path={path},server=off,reconnect-ms=1000"
        assert command[command.index("-chardev") + 1] == at
        assert command[command.index("-mon") + 1] == "chardev=qmp,mode=control"
    assert IMAGE["QMPGUARD_LISTEN"] == "/guard/qmp.sock"
