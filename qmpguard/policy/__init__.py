"""The policy layer: machines, operations, rules, verdicts. No bytes, no sockets, no clock, no JSON text.

A reader turns a request into an operation. ``operation.after(machine)`` is the machine after the request. Each rule
judges a machine.
"""
