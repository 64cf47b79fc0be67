"""A Linux guest with real `vfio-pci` devices, and QEMUs in it that have them: `make vfio-lab`."""
