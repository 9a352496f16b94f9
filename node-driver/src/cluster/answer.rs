//! One request to the API server: its time limit, and what its failure means.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

use crate::files::in_words;

/// How long one request may take. Retries are ours, since each writer knows what a late write is worth.
const REQUEST: Duration = Duration::from_secs(5);

/// Why a request had no effect.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the API server did not answer within {} s", REQUEST.as_secs())]
    Timeout,
    #[error("{}", said(.0))]
    Api(Box<kube::Error>),
}

/// What the API server said, without the form in which it did; for anything else all causes.
pub(super) fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => in_words(other),
    }
}

impl Failure {
    /// Bounded label.
    pub(super) fn reason(&self) -> &'static str {
        match self.code() {
            None => match self {
                Self::Timeout => "timeout",
                Self::Api(_) => "unreachable",
            },
            Some(401) => "unauthorized",
            Some(403) => "forbidden",
            Some(404) => "gone",
            Some(409) => "conflict",
            Some(422) => "invalid",
            Some(429) => "throttled",
            Some(500..) => "server",
            Some(_) => "refused",
        }
    }

    /// How long the server asks to be left alone.
    pub(super) fn wish(&self) -> Option<Duration> {
        let Self::Api(error) = self else { return None };
        let kube::Error::Api(status) = error.as_ref() else {
            return None;
        };
        let seconds = status.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    fn code(&self) -> Option<u16> {
        let Self::Api(error) = self else { return None };
        let kube::Error::Api(status) = error.as_ref() else {
            return None;
        };
        Some(status.code)
    }
}

/// Waits for an answer, not for ever.
pub(super) async fn answered<T>(
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failure> {
    match timeout(REQUEST, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Failure::Api(Box::new(error))),
        Err(_) => Err(Failure::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::core::Status;
    use kube::core::response::StatusDetails;

    use super::Failure;

    fn refused(code: u16, retry_after_seconds: u32) -> Failure {
        let status = Status::failure("no", "No")
            .with_code(code)
            .with_details(StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds,
            });
        Failure::Api(Box::new(kube::Error::Api(status.boxed())))
    }

    #[test]
    fn every_answer_has_a_bounded_reason() {
        let reasons = [400, 401, 403, 404, 409, 422, 429, 500, 503].map(|code| {
            let failure = refused(code, 0);
            (code, failure.reason())
        });
        assert_eq!(
            reasons,
            [
                (400, "refused"),
                (401, "unauthorized"),
                (403, "forbidden"),
                (404, "gone"),
                (409, "conflict"),
                (422, "invalid"),
                (429, "throttled"),
                (500, "server"),
                (503, "server"),
            ]
        );
        assert_eq!(Failure::Timeout.reason(), "timeout");
    }

    #[test]
    fn what_the_server_said_is_repeated_and_no_more() {
        assert_eq!(refused(403, 0).to_string(), "no");
    }

    #[test]
    fn the_servers_wish_is_heard() {
        assert_eq!(refused(429, 7).wish(), Some(Duration::from_secs(7)));
        assert_eq!(refused(429, 0).wish(), None);
        assert_eq!(Failure::Timeout.wish(), None);
    }
}
