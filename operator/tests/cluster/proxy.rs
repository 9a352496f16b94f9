//! Between an operator and the API server: passes requests on with the operator's own rights, and can
//! refuse one, or have the operator killed before or after it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, thread};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) is_watch: bool,
}

impl Asked {
    /// A write that is part of the operator's work: no lease, no event for people.
    pub(crate) fn is_work(&self) -> bool {
        self.method != "GET" && !self.path.contains("/leases") && !self.path.contains("/events")
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passed,
    /// Answered with this status, as an API server words it.
    Refused(u16),
    /// A watch that begins, and says at once that it is too old.
    Expired,
    /// The operator dies before the API server hears of it.
    KilledBefore,
    /// The API server does it, and the operator dies before it hears of that.
    KilledAfter,
}

/// Decides. Called for one request after the other.
pub(crate) type Judge = Box<dyn FnMut(&Asked) -> Fate + Send>;

/// A running proxy.
pub(crate) struct Proxy {
    /// Leads to it.
    pub(crate) kubeconfig: PathBuf,
    judge: Arc<Mutex<Judge>>,
}

struct Way {
    client: Client,
    judge: Arc<Mutex<Judge>>,
    kills: Sender<Asked>,
}

impl Proxy {
    /// In front of the server that `upstream` names. Each killing is told on `kills`.
    pub(crate) fn start(upstream: &Path, kills: Sender<Asked>) -> Self {
        let judge: Judge = Box::new(|_| Fate::Passed);
        let judge = Arc::new(Mutex::new(judge));
        let file = Kubeconfig::read_from(upstream).expect("the file is complete");
        let (ready, address) = channel();
        let judging = Arc::clone(&judge);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime starts").block_on(async move {
                let options = KubeConfigOptions::default();
                let config = Config::from_custom_kubeconfig(file, &options).await;
                let mut config = config.expect("the file is complete");
                config.default_retry = false;
                let way = Way {
                    client: Client::try_from(config).expect("a client can be made of it"),
                    judge: judging,
                    kills,
                };
                let listener = TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("there is a free port");
                let address = listener.local_addr().expect("it has one");
                ready.send(address).expect("the test waits for it");
                serve(listener, Arc::new(way)).await;
            });
        });
        let address = address.recv().expect("it starts");
        let kubeconfig = upstream.with_extension("proxy");
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "users": [{"name": "nobody", "user": {}}],
            "current-context": "proxy",
        });
        fs::write(&kubeconfig, document.to_string()).expect("it can be written");
        Self { kubeconfig, judge }
    }

    /// From now on requests are judged so.
    pub(crate) fn judge(&self, judge: impl FnMut(&Asked) -> Fate + Send + 'static) {
        *self.judge.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(judge);
    }

    /// Each work write fails once with `code`, each list and watch as well.
    pub(crate) fn refuse_everything_once(&self, code: u16) {
        let mut refused = BTreeSet::new();
        self.judge(move |asked| {
            let is_watch_or_list = asked.method == "GET" && !asked.path.contains("/leases");
            if (asked.is_work() || is_watch_or_list) && refused.insert(asked.clone()) {
                Fate::Refused(code)
            } else {
                Fate::Passed
            }
        });
    }
}

async fn serve(listener: TcpListener, way: Arc<Way>) {
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        let way = Arc::clone(&way);
        tokio::spawn(async move {
            let service = service_fn(|request| pass(Arc::clone(&way), request));
            // A client that goes away ends its connection; that is no matter here.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}

async fn pass(way: Arc<Way>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let uri = request.uri();
    let asked = Asked {
        method: request.method().to_string(),
        path: uri.path().to_owned(),
        is_watch: uri
            .query()
            .is_some_and(|query| query.contains("watch=true")),
    };
    let fate = {
        let mut judge = way.judge.lock().unwrap_or_else(PoisonError::into_inner);
        judge(&asked)
    };
    let kill = async || {
        // The test may have ended.
        drop(way.kills.send(asked.clone()));
        pending::<()>().await;
    };
    match fate {
        Fate::Refused(code) => return Ok(refusal(code)),
        Fate::Expired => return Ok(expired()),
        Fate::KilledBefore => kill().await,
        Fate::Passed | Fate::KilledAfter => {}
    }
    let answer = forward(&way.client, request).await;
    if fate == Fate::KilledAfter {
        kill().await;
    }
    Ok(answer)
}

async fn forward(client: &Client, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await;
    let bytes = bytes.map(http_body_util::Collected::to_bytes);
    let Ok(bytes) = bytes else {
        // Whoever asked is gone.
        return refusal(503);
    };
    let path = parts.uri.path_and_query().map_or("/", |it| it.as_str());
    let mut upstream = Request::builder().method(parts.method).uri(path);
    for (name, value) in &parts.headers {
        if name != hyper::header::HOST && name != hyper::header::CONNECTION {
            upstream = upstream.header(name, value);
        }
    }
    let upstream = upstream.body(Body::from(bytes.to_vec()));
    let sent = client
        .send(upstream.expect("it was a request before"))
        .await;
    sent.unwrap_or_else(|_| refusal(503))
}

fn refusal(code: u16) -> Response<Body> {
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
    let answer = Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(Body::from(status.to_string().into_bytes()));
    answer.expect("it is a response")
}

fn expired() -> Response<Body> {
    let event = json!({"type": "ERROR", "object": {
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "too old resource version", "reason": "Expired", "code": 410,
    }});
    let answer = Response::builder()
        .header("content-type", "application/json")
        .body(Body::from(format!("{event}\n").into_bytes()));
    answer.expect("it is a response")
}
