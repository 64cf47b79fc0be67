"""The judgment: machines, operations, rules, verdicts. No bytes, no sockets, no clock, no JSON text.

Commands describe the future; rules judge the future. A reader turns a request into an operation,
``operation.after(machine)`` is the machine as it would be, and each rule looks at a machine.
"""
