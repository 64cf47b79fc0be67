"""The manual page and the shells' completions, made from the parser that `--help` is made from: `make docs`."""
