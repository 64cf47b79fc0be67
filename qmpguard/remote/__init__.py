"""What the commands see from outside: a live VM, a guard's console, its admin interface. A guard needs none of it."""
