"""The rule: whatever a configuration is, reading it ends in time, with a config or with one line of an error."""

from __future__ import annotations

import os
import pwd
import random
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmpguard.config import Config, Limits, VmConfig
from qmpguard.errors import ConfigError, QmpguardError
from qmpguard.settings import read
from qmpguard.settings.options import OPTIONS, OptionValues
from qmpguard.settings.read import read_file, read_options
from qmpguard.settings.show import lines, notes
from qmpguard.threads import BlockingCalls
from tests.settings.test_read import FULL, VM

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: what may stand in place of any value
VALUES = [
    *("nan", "-nan", "inf", "-inf", "1e400", "0", "-1", "9" * 30, "9" * 5000, "0x" + "f" * 5000, "1e-400", "true"),
    *('""', '"\\u0000"', '"/a\\u0000b"', '"\\ud800"', '"' + "a" * 70_000 + '"', '"nul\\u0000"', "''''''", '"\\n"'),
    *('"fd:99999999999999999999"', '"fd:' + "9" * 5000 + '"', '"fd:-1"', '"fd:٣"', '"fd:"', '"fd:\\u0000"'),
    *('"tcp:' + "a" * 70 + '.x:1"', '"tcp:a..b:1"', '"tcp::1"', '"tcp:h:' + "9" * 5000 + '"', '"tcp:é:1"', '"tcp:[:1"'),
    *('"tcp:\\u0000:1"', '"tcp: :1"', '"tcp:h:٣"', '"unix:"', '"unix:/' + "é" * 60 + '"', '"99999999999"', '"٣"'),
    *("[]", "[[[]]]", "[1]", '["\\u0000"]', "[" * 90 + "]" * 90, "[" * 5000 + "]" * 5000, "{a = 1}", "{" * 300),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "9999-99-99", "[" + "1," * 5000 + "]", "'''", '"""', "="),
]


def judge(read_it: Callable[[], Any]) -> None:
    """A config, or an error of one line that can be printed."""
    try:
        done = read_it()
    except QmpguardError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 2000
        return
    assert isinstance(done.config, Config)
    "\n".join([*lines(done), *notes(done.config)]).encode(errors="surrogateescape")


def read_text(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(data)
    judge(lambda: read_file(str(path)))


@pytest.mark.parametrize("value", VALUES, ids=lambda v: v[:20])
def test_any_value_in_place_of_any_other(tmp_path: Path, value: str) -> None:
    written = FULL.splitlines()
    for number, line in enumerate(written):
        key, equals, _ = line.partition(" = ")
        if equals:
            changed = [*written[:number], f"{key} = {value}", *written[number + 1 :]]
            read_text(tmp_path, "\n".join(changed).encode(errors="surrogatepass"))
    for option in OPTIONS:
        word = value.strip('"').replace("\\u0000", "\0")
        flags = {"qemu": "/q", "listen": "/l", option.flag.replace("-", "_"): word}
        judge(lambda flags=flags: read_options(OptionValues(flags, {})))  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(20))
def test_any_change_of_a_file_that_was_good(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- a test that can be repeated
    for _ in range(40):
        data = bytearray(FULL.encode())
        for _ in range(chance.randint(1, 4)):
            at, size = chance.randrange(len(data)), chance.randint(0, 30)
            match chance.randrange(4):
                case 0:
                    del data[at : at + size]
                case 1:
                    data[at:at] = data[chance.randrange(len(data)) :][:size]
                case 2:
                    data[at:at] = chance.choice(VALUES)[:200].encode(errors="surrogatepass")
                case _:
                    data[at:at] = chance.randbytes(2)
        read_text(tmp_path, bytes(data))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    read_text(tmp_path, data)


def test_a_file_of_many_keys_is_not_counted_through_for_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("".join(f"k{number} = 1\n" for number in range(100_000)))
    with pytest.raises(ConfigError, match="unknown key"):
        read_file(str(tmp_path / "c.toml"))


@pytest.mark.parametrize("kind", ["folder", "zeros", "nothing", "a zero byte", "too long a name", "half a character"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    name = {
        "folder": str(tmp_path),
        "zeros": "/dev/zero",
        "nothing": str(tmp_path / "no"),
        "a zero byte": "/a\0b",
        "too long a name": "/" + "a" * 5000,
        "half a character": "/\udc80",
    }[kind]
    with pytest.raises(ConfigError):
        read_file(name)


def test_a_file_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "_reading", BlockingCalls("reading the configuration", 0.05))
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(QmpguardError, match="reading the configuration takes longer than"):
        read_file(str(tmp_path / "c.toml"))
    with (tmp_path / "c.toml").open("w"):
        pass  # the thread ends


def test_a_pipe_is_a_good_file(tmp_path: Path) -> None:
    """As a shell's <(...) makes one."""
    ours, theirs = os.pipe()
    os.write(theirs, VM.encode())
    os.close(theirs)
    assert read_file(f"/dev/fd/{ours}").config.vms[0].name == "a"
    os.close(ours)


def test_a_name_service_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()

    def getpwnam(_: str) -> pwd.struct_passwd:
        hung.wait()
        raise KeyError

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(read, "_reading", BlockingCalls("reading the configuration", 0.05))
    (tmp_path / "c.toml").write_text(VM + 'allow_users = ["somebody"]\n')
    with pytest.raises(QmpguardError, match="takes longer than"):
        read_file(str(tmp_path / "c.toml"))
    hung.set()


@pytest.mark.parametrize(
    "error", [OSError(5, "no"), ValueError("no"), KeyError("no"), RuntimeError("no"), MemoryError()]
)
def test_whatever_a_name_service_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def getpwnam(_: str) -> pwd.struct_passwd:
        raise error

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    (tmp_path / "c.toml").write_text(VM + 'allow_users = ["somebody"]\n')
    with pytest.raises(ConfigError):
        read_file(str(tmp_path / "c.toml"))


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 3000 + "]" * 3000,
        VM + "max_clients = " + "1" * 5000,
        VM.replace("/q", "tcp:" + "a" * 70 + ".x:1"),
        VM.replace("/q", "fd:99999999999999999999"),
        VM + "max_clients = nan",
    ],
)
def test_a_start_with_it_exits_with_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    command = [sys.executable, "-m", "qmpguard", "run", "--config", str(tmp_path / "c.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "c.toml") in done.stderr


def test_the_defaults_of_all_limits_stand_in_one_place() -> None:
    vm = VmConfig("a", *[None] * 2)  # type: ignore[arg-type]
    assert vm.limits == Limits()
