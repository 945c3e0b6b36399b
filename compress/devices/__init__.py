"""Devices that are not at hand: profiles, frame rates, and predicted latency, energy and flight time. Imports no torch.
Predictions are shown but not judged: only latencies measured on the device count."""

from compress.devices import energy
from compress.devices.forecast import check, fastest, remarks, supported
from compress.devices.frame_rate import fps_named_in_errors, resolve

__all__ = ["check", "energy", "fastest", "fps_named_in_errors", "remarks", "resolve", "supported"]
