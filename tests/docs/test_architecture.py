"""docs/architecture.md names what there is: files, classes, folders, and every query that is ever sent to QEMU."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "qmpguard"
PAGES = [ROOT / "docs" / name for name in ("architecture.md", "decisions.md", "glossary.md", "stability.md", "api.md")]
TEXT = PAGES[0].read_text()


def test_every_file_that_is_named_is_there() -> None:
    files = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    for page in PAGES:
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text()):
            known = any(f"/{file}".endswith(f"/{name.removeprefix('qmpguard/')}") for file in files)
            assert known or (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_link_leads_somewhere() -> None:
    for page in [
        *PAGES,
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").glob("*.md"),
    ]:
        for target in re.findall(r"\]\((?!#|\w+:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_function_that_a_file_is_said_to_have_is_there() -> None:
    pairs = re.findall(r"\| `([\w/]+\.py)` \| `([\w.]+)` \|", TEXT)
    pairs += [
        (file, name)
        for names, file in re.findall(r"((?:`[\w.]+`,? )+)(?:in|of) `([\w/]+\.py)`", TEXT)
        for name in re.findall(r"`([\w.]+)`", names)
    ]
    assert len(pairs) > 30
    assert [pair for pair in pairs if not _is_defined(*pair)] == []


def _is_defined(file: str, name: str) -> bool:
    """Say whether a function, or a method of a class, is in a file of the package."""
    kind, _, member = name.rpartition(".")
    body = (PACKAGE / file).read_text()
    if kind:
        body = re.split(rf"^class {kind}\b", body, flags=re.MULTILINE)[-1].partition("\nclass ")[0]
    return re.search(rf"^ *(?:async )?(?:def|class) {member}\b", body, re.MULTILINE) is not None


def test_every_folder_of_the_package_has_its_line() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {"."}
    missing = [folder for folder in sorted(folders) if f"{folder.rpartition('/')[2]}/" not in TEXT]
    assert missing == []


def test_every_query_that_is_ever_sent_to_qemu_is_listed() -> None:
    source = "\n".join(path.read_text() for folder in ("policy", "proxy") for path in (PACKAGE / folder).rglob("*.py"))
    queries = set(re.findall(r'(?:Query|execute)\(\s*"([\w-]+)"', source))
    assert "query-migrate" in queries
    section = TEXT.partition("## What is asked of QEMU")[2].partition("\n## ")[0]
    assert [query for query in sorted(queries) if f"`{query}`" not in section] == []
