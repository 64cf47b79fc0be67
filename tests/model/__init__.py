"""A model: the real code of one VM between two clients and a simulated QEMU, in every order of what can happen.

Real are `Vm` with its hub, gate, scheduler, sessions, overrides and drift watch, `Serving`, `Link` and `Control`. Made
here are the event loop, which runs one step at a time (`loop`), the sockets (`streams`), QEMU (`machine`) and the
clients (`client`). So no order depends on a clock, a socket or the kernel.

`world` puts them together and says which events can happen next. `explorer` goes through all orders of the events,
breadth first. After each event the promises of `promises` are checked. An order that breaks one is a list of events,
which `python -m tests.model --replay` plays again.
"""
