"""Where the lab cannot be had, one line says why, and the exit code is 2."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.labs.vfio.host import last_words

if TYPE_CHECKING:
    from pathlib import Path


def test_a_machine_that_cannot_have_the_lab_says_so_in_one_line(tmp_path: Path) -> None:
    surroundings = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.labs.vfio"]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("vfio-lab: mmdebstrap is not here")
    assert done.stderr.count("\n") == 1


def test_the_last_words_of_a_qemu_that_did_not_start_are_one_line() -> None:
    said = "qemu: -accel kvm: Could not access KVM kernel module: No such file\r\nqemu: failed to initialize kvm\n"
    assert last_words(said) == (
        "qemu: -accel kvm: Could not access KVM kernel module: No such file; qemu: failed to initialize kvm"
    )
