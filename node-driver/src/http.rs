//! `/metrics`, `/livez` and `/readyz`, on a thread of their own.
//!
//! The thread asks the duty cycle for a snapshot over a bounded channel and gives up after a while;
//! the duty cycle never waits for it. hyper on a single-threaded runtime was taken over a bare
//! `TcpListener` for its limits on header size and slow peers, and over tiny_http because the cluster
//! part brings hyper in any case.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

use crate::clock;
use crate::health::{Observer, Readiness};
use crate::metrics;

/// Connections served at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// How long the duty cycle may take to answer a scrape.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the kernel refused to accept, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the address cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Somebody else has it, or it is not ours.
    #[error("cannot listen on {listen}: set http.listen to a free address, or to \"\" for none")]
    Bind {
        /// The address.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread or its runtime cannot be made.
    #[error("cannot start the HTTP thread")]
    Thread(#[source] io::Error),
}

impl HttpError {
    /// Bounded label.
    #[must_use]
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Bind { .. } => "bind",
            Self::Thread(_) => "thread",
        }
    }
}

/// Serves until the process ends; returns the address, whose port the kernel may have chosen.
///
/// # Errors
/// [`HttpError`].
pub(crate) fn serve(listen: SocketAddr, observer: Observer) -> Result<SocketAddr, HttpError> {
    let bind_error = |source| HttpError::Bind { listen, source };
    let listener = std::net::TcpListener::bind(listen).map_err(bind_error)?;
    listener.set_nonblocking(true).map_err(bind_error)?;
    let address = listener.local_addr().map_err(bind_error)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(HttpError::Thread)?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener).map_err(bind_error)?
    };
    std::thread::Builder::new()
        .name("http".into())
        .spawn(move || runtime.block_on(accept(listener, observer)))
        .map_err(HttpError::Thread)?;
    Ok(address)
}

async fn accept(listener: TcpListener, observer: Observer) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let observer = observer.clone();
        let connection = async move {
            let service = service_fn(|request| answer(request, observer.clone()));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .keep_alive(true)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            drop(permit);
        };
        tokio::spawn(connection);
    }
}

async fn answer(
    request: Request<Incoming>,
    observer: Observer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n",
        ));
    }
    Ok(match request.uri().path() {
        "/livez" if observer.is_alive(clock::now()) => text(StatusCode::OK, "alive\n"),
        "/livez" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the duty cycle stands still\n",
        ),
        "/readyz" => {
            let readiness = observer.readiness();
            let code = match readiness {
                Readiness::Ready => StatusCode::OK,
                Readiness::Starting
                | Readiness::NoMediaDriver
                | Readiness::NoPolicy
                | Readiness::Draining => StatusCode::SERVICE_UNAVAILABLE,
            };
            text(code, &format!("{}\n", readiness.label()))
        }
        "/metrics" => scrape(&observer).await,
        _ => text(
            StatusCode::NOT_FOUND,
            "served here: /metrics, /livez, /readyz\n",
        ),
    })
}

async fn scrape(observer: &Observer) -> Response<Full<Bytes>> {
    let (reply, answer) = oneshot::channel();
    if let Err(error) = observer.ask(reply) {
        return text(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}\n"));
    }
    match tokio::time::timeout(SCRAPE_TIMEOUT, answer).await {
        Ok(Ok(snapshot)) => {
            let mut response = text(StatusCode::OK, &metrics::render(snapshot));
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ),
            );
            response
        }
        Ok(Err(_)) | Err(_) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the duty cycle did not answer\n",
        ),
    }
}

fn text(code: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = code;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
