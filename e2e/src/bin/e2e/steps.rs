//! What is shown, suite by suite.

use crate::access;
use crate::aeron;
use crate::audit;
use crate::faults;
use crate::hostile;
use crate::images;
use crate::pace;
use crate::pages;
use crate::report::Report;
use crate::uninstall;
use crate::world::World;

/// The namespace of the release.
const SYSTEM: &str = "tensorpool-system";
/// The namespace of the quickstart.
const VISION: &str = "vision";
/// Frames that two pods exchange.
const FRAMES: &str = "10000";

/// Steps that belong together.
#[derive(Debug)]
pub(crate) struct Suite {
    /// How a person calls it.
    pub(crate) name: &'static str,
    /// One line of help.
    pub(crate) what: &'static str,
    /// Suites whose pods it uses.
    pub(crate) needs: &'static [&'static str],
    /// Whether nothing of the suites before it may go on beside it.
    pub(crate) is_alone: bool,
    pub(crate) run: fn(&World, &mut Report),
}

/// In the order in which a person would do it.
pub(crate) const SUITES: &[Suite] = &[
    Suite {
        name: "quickstart",
        what: "docs/quickstart.md as it is written",
        needs: &[],
        is_alone: false,
        run: |world, report| {
            report.step("the quickstart works as it is written", || {
                quickstart(world)
            });
        },
    },
    Suite {
        name: "exchange",
        what: "10,000 frames of which every byte is known, and helm test",
        needs: &["quickstart"],
        is_alone: false,
        run: |world, report| {
            // The frames of both take their time, so others have it, too.
            let (tested, exchanged) = (world.clone(), world.clone());
            report.beside("helm test passes", move || helm_test(&tested));
            report.beside(
                "two restricted pods exchange 10,000 frames through huge pages",
                move || exchange(&exchanged),
            );
        },
    },
    Suite {
        name: "access",
        what: "what pods must not get, and what they cannot do with what they got",
        needs: &["quickstart"],
        is_alone: false,
        run: access::run,
    },
    Suite {
        name: "pages",
        what: "who is charged for huge pages",
        needs: &["quickstart"],
        is_alone: false,
        run: |world, report| {
            report.step("pods with frames are not charged for huge pages", || {
                pages::are_the_drivers(world, &[(VISION, "camera"), (VISION, "detector")])
            });
        },
    },
    Suite {
        name: "aeron",
        what: "pods on Aeron beside pods on sockets",
        needs: &[],
        is_alone: false,
        run: aeron::run,
    },
    Suite {
        name: "pace",
        what: "how long frames take between pods, beside processes of the node",
        needs: &[],
        is_alone: true,
        run: pace::run,
    },
    Suite {
        name: "faults",
        what: "what dies, is replaced or is away, and what becomes of frames",
        needs: &[],
        is_alone: true,
        run: faults::run,
    },
    Suite {
        name: "hostile",
        what: "pods that mean harm: garbage, floods, crowds, stopped and damaged streams",
        needs: &[],
        is_alone: true,
        run: hostile::run,
    },
    Suite {
        name: "audit",
        what: "the charts' roles beside what was used (true after all suites before it)",
        needs: &[],
        is_alone: true,
        run: |world, report| {
            report.step(
                "the charts' roles are what was used, no more and no less",
                || audit::compare(world),
            );
        },
    },
    Suite {
        name: "uninstall",
        what: "refused while pods have volumes; forced; and everything goes",
        needs: &["quickstart"],
        is_alone: true,
        run: uninstall::run,
    },
];

/// What every suite needs.
pub(crate) fn install(world: &World, report: &mut Report) -> Option<()> {
    report.step("the images are built from the Dockerfile", || {
        images::build_and_load(world)
    })?;
    report.step("the charts are installed", || install_charts(world))
}

fn install_charts(world: &World) -> Result<(), String> {
    let crds = world.path("helm/tensorpool-crds");
    world.helm(&["install", "tensorpool-crds", &crds, "--wait"])?;
    let chart = world.path("helm/tensorpool");
    let values = world.path("e2e/manifests/values.yaml");
    let into = ["--namespace", SYSTEM, "--create-namespace"];
    world.helm(
        &[
            &["install", "tensorpool", &chart, "--wait", "--timeout=120s"][..],
            &["--values", &values],
            &into,
        ]
        .concat(),
    )?;
    // One of the chart's conditions that Helm does not know.
    world.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "tensorpoolnode",
        "--all",
        "--timeout=60s",
    ])?;
    Ok(())
}

fn quickstart(world: &World) -> Result<(), String> {
    let manifest = world.path("docs/quickstart/camera.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
    wait_for(world, "camera", "condition=Ready")?;
    wait_for(world, "detector", "condition=Ready")?;
    // Both examples say what they do with each frame.
    let follow = ["logs", "--namespace", VISION, "--pod-running-timeout=60s"];
    for (pod, word) in [("camera", "is there"), ("detector", "sum")] {
        let line = until_said(world, &[&follow[..], &[pod]].concat(), word)?;
        println!("{pod}: {line}");
    }
    println!("{}", world.kubectl(&["get", "tensorpool", "-A"])?);
    Ok(())
}

fn exchange(world: &World) -> Result<String, String> {
    let manifest = world.path("e2e/manifests/exchange.yaml");
    world.kubectl(&["apply", "--filename", &manifest])?;
    wait_for(
        world,
        "exchange-consumer",
        "jsonpath={.status.phase}=Succeeded",
    )?;
    let said = world.kubectl(&["logs", "--namespace", VISION, "exchange-consumer"])?;
    let wanted = format!("{FRAMES} frames of 16001 bytes were as they should be, 0 were lost");
    if !said.contains(&wanted) {
        return Err(format!("not said: {wanted}: {said}"));
    }
    if !said.contains("pages of 2048 kB") {
        return Err(format!("the memory was not of huge pages: {said}"));
    }
    Ok(said)
}

fn helm_test(world: &World) -> Result<String, String> {
    world.helm(&[
        "test",
        "tensorpool",
        "--namespace",
        SYSTEM,
        "--timeout=240s",
    ])
}

fn wait_for(world: &World, pod: &str, what: &str) -> Result<(), String> {
    let condition = format!("--for={what}");
    let pod = format!("pod/{pod}");
    world
        .kubectl(&[
            "wait",
            &condition,
            &pod,
            "--namespace",
            VISION,
            "--timeout=180s",
        ])
        .map(drop)
}

/// The first line of a log with this word, once it is there.
fn until_said(world: &World, logs: &[&str], word: &str) -> Result<String, String> {
    let script = format!(
        "timeout 60 kubectl {} --follow | grep --max-count=1 --line-buffered -e '{word}'",
        logs.join(" ")
    );
    world.inside("sh", &["-c", &script])
}
