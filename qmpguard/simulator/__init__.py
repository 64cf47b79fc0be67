"""A QEMU that is only simulated: it speaks QMP as QEMU does, for tests where a real one cannot be had."""
