//! The effective configuration as TOML that would give the same settings again.

use std::fmt::{self, Write};
use std::path::Path;

use super::settings::{IdRange, KubernetesSettings, Settings};

/// Writes every key with its effective value. The shutdown token is not shown.
#[must_use]
pub fn effective(settings: &Settings) -> String {
    let mut out = Printer(String::new());
    out.driver(settings);
    out.shm(settings);
    out.policies(settings);
    out.profiles(settings);
    out.streams(settings);
    out.rest(settings);
    out.0
}

struct Printer(String);

impl Printer {
    fn table(&mut self, name: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.line(format_args!("[{name}]"));
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        self.0
            .write_fmt(line)
            .and_then(|()| self.0.write_char('\n'))
            .expect("writing to a String cannot fail");
    }

    fn text(&mut self, key: &str, text: &str) {
        self.line(format_args!("{key} = {}", quoted(text)));
    }

    fn path(&mut self, key: &str, path: &Path) {
        self.text(key, &path.to_string_lossy());
    }

    fn value(&mut self, key: &str, value: impl fmt::Display) {
        self.line(format_args!("{key} = {value}"));
    }

    fn range(&mut self, key: &str, range: Option<IdRange>) {
        let text = range.map(|range| range.to_string()).unwrap_or_default();
        self.text(key, &text);
    }

    fn driver(&mut self, settings: &Settings) {
        let driver = &settings.driver;
        self.table("driver");
        self.text("instance_id", &driver.instance_id);
        self.path("state_dir", &driver.state_dir);
        self.text("media_driver", driver.media_driver.name());
        self.path("aeron_dir", &driver.aeron_dir);
        for (name, endpoint) in [
            ("control", &driver.control),
            ("announce", &driver.announce),
            ("qos", &driver.qos),
            ("metadata", &driver.metadata),
            ("descriptor", &driver.descriptor),
        ] {
            self.text(&format!("{name}_channel"), &endpoint.channel);
            self.value(&format!("{name}_stream_id"), endpoint.stream_id);
        }
        self.range("stream_id_range", driver.stream_id_range);
        self.range(
            "descriptor_stream_id_range",
            driver.descriptor_stream_id_range,
        );
        self.range("control_stream_id_range", driver.control_stream_id_range);
    }

    fn shm(&mut self, settings: &Settings) {
        let shm = &settings.shm;
        self.table("shm");
        self.path("base_dir", &shm.base_dir);
        self.text("namespace", &shm.namespace);
        self.value("require_hugepages", shm.require_hugepages);
        self.value("page_size_bytes", shm.page_size_bytes);
        self.text("permissions_mode", &format!("{:o}", shm.permissions_mode));
        let dirs: Vec<String> = shm
            .allowed_base_dirs
            .iter()
            .map(|dir| quoted(&dir.to_string_lossy()))
            .collect();
        self.value("allowed_base_dirs", format!("[{}]", dirs.join(", ")));
    }

    fn policies(&mut self, settings: &Settings) {
        let policies = &settings.policies;
        self.table("policies");
        self.value("allow_dynamic_streams", policies.allow_dynamic_streams);
        self.text("default_profile", &policies.default_profile);
        self.value("announce_period_ms", policies.announce_period_ms);
        self.value(
            "lease_keepalive_interval_ms",
            policies.lease_keepalive_interval_ms,
        );
        self.value(
            "lease_expiry_grace_intervals",
            policies.lease_expiry_grace_intervals,
        );
        self.value("prefault_shm", policies.prefault_shm);
        self.value("mlock_shm", policies.mlock_shm);
        self.value("epoch_gc_enabled", policies.epoch_gc_enabled);
        self.value("epoch_gc_keep", policies.epoch_gc_keep);
        self.value("epoch_gc_min_age_ns", policies.epoch_gc_min_age_ns);
        self.value("epoch_gc_on_startup", policies.epoch_gc_on_startup);
        self.value("shutdown_timeout_ms", policies.shutdown_timeout_ms);
        if policies.shutdown_token.is_empty() {
            self.text("shutdown_token", "");
        } else {
            self.line(format_args!("# shutdown_token is set and not shown"));
        }
        self.value(
            "node_id_reuse_cooldown_ms",
            policies.node_id_reuse_cooldown_ms,
        );
        self.value("cleanup_shm_on_exit", policies.cleanup_shm_on_exit);
    }

