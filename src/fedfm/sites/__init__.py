"""Real sites: machines that hold data of their own, and decide what leaves them.

`Site` is a node with a policy and an egress ledger; the guard and the site agent keep it in its federation.
"""
