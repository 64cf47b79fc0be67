"""HMP: the syntax of its lines, its commands, and their translation to QMP."""
