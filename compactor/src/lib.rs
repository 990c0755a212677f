//! The compactor role: merging blocks, retention, garbage.
