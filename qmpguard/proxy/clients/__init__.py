"""One client's conversation: its input, its requests, their replies in order, its file descriptors."""
