"""What a stranger installs is whole: all that git has is in the sdist, and in the wheel all that an operator needs."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: seconds for building both; it takes 5
BUILD = 120.0
#: what a checkout has and a release does not need
OURS = {".gitignore"}


def listed(*folders: str) -> set[str]:
    """The files that git has."""
    done = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no checkout")
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a clean copy, without the network."""
    folder = tmp_path_factory.mktemp("package")
    for name in listed():
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    build = "from setuptools import build_meta as b; b.build_sdist('../dist'); b.build_wheel('../dist')"
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=folder / "tree", check=True, timeout=BUILD, capture_output=True)
    return folder / "dist"


def test_the_source_archive_has_all_that_git_has(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {member.name.partition("/")[2] for member in archive}
    assert listed() - OURS - names == set()


def test_the_wheel_has_what_an_operator_needs(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as archive:
        names = {Path(name).name for name in archive.namelist()}
    needed = listed("qmpguard", "systemd", "completions", "docs", "examples", "README.md", "CHANGELOG.md", "LICENSE")
    assert {Path(name).name for name in needed} - names == set()


def test_an_index_would_show_it_as_it_is(built: Path) -> None:
    pytest.importorskip("twine", reason="twine is not here: make package-test gets it")
    files = map(str, built.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
