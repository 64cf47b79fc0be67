"""The package in `examples/rules`: its own test passes, and where it is installed, a configuration finds its rule."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "examples/rules"
VM = '[[vm]]\nname = "a"\nqemu = "/q"\nlisten = "/l"\n'
CONFIG = f'[policy]\nplugins = ["change-freeze"]\nrules.change-freeze = "warn"\n{VM}'
#: seconds for a command
LIMIT = 60


def run(*words: object, site: Path | None = None) -> str:
    environ = os.environ | ({} if site is None else {"PYTHONPATH": str(site)})
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        env=environ,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(site: Path) -> None:
    """Put there what pip would, without its network: the modules, and the entry points that the project names."""
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())
    info = site / "qmpguard_freeze-1.0.dist-info"
    info.mkdir(parents=True)
    named = project["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {named['name']}\nVersion: {named['version']}\n")
    groups = named["entry-points"].items()
    text = "".join(f"[{g}]\n" + "".join(f"{n} = {at}\n" for n, at in points.items()) for g, points in groups)
    (info / "entry_points.txt").write_text(text)
    for module in project["tool"]["setuptools"]["py-modules"]:
        shutil.copy(SOURCE / f"{module}.py", site)


def test_the_example_of_a_rule_is_tested_and_found(tmp_path: Path) -> None:
    site, config = tmp_path / "site", tmp_path / "c.toml"
    config.write_text(CONFIG)
    install(site)
    shutil.copy(SOURCE / "test_qmpguard_freeze.py", tmp_path)
    run("pytest", "--quiet", "-p", "no:cacheprovider", tmp_path / "test_qmpguard_freeze.py", site=site)
    shown = run("qmpguard", "config", "show", "--config", config, site=site)
    assert 'plugins = ["change-freeze"]' in shown
    assert 'change-freeze = "warn"' in shown
