//! Publishing, from the question of the `csi` container to the answer, and what changes afterwards.
//!
//! For a new volume, in this order: what it asks for, the `CSIDriver` object, RBAC, the policy; then its
//! record, view and socket. A volume that is mounted already is not asked anything.

mod drafts;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tensorpool_crds::Transport;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use self::drafts::{permission, prepared, record, verbs};
use super::attributes::{self, Asked, VolumeTransport};
use super::csidriver::CsiDriverObject;
use super::protocol::{Answer, Code, Mounting, Publish, Question, Refusal};
use super::record::Record;
use super::refusal::PublishError;
use super::table::{Released, Table};
use super::volume::VolumeId;
use crate::cluster::access::{Question as Permission, ReviewError, Reviewer, Verdict};
use crate::cluster::{ClusterPolicy, ClusterStream, PolicyView, Surroundings};
use crate::files::in_words;

/// Attachments that were published together are asked about over this part of the time between two
/// reviews.
const SPREAD: u32 = 5;
/// Time until a question is asked again that got no answer, where reviews are not more frequent.
const REVIEW_AGAIN: Duration = Duration::from_secs(30);

/// Decides about volumes and keeps what was decided. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    pub(super) table: Arc<Mutex<Table>>,
    pub(super) node: String,
    pub(super) reviewer: Reviewer,
    pub(super) csi_driver: CsiDriverObject,
    pub(super) surroundings: Arc<watch::Sender<Surroundings>>,
    pub(super) policy: PolicyView,
    /// A live attachment is asked about again within this time.
    pub(super) review_every: Duration,
    /// When live attachments are to be asked about again.
    pub(super) due: Arc<Mutex<BTreeMap<VolumeId, Instant>>>,
    pub(super) sooner: Arc<Notify>,
}

impl Keeper {
    /// Answers the `csi` container.
    pub(super) async fn answer(&self, question: Question) -> Answer {
        let result = match question {
            Question::Probe { registered, calls } => {
                self.heard_of_kubelet(registered);
                self.table.lock().await.control.requests().hear_of(calls);
                Ok(Answer::Ready {
                    node: self.node.clone(),
                })
            }
            Question::Publish(wanted) => self.publish(wanted).await,
            Question::Unpublish { volume } => self.unpublish(volume).await,
            Question::List => Ok(Answer::Volumes {
                volumes: self.table.lock().await.list(),
            }),
        };
        result.unwrap_or_else(Answer::Refused)
    }

    async fn publish(&self, wanted: Publish) -> Result<Answer, Refusal> {
        let volume = wanted.volume.clone();
        match self.publish_or_say_why(wanted).await {
            Ok((base, mount)) => Ok(Answer::Prepared { base, mount }),
            Err(error) => {
                let refusal = error.refusal();
                tracing::info!(volume, code = refusal.code.name(), error = %refusal, "a volume is not published");
                Err(refusal)
            }
        }
    }

    async fn publish_or_say_why(
        &self,
        wanted: Publish,
    ) -> Result<(String, Mounting), PublishError> {
        let volume = VolumeId::new(wanted.volume.as_str())?;
        if wanted.already_mounted {
            return self.take_up(volume, wanted).await;
        }
        let asked = attributes::read(&wanted.attributes, wanted.read_only)?;
        self.validate_csi_driver().await?;
        for verb in verbs(asked.access, asked.transport) {
            match self.reviewer.review(&permission(&asked, verb)).await {
                Ok(Verdict::Allowed) => {}
                Ok(Verdict::Denied(denial)) => return Err(PublishError::Denied(denial)),
                Err(error) => return Err(PublishError::Review(error)),
            }
        }
        let policy = self.policy.current();
        let policy = policy.ok_or_else(|| PublishError::NoPolicy {
            node: self.node.clone(),
        })?;
        let stream = self.stream(&policy, &asked)?;
        let mut table = self.table.lock().await;
        self.check_node(&table, &asked, stream)?;
        if let Some(held) = table.get(&volume) {
            // The answer was lost, or the mount failed: kubelet asks again.
            let same = Record {
                stream_id: held.stream_id,
                attachment: held.attachment,
                allowed: held.allowed,
                base: held.base.clone(),
                aeron_clients: held.aeron_clients,
                ..record(&wanted, asked.clone(), 0, stream, None)
            };
            let is_aeron = asked.transport == VolumeTransport::Aeron;
            if *held != same || held.aeron_clients.is_some() != is_aeron {
                let volume = wanted.volume;
                return Err(PublishError::Different { volume });
            }
            // It is made anew: whatever was left half done of it is undone.
            let released = table.release(&volume).await;
            released.map_err(|error| PublishError::Left {
                volume: wanted.volume.clone(),
                left: in_words(&error),
            })?;
        }
        let number = table.free_number()?;
        let clients = match asked.transport {
            VolumeTransport::Socket => None,
            VolumeTransport::Aeron => Some(table.free_clients()?),
        };
        let record = record(&wanted, asked, number, stream, clients);
        let prepared = prepared(&record);
        tracing::info!(%volume, attachment = record.attachment, stream = %record.stream, pod = record.pod.name, namespace = record.pod.namespace, access = record.access.verb().as_str(), "publishing a volume");
        table.add(record).await?;
        self.tell(&table);
        drop(table);
        self.review_later(&volume).await;
        Ok(prepared)
    }

