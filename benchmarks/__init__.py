"""What the guard costs, measured on real QEMUs: `make bench`. docs/performance.md says how to read it."""
