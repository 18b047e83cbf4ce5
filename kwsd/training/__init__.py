"""Floor 4: how the models are made. Needs the extra `[train]`; nothing that runs on the device imports it."""
