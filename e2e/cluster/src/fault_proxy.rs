//! Between a client and the API server of a [`ControlPlane`]: what becomes of each request is for the
//! test to say.
//!
//! One connection carries one request, so a client meets each fate by itself and nothing of one
//! request gets into another. Answers are passed on byte for byte, watches while they last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::json;

use crate::control_plane::{ControlPlane, StartError};
use crate::probe::{server_name, trusting};

/// How long the API server may take to take a request, and a client to send one.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest head of a request or an answer.
const HEAD_BYTES: u64 = 64 << 10;

/// As whom the API server sees what comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller<'a> {
    /// As this user, whatever the client sends.
    User(&'a str),
    /// As whom the token says that the client sends.
    Token,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Like `GET`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Whether it asks for changes as they come.
    pub is_watch: bool,
}

impl Asked {
    /// Whether it changes something.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The API server gets it and its answer is passed on.
    Passed,
    /// Answered with this status, as an API server words it. 429 asks for a second's pause.
    Refused(u16),
    /// A watch that begins, and says at once that it is too old.
    Expired,
    /// The API server answers, and the connection ends after so many bytes of the answer's body.
    Cut(usize),
    /// The connection ends without an answer, before the API server hears of it.
    Away,
    /// No answer ever, and the API server does not hear of it.
    Silent,
    /// The client is to be killed before the API server hears of it.
    KilledBefore,
    /// The API server does it, and the client is to be killed before it hears of that.
    KilledAfter,
}

type Judge = Box<dyn FnMut(&Asked) -> Fate + Send>;

/// A proxy that runs as long as the test's process.
#[derive(Debug)]
pub struct FaultProxy {
    way: Arc<Way>,
    address: SocketAddr,
    kubeconfig: PathBuf,
}

