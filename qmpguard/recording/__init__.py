"""Recordings of QMP conversations: their lines, and judging them again by the present policy. docs/recording.md."""
