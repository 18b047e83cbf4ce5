"""The command `kwsd`: one module a verb, each with `HELP`, `add_arguments` and `run`."""
