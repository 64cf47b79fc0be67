"""The guard as a process: the VMs that it guards, what it follows and keeps while it runs, and its service manager."""
