"""The commands of the command line, one file each: its options, and what it does. `qmpguard.cli` has the table."""
