//! From registrations and configuration to a running cqrs application
