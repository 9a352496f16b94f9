//! What an operator sees of the running driver: status, discovery, metrics, health, log.

mod support;

use support::raw::Raw;
use support::{Driver, Options, Place, wait_until};
use tensorpool_wire::{
    ClientId, LogicalStream, QosConsumer, QosProducer, ResponseCode, Role, Seq, StreamId,
};

const CAMERA: u32 = 10_000;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn status_names_epoch_producer_pid_consumers_drops_and_memory_by_epoch() {
    // spec: X-2-50, X-2-52
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let mut client = Raw::socket(&place.socket());
    let watching = client.lease(Role::Consumer, CAMERA, 8);
    let producing = client.lease(Role::Producer, CAMERA, 7);
    client.send(
        LogicalStream::Qos,
        QosProducer {
            stream_id: StreamId(CAMERA),
            producer_id: ClientId(7),
            epoch: producing.response.epoch.unwrap(),
            current_seq: Seq(600),
            watermark: None,
        },
    );
    client.send(
        LogicalStream::Qos,
        QosConsumer {
            stream_id: StreamId(CAMERA),
            consumer_id: ClientId(8),
            epoch: producing.response.epoch.unwrap(),
            last_seq_seen: Seq(599),
            drops_gap: 3,
            drops_late: 2,
            mode: tensorpool_wire::Mode::Stream,
        },
    );
    let doc = driver.wait_for_stream(CAMERA, "the reports", |doc| {
        doc["producer"]["frames"] == 600 && doc["drops"]["gap"] == 3
    });
    assert_eq!(doc["name"], "camera");
    assert_eq!(doc["phase"], "ready");
    assert_eq!(doc["epoch"], producing.epoch());
    assert_eq!(doc["producer"]["client_id"], 7);
    assert_eq!(doc["producer"]["pid"], std::process::id().to_string());
    assert_eq!(doc["consumers_total"], 1);
    assert_eq!(doc["consumers"][0]["last_seq"], 599);
    assert_eq!(doc["drops"]["late"], 2);
    assert_eq!(doc["drops_by_way"]["socket"]["gap"], 3);
    assert_eq!(doc["drops_by_way"]["socket"]["late"], 2);
    assert_eq!(doc["drops_by_way"]["aeron"]["gap"], 0);
    assert_eq!(doc["driver"]["pid"], driver.pid());
    let memory = doc["memory"].as_array().unwrap();
    assert_eq!(memory.len(), 2);
    assert_eq!(memory[0]["epoch"], watching.epoch());
    assert_eq!(memory[0]["current"], false);
    assert_eq!(memory[1]["current"], true);

    let table = text(&driver.command(&["status"]).stdout);
    for part in [
        "camera",
        "pid ",
        "socket gap 3",
        "socket late 2",
        "old:",
        "current:",
    ] {
        assert!(table.contains(part), "no {part:?} in\n{table}");
    }
}

#[test]
fn status_of_a_thousand_streams_arrives_whole() {
    // spec: X-2-50, X-2-31
    let mut options = Options::default();
    for id in 0..1_000 {
        options.more.push_str(&format!(
            "\n[streams.extra{id}]\nstream_id = {}\n",
            40_000 + id
        ));
    }
    let place = Place::new(options);
    let driver = Driver::start(&place);
    let documents = driver.status();
    assert_eq!(documents.len(), 1_001);
    assert_eq!(
        driver.metric("tensorpool_driver_connections_closed_total{reason=\"overflow\"}"),
        Some(0.0)
    );
}

