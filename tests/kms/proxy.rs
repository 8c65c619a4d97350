//! A port of loopback that leads to a server, and cuts what comes back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst};
use std::thread;

/// It runs until the test ends.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: AtomicU16,
    /// How many bytes of the server were passed on since [`Proxy::cut_after`], and how many may be.
    passed: AtomicUsize,
    limit: AtomicUsize,
}

impl Proxy {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            to: AtomicU16::new(0),
            passed: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
        });
        let proxy = Self {
            port,
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                relay(client, &shared);
            }
        });
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.shared.to.store(port, SeqCst);
    }

    /// How many bytes of the server were passed on.
    pub(crate) fn passed(&self) -> usize {
        self.shared.passed.load(SeqCst)
    }

    /// From now on, so many bytes of the server are passed on, and all connections end then.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.shared.passed.store(0, SeqCst);
        self.shared.limit.store(bytes, SeqCst);
    }
}

/// A server that is not there is seen as a connection that ends.
fn relay(mut client: TcpStream, shared: &Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", shared.to.load(SeqCst))) else {
        return;
    };
    let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut asks, &mut asked);
        let _ = asked.shutdown(Shutdown::Write);
    });
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = server.read(&mut buffer) {
            let passed = shared.passed.load(SeqCst);
            let may = read.min(shared.limit.load(SeqCst).saturating_sub(passed));
            shared.passed.store(passed + may, SeqCst);
            if client.write_all(&buffer[..may]).is_err() || may < read {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}
