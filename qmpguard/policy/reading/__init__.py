"""The readers, by subject: each turns the arguments of one command into an operation."""
