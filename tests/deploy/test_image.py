"""The Dockerfile builds from what it copies, and .dockerignore lets that through. `make image-test` builds it whole."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
COPIED = [name for line in re.findall(r"^COPY (?!--)(.+)$", TEXT, re.MULTILINE) for name in line.split()[:-1]]


def test_what_is_copied_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(COPIED) == let_through


def test_the_package_can_be_built_of_what_is_copied(tmp_path: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, tmp_path)
    for command in re.findall(r"^RUN (sed .+)$", TEXT, re.MULTILINE):
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=60)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    names = [name for names in project["tool"]["setuptools"].get("data-files", {}).values() for name in names]
    assert [name for name in (project["project"]["readme"], *names) if not list(tmp_path.glob(name))] == []
