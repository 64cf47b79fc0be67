"""A random game against the guard's first promise: several clients, all kinds of moves, and a watcher behind it."""
