"""Floor 2: the model bundle, the student's session and the speaker head's."""
