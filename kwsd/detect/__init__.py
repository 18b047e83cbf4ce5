"""Floor 3: the detector (samples in, events out), the trigger, enrolment and voiceprints."""
