"""Every block of commands in the documents is run by `make docs-run`, or says why it is not."""

from __future__ import annotations

import re
import subprocess

from tests.labs.deploy.docs_run import BEFORE, DOCUMENTS, blocks, script
from tests.labs.deploy.stage import ROOT


def test_a_block_is_run_or_says_why_not() -> None:
    found = [block for block in blocks() if block.has_commands]
    assert {block.place.partition(":")[0] for block in found} == set(DOCUMENTS)
    for block in found:
        assert block.language == "sh" or block.reason, f"{block.place}: a prompt and its answer cannot be run"
        assert "sudo " not in block.text or block.reason, f"{block.place}: it is run as root"


def test_no_block_is_overlooked() -> None:
    fences = sum((ROOT / name).read_text().count("\n```") for name in DOCUMENTS)
    assert fences == 2 * len(blocks())


def test_what_a_block_needs_before_it_is_a_block_of_a_document() -> None:
    assert all(any(block.text.startswith(begin) for block in blocks()) for begin in BEFORE)


def test_the_script_is_one_that_bash_reads() -> None:
    assert subprocess.run(["bash", "-n"], input=script(), text=True, check=False, timeout=60).returncode == 0


def test_no_instruction_installs_from_a_name_that_is_not_ours() -> None:
    """No index has a package of this name, so anybody could register it."""
    named = re.compile(r"pip install [^`\n#]*(?<![\w./-])qmpguard(?![\w/-])")
    paths = [path for pattern in ("*.md", "docs/*.md", "examples/**/*") for path in ROOT.glob(pattern)]
    texts = [path for path in paths if path.is_file()]
    assert not [str(path) for path in texts if named.search(path.read_text(errors="replace"))]
