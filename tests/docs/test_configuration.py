"""examples/qmpguard.toml: it can be used as it is, has every table and key, and says what holds without them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qmpguard.settings.read import Settings, read_file
from qmpguard.settings.table import DEFAULT, EffectiveValue

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/qmpguard.toml"
VM = '[[vm]]\nname = "a"\nqemu = "/q"\nlisten = "/l"\n'
#: a key or a table that is commented out; prose has a blank behind its '#'
_OUT = re.compile(r"^#(?=\[|[a-z][\w-]* = )", re.MULTILINE)
#: what only some machines have, and what all have
_NAMES = {'"alice"': '"daemon"', '= "qmpguard"': '= "root"', '["qmpguard"]': '["root"]'}


def whole() -> str:
    """The example with everything in it that is commented out."""
    return _everywhere(_OUT.sub("", EXAMPLE.read_text()))


def _everywhere(text: str) -> str:
    """The same with names that every machine has."""
    for name, everywhere in _NAMES.items():
        text = text.replace(name, everywhere)
    return text


def blocks() -> list[str]:
    """The blocks of TOML in all documents; one without a VM gets one."""
    texts = [page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    found = [block for text in texts for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
    return [block if "[[vm]]" in block else f"{block}\n{VM}" for block in found]


@pytest.fixture
def read_whole(tmp_path: Path) -> Settings:
    path = tmp_path / "qmpguard.toml"
    path.write_text(whole())
    return read_file(str(path))


def test_it_can_be_used_as_it_is() -> None:
    config = read_file(str(EXAMPLE)).config
    assert [vm.name for vm in config.vms] == ["web", "db", "old"]
    assert config.admin is None


def test_every_table_and_key_is_in_it(read_whole: Settings) -> None:
    """What stands nowhere in the file comes from the defaults only."""
    values = [
        (section.header.replace("[vm.policy", "[policy"), v) for section in read_whole.report for v in section.values
    ]
    written = {(header, value.key) for header, value in values if value.origin != DEFAULT}
    own = {row.id for vm in read_whole.config.vms for row in vm.policy.combinations}
    assert {(header, value.key) for header, value in values if value.key not in own} - written == set()


@pytest.mark.parametrize("block", blocks())
def test_every_configuration_in_a_document_can_be_used(tmp_path: Path, block: str) -> None:
    path = tmp_path / "qmpguard.toml"
    path.write_text(_everywhere(block))
    assert read_file(str(path)).config.vms


def held(settings: Settings) -> dict[tuple[str, str], EffectiveValue]:
    """Every value by its table, of the first table where there are several, and its key."""
    return {(section.header, value.key): value for section in reversed(settings.report) for value in section.values}


def test_what_is_commented_out_is_the_default(read_whole: Settings) -> None:
    defaults = {where: v for where, v in held(read_file(str(EXAMPLE))).items() if v.origin == DEFAULT}
    known = {where: v.value for where, v in defaults.items() if v.value is not None and where[0] != "[vm.policy.rules]"}
    assert {where: held(read_whole)[where].value for where in known} == known
    assert {("[policy.rules]", "hmp-write"), ("[[vm]]", "absent"), ("[log]", "level")} <= known.keys()
