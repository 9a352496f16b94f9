//! `/metrics`, `/livez` and `/readyz`.

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
use tokio::sync::Semaphore;

use crate::health::Health;
use crate::metrics::Metrics;

/// Connections served at one time; more wait in the kernel's queue.
const CONNECTIONS: usize = 32;
/// How long a peer may take to send its request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the kernel refused to accept, for instance for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Pages {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Listens, and serves on a task until the runtime ends. Returns the address, whose port the kernel may
/// have chosen.
///
/// # Errors
/// Somebody else has the address, or it is not ours.
pub(crate) async fn serve(listen: SocketAddr, pages: Pages) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    tokio::spawn(accept(listener, pages));
    Ok(address)
}

async fn accept(listener: TcpListener, pages: Pages) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let pages = pages.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let answer = pages.answer(&request);
                async { Ok::<_, Infallible>(answer) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "an HTTP connection ended early");
            }
            drop(permit);
        });
    }
}

impl Pages {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
        }
        match request.uri().path() {
            "/livez" if self.health.is_alive() => text(StatusCode::OK, "alive\n"),
            "/livez" => text(StatusCode::SERVICE_UNAVAILABLE, "no loop comes round\n"),
            "/readyz" if self.health.is_ready() => text(StatusCode::OK, "ready\n"),
            "/readyz" => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the caches are not filled\n",
            ),
            "/metrics" => {
                let mut page = text(StatusCode::OK, &self.metrics.text());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                page.headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                page
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "served here: /metrics, /livez, /readyz\n",
            ),
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
