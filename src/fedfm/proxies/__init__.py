"""Proxies: compressed stand-ins for the backbone that clients tune in its place."""

from fedfm.proxies.settings import Alignment, Distillation, FedPFT, NoProxy, Offsite, Proxy

__all__ = ["Alignment", "Distillation", "FedPFT", "NoProxy", "Offsite", "Proxy"]
