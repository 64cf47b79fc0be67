"""The image, built from the Dockerfile on a Debian of our own and run with a read-only root: `make image-test`.

It takes two minutes and root, so it is no part of `make test`. No engine and no registry is needed: buildah isolates
by chroot, and the base image is unpacked from Debian's packages.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.demo.lab import system_qemu
from qmpguard.demo.qemu import Qemu
from tests.labs.deploy.stage import ROOT, debian, kept, run, wheels
from tests.support.guarding import TIMEOUT, assert_refused, connected, eventually

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator, Iterator

#: seconds for building the image; it takes 15
BUILD = 600.0
#: who the image runs as
USER = 65532
BASE = "localhost/qmpguard-lab-base"
IMAGE = "localhost/qmpguard-lab"
CONTAINER = "lab"


class Builder:
    """A buildah with a store of its own."""

    def __init__(self, directory: Path) -> None:
        store = ("--root", f"{directory}/store", "--runroot", f"{directory}/run", "--storage-driver", "vfs")
        self.command = ("buildah", *store)

    def __call__(self, *arguments: str) -> str:
        return run(*self.command, *arguments, limit=BUILD).strip()


def base(target: Path) -> Path:
    return debian(target, "python3", "python3-venv")


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    assert os.geteuid() == 0, "root is needed: a container of another user has to be made"
    directory = tmp_path_factory.mktemp("image")
    builder = Builder(directory)
    builder("from", "--name", "base", "scratch")
    builder("add", "base", str(kept("image.tar", base)), "/")
    builder("commit", "--quiet", "base", BASE)
    options = ["--isolation", "chroot", "--format", "docker", "--volume", f"{wheels(directory / 'wheels')}:/wheels:ro"]
    for argument in (f"PYTHON={BASE}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels", "VERSION=1.2.3"):
        options += ["--build-arg", argument]
    builder("build", *options, "--tag", IMAGE, str(ROOT))
    builder("from", "--name", CONTAINER, IMAGE)
    yield builder
    builder("rm", "--all")
    builder("rmi", "--all", "--force")


@pytest.fixture(scope="module")
def settings(buildah: Builder) -> dict[str, Any]:
    described = json.loads(buildah("inspect", "--type", "image", IMAGE))
    config: dict[str, Any] = described["Docker"]["config"]
    return config


@pytest.fixture(scope="module")
def root(buildah: Builder) -> Path:
    """The container's root, from which every shell has been taken away."""
    path = Path(buildah("mount", CONTAINER))
    for shell in ("sh", "dash", "bash", "rbash"):
        (path / "usr/bin" / shell).unlink(missing_ok=True)
    for place in ("etc/hosts", "etc/hostname", "etc/resolv.conf"):
        (path / place).touch()  # where buildah mounts files: it could not make them once the root is read-only
    return path


@asynccontextmanager
async def contained(builder: Builder, root: Path, *command: str, volumes: dict[str, Path]) -> AsyncGenerator[Process]:
    """A command in the container, with a root that is read-only but for /run, where buildah has a file of its own."""
    options = [f"--volume={outside}:{inside}" for inside, outside in volumes.items()]
    only_reading = f"mount --make-rprivate / && mount --bind {root} {root} && mount -o remount,bind,ro {root}"
    only_reading += f" && mount -t tmpfs tmpfs {root}/run"
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", f'{only_reading} && exec "$@"', "sh"),
        *(*builder.command, "run", "--isolation", "chroot", *options, CONTAINER, "--", *command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


def test_the_image_says_what_it_is_and_how_it_is_run(settings: dict[str, Any]) -> None:
    assert settings["User"] == f"{USER}:{USER}"
    assert settings["Entrypoint"] == ["qmpguard"]
    assert settings["Cmd"] == ["run"]
    assert settings["StopSignal"] == "SIGTERM"
    assert settings["Healthcheck"]["Test"] == ["CMD", "qmpguard", "healthcheck"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in settings["Labels"].items()}
    assert labels["title"] == "qmpguard"
    assert labels["version"] == "1.2.3"
    assert labels["licenses"] == "Apache-2.0"


def test_neither_pip_nor_sources_are_left_in_it(root: Path) -> None:
    assert not list(root.glob("opt/qmpguard/lib/*/site-packages/pip"))
    assert not (root / "src").exists()
    assert not (root / "build").exists()


async def test_its_root_is_read_only_in_this_test(buildah: Builder, root: Path) -> None:
    command = ("/opt/qmpguard/bin/python", "-c", "import os; print(os.getuid()); open('/tmp/x', 'w')")
    async with contained(buildah, root, *command, volumes={}) as process:
        said = (await process.communicate())[0].decode()
    assert f"{USER}\n" in said, said
    assert "Read-only file system" in said, said


@pytest.mark.qemu
async def test_it_guards_a_qemu_of_the_host(
    buildah: Builder, root: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    volumes = {"/qemu": tmp_path / "q", "/guard": tmp_path / "g"}
    for volume in volumes.values():
        volume.mkdir(mode=0o750)
        os.chown(volume, USER, USER)
    command = settings["Entrypoint"] + settings["Cmd"]
    async with Qemu(system_qemu(), volumes["/qemu"]) as qemu:
        qemu.monitors[0].rename(volumes["/qemu"] / "qmp.sock")
        os.chown(volumes["/qemu"] / "qmp.sock", USER, USER)
        async with contained(buildah, root, *command, volumes=volumes) as process:
            path = volumes["/guard"] / "qmp.sock"
            await eventually(lambda: path.exists() or process.returncode is not None)
            guard, user = listener(path)
            assert user == USER
            async with connected(path) as qmp:
                assert (await qmp.ask("query-status"))["return"]["status"] == "running"
                refused = await qmp.ask("object-add", {"qom-type": "monitor-qmp", "id": "m", "chardev": "c"})
                assert_refused(refused, "new-monitor")
            for ask in (settings["Healthcheck"]["Test"][1:], ["qmpguard", "healthcheck", "--ready"]):
                async with contained(buildah, root, *ask, volumes=volumes) as probe:
                    said = (await probe.communicate())[0].decode()
                assert (probe.returncode, said) == (0, "")
            os.kill(guard, getattr(signal, settings["StopSignal"]))
            async with asyncio.timeout(TIMEOUT):
                said = (await process.communicate())[0].decode()
            assert process.returncode == 0, said
            assert not path.exists()


def listener(path: Path) -> tuple[int, int]:
    """The process and the user that listen at a socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        pid, uid, _ = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid
