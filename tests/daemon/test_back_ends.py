"""The network back ends on QEMU's command line: which of them access guest RAM, in each of QEMU's spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qmpguard.daemon.back_ends import back_ends
from qmpguard.policy.netdevs import netdev

if TYPE_CHECKING:
    from pathlib import Path

VDPA, USER = netdev("vhost-vdpa", "n"), netdev("vhost-user", "n")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-netdev", "vhost-vdpa,id=n,vhostdev=/dev/vhost-vdpa-0"], [VDPA]),
        (["--netdev", "type=vhost-vdpa,id=n"], [VDPA]),
        (["-netdev", "id=n,type=tap,type=vhost-vdpa"], [VDPA]),  # the last one counts
        (["-netdev", '{"type": "vhost-vdpa", "id": "n"}'], [VDPA]),
        (["-netdev", "{'type': 'vhost-vdpa', 'id': 'n'}"], [VDPA]),
        (["-netdev", "vhost-user,id=n,chardev=c"], [USER]),
        (["-netdev", "passt,id=n,vhost-user=on"], [USER]),
        (["-netdev", "passt,id=n"], []),
        (["-nic", "vhost-vdpa,id=n"], [VDPA]),
        (["-nic", "vhost-vdpa,model=virtio-net-pci"], [netdev("vhost-vdpa", "of -nic")]),
        (["-netdev", "tap,id=vhost-vdpa"], []),
        (["-netdev", "user,id=n,hostname=a,,type=vhost-vdpa"], []),  # a doubled comma is one of the value
        (["-netdev", "{"], []),  # QEMU refuses it
        (["-name", "vhost-vdpa"], []),
        (["-device", "virtio-net-pci,netdev=n"], []),
        (["-netdev", "vhost-vdpa,id=n", "-netdev", "vhost-user,id=n"], [VDPA, USER]),
        (["-readconfig", "/nowhere"], []),
        (["-readconfig", "\0"], []),
        (["-netdev"], []),
    ],
    ids=str,
)
def test_a_back_end_is_found_however_it_is_spelled(words: list[str], found: list[object]) -> None:
    assert list(back_ends(["qemu", *words])) == found


def test_a_file_of_readconfig_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(
        '# comment\n[netdev "n"]\n  type = "vhost-vdpa"\n  vhostdev = "/dev/vhost-vdpa-0"\n\n'
        '[device "x"]\n  type = "vhost-user"\n[netdev "t"]\ntype = "tap"\n[ netdev ]\ntype = "vhost-user"\nodd line\n'
    )
    assert back_ends(["qemu", "-readconfig", str(file)]) == (VDPA, netdev("vhost-user", "of -readconfig"))
