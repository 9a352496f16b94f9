//! May this pod's service account use this stream? Plain RBAC answers, by a SubjectAccessReview.
//!
//! Fails closed: whoever gets no answer gets no access. Only `allowed` is remembered, and not for
//! long: a removed RoleBinding ends new attaches after [`ALLOWED_FOR`] at most.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Client;
use kube::api::{Api, PostParams};
use tensorpool_crds::GROUP;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::answer::said;
use crate::requests::Requests;

/// How long an `allowed` is believed.
pub const ALLOWED_FOR: Duration = Duration::from_secs(30);
/// Kubelet asks again by itself, so nobody waits longer for one answer.
const REQUEST: Duration = Duration::from_secs(2);
/// Answers that are remembered. More: the one that ends first is forgotten.
const REMEMBERED: usize = 4_096;

/// What somebody wants to do with a stream: the verb of an RBAC rule on `tensorstreams`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Write frames.
    Produce,
    /// Read frames.
    Consume,
    /// Attach as a peer on Aeron; asked in addition to one of the others.
    Aeron,
}

impl Verb {
    /// The word in RBAC rules.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::Aeron => "aeron",
        }
    }
}

/// Who wants what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Name of its service account.
    pub service_account: String,
    /// What it wants to do.
    pub verb: Verb,
    /// Namespace of the TensorStream.
    pub stream_namespace: String,
    /// Name of the TensorStream.
    pub stream: String,
}

impl Question {
    /// The service account's name as a user.
    #[must_use]
    pub fn user(&self) -> String {
        format!(
            "system:serviceaccount:{}:{}",
            self.pod_namespace, self.service_account
        )
    }

    /// All groups that a service account is in. Bindings to a group work only if it is named.
    #[must_use]
    pub fn groups(&self) -> [String; 3] {
        [
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.pod_namespace),
            "system:authenticated".to_owned(),
        ]
    }

    /// The question as the API server takes it.
    #[must_use]
    pub fn review(&self) -> SubjectAccessReview {
        SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(self.user()),
                groups: Some(self.groups().into()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    resource: Some("tensorstreams".to_owned()),
                    namespace: Some(self.stream_namespace.clone()),
                    name: Some(self.stream.clone()),
                    verb: Some(self.verb.as_str().to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// RBAC allows it.
    Allowed,
    /// RBAC does not allow it.
    Denied(Denial),
}

/// Why not, for the person who reads `kubectl describe pod`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    question: Question,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question {
            pod_namespace,
            service_account,
            verb,
            stream_namespace,
            stream,
        } = &self.question;
        let verb = verb.as_str();
        write!(
            f,
            "service account {pod_namespace}/{service_account} may not `{verb}` TensorStream {stream_namespace}/{stream}; allow it with: kubectl create role {stream}-{verb} -n {stream_namespace} --verb={verb} --resource=tensorstreams.{GROUP} --resource-name={stream} && kubectl create rolebinding {stream}-{verb}-{service_account} -n {stream_namespace} --role={stream}-{verb} --serviceaccount={pod_namespace}:{service_account}"
        )
    }
}

/// Why there is no answer. Whoever asked gets no access, and may ask again.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server does not answer.
    #[error("the API server did not say within {} s whether the service account may do this", REQUEST.as_secs())]
    Timeout,
    /// The API server refuses to answer, or cannot be reached.
    #[error("the API server did not say whether the service account may do this: {}", said(.0))]
    Api(Box<kube::Error>),
    /// The driver is ending.
    #[error("the driver is ending")]
    Ending,
}

impl ReviewError {
    /// Bounded label.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Api(_) => "api",
            Self::Ending => "ending",
        }
    }
}

/// Asks, and remembers for a while what was allowed. Clones share their memory.
#[derive(Clone)]
pub struct Reviewer {
    client: Client,
    runtime: Handle,
    allowed: Arc<Mutex<Allowed>>,
    requests: Requests,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").finish_non_exhaustive()
    }
}

impl Reviewer {
    /// One that asks through `client`, on the runtime where that was made.
    #[must_use]
    pub fn new(client: Client, runtime: Handle) -> Self {
        Self {
            client,
            runtime,
            allowed: Arc::default(),
            requests: Requests::default(),
        }
    }

    /// Counts its questions there.
    #[must_use]
    pub fn counting(self, requests: Requests) -> Self {
        Self { requests, ..self }
    }

    /// For a new attachment: what was allowed less than [`ALLOWED_FOR`] ago is allowed. May be
    /// awaited on any runtime.
    ///
    /// # Errors
    /// [`ReviewError`]: no access then.
    pub async fn review(&self, question: &Question) -> Result<Verdict, ReviewError> {
        if self.lock().knows(question, Instant::now()) {
            return Ok(Verdict::Allowed);
        }
        self.review_anew(question).await
    }

    /// For a live attachment: asks in any case.
    ///
    /// # Errors
    /// [`ReviewError`]; nothing is known then.
    pub async fn review_anew(&self, question: &Question) -> Result<Verdict, ReviewError> {
        let verdict = self.ask(question).await;
        let result = match &verdict {
            Ok(Verdict::Allowed) => "allowed",
            Ok(Verdict::Denied(_)) => "denied",
            Err(error) => error.reason(),
        };
        self.requests.count("access_review", result);
        verdict
    }

