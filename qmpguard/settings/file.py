"""A configuration file in TOML, with the line of each value."""

from __future__ import annotations

import json
import re
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from qmpguard.errors import ConfigError, QmpguardError
from qmpguard.settings.table import Item, header
from qmpguard.settings.toml_lines import Path, TomlLines

if TYPE_CHECKING:
    from collections.abc import Mapping

#: bytes of a file; a thousand VMs take a third of a megabyte
MAX_FILE = 4 << 20
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class File:
    """The values of a file and their lines. Raises `ConfigError` where it cannot be read or is not valid TOML."""

    def __init__(self, name: str) -> None:
        import tomllib  # imported here, since most guards have no file

        self.name = name
        text = _text(name)
        try:
            self.values: Mapping[str, object] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _unreadable(name, text, str(error)) from None
        except RecursionError:
            raise ConfigError(f"{name}: its arrays or tables are nested too deeply") from None
        except ValueError as error:  # a number with too many digits, or an invalid date
            raise ConfigError(f"{name}: {error}") from None
        self._lines = TomlLines(text)

    def item(self, path: Path, value: object) -> Item:
        """Return a value with its line."""
        place = f"{self.name}:{self._lines.line(path)}"
        written = header(path) if isinstance(value, dict) else f"{path[-1]} = {_shown(value)}"
        return Item(value, place, f"{place}: ", written, ConfigError)

    def missing(self, path: Path) -> QmpguardError:
        """Return the error for a missing value."""
        if path == ("vm",):
            return ConfigError(f"{self.name}: no VM: write [[vm]], and below it name, qemu and listen")
        line = self._lines.line(path[:-1])
        return ConfigError(f"{self.name}:{line}: {header(path[:-1])} needs {path[-1]}")

    def called(self, path: Path) -> str:
        """Return the key of a setting."""
        return str(path[-1])


def _text(name: str) -> str:
    try:
        with FilePath(name).open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from None
    except ValueError as error:  # an invalid path
        raise ConfigError(f"{name!r}: {error}") from None
    if len(data) > MAX_FILE:
        raise ConfigError(f"{name}: it has more than {MAX_FILE >> 20} MiB; is it the right file?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: it is not UTF-8") from None


def _unreadable(name: str, text: str, message: str) -> ConfigError:
    at = _AT.search(message)
    line = at[1] if at and at[1] else text.count("\n") + 1
    return ConfigError(f"{name}:{line}: {_AT.sub('', message)}")


def _shown(value: object) -> str:
    """Return a value's text for an error."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
    except (ValueError, RecursionError):  # a number with thousands of digits; nested too deeply
        return "..."
    return text if len(text) <= 200 else text[:200] + "..."
