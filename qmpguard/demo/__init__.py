"""A real QEMU with a real VFIO device, for `qmpguard demo` and for the tests. The guard itself does not use it."""
