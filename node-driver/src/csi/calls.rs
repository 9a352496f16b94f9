//! Kubelet's calls, counted and timed.
//!
//! This container serves no port: it tells the driver next door what it counted, and the driver's
//! `/metrics` shows it. Counts are those of this process, so they begin anew when it does, as
//! counters may.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tonic::{Response, Status};

use super::driver::Driver;
use crate::attachments::calls::{Calls, Outcome, Rpc};
use crate::attachments::protocol::Code;

/// Calls that come together are told together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Counts calls. Clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    calls: Arc<Mutex<BTreeMap<(Rpc, Outcome), Calls>>>,
    changed: Arc<Notify>,
}

impl Counted {
    /// Waits for the answer of one call, and counts it.
    ///
    /// # Errors
    /// The call's own.
    pub(super) async fn call<T>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Response<T>, Status> {
        let begun = Instant::now();
        let answer = call.await;
        let code = answer.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        self.add(rpc, outcome(code), begun.elapsed());
        answer
    }

    fn add(&self, rpc: Rpc, outcome: Outcome, took: Duration) {
        // Every change of the map is one step, so a panic elsewhere leaves it whole.
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls
            .entry((rpc, outcome))
            .or_insert_with(|| Calls::none(rpc, outcome))
            .add(took);
        drop(calls);
        self.changed.notify_one();
    }

    /// All so far.
    pub(super) fn all(&self) -> Vec<Calls> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.values().cloned().collect()
    }

    /// Tells the driver soon after each change, for ever. One that is away hears it with the next probe.
    pub(super) async fn tell(self, driver: Driver) {
        loop {
            self.changed.notified().await;
            tokio::time::sleep(TOGETHER).await;
            if let Err(error) = driver.probe().await {
                tracing::debug!(error = %error, "the driver hears later of kubelet's calls");
            }
        }
    }
}

const fn outcome(code: tonic::Code) -> Outcome {
    match code {
        tonic::Code::Ok => Outcome::Ok,
        tonic::Code::InvalidArgument => Outcome::Refused(Code::InvalidArgument),
        tonic::Code::PermissionDenied => Outcome::Refused(Code::PermissionDenied),
        tonic::Code::NotFound => Outcome::Refused(Code::NotFound),
        tonic::Code::AlreadyExists => Outcome::Refused(Code::AlreadyExists),
        tonic::Code::FailedPrecondition => Outcome::Refused(Code::FailedPrecondition),
        tonic::Code::ResourceExhausted => Outcome::Refused(Code::ResourceExhausted),
        tonic::Code::Unavailable => Outcome::Refused(Code::Unavailable),
        tonic::Code::Aborted => Outcome::Aborted,
        tonic::Code::Internal
        | tonic::Code::Cancelled
        | tonic::Code::Unknown
        | tonic::Code::DeadlineExceeded
        | tonic::Code::OutOfRange
        | tonic::Code::Unimplemented
        | tonic::Code::DataLoss
        | tonic::Code::Unauthenticated => Outcome::Refused(Code::Internal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_call_is_counted_by_its_name_and_its_answer() {
        let counted = Counted::default();
        let fine = counted.call(Rpc::NodePublishVolume, async { Ok(Response::new(())) });
        fine.await.unwrap();
        for _again in 0..2 {
            let busy = async { Err::<Response<()>, _>(Status::aborted("busy")) };
            let answer = counted.call(Rpc::NodePublishVolume, busy).await;
            assert_eq!(answer.unwrap_err().code(), tonic::Code::Aborted);
        }
        let all = counted.all();
        let seen: Vec<_> = all
            .iter()
            .map(|calls| (calls.rpc, calls.outcome, calls.count()))
            .collect();
        assert_eq!(
            seen,
            [
                (Rpc::NodePublishVolume, Outcome::Ok, 1),
                (Rpc::NodePublishVolume, Outcome::Aborted, 2),
            ]
        );
    }
}
