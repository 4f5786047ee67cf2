"""The parts of the soak of the low-level interface, which ``lowlevel_soak.py`` beside this folder puts together."""
