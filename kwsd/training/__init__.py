"""How the models are made. Needs the extra `[train]`; nothing on the device imports it."""
