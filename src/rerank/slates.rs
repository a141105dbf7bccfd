//! How a list of documents is cut into slates, and in which order the slates are read.