    fn profiles(&mut self, settings: &Settings) {
        for (name, profile) in &settings.profiles {
            self.table(&format!("profiles.{}", bare_or_quoted(name)));
            self.value("header_nslots", profile.header_nslots);
            self.line(format_args!("payload_pools = ["));
            for pool in &profile.payload_pools {
                self.line(format_args!(
                    "    {{ pool_id = {}, stride_bytes = {} }},",
                    pool.pool_id, pool.stride_bytes
                ));
            }
            self.line(format_args!("]"));
        }
    }

    fn streams(&mut self, settings: &Settings) {
        for (name, stream) in &settings.streams {
            self.table(&format!("streams.{}", bare_or_quoted(name)));
            self.value("stream_id", stream.stream_id);
            self.text("profile", &stream.profile);
            self.value("descriptor_stream_id", stream.descriptor_stream_id);
        }
    }

    fn kubernetes(&mut self, kubernetes: Option<&KubernetesSettings>) {
        self.table("kubernetes");
        let Some(kubernetes) = kubernetes else {
            self.text("node", "");
            return;
        };
        self.text("node", &kubernetes.node);
        self.text("namespace", &kubernetes.namespace);
        self.text("pod_name", &kubernetes.pod_name);
        self.path("internal_socket", &kubernetes.internal_socket);
        self.value(
            "connections_per_attachment",
            kubernetes.connections_per_attachment,
        );
        self.text("aeron_domain", &kubernetes.aeron_domain);
        self.value(
            "access_review_interval_ms",
            kubernetes.access_review_interval.as_millis(),
        );
    }

    fn rest(&mut self, settings: &Settings) {
        let supervisor = &settings.supervisor;
        self.table("supervisor");
        self.value("consumer_stale_ms", supervisor.consumer_stale_ms);
        self.value("force_no_shm", supervisor.force_no_shm);
        self.value("force_mode", supervisor.force_mode);
        self.text("payload_fallback_uri", &supervisor.payload_fallback_uri);
        self.table("discovery");
        self.text("channel", &settings.discovery.endpoint.channel);
        self.value("stream_id", settings.discovery.endpoint.stream_id);
        self.value("max_results", settings.discovery.max_results);
        self.table("socket");
        match &settings.socket {
            Some(socket) => {
                self.path("path", &socket.path);
                self.text("mode", &format!("{:o}", socket.mode));
            }
            None => self.text("path", ""),
        }
        self.table("http");
        let listen = settings.http.map(|http| http.listen.to_string());
        self.text("listen", &listen.unwrap_or_default());
        self.kubernetes(settings.kubernetes.as_ref());
        self.table("shutdown");
        self.text("mode", settings.shutdown_mode.name());
        self.table("log");
        self.text("filter", &settings.log.filter);
        self.text("format", settings.log.format.name());
        self.table("limits");
        self.value("streams", settings.limits.streams);
        self.value("leases", settings.limits.leases);
        let limits = &settings.limits;
        self.value("leases_per_connection", limits.leases_per_connection);
        self.value("consumers_per_stream", limits.consumers_per_stream);
        self.value("connections", limits.connections);
        self.value("connections_per_uid", settings.limits.connections_per_uid);
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn bare_or_quoted(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(bare) {
        name.to_owned()
    } else {
        // Quoted keys are basic strings: the same escapes, always with double quotes.
        format!("{name:?}")
    }
}
