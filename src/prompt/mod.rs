//! What the model reads: families' templates rendered to token ids and marks.
