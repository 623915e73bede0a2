"""Secure aggregation: the server learns the sum of the clients' vectors and nothing else of them.

Only `settings` and `terms` load without the extra `secure`.
"""

from fedfm.secure.settings import NoSecure, SecAgg, Secure, SecureSettings
from fedfm.secure.terms import Terms

__all__ = ["NoSecure", "SecAgg", "Secure", "SecureSettings", "Terms"]
