"""Device profiles: what a frame rate on a device leaves for the network, by published times. No torch in here.

The model is `ms = a + b x GFLOPs`, a line per device, runtime and precision (`conf/device/*.yaml`, fitted by
`fit.py`). What it predicts is shown and never judged: a time counts once it was measured on the device.
"""

from compress.devices.frame_rate import named_by_frame_rate, remarks, resolve

__all__ = ["named_by_frame_rate", "remarks", "resolve"]
