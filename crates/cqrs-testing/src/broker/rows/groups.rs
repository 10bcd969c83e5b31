//! Consumer groups.

use tokio::time;

use crate::broker::bench::{AGAIN, Bench, Checked, skip};
use crate::broker::stream::{Arrivals, Consumers, Counts, Sent};

const MESSAGES: usize = 200;

pub(super) async fn each_gets_all(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let mut groups = Vec::new();
    for group in ["g1", "g2", "g3"] {
        let arrivals = Arrivals::new();
        let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
        consumers.add(bench.subscribe(&broker, group, &topic).await?);
        groups.push((arrivals, consumers));
    }
    // All of them wait for a message by then, and have to be woken.
    time::sleep(AGAIN).await;
    let sent = Sent::many(MESSAGES);
    bench.publish(&broker, Sent::messages(&sent, &topic)).await?;
    for (arrivals, consumers) in groups {
        arrivals.until(sent.len(), bench.settings.arrival).await;
        consumers.stop().await?;
        arrivals.ensure_clean(&sent)?;
    }
    broker.close().await?;
    Ok(())
}

pub(super) async fn once_within(bench: &Bench<'_>) -> Checked {
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let arrivals = Arrivals::new();
    let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
    for _ in 0..3 {
        consumers.add(bench.subscribe(&broker, "g", &topic).await?);
    }
    // Until the members have shared out the topic, a broker may deliver again. What follows is to come once.
    let warm_up = Sent::many(MESSAGES / 4);
    bench.publish(&broker, Sent::messages(&warm_up, &topic)).await?;
    arrivals.until(warm_up.len(), bench.settings.arrival).await;
    arrivals.until_quiet(bench.settings.quiet).await;
    let settled = arrivals.take();
    settled.ensure_clean(&warm_up)?;

    let sent = Sent::many(MESSAGES);
    bench.publish(&broker, Sent::messages(&sent, &topic)).await?;
    arrivals.until(sent.len(), bench.settings.arrival).await;
    arrivals.until_quiet(bench.settings.quiet).await;
    consumers.stop().await?;
    broker.close().await?;
    arrivals.ensure_once(&sent)
}

pub(super) async fn late(bench: &Bench<'_>) -> Checked {
    if !bench.capabilities().await?.replays {
        return skip("this broker does not keep what its groups have acknowledged (`Capabilities::replays`)");
    }
    let broker = bench.open().await?;
    let topic = bench.topic("t").await?;
    let sent = Sent::many(MESSAGES);
    bench.publish(&broker, Sent::messages(&sent, &topic)).await?;
    for group in ["g1", "g2"] {
        let arrivals = Arrivals::new();
        let mut consumers = Consumers::new(Counts::OnArrival, &arrivals);
        consumers.add(bench.subscribe(&broker, group, &topic).await?);
        arrivals.until(sent.len(), bench.settings.arrival).await;
        consumers.stop().await?;
        arrivals.ensure_clean(&sent)?;
    }
    broker.close().await?;
    Ok(())
}
