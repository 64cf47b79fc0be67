"""``qmpguard config``: check a configuration file, show the effective settings, or print the schema for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.settings.options import add_options

if TYPE_CHECKING:
    import argparse

SUMMARY = "check or show the settings"
DESCRIPTION = (
    "Check a configuration file, show the effective settings and where each comes from, or print the JSON schema of a "
    "configuration file, by which editors complete and check it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="action")
    check = commands.add_parser("check", help="say whether a file can be used", description="Check a file.")
    check.add_argument("file", metavar="FILE")
    about = "Show what `run` would do with the same options and the same environment, as a configuration file."
    show = commands.add_parser("show", help="show the effective settings, and where each comes from", description=about)
    add_options(show)
    about = (
        "Print the JSON schema of a configuration file. Editors that know TOML schemas (Taplo, and what builds on it) "
        "take it from the file's first line: #:schema ./qmpguard.schema.json."
    )
    commands.add_parser("schema", help="print the JSON schema of a file, for editors", description=about)


def execute(arguments: argparse.Namespace) -> int:
    """Check, show or print."""
    match arguments.action:
        case "check":
            return _check(arguments.file)
        case "show":
            return _show(arguments)
        case _:
            return _schema()


def _check(file: str) -> int:
    from qmpguard.daemon.exposure import expected_exposure
    from qmpguard.settings.read import read_file
    from qmpguard.settings.show import notes

    config = read_file(file).config
    for note in notes(config):
        print(f"note: {note}")
    for vm in config.vms:
        if exposed := expected_exposure(vm):
            print(f"note: {vm.name}: {exposed}")
    count = len(config.vms)
    print(f"{file}: {count} VM{'s' * (count != 1)}, no errors")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from qmpguard.settings.options import OptionValues
    from qmpguard.settings.read import read_options
    from qmpguard.settings.show import lines

    for line in lines(read_options(OptionValues(vars(arguments)))):
        print(line)
    return 0


def _schema() -> int:
    import json

    from qmpguard.settings.schema import schema

    print(json.dumps(schema(), indent=2))
    return 0
