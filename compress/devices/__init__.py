"""Device profiles: convert a frame rate on a device to a FLOPs budget, from published latencies. Imports no torch. The
model is `ms = a + b x GFLOPs`, one line per device, runtime and precision (`conf/device/*.yaml`, fitted by `fit.py`).
Its predictions are shown but not judged: only latencies measured on the device count."""

from compress.devices import energy
from compress.devices.frame_rate import fps_named_in_errors, remarks, resolve

__all__ = ["energy", "fps_named_in_errors", "remarks", "resolve"]
