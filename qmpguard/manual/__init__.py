"""Documents made from the code: manual page, completions, Python interface and glossary (`make docs`)."""
