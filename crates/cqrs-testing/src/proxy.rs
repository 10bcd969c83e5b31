//! A network between clients and a server that fails where a test wants it to: at a point of a conversation, or as one
//! that swallows everything. It does not understand the conversation; it looks for bytes that stand in it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// A point of a conversation at which its connection is cut: after the client has said something, where the server has
/// answered or before it has heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    said: &'static [u8],
    lost: Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    Request,
    /// From the answer on in which these bytes are, and no earlier than the answer of this number.
    Answer {
        number: u32,
        holding: &'static [u8],
    },
}

impl Point {
    /// The server has done what the client said in these bytes, and its answer is lost.
    pub const fn answer_to(said: &'static [u8]) -> Self {
        Self { said, lost: Lost::Answer { number: 1, holding: b"" } }
    }

    /// As [`answer_to`](Self::answer_to), where a statement is prepared first: the answer to its execution is lost.
    pub const fn answer_to_prepared(said: &'static [u8]) -> Self {
        Self { said, lost: Lost::Answer { number: 2, holding: b"" } }
    }

    /// The server never hears what the client said in these bytes.
    pub const fn request(said: &'static [u8]) -> Self {
        Self { said, lost: Lost::Request }
    }

    /// Not at just any answer, where both sides talk at the same time: only at one that has these bytes in it.
    ///
    /// # Panics
    ///
    /// If it is no answer that is lost.
    #[must_use]
    pub const fn holding(self, holding: &'static [u8]) -> Self {
        match self.lost {
            Lost::Answer { number, .. } => Self { lost: Lost::Answer { number, holding }, ..self },
            Lost::Request => panic!("there is no answer"),
        }
    }
}

/// Forwards the connections to one of its ports to a server. Dropping it closes all of them.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    /// Where the next connection that comes to it is cut.
    armed: watch::Sender<Option<Point>>,
    silent: watch::Sender<bool>,
    swallowed: AtomicUsize,
}

impl Proxy {
    /// On a free port of this host, to a server at `host:port`.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub async fn before(server: &str) -> io::Result<Self> {
        Self::serve(TcpListener::bind("127.0.0.1:0").await?, server)
    }

    /// On a port that was taken before: for a server that has to know it.
    ///
    /// # Errors
    ///
    /// The port cannot be used.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, to which the proxy belongs.
    pub fn on(listener: std::net::TcpListener, server: &str) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Self::serve(TcpListener::from_std(listener)?, server)
    }

    fn serve(listener: TcpListener, server: &str) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            armed: watch::Sender::new(None),
            silent: watch::Sender::new(false),
            swallowed: AtomicUsize::new(0),
        });
        let serving = tokio::spawn(serve(listener, server.to_owned(), Arc::clone(&shared)));
        Ok(Self { port, shared, serving })
    }

    /// Where clients have to go, on this host.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the first connection that comes to that point: nothing of what is lost arrives, and both sides are closed.
    /// Resolves when that has happened.
    ///
    /// # Cancel safety
    ///
    /// A dropped future leaves it open whether it happens.
    pub async fn cut(&self, point: Point) {
        self.shared.armed.send_replace(Some(point));
        // The sender is our own, and lives.
        let _ = self.shared.armed.subscribe().wait_for(Option::is_none).await;
    }

    /// For so long, every byte vanishes, of new connections too, and none is closed. Those that were open meanwhile stay dead:
    /// neither side hears of the other any more. Gives how many there were.
    pub async fn swallow(&self, length: Duration) -> usize {
        let before = self.shared.swallowed.load(Ordering::Relaxed);
        self.shared.silent.send_replace(true);
        tokio::time::sleep(length).await;
        self.shared.silent.send_replace(false);
        self.shared.swallowed.load(Ordering::Relaxed) - before
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("port", &self.port).finish_non_exhaustive()
    }
}

