"""compress: from one FLOP budget to verified INT8 artifacts for edge devices."""

__version__ = "0.1.0"
