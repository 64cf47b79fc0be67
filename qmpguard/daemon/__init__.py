"""The guard as a process: its VMs, configuration reloads, sockets, and the service manager."""