struct Way {
    upstream: SocketAddr,
    config: Arc<ClientConfig>,
    judge: Mutex<Judge>,
    kills: Mutex<Vec<Sender<Asked>>>,
    open: Mutex<BTreeMap<u64, TcpStream>>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way")
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// In front of `control_plane`. Everything is passed on at first.
    ///
    /// # Errors
    /// When no certificate, no port or no file can be made.
    pub fn start(control_plane: &ControlPlane, caller: Caller<'_>) -> Result<Self, StartError> {
        let identity = match caller {
            Caller::User(user) => Some(control_plane.identity_of(user)?),
            Caller::Token => None,
        };
        let no_port = |source| StartError::Port { source };
        let config = trusting(control_plane.authority_pem(), identity.as_ref()).map_err(no_port)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let way = Arc::new(Way {
            upstream: control_plane.address(),
            config,
            judge: Mutex::new(Box::new(|_| Fate::Passed)),
            kills: Mutex::default(),
            open: Mutex::default(),
        });
        let document = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
        });
        let name = format!("proxy-{}.kubeconfig", address.port());
        let kubeconfig = control_plane.put(&name, &document.to_string())?;
        let serving = Arc::clone(&way);
        thread::spawn(move || serve(&listener, &serving));
        Ok(Self {
            way,
            address,
            kubeconfig,
        })
    }

    /// Where it is, like `http://127.0.0.1:34567`.
    #[must_use]
    pub fn server(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig that leads to it and names nobody.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// From now on requests are judged so, one after the other.
    pub fn judge(&self, judge: impl FnMut(&Asked) -> Fate + Send + 'static) {
        *lock(&self.way.judge) = Box::new(judge);
    }

    /// Everything is passed on again.
    pub fn pass_everything(&self) {
        self.judge(|_| Fate::Passed);
    }

    /// Each request that `which` takes is refused with `code` once.
    pub fn refuse_once(&self, code: u16, which: impl Fn(&Asked) -> bool + Send + 'static) {
        let mut refused = BTreeSet::new();
        self.judge(move |asked| {
            if which(asked) && refused.insert(asked.clone()) {
                Fate::Refused(code)
            } else {
                Fate::Passed
            }
        });
    }

    /// Ends every connection that is open, watches among them.
    pub fn cut_open(&self) {
        for stream in lock(&self.way.open).values() {
            // One that has ended by itself is as well.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// The API server is away: nothing open stays, and nothing is answered until
    /// [`pass_everything`](Self::pass_everything).
    pub fn go_away(&self) {
        self.judge(|_| Fate::Away);
        self.cut_open();
    }

    /// Where it is told that the client is to be killed, from now on.
    #[must_use]
    pub fn kills(&self) -> Receiver<Asked> {
        let (sender, receiver) = channel();
        lock(&self.way.kills).push(sender);
        receiver
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A judge that panics ends its test; the proxy's own state is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(listener: &TcpListener, way: &Arc<Way>) {
    for (number, stream) in (0_u64..).zip(listener.incoming()) {
        let Ok(stream) = stream else {
            continue;
        };
        if let Ok(other) = stream.try_clone() {
            lock(&way.open).insert(number, other);
        }
        let way = Arc::clone(way);
        thread::spawn(move || {
            // A client or a server that goes away ends the connection; that is no matter here.
            drop(pass(&way, &stream));
            drop(stream.shutdown(Shutdown::Both));
            lock(&way.open).remove(&number);
        });
    }
}

/// A request as it came: its head's lines, and its body.
struct Request {
    lines: Vec<String>,
    body: Vec<u8>,
}

fn pass(way: &Way, mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(LIMIT))?;
    let request = read_request(client)?;
    client.set_read_timeout(None)?;
    let asked = asked(&request.lines);
    let fate = (lock(&way.judge))(&asked);
    match fate {
        Fate::Refused(code) => client.write_all(&refusal(code)),
        Fate::Expired => client.write_all(&expired()),
        Fate::Away => Ok(()),
        Fate::Silent => until_gone(client),
        Fate::KilledBefore => {
            way.kill(&asked);
            until_gone(client)
        }
        Fate::Passed => relay(way.ask(&request)?, client, usize::MAX),
        Fate::Cut(bytes) => relay(way.ask(&request)?, client, bytes),
        Fate::KilledAfter => {
            let mut answer = [0];
            way.ask(&request)?.read_exact(&mut answer)?;
            way.kill(&asked);
            until_gone(client)
        }
    }
}

impl Way {
    fn kill(&self, asked: &Asked) {
        // A test that does not listen any more kills nobody.
        lock(&self.kills).retain(|kills| kills.send(asked.clone()).is_ok());
    }

    /// Sends a request on; the answer is to be read.
    fn ask(&self, request: &Request) -> io::Result<Upstream> {
        let socket = TcpStream::connect_timeout(&self.upstream, LIMIT)?;
        socket.set_write_timeout(Some(LIMIT))?;
        let name = server_name(self.upstream);
        let connection =
            ClientConnection::new(Arc::clone(&self.config), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        let mut head = String::new();
        for line in &request.lines {
            let name = line.split(':').next().unwrap_or_default();
            let is_ours =
                name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("connection");
            if !is_ours {
                head.push_str(line);
                head.push_str("\r\n");
            }
        }
        write!(
            stream,
            "{head}Host: {}\r\nConnection: close\r\n\r\n",
            self.upstream
        )?;
        stream.write_all(&request.body)?;
        stream.flush()?;
        Ok(stream)
    }
}

type Upstream = StreamOwned<ClientConnection, TcpStream>;

/// Passes an answer on, up to so many bytes of its body. A client that goes away ends the question.
fn relay(upstream: Upstream, mut client: &TcpStream, body_bytes: usize) -> io::Result<()> {
    let (watched, asked) = (client.try_clone()?, upstream.sock.try_clone()?);
    thread::spawn(move || {
        drop(until_gone(&watched));
        drop(asked.shutdown(Shutdown::Both));
    });
    let mut answer = BufReader::new(upstream);
    for line in read_head(&mut answer)? {
        write!(client, "{line}\r\n")?;
    }
    client.write_all(b"\r\n")?;
    let mut left = body_bytes;
    while left > 0 {
        let there = answer.fill_buf()?;
        if there.is_empty() {
            break;
        }
        let taken = there.len().min(left);
        client.write_all(there.get(..taken).unwrap_or_default())?;
        answer.consume(taken);
        left = left.saturating_sub(taken);
    }
    Ok(())
}

/// Returns when the client has closed its end.
fn until_gone(mut client: &TcpStream) -> io::Result<()> {
    let mut more = [0; 64];
    while client.read(&mut more)? > 0 {}
    Ok(())
}

fn read_request(client: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(client);
    let lines = read_head(&mut reader)?;
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Request { lines, body })
}

/// The lines before the empty one.
fn read_head(reader: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut limited = reader.take(HEAD_BYTES);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}

fn asked(lines: &[String]) -> Asked {
    let mut words = lines.first().map_or("", String::as_str).split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Asked {
        method,
        path: path.to_owned(),
        is_watch: query.contains("watch=true") || query.contains("watch=1"),
    }
}

fn refusal(code: u16) -> Vec<u8> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        _ => "ServiceUnavailable",
    };
    let mut status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "injected by the test", "reason": reason, "code": code,
    });
    if code == 429 {
        status["details"] = json!({"retryAfterSeconds": 1});
    }
    answer(code, &status.to_string())
}

fn expired() -> Vec<u8> {
    let event = json!({"type": "ERROR", "object": {
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    }});
    answer(200, &format!("{event}\n"))
}

fn answer(code: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {code} Injected\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
