"""Training loop (`engine`), its `schedule`, host-dependent `settings` and several processes (`distributed`)."""
