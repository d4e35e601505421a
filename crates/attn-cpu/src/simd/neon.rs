//! NEON. To be written.
