"""`[[policy.combination]]` and `plugins`: rules of a site's own, from the file to a refusal; what is wrong in them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from qmpguard.errors import ConfigError
from qmpguard.policy.combination import MIGRATION, At, Capability, Combination, Parameter
from qmpguard.policy.device import Device
from qmpguard.policy.judgment import judge
from qmpguard.policy.machine import Machine
from qmpguard.policy.policy import Mode, Policy
from qmpguard.policy.readers import read
from qmpguard.policy.rules import added, modes
from qmpguard.settings.combinations import MAX_COMBINATIONS, MAX_ID
from qmpguard.settings.plugins import GROUP, MAX_PLUGINS
from qmpguard.settings.read import read_file
from qmpguard.settings.show import lines

if TYPE_CHECKING:
    from pathlib import Path

VM = '[[vm]]\nname = "a"\nqemu = "/q"\nlisten = "/l"\n'
ROW = """
[[policy.combination]]
id = "gpu-multifd"
types = ["virtio-gpu*", "vhost-user-gpu"]
capability = "multifd"
at = ["set", "start"]
mode = "warn"
message = "{device}: our GPUs cannot take multifd"
fix = "migrate without multifd"
"""
LEAST = (
    '[[policy.combination]]\nid = "no-reboot"\nparameter = "mode"\nvalue = "cpr-reboot"\nmessage = "no reboots here"\n'
)


def policy_of(tmp_path: Path, text: str) -> Policy:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return read_file(str(path)).config.vms[0].policy


def test_a_row_says_everything_or_little(tmp_path: Path) -> None:
    assert policy_of(tmp_path, ROW + LEAST + VM).combinations == (
        Combination(
            "gpu-multifd",
            ("vhost-user-gpu", "virtio-gpu*"),
            Capability("multifd"),
            frozenset({At.SET, At.START}),
            "{device}: our GPUs cannot take multifd",
            "migrate without multifd",
            Mode.WARN,
            Mode.WARN,
        ),
        Combination("no-reboot", None, Parameter("mode", "cpr-reboot"), MIGRATION, "no reboots here"),
    )


def test_a_vm_may_have_rows_of_its_own(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, ROW + VM + LEAST.replace("[[policy", "[[vm.policy"))
    assert [row.id for row in policy.combinations] == ["no-reboot"]


def test_a_row_is_a_rule_like_the_others(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "[policy.rules]\ngpu-multifd = 'enforce'\n" + ROW + VM)
    assert dict(modes(policy))["gpu-multifd"] is Mode.ENFORCE
    assert [rule for rule, *_ in added(policy)] == ["gpu-multifd"]
    request: Any = {"capabilities": [{"capability": "multifd", "state": True}]}
    reading: Any = read("migrate-set-capabilities", request, policy)
    machine = Machine.of(others=[Device("/machine/peripheral/g", "virtio-gpu-pci", "g")])
    refusal = judge(reading, machine, policy).refusal
    assert refusal is not None
    assert refusal.text() == (
        "g: our GPUs cannot take multifd (qmpguard: rule gpu-multifd, device 'g', capability multifd is on; "
        "migrate without multifd)"
    )


def test_what_is_shown_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(ROW + LEAST + VM)
    first = read_file(str(path))
    path.write_text("\n".join(lines(first)))
    again = read_file(str(path)).config.vms[0].policy
    assert again.combinations == first.config.vms[0].policy.combinations
    assert modes(again) == modes(first.config.vms[0].policy)


ONE = '[[policy.combination]]\nid = "x"\ncapability = "multifd"\nmessage = "m"\n'
WRONG: list[tuple[str, str]] = [
    ("[policy]\ncombination = 5\n", "c.toml:2: combination = 5: write [[combination]] above each of them"),
    ("[policy]\ncombination = [5]\n", "it is a table"),
    ("[[policy.combination]]\n", "c.toml:1: [[policy.combination]] needs id"),
    (ONE.replace("message", "massage"), "c.toml:4: unknown key 'massage' in [[policy.combination]]: did you mean"),
    (ONE.replace("capability", "capabilty"), "did you mean 'capability'?"),
    (ONE.replace('capability = "multifd"\n', ""), "[[policy.combination]] needs capability"),
    (ONE.replace('capability = "multifd"', 'parameter = "mode"'), "needs value"),
    (ONE + 'parameter = "mode"\n', "it cannot be set beside capability"),
    (ONE + 'value = "x"\n', "unknown key 'value'"),
    (ONE + "types = []\n", "it is a list of QOM types"),
    (ONE + 'types = ["a b"]\n', "it is a list of QOM types"),
    (ONE + "types = ['" + "x" * 200 + "']\n", "it is a list of QOM types"),
    (ONE + 'types = "vfio"\n', "it is a list of texts"),
    (ONE + 'at = ["never"]\n', 'at = ["never"]: it is a list of set, plug, start, snapshot'),
    (ONE + "at = []\n", "it is a list of set, plug, start, snapshot"),
    (ONE + 'mode = "loud"\n', "it is enforce, warn or off"),
    (ONE.replace('"m"', '"a\\nb"'), "it is one line"),
    (ONE.replace('"m"', '"' + "x" * 2000 + '"'), "it is one line"),
    (ONE.replace('"x"', '"X y"'), "an id has small letters"),
    (ONE.replace('"x"', '"' + "x" * (MAX_ID + 1) + '"'), "an id has small letters"),
    (ONE.replace("multifd", "multi fd"), "it is a name as QMP writes it"),
    (ONE + ONE, 'c.toml:6: id = "x": another rule has this id'),
    *((ONE.replace('"x"', f'"{i}"'), "another rule has this id") for i in ("vfio-postcopy", "unverified", "observer")),
    ("".join(ONE.replace('"x"', f'"x{i}"') for i in range(MAX_COMBINATIONS + 1)), "at most 64 combinations"),
    ("[policy]\nplugins = 5\n", "it is a list of texts"),
    ("[policy]\nplugins = ['nobody']\n", "c.toml:2: plugins = [\"nobody\"]: no installed package has a rule 'nobody'"),
    ("[policy]\nplugins = ['vfio-postcopy']\n", "'vfio-postcopy' is a built-in rule"),
    ("[policy]\nplugins = ['a', 'a']\n", "each once"),
    (f"[policy]\nplugins = {[str(i) for i in range(MAX_PLUGINS + 1)]}\n", "it is a list of at most"),
]


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_of(tmp_path, text + VM)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/c.toml:")


#: a package of rules, as somebody might write it
PACKAGE = '''
from qmpguard import Problem, Start

def frozen(machine, policy):
    """Refuse every migration."""
    if machine.starting is not Start.OUTGOING:
        return None
    return Problem(f"frozen in run state {machine.runstate}", "wait")

def silent(machine, policy):
    return None

def raises(machine, policy):
    """Raise."""
    raise ValueError("a bad day")

def leaves(machine, policy):
    """Leave."""
    raise SystemExit(3)

def lies(machine, policy):
    """Say yes."""
    return "yes"

class Odd(Exception):
    def __str__(self):
        raise KeyError

def odd(machine, policy):
    """Raise what cannot be told."""
    raise Odd

value = 5
'''
POINTS = ["frozen", "silent", "raises", "leaves", "lies", "odd", "value", "absent"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of rules that is installed."""
    site = tmp_path / "site"
    info = site / "their_rules-1.dist-info"
    info.mkdir(parents=True)
    (site / "their_rules.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rules\nVersion: 1\n")
    entries = [f"{name} = their_rules:{name}" for name in POINTS] + ["broken = their_broken_rules:rule"]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries]))
    (site / "their_broken_rules.py").write_text("raise SystemExit('no import today')")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "their_rules", raising=False)
    return site