    /// What the stream and the transport need of the node.
    fn check_node(
        &self,
        table: &Table,
        asked: &Asked,
        stream: &ClusterStream,
    ) -> Result<(), PublishError> {
        let node = || self.node.clone();
        if asked.transport == VolumeTransport::Aeron && table.aeron_dir.is_none() {
            return Err(PublishError::NoMediaDriver { node: node() });
        }
        let page_size = stream.page_size.name();
        if !table.stores.contains_key(page_size) {
            return Err(PublishError::NoBase {
                node: node(),
                stream: asked.stream.clone(),
                page_size,
            });
        }
        Ok(())
    }

    /// A volume that is mounted stays so. If its record was lost it is recorded again, and sees nothing
    /// until it was asked about.
    async fn take_up(
        &self,
        volume: VolumeId,
        wanted: Publish,
    ) -> Result<(String, Mounting), PublishError> {
        let mut table = self.table.lock().await;
        if let Some(held) = table.get(&volume) {
            return Ok(prepared(held));
        }
        let asked = attributes::read(&wanted.attributes, wanted.read_only)?;
        let policy = self.policy.current();
        let policy = policy.ok_or_else(|| PublishError::NoPolicy {
            node: self.node.clone(),
        })?;
        let stream = self.carried(&policy, &asked)?;
        let number = table.free_number()?;
        let clients = match asked.transport {
            VolumeTransport::Socket => None,
            // Its clients have others, and attach anew with these.
            VolumeTransport::Aeron => Some(table.free_clients()?),
        };
        let record = Record {
            allowed: false,
            ..record(&wanted, asked, number, stream, clients)
        };
        let prepared = prepared(&record);
        tracing::warn!(%volume, stream = %record.stream, "a mounted volume had no record: it is recorded, and asked about");
        table.add(record).await?;
        self.tell(&table);
        drop(table);
        self.review_at(&volume, Instant::now()).await;
        Ok(prepared)
    }

    async fn unpublish(&self, volume: String) -> Result<Answer, Refusal> {
        let volume =
            VolumeId::new(volume).map_err(|error| Refusal::new(Code::InvalidArgument, error))?;
        let mut table = self.table.lock().await;
        let released = table.release(&volume).await;
        self.tell(&table);
        drop(table);
        let released = released.map_err(|error| {
            let text = format!(
                "node {} cannot let go of volume {volume}; kubelet tries again by itself: {}",
                self.node,
                in_words(&error)
            );
            Refusal::new(Code::Internal, text)
        })?;
        match released {
            Released::Sweep { base } => Ok(Answer::Sweep { base }),
            Released::Done => {
                self.due.lock().await.remove(&volume);
                Ok(Answer::Released)
            }
        }
    }

