//! A runtime without a model, for tests of everything above the seam.
