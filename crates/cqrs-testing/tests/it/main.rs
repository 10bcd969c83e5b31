//! The suite on the in-memory broker, and on brokers that are broken on purpose.

mod broken;
mod conformance;
mod faulty;
