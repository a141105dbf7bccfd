"""The parts of tools/gpu/first-light."""
