//! Readouts to relevance scores: late interaction, first token, pointwise.
