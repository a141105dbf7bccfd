"""Reference values for the parity tests, made with transformers and torch in f32 on a CPU."""
