"""The commands of the documents, run as they stand: ``python -m tests.labs.deploy.docs_run``, or `make docs-run`.

Every block of commands is run in a bare Debian, as root, in the order in which it stands, or says by a comment above it
why it is not: ``<!-- not run: REASON -->``. `tests/docs/test_blocks.py` holds that. A QEMU and a guard go to the
background, and `...` stands for the options that a reader fills in: the functions of `PRELUDE` do that, and no more.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.labs.deploy.matrix import PACKAGES, unpacked
from tests.labs.deploy.stage import ROOT

DOCUMENTS = ("README.md", "docs/operations.md", "docs/admin.md")
#: what the commands of the documents call
MORE = "python3-venv,qemu-system-x86,socat,curl,openssl,systemd,procps"
#: seconds for everything but the unpacking; it takes one minute
RUN = 1800.0
_MARK = r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
_BLOCK = re.compile(rf"^{_MARK}```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
#: languages of blocks that are no commands
_OTHER = frozenset({"python", "toml", "ini", "yaml"})
PRELUDE = r"""
set -u
mkdir -p /run/vm /run/qemu /run/qmpguard /var/log/qmpguard
echo 127.0.0.1 localhost host > /etc/hosts
export SYSTEMD_OFFLINE=1  # systemctl says that it ignores what needs a running systemd
cd ~/qmpguard
until_there() { for _ in $(seq 200); do [ -S "$1" ] && return; sleep 0.1; done; echo "$1 is not there"; return 1; }
until_ended() { for _ in $(seq 200); do grep -qs '^State:.[^Z]' "/proc/$1/status" || return 0; sleep 0.1; done; }
path_in() { tr ' ' '\n' <<<"$*" | sed -n 's/^\(unix:\)\?\(\/[^,]*\.sock\).*/\2/p' | tail -1; }
filled() { # WHAT STANDS FOR ... , and the words
  local with=$1 word; shift; WORDS=()
  for word; do if [ "$word" = ... ]; then WORDS+=($with); else WORDS+=("$word"); fi; done
}
qemu-system-x86_64() {
  filled "-nodefaults -display none -accel tcg -M none" "$@"
  command qemu-system-x86_64 "${WORDS[@]}" >>/tmp/qemu.log 2>&1 &
  until_there "$(path_in "$@")"
}
qmpguard() {
  if [ "$1" != run ]; then command qmpguard "$@"; return; fi
  filled "--name docs --qemu /run/vm/qemu.sock --listen /run/vm/docs.sock" "$@"
  [ ! -e /tmp/guard.pid ] || { kill "$(cat /tmp/guard.pid)"; until_ended "$(cat /tmp/guard.pid)"; }
  command qmpguard "${WORDS[@]}" >>/tmp/guard.log 2>&1 &
  echo $! > /tmp/guard.pid
  until_there "$(path_in "${WORDS[@]}")" && sleep 1
}
systemctl() { # what is to be done now needs a running systemd
  local word words=(); for word; do [ "$word" = --now ] || words+=("$word"); done
  command systemctl "${words[@]}"
}
curl() { command curl --fail --silent --show-error "$@"; }
for path in /run/qemu/NAME.sock /run/qemu/web.sock /run/vm/qemu.sock; do
  qemu-system-x86_64 ... -qmp "unix:$path,server=on,wait=off"
done
"""
#: what must be there before a block that begins so
BEFORE = {"qmpguard override": "qmpguard run --name web --qemu /run/qemu/web.sock --listen /run/qmpguard/web.sock"}
_ENTER = (
    'mount -t proc proc "$1/proc" && mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts" && '
    'mount -t tmpfs tmpfs "$1/run" && exec chroot "$1" su - root -c "bash /root/docs-run.sh"'
)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a document: where it stands, its text, and why it is not run; empty: it is run."""

    place: str
    language: str
    text: str
    reason: str

    @property
    def has_commands(self) -> bool:
        """Say whether a reader would type it."""
        return self.language == "sh" or (self.language not in _OTHER and self.text.startswith("$ "))


def blocks() -> list[Block]:
    """Return the blocks of all documents."""
    found = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        for match in _BLOCK.finditer(text):
            place = f"{name}:{text.count(chr(10), 0, match.start()) + 1}"
            found.append(Block(place, match["language"], match["text"], match["reason"] or ""))
    return found


def script() -> str:
    """Return the script that runs every block, and says what came of each."""
    parts = [PRELUDE]
    for block in (block for block in blocks() if block.has_commands and not block.reason):
        before = next((command for begin, command in BEFORE.items() if block.text.startswith(begin)), ":")
        run = f"{before}\n( set -e\n{block.text}) </dev/null >/tmp/said 2>&1; code=$?\n"
        parts.append(f"{run}sed 's/^/    /' /tmp/said; echo; echo \"::: {block.place} $code\"\n")
    return "\n".join(parts)


def main() -> int:
    """Run them in a new machine, and print what came of each. Return 0 when all are good."""
    for block in blocks():
        if block.has_commands and block.reason:
            print(f"{block.place:28} not run: {block.reason}")
    with tempfile.TemporaryDirectory(prefix="qmpguard-docs-") as folder:
        machine = unpacked("bookworm", Path(folder, "root"), f"{PACKAGES},{MORE}")
        (machine / "root/docs-run.sh").write_text(script())
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", _ENTER, "sh", str(machine)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            text=True, errors="replace", timeout=RUN, check=False,
        )  # fmt: skip
    results = dict(re.findall(r"^::: (\S+) (\d+)$", done.stdout, re.MULTILINE))
    good = "Traceback" not in done.stdout
    for block in (block for block in blocks() if block.has_commands and not block.reason):
        code = results.get(block.place, "nothing")
        good &= code == "0"
        print(f"{block.place:28} {'good' if code == '0' else f'FAILED: {code}'}")
    if not good:
        print(done.stdout)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
