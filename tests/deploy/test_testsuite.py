"""A stranger's test suite, in a fresh environment with the built wheel: README's first test, and the example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: seconds for building, installing or a run of pytest; each takes 10 at most on an idle machine
LIMIT = 240.0


def run(*words: object, folder: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment. Without the network, what the wheel needs comes from this one."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("fresh")
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "tree" / name)
    (folder / "dist").mkdir()
    build = "from setuptools import build_meta as b; b.build_wheel('../dist')"
    run(sys.executable, "-c", build, folder=folder / "tree")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", folder=folder)
    found = folder / "venv/bin/python"
    (wheel,) = (folder / "dist").glob("*.whl")
    pip = (sys.executable, "-m", "pip", "--python", found, "install", "--quiet", "--no-index", "--no-deps")
    run(*pip, f"{wheel}[testing]", folder=folder)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return found


def test_the_environment_has_the_wheel_and_not_the_checkout(python: Path, tmp_path: Path) -> None:
    where = run(python, "-c", "import qmpguard; print(qmpguard.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parents[1])


@pytest.mark.parametrize("document", ["README.md", "docs/testing.md"])
def test_the_first_test_of_a_document_passes(python: Path, tmp_path: Path, document: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    first = next(block for block in blocks if "guarded_qemu" in block)
    (tmp_path / "test_first.py").write_text(first)
    said = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=tmp_path)
    assert "1 passed" in said


@pytest.mark.qemu
@pytest.mark.qemu11
def test_the_example_project_passes(python: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples/testsuite", tmp_path / "testsuite")
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "qmpguard_missing_qemu=fail")
    assert "6 passed" in run(python, *words, folder=tmp_path / "testsuite")
