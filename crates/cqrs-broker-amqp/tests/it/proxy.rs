//! A network between client and server that can fail, and is mended when a test says so. Not `cqrs_testing::proxy`, which fails at a
//! point of a conversation or for a length of time, and loses what it swallows: here answers are held back, and come late.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Open,
    /// What the server says is held back.
    Silent,
    /// Every connection is cut, and new ones are not taken.
    Cut,
}

pub(crate) struct Proxy {
    way: Arc<watch::Sender<Way>>,
    pub(crate) url: String,
}

impl Proxy {
    /// Before the server of that URL.
    pub(crate) async fn before(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, address) = rest.rsplit_once('@').unwrap();
        let (server, vhost) = address.split_once('/').unwrap_or((address, "%2f"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{user}@{}/{vhost}", listener.local_addr().unwrap());
        let way = Arc::new(watch::Sender::new(Way::Open));
        tokio::spawn(serve(listener, server.to_owned(), Arc::clone(&way)));
        Self { way, url }
    }

    /// From now on nothing comes back.
    pub(crate) fn silence(&self) {
        self.way.send_replace(Way::Silent);
    }

    /// Cuts everything.
    pub(crate) fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    /// New connections get through.
    pub(crate) fn mend(&self) {
        self.way.send_replace(Way::Open);
    }
}

async fn serve(listener: TcpListener, server: String, way: Arc<watch::Sender<Way>>) {
    while let Ok((client, _)) = listener.accept().await {
        if *way.borrow() == Way::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect(&server).await else { continue };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::spawn(forward(from_client, to_server, way.subscribe(), false));
        tokio::spawn(forward(from_server, to_client, way.subscribe(), true));
    }
}

async fn forward(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut way: watch::Receiver<Way>,
    answers: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let cut = way.clone();
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = wait_for(cut, Way::Cut) => 0,
        };
        if answers {
            let _ = way.wait_for(|way| *way != Way::Silent).await;
        }
        if read == 0 || *way.borrow() == Way::Cut || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn wait_for(mut way: watch::Receiver<Way>, wanted: Way) {
    if way.wait_for(|way| *way == wanted).await.is_err() {
        std::future::pending().await
    }
}
