"""Mutants: small changes of the code, each of which a test of that very module must notice."""
