//! Tests of the codec through its public interface.
//!
//! - `vectors`: one packet of each type, byte for byte, written down from the documents.
//! - `frames`: split, merged and impossible frames.
//! - `hostile`: truncated fields, lengths and counts that lie.
//! - `properties`: what holds for every packet and for arbitrary bytes; `strategies` makes them up.

mod frames;
mod hostile;
mod properties;
mod strategies;
mod vectors;
