"""Completions for bash, zsh and fish. A value is completed from its choices; without choices, by file names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmpguard.policy.mode import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qmpguard.manual.tree import Subcommand

_MADE = "# Made by `make docs` from the parser of the command line: change the parser, not this file."

_BASH = """\
{made}
_qmpguard() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} words=qmpguard word
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$words $word" in
      {commands}) words="$words $word" ;;
    esac
  done
  COMPREPLY=()
  # bash takes '=' for a word of its own, in --mode=warn as in --rules ID=warn
  [ "$cur" != = ] || cur=
  if [ "$prev" = = ] || [ "${{COMP_WORDS[COMP_CWORD]}}" = = ]; then
    prev=${{COMP_WORDS[COMP_CWORD-1]}}
    [ "$prev" != = ] || prev=${{COMP_WORDS[COMP_CWORD-2]}}
    case "$prev" in -*) ;; *) COMPREPLY=($(compgen -W "{modes}" -- "$cur")); return ;; esac
  fi
  case "$words:$prev" in
{values}
  esac
  case "$words" in
{words}
  esac
}}
complete -o default -F _qmpguard qmpguard
"""

_ZSH = """\
#compdef qmpguard
{made}
_qmpguard() {{
  local words_so_far=qmpguard word
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$words_so_far $word" in
      ({commands}) words_so_far="$words_so_far $word" ;;
    esac
  done
  case "$words_so_far:${{words[CURRENT-1]}}" in
{values}
  esac
  local -a found
  case "$words_so_far" in
{words}
  esac
  _describe qmpguard found
}}
if [ "$funcstack[1]" = _qmpguard ]; then _qmpguard "$@"; else compdef _qmpguard qmpguard; fi
"""


def bash(top: Subcommand) -> str:
    """Return the completion for bash."""
    commands = list(_all(top))
    values, words = [], []
    for path, command in commands:
        for choices, flags in _values(command):
            reply = f'COMPREPLY=($(compgen -W "{" ".join(choices)}" -- "$cur")); ' if choices else ""
            values.append(f"    {_after(path, flags)}) {reply}return ;;")
        offered = " ".join([*(c.name for c in command.commands), *_choices(command), *_flags(command)])
        words.append(f'    "{" ".join(path)}") COMPREPLY=($(compgen -W "{offered}" -- "$cur")) ;;')
    parts = {"commands": _patterns(commands), "values": "\n".join(values), "words": "\n".join(words)}
    return _BASH.format(made=_MADE, modes=" ".join(mode.value for mode in Mode), **parts)


def zsh(top: Subcommand) -> str:
    """Return the completion for zsh."""
    commands = list(_all(top))
    values, words = [], []
    for path, command in commands:
        for choices, flags in _values(command):
            do = f"compadd -- {' '.join(choices)}" if choices else "_files"
            values.append(f"    ({_after(path, flags)}) {do}; return ;;")
        offered = [_described(c.name, c.summary) for c in command.commands]
        offered += [_described(choice, "") for choice in _choices(command)]
        offered += [_described(option.long, option.help) for option in command.options]
        more = "" if command.commands else " _files;"
        words.append(f'    ("{" ".join(path)}"){more} found=({" ".join(offered)}) ;;')
    return _ZSH.format(made=_MADE, commands=_patterns(commands), values="\n".join(values), words="\n".join(words))


def fish(top: Subcommand) -> str:
    """Return the completion for fish."""
    return "\n".join([_MADE, *_fish(top, ()), ""])


def _fish(command: Subcommand, path: tuple[str, ...]) -> Iterator[str]:
    here = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path) or "__fish_use_subcommand"
    below = " ".join(inner.name for inner in command.commands)
    fresh = f"{here}; and not __fish_seen_subcommand_from {below}" if path and below else here
    for inner in command.commands:
        yield f"complete -c qmpguard -f -n {_quoted(fresh)} -a {inner.name} -d {_quoted(inner.summary)}"
    for choice in _choices(command):
        yield f"complete -c qmpguard -f -n {_quoted(here)} -a {choice}"
    for option in command.options:
        flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        value = f" -x -a {_quoted(' '.join(option.choices))}" if option.choices else " -r" if option.metavar else " -f"
        yield f"complete -c qmpguard -n {_quoted(fresh)} {flags}{value} -d {_quoted(option.help)}"
    for inner in command.commands:
        yield from _fish(inner, (*path, inner.name))


def _all(command: Subcommand, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Subcommand]]:
    path = (*path, command.name)
    yield path, command
    for inner in command.commands:
        yield from _all(inner, path)


def _patterns(commands: list[tuple[tuple[str, ...], Subcommand]]) -> str:
    return "|".join(f'"{" ".join(path)}"' for path, _ in commands if len(path) > 1)


def _after(path: tuple[str, ...], flags: list[str]) -> str:
    """Return the patterns for a place behind one of some options."""
    return "|".join(f'"{" ".join(path)}:{flag}"' for flag in flags)


def _values(command: Subcommand) -> list[tuple[tuple[str, ...], list[str]]]:
    """Return the options that take a value, together where they take the same."""
    found: dict[tuple[str, ...], list[str]] = {}
    for option in command.options:
        if option.metavar:
            found.setdefault(option.choices, []).extend(option.flags)
    return list(found.items())


def _choices(command: Subcommand) -> list[str]:
    return [choice for argument in command.positionals for choice in argument.choices]


def _flags(command: Subcommand) -> list[str]:
    return [option.long for option in command.options]


def _described(word: str, what: str) -> str:
    return _quoted(f"{word}:{what}" if what else word)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "'\\''") + "'"
