"""Offsite tuning: the proxy has few layers; those at its ends are tuned, an emulator stands for all between.

Xiao et al., Offsite-Tuning: Transfer Learning without Full Model, arXiv:2302.04870. In a federation: FedOT, the
baseline of FedPFT (arXiv:2404.11536), with as many layers as come closest to FedPFT's proxy in parameters.

    keep the first and last a layers (adapters), evenly spaced ones between (emulator)   `layers.choose_layers`
    distil the emulator on public data: ‖T − H‖² / ‖T‖² before the last adapters         `pair.OffsitePair.fit`
    federated tuning of the adapters; the emulator is frozen                             `fedfm.clients`
    plug each adapter layer into the layer of the backbone that it was copied from       `fedfm.proxies.plugin.PlugIn`
"""
