"""From what people write to a `Config`: files, flags and the environment, each value with the place it comes from."""