    /// The stream, if a new volume of it may be published.
    fn stream<'a>(
        &self,
        policy: &'a ClusterPolicy,
        asked: &Asked,
    ) -> Result<&'a ClusterStream, PublishError> {
        let stream = self.carried(policy, asked)?;
        if policy.cordoned {
            return Err(PublishError::Cordoned {
                node: self.node.clone(),
            });
        }
        match asked.transport {
            VolumeTransport::Socket => Ok(stream),
            VolumeTransport::Aeron if stream.transports.contains(&Transport::Aeron) => Ok(stream),
            VolumeTransport::Aeron => Err(match &stream.other_domain {
                Some(domain) => PublishError::OtherDomain {
                    class: stream.class.clone(),
                    stream: asked.stream.clone(),
                    domain: domain.clone(),
                    node: self.node.clone(),
                },
                None => PublishError::ClassWithoutAeron {
                    class: stream.class.clone(),
                    stream: asked.stream.clone(),
                },
            }),
        }
    }

    fn carried<'a>(
        &self,
        policy: &'a ClusterPolicy,
        asked: &Asked,
    ) -> Result<&'a ClusterStream, PublishError> {
        let (namespace, name) = (&asked.stream.namespace, &asked.stream.name);
        if let Some(stream) = policy.stream(namespace, name) {
            return Ok(stream);
        }
        let (node, stream) = (self.node.clone(), asked.stream.clone());
        Err(match policy.refusal(namespace, name) {
            Some(refused) => PublishError::Flawed {
                node,
                stream,
                flaw: Box::new(refused.flaw.clone()),
            },
            None => PublishError::NoStream { node, stream },
        })
    }

    /// Gives every attachment the stream that its name has in the policy now.
    pub(super) async fn follow_policy(&self) {
        let Some(policy) = self.policy.current() else {
            return;
        };
        let mut table = self.table.lock().await;
        let changes: Vec<(VolumeId, bool, Option<u32>, String)> = table
            .records()
            .filter_map(|(volume, record)| {
                let stream = policy.stream(&record.stream.namespace, &record.stream.name);
                // Files of another page size lie in another base, where the view cannot show them.
                let stream = stream.filter(|stream| stream.page_size.name() == record.base);
                let is_carried = stream.is_some();
                let stream = stream.filter(|stream| {
                    record.aeron_clients.is_none() || stream.transports.contains(&Transport::Aeron)
                });
                let now = stream.map(|stream| stream.stream_id.get());
                let (node, name) = (&self.node, &record.stream);
                let text = if is_carried && now.is_none() {
                    format!("the class of TensorStream {name} does not allow Aeron any more")
                } else {
                    format!("node {node} does not carry TensorStream {name} any more")
                };
                (now != record.stream_id).then(|| (volume.clone(), record.allowed, now, text))
            })
            .collect();
        for (volume, allowed, stream_id, text) in changes {
            if let Err(error) = table.change(&volume, allowed, stream_id, text).await {
                tracing::error!(%volume, error = in_words(&error), "a volume does not follow the policy yet");
                self.review_at(&volume, self.asked_again_at()).await;
            }
        }
    }

    /// Asks about the live attachments whose time has come, and returns when the next one's comes.
    pub(super) async fn review_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let due: Vec<VolumeId> = {
            let due = self.due.lock().await;
            let passed = due.iter().filter(|(_, at)| **at <= now);
            passed.map(|(volume, _)| volume.clone()).collect()
        };
        for volume in due {
            self.review(&volume).await;
        }
        self.due.lock().await.values().min().copied()
    }

    async fn review(&self, volume: &VolumeId) {
        let record = self.table.lock().await.get(volume).cloned();
        let Some(record) = record else {
            self.due.lock().await.remove(volume);
            return;
        };
        let (allowed, text) = match self.ask_anew(&record).await {
            Ok(Verdict::Allowed) => (true, String::new()),
            Ok(Verdict::Denied(denial)) => (false, denial.to_string()),
            Err(error) => {
                // What lives goes on without the API server.
                tracing::debug!(%volume, error = in_words(&error), "a volume is asked about again");
                let again = self.asked_again_at();
                return self.review_at(volume, again).await;
            }
        };
        let mut table = self.table.lock().await;
        // The policy may have changed it meanwhile.
        let Some(stream_id) = table.get(volume).map(|record| record.stream_id) else {
            return;
        };
        if allowed != record.allowed {
            tracing::info!(%volume, pod = record.pod.name, namespace = record.pod.namespace, stream = %record.stream, allowed, "permission changed");
        }
        let changed = table.change(volume, allowed, stream_id, text).await;
        let opened = table.reopen(volume).await;
        drop(table);
        if let Err(error) = &changed {
            tracing::error!(%volume, error = in_words(error), "a permission is not in force yet");
        }
        if let Err(error) = &opened {
            tracing::error!(%volume, error = in_words(error), "a volume cannot be taken up again yet");
        }
        if changed.is_ok() && opened.is_ok() {
            self.review_later(volume).await;
        } else {
            self.review_at(volume, self.asked_again_at()).await;
        }
    }

    /// Whether a live attachment may still all that it does.
    async fn ask_anew(&self, record: &Record) -> Result<Verdict, ReviewError> {
        let transport = match record.aeron_clients {
            Some(_) => VolumeTransport::Aeron,
            None => VolumeTransport::Socket,
        };
        for verb in verbs(record.access, transport) {
            let permission = Permission {
                pod_namespace: record.pod.namespace.clone(),
                service_account: record.pod.service_account.clone(),
                verb,
                stream_namespace: record.stream.namespace.clone(),
                stream: record.stream.name.clone(),
            };
            match self.reviewer.review_anew(&permission).await? {
                Verdict::Allowed => {}
                denied @ Verdict::Denied(_) => return Ok(denied),
            }
        }
        Ok(Verdict::Allowed)
    }

    async fn review_later(&self, volume: &VolumeId) {
        let mut hasher = DefaultHasher::new();
        volume.hash(&mut hasher);
        let spread = (self.review_every / SPREAD).as_millis();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX).max(1);
        let earlier = Duration::from_millis(hasher.finish() % spread);
        let at = Instant::now() + (self.review_every - earlier);
        self.review_at(volume, at).await;
    }

    /// When a question is asked again that got no answer, or whose answer could not be followed.
    fn asked_again_at(&self) -> Instant {
        Instant::now() + REVIEW_AGAIN.min(self.review_every)
    }

    pub(super) async fn review_at(&self, volume: &VolumeId, at: Instant) {
        self.due.lock().await.insert(volume.clone(), at);
        self.sooner.notify_one();
    }
}
