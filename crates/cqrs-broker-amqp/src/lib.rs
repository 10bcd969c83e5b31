//! The AMQP 0-9-1 (RabbitMQ) broker of the cqrs toolkit, on lapin