async fn serve(listener: TcpListener, server: String, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // One that is gone already is nobody's loss.
                let Ok((client, _)) = accepted else { continue };
                connections.spawn(connection(client, server.clone(), Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(client: TcpStream, server: String, shared: Arc<Shared>) {
    let mut silent = shared.silent.subscribe();
    let to_server = if *silent.borrow_and_update() {
        None
    } else {
        let Ok(to_server) = TcpStream::connect(&server).await else { return };
        Some(to_server)
    };
    // Small packets have to go at once, or each of them waits for an acknowledgement.
    for stream in [Some(&client), to_server.as_ref()].into_iter().flatten() {
        let _ = stream.set_nodelay(true);
    }
    match to_server {
        None => vanish(client, None, silent, &shared).await,
        Some(to_server) => {
            let mut pair = Pair { client, server: to_server, talk: Talk::default() };
            tokio::select! {
                () = pair.forward(&shared) => return,
                _ = silent.wait_for(|silent| *silent) => {}
            }
            vanish(pair.client, Some(pair.server), silent, &shared).await;
        }
    }
}

/// Until the client gives up; and the server does not hear even of that before bytes get through again.
async fn vanish(
    mut client: TcpStream,
    server: Option<TcpStream>,
    mut silent: watch::Receiver<bool>,
    shared: &Shared,
) {
    shared.swallowed.fetch_add(1, Ordering::Relaxed);
    let mut buffer = [0; 4096];
    while matches!(client.read(&mut buffer).await, Ok(1..)) {}
    let _ = silent.wait_for(|silent| !*silent).await;
    drop(server);
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
    talk: Talk,
}

impl Pair {
    /// Until one side closes, or the connection is cut.
    async fn forward(&mut self, shared: &Shared) {
        let (mut said, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let armed = &shared.armed;
            tokio::select! {
                read = self.client.read(&mut said) => {
                    let Ok(read @ 1..) = read else { return };
                    if self.talk.is_lost(armed, &said[..read], true) || self.server.write_all(&said[..read]).await.is_err() {
                        return;
                    }
                }
                read = self.server.read(&mut answered) => {
                    let Ok(read @ 1..) = read else { return };
                    if self.talk.is_lost(armed, &answered[..read], false)
                        || self.client.write_all(&answered[..read]).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    }
}

/// Where a conversation stands.
#[derive(Default)]
struct Talk {
    /// At which point it may be, and how many answers there were since.
    at: Option<(Point, u32)>,
    /// Whether the client spoke last.
    asked: bool,
}

impl Talk {
    /// Whether this is where the connection is to be cut; no other one is then.
    fn is_lost(&mut self, armed: &watch::Sender<Option<Point>>, bytes: &[u8], by_client: bool) -> bool {
        let Some(point) = *armed.borrow() else {
            self.at = None;
            return false;
        };
        if self.at.is_some_and(|(at, _)| at != point) {
            self.at = None;
        }
        let lost = if by_client {
            self.asked = true;
            let comes_to_it = self.at.is_none() && contains(bytes, point.said);
            if comes_to_it {
                self.at = Some((point, 0));
            }
            comes_to_it && point.lost == Lost::Request
        } else {
            let Some((_, answers)) = &mut self.at else { return false };
            *answers += u32::from(std::mem::take(&mut self.asked));
            matches!(point.lost, Lost::Answer { number, holding } if *answers >= number && contains(bytes, holding))
        };
        lost && armed.send_if_modified(|armed| armed.take_if(|armed| *armed == point).is_some())
    }
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut buffer = [0; 100];
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => Some(buffer[..read].to_vec()),
            _ => None,
        }
    }

    /// A server that says what it hears, and what it has heard.
    async fn echo() -> (String, watch::Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, hears) = watch::channel(Vec::new());
        let heard = Arc::new(heard);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let heard = Arc::clone(&heard);
                tokio::spawn(async move {
                    while let Some(bytes) = answer(&mut client).await {
                        heard.send_modify(|heard| heard.extend_from_slice(&bytes));
                        client.write_all(&bytes).await.unwrap();
                    }
                });
            }
        });
        (address, hears)
    }

    async fn ask(stream: &mut TcpStream, what: &[u8]) -> Option<Vec<u8>> {
        stream.write_all(what).await.ok()?;
        answer(stream).await
    }

    #[tokio::test]
    async fn cuts_at_the_point_and_nowhere_else() {
        let (server, heard) = echo().await;
        let proxy = Proxy::before(&server).await.unwrap();
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();

        let (mut one, mut other) = (connect().await, connect().await);
        let cut = async {
            assert_eq!(ask(&mut one, b"one").await.unwrap(), b"one");
            assert_eq!(ask(&mut one, b"x COMMIT").await, None);
        };
        tokio::join!(biased; proxy.cut(Point::answer_to(b"COMMIT")), cut);
        assert_eq!(*heard.borrow(), b"onex COMMIT");
        assert_eq!(ask(&mut other, b"COMMIT").await.unwrap(), b"COMMIT", "one cut, one connection");

        let cut = async {
            assert_eq!(ask(&mut other, b"COMMIT").await, None);
        };
        tokio::join!(biased; proxy.cut(Point::request(b"COMMIT")), cut);
        assert_eq!(*heard.borrow(), b"onex COMMITCOMMIT");

        let mut one = connect().await;
        let cut = async {
            assert_eq!(ask(&mut one, b"prepare").await.unwrap(), b"prepare");
            assert_eq!(ask(&mut one, b"execute").await, None);
        };
        tokio::join!(biased; proxy.cut(Point::answer_to_prepared(b"prepare")), cut);

        let mut one = connect().await;
        let cut = async {
            assert_eq!(ask(&mut one, b"publish").await.unwrap(), b"publish");
            assert_eq!(ask(&mut one, b"ack").await, None);
        };
        tokio::join!(biased; proxy.cut(Point::answer_to(b"publish").holding(b"ack")), cut);
    }

    #[tokio::test]
    async fn what_was_swallowed_stays_dead_and_new_connections_live() {
        let (server, _) = echo().await;
        let proxy = Proxy::before(&server).await.unwrap();
        let connect = async || TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        let mut old = connect().await;
        assert_eq!(ask(&mut old, b"1").await.unwrap(), b"1");
        let meanwhile = async {
            let mut new = connect().await;
            new.write_all(b"2").await.unwrap();
            new
        };
        let (swallowed, mut new) = tokio::join!(biased; proxy.swallow(Duration::from_millis(200)), meanwhile);
        assert_eq!(swallowed, 2);
        for stream in [&mut old, &mut new] {
            let silence = tokio::time::timeout(Duration::from_millis(100), ask(stream, b"3")).await;
            assert!(silence.is_err(), "{silence:?}");
        }
        assert_eq!(ask(&mut connect().await, b"4").await.unwrap(), b"4");
    }
}
