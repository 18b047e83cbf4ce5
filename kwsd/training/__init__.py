"""Makes the models. Needs the extra `[train]`; nothing on the device imports it."""
