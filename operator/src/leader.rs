//! Holds the lease while work is done, and gives it back.
//!
//! Every request has a deadline of its own and is not retried by the client: a late answer is worse
//! than none. Whoever could not renew in time stops at once.

use std::future::Future;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tensorpool_crds::field_manager;
use tokio::time::{sleep, timeout};

use crate::election::{DURATION, Election, GIVE_UP, PERIOD, Record, Turn};
use crate::stop::Stop;

/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(4);

/// How leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Asked to; the lease was given back.
    Stopped,
    /// The lease could not be renewed in time, or somebody else has it.
    Lost,
}

/// One candidate for one lease.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) identity: String,
}

impl Candidate {
    /// Waits for the lease, does `work` while it is held, and gives it back once `work` has ended after
    /// a stop. `beat` is called whenever this is seen to live.
    pub(crate) async fn lead<W: Future<Output = ()>>(
        &self,
        stop: Stop,
        beat: impl Fn(),
        work: impl FnOnce() -> W,
    ) -> Ended {
        let Some(mut held) = self.acquire(stop.clone(), &beat).await else {
            return Ended::Stopped;
        };
        tracing::info!(identity = self.identity, "leading");
        let mut work = std::pin::pin!(work());
        loop {
            tokio::select! {
                () = &mut work => {
                    self.release().await;
                    return Ended::Stopped;
                }
                renewed = self.renew_in_time(held.clone(), stop.clone()) => match renewed {
                    Renewal::Done(lease) => held = *lease,
                    Renewal::Stopping => {
                        // The work ends by itself now; the lease has time enough for that.
                        if timeout(GIVE_UP, &mut work).await.is_err() {
                            tracing::error!("the work did not end in time");
                        }
                        self.release().await;
                        return Ended::Stopped;
                    }
                    Renewal::Lost => {
                        stop.raise();
                        return Ended::Lost;
                    }
                },
            }
            beat();
        }
    }

    async fn acquire(&self, mut stop: Stop, beat: &impl Fn()) -> Option<Lease> {
        let mut election = Election::new(self.identity.clone());
        loop {
            beat();
            match timeout(REQUEST, self.api().get_opt(&self.name)).await {
                Ok(Ok(lease)) => {
                    let turn = election.look(lease.as_ref().map(record), Instant::now());
                    if turn == Turn::Take
                        && let Some(taken) = self.write(lease, &self.identity).await
                    {
                        return Some(taken);
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "could not read the lease"),
                Err(_) => tracing::warn!("could not read the lease in time"),
            }
            tokio::select! {
                () = stop.raised() => return None,
                () = sleep(PERIOD) => {}
            }
        }
    }

    /// Renews once, and tries until it has to give up.
    async fn renew_in_time(&self, held: Lease, mut stop: Stop) -> Renewal {
        tokio::select! {
            () = stop.raised() => return Renewal::Stopping,
            () = sleep(PERIOD) => {}
        }
        let deadline = Instant::now() + (GIVE_UP - PERIOD);
        loop {
            if let Some(renewed) = self.write(Some(held.clone()), &self.identity).await {
                return Renewal::Done(Box::new(renewed));
            }
            if Instant::now() >= deadline || !self.is_mine().await {
                return Renewal::Lost;
            }
            sleep(PERIOD / 4).await;
        }
    }

    /// Whether the lease still has our name, as far as anybody can tell.
    async fn is_mine(&self) -> bool {
        match timeout(REQUEST, self.api().get_opt(&self.name)).await {
            Ok(Ok(Some(lease))) => record(&lease).holder.as_deref() == Some(&self.identity),
            Ok(Ok(None)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Reads before it writes: a renewal may have been on its way.
    async fn release(&self) {
        let Ok(Ok(Some(lease))) = timeout(REQUEST, self.api().get_opt(&self.name)).await else {
            return;
        };
        let is_mine = record(&lease).holder.as_deref() == Some(&self.identity);
        if is_mine && self.write(Some(lease), "").await.is_some() {
            tracing::info!("gave the lease back");
        }
    }

    /// Writes the lease for `holder`; `None` where somebody else was quicker, or nobody answered.
    async fn write(&self, before: Option<Lease>, holder: &str) -> Option<Lease> {
        let now = MicroTime(Timestamp::now());
        let old = before
            .as_ref()
            .and_then(|lease| lease.spec.clone())
            .unwrap_or_default();
        let same = old.holder_identity.as_deref() == Some(holder);
        let transitions = old.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            acquire_time: if same {
                old.acquire_time
            } else {
                Some(now.clone())
            },
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: Some(if same {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let parameters = PostParams {
            field_manager: Some(field_manager::OPERATOR.to_owned()),
            ..PostParams::default()
        };
        let api = self.api();
        let written = match before {
            Some(mut lease) => {
                lease.spec = Some(spec);
                timeout(REQUEST, api.replace(&self.name, &parameters, &lease)).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                timeout(REQUEST, api.create(&parameters, &lease)).await
            }
        };
        match written {
            Ok(Ok(lease)) => Some(lease),
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not write the lease");
                None
            }
            Err(_) => {
                tracing::warn!("could not write the lease in time");
                None
            }
        }
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

/// How one renewal ended.
enum Renewal {
    Done(Box<Lease>),
    Stopping,
    Lost,
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    Record {
        holder: spec.and_then(|spec| spec.holder_identity.clone()),
        version: lease.resource_version().unwrap_or_default(),
    }
}
