"""`make install`: all lies where it belongs below PREFIX and DESTDIR, works there, and `make uninstall` ends it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from qmpguard.version import __version__
from tests.labs.deploy.stage import PYTHONS

ROOT = Path(__file__).parents[2]
#: seconds for building and installing; it takes 10
LIMIT = 240.0
#: without the network: what it needs is here already
OFFLINE = (f"PYTHON={sys.executable}", f"PIP={sys.executable} -m pip", "PIPFLAGS=--no-deps --no-build-isolation")
PLACES = (
    "bin/qmpguard",
    "lib/systemd/system/qmpguard.service",
    "lib/systemd/system/qmpguard@.service",
    "lib/systemd/system/qmpguard@.socket",
    "lib/systemd/system/qmpguard-qemu@.socket",
    "lib/sysusers.d/qmpguard.conf",
    "share/man/man1/qmpguard.1",
    "share/bash-completion/completions/qmpguard",
    "share/zsh/site-functions/_qmpguard",
    "share/fish/vendor_completions.d/qmpguard.fish",
    "share/doc/qmpguard/README.md",
    "share/doc/qmpguard/docs/operations.md",
    "share/doc/qmpguard/examples/qmpguard.toml",
)


def make(tree: Path, *words: str) -> None:
    command = ["make", "--no-print-directory", *words, *OFFLINE]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has: the build writes into the tree."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("tree")
    for name in filter(lambda name: (ROOT / name).is_file(), done.stdout.splitlines()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def staged(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packager's directory, with what belongs below /usr."""
    folder = tmp_path_factory.mktemp("dest")
    make(tree, "install", f"DESTDIR={folder}", "PREFIX=/usr")
    return folder


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def test_everything_lies_where_it_belongs(staged: Path) -> None:
    assert [place for place in PLACES if not (staged / "usr" / place).is_file()] == []
    assert (staged / "usr/bin/qmpguard").readlink() == Path("../lib/qmpguard/bin/qmpguard")
    assert {path.name for path in staged.iterdir()} == {"usr", "etc"}
    assert (staged / "etc/qmpguard").is_dir()


def test_nothing_in_it_names_the_packagers_directory(staged: Path) -> None:
    assert [path for path in files(staged) if str(staged).encode() in path.read_bytes()] == []
    assert (staged / "usr/lib/qmpguard/bin/qmpguard").read_text().startswith("#!/usr/lib/qmpguard/bin/python\n")


def test_the_units_call_the_command_by_its_path(staged: Path) -> None:
    for unit in (staged / "usr/lib/systemd/system").glob("*.service"):
        called = re.findall(r"^Exec\w+=(\S+) (?:run|config)", unit.read_text(), re.MULTILINE)
        assert set(called) == {"/usr/bin/qmpguard"}, unit.name


def test_everybody_may_read_it_and_the_owner_alone_may_write(staged: Path) -> None:
    for path in (staged, *staged.rglob("*")):
        if not path.is_symlink() and path != staged:
            assert path.stat().st_mode & 0o777 in (0o644, 0o755), path


def test_links_between_the_documents_hold_where_they_are_installed(staged: Path) -> None:
    documents = staged / "usr/share/doc/qmpguard"
    for page in documents.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not urlsplit(link).scheme and not link.startswith("#"):
                assert (page.parent / urlsplit(link).path).exists(), f"{page.name}: {link}"


def test_it_runs_where_it_is_installed_and_goes_without_a_trace(tree: Path, tmp_path: Path) -> None:
    make(tree, "install", f"PREFIX={tmp_path}/usr", f"SYSCONFDIR={tmp_path}/etc")
    home = tmp_path / "usr/lib/qmpguard"
    said = subprocess.run([str(tmp_path / "usr/bin/qmpguard"), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"qmpguard {__version__}\n"
    where = [str(home / "bin/python"), "-Ic", "import qmpguard; print(qmpguard.__file__)"]
    assert Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout).is_relative_to(home)
    make(tree, "uninstall", f"PREFIX={tmp_path}/usr", f"SYSCONFDIR={tmp_path}/etc")
    assert files(tmp_path) == []


def test_the_classifiers_name_the_pythons_that_are_tested() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = [c.rpartition(" ")[2] for c in classifiers if re.search(r"Python :: 3\.\d+$", c)]
    assert named == sorted(PYTHONS.values())
