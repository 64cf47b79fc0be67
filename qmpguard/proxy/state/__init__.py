"""What is known and counted of one VM, and kept for those who look."""
