"""HMP: its lines, its commands, and their translation to QMP."""
