"""Where the lab cannot be had, one line says why, and the exit code is 2."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from qmpguard.demo.lab import LabUnavailable
from tests.labs.vfio.host import at_once, last_words

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("words", "code"), [((), 2), (("--optional",), 0)])
def test_a_machine_that_cannot_have_the_lab_says_so_in_one_line(
    tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    surroundings = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "tests.labs.vfio", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=60, check=False)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("vfio-lab: mmdebstrap is not here")
    assert done.stderr.count("\n") == 1


def test_a_machine_has_as_many_labs_at_once_as_its_memory_allows_and_none_where_it_is_too_little() -> None:
    for number in (1, 2):
        assert at_once(f"MemTotal: 8000000 kB\nMemAvailable: {3407872 * number} kB\n") == number
        assert at_once(f"MemAvailable: {3407872 * (number + 1) - 1} kB\n") == number
    with pytest.raises(LabUnavailable, match="needs 3328 MiB of memory, and 3327 MiB are free"):
        at_once("MemAvailable: 3407871 kB\n")


def test_the_last_words_of_a_qemu_that_did_not_start_are_one_line() -> None:
    said = "qemu: -accel kvm: Could not access KVM kernel module: No such file\r\nqemu: failed to initialize kvm\n"
    assert last_words(said) == (
        "qemu: -accel kvm: Could not access KVM kernel module: No such file; qemu: failed to initialize kvm"
    )
