"""Clients for the commands: of a live VM, of a guard's console, of its admin interface. A guard itself needs none."""