#[test]
fn discover_finds_a_stream_by_its_exact_name_only() {
    // spec: X-2-40, X-2-41, DI-5.1-4, DI-5.2-6
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let early = text(&driver.command(&["discover", "camera"]).stdout);
    assert!(
        early.contains("camera (10000)") && early.contains("epoch     none yet"),
        "{early}"
    );
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    let found = driver.command(&["discover", "camera"]);
    let printed = text(&found.stdout);
    assert_eq!(
        found.status.code(),
        Some(0),
        "{printed}{}",
        text(&found.stderr)
    );
    for part in [
        "camera (10000)".to_owned(),
        "producer  7".to_owned(),
        format!("epoch     {}", lease.epoch()),
        lease.response.header_region_uri.clone(),
        lease.response.payload_pools[0].region_uri.clone(),
        format!("tag       base={}", place.base_dir().display()),
    ] {
        assert!(printed.contains(&part), "no {part:?} in\n{printed}");
    }
    let other = driver.command(&["discover", "Camera"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(text(&other.stderr).contains("there is no stream \"Camera\""));
}

#[test]
fn questions_without_a_driver_say_what_to_do() {
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    let socket = place.socket();
    driver.kill();
    for arguments in [&["status"][..], &["discover", "camera"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
            .args(arguments)
            .env("TENSORPOOL_SOCKET", &socket)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.contains("is the driver running?"), "{error}");
        assert!(error.contains(socket.to_str().unwrap()), "{error}");
    }
}

#[test]
fn the_log_filter_changes_while_the_driver_runs_and_a_bad_one_is_refused() {
    let place = Place::new(Options::default());
    let mut driver = Driver::start(&place);
    let changed = driver.command(&["log", "tensorpool_node_driver=trace,warn"]);
    assert_eq!(changed.status.code(), Some(0), "{}", text(&changed.stderr));
    let line = driver.wait_for("the log filter was changed");
    assert_eq!(line["filter"], "tensorpool_node_driver=trace,warn");

    // Quiet now: a connection is logged at debug, and no longer.
    let quiet = driver.command(&["log", "warn"]);
    assert_eq!(quiet.status.code(), Some(0));
    driver.wait_for_line("the second change", |line| line["filter"] == "warn");
    drop(Raw::socket(&place.socket()));
    wait_until("the connection came and went", || {
        let count =
            driver.metric("tensorpool_driver_connections_closed_total{reason=\"peer_closed\"}");
        (count >= Some(1.0))
            .then_some(())
            .ok_or_else(|| format!("{count:?}"))
    });
    let seen = driver.seen.len();
    let log = driver.log();
    assert_eq!(log.lines().count(), seen, "{log}");

    let refused = driver.command(&["log", "loud=="]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is not a log filter"));
    driver.kill();
    let gone = std::process::Command::new(env!("CARGO_BIN_EXE_tensorpool-node-driver"))
        .args(["log", "debug", "--state-dir"])
        .arg(place.state_dir())
        .output()
        .unwrap();
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("no driver runs with the state directory"));
}

#[test]
fn health_and_metrics_are_served_and_everything_else_is_refused() {
    let place = Place::new(Options::default());
    let driver = Driver::start(&place);
    assert_eq!(driver.get("/livez"), (200, "alive\n".into()));
    assert_eq!(driver.get("/readyz"), (200, "ready\n".into()));
    assert_eq!(driver.get("/").0, 404);
    assert_eq!(driver.request("PUT", "/metrics").0, 405);
    let mut client = Raw::socket(&place.socket());
    let lease = client.lease(Role::Producer, CAMERA, 7);
    let leases = "tensorpool_driver_leases{stream=\"10000\",name=\"camera\",role=\"producer\"}";
    assert_eq!(driver.metric(leases), Some(1.0));
    assert_eq!(
        driver.metric("tensorpool_driver_attaches_total{result=\"ok\"}"),
        Some(1.0)
    );
    assert_eq!(client.detach(&lease), ResponseCode::Ok);
    assert_eq!(driver.metric(leases), Some(0.0));
    assert_eq!(
        driver.metric("tensorpool_driver_leases_ended_total{reason=\"detached\"}"),
        Some(1.0)
    );
    assert!(driver.metric("tensorpool_driver_journal_epochs_total") >= Some(1.0));
}

#[test]
fn a_taken_http_address_is_an_error_where_it_was_asked_for() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let place = Place::new(Options::default());
    let text = std::fs::read_to_string(place.config()).unwrap();
    std::fs::write(place.config(), text.replace("127.0.0.1:0", &address)).unwrap();
    let mut driver = Driver::spawn(&place);
    assert_eq!(driver.wait().code(), Some(1));
    let log = driver.log();
    assert!(
        log.contains(&format!("cannot listen on {address}")),
        "{log}"
    );
    assert!(log.contains("set http.listen"), "{log}");
}
