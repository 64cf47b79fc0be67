"""The commands of the command line, one module each: its options and its execution. `qmpguard.cli` has the table."""
