"""A worker and its data on one machine, for every runtime.

`fedfm.hosts.node.Node` answers a server's envelopes; `fedfm.hosts.resident` runs it as a process that stays. A node
with data of its own is a site (`fedfm.sites`).
"""