def migrates(policy: Policy, machine: Machine | None = None) -> list[tuple[str, str, str]]:
    reading: Any = read("migrate", {"uri": "unix:/x"}, policy)
    verdict = judge(reading, Machine.of() if machine is None else machine, policy)
    return [(f.rule, f.mode.value, f.problem.refusal) for f in verdict.findings]


def plugged(tmp_path: Path, name: str, more: str = "") -> Policy:
    return policy_of(tmp_path, f"[policy]\nplugins = ['{name}']\n{more}\n{VM}")


def test_a_plug_in_is_a_rule_like_the_others(tmp_path: Path, package: Path) -> None:
    policy = plugged(tmp_path, "frozen")
    assert migrates(policy) == [("frozen", "enforce", "frozen in run state running")]
    assert added(policy) == (("frozen", "enforce", "enforce", "Refuse every migration."),)
    assert migrates(plugged(tmp_path, "frozen", "rules.frozen = 'warn'"))[0][1] == "warn"
    assert migrates(plugged(tmp_path, "frozen", "rules.frozen = 'off'")) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "plug-in raises raised ValueError: a bad day"),
        ("leaves", "plug-in leaves raised SystemExit: 3"),
        ("lies", "plug-in lies returned str, which is no Problem"),
        ("odd", "plug-in odd raised Odd"),
    ],
)
def test_a_plug_in_that_fails_is_unverified_and_names_itself(
    tmp_path: Path, package: Path, name: str, words: str
) -> None:
    refused = f"This request could not be verified: {words}"
    assert migrates(plugged(tmp_path, name)) == [("unverified", "enforce", refused)]
    assert migrates(plugged(tmp_path, name, f"rules.{name} = 'warn'")) == [("unverified", "warn", refused)]
    assert migrates(plugged(tmp_path, name, "rules.unverified = 'warn'")) == [("unverified", "warn", refused)]
    assert migrates(plugged(tmp_path, name, f"rules.{name} = 'off'")) == []


def test_the_built_in_rules_are_judged_beside_one_that_fails(tmp_path: Path, package: Path) -> None:
    machine = Machine.of(capabilities=["postcopy-ram"], devices=[Device("/machine/peripheral/g", "vfio-pci", "g")])
    found = migrates(plugged(tmp_path, "raises"), machine)
    assert [rule for rule, *_ in found] == ["vfio-postcopy", "unverified"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("silent", "plug-in 'silent' is not a function with a docstring"),
        ("value", "plug-in 'value' is not a function with a docstring"),
        ("absent", "plug-in 'absent' cannot be loaded: AttributeError"),
        ("broken", "plug-in 'broken' cannot be loaded: SystemExit: no import today"),
    ],
)
def test_what_is_no_plug_in_is_told_when_the_file_is_read(tmp_path: Path, package: Path, name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        plugged(tmp_path, name)


def test_a_row_cannot_have_the_id_of_a_plug_in(tmp_path: Path, package: Path) -> None:
    with pytest.raises(ConfigError, match="another rule has this id"):
        plugged(tmp_path, "frozen", ONE.replace('"x"', '"frozen"'))
