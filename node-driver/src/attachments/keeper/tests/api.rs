//! An API server that answers two questions.

use super::*;

/// How the API server answers SubjectAccessReviews.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rbac {
    Allows,
    Denies,
    /// All but the verb `aeron`.
    DeniesAeron,
    /// 503.
    Away,
}

/// An API server that knows two questions.
pub(super) struct Api {
    pub(super) address: SocketAddr,
    rbac: Arc<StdMutex<Rbac>>,
    reviews: Arc<AtomicUsize>,
}

impl Api {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Self {
            address: listener.local_addr().unwrap(),
            rbac: Arc::new(StdMutex::new(Rbac::Allows)),
            reviews: Arc::default(),
        };
        let (rbac, reviews) = (Arc::clone(&api.rbac), Arc::clone(&api.reviews));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (rbac, reviews) = (Arc::clone(&rbac), Arc::clone(&reviews));
                std::thread::spawn(move || answer(connection.unwrap(), &rbac, &reviews));
            }
        });
        api
    }

    pub(super) fn set(&self, rbac: Rbac) {
        *self.rbac.lock().unwrap() = rbac;
    }

    pub(super) fn reviews(&self) -> usize {
        self.reviews.load(Ordering::SeqCst)
    }
}

/// Answers the requests of one connection.
pub(super) fn answer(connection: TcpStream, rbac: &StdMutex<Rbac>, reviews: &AtomicUsize) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut writer = connection;
    loop {
        let mut head = String::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, said) = if head.contains("/subjectaccessreviews") {
            reviews.fetch_add(1, Ordering::SeqCst);
            let review = |allowed: bool| {
                let mut review: serde_json::Value = serde_json::from_slice(&body).unwrap();
                review["status"] = serde_json::json!({ "allowed": allowed });
                review.to_string()
            };
            match *rbac.lock().unwrap() {
                Rbac::Allows => ("201 Created", review(true)),
                Rbac::Denies => ("201 Created", review(false)),
                Rbac::DeniesAeron => {
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let verb = &body["spec"]["resourceAttributes"]["verb"];
                    ("201 Created", review(verb != "aeron"))
                }
                Rbac::Away => ("503 Service Unavailable", "{}".to_owned()),
            }
        } else {
            let csi_driver = serde_json::json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
                "metadata": {"name": "csi.tensorpool.io"},
                "spec": {"podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"]},
            });
            ("200 OK", csi_driver.to_string())
        };
        let sent = write!(
            writer,
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
            said.len()
        );
        if sent.is_err() {
            return;
        }
    }
}
