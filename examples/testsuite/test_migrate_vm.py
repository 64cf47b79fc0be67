"""The tool with a simulated, a guarded and a real QEMU."""

import pytest
from migrate_vm import NotMigratedError, migrate

from qmpguard.testing import refusal_of

GPU = {"driver": "vfio-pci", "id": "gpu0"}
NOWHERE = "unix:/nowhere"


@pytest.mark.simulated(migration=0.1)
def test_it_waits_until_the_vm_has_gone(simulated_qemu):
    migrate(str(simulated_qemu.path), NOWHERE)
    assert simulated_qemu.execute("query-status")["return"]["status"] == "postmigrate"
    assert simulated_qemu.commands[0] == "migrate"


@pytest.mark.simulated(migration=0.1, fails="no route to host")
def test_a_migration_that_fails_is_an_error(simulated_qemu):
    with pytest.raises(NotMigratedError, match="no route to host"):
        migrate(str(simulated_qemu.path), NOWHERE)


@pytest.mark.simulated("dies.toml")
def test_a_qemu_that_dies_is_an_error(simulated_qemu):
    with pytest.raises(NotMigratedError, match="QEMU did not answer query-migrate"):
        migrate(str(simulated_qemu.path), NOWHERE)


@pytest.mark.guarded("simulated_qemu")
@pytest.mark.simulated(devices=[GPU])
def test_postcopy_with_a_gpu_is_refused_and_the_vm_runs_on(guarded_qemu):
    with pytest.raises(NotMigratedError) as refused:
        migrate(str(guarded_qemu.path), NOWHERE, postcopy=True)
    assert refusal_of(refused.value) == "vfio-postcopy"
    assert "migrate" not in guarded_qemu.qemu.commands
    assert guarded_qemu.execute("query-status")["return"]["running"]


@pytest.mark.guarded("qemu")
def test_a_real_qemu_without_a_gpu_is_migrated_through_the_guard(guarded_qemu):
    migrate(str(guarded_qemu.path), "exec:cat >/dev/null")
    assert guarded_qemu.refused == 0


@pytest.mark.guarded("qemu_with_vfio")
def test_a_real_qemu_with_a_device_is_not(guarded_qemu):
    with pytest.raises(NotMigratedError) as refused:
        migrate(str(guarded_qemu.path), NOWHERE, postcopy=True)
    assert refusal_of(refused.value) == "vfio-postcopy"