    async fn ask(&self, question: &Question) -> Result<Verdict, ReviewError> {
        let asked_at = Instant::now();
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = question.review();
        let answer = self.runtime.spawn(async move {
            timeout(REQUEST, api.create(&PostParams::default(), &review)).await
        });
        let answer = match answer.await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Ok(Err(error))) => return Err(ReviewError::Api(Box::new(error))),
            Ok(Err(_)) => return Err(ReviewError::Timeout),
            Err(_) => return Err(ReviewError::Ending),
        };
        let allowed = answer
            .status
            .is_some_and(|status| status.allowed && status.denied != Some(true));
        if allowed {
            self.lock().remember(question.clone(), asked_at);
            Ok(Verdict::Allowed)
        } else {
            self.lock().forget(question);
            Ok(Verdict::Denied(Denial {
                question: question.clone(),
            }))
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Allowed> {
        // Every change of the map is one step, so a panic elsewhere leaves it whole.
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was allowed, and when that was asked.
#[derive(Debug, Default)]
struct Allowed {
    asked: BTreeMap<Question, Instant>,
}

impl Allowed {
    fn knows(&self, question: &Question, now: Instant) -> bool {
        self.asked
            .get(question)
            .is_some_and(|asked| now.duration_since(*asked) < ALLOWED_FOR)
    }

    fn remember(&mut self, question: Question, asked_at: Instant) {
        self.asked
            .retain(|_, asked| asked_at.duration_since(*asked) < ALLOWED_FOR);
        if self.asked.len() >= REMEMBERED {
            let oldest = self.asked.iter().min_by_key(|(_, asked)| **asked);
            if let Some(oldest) = oldest.map(|(question, _)| question.clone()) {
                self.asked.remove(&oldest);
            }
        }
        self.asked.insert(question, asked_at);
    }

    fn forget(&mut self, question: &Question) {
        self.asked.remove(question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(stream: &str) -> Question {
        Question {
            pod_namespace: "apps".to_owned(),
            service_account: "viewer".to_owned(),
            verb: Verb::Consume,
            stream_namespace: "vision".to_owned(),
            stream: stream.to_owned(),
        }
    }

    #[test]
    fn a_question_names_the_account_and_all_three_groups_that_it_is_in() {
        let spec = question("camera").review().spec;
        assert_eq!(
            spec.user.as_deref(),
            Some("system:serviceaccount:apps:viewer")
        );
        assert_eq!(
            spec.groups.expect("groups are named"),
            [
                "system:serviceaccounts",
                "system:serviceaccounts:apps",
                "system:authenticated"
            ]
        );
        let asked = spec.resource_attributes.expect("it asks for a resource");
        let word = |text: &Option<String>| text.clone().unwrap_or_default();
        assert_eq!(
            [
                asked.verb,
                asked.group,
                asked.resource,
                asked.namespace,
                asked.name
            ]
            .map(|text| word(&text)),
            [
                "consume",
                "tensorpool.io",
                "tensorstreams",
                "vision",
                "camera"
            ]
        );
    }

    #[test]
    fn what_was_allowed_is_allowed_for_thirty_seconds_from_the_question() {
        let start = Instant::now();
        let mut allowed = Allowed::default();
        allowed.remember(question("camera"), start);
        let just_before = start + ALLOWED_FOR - Duration::from_nanos(1);
        assert!(allowed.knows(&question("camera"), just_before));
        assert!(!allowed.knows(&question("camera"), start + ALLOWED_FOR));
        assert!(!allowed.knows(&question("lidar"), start));
    }

    #[test]
    fn a_denial_ends_what_was_allowed_before() {
        let start = Instant::now();
        let mut allowed = Allowed::default();
        allowed.remember(question("camera"), start);
        allowed.forget(&question("camera"));
        assert!(!allowed.knows(&question("camera"), start));
    }

    #[test]
    fn of_too_many_answers_the_oldest_is_forgotten() {
        let start = Instant::now();
        let mut allowed = Allowed::default();
        for number in 0..=REMEMBERED {
            let later = Duration::from_micros(u64::try_from(number).expect("it is small"));
            allowed.remember(question(&format!("s{number}")), start + later);
        }
        let now = start + Duration::from_secs(1);
        assert_eq!(allowed.asked.len(), REMEMBERED);
        assert!(!allowed.knows(&question("s0"), now));
        assert!(allowed.knows(&question("s1"), now));
        assert!(allowed.knows(&question(&format!("s{REMEMBERED}")), now));
    }

    #[test]
    fn a_denial_says_how_to_allow_it() {
        let denial = Denial {
            question: question("camera"),
        };
        let text = denial.to_string();
        assert!(
            text.starts_with(
                "service account apps/viewer may not `consume` TensorStream vision/camera"
            ),
            "{text}"
        );
        assert!(text.contains("--verb=consume"), "{text}");
        assert!(text.contains("--serviceaccount=apps:viewer"), "{text}");
    }
}
