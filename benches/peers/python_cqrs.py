"""The peer: python-cqrs drains its outbox, and prints how many events a second it sent.

    python_cqrs.py DATABASE_URL BROKER EVENTS

The rows are written by its own repository, untimed. The loop is the one its README shows, without the ten seconds of sleep
between two batches, and with the isolation level that its README shows.
"""

import asyncio
import logging
import os
import sys
import time
import uuid

import cqrs
from cqrs.adapters import amqp as amqp_adapter
from cqrs.adapters import kafka as kafka_adapter
from cqrs.message_brokers import amqp, kafka
from cqrs.outbox.sqlalchemy import Base, OutboxModel
import pydantic
import sqlalchemy
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

DRIVERS = {"postgres": "postgresql+asyncpg", "mysql": "mysql+asyncmy"}


class Text(pydantic.BaseModel):
    text: str


cqrs.OutboxedEventMap.register("bench", cqrs.NotificationEvent[Text])


def connect(broker: str):
    if broker.startswith("amqp://"):
        return amqp.AMQPMessageBroker(amqp_adapter.amqp_publisher_factory(broker), exchange_name=f"bench-{uuid.uuid4()}")
    return kafka.KafkaMessageBroker(producer=kafka_adapter.kafka_producer_factory(dsn=broker))


async def main(database: str, broker: str, events: int) -> None:
    # It logs each message at the level DEBUG; nobody listens.
    logging.disable(logging.ERROR)
    scheme, rest = database.split("://", 1)
    engine = create_async_engine(f"{DRIVERS[scheme]}://{rest}", isolation_level="REPEATABLE READ")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    topic = f"peer-{uuid.uuid4().hex}"
    sessions = async_sessionmaker(engine)
    async with sessions() as session:
        repository = cqrs.SqlAlchemyOutboxedEventRepository(session)
        for _ in range(events):
            repository.add(cqrs.NotificationEvent[Text](event_name="bench", topic=topic, payload=Text(text="x" * 290)))
        await repository.commit()
    message_broker = connect(broker)
    async with sessions() as session:
        producer = cqrs.EventProducer(message_broker, cqrs.SqlAlchemyOutboxedEventRepository(session))
        # Connections are made, the topic too.
        for message in await producer.repository.get_many(1):
            await producer.send_message(message)
        await producer.repository.commit()
        began = time.perf_counter()
        async for messages in producer.event_batch_generator():
            for message in messages:
                await producer.send_message(message)
            await producer.repository.commit()
            if not messages:
                break
        seconds = time.perf_counter() - began
    async with engine.connect() as connection:
        produced = sqlalchemy.select(sqlalchemy.func.count()).select_from(OutboxModel)
        produced = produced.where(OutboxModel.event_status == "PRODUCED")
        produced = (await connection.execute(produced)).scalar_one()
    if produced != events:
        sys.exit(f"it has produced {produced} of {events} events")
    print((events - 1) / seconds, flush=True)
    # Its connections to the broker have no orderly end.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
